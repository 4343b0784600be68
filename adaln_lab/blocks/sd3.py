"""Stable Diffusion 3 and 3.5: two streams, image and text, each with its own weights, in one attention.

    for each stream a:   [b1, s1, g1, b2, s2, g2]_a = W_a SiLU(c) + bias_a
                         h_a = LN(x_a) (1 + s1_a) + b1_a;   q, k, v of both streams joined, one softmax, split again
                         x_a <- x_a + g1_a * P_a(attn_a);   x_a <- x_a + g2_a * MLP_a(LN(x_a) (1 + s2_a) + b2_a)

c = t_emb + MLP(pooled CLIP text). SD3.5 normalises q and k; its medium size adds, in the first blocks, a second
attention among image tokens only, with three more vectors. In the last block the text stream only gives q, k, v
(`pre_only`): two vectors.
SD3 (arXiv 2403.03206), Sec. 4. B batch, T image tokens, S text tokens, D width. Differs from upstream in: nothing.
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from adaln_lab.blocks.parts import Attention, Rope, apply_rope, attention
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import diffusers_attention, prefixed
from adaln_lab.layers import MLP
from adaln_lab.norms import ToModulation, gated, layer_norm, modulate


class JointAttention(nn.Module):
    """h (B, T, D), h_ctx (B, S, D) -> the update of each stream: q, k, v of both, ctx first, in one softmax.

    Without an output Linear of ctx its update is None.
    """

    def __init__(self, x: Attention, ctx: Attention):
        super().__init__()
        self.x, self.ctx = x, ctx

    def forward(self, h: Tensor, h_ctx: Tensor, rope: Rope | None = None) -> tuple[Tensor, Tensor | None]:
        streams = self.ctx.project_qkv(h_ctx), self.x.project_qkv(h)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*streams, strict=True))  # (B, H, S + T, d)
        ctx, x = attention(*apply_rope(q, k, rope), v).split([h_ctx.shape[1], h.shape[1]], dim=1)
        return self.x.out(x), None if self.ctx.out is None else self.ctx.out(ctx)


def _names(ours: str, theirs: str) -> dict[str, str]:
    """One stream's layers in the original."""
    attn = {"qkv": "qkv", "norm_q": "ln_q", "norm_k": "ln_k", "out": "proj"}
    rest = {"to_modulation.linear": "adaLN_modulation.1", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
    return (
        prefixed(f"attn.{ours}", f"{theirs}.attn", attn)
        | prefixed(f"{ours}.attn2", f"{theirs}.attn2", attn)
        | prefixed(ours, theirs, rest)
    )


class Stream(nn.Module):
    """One stream's own layers beside the joint attention. `pre_only`: it only gives q, k, v and is not updated."""

    def __init__(self, width: int, mlp_ratio: float, attn2: Attention | None = None, pre_only: bool = False):
        super().__init__()
        order = ("shift", "scale") if pre_only else ("shift", "scale", "gate")
        branches = 1 if pre_only else 2 if attn2 is None else 3  # attention, MLP, second attention
        self.to_modulation = ToModulation(width, width, branches, order, zero=False)
        self.attn2 = attn2
        self.mlp = None if pre_only else MLP(width, mlp_ratio)


class JointBlock(nn.Module):
    """x (B, T, D), ctx (B, S, D), c (B, D) -> both; ctx is None with `ctx_pre_only`."""

    UPSTREAM: ClassVar = _names("x", "x_block") | _names("ctx", "context_block")
    DIFFUSERS: ClassVar = {  # JointTransformerBlock
        "x.to_modulation.linear": "norm1.linear",
        "ctx.to_modulation.linear": "norm1_context.linear",
        **diffusers_attention("attn.x", "attn"),
        "attn.ctx.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "attn.ctx.norm_q": "attn.norm_added_q",
        "attn.ctx.norm_k": "attn.norm_added_k",
        "attn.ctx.out": "attn.to_add_out",
        **diffusers_attention("x.attn2", "attn2"),
        "x.mlp.up": "ff.net.0.proj",
        "x.mlp.down": "ff.net.2",
        "ctx.mlp.up": "ff_context.net.0.proj",
        "ctx.mlp.down": "ff_context.net.2",
    }

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        bias: bool = True,
        qk_norm: bool = False,
        ctx_pre_only: bool = False,
        dual: bool = False,
    ):
        super().__init__()
        make = partial(Attention, width, heads, bias=bias, qk_eps=1e-6 if qk_norm else None)
        self.attn = JointAttention(make(), make(out=None if ctx_pre_only else True))
        self.x = Stream(width, mlp_ratio, make() if dual else None)
        self.ctx = Stream(width, mlp_ratio, pre_only=ctx_pre_only)

    def forward(self, x: Tensor, ctx: Tensor, c: Tensor, rope: Rope | None = None) -> tuple[Tensor, Tensor | None]:
        attn, mlp, *attn2 = self.x.to_modulation(c)
        ctx_attn, *ctx_mlp = self.ctx.to_modulation(c)
        h = layer_norm(x)
        update, ctx_update = self.attn(modulate(h, attn), modulate(layer_norm(ctx), ctx_attn), rope)
        x = gated(x, update, attn.gate)  # (B, T, D)
        if attn2:
            x = gated(x, self.x.attn2(modulate(h, attn2[0])), attn2[0].gate)
        x = gated(x, self.x.mlp(modulate(layer_norm(x), mlp)), mlp.gate)
        if not ctx_mlp:
            return x, None
        ctx = gated(ctx, ctx_update, ctx_attn.gate)  # (B, S, D)
        ctx = gated(ctx, self.ctx.mlp(modulate(layer_norm(ctx), ctx_mlp[0])), ctx_mlp[0].gate)
        return x, ctx


SPEC = Spec(
    title="Stable Diffusion 3 (medium)",
    repository="Stability-AI/sd3.5, mmditx.py",
    facts=Facts(c="time + pooled text", qk_norm="RMSNorm from 3.5 on", text="a stream of its own"),
    build=lambda width=16, heads=2: JointBlock(width, heads),
    inputs=("x", "ctx", "c"),
    width=1536,
    heads=24,
    full=from_diffusers(
        "SD3Transformer2DModel",
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    ),
    modulation=("norm1.linear", "norm1_context.linear", "norm_out.linear"),
)
