"""Look at a residual stream: how large it is at each depth, how large its gradient is, and what each block adds.

    r_l = |x_l - x_{l-1}| / |x_{l-1}|           what block l adds, next to what passes by
    effective depth = sum_l r_l / (1 + r_l)     blocks on an average path, paths weighted by what they carry

A stack of residual blocks is a sum over paths, each block either passed or skipped (Veit et al., arXiv 1605.06431). If
block l weighs r_l and its skip 1, a path passes it with probability r_l / (1 + r_l).
L blocks, B batch, T tokens, D width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from adaln_lab.conditioning import Condition
from adaln_lab.dit import TinyDiT


def stream(blocks: Sequence[nn.Module], x: Tensor, cond: Condition) -> list[Tensor]:
    """x_0, ..., x_L: the stream (B, T, D) before the first block and after each."""
    xs = [x]
    for block in blocks:
        xs.append(block(xs[-1], cond))
    return xs


def model_stream(model: TinyDiT, x: Tensor, t: Tensor, y: Tensor) -> list[Tensor]:
    """The same for a whole model and images x (B, channels, size, size)."""
    cond = model.condition(t, y)
    return stream(model.blocks, model.enter(x, model.plan(t, y)), cond)


def size(x: Tensor) -> Tensor:
    """Root mean square of all entries."""
    return x.square().mean().sqrt()


def depth_profile(blocks: Sequence[nn.Module], x: Tensor, cond: Condition, g: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes (L + 1,) of the stream and of its gradient at each depth, when g (B, T, D) is the gradient at the end."""
    xs = stream(blocks, x.detach().requires_grad_(), cond)
    gradients = torch.autograd.grad(xs[-1], xs, g)
    return torch.stack([size(x) for x in xs]).detach(), torch.stack([size(g) for g in gradients])


def added(xs: Sequence[Tensor]) -> Tensor:
    """r (L,): what each block adds to the stream, relative to the stream that enters it."""
    return torch.stack([size(after - before) / size(before) for before, after in pairwise(xs)])


def effective_depth(r: Tensor) -> Tensor:
    """Blocks on an average path through the stack: sum of r / (1 + r), between 0 and L."""
    return (r / (1 + r)).sum()
