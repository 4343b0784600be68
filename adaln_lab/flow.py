"""Flow matching: a straight road from data to noise, and the velocity along it.

    x_t = (1 - t) x_0 + t noise,      v = d x_t / dt = noise - x_0,      loss = E |model(x_t, t, y) - v|^2

arXiv 2210.02747, and 2403.03206 (Stable Diffusion 3), Sec. 2-3. t = 0 is data, t = 1 is noise. B batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class FlowPair(NamedTuple):
    """One training question and its answer: x_t, t (B,), y (B,) or (B, S), and the velocity v shaped like x_t."""

    x_t: Tensor
    t: Tensor
    y: Tensor
    v: Tensor


def interpolate(x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t noise; x_0 and noise (B, ...), t (B,)."""
    if x_0.shape != noise.shape or t.shape != x_0.shape[:1]:
        shapes = ", ".join(str(tuple(a.shape)) for a in (x_0, noise, t))
        raise ValueError(f"x_0 and noise must have one shape (B, ...), and t (B,); got {shapes}")
    t = t.reshape(-1, *[1] * (x_0.dim() - 1))
    return torch.lerp(x_0, noise, t)


def logit_normal(n: int, generator: torch.Generator, mean: float = 0.0) -> Tensor:
    """n times t = sigmoid(mean + normal): the middle of the road more often than its ends (SD3, Sec. 3.1)."""
    return torch.sigmoid(mean + torch.randn(n, generator=generator, device=generator.device))


def flow_pair(
    x_0: Tensor, y: Tensor, null: int, drop: float, generator: torch.Generator, t_mean: float = 0.0
) -> FlowPair:
    """Draw t, noise and which labels to drop (each row becomes `null` with probability `drop`), and make the pair."""
    if len(y) != len(x_0):
        raise ValueError(f"y must hold a label for each of {len(x_0)} images, got {len(y)}")
    t = logit_normal(len(x_0), generator, t_mean)
    noise = torch.randn(x_0.shape, generator=generator, device=x_0.device)
    dropped = torch.rand(len(x_0), generator=generator, device=x_0.device) < drop
    y = torch.where(dropped.reshape(-1, *[1] * (y.dim() - 1)), null, y)
    return FlowPair(interpolate(x_0, noise, t), t, y, noise - x_0)


def flow_loss(model: nn.Module, pair: FlowPair) -> Tensor:
    """Mean squared error of the predicted velocity, a scalar."""
    if pair.v.shape != pair.x_t.shape:
        raise ValueError(f"v must be shaped like x_t, {tuple(pair.x_t.shape)}; got {tuple(pair.v.shape)}")
    return (model(pair.x_t, pair.t, pair.y) - pair.v).square().mean()
