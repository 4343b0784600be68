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
from adaln_lab.norms import ToModulation, gated, layer_norm, modulate


class JointAttention(nn.Module):
    """h (B, T, D), h_ctx (B, S, D) -> what each stream hears; q, k, v of both, one softmax, ctx first. `ctx_out=False`:
    nobody reads what ctx hears."""

    def __init__(self, width: int, heads: int, bias: bool = True, qk_norm: bool = False, ctx_out: bool = True):
        super().__init__()
        qk_eps = 1e-6 if qk_norm else None
        self.x = Attention(width, heads, bias=bias, qk_eps=qk_eps)
        self.ctx = Attention(width, heads, bias=bias, qk_eps=qk_eps, out=True if ctx_out else None)

    def forward(self, h: Tensor, h_ctx: Tensor, rope: Rope | None = None) -> tuple[Tensor, Tensor | None]:
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(self.ctx.ask(h_ctx), self.x.ask(h), strict=True))
        from_ctx, from_x = mix(*turned(q, k, rope), v).split([h_ctx.shape[1], h.shape[1]], dim=1)
        return self.x.out(from_x), None if self.ctx.out is None else self.ctx.out(from_ctx)


def _names(ours: str, theirs: str) -> dict[str, str]:
    """One stream's layers in the original."""
    attention = {"qkv": "qkv", "norm_q": "ln_q", "norm_k": "ln_k", "out": "proj"}
    rest = {"to_modulation.linear": "adaLN_modulation.1", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
    return (
        inside(f"attn.{ours}", f"{theirs}.attn", attention)
        | inside(f"{ours}.attn2", f"{theirs}.attn2", attention)
        | inside(ours, theirs, rest)
    )


class Stream(nn.Module):
    """One stream's own layers beside the joint attention. `asked_only`: it goes no further than q, k, v."""

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
        order = ("shift", "scale") if asked_only else ("shift", "scale", "gate")
        branches = 1 if asked_only else 3 if dual else 2  # attention, MLP, second attention
        self.to_modulation = ToModulation(width, width, branches, order, zero=False)
        self.attn2 = Attention(width, heads, bias=bias, qk_eps=1e-6 if qk_norm else None) if dual else None
        self.mlp = None if asked_only else MLP(width, mlp_ratio)


class JointBlock(nn.Module):
    """x (B, T, D), ctx (B, S, D), c (B, D) -> both; ctx is None where the text is only asked."""

    UPSTREAM: ClassVar = _names("x", "x_block") | _names("ctx", "context_block")
    DIFFUSERS: ClassVar = {  # JointTransformerBlock
        "x.to_modulation.linear": "norm1.linear",
        "ctx.to_modulation.linear": "norm1_context.linear",
        "attn.x.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "attn.x.norm_q": "attn.norm_q",
        "attn.x.norm_k": "attn.norm_k",
        "attn.x.out": "attn.to_out.0",
        "attn.ctx.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "attn.ctx.norm_q": "attn.norm_added_q",
        "attn.ctx.norm_k": "attn.norm_added_k",
        "attn.ctx.out": "attn.to_add_out",
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
        self.attn = JointAttention(width, heads, bias, qk_norm, ctx_out=not ctx_asked_only)
        self.x = Stream(width, heads, mlp_ratio, bias, qk_norm, dual=dual)
        self.ctx = Stream(width, heads, mlp_ratio, bias, qk_norm, asked_only=ctx_asked_only)

    def forward(self, x: Tensor, ctx: Tensor, c: Tensor, rope: Rope | None = None) -> tuple[Tensor, Tensor | None]:
        (attn, *more), (ctx_attn, *ctx_more) = self.x.to_modulation(c), self.ctx.to_modulation(c)
        h = layer_norm(x)
        heard, ctx_heard = self.attn(modulate(h, attn), modulate(layer_norm(ctx), ctx_attn), rope)
        x = gated(x, heard, attn.gate)  # (B, T, D)
        if self.x.attn2 is not None:
            x = gated(x, self.x.attn2(modulate(h, more[1])), more[1].gate)
        x = gated(x, self.x.mlp(modulate(layer_norm(x), more[0])), more[0].gate)
        if self.ctx.mlp is None:
            return x, None
        ctx = gated(ctx, ctx_heard, ctx_attn.gate)  # (B, S, D)
        ctx = gated(ctx, self.ctx.mlp(modulate(layer_norm(ctx), ctx_more[0])), ctx_more[0].gate)
        return x, ctx
