"""Qwen-Image-2.1: one stream, one modulation Linear for all blocks, no shift; text and image read different times.

    [s1, g1, s2, g2] = W SiLU(c), once for the model;   c = t_emb for the picture that is made, t = 0 for all else
    u = x + tanh(g1) * Attn(LN(x) (1 + s1));   out = u + tanh(g2) * SwiGLU(LN(u) (1 + s2))

The sequence is text, condition images, and the target image last. A token sees those before it and all of its own
image. So nothing before the target depends on the step, and its keys and values can be computed once.
No bias in the whole model. The output layer has a scale alone.
huggingface/diffusers, transformer_qwenimage21.py. B batch, T tokens, D width, d of a head.
Differs from upstream in: no padding mask.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from adaln_lab.blocks.flux2 import shared_modulation
from adaln_lab.blocks.parts import Attention, Rope, SwiGLU
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import diffusers_attention
from adaln_lab.norms import gated, layer_norm, modulate, split_vectors

ORDER = ("scale", "gate")


def block_causal(image_ids: Tensor) -> Tensor:
    """image_ids (T,), -1 for text -> (T, T): True where query i may look at key j, j <= i or in the same image."""
    t = torch.arange(len(image_ids), device=image_ids.device)
    same = (image_ids[:, None] == image_ids) & (image_ids >= 0)
    return (t <= t[:, None]) | same


def read_rows(vectors: Tensor, image_ids: Tensor, batch: int) -> Tensor:
    """Vectors of each sample's time (B, N) -> (B, 1, N); of (B + 1, N), the last row that of time 0, -> (B, T, N).

    Tokens of the last image read their sample's row, all others the last row.
    """
    sample = vectors[:batch, None]
    if len(vectors) == batch:
        return sample
    target = image_ids == image_ids.max()
    return torch.where(target[:, None], sample, vectors[batch])


class Block(nn.Module):
    """x (B, T, D), shared vectors (B, T, 4 D) -> (B, T, D); rotary cos and sin (T, d/2), mask (T, T)."""

    UPSTREAM: ClassVar = {
        **diffusers_attention("attn", "attn"),
        "mlp.up": ("img_mlp.gate_layer", "img_mlp.proj"),
        "mlp.down": "img_mlp.out",
    }

    def __init__(self, width: int, heads: int, head_width: int, hidden: int):
        super().__init__()
        self.attn = Attention(width, heads, head_width=head_width, bias=False, out=False, qk_eps=1e-6)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Tensor, shared: Tensor, rope: Rope | None = None, mask: Tensor | None = None) -> Tensor:
        attn, mlp = split_vectors(shared, 2, ORDER)
        x = gated(x, self.attn(modulate(layer_norm(x), attn), rope, mask), attn.gate, "tanh")  # (B, T, D)
        return gated(x, self.mlp(modulate(layer_norm(x), mlp)), mlp.gate, "tanh")


class Output(nn.Module):
    """x (B, T, D), c (B, D) or (B + 1, D) as in `read_rows` -> (B, T, out): LN, scale, Linear."""

    UPSTREAM: ClassVar = {"to_modulation.1": "norm_out.linear", "linear": "proj_out"}

    def __init__(self, width: int, out: int):
        super().__init__()
        self.to_modulation = shared_modulation(width, 1)
        self.linear = nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, c: Tensor, image_ids: Tensor) -> Tensor:
        (m,) = split_vectors(read_rows(self.to_modulation(c), image_ids, len(x)), 1, ("scale",))
        return self.linear(modulate(layer_norm(x), m))


class Stack(nn.Module):
    """x (B, T, D), c (B, D) or (B + 1, D), image_ids (T,), rotary cos and sin (T, d/2) -> (B, T, out)."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, depth: int, out: int):
        super().__init__()
        self.to_modulation = shared_modulation(width, 4)
        self.blocks = nn.ModuleList(Block(width, heads, head_width, hidden) for _ in range(depth))
        self.output = Output(width, out)

    def forward(self, x: Tensor, c: Tensor, image_ids: Tensor, rope: Rope | None = None) -> Tensor:
        shared, mask = read_rows(self.to_modulation(c), image_ids, len(x)), block_causal(image_ids)
        for block in self.blocks:
            x = block(x, shared, rope, mask)
        return self.output(x, c, image_ids)


SPEC = Spec(
    title="Qwen-Image-2.1",
    repository="huggingface/diffusers, transformer_qwenimage21.py",
    facts=Facts(
        order=2 * ORDER,
        gate="tanh",
        qk_norm="RMSNorm",
        shared="one Linear for the whole model",
        rows="two: the sample's time, and t = 0 for text and condition images",
        text="tokens in the same stream",
        zero="nothing",
    ),
    build=lambda width=16, heads=2: Block(width, heads, width // heads, 3 * width),
    inputs=("x", "shared"),
    width=4096,
    heads=32,
    full=from_diffusers("QwenImage21Transformer2DModel"),
    modulation=("modulation.1", "norm_out.linear"),
    readers={"modulation.1": 32},
)
