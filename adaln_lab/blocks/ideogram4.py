"""Ideogram 4: Z-Image's block, with the SiLU moved into a condition of 512 numbers.

    c = SiLU(W_c t_emb + b_c), 512 wide, once for the model;   [s1, g1, s2, g2] = W c + bias
    u = x + tanh(g1) * RMS_2(Attn(RMS_1(x) (1 + s1)));   out = u + tanh(g2) * RMS_4(SwiGLU(RMS_3(u) (1 + s2)))

Rotary positions pair channel k with k + d/2. The output layer is DiT's with a scale alone: SiLU acts on c twice.
huggingface/diffusers, transformer_ideogram4.py. B batch, T tokens, D width, d of a head.
Differs from upstream in: one picture a sequence (upstream packs several, and each looks at itself alone).
"""

from dataclasses import replace
from typing import Any, ClassVar

from adaln_lab.blocks import lumina2, zimage
from adaln_lab.blocks.parts import rotate_halves
from adaln_lab.blocks.spec import Spec, from_diffusers


class Block(zimage.Block):
    """x (B, T, D), c (B, C), already after SiLU -> (B, T, D); rotary cos and sin (T, d/2)."""

    UPSTREAM: ClassVar = zimage.Block.UPSTREAM | {"to_modulation.linear": "adaln_modulation"}

    def __init__(self, *sizes: Any, **options: Any):
        super().__init__(*sizes, **options)
        self.attn.rotate = rotate_halves


SPEC = Spec(
    title="Ideogram 4",
    repository="huggingface/diffusers, transformer_ideogram4.py",
    facts=replace(lumina2.FACTS, act="none (c ends in SiLU)", shared="no; c is 512 wide", zero="nothing"),
    build=lambda width=16, heads=2: Block(width, heads, heads, 8 * width // 3, min(width, 512)),
    inputs=("x", "c"),
    width=4608,
    heads=18,
    full=from_diffusers("Ideogram4Transformer2DModel"),
    modulation=("adaln_modulation",),
    c_width=512,
)
