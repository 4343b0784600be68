"""From noise back to data: solve dx/dt = v(x, t, y) from t = 1 down to t = 0.

    Euler   x <- x - dt v(x, t)                                            one call a step, error O(dt)
    Heun    x <- x - dt/2 (v(x, t) + v(x', t - dt)),  x' the Euler step    two calls a step, error O(dt^2)
    guided  v = v_null + guidance * (v_label - v_null)                     arXiv 2207.12598

A sampler is a generator: it yields (t, x) at the start and after every step, and the caller keeps what it likes.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from adaln_lab.conditioning import map_tensors
from adaln_lab.dit import Precomputed, TinyDiT
from adaln_lab.utils.checks import Seed, check_labels, conform, finite, one_of, whole

STEPS = 6  # few suffice for small pictures; notebook 05 measures quality against their number
BATCH = 500  # pictures at a time
MOST_STEPS, MOST_GUIDANCE, MOST_PICTURES = 10_000, 100, 100_000
Velocity = Callable[[Tensor, int], Tensor]  # (x, index into times) -> v, shaped like x
Precompute = Callable[[Tensor, Tensor], Precomputed]  # t (B,), y (B,) or (B, S) -> what the model takes from them


def time_grid(steps: int) -> Tensor:
    """steps + 1 times from 1 (noise) to 0 (data), evenly spaced."""
    return torch.linspace(1, 0, whole("steps", steps, 1, MOST_STEPS) + 1)


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Iterator[tuple[float, Tensor]]:
    """First order."""
    grid = times.tolist()
    yield grid[0], x
    for i, (t, s) in enumerate(pairwise(grid)):
        x = x + (s - t) * velocity(x, i)
        yield s, x


def heun(velocity: Velocity, x: Tensor, times: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Second order."""
    grid = times.tolist()
    yield grid[0], x
    for i, (t, s) in enumerate(pairwise(grid)):
        v = velocity(x, i)
        x = x + (s - t) / 2 * (v + velocity(x + (s - t) * v, i + 1))
        yield s, x


SAMPLERS = {"euler": euler, "heun": heun}


def guided(
    model: TinyDiT,
    y: Tensor,
    times: Tensor,
    guidance: float = 1.0,
    precompute: Precompute | None = None,
) -> Velocity:
    """The model's velocity for labels y (B,) or (B, S), with classifier-free guidance.

    The modulation of every block for all times and all labels present is computed here, once. A step then only picks
    its rows, and both halves of guidance run as one batch. guidance 1 is the plain model, 0 ignores the label, above 1
    exaggerates it. `precompute` stands in for the model's own, see `analysis.interventions`.
    """
    guidance = finite("guidance", guidance, 0, MOST_GUIDANCE)
    labels, which = torch.unique(y, dim=0, return_inverse=True)  # (K', ...), (B,)
    null = torch.full_like(labels[:1], model.config.n_classes)
    labels = torch.cat([labels, null])
    n = len(labels)
    t = times.to(next(model.parameters())).repeat_interleave(n)
    table = (precompute or model.precompute)(t, labels.repeat(len(times), *[1] * (y.dim() - 1)))  # times x labels
    unlabelled = torch.full_like(which, n - 1)

    def velocity(x: Tensor, i: int) -> Tensor:
        if guidance in (0, 1):
            rows = i * n + (which if guidance else unlabelled)
            return model.forward_with(x, map_tensors(lambda part: part.index_select(0, rows), table))
        rows = i * n + torch.cat([which, unlabelled])
        both = model.forward_with(x.repeat(2, 1, 1, 1), map_tensors(lambda part: part.index_select(0, rows), table))
        v_label, v_null = both.chunk(2)
        return torch.lerp(v_null, v_label, guidance)

    return velocity


@torch.inference_mode()
def sample(
    model: TinyDiT,
    y: Tensor,
    steps: int = STEPS,
    guidance: float = 1.0,
    method: str = "euler",
    seed: int = 0,
    batch: int = BATCH,
    precompute: Precompute | None = None,
    each: Callable[[], object] = lambda: None,
) -> Tensor:
    """Pictures for labels y (n,) or (n, S): (n, channels, size, size), clipped to [-1, 1]. Noise comes from `seed`.

    `precompute` stands in for the model's own: see `analysis.interventions`. `each` is called after each step of each
    batch.
    """
    one_of("method", method, SAMPLERS)
    k, like = model.config, next(model.parameters())
    check_labels(y, len(y), k.n_classes, k.context_length)
    batch = whole("batch", batch, 1, MOST_PICTURES)
    generator = torch.Generator().manual_seed(conform("seed", seed, Seed))  # on the CPU: the same noise on every device
    noise = torch.randn(len(y), k.channels, k.size, k.size, generator=generator).to(like)
    times = time_grid(steps)
    pictures = []
    for x, labels in zip(noise.split(batch), y.to(like.device).split(batch), strict=True):
        states = SAMPLERS[method](guided(model, labels, times, guidance, precompute), x, times)
        next(states)  # the noise
        for _, end in states:  # noqa: B007 (the last one is wanted)
            each()
        if not end.isfinite().all():
            raise ValueError("the pictures are not finite: lower the guidance, or look for NaN in the model's weights")
        pictures.append(end.clamp(-1, 1))
    return torch.cat(pictures)
