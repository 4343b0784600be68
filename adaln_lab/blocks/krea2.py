"""Krea 2: PixArt's adaLN-single again, with GELU before the Linear, the scale first, and a gate inside attention.

    S = W GELU(c) + bias, once for the model;   [s1, b1, g1, s2, b2, g2] = S + E_i,   E_i a table (6, D);   c = t_emb
    u = x + g1 * Attn(RMS_1(x) (1 + s1) + b1);   out = u + g2 * SwiGLU(RMS_2(u) (1 + s2) + b2)
    Attn(h) = W_o [softmax-attention(h) * sigmoid(W_gate h)],   RMS(x) = x / rms(x) * (1 + w)

Heads are grouped. The output layer adds its table to c itself. Text blocks have no modulation, no gate, no positions.
huggingface/diffusers, transformer_krea2.py. B batch, T tokens, D width, d of a head.
Differs from upstream in: nothing.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks import parts
from adaln_lab.blocks.parts import Rope, SwiGLU, apply_rope, attention
from adaln_lab.blocks.pixart import Table
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import Names, diffusers_attention, numbered, prefixed
from adaln_lab.norms import gated, modulate

ORDER = ("scale", "shift", "gate")


def shared_modulation(width: int) -> nn.Sequential:
    """c (..., D) -> six vectors side by side (..., 6 D), to which each block adds its table."""
    return nn.Sequential(nn.GELU(approximate="tanh"), nn.Linear(width, 6 * width))


def zero_table(width: int, branches: int, order: tuple[str, ...]) -> Table:
    """PixArt's table, but zero at the start."""
    table = Table(width, branches, order)
    nn.init.zeros_(table.table)
    return table


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * (1 + weight): the weight is stored around zero, and starts there."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


class Attention(parts.Attention):
    """Grouped heads whose outputs are multiplied by sigmoid(W_gate h), channel by channel, before the output Linear."""

    def __init__(self, width: int, heads: int, kv_heads: int, eps: float = 1e-5):
        super().__init__(width, heads, kv_heads, bias=False, out=False)
        self.norm_q, self.norm_k = RMSNorm(self.d, eps=eps), RMSNorm(self.d, eps=eps)
        self.gate = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, rope: Rope | None = None) -> Tensor:
        q, k, v = self.project_qkv(h)
        return self.out(attention(*apply_rope(q, k, rope), v) * self.gate(h).sigmoid())


class Block(nn.Module):
    """x (B, T, D), text first, shared vectors (B, 1, 6 D) -> (B, T, D); rotary cos and sin (T, d/2)."""

    UPSTREAM: ClassVar = {
        "to_modulation.table": "scale_shift_table",
        "norm_attn": "norm1",
        **diffusers_attention("attn", "attn"),
        "attn.gate": "attn.to_gate",
        "norm_mlp": "norm2",
        "mlp.up": ("ff.gate", "ff.up"),
        "mlp.down": "ff.down",
    }

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, eps: float = 1e-5):
        super().__init__()
        self.to_modulation = zero_table(width, 2, ORDER)
        self.norm_attn = RMSNorm(width, eps=eps)
        self.attn = Attention(width, heads, kv_heads, eps)
        self.norm_mlp = RMSNorm(width, eps=eps)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Tensor, shared: Tensor, rope: Rope | None = None) -> Tensor:
        attn, mlp = self.to_modulation(shared)
        x = gated(x, self.attn(modulate(self.norm_attn(x), attn), rope), attn.gate)  # (B, T, D)
        return gated(x, self.mlp(modulate(self.norm_mlp(x), mlp)), mlp.gate)


class Output(nn.Module):
    """x (B, T, D), c (B, 1, D) -> (B, T, out): scale and shift are c itself plus a table, with no Linear."""

    UPSTREAM: ClassVar = {"to_modulation.table": "scale_shift_table", "norm": "norm", "linear": "linear"}

    def __init__(self, width: int, out: int, eps: float = 1e-5):
        super().__init__()
        self.to_modulation = zero_table(width, 1, ("scale", "shift"))
        self.norm = RMSNorm(width, eps=eps)
        self.linear = nn.Linear(width, out)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (m,) = self.to_modulation(c.repeat(1, 1, 2))
        return self.linear(modulate(self.norm(x), m))


class Stack(nn.Module):
    """x (B, T, D), ctx (B, S, D), c (B, D), rotary cos and sin (S + T, d/2) -> the output tokens (B, T, out)."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, depth: int, out: int, eps: float = 1e-5):
        super().__init__()
        self.to_modulation = shared_modulation(width)
        self.blocks = nn.ModuleList(Block(width, heads, kv_heads, hidden, eps) for _ in range(depth))
        self.output = Output(width, out, eps)

    def forward(self, x: Tensor, ctx: Tensor, c: Tensor, rope: Rope | None = None) -> Tensor:
        c = c.unsqueeze(1)
        shared = self.to_modulation(c)  # (B, 1, 6 D)
        both = torch.cat([ctx, x], dim=1)  # (B, S + T, D)
        for block in self.blocks:
            both = block(both, shared, rope)
        return self.output(both[:, ctx.shape[1] :], c)

    def upstream(self) -> Names:
        output = prefixed("output", "final_layer", Output.UPSTREAM)
        blocks = numbered("blocks", "transformer_blocks", len(self.blocks), Block.UPSTREAM)
        return {"to_modulation.1": "time_mod_proj"} | output | blocks


SPEC = Spec(
    title="Krea 2",
    repository="huggingface/diffusers, transformer_krea2.py",
    facts=Facts(
        norm="RMSNorm",
        affine=True,
        act="GELU",
        order=2 * ORDER,
        qk_norm="RMSNorm",
        shared="one Linear; a table in each block",
        text="tokens in the same stream",
        zero="tables and norm weights, not the Linear",
    ),
    build=lambda width=16, heads=2: Block(width, heads, max(1, heads // 4), 8 * width // 3),
    inputs=("x", "shared"),
    width=6144,
    heads=48,
    full=from_diffusers("Krea2Transformer2DModel"),
    modulation=("time_mod_proj", "scale_shift_table"),
    readers={"time_mod_proj": 28},
)
