"""ERNIE-Image: DiT's recipe, zeros included, with one modulation Linear for all layers.

    [b1, s1, g1, b2, s2, g2] = W SiLU(c) + bias, once for the model, zero at the start;   c = t_emb
    u = x + g1 * Attn(RMS_1(x) (1 + s1) + b1);   out = u + g2 * GEGLU(RMS_2(u) (1 + s2) + b2)
    GEGLU(h) = W_o [W_u h * GELU(W_g h)]        the exact GELU, not the tanh form

Text tokens follow the image tokens in one sequence. The output layer has no SiLU, and LN where the blocks have RMS.
Rotary positions: channel j turns by angle j // 2, but its partner is k + d/2, which turns by another angle. So the map
is no rotation: it changes |q|, and q k depends on more than relative positions.
huggingface/diffusers, transformer_ernie_image.py. B batch, T tokens, D width, d of a head.
Differs from upstream in: no padding mask.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks.parts import Attention
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import Names, diffusers_attention, inside, numbered
from adaln_lab.layers import zero_linear
from adaln_lab.norms import gated, layer_norm, modulate, split_vectors

ORDER = ("shift", "scale", "gate")


def shared_modulation(width: int) -> nn.Sequential:
    """c (..., D) -> six vectors side by side (..., 6 D), for all layers."""
    return nn.Sequential(nn.SiLU(), zero_linear(width, 6 * width))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, d), cos and sin (T, d): (p, q) -> (p cos a - q sin a, q cos b + p sin b), a that of p, b of q."""
    p, q = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-q, p], dim=-1) * sin


class GEGLU(nn.Module):
    """(B, T, D) -> (B, T, D), with `hidden` gated channels in between."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.down(self.up(h) * F.gelu(self.gate(h)))


class Block(nn.Module):
    """x (B, T, D), image first, shared vectors (B, 1, 6 D) -> (B, T, D); angle (T, d/2)."""

    UPSTREAM: ClassVar = {
        "norm_attn": "adaLN_sa_ln",
        **diffusers_attention("attn", "self_attention"),
        "norm_mlp": "adaLN_mlp_ln",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.linear_fc2",
    }

    def __init__(self, width: int, heads: int, hidden: int, eps: float = 1e-6):
        super().__init__()
        self.norm_attn = nn.RMSNorm(width, eps=eps)
        self.attn = Attention(width, heads, bias=False, out=False, qk_eps=eps, rotate=turn)
        self.norm_mlp = nn.RMSNorm(width, eps=eps)
        self.mlp = GEGLU(width, hidden)

    def forward(self, x: Tensor, shared: Tensor, angle: Tensor | None = None) -> Tensor:
        attn, mlp = split_vectors(shared, 2, ORDER)
        rope = None
        if angle is not None:
            angle = angle.repeat_interleave(2, dim=-1)  # (T, d): neighbours have one angle
            rope = angle.cos(), angle.sin()
        x = gated(x, self.attn(modulate(self.norm_attn(x), attn), rope), attn.gate)  # (B, T, D)
        return gated(x, self.mlp(modulate(self.norm_mlp(x), mlp)), mlp.gate)


class Output(nn.Module):
    """x (B, T, D), c (B, 1, D) -> (B, T, out): LN, scale and shift of c as it is, Linear."""

    UPSTREAM: ClassVar = {"to_modulation": "final_norm.linear", "linear": "final_linear"}

    def __init__(self, width: int, out: int):
        super().__init__()
        self.to_modulation = nn.Linear(width, 2 * width)
        self.linear = zero_linear(width, out)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (m,) = split_vectors(self.to_modulation(c), 1, ("scale", "shift"))
        return self.linear(modulate(layer_norm(x), m))


class Stack(nn.Module):
    """x (B, T, D), ctx (B, S, D), c (B, D), angle (T + S, d/2) -> the output tokens (B, T, out)."""

    def __init__(self, width: int, heads: int, hidden: int, depth: int, out: int, eps: float = 1e-6):
        super().__init__()
        self.to_modulation = shared_modulation(width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, eps) for _ in range(depth))
        self.output = Output(width, out)

    def forward(self, x: Tensor, ctx: Tensor, c: Tensor, angle: Tensor | None = None) -> Tensor:
        c = c.unsqueeze(1)
        shared = self.to_modulation(c)  # (B, 1, 6 D)
        both = torch.cat([x, ctx], dim=1)  # (B, T + S, D)
        for block in self.blocks:
            both = block(both, shared, angle)
        return self.output(both[:, : x.shape[1]], c)

    def upstream(self) -> Names:
        blocks = numbered("blocks", "layers", len(self.blocks), Block.UPSTREAM)
        return {"to_modulation.1": "adaLN_modulation.1"} | inside("output", Output.UPSTREAM) | blocks


SPEC = Spec(
    title="ERNIE-Image",
    repository="huggingface/diffusers, transformer_ernie_image.py",
    facts=Facts(
        norm="RMSNorm",
        affine=True,
        qk_norm="RMSNorm",
        shared="one Linear for the whole model",
        text="tokens in the same stream",
        zero="modulation, the last Linear",
    ),
    build=lambda width=16, heads=2: Block(width, heads, 3 * width),
    inputs=("x", "shared"),
    width=4096,
    heads=32,
    full=from_diffusers(
        "ErnieImageTransformer2DModel",
        hidden_size=4096,
        num_attention_heads=32,
        num_layers=36,
        ffn_hidden_size=12288,
        text_in_dim=3072,
    ),
    modulation=("adaLN_modulation", "final_norm.linear"),
    readers={"adaLN_modulation": 36},
)
