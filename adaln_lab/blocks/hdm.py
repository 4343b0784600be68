"""HDM (XUT): modulation shared by all blocks, a gate that starts at one, and no unmodulated residual stream.

    [s, b, g] = MLP(c), one MLP for all self-attentions, one for all cross-attentions, one for all MLPs of the model
    a = RMS_1(x) (1 + s1) + b1;   u = a + (1 + g1) * Attn(a)        the residual is a, not x
    m = RMS_3(u) (1 + s3) + b3;   out = m + (1 + g3) * SwiGLU(m)

Encoder groups, then decoder groups; the first block of each decoder group has a third branch, cross-attention to the
encoder's output, between the two above. Text tokens follow the image tokens. Rotary positions have learned frequencies,
for each head its own. KohakuBlueleaf/HDM, src/xut. B batch, T tokens, D width, H heads, d width of a head.
Differs from upstream in: no token dropping in training (TREAD), no masks.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from adaln_lab.blocks.parts import Rope, SwiGLU, attention, rotate
from adaln_lab.blocks.spec import Facts, Spec
from adaln_lab.blocks.upstream import prefixed
from adaln_lab.layers import zero_linear
from adaln_lab.norms import Modulation, ToModulation, gated, modulate, split_vectors

ORDER = ("scale", "shift", "gate")


class AxialRope(nn.Module):
    """Positions pos (B, T, axes) -> cos and sin (B, H, T, d/2); the frequencies are learned, per head and axis."""

    def __init__(self, heads: int, head_width: int, axes: int = 2):
        super().__init__()
        octaves = torch.linspace(0, 1, head_width // (2 * axes))[:, None] * torch.log(torch.tensor(5.0))  # pi .. 5 pi
        self.freqs = nn.Parameter((octaves + torch.log(torch.tensor(torch.pi))).repeat(heads, 1, axes))  # log

    def forward(self, pos: Tensor | None) -> Rope | None:
        if pos is None:
            return None
        angles = (pos[:, :, None, None] * self.freqs.exp()).flatten(-2).transpose(1, 2)  # (B, H, T, d/2)
        return angles.cos(), angles.sin()


def _heads(h: Tensor, d: int) -> Tensor:
    return h.unflatten(-1, (-1, d)).transpose(1, 2)  # (B, H, T, d)


class Attention(nn.Module):
    """Self-attention of h (B, T, D); q, k, v without bias."""

    NAMES: ClassVar = {"qkv": "qkv", "out": "out", "rope.freqs": "rope.freqs"}

    def __init__(self, width: int, heads: int, head_width: int, axes: int = 2):
        super().__init__()
        self.d = head_width
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)
        self.rope = AxialRope(heads, head_width, axes)

    def forward(self, h: Tensor, pos: Tensor | None = None) -> Tensor:
        q, k, v = (_heads(a, self.d) for a in self.qkv(h).chunk(3, dim=-1))
        rope = self.rope(pos)
        return self.out(attention(q, k, v) if rope is None else attention(rotate(q, *rope), rotate(k, *rope), v))


class CrossAttention(nn.Module):
    """Cross-attention of h (B, T, D) to ctx (B, S, D'); both sets of positions use the same frequencies."""

    NAMES: ClassVar = {"q": "q", "kv": "kv", "out": "out", "rope.freqs": "rope.freqs"}

    def __init__(self, width: int, heads: int, head_width: int, ctx_width: int, axes: int = 2):
        super().__init__()
        self.d = head_width
        self.q = nn.Linear(width, heads * head_width, bias=False)
        self.kv = nn.Linear(ctx_width, 2 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)
        self.rope = AxialRope(heads, head_width, axes)

    def forward(self, h: Tensor, ctx: Tensor, pos: Tensor | None = None, ctx_pos: Tensor | None = None) -> Tensor:
        q, (k, v) = _heads(self.q(h), self.d), (_heads(a, self.d) for a in self.kv(ctx).chunk(2, dim=-1))
        q = q if pos is None else rotate(q, *self.rope(pos))
        k = k if ctx_pos is None else rotate(k, *self.rope(ctx_pos))
        return self.out(attention(q, k, v))


class Modulations(NamedTuple):
    """One modulation for each kind of branch; in a whole model, the same for all blocks."""

    attn: Modulation
    cross: Modulation | None
    mlp: Modulation


class Block(nn.Module):
    """x (B, T, D) -> (B, T, D), modulated from c (B, D) by its own Linears or by `shared`; ctx for cross-attention."""

    UPSTREAM: ClassVar = (
        {f"norm_{a}": f"{b}_pre_norm.norm" for a, b in (("attn", "attn"), ("cross", "xattn"), ("mlp", "mlp"))}
        | {f"to_{a}.linear": f"{b}_pre_norm.adaln" for a, b in (("attn", "attn"), ("cross", "xattn"), ("mlp", "mlp"))}
        | prefixed("attn", "attn", Attention.NAMES)
        | prefixed("cross", "xattn", CrossAttention.NAMES)
        | {"mlp.up": "mlp.w12", "mlp.down": "mlp.w3"}
    )

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        own_modulation: bool = True,
        ctx_width: int | None = None,
        axes: int = 2,
    ):
        super().__init__()

        def to_modulation() -> ToModulation | None:
            return ToModulation(width, width, branches=1, order=ORDER, silu=False) if own_modulation else None

        self.to_attn, self.norm_attn = to_modulation(), nn.RMSNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, head_width, axes)
        self.to_cross = self.norm_cross = self.cross = None
        if ctx_width is not None:
            self.to_cross, self.norm_cross = to_modulation(), nn.RMSNorm(width, eps=1e-6)
            self.cross = CrossAttention(width, heads, head_width, ctx_width, axes)
        self.to_mlp, self.norm_mlp = to_modulation(), nn.RMSNorm(width, eps=1e-6)
        self.mlp = SwiGLU(width, hidden, bias=True)

    def modulation(self, c: Tensor) -> Modulations:
        """From c (B, D), by the block's own Linears."""
        parts = self.to_attn, self.to_cross, self.to_mlp
        return Modulations(*(None if part is None else part(c)[0] for part in parts))

    def forward(
        self,
        x: Tensor,
        c: Tensor | None,
        ctx: Tensor | None = None,
        shared: Modulations | None = None,
        pos: Tensor | None = None,
        ctx_pos: Tensor | None = None,
    ) -> Tensor:
        attn, cross, mlp = self.modulation(c) if shared is None else shared
        x = modulate(self.norm_attn(x), attn)  # x itself is replaced, so the residual is modulated
        x = gated(x, self.attn(x, pos), attn.gate, "one_plus")
        if self.cross is not None:
            x = modulate(self.norm_cross(x), cross)
            x = gated(x, self.cross(x, ctx, pos, ctx_pos), cross.gate, "one_plus")
        x = modulate(self.norm_mlp(x), mlp)
        return gated(x, self.mlp(x), mlp.gate, "one_plus")


class SharedMLP(nn.Module):
    """c (B, D) -> scale, shift, gate for one kind of branch in all blocks. The last Linear starts at zero: gate 1."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Mish(), zero_linear(4 * width, 3 * width)
        )
        self.order = ORDER

    def forward(self, c: Tensor) -> tuple[Modulation, ...]:
        return split_vectors(self.layers(c).unsqueeze(1), 1, ORDER)


class Stack(nn.Module):
    """x (B, T, D), c (B, D), positions pos (B, T, 2) -> outputs of the decoder and of the encoder, (B, T, D)."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, enc: Sequence[int], dec: Sequence[int]):
        super().__init__()
        self.shared = nn.ModuleDict({name: SharedMLP(width) for name in Modulations._fields})
        sizes = width, heads, head_width, hidden, False  # no modulation of its own
        self.enc = nn.ModuleList(nn.ModuleList(Block(*sizes) for _ in range(n)) for n in enc)
        self.dec = nn.ModuleList(
            nn.ModuleList(Block(*sizes, ctx_width=None if i else width) for i in range(n)) for n in dec
        )

    def forward(self, x: Tensor, c: Tensor, pos: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shared = Modulations(**{name: mlp(c)[0] for name, mlp in self.shared.items()})
        for group in self.enc:
            for block in group:
                x = block(x, None, shared=shared, pos=pos)
        encoded = x
        for group in self.dec:
            for block in group:
                x = block(x, None, encoded, shared, pos, pos)
        return x, encoded


def full_model() -> nn.ModuleDict:
    """XUT-base: its layers, with one block before token dropping and three after it (see "differs" above)."""
    width, sizes = 1024, {"heads": 16, "head_width": 64, "hidden": 3072}
    more = (Block(width, **sizes, own_modulation=False) for _ in range(4))
    layers = {
        "stack": Stack(width, **sizes, enc=4 * (1,), dec=4 * (3,)),
        "dropping": nn.ModuleList(more),
        "x_embed": nn.Linear(4 * 2**2, width),
        "text": nn.Linear(1024, width),
        "time": nn.Linear(width, width),
        "info": nn.Sequential(nn.Linear(1, width), nn.Mish(), nn.Linear(width, width)),
        "linear_out": nn.Linear(width, 4 * 2**2),
    }
    return nn.ModuleDict(layers)


SPEC = Spec(
    title="HDM (XUT-base)",
    repository="KohakuBlueleaf/HDM, src/xut/modules/transformer.py",
    facts=Facts(
        norm="RMSNorm",
        affine=True,
        c="time + size",
        act="none (c ends in Mish)",
        order=2 * ORDER,
        gate="1 + g",
        shared="three MLPs for the whole model",
        text="tokens in the same stream",
        zero="the last Linear of each shared MLP",
    ),
    build=lambda width=16, heads=2: Block(width, heads, width // heads, 3 * width),
    inputs=("x", "c"),
    width=1024,
    heads=16,
    full=full_model,
    modulation=("shared.",),
    readers={"shared.attn": 20, "shared.cross": 4, "shared.mlp": 20},
)
