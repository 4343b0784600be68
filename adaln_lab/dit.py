"""TinyDiT: a diffusion transformer small enough to read in one sitting and to train on a laptop.

    image -> patches + positions -> blocks, each told t and y -> final (adaptive) norm -> Linear -> image

DiT (arXiv 2212.09748), Fig. 3, predicting the velocity of flow matching. Letters as in `adaln_lab`.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from adaln_lab.conditioning import VARIANTS, BlockCondition, Condition
from adaln_lab.embed import LabelEmbed, PatchEmbed, TextEncoder, TimeEmbed, positions_2d, unpatchify
from adaln_lab.layers import zero_linear
from adaln_lab.norms import Modulation, ToModulation, layer_norm, modulate
from adaln_lab.utils.checks import Count, Range, check_fields, check_labels

MOST_TOKENS = 2**16
ADAPTIVE = ("adaln", "adaln_zero", "both")  # variants whose final norm is modulated, too


@dataclass(frozen=True)
class DiTConfig:
    """Everything that decides the shape and the start of a TinyDiT. The defaults are the digits model."""

    size: Annotated[int, Range(1, 4096)] = 8  # image height and width in pixels
    channels: Annotated[int, Range(1, 1024)] = 1
    patch: Annotated[int, Range(1, 256)] = 2  # patch height and width in pixels
    width: Annotated[int, Range(4, 16384)] = 64
    depth: Annotated[int, Range(1, 1000)] = 4
    heads: Annotated[int, Range(1, 1000)] = 4
    n_classes: Count = 10  # classes, or tokens in the vocabulary; one more row is the null label
    context_length: Annotated[int, Range(1, 10_000)] = 1  # tokens in a condition; 1 for a class label
    style_tokens: Annotated[int, Range(0, 10_000)] = 0  # of them the first that join the time in c: variant "both"
    variant: Annotated[str, VARIANTS] = "adaln_zero"
    encoder: Annotated[int, Range(0, 100)] = 0  # depth of the transformer that tokens pass before they are pooled
    mlp_ratio: Annotated[float, Range(1 / 4, 64)] = 4.0
    label_std: Annotated[float, Range(0, 100)] = 0.2  # of the label table's start; DiT has 0.02, too slow here

    def __post_init__(self):
        check_fields(self)
        if self.size % self.patch:
            raise ValueError(
                f"patch must divide the image: size {self.size} is not a multiple of patch {self.patch}; "
                f"valid patches: {', '.join(str(p) for p in range(1, self.size + 1) if self.size % p == 0)}"
            )
        if self.style_tokens >= self.context_length:
            raise ValueError(
                f"style_tokens must be below context_length, {self.context_length}; got {self.style_tokens}"
            )
        if self.width % self.heads:
            raise ValueError(
                f"heads must divide the width: width {self.width} is not a multiple of {self.heads} heads; "
                f"try width {self.width // self.heads * self.heads or self.heads}"
            )
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4 (2-D sin-cos positions), got {self.width}")
        if (tokens := (self.size // self.patch) ** 2) > MOST_TOKENS:
            raise ValueError(f"an image may have {MOST_TOKENS} patches, got {tokens}; try a larger patch")


class Precomputed(NamedTuple):
    """All that the model takes from a condition, before any picture is seen; the first axis of each tensor is B."""

    tokens: Tensor | None  # (B, S, D) that join the sequence, in-context only
    blocks: tuple[BlockCondition, ...]
    final: Modulation


class FinalLayer(nn.Module):
    """LN, modulated where the blocks are, then the Linear that leaves the width: (B, T, D) -> (B, T, P * P * channels).

    The Linear and the modulation start at zero: the untrained model predicts v = 0 everywhere. `order` names the
    vectors: DiT has shift and scale, Lumina 2 and Z-Image the scale alone.
    """

    def __init__(
        self, width: int, c_width: int, out: int, adaptive: bool = True, order: tuple[str, ...] = ("shift", "scale")
    ):
        super().__init__()
        self.to_modulation = ToModulation(c_width, width, branches=1, order=order) if adaptive else None
        self.linear = zero_linear(width, out)

    def precompute(self, cond: Condition) -> Modulation:
        return Modulation() if self.to_modulation is None else self.to_modulation(cond.c)[0]

    def forward_with(self, x: Tensor, pre: Modulation) -> Tensor:
        return self.linear(modulate(layer_norm(x), pre))

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        return self.forward_with(x, self.precompute(cond))


def check_inputs(x: Tensor, t: Tensor, y: Tensor, k: DiTConfig, dtype: torch.dtype) -> None:
    """ValueError unless x, t and y are what a model of this configuration and dtype takes."""
    if x.shape[1:] != (k.channels, k.size, k.size) or len(x) < 1:
        raise ValueError(f"x must be (B, {k.channels}, {k.size}, {k.size}) with B >= 1, got {tuple(x.shape)}")
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must hold one time for each image, ({len(x)},), got {tuple(t.shape)}")
    if x.dtype != dtype or t.dtype != dtype:
        raise ValueError(f"x and t must be {dtype}, as the model is; got {x.dtype} and {t.dtype}")
    # looking at values would stop the GPU at every step; embedding lookups check there
    look = not (torch.compiler.is_compiling() or x.is_cuda)
    check_labels(y, len(x), k.n_classes, k.context_length, look)
    if look and not (t.min() >= 0 and t.max() <= 1):
        raise ValueError(f"t must lie in [0, 1] (0 is data, 1 is noise), got {t.min():.4g} .. {t.max():.4g}")


class TinyDiT(nn.Module):
    """v = model(x, t, y): x (B, channels, size, size), t (B,) in [0, 1], y (B,) or (B, S) in 0 .. K; K = no label.

    `precompute` reads the condition, `forward_with` the picture; forward is one after the other.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        block = VARIANTS[config.variant]
        width = c_width = config.width
        self.t_embed = TimeEmbed(c_width)
        self.y_embed = LabelEmbed(config.n_classes, c_width, config.context_length, std=config.label_std)
        self.encoder = TextEncoder(c_width, config.heads, config.encoder) if config.encoder else nn.Identity()
        self.x_embed = PatchEmbed(config.channels, config.patch, width)
        side = config.size // config.patch
        self.register_buffer("positions", positions_2d(side, side, width), persistent=False)  # (T, D)
        self.blocks = nn.ModuleList(block(width, config.heads, c_width, config.mlp_ratio) for _ in range(config.depth))
        self.final = FinalLayer(width, c_width, config.channels * config.patch**2, adaptive=config.variant in ADAPTIVE)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        check_inputs(x, t, y, self.config, self.positions.dtype)
        return self.forward_with(x, self.precompute(t, y))

    def condition(self, t: Tensor, y: Tensor) -> Condition:
        """t (B,), y (B,) or (B, S) -> c = t_emb + sum(y_emb), ctx = [t_emb, y_emb].

        Where the block splits them: c = t_emb + the sum of the style tokens, ctx = the other tokens.
        """
        t_emb = self.t_embed(t)  # (B, C)
        y_emb = self.encoder(self.y_embed(y))  # (B, S, C)
        if self.blocks[0].splits_condition:
            n = self.config.style_tokens
            return Condition(t_emb + y_emb[:, :n].sum(1), y_emb[:, n:])
        return Condition(t_emb + y_emb.sum(1), torch.cat([t_emb[:, None], y_emb], dim=1))

    def precompute(self, t: Tensor, y: Tensor) -> Precomputed:
        """What the condition does, everywhere in the model; independent of x."""
        cond = self.condition(t, y)
        tokens = cond.ctx if self.blocks[0].uses_ctx_as_tokens else None
        return Precomputed(tokens, tuple(block.precompute(cond) for block in self.blocks), self.final.precompute(cond))

    def enter(self, x: Tensor, pre: Precomputed) -> Tensor:
        """Image x (B, channels, size, size) -> the stream that the first block sees, (B, T, D) or (B, S + T, D)."""
        x = self.x_embed(x) + self.positions  # (B, T, D)
        return x if pre.tokens is None else torch.cat([pre.tokens, x], dim=1)

    def forward_with(self, x: Tensor, pre: Precomputed) -> Tensor:
        """Image x (B, channels, size, size) under a precomputed condition -> velocity of the same shape."""
        x = self.enter(x, pre)
        for block, block_pre in zip(self.blocks, pre.blocks, strict=True):
            x = block.forward_with(x, block_pre)
        x = x[:, -len(self.positions) :]  # the image's own tokens
        v = self.final.forward_with(x, pre.final)  # (B, T, P * P * channels)
        return unpatchify(v, self.config.patch, self.config.size // self.config.patch)
