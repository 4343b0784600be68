"""Qwen-Image: Flux's block of two streams, sixty times, and a condition that is the time alone.

    c = t_emb: a third of the 20 billion parameters reads one number, the time

Qwen-Image (arXiv 2508.02324); diffusers is its reference implementation. Differs from upstream in: nothing.
"""

from typing import ClassVar

from adaln_lab.blocks.flux import DoubleBlock
from adaln_lab.blocks.sd3 import JointBlock
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers


class Block(DoubleBlock):
    """x (B, T, D), ctx (B, S, D), c (B, D) -> both; rotary cos and sin (S + T, d/2), text first."""

    UPSTREAM: ClassVar = JointBlock.DIFFUSERS | {  # QwenImageTransformerBlock
        "x.to_modulation.linear": "img_mod.1",
        "ctx.to_modulation.linear": "txt_mod.1",
        "x.mlp.up": "img_mlp.net.0.proj",
        "x.mlp.down": "img_mlp.net.2",
        "ctx.mlp.up": "txt_mlp.net.0.proj",
        "ctx.mlp.down": "txt_mlp.net.2",
    }


SPEC = Spec(
    title="Qwen-Image",
    repository="huggingface/diffusers, transformer_qwenimage.py",
    facts=Facts(qk_norm="RMSNorm", text="a stream of its own"),
    build=lambda width=16, heads=2: Block(width, heads),
    inputs=("x", "ctx", "c"),
    width=3072,
    heads=24,
    full=from_diffusers("QwenImageTransformer2DModel"),
    modulation=("img_mod", "txt_mod", "norm_out.linear"),
)
