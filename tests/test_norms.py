"""Norms and modulation against their formulas, in float64."""

import pytest
import torch
from torch.nn import functional as F

from adaln_lab.norms import Modulation, ToModulation, gated, layer_norm, modulate, rms_norm


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_layer_norm_equals_its_formula(eps):
    x = 3 * rand(2, 5, 8) + 1
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    torch.testing.assert_close(layer_norm(x, eps), (x - mean) / (var + eps).sqrt(), rtol=0, atol=1e-12)


def test_rms_norm_equals_its_formula_and_keeps_the_mean():
    x, w = rand(2, 5, 8) + 1, rand(8, seed=1)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(rms_norm(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(rms_norm(x, w), expected * w, rtol=0, atol=1e-12)
    assert rms_norm(x).mean(-1).abs().min() > 1e-3  # a layer norm would have removed it


def test_modulation_is_one_affine_map_for_all_tokens():
    h, m = rand(2, 5, 8), Modulation(rand(2, 1, 8, seed=1), rand(2, 1, 8, seed=2), rand(2, 1, 8, seed=3))
    expected = torch.stack([h[b] * (1 + m.scale[b, 0]) + m.shift[b, 0] for b in range(2)])
    torch.testing.assert_close(modulate(h, m), expected, rtol=0, atol=1e-12)
    assert torch.equal(modulate(h, Modulation()), h)


def test_to_modulation_cuts_its_linear_in_the_stated_order():
    make = ToModulation(4, 3, branches=2, order=("scale", "gate"), zero=False).double()
    c = rand(2, 4)
    rows = F.linear(F.silu(c), make.linear.weight, make.linear.bias).view(2, 4, 3)
    attn, mlp = make(c)
    assert attn.shift is None and mlp.shift is None
    for i, vector in enumerate((attn.scale, attn.gate, mlp.scale, mlp.gate)):
        torch.testing.assert_close(vector[:, 0], rows[:, i], rtol=0, atol=1e-12)


def test_zero_modulation_leaves_any_input_alone():
    h, (m,) = rand(2, 5, 3), ToModulation(4, 3, branches=1).double()(rand(2, 4))
    assert torch.equal(modulate(h, m), h)
    assert torch.equal(gated(h, rand(2, 5, 3, seed=1), m.gate), h)


@pytest.mark.parametrize(
    ("kind", "formula"), [("identity", lambda g: g), ("tanh", torch.tanh), ("one_plus", lambda g: 1 + g)]
)
def test_gates_equal_their_formula(kind, formula):
    x, f, g = rand(2, 5, 3), rand(2, 5, 3, seed=1), rand(2, 1, 3, seed=2)
    torch.testing.assert_close(gated(x, f, g, kind), x + formula(g) * f, rtol=0, atol=1e-12)
    assert torch.equal(gated(x, f, None), x + f)


def test_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="gate kind must be one of"):
        gated(rand(1, 1, 1), rand(1, 1, 1), rand(1, 1, 1), "sigmoid")
