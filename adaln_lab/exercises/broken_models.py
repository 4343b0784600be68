"""The bug museum, part two: ten broken DiTs, each behind a letter. Every one of these bugs was once shipped.

    model = museum.patient("A");   report, wakeup = museum.examine(model)

A bug is one changed line of the adaLN-Zero block, or of what surrounds it; all the rest is the course's own model. The
blocks share one name, since a report shows it. `BUGS` has the diagnoses, in alphabetical order and not in the letters'.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adaln_lab.analysis.wakeup import WakeUp, probe_wakeup
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


def changed(pre: BlockCondition, change: Callable[[Modulation], Modulation]) -> BlockCondition:
    return pre._replace(modulations=tuple(map(change, pre.modulations)))


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


class Swapped(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        return super().forward_with(x, changed(pre, lambda m: Modulation(shift=m.scale, scale=m.shift, gate=m.gate)))


class SigmoidGate(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        return super().forward_with(x, changed(pre, lambda m: m._replace(gate=torch.sigmoid(m.gate))))


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


class NoOnePlus(AdaLNZeroBlock):
    """Behind no letter: `scale` without `1 +` shows the same chart as zero times zero."""

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        return super().forward_with(x, changed(pre, lambda m: m._replace(scale=m.scale - 1)))


class DeafFinalLayer(FinalLayer):
    def forward_with(self, x: Tensor, pre: Modulation) -> Tensor:
        return self.linear(layer_norm(x))


def made_of(block: type[AdaLNZeroBlock]) -> TinyDiT:
    """The course's DiT with blocks of this class, which are all called Block."""
    block = type("Block", (block,), {})
    model = TinyDiT(CONFIG)
    sizes = CONFIG.width, CONFIG.heads, CONFIG.width, CONFIG.mlp_ratio
    model.blocks = nn.ModuleList(block(*sizes) for _ in range(CONFIG.depth))
    return model


def deaf_at_the_end() -> TinyDiT:
    model = made_of(AdaLNZeroBlock)
    model.final = DeafFinalLayer(CONFIG.width, CONFIG.width, CONFIG.channels * CONFIG.patch**2)
    return model


def initialised_again() -> TinyDiT:
    def xavier(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)

    return made_of(AdaLNZeroBlock).apply(xavier)


PATIENTS: dict[str, Callable[[], TinyDiT]] = {
    "healthy": lambda: made_of(AdaLNZeroBlock),
    "A": lambda: made_of(SigmoidGate),
    "B": lambda: made_of(AttentionTwice),
    "C": lambda: made_of(ZerosMissing),
    "D": lambda: made_of(DoubleAffine),
    "E": initialised_again,
    "F": lambda: made_of(Swapped),
    "G": lambda: made_of(ZeroTimesZero),
    "H": deaf_at_the_end,
    "I": lambda: made_of(OneGate),
    "J": lambda: made_of(Rebound),
    "twin of G": lambda: made_of(NoOnePlus),
}


def patient(letter: str) -> TinyDiT:
    """One broken model, fresh and in float64, the same at every call; "healthy" is the model without a bug."""
    if letter not in PATIENTS:
        raise ValueError(f"the museum has {', '.join(PATIENTS)}; got {letter!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PATIENTS[letter]().double()


def examine(model: TinyDiT) -> tuple[Report, WakeUp]:
    """What the x-ray says of a model, and who hears its loss in the first three backward passes, by role."""
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 3, 1, 8, 8, generator=generator, dtype=torch.float64)
    t, y = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), torch.tensor([3, 7, 10])
    report = xray(model, lambda: model(x, t, y))
    heard = probe_wakeup(model, lambda model: (model(x, t, y) - v).square().mean(), steps=3, lr=0.5)
    return report, heard.by_role()
