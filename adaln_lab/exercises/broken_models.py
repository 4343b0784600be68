"""Ten broken DiTs, one per letter. Most of these bugs were reported or asked about in public; notebook 09 says where.

    model = broken_model("A");   report, onset = xray_and_onset(model)

A bug is one changed line of the adaLN-Zero block or of the code around it; the rest is the course's own model. All
blocks have the same class name, because a report prints it. `BUGS` lists the diagnoses in alphabetical order, not in
the order of the letters.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adaln_lab.analysis.gradient_onset import GradientOnset, measure_gradient_onset
from adaln_lab.analysis.xray import Report, xray
from adaln_lab.conditioning import AdaLNZeroBlock, BlockCondition
from adaln_lab.dit import DiTConfig, FinalLayer, TinyDiT
from adaln_lab.layers import zero_linear
from adaln_lab.norms import Modulation, ToModulation, layer_norm, modulate

BUGS = (
    "double affine: the norm under the modulation has weights of its own",
    "gate on the MLP branch only",
    "last layer: the condition does not reach it",
    "MLP branch calls the attention",
    "scale and shift swapped: not DiT's chunk order",
    "sigmoid on the gate",
    "stream rebound: the skip carries the modulated norm",
    "zero times zero: gate and branch both start at zero",
    "zeros missing: the modulation starts like any Linear",
    "zeros undone: initialised again after it was built",
)
CONFIG = DiTConfig(width=32, depth=2)


def with_vectors(change: Callable[[Modulation], Modulation]) -> type[AdaLNZeroBlock]:
    """The right block, given other vectors."""

    class Changed(AdaLNZeroBlock):
        def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
            return super().forward_with(x, pre._replace(modulations=tuple(map(change, pre.modulations))))

    return Changed


Swapped = with_vectors(lambda m: Modulation(shift=m.scale, scale=m.shift, gate=m.gate))
SigmoidGate = with_vectors(lambda m: m._replace(gate=torch.sigmoid(m.gate)))
# `scale` without `1 +`; has no letter, because its gradient onset is that of zero times zero
NoOnePlus = with_vectors(lambda m: m._replace(scale=m.scale - 1))


class DoubleAffine(AdaLNZeroBlock):
    def __init__(self, width: int, *sizes: Any):
        super().__init__(width, *sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = x + attn.gate * self.attn(modulate(self.norms[0](x), attn))  # (B, T, D)
        return x + mlp.gate * self.mlp(modulate(self.norms[1](x), mlp))


class OneGate(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = x + self.attn(modulate(layer_norm(x), attn))  # (B, T, D)
        return x + mlp.gate * self.mlp(modulate(layer_norm(x), mlp))


class AttentionTwice(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        for m in pre.modulations:
            x = x + m.gate * self.attn(modulate(layer_norm(x), m))  # (B, T, D)
        return x


class Rebound(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        for m, branch in zip(pre.modulations, (self.attn, self.mlp), strict=True):
            x = modulate(layer_norm(x), m)  # (B, T, D)
            x = x + m.gate * branch(x)
        return x


class ZeroTimesZero(AdaLNZeroBlock):
    def __init__(self, width: int, *sizes: Any):
        super().__init__(width, *sizes)
        self.attn.out, self.mlp.down = zero_linear(width, width), zero_linear(self.mlp.down.in_features, width)


class ZerosMissing(AdaLNZeroBlock):
    def __init__(self, width: int, heads: int, c_width: int, *rest: Any):
        super().__init__(width, heads, c_width, *rest)
        self.to_modulation = ToModulation(c_width, width, zero=False)


class GateOnSum(AdaLNZeroBlock):
    """gate * (x + F(h)); has no letter, because an untrained stack of these predicts 0 like the right one."""

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        for m, branch in zip(pre.modulations, (self.attn, self.mlp), strict=True):
            x = m.gate * (x + branch(modulate(layer_norm(x), m)))  # (B, T, D)
        return x


class UnconditionedFinalLayer(FinalLayer):
    def forward_with(self, x: Tensor, pre: Modulation) -> Tensor:
        return self.linear(layer_norm(x))


def with_blocks(block: type[AdaLNZeroBlock]) -> TinyDiT:
    """The course's DiT with blocks of this class, renamed to Block."""
    block = type("Block", (block,), {})
    model = TinyDiT(CONFIG)
    sizes = CONFIG.width, CONFIG.heads, CONFIG.width, CONFIG.mlp_ratio
    model.blocks = nn.ModuleList(block(*sizes) for _ in range(CONFIG.depth))
    return model


def unconditioned_at_the_end() -> TinyDiT:
    model = with_blocks(AdaLNZeroBlock)
    model.final = UnconditionedFinalLayer(CONFIG.width, CONFIG.width, CONFIG.channels * CONFIG.patch**2)
    return model


def initialised_again() -> TinyDiT:
    def xavier(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)

    return with_blocks(AdaLNZeroBlock).apply(xavier)


MODELS: dict[str, Callable[[], TinyDiT]] = {
    "correct": lambda: with_blocks(AdaLNZeroBlock),
    "A": lambda: with_blocks(SigmoidGate),
    "B": lambda: with_blocks(AttentionTwice),
    "C": lambda: with_blocks(ZerosMissing),
    "D": lambda: with_blocks(DoubleAffine),
    "E": initialised_again,
    "F": lambda: with_blocks(Swapped),
    "G": lambda: with_blocks(ZeroTimesZero),
    "H": unconditioned_at_the_end,
    "I": lambda: with_blocks(OneGate),
    "J": lambda: with_blocks(Rebound),
    "twin of G": lambda: with_blocks(NoOnePlus),
}


def two_starts(name: str, seed: int) -> TinyDiT:
    """Notebook 03: "block A" is right; one line of "block B" differs, and its gates never open. In float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return with_blocks({"block A": AdaLNZeroBlock, "block B": ZeroTimesZero}[name]).double()


def mystery_block(number: int) -> AdaLNZeroBlock:
    """One of four broken blocks, 1 to 4, fresh and in float64; 0 is the right one. All are called Block."""
    kinds = (AdaLNZeroBlock, NoOnePlus, AttentionTwice, GateOnSum, SigmoidGate)
    if number not in range(len(kinds)):
        raise ValueError(f"number must be 0 to {len(kinds) - 1}, got {number!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type("Block", (kinds[number],), {})(12, 2, 12).double()


def broken_model(letter: str) -> TinyDiT:
    """One broken model, fresh and in float64, the same at every call; "correct" is the model without a bug."""
    if letter not in MODELS:
        raise ValueError(f"expected one of {', '.join(MODELS)}; got {letter!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[letter]().double()


def xray_and_onset(model: TinyDiT) -> tuple[Report, GradientOnset]:
    """The x-ray of a model, and its gradient onset in the first three backward passes, by role."""
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 3, 1, 8, 8, generator=generator, dtype=torch.float64)
    t, y = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), torch.tensor([3, 7, 10])
    report = xray(model, lambda: model(x, t, y))
    onset = measure_gradient_onset(model, lambda model: (model(x, t, y) - v).square().mean(), steps=3, lr=0.5)
    return report, onset.by_role()
