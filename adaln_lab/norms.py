"""Normalisation, modulation and the gated residual: the three steps of an adaptive block.

    LN(x)       = (x - mean(x)) / sqrt(var(x) + eps)              per token, over its D channels
    AdaLN(x, c) = LN(x) * (1 + scale(c)) + shift(c)               DiT, Sec. 3.2 (arXiv 2212.09748)
    x <- x + a(gate) * branch        a(g) = g (DiT, SD3, Flux), tanh(g) (Lumina 2, Z-Image), 1 + g (HDM)

With a(gate) = 0 a block is the identity, and d x_out / d x_in = I + diag(a) J_branch is I as well.
B batch, T tokens, D width, C width of the condition.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.layers import xavier_linear, zero_linear


def layer_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm without learned gamma and beta: mean 0, variance 1 (biased) over the last axis; any shape (..., D)."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis: layer norm that keeps the mean (arXiv 1910.07467)."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


class Modulation(NamedTuple):
    """What one condition does to one branch: each (B, 1, D), or None where an architecture has no such vector.

    (B, T, D) where tokens have different conditions.
    """

    shift: Tensor | None = None
    scale: Tensor | None = None
    gate: Tensor | None = None


def modulate(h: Tensor, m: Modulation) -> Tensor:
    """h * (1 + scale) + shift, one affine map for all tokens: (B, T, D) -> (B, T, D). The gate is not used here."""
    if m.scale is not None:
        h = h * (1 + m.scale)
    return h if m.shift is None else h + m.shift


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda gate: gate,
    "tanh": torch.tanh,
    "one_plus": lambda gate: 1 + gate,
}


def gated(x: Tensor, branch: Tensor, gate: Tensor | None, kind: str = "identity") -> Tensor:
    """x + a(gate) * branch; x and branch (B, T, D), gate (B, 1, D) or None for the plain residual x + branch."""
    if gate is None:
        return x + branch
    if kind not in GATES:
        raise ValueError(f"gate kind must be one of {sorted(GATES)}, got {kind!r}")
    return torch.addcmul(x, GATES[kind](gate), branch)  # one pass over memory instead of two


def split_vectors(flat: Tensor, branches: int, order: tuple[str, ...]) -> tuple[Modulation, ...]:
    """flat (B, 1, n * D), n = branches * len(order) vectors side by side -> one `Modulation` for each branch.

    (B, T, n * D) where each token has vectors of its own.
    """
    vectors = flat.chunk(branches * len(order), dim=-1)  # each (B, 1, D)
    n = len(order)
    return tuple(Modulation(**dict(zip(order, vectors[i * n :], strict=False))) for i in range(branches))


class ToModulation(nn.Module):
    """c -> one `Modulation` for each branch: SiLU, then one Linear whose output is cut into named vectors.

    `order` is an architecture's chunk order, data in one line: DiT has ("shift", "scale", "gate") for attention and
    again for the MLP. `zero` starts every vector at 0 (adaLN-Zero); otherwise the Linear starts like any other.
    `silu=False` leaves the SiLU out, as Z-Image does.
    """

    def __init__(
        self,
        c_width: int,
        width: int,
        branches: int = 2,
        order: tuple[str, ...] = ("shift", "scale", "gate"),
        zero: bool = True,
        silu: bool = True,
    ):
        super().__init__()
        self.branches, self.order, self.silu = branches, order, silu
        make_linear = zero_linear if zero else xavier_linear
        self.linear = make_linear(c_width, branches * len(order) * width)

    def forward(self, c: Tensor) -> tuple[Modulation, ...]:
        flat = self.linear(F.silu(c) if self.silu else c).unsqueeze(1)  # (B, 1, n * D)
        return split_vectors(flat, self.branches, self.order)
