"""How a branch joins the stream: a dozen answers, one block that can be any of them.

    x <- x + a * F(LN(x) * (1 + scale) + shift)           without norm: F(x);  post-norm: x <- LN(x + F(x))

They differ in where the norm stands, what the gate a is made of, and where it starts:

    post-norm     arXiv 1706.03762, Fig. 1          ReZero        2003.04887, Eq. 1: no norm, one number a branch, 0
    pre-norm      2002.04745, Sec. 3.3              SkipInit      2002.10444: the same, here 1/sqrt(branches)
    LayerScale    2103.17239, Eq. 4: a fixed small  Fixup-like    1901.09321, Sec. 3: no norm, last Linear 0,
                  number a channel, then learned                  the others of the branch smaller with depth
    adaLN, adaLN-Zero 2212.09748, Sec. 3.2          tanh, 1 + g   as in Lumina-Image 2.0 and HDM, by the gate alone

B batch, T tokens, D width, C width of c, L blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adaln_lab.conditioning import Block, BlockCondition, Condition
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.layers import MLP, SelfAttention
from adaln_lab.norms import GATES, Modulation, ToModulation, gated, layer_norm, modulate


@dataclass(frozen=True)
class Scheme:
    """One way for a branch to join the stream. `start` gives a learned gate's first value from the branches' number."""

    norm: str = "pre"  # "pre", "post" or "none"
    order: tuple[str, ...] = ()  # the vectors that c makes; with "gate" among them the gate is a function of c
    zero: bool = True  # do those vectors start at 0?
    learned: str = ""  # a gate that is a parameter: "scalar" or "channel"
    start: Callable[[int], float] = lambda _branches: 0.0
    kind: str = "identity"  # what is done to the gate, a key of norms.GATES
    fixup: bool = False  # last Linear of a branch 0, the others divided by sqrt(branches)

    def __post_init__(self) -> None:
        if self.norm not in ("pre", "post", "none") or self.learned not in ("", "scalar", "channel"):
            raise ValueError(f"norm must be pre, post or none, learned scalar, channel or empty; got {self}")
        if self.kind not in GATES:
            raise ValueError(f"kind must be one of {', '.join(GATES)}; got {self.kind!r}")
        if self.order and (self.norm != "pre" or self.learned):
            raise ValueError(f"vectors from c need norm='pre' and no learned gate beside them; got {self}")


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


def find_scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}; got {name!r}")
    return SCHEMES[name]


class SchemeBlock(Block):
    """Attention and MLP, each joining the stream as the scheme says. What c does not modulate has learned norms."""

    def __init__(self, scheme: Scheme, depth: int, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.scheme = scheme
        self.uses_ctx_as_tokens = not scheme.order  # a condition that modulates nothing comes as tokens
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
    """A TinyDiT whose blocks join the stream by the named scheme.

    A scheme that modulates nothing gets the condition as in-context does: as tokens, with a plain last norm. For one
    seed, embeddings and zero head start alike in all schemes, the blocks do not.
    """
    scheme = find_scheme(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyDiT(replace(config, variant="adaln_zero" if scheme.order else "in_context"))
        sizes = (config.depth, config.width, config.heads, config.width, config.mlp_ratio)
        model.blocks = nn.ModuleList(SchemeBlock(scheme, *sizes) for _ in range(config.depth))
    return model
