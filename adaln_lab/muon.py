"""Muon in float32: momentum, then every update matrix is replaced by (nearly) the closest orthogonal one.

    M <- mu M + (1 - mu) G,    U = G + mu (M - G),    W <- W - lr sqrt(max(1, rows / columns)) * orthogonal(U)

Keller Jordan, Muon (2024). torch.optim.Muon computes the same in bfloat16, one matrix at a time. A CPU without bf16
units pays for that: on two cores of a Zen 3 a step took 181 ms there and 14 ms here (width 96, depth 3). So here it is
float32, and matrices of one shape are one batch. tests/test_train.py holds the two against each other.
"""

from collections import defaultdict

import torch
from torch import Tensor


def orthogonal(m: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """m (..., rows, columns), singular values pushed towards 1 by Newton-Schulz: X <- aX + (bA + cA^2)X, A = X X^T."""
    a, b, c = coefficients
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Muon):
    """torch.optim.Muon in float32, equal shapes in one batch; the same arguments, state and checkpoints."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                for p in params:
                    self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                grads, buffers = [p.grad for p in params], [self.state[p]["momentum_buffer"] for p in params]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                update = torch.stack(torch._foreach_lerp(grads, buffers, group["momentum"]))
                update = orthogonal(update, group["ns_coefficients"], group["ns_steps"])
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(params, list(update.unbind()), alpha=-rate)
