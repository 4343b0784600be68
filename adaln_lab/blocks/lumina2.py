"""Lumina-Image 2.0: no shift, bounded gates, and a norm on both sides of each branch.

    [s1, g1, s2, g2] = W SiLU(c) + bias,   c = t_emb, at most 1,024 wide
    u = x + tanh(g1) * RMS_2(Attn(RMS_1(x) (1 + s1)));   out = u + tanh(g2) * RMS_4(SwiGLU(RMS_3(u) (1 + s2)))

A branch ends in a norm, so |update| <= |tanh g| |w| sqrt(D) for each number: the gate bounds the update. Heads are
grouped, Q and K normalised. Refiner blocks, for the text, have no modulation and no gates. Final layer: only a scale.
Lumina-Image 2.0 (arXiv 2503.21758); Alpha-VLLM/Lumina-Image-2.0. B batch, T tokens, D width, C width of c.
Differs from upstream in: no padding mask.
"""

from math import ceil
from typing import ClassVar

from torch import Tensor, nn

from adaln_lab.blocks.parts import Attention, Rope, SwiGLU
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.norms import Modulation, ToModulation, gated, modulate


def hidden_width(width: int, multiple_of: int = 256, multiplier: float | None = None) -> int:
    """Of the SwiGLU: 4 D, times a multiplier, rounded up to a multiple."""
    return multiple_of * ceil(int((multiplier or 1) * 4 * width) / multiple_of)


class Block(nn.Module):
    """x (B, T, D), c (B, C) -> (B, T, D); c None where c_width is None: a refiner. Rotary cos and sin (B, T, d/2)."""

    silu = True  # before the Linear of the modulation
    qk_eps = 1e-6  # diffusers has 1e-5 here

    UPSTREAM: ClassVar = {
        "to_modulation.linear": "adaLN_modulation.1",
        "pre_norm_attn": "attention_norm1",
        "attn.qkv": "attention.qkv",
        "attn.norm_q": "attention.q_norm",
        "attn.norm_k": "attention.k_norm",
        "attn.out": "attention.out",
        "post_norm_attn": "attention_norm2",
        "pre_norm_mlp": "ffn_norm1",
        "mlp.up": ("feed_forward.w1", "feed_forward.w3"),
        "mlp.down": "feed_forward.w2",
        "post_norm_mlp": "ffn_norm2",
    }

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        hidden: int,
        c_width: int | None,
        eps: float = 1e-5,
        qk_norm: bool = True,
    ):
        super().__init__()
        self.to_modulation = None
        if c_width is not None:
            self.to_modulation = ToModulation(c_width, width, order=("scale", "gate"), silu=self.silu)
        qk_eps = self.qk_eps if qk_norm else None
        self.pre_norm_attn = nn.RMSNorm(width, eps=eps)
        self.attn = Attention(width, heads, kv_heads, bias=False, out=False, qk_eps=qk_eps)
        self.post_norm_attn = nn.RMSNorm(width, eps=eps)
        self.pre_norm_mlp = nn.RMSNorm(width, eps=eps)
        self.mlp = SwiGLU(width, hidden)
        self.post_norm_mlp = nn.RMSNorm(width, eps=eps)

    def forward(self, x: Tensor, c: Tensor | None, rope: Rope | None = None) -> Tensor:
        attn, mlp = 2 * [Modulation()] if self.to_modulation is None else self.to_modulation(c)
        branch = self.post_norm_attn(self.attn(modulate(self.pre_norm_attn(x), attn), rope))
        x = gated(x, branch, attn.gate, "tanh")  # (B, T, D)
        branch = self.post_norm_mlp(self.mlp(modulate(self.pre_norm_mlp(x), mlp)))
        return gated(x, branch, mlp.gate, "tanh")


FACTS = Facts(
    norm="RMSNorm",
    affine=True,
    order=2 * ("scale", "gate"),
    gate="tanh",
    post_norm=True,
    qk_norm="RMSNorm",
    shared="no; c is 1,024 wide",
    text="tokens in the same stream",
    zero="modulation, the last Linear",
)
SPEC = Spec(
    title="Lumina-Image 2.0",
    repository="Alpha-VLLM/Lumina-Image-2.0, models/model.py",
    facts=FACTS,
    build=lambda width=16, heads=2: Block(
        width, heads, max(1, heads // 3), hidden_width(width, multiple_of=8), min(width, 1024)
    ),
    inputs=("x", "c"),
    width=2304,
    heads=24,
    full=from_diffusers("Lumina2Transformer2DModel", cap_feat_dim=2304),
    modulation=("norm1.linear", "norm_out.linear_1"),
    c_width=1024,
)
