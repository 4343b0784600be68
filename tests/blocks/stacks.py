"""Whole stacks, output layers and text blocks of published models: the package's blocks in the places that they have
upstream, so that stored runs of whole models can be replayed.

B batch, T image tokens, S text tokens, R of a reference image or of times, D width, C width of c, d of a head.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks import hdm, krea2, minimax_h3, pixart, qwenimage21
from adaln_lab.blocks.upstream import Names, PatchConv, inside, numbered
from adaln_lab.embed import patchify, unpatchify
from adaln_lab.layers import zero_linear
from adaln_lab.norms import layer_norm, modulate


class PixArtStack(nn.Module):
    """x (B, T, D), text (B, S, D), t_emb (B, D) -> the residual stream after the last block, and the output tokens.

    The final layer adds its table to the raw t_emb: no SiLU, no Linear.
    """

    def __init__(self, width: int, heads: int, depth: int, out: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.shared = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(pixart.Block(width, heads, mlp_ratio) for _ in range(depth))
        self.final_modulation = pixart.Table(width, branches=1, order=("shift", "scale"))
        self.linear = zero_linear(width, out)

    def forward(self, x: Tensor, text: Tensor, t_emb: Tensor) -> tuple[Tensor, Tensor]:
        t_emb = t_emb.unsqueeze(1)
        shared = self.shared(F.silu(t_emb))  # (B, 1, 6 D)
        for block in self.blocks:
            x = block(x, text, shared)
        (final,) = self.final_modulation(t_emb.repeat(1, 1, 2))
        return x, self.linear(modulate(layer_norm(x), final))

    def upstream(self) -> Names:
        return numbered("blocks", "blocks", len(self.blocks), pixart.Block.UPSTREAM) | {
            "shared": "t_block.1",
            "final_modulation.table": "final_layer.scale_shift_table",
            "linear": "final_layer.linear",
        }


class Krea2TextBlock(krea2.Block):
    """x (B, T, D) -> (B, T, D): the block without modulation, across a token's layers or across tokens."""

    UPSTREAM: ClassVar = {mine: it for mine, it in krea2.Block.UPSTREAM.items() if mine != "to_modulation.table"}

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, eps: float = 1e-5):
        super().__init__(width, heads, kv_heads, hidden, eps)
        del self.to_modulation

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm_attn(x))
        return x + self.mlp(self.norm_mlp(x))


class MiniMaxH3Refiner(minimax_h3.Block):
    """x (B, T, D) -> (B, T, D): the block without modulation and positions."""

    UPSTREAM: ClassVar = {mine: it for mine, it in minimax_h3.Block.UPSTREAM.items() if mine != "to_modulation.1"}

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, eps: float = 1e-5, qk_eps: float = 1e-5):
        super().__init__(width, heads, head_width, hidden, 1, eps, qk_eps)
        del self.to_modulation

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm_attn(x))
        return x + self.mlp(self.norm_mlp(x))


def qwenimage21_names(stack: qwenimage21.Stack) -> Names:
    blocks = numbered("blocks", "transformer_blocks", len(stack.blocks), qwenimage21.Block.UPSTREAM)
    return {"to_modulation.1": "modulation.1"} | inside("output", qwenimage21.Output.UPSTREAM) | blocks


def hdm_stack_names(stack: hdm.Stack) -> Names:
    names = {}
    for mine, theirs in zip(hdm.Modulations._fields, ("attn", "xattn", "ffw"), strict=True):
        names |= {f"shared.{mine}.layers.{i}": f"shared_adaln_{theirs}.{i}" for i in (0, 1, 3)}
    for part, groups in (("enc", stack.enc), ("dec", stack.dec)):
        for i, group in enumerate(groups):
            names |= numbered(f"{part}.{i}", f"backbone.{part}_blocks.{i}", len(group), hdm.Block.UPSTREAM)
    return names


def cell_centres(rows: int, columns: int) -> Tensor:
    """Row and column of each cell's centre, float64 (rows * columns, 2).

    The longer side reaches from -1 to 1, the other from -n / longest to n / longest.
    """
    axes = []
    for n in (rows, columns):
        end = n / max(rows, columns)
        edges = torch.linspace(-end, end, n + 1, dtype=torch.float64)
        axes.append((edges[:-1] + edges[1:]) / 2)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)


class HDM(nn.Module):
    """The whole model: x (B, channels, N, M), t (B,) in [0, 1], text (B, S, D'), info (B, I) -> like x.

    c = Mish(Linear(sinusoids of 1000 t)) + MLP(info), where info is the picture's size or aspect ratio. No final norm.
    Differs from upstream in: positions in float64, there in float32.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        enc: Sequence[int],
        dec: Sequence[int],
        channels: int,
        patch: int,
        text_width: int,
        info: int | None = None,
    ):
        super().__init__()
        self.patch = patch
        self.x_embed = nn.Linear(channels * patch**2, width)
        self.text = nn.Linear(text_width, width)
        self.register_buffer("freqs", torch.empty(1, width // 2))  # stored with the weights
        self.time = nn.Linear(width, width)
        self.info = None
        if info is not None:
            self.info = nn.Sequential(nn.Linear(info, width), nn.Mish(), zero_linear(width, width))
        self.stack = hdm.Stack(width, heads, head_width, hidden, enc, dec)
        self.linear_out = nn.Linear(width, channels * patch**2)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, info: Tensor | None = None) -> Tensor:
        rows, columns = (n // self.patch for n in x.shape[2:])
        angle = 1000 * t[:, None] * self.freqs  # (B, D/2)
        c = F.mish(self.time(torch.cat([angle.cos(), angle.sin()], dim=-1)))  # (B, D)
        if self.info is not None and info is not None:
            c = c + self.info(info)
        pos = cell_centres(rows, columns).to(x)
        pos = torch.cat([pos, pos.new_zeros(text.shape[1], 2)]).expand(len(x), -1, -1)  # text at the centre
        tokens = torch.cat([self.x_embed(patchify(x, self.patch)), self.text(text)], dim=1)
        tokens, _ = self.stack(tokens, c, pos)
        return unpatchify(self.linear_out(tokens[:, : rows * columns]), self.patch, rows)

    def upstream(self) -> Names:
        return inside("stack", hdm_stack_names(self.stack)) | {
            "x_embed": PatchConv("in_patch.proj"),
            "text": "ctx_proj",
            "freqs": "time_emb.freqs",
            "time": "time_emb.proj.0",
            "info.0": "addon_info_embs_proj.0",
            "info.2": "addon_info_embs_proj.2",
            "linear_out": "out_patch.proj",
        }
