"""What a probe says of a stack must follow from the stack's own algebra."""

import pytest
import torch
from torch import nn

from adaln_lab.analysis import probes
from adaln_lab.conditioning import AdaLNZeroBlock, Condition
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.embed import unpatchify
from adaln_lab.exercises.part04 import effective_depth
from adaln_lab.layers import CrossAttention


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


def test_relative_update_and_effective_depth():
    xs = probes.stream([Scale(1.0), Scale(0.0), Scale(3.0)], torch.ones(2, 3, 8), COND)
    r = probes.relative_update(xs)
    torch.testing.assert_close(r, torch.tensor([1.0, 0.0, 3.0]))
    assert effective_depth(r).item() == pytest.approx(0.5 + 0 + 0.75)


def test_a_closed_stack_has_no_depth():
    torch.manual_seed(0)
    xs = probes.stream([AdaLNZeroBlock(8, 2, 8) for _ in range(3)], torch.randn(2, 3, 8), COND)
    assert effective_depth(probes.relative_update(xs)).item() == 0


@pytest.mark.parametrize("variant", ["in_context", "cross_attention", "adaln", "adaln_zero"])
def test_the_stream_of_a_model_ends_in_its_output(variant):
    """The last entry, through the final layer, is what the model answers."""
    torch.manual_seed(0)
    model = TinyDiT(DiTConfig(patch=4, width=16, heads=2, depth=2, variant=variant))
    nn.init.normal_(model.final.linear.weight)
    x, t, y = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([1, 2, 10])
    xs = probes.model_stream(model, x, t, y)
    assert len(xs) == 3
    tokens = model.final.forward_with(xs[-1][:, -4:], model.precompute(t, y).final)
    torch.testing.assert_close(unpatchify(tokens, 4, 2), model(x, t, y))


class Painter(nn.Module):
    """Paints word 0 top-left and word 1 bottom-right, each as bright as its first number, through attention or not."""

    def __init__(self, attend: CrossAttention | None = None):
        super().__init__()
        self.y_embed, self.attend = nn.Embedding(5, 4).double(), attend

    def forward(self, x, _t, y):
        e = self.y_embed(y)
        if self.attend is not None:
            self.attend(x.flatten(2).transpose(1, 2).expand(-1, -1, 4), e)
        out = torch.zeros_like(x)
        out[..., :3, :3] = e[:, 0, 0, None, None, None]
        out[..., 6:, 6:] = e[:, 1, 0, None, None, None]
        return out


X, T, Y = (
    torch.randn(2, 1, 9, 9, dtype=torch.float64),
    torch.rand(2, dtype=torch.float64),
    torch.tensor([[0, 1, 2]] * 2),
)


def test_a_footprint_lies_where_the_word_acts_and_leaves_no_hook():
    """A direction twice as long doubles it; a word that nothing reads leaves none."""
    model, change = Painter(), torch.zeros(3, 4, dtype=torch.float64)
    change[0, 0] = -2.0
    found = probes.footprint(model, X, T, Y, change)
    torch.testing.assert_close(found[:3, :3], torch.full((3, 3), 2.0, dtype=torch.float64))
    assert probes.cell_shares(found)[0, 0] == 1
    unread = torch.zeros_like(change)
    unread[2] = 1.0
    assert probes.footprint(model, X, T, Y, unread).abs().max() == 0
    assert not model.y_embed._forward_hooks


def test_cell_shares_of_an_even_map_are_even_and_rows_come_first():
    torch.testing.assert_close(probes.cell_shares(torch.ones(6, 6)), torch.full((3, 3), 1 / 9))
    spot = torch.zeros(6, 6)
    spot[0, 5] = 1
    assert probes.cell_shares(spot)[0, 2] == 1


def test_word_attention_gives_the_layers_own_weights():
    """Weights times values, through the last Linear, are what the layer adds; equal scores spread evenly."""
    torch.manual_seed(0)
    layer = CrossAttention(4, 2).double()
    model = Painter(layer)
    weights = probes.word_attention(model, X, T, Y)
    assert weights.shape == (1, 2, 2, 81, 3)
    h, e = X.flatten(2).transpose(1, 2).expand(-1, -1, 4), model.y_embed(Y)
    v = layer.kv(e).chunk(2, dim=-1)[1].unflatten(-1, (2, 2)).transpose(1, 2)
    torch.testing.assert_close(layer.out((weights[0] @ v).transpose(1, 2).flatten(2)), layer(h, e))
    nn.init.zeros_(layer.q.weight)
    even = probes.word_attention(model, X, T, Y)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 3))
    with pytest.raises(ValueError, match="without cross-attention"):
        probes.word_attention(Painter(), X, T, Y)


def test_a_view_starts_nothing_and_memory_left_empty_neither():
    x = torch.randn(4, 6)
    assert probes.launches(lambda: x.view(2, 12).transpose(0, 1)[:3]) == (0, 3)
    assert probes.launches(lambda: (x + x, torch.empty(3))) == (1, 0)


def test_bytes_for_the_backward_pass_are_those_of_the_factors():
    """A product keeps the factor that the other's gradient needs; a view of it is the same memory."""
    x, w = torch.randn(8, 4).double().requires_grad_(), torch.randn(4).double().requires_grad_()
    assert probes.kept_bytes(lambda: x * w) == 8 * (32 + 4)
    assert probes.kept_bytes(lambda: x * w, but=[x]) == 8 * 4
    assert probes.kept_bytes(lambda: (x[:4] * w, x[4:] * w), but=[w]) == 8 * 32
    assert probes.kept_bytes(lambda: x + w) == 0
