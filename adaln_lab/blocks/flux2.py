"""FLUX.2: three modulation Linears serve all 56 blocks; SwiGLU for the MLP; no bias in the whole model.

    [b1, s1, g1, b2, s2, g2]_a = W_a SiLU(c),  a in {img, txt};   [b, s, g] = W SiLU(c)      once for the model
    double:  SD3's block with the vectors of its stream, and SwiGLU
    single:  n = LN(x) (1 + s) + b;   q | k | v | gate | value = W_1 n
             out = x + g * W_2 [Attn(q, k, v); SiLU(gate) * value]

c = t_emb + guidance_emb; no pooled text. Q and K are normalised and carry rotary positions, text first. Blocks own no
modulation: all blocks of a kind get the same vectors. The output layer has the scale first.
black-forest-labs/flux2; diffusers has the same blocks. B batch, T image tokens, S text tokens, D width, d of a head.
Differs from upstream in: no cache for the keys and values of reference images.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks.parts import Attention, Rope, SwiGLU, apply_rope, attention
from adaln_lab.blocks.sd3 import JointAttention
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import Names, diffusers_attention, prefixed
from adaln_lab.norms import gated, layer_norm, modulate, split_vectors

ORDER = ("shift", "scale", "gate")


def shared_modulation(width: int, vectors: int) -> nn.Sequential:
    """c (..., D) -> vectors side by side (..., n D), for all blocks of a kind."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, vectors * width, bias=False))


class DoubleBlock(nn.Module):
    """x (B, T, D), ctx (B, S, D), the shared vectors of each (B, 1, 6 D) -> both; rotary cos and sin (S + T, d/2)."""

    UPSTREAM: ClassVar = {
        **diffusers_attention("attn.x", "attn"),
        "attn.ctx.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "attn.ctx.norm_q": "attn.norm_added_q",
        "attn.ctx.norm_k": "attn.norm_added_k",
        "attn.ctx.out": "attn.to_add_out",
        "mlp.up": "ff.linear_in",
        "mlp.down": "ff.linear_out",
        "ctx_mlp.up": "ff_context.linear_in",
        "ctx_mlp.down": "ff_context.linear_out",
    }

    def __init__(self, width: int, heads: int, head_width: int, hidden: int):
        super().__init__()
        x, ctx = (Attention(width, heads, head_width=head_width, bias=False, out=False, qk_eps=1e-6) for _ in range(2))
        self.attn = JointAttention(x, ctx)
        self.mlp = SwiGLU(width, hidden)
        self.ctx_mlp = SwiGLU(width, hidden)

    def forward(
        self, x: Tensor, ctx: Tensor, shared: Tensor, ctx_shared: Tensor, rope: Rope | None = None
    ) -> tuple[Tensor, Tensor]:
        attn, mlp = split_vectors(shared, 2, ORDER)
        ctx_attn, ctx_mlp = split_vectors(ctx_shared, 2, ORDER)
        h, h_ctx = modulate(layer_norm(x), attn), modulate(layer_norm(ctx), ctx_attn)
        update, ctx_update = self.attn(h, h_ctx, rope)
        x = gated(x, update, attn.gate)  # (B, T, D)
        x = gated(x, self.mlp(modulate(layer_norm(x), mlp)), mlp.gate)
        ctx = gated(ctx, ctx_update, ctx_attn.gate)  # (B, S, D)
        ctx = gated(ctx, self.ctx_mlp(modulate(layer_norm(ctx), ctx_mlp)), ctx_mlp.gate)
        return x, ctx


class SingleBlock(nn.Module):
    """x (B, S + T, D), text first, shared vectors (B, 1, 3 D) -> (B, S + T, D): attention and MLP side by side."""

    UPSTREAM: ClassVar = {
        "linear1": "attn.to_qkv_mlp_proj",
        "norm_q": "attn.norm_q",
        "norm_k": "attn.norm_k",
        "linear2": "attn.to_out",
    }

    def __init__(self, width: int, heads: int, head_width: int, hidden: int):
        super().__init__()
        self.heads, self.sizes = heads, [*3 * [heads * head_width], hidden, hidden]  # of q, k, v, gate, value
        self.linear1 = nn.Linear(width, sum(self.sizes), bias=False)
        self.norm_q = nn.RMSNorm(head_width, eps=1e-6)
        self.norm_k = nn.RMSNorm(head_width, eps=1e-6)
        self.linear2 = nn.Linear(heads * head_width + hidden, width, bias=False)

    def forward(self, x: Tensor, shared: Tensor, rope: Rope | None = None) -> Tensor:
        (m,) = split_vectors(shared, 1, ORDER)
        *qkv, gate, value = self.linear1(modulate(layer_norm(x), m)).split(self.sizes, dim=-1)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in qkv)  # (B, H, T, d)
        attn = attention(*apply_rope(self.norm_q(q), self.norm_k(k), rope), v)
        return gated(x, self.linear2(torch.cat([attn, F.silu(gate) * value], dim=-1)), m.gate)


class Output(nn.Module):
    """x (B, T, D), c (B, 1, D) -> (B, T, out): LN, scale and shift, Linear."""

    UPSTREAM: ClassVar = {"to_modulation.1": "norm_out.linear", "linear": "proj_out"}

    def __init__(self, width: int, out: int):
        super().__init__()
        self.to_modulation = shared_modulation(width, 2)
        self.linear = nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (m,) = split_vectors(self.to_modulation(c), 1, ("scale", "shift"))
        return self.linear(modulate(layer_norm(x), m))


class Stack(nn.Module):
    """x (B, T, D), ctx (B, S, D), c (B, D), rotary cos and sin (S + T, d/2) -> the output tokens (B, T, out)."""

    UPSTREAM: ClassVar = {
        "to_img.1": "double_stream_modulation_img.linear",
        "to_txt.1": "double_stream_modulation_txt.linear",
        "to_single.1": "single_stream_modulation.linear",
    }

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, double: int, single: int, out: int):
        super().__init__()
        self.to_img, self.to_txt = shared_modulation(width, 6), shared_modulation(width, 6)
        self.to_single = shared_modulation(width, 3)
        self.double_blocks = nn.ModuleList(DoubleBlock(width, heads, head_width, hidden) for _ in range(double))
        self.single_blocks = nn.ModuleList(SingleBlock(width, heads, head_width, hidden) for _ in range(single))
        self.output = Output(width, out)

    def forward(self, x: Tensor, ctx: Tensor, c: Tensor, rope: Rope | None = None) -> Tensor:
        c = c.unsqueeze(1)  # (B, 1, D)
        img, txt, one = self.to_img(c), self.to_txt(c), self.to_single(c)  # all modulation of the 56 blocks
        for block in self.double_blocks:
            x, ctx = block(x, ctx, img, txt, rope)
        both = torch.cat([ctx, x], dim=1)  # (B, S + T, D)
        for block in self.single_blocks:
            both = block(both, one, rope)
        return self.output(both[:, ctx.shape[1] :], c)

    def upstream(self) -> Names:
        names = self.UPSTREAM | {f"output.{mine}": theirs for mine, theirs in Output.UPSTREAM.items()}
        for i in range(len(self.double_blocks)):
            names |= prefixed(f"double_blocks.{i}", f"transformer_blocks.{i}", DoubleBlock.UPSTREAM)
        for i in range(len(self.single_blocks)):
            names |= prefixed(f"single_blocks.{i}", f"single_transformer_blocks.{i}", SingleBlock.UPSTREAM)
        return names


SPEC = Spec(
    title="FLUX.2 (dev)",
    repository="huggingface/diffusers, transformer_flux2.py",
    facts=Facts(
        c="time + guidance",
        order=ORDER,
        qk_norm="RMSNorm",
        shared="three Linears for the whole model",
        text="a stream of its own, then in the same one",
        zero="nothing",
    ),
    build=lambda width=16, heads=2: SingleBlock(width, heads, width // heads, 3 * width),
    inputs=("x", "shared"),
    width=6144,
    heads=48,
    full=from_diffusers("Flux2Transformer2DModel"),
    modulation=("stream_modulation", "norm_out.linear"),
    readers={"double_stream_modulation": 8, "single_stream_modulation": 48},
)
