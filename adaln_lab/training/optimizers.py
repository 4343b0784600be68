"""The two optimisers of training: AdamW, and Muon for the matrices of attention and MLP.

Muon is momentum, and then every update matrix is replaced by (nearly) the closest orthogonal one:

    M <- mu M + (1 - mu) G,    U = G + mu (M - G),    W <- W - lr sqrt(max(1, rows / columns)) * orthogonal(U)

Keller Jordan, Muon (2024). torch.optim.Muon computes the same in bfloat16, one matrix at a time, which is slow on a CPU
without bfloat16 units: on two cores of a Zen 3 it took longer than the rest of a training step. Here all matrices
iterate as one batch in float32. tests/training/test_train.py compares the two.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonal(matrices: list[Tensor], coefficients: tuple[float, float, float], steps: int) -> list[Tensor]:
    """Each matrix with its singular values pushed towards 1, by Newton-Schulz: X <- (a + b A + c A^2) X, A = X X^T.

    All iterates are polynomials of the first A times the first X, so they commute and only the small square matrices
    iterate: A <- P A P, Q <- P Q with P = a + b A + c A^2; in the end Q X.
    """
    a, b, c = coefficients
    wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]
    wide = [x / x.norm().clamp(min=1e-7) for x in wide]
    by_rows = defaultdict(list)
    for i, x in enumerate(wide):
        by_rows[len(x)].append(i)
    for rows, members in by_rows.items():
        gram = torch.stack([wide[i] @ wide[i].T for i in members])  # (n, rows, rows)
        identity = torch.eye(rows, dtype=gram.dtype, device=gram.device)
        q = identity.expand_as(gram)
        for _ in range(steps):
            p = torch.baddbmm(b * gram + a * identity, gram, gram, alpha=c)
            q, gram = p @ q, p @ gram @ p
        for i, qi in zip(members, q, strict=True):
            wide[i] = qi @ wide[i]
    return [x if x.shape == m.shape else x.T for x, m in zip(wide, matrices, strict=True)]


class Muon(torch.optim.Muon):
    """torch.optim.Muon with Nesterov's momentum, in float32 and all matrices at once; the same state."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, buffers, group["momentum"])
            updates = orthogonal(updates, group["ns_coefficients"], group["ns_steps"])
            for p, update in zip(params, updates, strict=True):
                rate = group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def make_optimizers(
    model: nn.Module, lr: float, muon_lr: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters but the matrices of modules marked `for_muon` (attention, MLP); Muon for those."""
    parts = [m for m in model.modules() if getattr(m, "for_muon", False)]
    matrices = [p for part in parts for p in part.parameters() if p.dim() == 2]
    chosen = set(matrices)
    rest = [p for p in model.parameters() if p not in chosen]
    return [
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True),
        Muon(matrices, lr=muon_lr, weight_decay=weight_decay),
    ]
