"""FLUX.3: what is left of two streams is modulation. Text, image and reference run apart, then as one sequence.

    [b, s, g] = W_m SiLU(c_m), six Linears for the model: early and joint, each for image, reference image and text
    n = LN(x) (1 + s) + b;   out = x + g * (Attn(n) + SwiGLU(n))        one norm, one gate

c is t_emb for image tokens, that of t = 0 for text and reference. Early blocks: each mode has its own and attends to
itself alone. Joint blocks: all tokens share the weights and differ in b, s, g alone. No bias in the whole model.
huggingface/diffusers, transformer_flux3.py. B batch, T image tokens, S text tokens, R of the reference, D width, d of a
head. Differs from upstream in: no target time of distilled models.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from adaln_lab.blocks.flux2 import Output, shared_modulation
from adaln_lab.blocks.parts import Attention, Rope, SwiGLU
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import Names, diffusers_attention, inside, numbered
from adaln_lab.norms import gated, layer_norm, modulate, split_vectors

ORDER = ("shift", "scale", "gate")
MODES = {"txt": "txt_mode_blocks", "image": "mode_blocks.image", "image_cond": "mode_blocks.image_cond"}  # in sequence


class Modulation(nn.ModuleDict):
    """One Linear for each mode: c of the image and c of time 0, (B, D) -> the vectors of each mode, (B, 1, 3 D)."""

    def __init__(self, width: int):
        super().__init__({mode: shared_modulation(width, 3) for mode in MODES})

    def forward(self, c: Tensor, c_zero: Tensor) -> list[Tensor]:
        return [self[mode](c if mode == "image" else c_zero).unsqueeze(1) for mode in MODES]


def per_token(vectors: list[Tensor], streams: list[Tensor]) -> Tensor:
    """The vectors of each mode (B, 1, N), once for each token of its stream: (B, S + T + R, N)."""
    return torch.cat([v.expand(-1, x.shape[1], -1) for v, x in zip(vectors, streams, strict=True)], dim=1)


class Block(nn.Module):
    """x (B, T, D), shared vectors (B, 1, 3 D), or (B, T, 3 D) in a joint block -> (B, T, D); rotary (T, d/2)."""

    UPSTREAM: ClassVar = {
        **diffusers_attention("attn", "attn"),
        "mlp.up": "ff.linear_in",
        "mlp.down": "ff.linear_out",
    }

    def __init__(self, width: int, heads: int, head_width: int, hidden: int):
        super().__init__()
        self.attn = Attention(width, heads, head_width=head_width, bias=False, out=False, qk_eps=1e-6)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Tensor, shared: Tensor, rope: Rope | None = None) -> Tensor:
        (m,) = split_vectors(shared, 1, ORDER)
        n = modulate(layer_norm(x), m)  # (B, T, D)
        return gated(x, self.attn(n, rope) + self.mlp(n), m.gate)


class Stack(nn.Module):
    """ctx (B, S, D), x (B, T, D), ref (B, R, D), c and c_zero (B, D), rotary (S + T + R, d/2) -> (B, T, out)."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, early: int, joint: int, out: int):
        super().__init__()

        def blocks(n: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, heads, head_width, hidden) for _ in range(n))

        self.to_early, self.to_joint = Modulation(width), Modulation(width)
        self.early = nn.ModuleDict({mode: blocks(early) for mode in MODES})
        self.joint = blocks(joint)
        self.output = Output(width, out)

    def forward(self, ctx: Tensor, x: Tensor, ref: Tensor, c: Tensor, c_zero: Tensor, rope: Rope) -> Tensor:
        streams, lengths = [ctx, x, ref], [ctx.shape[1], x.shape[1], ref.shape[1]]
        parts = zip(*(a.split(lengths, dim=-2) for a in rope), strict=True)  # cos and sin of each mode
        vectors = self.to_early(c, c_zero)
        for i, (blocks, shared, part) in enumerate(zip(self.early.values(), vectors, parts, strict=True)):
            for block in blocks:
                streams[i] = block(streams[i], shared, part)
        tokens = torch.cat(streams, dim=1)  # (B, S + T + R, D)
        shared = per_token(self.to_joint(c, c_zero), streams)
        for block in self.joint:
            tokens = block(tokens, shared, rope)
        return self.output(tokens.split(lengths, dim=1)[1], c.unsqueeze(1))

    def upstream(self) -> Names:
        names = inside("output", Output.UPSTREAM)
        names |= numbered("joint", "single_transformer_blocks", len(self.joint), Block.UPSTREAM)
        for mode, theirs in MODES.items():
            names[f"to_early.{mode}.1"] = f"early_stream_modulations.{mode}.linear"
            names[f"to_joint.{mode}.1"] = f"single_stream_modulations.{mode}.linear"
            names |= numbered(f"early.{mode}", theirs, len(self.early[mode]), Block.UPSTREAM)
        return names


SPEC = Spec(
    title="FLUX.3",
    repository="huggingface/diffusers, transformer_flux3.py",
    facts=Facts(
        order=ORDER,
        qk_norm="RMSNorm",
        shared="six Linears for the whole model",
        rows="one for each mode; t = 0 for text and reference",
        text="a stream of its own, then in the same one",
        zero="nothing",
    ),
    build=lambda width=16, heads=2: Block(width, heads, width // heads, 3 * width),
    inputs=("x", "shared"),
    width=3072,
    heads=24,
    full=from_diffusers("Flux3Transformer2DModel"),
    modulation=("stream_modulations", "norm_out.linear"),
    readers={"early_stream_modulations": 5, "single_stream_modulations": 28},
)
