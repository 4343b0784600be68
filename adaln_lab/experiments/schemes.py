"""Residual schemes: a dozen published ways to add a branch to the residual stream, in one block.

    x = x + a * F(LN(x) * (1 + scale) + shift)           without norm: F(x);  post-norm: x = LN(x + F(x))

They differ in the place of the norm, in what the gate a depends on, and in its initial value:

    post-norm     arXiv 1706.03762, Fig. 1          ReZero        2003.04887, Eq. 1: no norm, one number a branch, 0
    pre-norm      2002.04745, Sec. 3.3              SkipInit      2002.10444: the same, here 1/sqrt(branches)
    LayerScale    2103.17239, Eq. 4: a fixed small  Fixup-like    1901.09321, Sec. 3: no norm, last Linear 0,
                  number a channel, then learned                  the others of the branch smaller with depth
    adaLN, adaLN-Zero 2212.09748, Sec. 3.2          tanh, 1 + g   only the gates of Lumina-Image 2.0 and HDM

B batch, T tokens, D width, C width of c, L blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adaln_lab.conditioning import Block, BlockCondition, Condition
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.layers import MLP, SelfAttention
from adaln_lab.norms import Modulation, ToModulation, gated, layer_norm, modulate
from adaln_lab.utils.checks import one_of


@dataclass(frozen=True)
class Scheme:
    """One residual scheme. Vectors from c need norm "pre", and exclude a learned gate."""

    norm: str = "pre"  # "pre", "post" or "none"
    order: tuple[str, ...] = ()  # the vectors that are computed from c
    zero: bool = True  # these vectors start at 0
    learned: str = ""  # a gate that is a parameter: "scalar" or "channel"
    start: Callable[[int], float] = lambda _branches: 0.0  # its first value, from the number of branches in the model
    kind: str = "identity"  # the function applied to the gate, a key of GATES
    fixup: bool = False  # last Linear of a branch 0, the others divided by sqrt(branches)


def _layer_scale(branches: int) -> float:
    """CaiT's rule for its depths: 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond."""
    return 0.1 if branches <= 36 else 1e-5 if branches <= 48 else 1e-6


SHIFT_SCALE, ALL = ("shift", "scale"), ("shift", "scale", "gate")
SCHEMES: dict[str, Scheme] = {
    "post-norm": Scheme(norm="post"),
    "pre-norm": Scheme(),
    "ReZero": Scheme(norm="none", learned="scalar"),
    "SkipInit": Scheme(norm="none", learned="scalar", start=lambda branches: branches**-0.5),
    "LayerScale": Scheme(learned="channel", start=_layer_scale),
    "Fixup-like": Scheme(norm="none", learned="scalar", start=lambda _branches: 1.0, fixup=True),
    "adaLN": Scheme(order=SHIFT_SCALE, zero=False),
    "adaLN, zero start": Scheme(order=SHIFT_SCALE),
    "adaLN, random gate": Scheme(order=ALL, zero=False),
    "adaLN-Zero": Scheme(order=ALL),
    "tanh gate": Scheme(order=ALL, kind="tanh"),
    "1 + g gate": Scheme(order=ALL, kind="one_plus"),
}


class SchemeBlock(Block):
    """Attention and MLP, each added to the stream by the scheme. Norms that c does not modulate have gamma and beta."""

    def __init__(self, scheme: Scheme, depth: int, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.scheme = scheme
        self.uses_ctx_as_tokens = not scheme.order  # without modulation the condition is given as tokens
        self.attn = SelfAttention(width, heads)
        self.mlp = MLP(width, mlp_ratio)
        if scheme.order:
            self.to_modulation = ToModulation(c_width, width, branches=2, order=scheme.order, zero=scheme.zero)
        elif scheme.norm != "none":
            self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        if scheme.learned:
            shape = (2, 1, width if scheme.learned == "channel" else 1)
            self.gates = nn.Parameter(torch.full(shape, scheme.start(2 * depth)))
        if scheme.fixup:
            for inner, last in ((self.attn.qkv, self.attn.out), (self.mlp.up, self.mlp.down)):
                inner.weight.data /= (2 * depth) ** 0.5
                nn.init.zeros_(last.weight)

    def precompute(self, cond: Condition) -> BlockCondition:
        return BlockCondition(self.to_modulation(cond.c)) if self.scheme.order else BlockCondition()

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        scheme, own = self.scheme, [Modulation(gate=gate) for gate in self.gates] if self.scheme.learned else None
        for i, branch in enumerate((self.attn, self.mlp)):
            m = (pre.modulations or own or 2 * [Modulation()])[i]
            h = x
            if scheme.norm == "pre":
                h = modulate(layer_norm(x), m) if scheme.order else self.norms[i](x)
            x = gated(x, branch(h), m.gate, scheme.kind)  # (B, T, D)
            if scheme.norm == "post":
                x = self.norms[i](x)
        return x


def deep_dit(name: str, config: DiTConfig, seed: int = 0) -> TinyDiT:
    """A TinyDiT with blocks of the named scheme.

    Without modulation the condition is given as tokens and the last norm is plain, as in the variant "in_context". For
    one seed the embeddings and the zero output layer are the same in all schemes, the blocks are not.
    """
    scheme = SCHEMES[one_of("scheme", name, SCHEMES)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyDiT(replace(config, variant="adaln_zero" if scheme.order else "in_context"))
        sizes = (config.depth, config.width, config.heads, config.width, config.mlp_ratio)
        model.blocks = nn.ModuleList(SchemeBlock(scheme, *sizes) for _ in range(config.depth))
    return model
