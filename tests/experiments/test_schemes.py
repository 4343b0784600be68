"""Each scheme is the formula it names, starts as its paper says, and equals a variant of TinyDiT where one exists."""

import pytest
import torch

from adaln_lab.conditioning import VARIANTS, Condition
from adaln_lab.dit import DiTConfig
from adaln_lab.experiments import schemes
from adaln_lab.experiments.schemes import SCHEMES, SchemeBlock
from adaln_lab.norms import layer_norm

DEPTH, WIDTH, HEADS = 3, 16, 2
IDENTITY = {"ReZero", "Fixup-like", "adaLN-Zero", "tanh gate"}  # schemes whose untrained block changes nothing


def make(name: str, depth: int = DEPTH) -> SchemeBlock:
    torch.manual_seed(0)
    return SchemeBlock(SCHEMES[name], depth, WIDTH, HEADS, WIDTH).double()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, Condition]:
    torch.manual_seed(1)
    return torch.randn(2, 5, WIDTH).double(), Condition(torch.randn(2, WIDTH).double())


@pytest.mark.parametrize("name", SCHEMES)
def test_the_right_schemes_start_as_the_identity(name, inputs):
    x, cond = inputs
    assert torch.equal(make(name)(x, cond), x) == (name in IDENTITY)


@pytest.mark.parametrize("name, variant", [("adaLN", "adaln"), ("adaLN-Zero", "adaln_zero")])
def test_a_scheme_that_is_a_variant_equals_it(name, variant, inputs):
    """Two ways through the code, one function: the same weights give the same numbers, gates open or not."""
    x, cond = inputs
    ours, theirs = make(name), VARIANTS[variant](WIDTH, HEADS, WIDTH).double()
    torch.nn.init.normal_(ours.to_modulation.linear.weight, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x, cond), theirs(x, cond), rtol=0, atol=1e-12)


def test_pre_norm_equals_the_in_context_block(inputs):
    x, cond = inputs
    ours, theirs = make("pre-norm"), VARIANTS["in_context"](WIDTH, HEADS, WIDTH).double()
    theirs.attn, theirs.mlp, (theirs.norm_attn, theirs.norm_mlp) = ours.attn, ours.mlp, ours.norms
    torch.testing.assert_close(ours(x, cond), theirs(x, cond), rtol=0, atol=1e-12)


def test_post_norm_ends_in_a_norm(inputs):
    x, cond = inputs
    block = make("post-norm")
    u = layer_norm(x + block.attn(x))
    torch.testing.assert_close(block(x, cond), layer_norm(u + block.mlp(u)))


@pytest.mark.parametrize("name", ["ReZero", "SkipInit", "Fixup-like"])
def test_schemes_without_norm_feel_the_size_of_their_input(name, inputs):
    """Without a norm, F sees x itself: with an open gate F(2 x) is not F(x)."""
    x, cond = inputs
    block = make(name)
    torch.nn.init.normal_(block.mlp.down.weight)
    block.gates.data.fill_(1.0)
    assert not hasattr(block, "norms") and not hasattr(block, "to_modulation")
    assert not torch.allclose(block(2 * x, cond) - 2 * x, block(x, cond) - x)


def test_the_gates_that_are_parameters_start_where_the_papers_say():
    assert make("ReZero").gates.abs().max() == 0
    torch.testing.assert_close(make("SkipInit", 8).gates, torch.full((2, 1, 1), 16**-0.5).double())
    assert [make("LayerScale", depth).gates[0, 0, 0].item() for depth in (18, 19, 25)] == pytest.approx(
        [0.1, 1e-5, 1e-6]
    )
    assert make("LayerScale").gates.shape == (2, 1, WIDTH)


def test_fixup_makes_inner_layers_smaller_and_the_last_zero():
    plain, fixup = make("ReZero", 8), make("Fixup-like", 8)
    torch.testing.assert_close(fixup.mlp.up.weight, plain.mlp.up.weight / 16**0.5)
    assert not fixup.mlp.down.weight.any() and not fixup.attn.out.weight.any()


def test_tanh_and_identity_gates_get_the_same_first_gradient_and_one_plus_is_open(inputs):
    """tanh'(0) = 1; and 1 + g at g = -1 is shut."""
    x, cond = inputs
    grads = []
    for name in ("adaLN-Zero", "tanh gate"):
        block = make(name)
        block(x, cond).square().sum().backward()
        grads.append(block.to_modulation.linear.weight.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
    block = make("1 + g gate")
    block.to_modulation.linear.bias.data.view(2, 3, WIDTH)[:, 2] = -1
    assert torch.equal(block(x, cond), x)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_deep_model_runs_starts_at_zero_and_all_its_blocks_learn(name):
    """All share the zero head; once it has moved, every block gets a gradient (gates first where they start at 0)."""
    config = DiTConfig(patch=4, width=16, heads=2, depth=2)
    model = schemes.deep_dit(name, config, seed=3)
    generator = torch.Generator().manual_seed(4)
    x, t, y = torch.randn(3, 1, 8, 8, generator=generator), torch.rand(3, generator=generator), torch.tensor([1, 2, 10])
    assert not model(x, t, y).any()
    torch.nn.init.normal_(model.final.linear.weight, generator=generator)
    model(x, t, y).square().sum().backward()
    for block in model.blocks:
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in block.parameters())


def test_the_seed_decides_the_start_and_nothing_outside_changes():
    config = DiTConfig(patch=4, width=16, heads=2, depth=1)
    state = torch.random.get_rng_state()
    a, b, c = (schemes.deep_dit("adaLN", config, seed).blocks[0].attn.qkv.weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_unknown_scheme_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"scheme must be one of post-norm, .*; got 'deepnorm'"):
        schemes.deep_dit("deepnorm", DiTConfig())
