"""From the world into tokens and vectors: time, labels or tokens, patches, positions.

    sinusoidal(s)_k = cos(s w_k), then sin(s w_k),    w_k = 10000^(-k / (F/2)),  k = 0 .. F/2 - 1

B batch, S tokens of a condition, D width, F sinusoid features, P patch, K classes.
"""

import math

import torch
from torch import Tensor, nn

from adaln_lab.layers import MLP, SelfAttention, normal_linear, xavier_linear, zero_linear
from adaln_lab.utils.checks import check_labels

TIME_SCALE = 1000.0  # t in [0, 1] is stretched to the range the frequencies were made for; once, here, nowhere else


def sinusoidal(s: Tensor, features: int) -> Tensor:
    """Cosines, then sines, of s (B,) at frequencies geometrically spaced from 1 to 1 / 10,000 -> (B, features)."""
    if features < 2 or features % 2:
        raise ValueError(f"features must be even, a cosine and a sine for each frequency; got {features}")
    half = features // 2
    w = torch.exp(-math.log(10_000.0) * torch.arange(half, device=s.device, dtype=s.dtype) / half)
    angle = s[:, None] * w  # (B, F/2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def positions_2d(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2-D sin-cos positions (rows * columns, D), row-major: half the channels tell the column, half the row."""
    if width % 4:
        raise ValueError(f"width must be a multiple of 4 for 2-D sin-cos positions, got {width}")
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    halves = [sinusoidal(axis.flatten().double(), width // 2) for axis in (c, r)]  # each (cos, sin)
    swapped = [half.roll(width // 4, dims=-1) for half in halves]  # (sin, cos): the order of MAE and DiT
    return torch.cat(swapped, dim=-1).float()


class TimeEmbed(nn.Module):
    """t (B,) in [0, 1] -> t_emb (B, C): sinusoids of 1000 t, then Linear, SiLU, Linear."""

    def __init__(self, c_width: int, features: int = 256):
        super().__init__()
        self.features = features
        first, second = normal_linear(features, c_width, 0.02), normal_linear(c_width, c_width, 0.02)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoidal(t * TIME_SCALE, self.features))


class LabelEmbed(nn.Module):
    """Labels (B,) or token ids (B, S) in 0 .. K -> (B, S, C). Row K is the null label: "no condition", for guidance.

    A class label is a caption of one token. With more tokens each place adds a learned position, so that tokens keep
    their order; the pooled sum over S forgets it.
    """

    def __init__(self, n_classes: int, c_width: int, context_length: int = 1, std: float = 0.02):
        super().__init__()
        self.n_classes, self.context_length = n_classes, context_length
        self.table = nn.Embedding(n_classes + 1, c_width)
        nn.init.normal_(self.table.weight, std=std)
        if context_length > 1:
            self.place = nn.Parameter(std * torch.randn(context_length, c_width))

    def forward(self, y: Tensor) -> Tensor:
        check_labels(y, len(y), self.n_classes, self.context_length, look=False)
        e = self.table(y.reshape(len(y), self.context_length))  # (B, S, C)
        return e if self.context_length == 1 else e + self.place


class TextEncoder(nn.Module):
    """Words (B, S, C) look at one another before anybody pools them -> (B, S, C): plain pre-norm transformer blocks.

    The last Linear of each branch starts at zero, so that the encoder starts as the identity.
    """

    def __init__(self, c_width: int, heads: int, depth: int = 2):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(c_width, eps=1e-6) for _ in range(2 * depth))
        self.branches = nn.ModuleList()
        for _ in range(depth):
            attn, mlp = SelfAttention(c_width, heads), MLP(c_width)
            attn.out, mlp.down = zero_linear(c_width, c_width), zero_linear(mlp.down.in_features, c_width)
            self.branches += [attn, mlp]

    def forward(self, e: Tensor) -> Tensor:
        for norm, branch in zip(self.norms, self.branches, strict=True):
            e = e + branch(norm(e))
        return e


class PatchEmbed(nn.Module):
    """Image (B, channels, size, size) -> tokens (B, T, D): cut into P x P patches, one Linear on each."""

    def __init__(self, channels: int, patch: int, width: int):
        super().__init__()
        self.patch = patch
        self.linear = xavier_linear(channels * patch**2, width)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(patchify(image, self.patch))


def patchify(image: Tensor, patch: int) -> Tensor:
    """(B, channels, h, w) -> (B, T, channels * P * P): patches by rows; in a patch channel, then row, then column."""
    if image.shape[-2] % patch or image.shape[-1] % patch:
        raise ValueError(f"patch must divide the image: {tuple(image.shape[-2:])} pixels are no multiple of {patch}")
    grid = image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, channels, rows, P, columns, P)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, rows: int) -> Tensor:
    """(B, T, P * P * channels) -> (B, channels, h, w); inside a patch row, column, then channel (the order of DiT)."""
    b, n, d = tokens.shape
    if n % rows or d % patch**2:
        raise ValueError(f"{n} tokens of {d} make no {rows} rows of patches of {patch} x {patch} pixels")
    grid = tokens.reshape(b, rows, n // rows, patch, patch, d // patch**2)  # (B, rows, columns, P, P, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, d // patch**2, rows * patch, n // rows * patch)
