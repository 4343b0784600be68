"""PixArt-alpha: adaLN-single. One Linear for all blocks, and a small table of its own in each; the text by attention.

    S = W SiLU(t_emb) + bias (6 D), once for the model;   [b1, s1, g1, b2, s2, g2] = S + E_i,   E_i a table (6, D)
    u = x + g1 * Attn(LN(x) (1 + s1) + b1);   m = u + CrossAttn(u, text);   out = m + g2 * MLP(LN(m) (1 + s2) + b2)

PixArt-alpha (arXiv 2310.00426), Sec. 2.3. B batch, T image tokens, S text tokens, D width.
Differs from upstream in: all texts of a batch have one length (upstream packs texts of several lengths).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.layers import MLP, CrossAttention, SelfAttention, zero_linear
from adaln_lab.norms import Modulation, gated, layer_norm, modulate, split_vectors

ORDER = ("shift", "scale", "gate")


class Table(nn.Module):
    """The vectors that one block adds to the shared ones: (B, 1, n D) -> a `Modulation` for each branch."""

    def __init__(self, width: int, branches: int = 2, order: tuple[str, ...] = ORDER):
        super().__init__()
        self.branches, self.order = branches, order
        n = branches * len(order)
        self.table = nn.Parameter(torch.randn(n, width) / width**0.5)  # as upstream: gates do not start at zero

    def forward(self, shared: Tensor) -> tuple[Modulation, ...]:
        return split_vectors(shared + self.table.flatten(), self.branches, self.order)


class Block(nn.Module):
    """x (B, T, D), text (B, S, D), shared vectors (B, 1, 6 D) -> (B, T, D). No norm before cross-attention, no gate."""

    UPSTREAM: ClassVar = {
        "to_modulation.table": "scale_shift_table",
        "attn.qkv": "attn.qkv",
        "attn.out": "attn.proj",
        "cross.q": "cross_attn.q_linear",
        "cross.kv": "cross_attn.kv_linear",
        "cross.out": "cross_attn.proj",
        "mlp.up": "mlp.fc1",
        "mlp.down": "mlp.fc2",
    }

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.to_modulation = Table(width)
        self.attn = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads)
        self.cross.out = zero_linear(width, width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: Tensor, text: Tensor, shared: Tensor) -> Tensor:
        attn, mlp = self.to_modulation(shared)
        x = gated(x, self.attn(modulate(layer_norm(x), attn)), attn.gate)  # (B, T, D)
        x = x + self.cross(x, text)
        x = gated(x, self.mlp(modulate(layer_norm(x), mlp)), mlp.gate)
        return x


SPEC = Spec(
    title="PixArt-alpha",
    repository="PixArt-alpha/PixArt-alpha, diffusion/model/nets/PixArt.py",
    facts=Facts(
        shared="one Linear; a table in each block",
        text="cross-attention",
        zero="cross-attention's and the last Linear",
    ),
    build=lambda width=16, heads=2: Block(width, heads),
    inputs=("x", "text", "shared"),
    width=1152,
    heads=16,
    full=from_diffusers("PixArtTransformer2DModel", caption_channels=4096, use_additional_conditions=False),
    modulation=("scale_shift_table", "adaln_single.linear"),
    readers={"adaln_single.linear": 28},
)
