"""Flux.1: first blocks of two streams, as SD3's, then blocks of one stream with attention and MLP in parallel.

    single:   n = LN(x) (1 + s) + b;   out = x + g * W_2 [Attn(q, k, v of n); GELU(W_m n)]      3 vectors, one gate

c = t_emb + guidance_emb (dev) + MLP(pooled CLIP text). Q and K are normalised and carry rotary positions, text first.
black-forest-labs/flux. B batch, T tokens, D width, d width of a head. Differs from upstream in: nothing.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks.parts import Rope, apply_rope, attention
from adaln_lab.blocks.sd3 import JointBlock
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.norms import ToModulation, gated, layer_norm, modulate


def _names(ours: str, theirs: str) -> dict[str, str]:
    """One stream's layers in the original."""
    return {
        f"{ours}.to_modulation.linear": f"{theirs}_mod.lin",
        f"attn.{ours}.qkv": f"{theirs}_attn.qkv",
        f"attn.{ours}.norm_q.weight": f"{theirs}_attn.norm.query_norm.scale",
        f"attn.{ours}.norm_k.weight": f"{theirs}_attn.norm.key_norm.scale",
        f"attn.{ours}.out": f"{theirs}_attn.proj",
        f"{ours}.mlp.up": f"{theirs}_mlp.0",
        f"{ours}.mlp.down": f"{theirs}_mlp.2",
    }


class DoubleBlock(JointBlock):
    """SD3's joint block, Q and K normalised, with rotary positions: cos and sin (S + T, d/2), text first."""

    UPSTREAM: ClassVar = _names("x", "img") | _names("ctx", "txt")
    # JointBlock.DIFFUSERS are diffusers' names here, too: FluxTransformerBlock

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, bias: bool = True):
        super().__init__(width, heads, mlp_ratio, bias, qk_norm=True)


class SingleBlock(nn.Module):
    """x (B, S + T, D), text first, c (B, D) -> (B, S + T, D): attention and MLP in parallel, one gate for both."""

    UPSTREAM: ClassVar = {
        "to_modulation.linear": "modulation.lin",
        "linear1": "linear1",
        "norm_q.weight": "norm.query_norm.scale",
        "norm_k.weight": "norm.key_norm.scale",
        "linear2": "linear2",
    }

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.heads, self.sizes = heads, [width, width, width, int(width * mlp_ratio)]  # of q, k, v, MLP
        self.to_modulation = ToModulation(width, width, branches=1, zero=False)
        self.linear1 = nn.Linear(width, sum(self.sizes))
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6)
        self.linear2 = nn.Linear(width + self.sizes[-1], width)

    def forward(self, x: Tensor, c: Tensor, rope: Rope | None = None) -> Tensor:
        (m,) = self.to_modulation(c)
        *qkv, up = self.linear1(modulate(layer_norm(x), m)).split(self.sizes, dim=-1)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in qkv)  # (B, H, T, d)
        attn = attention(*apply_rope(self.norm_q(q), self.norm_k(k), rope), v)
        branch = self.linear2(torch.cat([attn, F.gelu(up, approximate="tanh")], dim=-1))
        return gated(x, branch, m.gate)


SPEC = Spec(
    title="Flux.1 (dev)",
    repository="black-forest-labs/flux, src/flux/modules/layers.py",
    facts=Facts(
        c="time + guidance + pooled text",
        order=("shift", "scale", "gate"),
        qk_norm="RMSNorm",
        text="a stream of its own, then in the same one",
    ),
    build=lambda width=16, heads=2: SingleBlock(width, heads),
    inputs=("x", "c"),
    width=3072,
    heads=24,
    full=from_diffusers("FluxTransformer2DModel", guidance_embeds=True),
    modulation=(".norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear"),
)
