"""MiniMax-H3: video, audio and text share every weight but those of modulation, of which each has its own.

    W SiLU(c_t) + bias, for each distinct time t: three rows [b1, s1, g1, b2, s2, g2], one for each modality
    token j reads row 3 t_j + m_j;   m = 0 video, 1 text, 2 audio
    u = x + g1 * Attn(RMS_1(x) (1 + s1) + b1);   out = u + g2 * SwiGLU(RMS_2(u) (1 + s2) + b2)

W belongs to the block and has 18 D rows: two fifths of the model. c is half as wide as the model, and its times are not
multiplied by 1000. The layout of the sequence is the same for all samples of a batch. The output layer has one row for
each time, a norm with weight, and two heads. Refiner blocks, for the text, have no modulation.
huggingface/diffusers, transformer_minimax_h3.py. B batch, T tokens, R times, D width, C width of c, d of a head.
Differs from upstream in: nothing.
"""

from typing import ClassVar

from torch import Tensor, nn

from adaln_lab.blocks.parts import Attention, Rope, SwiGLU, rotate_halves
from adaln_lab.blocks.spec import Facts, Spec, from_diffusers
from adaln_lab.blocks.upstream import SwappedHalves, diffusers_attention
from adaln_lab.norms import gated, modulate, split_vectors

ORDER = ("shift", "scale", "gate")
MODALITIES = 3


def rows(t_index: Tensor, modality: Tensor) -> Tensor:
    """The row of vectors that each token reads, from the indices of its time and its modality, int64 (T,)."""
    return MODALITIES * t_index + modality


class Block(nn.Module):
    """x (B, T, D), c (R, C), row (T,) int64, below 3 R -> (B, T, D); rotary cos and sin (T, r), r <= d/2."""

    UPSTREAM: ClassVar = {
        "norm_attn": "norm1",
        **diffusers_attention("attn", "attn"),
        "norm_mlp": "norm2",
        "mlp.up": SwappedHalves("ff.net.0.proj"),  # upstream has the value first, then the gate
        "mlp.down": "ff.net.2",
        "to_modulation.1": "adaln_proj.linear",
    }

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        c_width: int,
        eps: float = 1e-5,
        qk_eps: float = 1e-5,
    ):
        super().__init__()
        self.norm_attn = nn.RMSNorm(width, eps=eps)
        self.attn = Attention(
            width, heads, head_width=head_width, bias=False, out=False, qk_eps=qk_eps, rotate=rotate_halves
        )
        self.norm_mlp = nn.RMSNorm(width, eps=eps)
        self.mlp = SwiGLU(width, hidden)
        self.to_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c_width, MODALITIES * 6 * width))

    def forward(self, x: Tensor, c: Tensor, row: Tensor, rope: Rope | None = None) -> Tensor:
        table = self.to_modulation(c).unflatten(-1, (MODALITIES, -1)).flatten(0, 1)  # (3 R, 6 D)
        attn, mlp = split_vectors(table.index_select(0, row).unsqueeze(0), 2, ORDER)  # each (1, T, D)
        x = gated(x, self.attn(modulate(self.norm_attn(x), attn), rope), attn.gate)  # (B, T, D)
        return gated(x, self.mlp(modulate(self.norm_mlp(x), mlp)), mlp.gate)


class Output(nn.Module):
    """x (B, T, D), c (R, C), t_index (T,) -> video (B, T, out) and audio (B, T, audio_out), both of every token."""

    UPSTREAM: ClassVar = {
        "norm": "norm_out.norm",
        "to_modulation.1": "norm_out.linear",
        "video": "proj_out",
        "audio": "audio_proj_out",
    }

    def __init__(self, width: int, c_width: int, out: int, audio_out: int, eps: float = 1e-5):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=eps)
        self.to_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c_width, 2 * width))
        self.video = nn.Linear(width, out)
        self.audio = nn.Linear(width, audio_out)

    def forward(self, x: Tensor, c: Tensor, t_index: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.to_modulation(c).index_select(0, t_index).unsqueeze(0)  # (1, T, 2 D)
        (m,) = split_vectors(vectors, 1, ("shift", "scale"))
        h = modulate(self.norm(x), m)
        return self.video(h), self.audio(h)


SPEC = Spec(
    title="MiniMax-H3",
    repository="huggingface/diffusers, transformer_minimax_h3.py",
    facts=Facts(
        norm="RMSNorm",
        affine=True,
        qk_norm="RMSNorm",
        rows="one for each time and modality",
        text="tokens in the same stream",
        zero="nothing",
    ),
    build=lambda width=16, heads=2: Block(width, heads, 4 * width // (3 * heads), 8 * width // 3, min(width, 2688)),
    inputs=("x", "c", "row"),
    width=5376,
    heads=56,
    full=from_diffusers("MiniMaxH3Transformer3DModel"),
    modulation=("adaln_proj", "norm_out.linear"),
    c_width=2688,
)
