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

from adaln_lab.blocks.flux2 import shared_modulation
from adaln_lab.blocks.parts import Attention, Rope, SwiGLU
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import diffusers_attention
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
