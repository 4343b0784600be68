"""Blocks of published models, one file an architecture, numerically equal to the original implementations.

`ZOO[key]` says what is known of one: where it comes from, how it is told, how to build it small and whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adaln_lab.blocks import dit, flux, hdm, lumina2, pixart, qwenimage, sd3, sd15, zimage
from adaln_lab.blocks.upstream import Names
from adaln_lab.conditioning import AdaLNZeroBlock, Condition

LN, RMS = "LayerNorm", "RMSNorm"
SSG = ("shift", "scale", "gate")


@dataclass(frozen=True)
class Facts:
    """How a block is told. Vectors and order are one block's, for its image stream."""

    norm: str
    eps: float
    affine: bool  # does the norm have learned weights?
    c: str  # what the vector holds
    act: str  # between c and the Linear
    order: tuple[str, ...]  # vectors, in chunk order
    gate: str  # raw, tanh, 1 + g, or none
    post_norm: bool  # does the branch leave through a norm?
    qk_norm: str  # none, or the norm of Q and K
    zero: str  # what starts at zero in the original code
    shared: str = "no"  # what of the modulation all blocks have in common
    text: str = "none"  # how the words come in

    @property
    def shift(self) -> bool:
        return "shift" in self.order

    @property
    def vectors(self) -> int:
        return len(self.order)


@dataclass(frozen=True)
class Spec:
    """One architecture."""

    title: str
    paper: str
    repository: str
    upstream_class: str
    build: Callable[..., nn.Module]  # (width, heads) -> a block
    inputs: tuple[str, ...]  # of the block, by name
    facts: Facts
    formula: tuple[str, ...]  # LaTeX, a line each
    upstream: Names  # our layers under the original's names
    diffusers: Names  # and under diffusers'
    model: str = ""  # the whole model's class in diffusers; empty: it is ours
    config: Mapping[str, Any] = field(default_factory=dict)  # of the whole model, as published
    modulation: tuple[str, ...] = ()  # what its parameters of modulation have in their names
    size: tuple[int, int, int] = (0, 0, 0)  # published width, heads, and blocks
    c_limit: int = 1_000_000  # c is as wide as the block, and no wider than this

    def example(self, width: int = 16, batch: int = 2, tokens: int = 6, words: int = 5) -> tuple[Any, ...]:
        """Random inputs for a block of this width, float32, in the order of its forward."""
        shapes = {
            "x": (batch, tokens, width),
            "ctx": (batch, words, width),
            "text": (batch, words, width),
            "c": (batch, min(width, self.c_limit)),
            "shared": (batch, 6 * width),
            "cond": (batch, width),
        }
        drawn = {name: torch.randn(shapes[name]) for name in self.inputs}
        if "cond" in drawn:
            drawn["cond"] = Condition(drawn["cond"])
        return tuple(drawn.values())

    def out(self, block: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
        """The image stream that a block gives."""
        found = block(*inputs)
        return found[0] if isinstance(found, tuple) else found


_DIT_LINES = (
    r"u = x + g_1 \odot \mathrm{Attn}(\mathrm{LN}(x)(1 + s_1) + b_1)",
    r"\mathrm{out} = u + g_2 \odot \mathrm{MLP}(\mathrm{LN}(u)(1 + s_2) + b_2)",
)
_JOINT_LINES = (
    r"q, k, v \ \mathrm{of}\ \mathrm{LN}(x_a)(1 + s_{a1}) + b_{a1},\; a \in \{x, ctx\}:\ \mathrm{one\ softmax}",
    r"x_a \leftarrow x_a + g_{a1} \odot P_a(\mathrm{attn}_a)",
    r"x_a \leftarrow x_a + g_{a2} \odot \mathrm{MLP}_a(\mathrm{LN}(x_a)(1 + s_{a2}) + b_{a2})",
)
_SANDWICH_LINES = (
    r"u = x + \tanh(g_1) \odot \mathrm{RMS}_2(\mathrm{Attn}(\mathrm{RMS}_1(x)(1 + s_1)))",
    r"\mathrm{out} = u + \tanh(g_2) \odot \mathrm{RMS}_4(\mathrm{SwiGLU}(\mathrm{RMS}_3(u)(1 + s_2)))",
)

ZOO: dict[str, Spec] = {
    "dit": Spec(
        "DiT-XL/2",
        "arXiv 2212.09748",
        "facebookresearch/DiT, models.py",
        "DiTBlock",
        lambda width=16, heads=2: AdaLNZeroBlock(width, heads, width),
        ("x", "cond"),
        Facts(LN, 1e-6, False, "time + label", "SiLU", 2 * SSG, "raw", False, "none", "modulation, the last Linear"),
        (*_DIT_LINES, r"[b_1, s_1, g_1, b_2, s_2, g_2] = W\,\mathrm{SiLU}(c) + w"),
        dit.BLOCK,
        dit.DIFFUSERS,
        config={"size": 32, "channels": 4, "width": 1152, "depth": 28, "heads": 16, "n_classes": 1000},
        modulation=("to_modulation",),
        size=(1152, 16, 28),
    ),
    "pixart": Spec(
        "PixArt-alpha",
        "arXiv 2310.00426",
        "PixArt-alpha/PixArt-alpha, diffusion/model/nets/PixArt.py",
        "PixArtBlock",
        lambda width=16, heads=2: pixart.Block(width, heads),
        ("x", "text", "shared"),
        Facts(
            LN, 1e-6, False, "time", "SiLU", 2 * SSG, "raw", False, "none", "cross-attention's and the last Linear",
            "one Linear; a table in each block", "cross-attention",
        ),
        (
            r"u = x + g_1 \odot \mathrm{Attn}(\mathrm{LN}(x)(1 + s_1) + b_1)",
            r"m = u + \mathrm{CrossAttn}(u, \mathrm{text})",
            r"\mathrm{out} = m + g_2 \odot \mathrm{MLP}(\mathrm{LN}(m)(1 + s_2) + b_2)",
            r"[b_1, s_1, g_1, b_2, s_2, g_2] = S + E_i,\quad S = W\,\mathrm{SiLU}(t_{emb}) + w",
        ),
        pixart.Block.UPSTREAM,
        pixart.Block.DIFFUSERS,
        "PixArtTransformer2DModel",
        {"caption_channels": 4096, "use_additional_conditions": False},
        ("scale_shift_table", "adaln_single.linear"),
        (1152, 16, 28),
    ),
    "sd3": Spec(
        "Stable Diffusion 3 (medium)",
        "arXiv 2403.03206",
        "Stability-AI/sd3.5, mmditx.py",
        "JointBlock",
        lambda width=16, heads=2: sd3.JointBlock(width, heads),
        ("x", "ctx", "c"),
        Facts(
            LN, 1e-6, False, "time + pooled text", "SiLU", 2 * SSG, "raw", False, "RMSNorm from 3.5 on",
            "not published", text="a stream of its own",
        ),
        (*_JOINT_LINES, r"[b_1, s_1, g_1, b_2, s_2, g_2]_a = W_a\,\mathrm{SiLU}(c) + w_a"),
        sd3.JointBlock.UPSTREAM,
        sd3.JointBlock.DIFFUSERS,
        "SD3Transformer2DModel",
        {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 192,
        },
        ("norm1.linear", "norm1_context.linear", "norm_out.linear"),
        (1536, 24, 24),
    ),
    "flux": Spec(
        "Flux.1 (dev)",
        "no paper",
        "black-forest-labs/flux, src/flux/modules/layers.py",
        "SingleStreamBlock",
        lambda width=16, heads=2: flux.SingleBlock(width, heads),
        ("x", "c"),
        Facts(
            LN, 1e-6, False, "time + guidance + pooled text", "SiLU", SSG, "raw", False, "RMSNorm", "not published",
            text="a stream of its own, then in the same one",
        ),
        (
            r"n = \mathrm{LN}(x)(1 + s) + b",
            r"\mathrm{out} = x + g \odot W_2\,[\mathrm{Attn}(n);\; \mathrm{GELU}(W_m n)]",
            r"[b, s, g] = W\,\mathrm{SiLU}(c) + w",
        ),
        flux.SingleBlock.UPSTREAM,
        flux.SingleBlock.DIFFUSERS,
        "FluxTransformer2DModel",
        {"guidance_embeds": True},
        (".norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear"),
        (3072, 24, 57),
    ),
    "qwenimage": Spec(
        "Qwen-Image",
        "arXiv 2508.02324",
        "huggingface/diffusers, transformer_qwenimage.py",
        "QwenImageTransformerBlock",
        lambda width=16, heads=2: qwenimage.Block(width, heads),
        ("x", "ctx", "c"),
        Facts(
            LN, 1e-6, False, "time", "SiLU", 2 * SSG, "raw", False, "RMSNorm", "not published",
            text="a stream of its own",
        ),
        (*_JOINT_LINES, r"[b_1, s_1, g_1, b_2, s_2, g_2]_a = W_a\,\mathrm{SiLU}(t_{emb}) + w_a"),
        qwenimage.Block.UPSTREAM,
        qwenimage.Block.UPSTREAM,
        "QwenImageTransformer2DModel",
        {},
        ("img_mod", "txt_mod", "norm_out.linear"),
        (3072, 24, 60),
    ),
    "lumina2": Spec(
        "Lumina-Image 2.0",
        "arXiv 2503.21758",
        "Alpha-VLLM/Lumina-Image-2.0, models/model.py",
        "JointTransformerBlock",
        lambda width=16, heads=2: lumina2.Block(
            width, heads, max(1, heads // 3), lumina2.hidden_width(width, 8), min(width, 1024)
        ),
        ("x", "c"),
        Facts(
            RMS, 1e-5, True, "time", "SiLU", ("scale", "gate") * 2, "tanh", True, "RMSNorm",
            "modulation, the last Linear", "no; c is 1,024 wide", "tokens in the same stream",
        ),
        (*_SANDWICH_LINES, r"[s_1, g_1, s_2, g_2] = W\,\mathrm{SiLU}(t_{emb}) + w"),
        lumina2.Block.UPSTREAM,
        lumina2.Block.DIFFUSERS,
        "Lumina2Transformer2DModel",
        {"cap_feat_dim": 2304},
        ("norm1.linear", "norm_out.linear_1"),
        (2304, 24, 26),
        c_limit=1024,
    ),
    "zimage": Spec(
        "Z-Image",
        "arXiv 2511.22699",
        "Tongyi-MAI/Z-Image, src/zimage/transformer.py",
        "ZImageTransformerBlock",
        lambda width=16, heads=2: zimage.Block(width, heads, heads, zimage.hidden_width(width), min(width, 256)),
        ("x", "c"),
        Facts(
            RMS, 1e-5, True, "time", "none", ("scale", "gate") * 2, "tanh", True, "RMSNorm", "not published",
            "no; c is 256 wide", "tokens in the same stream",
        ),
        (*_SANDWICH_LINES, r"[s_1, g_1, s_2, g_2] = W\,t_{emb} + w"),
        zimage.Block.UPSTREAM,
        zimage.Block.UPSTREAM,
        "ZImageTransformer2DModel",
        {},
        ("adaLN_modulation",),
        (3840, 30, 30),
        c_limit=256,
    ),
    "hdm": Spec(
        "HDM (XUT-base)",
        "technical report in the repository",
        "KohakuBlueleaf/HDM, src/xut/modules/transformer.py",
        "TransformerBlock",
        lambda width=16, heads=2: hdm.Block(width, heads, width // heads, 3 * width),
        ("x", "c"),
        Facts(
            RMS, 1e-6, True, "time + size", "none (c ends in Mish)", ("scale", "shift", "gate") * 2, "1 + g", False,
            "none", "the last Linear of each shared MLP", "three MLPs for the whole model", "tokens in the same stream",
        ),
        (
            r"a = \mathrm{RMS}_1(x)(1 + s_1) + b_1,\quad u = a + (1 + g_1) \odot \mathrm{Attn}(a)",
            r"m = \mathrm{RMS}_2(u)(1 + s_2) + b_2,\quad \mathrm{out} = m + (1 + g_2) \odot \mathrm{SwiGLU}(m)",
            r"[s_k, b_k, g_k] = \mathrm{MLP}_k(c),\; \mathrm{the\ same\ for\ all\ blocks}",
        ),
        hdm.Block.UPSTREAM,
        {},
        config={
            "width": 1024,
            "heads": 16,
            "head_width": 64,
            "hidden": 3072,
            "enc": (1, 1, 1, 1),
            "dec": (3, 3, 3, 3),
            "channels": 4,
            "patch": 2,
            "text_width": 1024,
            "info": 1,
        },
        modulation=("shared.",),
        size=(1024, 16, 20),
    ),
    "sd15": Spec(
        "Stable Diffusion 1.5",
        "arXiv 2112.10752",
        "huggingface/diffusers, attention.py",
        "BasicTransformerBlock",
        lambda width=16, heads=2: sd15.TransformerBlock(width, heads, width),
        ("x", "text"),
        Facts(
            LN, 1e-5, True, "time, in the ResNet blocks only", "SiLU", (), "none", False, "none",
            "the last convolution of each branch (CompVis)", text="cross-attention",
        ),
        (
            r"u = x + \mathrm{SelfAttn}(\mathrm{LN}_1(x))",
            r"m = u + \mathrm{CrossAttn}(\mathrm{LN}_2(u), \mathrm{text})",
            r"\mathrm{out} = m + \mathrm{GEGLU}(\mathrm{LN}_3(m))",
        ),
        sd15.TransformerBlock.UPSTREAM,
        sd15.TransformerBlock.UPSTREAM,
        "UNet2DConditionModel",
        {"cross_attention_dim": 768},
        ("time_emb_proj",),
        (320, 8, 16),
    ),
}  # fmt: skip
