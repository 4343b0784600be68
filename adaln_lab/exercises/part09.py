"""Exercises of notebook 09: what varies over tokens and over items, what moves, how far a gate is open, ten diagnoses.

For each exercise: the solution, its common mistakes (a table for `core.mutants`), and the arguments of the check.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.analysis.xray import xray
from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Predict

# varies: is it a vector for all tokens, and was it told anything?


def varies(made: Tensor) -> tuple[Tensor, Tensor]:
    """made (B, T, N), output of one Linear -> how far it varies over tokens, and how far over items."""
    over_tokens = (made.amax(1) - made.amin(1)).max()
    over_items = (made.amax(0) - made.amin(0)).max()
    return over_tokens, over_items


VARIES_MISTAKES = """
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
mean of the ranges
    One channel that varies hardly moves your numbers: you average the ranges, and the largest counts.
    every .max() => .mean()
"""


def varies_cases() -> list[tuple]:
    vector = randn64(3, 1, 6, seed=1).expand(3, 5, 6)
    return [(randn64(3, 5, 6),), (vector,), (randn64(1, 5, 6, seed=2).expand(3, 5, 6),), (randn64(1, 4, 7, seed=3),)]


register(
    Exercise(
        question="Say how far the outputs of a Linear vary over the tokens of an item, and how far over items.",
        solution=varies,
        returns=("over_tokens", "over_items"),
        cases=varies_cases,
        hints=(
            "How far numbers vary: the largest minus the smallest. Along which axis are the tokens?",
            "made.amax(1) - made.amin(1) is (B, N): a range for each item and channel. The largest counts.",
            "(made.amax(1) - made.amin(1)).max(), and the same with axis 0 for items.",
        ),
        mistakes=VARIES_MISTAKES,
    )
)

# moves: touch one parameter, look at the output, and leave no trace


def moves(x: Tensor, module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Does module(x) move by more than 1e-6 when the parameter `name` is nudged? -> 1. or 0., and the parameter."""
    p = module.get_parameter(name).data
    before, kept = module(x), p.clone()
    p += torch.rand(p.shape)
    return ((module(x) - before).abs().max() > 1e-6).to(x), p.copy_(kept)


MOVES_MISTAKES = """
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
    (p + nudge) - nudge is p up to rounding. Keep a copy, and copy it back: bit for bit.
    moved, p = moves(x, module, name)
    return moved, p.add_(0.7).sub_(0.7)
a copy was nudged
    You nudged a copy, so the output never moves. Change its parameter in place.
    p += => nudged = p +
    p.copy_(kept) => p
the parameter was compared
    You ask whether the parameter has changed. It has; the question is whether the output did.
    (module(x) - before).abs().max() > 1e-6 => (p != kept).any()
"""


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


def moves_cases() -> list[tuple]:
    x = randn64(2, 5, 6).float()
    return [(x, Case(), "first.weight"), (x, Case(), "zero.weight"), (x, Shy(), "bias"), (x, Case(), "unused.weight")]


register(
    Exercise(
        question="Nudge one parameter, say whether the output moves, and put the parameter back bit for bit.",
        solution=moves,
        returns=("moved", "parameter"),
        cases=moves_cases,
        hints=(
            "Four steps: keep a copy and the output, nudge in place, ask again, copy back.",
            "p = module.get_parameter(name).data; p.clone() keeps it, p += ... nudges it, p.copy_(kept) restores it.",
            "Nudge by torch.rand(p.shape): different numbers, none multiplied. Compare, then return p.copy_(kept).",
        ),
        mistakes=MOVES_MISTAKES,
    )
)

# gate_words: what can be said of a gate when something stands between it and the sum?

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
    Predict(
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
)

# opening: the factor of a branch, from the number of its gate


def opening(g: Tensor, bounding: str) -> Tensor:
    """g: a Linear's numbers for a gate; bounding: the x-ray's word -> the factor of the branch."""
    if bounding == "none":
        return torch.ones_like(g)
    return {"raw": g, "tanh": g.tanh(), "sigmoid": g.sigmoid(), "1+g": 1 + g}[bounding]


OPENING_MISTAKES = """
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
"""


def opening_cases() -> list[tuple]:
    return [(randn64(2, 6), bounding) for bounding in ("raw", "tanh", "sigmoid", "1+g", "none")]


register(
    Exercise(
        question="From a gate's number and the x-ray's word for it, give the factor of the branch.",
        solution=opening,
        returns=("factor",),
        cases=opening_cases,
        hints=(
            "Five words: raw, tanh, sigmoid, 1+g, none. The first is g itself.",
            "No gate is not a gate of 0: x + branch is x + 1 * branch.",
            'A dict does it: {"raw": g, "tanh": g.tanh(), ...}[bounding]; torch.ones_like(g) for "none".',
        ),
        mistakes=OPENING_MISTAKES,
        later=lambda: [(randn64(5), bounding) for bounding in ("raw", "tanh", "sigmoid", "1+g", "none")],
    )
)

# diagnoses: ten broken models


def diagnoses(doors: Tensor) -> Tensor:
    """doors (10,): 0 for A to 9 for J -> for each the number of its bug in BUGS."""
    found = {"A": 5, "B": 3, "C": 8, "D": 0, "E": 9, "F": 4, "G": 7, "H": 2, "I": 1, "J": 6}
    return torch.tensor([*found.values()]).to(doors)


DIAGNOSES_MISTAKES = """
missing and undone
    C and E: neither is zero. An init of the whole model changes the head, too: which parts start in pass 0?
    "C": 8, => "C": 9,
    "E": 9, => "E": 8,
twice and dead
    B and G: in both the MLP never gets a gradient. Look at the other parts of the block, first the gate rows.
    "B": 3, => "B": 7,
    "G": 7, => "G": 3,
weights and order
    D and F: both start as the correct model. One differs in the norm's weights, one in the order of vectors.
    "D": 0, => "D": 4,
    "F": 4, => "F": 0,
one gate and rebound
    I and J: in both the scale rows start in pass 1. Count the vectors, and look when attention starts.
    "I": 1, => "I": 6,
    "J": 6 => "J": 1
sigmoid and missing
    A and C: in both all of a block starts in pass 1. A gate can be open also where its Linear gives zero.
    "A": 5, => "A": 8,
    "C": 8, => "C": 5,
end and norm
    D and H: the blocks start alike. Look at the part "final AdaLN" and at the column of the norm's weights.
    "D": 0, => "D": 2,
    "H": 2, => "H": 0,
counted from one
    Every number is too large by one: the list of bugs is counted from 0, as Python counts.
    .to(doors) => .to(doors) + 1
"""


def diagnoses_cases() -> list[tuple]:
    return [(torch.arange(10, dtype=torch.float64),)]


register(
    Exercise(
        question="Name the bug of each of the ten broken DiTs: its number in BUGS.",
        solution=diagnoses,
        returns=("bugs",),
        cases=diagnoses_cases,
        hints=(
            "Cross out what is as in the correct model. Most of the ten differ from it in one place of the two tables.",
            "x-ray first: norm's weights, gate, order, number of vectors, last layer. Five letters are settled then.",
            "Of the rest: which parts never get a gradient (B, G), or get one too soon (C, E; scale and shift in J)?",
        ),
        mistakes=DIAGNOSES_MISTAKES,
    )
)
