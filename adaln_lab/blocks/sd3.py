"""Stable Diffusion 3 and 3.5: two streams, image and text, each with its own weights, in one attention.

    for each stream a:   [b1, s1, g1, b2, s2, g2]_a = W_a SiLU(c) + bias_a
                         h_a = LN(x_a) (1 + s1_a) + b1_a;   q, k, v of both streams joined, one softmax, split again
                         x_a <- x_a + g1_a * P_a(attn_a);   x_a <- x_a + g2_a * MLP_a(LN(x_a) (1 + s2_a) + b2_a)

c = t_emb + MLP(pooled CLIP text). SD3.5 normalises q and k; its medium size adds, in the first blocks, a second
attention among image tokens only, with three more vectors. The text of the last block is only asked: two vectors.
SD3 (arXiv 2403.03206), Sec. 4. B batch, T image tokens, S text tokens, D width. Differs from upstream in: nothing.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from adaln_lab.blocks.parts import Attention, Rope, mix, turned
from adaln_lab.blocks.upstream import Swapped, inside
from adaln_lab.layers import MLP
from adaln_lab.norms import ToModulation, layer_norm, modulate
from adaln_lab.residual import gated

_STREAM = {
    "to_modulation.linear": "adaLN_modulation.1",
    "attn.qkv": "attn.qkv",
    "attn.norm_q": "attn.ln_q",
    "attn.norm_k": "attn.ln_k",
    "attn.out": "attn.proj",
    "attn2.qkv": "attn2.qkv",
    "attn2.norm_q": "attn2.ln_q",
    "attn2.norm_k": "attn2.ln_k",
    "attn2.out": "attn2.proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


class Stream(nn.Module):
    """One stream's own layers. `asked_only`: it gives q, k, v and goes no further. `dual`: a second attention."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        bias: bool = True,
        qk_norm: bool = False,
        asked_only: bool = False,
        dual: bool = False,
    ):
        super().__init__()
        qk_eps = 1e-6 if qk_norm else None
        order = ("shift", "scale") if asked_only else ("shift", "scale", "gate")
        branches = 1 if asked_only else 3 if dual else 2  # attention, MLP, second attention
        self.to_modulation = ToModulation(width, width, branches, order, zero=False)
        self.attn = Attention(width, heads, bias=bias, qk_eps=qk_eps, out=None if asked_only else True)
        self.attn2 = Attention(width, heads, bias=bias, qk_eps=qk_eps) if dual else None
        self.mlp = None if asked_only else MLP(width, mlp_ratio)


class JointBlock(nn.Module):
    """x (B, T, D), ctx (B, S, D), c (B, D) -> both; ctx is None where the text is only asked."""

    UPSTREAM: ClassVar = inside("x", "x_block", _STREAM) | inside("ctx", "context_block", _STREAM)
    DIFFUSERS: ClassVar = {  # JointTransformerBlock
        "x.to_modulation.linear": "norm1.linear",
        "ctx.to_modulation.linear": "norm1_context.linear",
        "x.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "x.attn.norm_q": "attn.norm_q",
        "x.attn.norm_k": "attn.norm_k",
        "x.attn.out": "attn.to_out.0",
        "ctx.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "ctx.attn.norm_q": "attn.norm_added_q",
        "ctx.attn.norm_k": "attn.norm_added_k",
        "ctx.attn.out": "attn.to_add_out",
        "x.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
        "x.attn2.norm_q": "attn2.norm_q",
        "x.attn2.norm_k": "attn2.norm_k",
        "x.attn2.out": "attn2.to_out.0",
        "x.mlp.up": "ff.net.0.proj",
        "x.mlp.down": "ff.net.2",
        "ctx.mlp.up": "ff_context.net.0.proj",
        "ctx.mlp.down": "ff_context.net.2",
    }
    DIFFUSERS_LAST: ClassVar = DIFFUSERS | {"ctx.to_modulation.linear": Swapped("norm1_context.linear")}

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        bias: bool = True,
        qk_norm: bool = False,
        ctx_asked_only: bool = False,
        dual: bool = False,
    ):
        super().__init__()
        self.x = Stream(width, heads, mlp_ratio, bias, qk_norm, dual=dual)
        self.ctx = Stream(width, heads, mlp_ratio, bias, qk_norm, asked_only=ctx_asked_only)

    def forward(self, x: Tensor, ctx: Tensor, c: Tensor, rope: Rope | None = None) -> tuple[Tensor, Tensor | None]:
        (attn, *more), (ctx_attn, *ctx_more) = self.x.to_modulation(c), self.ctx.to_modulation(c)
        h = layer_norm(x)
        asked = self.ctx.attn.ask(modulate(layer_norm(ctx), ctx_attn)), self.x.attn.ask(modulate(h, attn))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*asked, strict=True))  # (B, H, S + T, d)
        from_ctx, from_x = mix(*turned(q, k, rope), v).split([ctx.shape[1], x.shape[1]], dim=1)

        x = gated(x, self.x.attn.out(from_x), attn.gate)  # (B, T, D)
        if self.x.attn2 is not None:
            x = gated(x, self.x.attn2(modulate(h, more[1])), more[1].gate)
        x = gated(x, self.x.mlp(modulate(layer_norm(x), more[0])), more[0].gate)
        if self.ctx.mlp is None:
            return x, None
        ctx = gated(ctx, self.ctx.attn.out(from_ctx), ctx_attn.gate)  # (B, S, D)
        ctx = gated(ctx, self.ctx.mlp(modulate(layer_norm(ctx), ctx_more[0])), ctx_more[0].gate)
        return x, ctx
