"""The two optimisers of training: AdamW, and Muon for the matrices of attention and MLP.

Muon is momentum, and then every update matrix is replaced by (nearly) the closest orthogonal one:

    M <- mu M + (1 - mu) G,    U = G + mu (M - G),    W <- W - lr sqrt(max(1, rows / columns)) * orthogonal(U)

Keller Jordan, Muon (2024). torch.optim.Muon computes `orthogonal` in bfloat16, one matrix at a time, which is slow on a
CPU without bfloat16 units: on two cores of a Zen 3 it took longer than the rest of a training step. Here matrices of
one shape iterate as one batch in float32. tests/training/test_optimizers.py compares the two.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

# a, b, c of x <- a x + b x^3 + c x^5, one row an iteration: each is the polynomial that comes closest to 1 on the
# interval where the one before left the singular values (Polar Express, arXiv 2505.16932), starting from [0.02, 1]. In
# the end they lie in [0.999, 1.001]. Muon's own polynomial, used five times, leaves them in [0.68, 1.13].
POLYNOMIALS = (
    (7.71097, -22.11376, 16.24874),
    (3.21530, -2.41120, 0.50131),
    (2.21827, -1.59385, 0.41068),
    (1.88418, -1.26013, 0.37598),
)


def orthogonal(matrices: list[Tensor], polynomials: Sequence[tuple[float, float, float]] = POLYNOMIALS) -> list[Tensor]:
    """Each matrix with its singular values pushed to 1, by Newton-Schulz: X <- (a + b A + c A^2) X, A = X X^T.

    All iterates are polynomials of the first A times the first X, so they commute and only the small square matrices
    iterate: A <- P A P, Q <- P Q with P = a + b A + c A^2; in the end Q X.
    """
    wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]
    by_shape = defaultdict(list)
    for i, m in enumerate(wide):
        by_shape[m.shape].append(i)
    for members in by_shape.values():
        x = torch.stack([wide[i] for i in members])  # (n, rows, columns)
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        gram, q = x @ x.mT, None
        identity = torch.eye(len(gram[0]), dtype=x.dtype, device=x.device)
        for k, (a, b, c) in enumerate(polynomials):
            p = torch.baddbmm(b * gram + a * identity, gram, gram, alpha=c)
            q = p if q is None else p @ q
            if k + 1 < len(polynomials):  # after the last one only q is wanted
                gram = p @ gram @ p
        for i, y in zip(members, q @ x, strict=True):
            wide[i] = y
    return [y if y.shape == m.shape else y.T for y, m in zip(wide, matrices, strict=True)]


class Muon(torch.optim.Muon):
    """torch.optim.Muon with Nesterov's momentum, in float32 and all matrices at once; the same state."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            lr = group["lr"]  # in a CUDA graph a tensor
            params = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in params]
            buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            updates = orthogonal(torch._foreach_lerp(grads, buffers, group["momentum"]))
            torch._foreach_mul_(updates, [max(1, p.shape[0] / p.shape[1]) ** 0.5 for p in params])
            torch._foreach_mul_(updates, lr)
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            torch._foreach_sub_(params, updates)


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


@torch.no_grad()
def make_state(optimizer: torch.optim.Optimizer) -> None:
    """The state that an optimiser makes in its first step, all zero; no parameter changes."""
    groups = optimizer.param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    for group, lr in zip(groups, rates, strict=True):
        group["lr"] = lr
    for state in optimizer.state.values():
        torch._foreach_zero_(list(state.values()))
