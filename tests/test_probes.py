"""What a probe says of a stack must follow from the stack's own algebra."""

import pytest
import torch
from torch import nn

from adaln_lab import probes
from adaln_lab.conditioning import AdaLNZeroBlock, Condition
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.embed import unpatchify


class Scale(nn.Module):
    """x -> (1 + r) x: adds r times what enters."""

    def __init__(self, r: float):
        super().__init__()
        self.r = r

    def forward(self, x, _cond):
        return x + self.r * x


COND = Condition(torch.zeros(2, 8))


def test_sizes_and_gradients_of_a_stack_whose_truth_is_known():
    """Scaling by 2 and by 3 multiplies the stream on its way and the gradient on its way back."""
    x = torch.ones(2, 3, 8)
    sizes, gradients = probes.depth_profile([Scale(1.0), Scale(2.0)], x, COND, torch.ones_like(x))
    torch.testing.assert_close(sizes, torch.tensor([1.0, 2.0, 6.0]))
    torch.testing.assert_close(gradients, torch.tensor([6.0, 3.0, 1.0]))


def test_added_and_effective_depth():
    xs = probes.stream([Scale(1.0), Scale(0.0), Scale(3.0)], torch.ones(2, 3, 8), COND)
    r = probes.added(xs)
    torch.testing.assert_close(r, torch.tensor([1.0, 0.0, 3.0]))
    assert probes.effective_depth(r).item() == pytest.approx(0.5 + 0 + 0.75)


def test_a_closed_stack_has_no_depth():
    torch.manual_seed(0)
    xs = probes.stream([AdaLNZeroBlock(8, 2, 8) for _ in range(3)], torch.randn(2, 3, 8), COND)
    assert probes.effective_depth(probes.added(xs)).item() == 0


@pytest.mark.parametrize("variant", ["in_context", "cross_attention", "adaln", "adaln_zero"])
def test_the_stream_of_a_model_ends_in_its_output(variant):
    """The last entry, through the final layer, is what the model answers."""
    torch.manual_seed(0)
    model = TinyDiT(DiTConfig(patch=4, width=16, heads=2, depth=2, variant=variant))
    nn.init.normal_(model.final.linear.weight)
    x, t, y = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([1, 2, 10])
    xs = probes.model_stream(model, x, t, y)
    assert len(xs) == 3
    tokens = model.final.run(xs[-1][:, -4:], model.plan(t, y).final)
    torch.testing.assert_close(unpatchify(tokens, 4, 2), model(x, t, y))
