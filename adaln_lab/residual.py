"""The gated residual: how much of a branch reaches the stream.

    x <- x + a(gate) * branch            a(g) = g (DiT, SD3, Flux), tanh(g) (Lumina 2, Z-Image), 1 + g (HDM)

With a(gate) = 0 the block is the identity, and d x_out / d x_in = I + diag(a) J_branch is I as well.
"""

from collections.abc import Callable

import torch
from torch import Tensor

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
