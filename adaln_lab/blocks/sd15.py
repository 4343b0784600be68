"""Stable Diffusion 1.5: a ResNet block gets the time, then a transformer block gets the text. There is no AdaLN.

    ResNet         h = conv(SiLU(GN(x))) + W SiLU(t_emb)                 the time, one number a channel, before the norm
                   x <- skip(x) + conv(SiLU(GN(h)))
    as in ADM      h = conv(SiLU(GN(x)));  scale, shift = W SiLU(t_emb)  adaptive group norm, the ancestor of AdaLN
                   x <- skip(x) + conv(SiLU(GN(h) (1 + scale) + shift))
    transformer    x <- x + SelfAttn(LN(x));  x <- x + CrossAttn(LN(x), text);  x <- x + GEGLU(LN(x))

Latent diffusion (arXiv 2112.10752), Sec. 3.3; ADM (2105.05233), Sec. 4.2. B batch, T tokens, S text tokens, D channels,
N pixels a side. LN and GN have learned gamma and beta.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.layers import attend


class GEGLU(nn.Module):
    """Linear to value and gate, value * GELU(gate), Linear: (B, T, D) -> (B, T, D). The GELU is the exact one."""

    for_muon = True  # see `adaln_lab.training.optimizers`

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        self.up = nn.Linear(width, 2 * ratio * width)  # rows: value, then gate
        self.down = nn.Linear(ratio * width, width)

    def forward(self, h: Tensor) -> Tensor:
        value, gate = self.up(h).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


class Attention(nn.Module):
    """h (B, T, D) looks at source (B, S, D'): queries, keys and values without bias, the output with one."""

    for_muon = True

    def __init__(self, width: int, heads: int, source: int, head_width: int | None = None):
        super().__init__()
        self.heads, inner = heads, heads * (head_width or width // heads)
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(source, inner, bias=False)
        self.v = nn.Linear(source, inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, h: Tensor, source: Tensor) -> Tensor:
        return self.out(attend(self.q(h), self.k(source), self.v(source), self.heads))


class TransformerBlock(nn.Module):
    """x (B, T, D), text (B, S, text_width) -> (B, T, D): the text enters by cross-attention, the time not at all."""

    UPSTREAM: ClassVar = {  # our name -> that of diffusers' BasicTransformerBlock(norm_type="layer_norm")
        "norm_self": "norm1",
        "self_attn.q": "attn1.to_q",
        "self_attn.k": "attn1.to_k",
        "self_attn.v": "attn1.to_v",
        "self_attn.out": "attn1.to_out.0",
        "norm_cross": "norm2",
        "cross.q": "attn2.to_q",
        "cross.k": "attn2.to_k",
        "cross.v": "attn2.to_v",
        "cross.out": "attn2.to_out.0",
        "norm_mlp": "norm3",
        "mlp.up": "ff.net.0.proj",
        "mlp.down": "ff.net.2",
    }

    def __init__(self, width: int, heads: int, text_width: int, head_width: int | None = None):
        super().__init__()
        self.norm_self = nn.LayerNorm(width, eps=1e-5)
        self.self_attn = Attention(width, heads, width, head_width)
        self.norm_cross = nn.LayerNorm(width, eps=1e-5)
        self.cross = Attention(width, heads, text_width, head_width)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-5)
        self.mlp = GEGLU(width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h = self.norm_self(x)
        x = x + self.self_attn(h, h)  # (B, T, D)
        x = x + self.cross(self.norm_cross(x), text)
        x = x + self.mlp(self.norm_mlp(x))
        return x


class SpatialTransformer(nn.Module):
    """A transformer block on the pixels of a picture, (B, D, N, N) -> (B, D, N, N), inside a residual of its own.

    Its last convolution starts at zero, as in the original (CompVis); diffusers' does not.
    """

    UPSTREAM: ClassVar = {  # diffusers' Transformer2DModel; inside the block, the names above
        "norm": "norm",
        "proj_in": "proj_in",
        "block": "transformer_blocks.0",
        "proj_out": "proj_out",
    }

    def __init__(self, channels: int, heads: int, text_width: int, groups: int = 32):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.block = TransformerBlock(channels, heads, text_width)
        self.proj_out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        h = self.block(h.flatten(2).transpose(1, 2), text)  # (B, N * N, D)
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class ResNetBlock(nn.Module):
    """x (B, channels, N, N), t_emb (B, C) -> (B, out, N, N). `scale_shift`: ADM's adaptive group norm.

    The second convolution starts at zero, as in the original (CompVis); diffusers' does not.
    """

    UPSTREAM: ClassVar = {  # diffusers' ResnetBlock2D
        "norm_in": "norm1",
        "conv_in": "conv1",
        "time": "time_emb_proj",
        "norm_out": "norm2",
        "conv_out": "conv2",
        "skip": "conv_shortcut",
    }

    def __init__(self, channels: int, out: int, t_width: int, groups: int = 32, scale_shift: bool = False):
        super().__init__()
        self.scale_shift = scale_shift
        self.norm_in = nn.GroupNorm(groups, channels, eps=1e-5)
        self.conv_in = nn.Conv2d(channels, out, 3, padding=1)
        self.time = nn.Linear(t_width, 2 * out if scale_shift else out)  # rows: scale, then shift
        self.norm_out = nn.GroupNorm(groups, out, eps=1e-5)
        self.conv_out = _zero(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, t_emb: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        time = self.time(F.silu(t_emb))[..., None, None]  # (B, out or 2 out, 1, 1)
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm_out(h) * (1 + scale) + shift
        else:
            h = self.norm_out(h + time)
        return self.skip(x) + self.conv_out(F.silu(h))


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


SPEC = Spec(
    title="Stable Diffusion 1.5",
    repository="huggingface/diffusers, attention.py",
    facts=Facts(
        affine=True,
        c="time, in the ResNet blocks only",
        order=(),
        gate="none",
        text="cross-attention",
        zero="the last convolution of each branch (CompVis)",
    ),
    build=lambda width=16, heads=2: TransformerBlock(width, heads, width),
    inputs=("x", "text"),
    width=320,
    heads=8,
    full=from_diffusers("UNet2DConditionModel", cross_attention_dim=768),
    modulation=("time_emb_proj",),
)
