"""What several architectures share: attention with grouped heads, QK-norm and rotary positions; SwiGLU.

    rotary        rotate the channel pairs (2k, 2k+1) of a head: (a, b) -> (a cos - b sin, a sin + b cos)   2104.09864
                  or the pairs (k, k+r)
    QK-norm       q <- RMS(q) w_q, k <- RMS(k) w_k, per head                                               2302.05442
    grouped       H query heads share KV heads of keys and values, H / KV neighbouring query heads each    2305.13245
    SwiGLU        W_down (SiLU(W_gate h) * W_value h)                                                      2002.05202

B batch, T tokens, D width, H heads, d width of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rope = tuple[Tensor, Tensor]  # cos and sin, broadcast to (B, H, T, d/2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, d) with each pair of channels rotated by the angle of its token."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, T, d/2)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, d) with each pair (k, k + r) of its first 2 r channels rotated; cos and sin (T, r), r <= d/2."""
    r = cos.shape[-1]
    a, b, rest = x.split([r, r, x.shape[-1] - 2 * r], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: q (B, H, T, d), k and v (B, KV, S, d) -> heads concatenated, (B, T, H d).

    `mask` (T, S), True where a query may look.
    """
    k, v = (a.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for a in (k, v))
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def apply_rope(
    q: Tensor, k: Tensor, rope: Rope | None, rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = rotate
) -> tuple[Tensor, Tensor]:
    """q and k rotated by cos and sin, (T, d/2) or (B, T, d/2), the same for all heads; unchanged without `rope`."""
    if rope is None:
        return q, k
    cos, sin = (a.unsqueeze(-3) for a in rope)
    return rotate(q, cos, sin), rotate(k, cos, sin)


class Attention(nn.Module):
    """Self-attention: one Linear for q | k | v, per-head RMSNorm of q and k if `qk_eps` is given, an output Linear.

    `out`: whether the output Linear has a bias; None for no output Linear. `rotate` says which channels are a pair.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        *,
        head_width: int | None = None,
        bias: bool = True,
        out: bool | None = True,
        qk_eps: float | None = None,
        rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = rotate,
    ):
        super().__init__()
        self.rotate = rotate
        d, kv_heads = head_width or width // heads, kv_heads or heads
        self.sizes = [heads * d, kv_heads * d, kv_heads * d]  # of q, k, v
        self.d = d
        self.qkv = nn.Linear(width, sum(self.sizes), bias=bias)
        self.norm_q = nn.Identity() if qk_eps is None else nn.RMSNorm(d, eps=qk_eps)
        self.norm_k = nn.Identity() if qk_eps is None else nn.RMSNorm(d, eps=qk_eps)
        self.out = None if out is None else nn.Linear(heads * d, width, bias=out)

    def project_qkv(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, T, D) -> q (B, H, T, d), k and v (B, KV, T, d)."""
        parts = self.qkv(h).split(self.sizes, dim=-1)
        q, k, v = (a.unflatten(-1, (-1, self.d)).transpose(1, 2) for a in parts)
        return self.norm_q(q), self.norm_k(k), v

    def forward(self, h: Tensor, rope: Rope | None = None, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project_qkv(h)
        return self.out(attention(*apply_rope(q, k, rope, self.rotate), v, mask))


class SwiGLU(nn.Module):
    """(B, T, D) -> (B, T, D), with `hidden` gated channels in between."""

    def __init__(self, width: int, hidden: int, bias: bool = False):
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=bias)  # rows: gate, then value
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.up(h).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)
