"""The optimisers: Muon is Muon, its polynomials are the best of their degree, and each parameter has one owner."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments.unet import TinyUNet, UNetConfig
from adaln_lab.training import optimizers
from adaln_lab.training.optimizers import POLYNOMIALS, Muon, make_optimizers, orthogonal

SMALL = DiTConfig(width=24, depth=2, heads=2)
MUON = (3.4445, -4.775, 2.0315)  # Keller Jordan's polynomial, five times
SHAPES = [(8, 24), (24, 8), (8, 24), (8, 8), (1, 5)]


@pytest.mark.parametrize("polynomials", [POLYNOMIALS, [MUON] * 5])
def test_the_batch_of_small_matrices_equals_the_plain_iteration(polynomials):
    """Matrix by matrix, on X itself, as Muon is usually written."""
    matrices = [torch.randn(s, dtype=torch.float64) for s in SHAPES]
    for m, ours in zip(matrices, orthogonal(matrices, polynomials), strict=True):
        x = m if m.shape[0] <= m.shape[1] else m.T
        x = x / x.norm()
        for a, b, c in polynomials:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        torch.testing.assert_close(ours, x if x.shape == m.shape else x.T, rtol=0, atol=1e-9)


def test_each_polynomial_is_the_closest_to_one_on_the_interval_that_the_one_before_leaves():
    """Chebyshev: a best approximation by three terms has its largest error at four points, with alternating signs."""
    low, high = 0.02, 1.0
    for a, b, c in POLYNOMIALS:
        x = torch.linspace(low, high, 100_001, dtype=torch.float64)
        error = a * x + b * x**3 + c * x**5 - 1
        extrema = [0, *((error[1:-1] - error[:-2]) * (error[2:] - error[1:-1]) < 0).nonzero().flatten() + 1, -1]
        values = error[torch.tensor(extrema)]
        assert len(values) == 4 and (values[1:] * values[:-1] < 0).all()
        assert values.abs().min() > 0.95 * values.abs().max()  # the coefficients are rounded
        low, high = 1 + error.min().item(), 1 + error.max().item()
    assert 0.999 < low < high < 1.001


def test_the_result_is_the_closest_orthogonal_matrix():
    u, v = (torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0] for _ in range(2))
    s = torch.logspace(-1.3, 0, 16, dtype=torch.float64)
    error = orthogonal([u @ s.diag() @ v])[0] - u @ v
    assert torch.linalg.matrix_norm(error, 2) < 1e-3


def test_muon_equals_torch_muon_up_to_bfloat16(monkeypatch):
    """An independent implementation: the same direction within bf16's rounding, on wide, tall and square matrices."""
    monkeypatch.setattr(optimizers, "orthogonal", partial(orthogonal, polynomials=[MUON] * 5))
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s)) for s in ((8, 24), (24, 8), (8, 24), (8, 8))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9}
    a, b = Muon(ours, **options), torch.optim.Muon(theirs, **options)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0.02)
        assert (p - q).norm() < 0.02 * p.norm()


BLOCKS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
SD15 = ("self_attn", "cross", "mlp.up", "mlp.down")


@pytest.mark.parametrize(
    ("model", "muon_parts"),
    [
        (TinyDiT(SMALL), BLOCKS),
        (TinyDiT(replace(SMALL, variant="both", encoder=1)), (*BLOCKS, "cross.q", "cross.kv", "cross.out", "branches")),
        (TinyUNet(UNetConfig()), SD15),
    ],
)
def test_muon_has_the_matrices_of_attention_and_mlp_and_adam_has_everything_else(model, muon_parts):
    adam, muon = ([p for g in o.param_groups for p in g["params"]] for o in make_optimizers(model, 0.1, 0.1))
    assert len({*adam} | {*muon}) == len(adam) + len(muon) == len(list(model.parameters()))
    expected = {
        name for name, p in model.named_parameters() if p.dim() == 2 and any(f".{x}." in f".{name}" for x in muon_parts)
    }
    assert {name for name, p in model.named_parameters() if any(p is q for q in muon)} == expected != set()
