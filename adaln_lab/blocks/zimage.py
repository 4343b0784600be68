"""Z-Image: Lumina 2's block with a condition of only 256 numbers.

    [s1, g1, s2, g2] = W c + bias,   c = t_emb, 256 wide, no SiLU before W      2 % of the parameters, not a third

All heads have their own keys and values; eps is 1e-5 everywhere. The final layer has the SiLU, and a scale alone.
Z-Image (arXiv 2511.22699); Tongyi-MAI/Z-Image. diffusers has the same names. Differs from upstream in: no padding mask.
"""

from dataclasses import replace
from typing import ClassVar

from adaln_lab.blocks import lumina2
from adaln_lab.blocks.spec import Spec, from_diffusers
from adaln_lab.blocks.upstream import diffusers_attention


def hidden_width(width: int) -> int:
    """Of the SwiGLU: 8/3 D, rounded down, so that its three matrices are as large as an MLP's two of 4 D."""
    return int(width / 3 * 8)


class Block(lumina2.Block):
    """x (B, T, D), c (B, C) -> (B, T, D); c None where c_width is None: a refiner. Rotary cos and sin (B, T, d/2)."""

    silu = False
    qk_eps = 1e-5

    UPSTREAM: ClassVar = lumina2.Block.UPSTREAM | {
        "to_modulation.linear": "adaLN_modulation.0",
        **diffusers_attention("attn", "attention"),
    }


SPEC = Spec(
    title="Z-Image",
    repository="Tongyi-MAI/Z-Image, src/zimage/transformer.py",
    facts=replace(lumina2.FACTS, act="none", shared="no; c is 256 wide", zero="not published"),
    build=lambda width=16, heads=2: Block(width, heads, heads, hidden_width(width), min(width, 256)),
    inputs=("x", "c"),
    width=3840,
    heads=30,
    full=from_diffusers("ZImageTransformer2DModel"),
    modulation=("adaLN_modulation",),
    c_width=256,
)
