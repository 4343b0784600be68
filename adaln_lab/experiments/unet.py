"""TinyUNet: a small Stable Diffusion 1.5. Time is a shift in each ResNet block, words enter by cross-attention.

    24x24 -> 12x12 -> 6x6 -> 12x12 -> 24x24, with a skip connection between equal sizes

Differs from SD 1.5 in: pixels, not latents; three sizes with one ResNet block each on the way down and up; attention
only below full size, where it is cheap; words embedded by a table, not by CLIP. B batch, S tokens, N pixels a side.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks.sd15 import ResNetBlock, SpatialTransformer
from adaln_lab.conditioning import Condition
from adaln_lab.dit import check_inputs
from adaln_lab.embed import LabelEmbed, TimeEmbed
from adaln_lab.utils.checks import Count, Range, check_fields

GROUPS = 8  # of group norm; SD 1.5 has 32, with 320 channels and more


@dataclass(frozen=True)
class UNetConfig:
    """Everything that determines the shape and the initial weights of a TinyUNet."""

    size: Annotated[int, Range(4, 1024)] = 24  # image height and width in pixels, a multiple of 4
    channels: Annotated[int, Range(1, 1024)] = 3
    width: Annotated[int, Range(8, 4096)] = 32  # channels at full size; twice and four times as many below
    heads: Annotated[int, Range(1, 1000)] = 4
    n_classes: Count = 10  # tokens in the vocabulary; one more row is the null label
    context_length: Annotated[int, Range(1, 10_000)] = 1
    label_std: Annotated[float, Range(0, 100)] = 0.2

    def __post_init__(self):
        check_fields(self)
        if self.size % 4:
            raise ValueError(f"size must be a multiple of 4 (it is halved twice), got {self.size}")
        if self.width % GROUPS or self.width % self.heads:
            raise ValueError(f"width must be a multiple of {GROUPS} groups and {self.heads} heads, got {self.width}")


class TinyUNet(nn.Module):
    """v = model(x, t, y), with a TinyDiT's two steps: the same samplers and the same trainer serve both."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        full, half, quarter = config.width, 2 * config.width, 4 * config.width
        self.t_embed = TimeEmbed(quarter)
        self.y_embed = LabelEmbed(config.n_classes, quarter, config.context_length, std=config.label_std)

        def resnet(channels: int, out: int) -> ResNetBlock:
            return ResNetBlock(channels, out, quarter, GROUPS)

        def attention(channels: int) -> SpatialTransformer:
            return SpatialTransformer(channels, config.heads, quarter, GROUPS)

        self.conv_in = nn.Conv2d(config.channels, full, 3, padding=1)
        self.down_full = resnet(full, full)
        self.to_half = nn.Conv2d(full, half, 3, stride=2, padding=1)
        self.down_half, self.attn_half = resnet(half, half), attention(half)
        self.to_quarter = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.middle, self.attn_quarter = resnet(quarter, quarter), attention(quarter)
        self.from_quarter = nn.Conv2d(quarter, half, 3, padding=1)
        self.up_half, self.attn_up_half = resnet(2 * half, half), attention(half)
        self.from_half = nn.Conv2d(half, full, 3, padding=1)
        self.up_full = resnet(2 * full, full)
        self.norm = nn.GroupNorm(GROUPS, full)
        self.conv_out = nn.Conv2d(full, config.channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        check_inputs(x, t, y, self.config, self.conv_out.weight.dtype)
        return self.forward_with(x, self.precompute(t, y))

    def precompute(self, t: Tensor, y: Tensor) -> Condition:
        """What does not depend on x: c = t_emb (B, C), ctx = the caption's tokens (B, S, C)."""
        return Condition(self.t_embed(t), self.y_embed(y))

    def forward_with(self, x: Tensor, pre: Condition) -> Tensor:
        """Image x (B, channels, N, N) under a precomputed condition -> velocity of the same shape."""
        t_emb, text = pre
        full = self.down_full(self.conv_in(x), t_emb)  # (B, D, N, N)
        half = self.attn_half(self.down_half(self.to_half(full), t_emb), text)  # (B, 2 D, N/2, N/2)
        x = self.attn_quarter(self.middle(self.to_quarter(half), t_emb), text)  # (B, 4 D, N/4, N/4)
        x = torch.cat([self.from_quarter(F.interpolate(x, scale_factor=2)), half], dim=1)
        x = self.attn_up_half(self.up_half(x, t_emb), text)
        x = torch.cat([self.from_half(F.interpolate(x, scale_factor=2)), full], dim=1)
        x = self.up_full(x, t_emb)
        return self.conv_out(F.silu(self.norm(x)))
