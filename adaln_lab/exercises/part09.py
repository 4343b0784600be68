"""Exercises of notebook 09: a tracer's two questions, a block that it misses, how far a gate is open, ten diagnoses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.analysis.xray import xray
from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Design, Predict
from adaln_lab.layers import MLP, xavier_linear
from adaln_lab.norms import layer_norm


def varies(made: Tensor) -> tuple[Tensor, Tensor]:
    """made (B, T, N), output of one Linear -> how far it varies over tokens, and how far over items."""
    over_tokens = (made.amax(1) - made.amin(1)).max()
    over_items = (made.amax(0) - made.amin(0)).max()
    return over_tokens, over_items


register(
    Exercise,
    question="Say how far the outputs of a Linear vary over the tokens of an item, and how far over items.",
    solution=varies,
    returns=("over_tokens", "over_items"),
    cases=lambda: [
        (randn64(3, 5, 6),),
        (randn64(3, 1, 6, seed=1).expand(3, 5, 6),),
        (randn64(1, 5, 6, seed=2).expand(3, 5, 6),),
        (randn64(1, 4, 7, seed=3),),
    ],
    hints=(
        "How far numbers vary: the largest minus the smallest. Along which axis are the tokens?",
        "made.amax(1) - made.amin(1) is (B, N): a range for each item and channel. The largest counts.",
        "(made.amax(1) - made.amin(1)).max(), and the same with axis 0 for items.",
    ),
    mistakes="""
axes swapped
    Your two answers are swapped: items are the first axis, tokens the second.
    over_tokens, over_items => over_items, over_tokens
tokens of all items
    For the tokens you compare across items as well. Two items may differ; compare inside each item.
    made.amax(1) - made.amin(1) => made.amax((0, 1)) - made.amin((0, 1))
channels compared
    You compare the channels of a token with each other. A vector's channels always differ; compare its tokens.
    made.amax(1) - made.amin(1) => made.amax(2) - made.amin(2)
items of the mean
    You average tokens before you compare items. Items whose tokens differ may have the same mean.
    made.amax(0) - made.amin(0) => made.mean(1).amax(0) - made.mean(1).amin(0)
only the first item
    For the tokens you look at the first item only; another one may vary more.
    (made.amax(1) - made.amin(1)) => (made.amax(1) - made.amin(1))[0]
smallest not largest
    You return the smallest range; one channel that varies is enough, so the largest counts.
    every .max() => .min()
deviation for range
    One token that differs hardly moves your numbers: a deviation averages. Take the largest minus the least.
    return made.std(1, correction=0).max(), made.std(0, correction=0).max()
unbiased deviation for range
    One token that differs hardly moves your numbers, and one item gives nan. Take the largest minus the least.
    return made.std(1).max(), made.std(0).max()
compared with the first
    You compare with the first token and the first item: two others may lie further apart, one above and one below it.
    return (made - made[:, :1]).abs().max(), (made - made[:1]).abs().max()
compared with the next
    You compare neighbours: many small steps in one direction are a large range.
    return made.diff(dim=1).abs().max(), torch.cat([made, made[-1:]]).diff(dim=0).abs().max()
mean of the ranges
    One channel that varies hardly moves your numbers: you average the ranges, and the largest counts.
    every .max() => .mean()
""",
)


def moves(x: Tensor, module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Does module(x) move by more than 1e-6 when the parameter `name` is nudged? -> 1. or 0., and the parameter."""
    p = module.get_parameter(name).data
    before, kept = module(x), p.clone()
    p += torch.rand(p.shape)
    return ((module(x) - before).abs().max() > 1e-6).to(x), p.copy_(kept)


class Case(nn.Module):
    """Three Linears: one in use, one that starts at zero, one that is never called. In float32, for rounding errors."""

    def __init__(self):
        super().__init__()
        self.first, self.zero, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        for i, p in enumerate(self.parameters()):
            p.data = randn64(*p.shape, seed=i).float()
        self.zero.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.zero(x)


class Shy(nn.Module):
    """A bias before a norm, which subtracts the mean of its numbers."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.full((6,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x + self.bias, (6,))


register(
    Exercise,
    question="Nudge one parameter, say whether the output moves, and put the parameter back bit for bit.",
    solution=moves,
    returns=("moved", "parameter"),
    cases=lambda: [
        (randn64(2, 5, 6).float(), Shy() if name == "bias" else Case(), name)
        for name in ("first.weight", "zero.weight", "bias", "unused.weight")
    ],
    hints=(
        "Four steps: keep a copy and the output, nudge in place, ask again, copy back.",
        "p = module.get_parameter(name).data; p.clone() keeps it, p += ... nudges it, p.copy_(kept) restores it.",
        "Nudge by torch.rand(p.shape): different numbers, none multiplied. Compare, then return p.copy_(kept).",
    ),
    mistakes="""
multiplied
    You multiply the parameter, so one that starts at zero stays zero and seems unused. Add to it.
    p += torch.rand(p.shape) => p *= 1 + torch.rand(p.shape)
multiplied by one number
    A parameter that is all zeros seems unused, for zero times any factor is zero; a norm hides a factor, too.
    p += torch.rand(p.shape) => p *= 1.1
all by the same
    You add the same number everywhere. A norm that follows subtracts the mean: add different numbers.
    torch.rand(p.shape) => 0.5
not put back
    The parameter keeps your nudge. An inspection must leave the model as it was.
    moved, p = moves(x, module, name)
    return moved, p.add_(0.5)
put back by subtracting
    (p + nudge) - nudge is p up to rounding only. Keep a copy, and copy it back: bit for bit.
    moved, p = moves(x, module, name)
    return moved, p.add_(0.7).sub_(0.7)
a copy was nudged
    Your output never moves: you nudged a copy, or by too little. Change the module's own parameter.
    p += => nudged = p +
    p.copy_(kept) => p
the parameter was compared
    You ask whether the parameter has changed. It has; the question is whether the output did.
    (module(x) - before).abs().max() > 1e-6 => (p != kept).any()
""",
)


class untraced(nn.Module):
    """A block of width 32 with AdaLN: x (B, T, 32), c (B, 32) -> (B, T, 32). Its vectors come from a plain matrix."""

    def __init__(self):
        super().__init__()
        self.mlp, self.w = MLP(32), nn.Parameter(torch.randn(32, 3 * 32) / 32**0.5)

    def forward(self, x, c):
        shift, scale, gate = (F.silu(c) @ self.w)[:, None].chunk(3, dim=-1)
        return x + gate * self.mlp(layer_norm(x) * (1 + scale) + shift)


class Traced(nn.Module):
    """A block of width 32 with AdaLN: x (B, T, 32), c (B, 32) -> (B, T, 32)."""

    def __init__(self):
        super().__init__()
        self.mlp, self.w = MLP(32), xavier_linear(32, 3 * 32)

    def forward(self, x, c):
        shift, scale, gate = self.w(F.silu(c))[:, None].chunk(3, dim=-1)
        return x + gate * self.mlp(layer_norm(x) * (1 + scale) + shift)


class TwoBlocks(nn.Module):
    """Two blocks of a kind and a head, as the notebook's Tower."""

    def __init__(self, kind: type[nn.Module]):
        super().__init__()
        self.blocks, self.head = nn.ModuleList([kind(), kind()]), xavier_linear(32, 4)
        self.c = randn64(2, 32, seed=1).float()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, self.c)
        return self.head(layer_norm(x))


@torch.no_grad()
def found_by_effect(model: nn.Module, x: Tensor) -> list[str]:
    """The notebook's `by_effect`."""
    linears = {part: name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    made: dict[nn.Module, Tensor] = {}
    hooks = [part.register_forward_hook(lambda part, _, out: made.update({part: out})) for part in linears]
    model(x)
    for hook in hooks:
        hook.remove()
    ranges = {part: varies(out if out.dim() == 3 else out[:, None]) for part, out in made.items()}
    asked = [part for part, (over_tokens, over_items) in ranges.items() if over_tokens == 0 and over_items > 0]
    return [linears[part] for part in asked if moves(x, model, f"{linears[part]}.weight")[0]]


def measure_untraced(kind: type[nn.Module]) -> tuple[float, float] | str:
    """How many of shift, scale and gate the x-ray sees in the block, and how many Linears the tracer reports."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return "give check the class, as in check('untraced', untraced)"
    model, x = TwoBlocks(kind), randn64(2, 16, 32).float()
    report = xray(model, lambda: model(x))
    if len(report.groups) != 1:
        return f"the x-ray must see AdaLN in both blocks. It says {report.verdict}: {report.sentence()}"
    (group,) = report.groups
    return sum(group[f"has_{role}"] is True for role in ("shift", "scale", "gate")), len(found_by_effect(model, x))


register(
    Design,
    question="Make AdaLN with shift, scale and gate that the x-ray sees and the tracer does not.",
    solution=untraced,
    given=Traced,
    measure=measure_untraced,
    goal=3,
    budget=0,
    unit="Linears that the tracer reports",
    is_lower_better=False,
    hints=(
        "Read by_effect line by line. What does it take for granted of the part that makes the vectors?",
        "It hooks nn.Linear, and it asks whether all that a Linear gives is the same for all tokens.",
        "A matrix product needs no nn.Linear. Or: let one Linear make vectors and something else for the tokens.",
    ),
)


JOINS = {
    "x + mask * (g * h)": lambda x, g, h: x + (torch.arange(5)[:, None] < 3) * (g * h),
    "x + rms_norm(g * h)": lambda x, g, h: x + F.rms_norm(g * h, (16,)),
    "x + silu(g * h)": lambda x, g, h: x + F.silu(g * h),
    "x + h": lambda x, g, h: x + h,
    "x + sigmoid(g) * h": lambda x, g, h: x + torch.sigmoid(g) * h,
}


class JoinedBlock(nn.Module):
    """AdaLN, an MLP, and one of `JOINS` at the end."""

    def __init__(self, join: str):
        super().__init__()
        self.join, self.mlp = JOINS[join], nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))
        self.modulation = nn.Linear(16, 48)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, g = self.modulation(F.silu(c))[:, None].chunk(3, dim=-1)
        return self.join(x, g, self.mlp(F.layer_norm(x, (16,)) * (1 + scale) + shift))


def gate_words() -> dict[str, tuple]:
    x, c, words = torch.randn(2, 5, 16), torch.randn(2, 16), {True: "yes", False: "no"}
    found = {}
    for join in JOINS:
        block = JoinedBlock(join)
        (group,) = xray(block, lambda block=block: block(x, c)).groups
        found[join] = (words.get(group["has_gate"], "unknown"), group["gate_bounding"])
    return found


register(
    Predict,
    question='Fill in what the x-ray says: is there a gate ("yes", "no", "unknown"), and its function.',
    solution=gate_words,
    columns=("has a gate", "its function"),
    notes={
        "x + mask * (g * h)": "is the sum still linear in g * h? What does the mask change about g?",
        "x + rms_norm(g * h)": "the tool follows a product through norms as well.",
        "x + silu(g * h)": "silu is not linear. The vector has some use here: may the tool say no?",
        "x + h": "g is computed and nothing takes it.",
        "x + sigmoid(g) * h": "which function stands between the Linear and the product?",
    },
    hints=(
        "Ask of each line: does g * h reach the sum through products, masks and norms alone?",
        "Where it does not, but g is used: no statement was witnessed, and the tool has a word for that.",
        'The words for the function are "raw", "sigmoid", "none" (there is no gate) and "unknown".',
    ),
)


def opening(g: Tensor, bounding: str) -> Tensor:
    """g: a Linear's numbers for a gate; bounding: the x-ray's word -> the factor of the branch."""
    if bounding == "none":
        return torch.ones_like(g)
    return {"raw": g, "tanh": g.tanh(), "sigmoid": g.sigmoid(), "1+g": 1 + g}[bounding]


register(
    Exercise,
    question="From a gate's number and the x-ray's word for it, give the factor of the branch.",
    solution=opening,
    returns=("factor",),
    cases=lambda: [(randn64(2, 6), bounding) for bounding in ("raw", "tanh", "sigmoid", "1+g", "none")],
    hints=(
        "Five words: raw, tanh, sigmoid, 1+g, none. The first is g itself.",
        "No gate is not a gate of 0: x + branch is x + 1 * branch.",
        'A dict does it: {"raw": g, "tanh": g.tanh(), ...}[bounding]; torch.ones_like(g) for "none".',
    ),
    later=lambda: [(randn64(5), bounding) for bounding in ("raw", "tanh", "sigmoid", "1+g", "none")],
    mistakes="""
none is closed
    Without a gate, your factor is 0. It must be 1: the branch is added as it is.
    ones_like => zeros_like
all raw
    You multiply by the Linear's number as it is. That is DiT's gate, "raw"; the x-ray's word names the others.
    {"raw": g, "tanh": g.tanh(), "sigmoid": g.sigmoid(), "1+g": 1 + g}[bounding] => g
one forgotten
    For "1+g" you return g. HDM adds 1: at g = 0 its branch is fully on.
    1 + g} => g}
sigmoid from zero
    Your sigmoid is 0 at g = 0. It is one half there: a zero-initialised Linear does not switch the branch off.
    g.sigmoid() => g.sigmoid() - 0.5
tanh and sigmoid swapped
    tanh and sigmoid are swapped: tanh goes through 0, sigmoid from 0 to 1.
    g.tanh(), "sigmoid": g.sigmoid() => g.sigmoid(), "sigmoid": g.tanh()
none is raw
    Without a gate, your factor is the number g: there is no gate to multiply by. What is x + branch?
    torch.ones_like(g) => g
one number for all
    For "none" you give a single 1: right, but the figure below draws one for each g. Make it as large as g.
    ones_like(g) => ones_like(g[0, 0])
sigmoid of twice
    Your sigmoid is as steep as tanh: it is 1 / (1 + exp(-g)).
    g.sigmoid() => (2 * g).sigmoid()
""",
)


def diagnoses() -> dict[str, tuple[int]]:
    return {letter: (bug,) for letter, bug in zip("ABCDEFGHIJ", (5, 3, 8, 0, 9, 4, 7, 2, 1, 6), strict=True)}


register(
    Predict,
    question="Name the bug of each of the ten broken DiTs: its number in BUGS.",
    solution=diagnoses,
    columns=("bug",),
    notes={
        "A": "its vectors are zero, and yet its branches get a gradient early. At what number is a gate open at 0?",
        "B": "the gate rows get a gradient as usual, the MLP's weights never. What runs in the MLP's place?",
        "C": "not zero, and the output layer is as usual: something happened to the modulation alone.",
        "D": "it starts as the correct model. What does the x-ray say of its norm?",
        "E": "not zero, and everything starts in pass 0. Which zero is missing besides the modulation's?",
        "F": "it starts as the correct model. What does the x-ray say of the order?",
        "G": "no part of a block ever gets a gradient. What multiplies the gate in its own gradient?",
        "H": "one part alone never gets a gradient, and it is in no block.",
        "I": "count its vectors. Which branch is open, then, from the start?",
        "J": "only the scale rows start early. Which way to the output does not lead through a gate?",
    },
    hints=(
        "Cross out what is as in the correct model. Most of the ten differ from it in one place of the two tables.",
        "x-ray first: norm's weights, gate, order, number of vectors, last layer. Five letters are settled then.",
        "Of the rest: which parts never get a gradient (B, G), or get one too soon (C, E; the scale rows in J)?",
    ),
)
