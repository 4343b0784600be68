"""Exercises of notebook 04: fresh stacks, gradients through a stack, effective depth, a deep start, a bounded branch.

L blocks, N entries of the stream as one vector, B batch, T tokens, D width.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.analysis import probes
from adaln_lab.conditioning import Condition
from adaln_lab.data import datasets
from adaln_lab.exercises.core import Exercise, faint, randn64, register
from adaln_lab.exercises.kinds import Design, Predict
from adaln_lab.experiments import schemes, sweep


def fresh_stacks() -> dict[str, tuple]:
    """48 fresh blocks of each scheme: is the stream larger at the end, and is the gradient larger at the start?"""
    x, cond, grad = randn64(4, 4, 32), Condition(randn64(4, 32, seed=1)), randn64(4, 4, 32, seed=2)
    table = {}
    for name in ("pre-norm", "adaLN, zero start", "adaLN-Zero", "tanh gate", "1 + g gate", "ReZero"):
        blocks = [schemes.SchemeBlock(schemes.SCHEMES[name], 48, 32, 2, 32).double() for _ in range(48)]
        sizes, gradients = probes.depth_profile(blocks, x, cond, grad)
        grown = [(ratio > 2).item() for ratio in (sizes[-1] / sizes[0], gradients[0] / gradients[-1])]
        table[name] = tuple("larger" if it else "same" for it in grown)
    return table


register(
    Predict,
    question="Say for six fresh stacks of 48 blocks whether stream and gradient grow along them.",
    solution=fresh_stacks,
    columns=("stream at the end", "gradient at the start"),
    hints=(
        "Ask of each scheme: with its first values, does a block change its input at all?",
        "A block that returns its input has the identity as Jacobian: sizes stay, in both directions.",
        "Zeros in scale and shift leave a branch open. Zeros in a gate close it, unless the gate is 1 + g.",
    ),
    notes={
        "adaLN, zero start": "zero are scale and shift. What is then LN(x) * (1 + scale) + shift, and is it added?",
        "1 + g gate": "g is 0. By what is the branch multiplied?",
        "gradient at the start": "the gradient is multiplied by each block's Jacobian, I + a J_F",
        "stream at the end": "does each block add something of its own?",
    },
)


def pull_back(grad: Tensor, jacobians: Tensor) -> Tensor:
    """Gradients (B, N) at the end of L blocks, Jacobians (L, N, N), first block first -> gradients at the start."""
    for jacobian in jacobians.flip(0):
        grad = grad @ jacobian
    return grad


register(
    Exercise,
    question="Propagate gradients from the end of a stack to its start, given the Jacobian of each block.",
    solution=pull_back,
    returns=("grad",),
    cases=lambda: [
        (randn64(b, n, seed=n), randn64(length, n, n, seed=length) / n**0.5)
        for b, n, length in ((2, 4, 3), (3, 5, 2), (1, 3, 4))
    ],
    hints=(
        "A gradient goes through the last block first. What multiplies it there?",
        "Gradients come as rows, (B, N): one block takes grad to grad @ J, that is J^T times each row.",
        "for jacobian in jacobians.flip(0): grad = grad @ jacobian",
    ),
    mistakes="""
first block first
    You go through the first block first; a gradient goes backwards, through the last block first.
    .flip(0) =>
pushed forward
    You multiply by J where J^T belongs (for rows: grad @ J.T for grad @ J): that propagates changes forward.
    @ jacobian => @ jacobian.T
jacobians added
    You add the Jacobians, but blocks follow one another: their Jacobians are multiplied.
    return grad @ jacobians.sum(0)
entry by entry
    You multiply entry by entry, with the diagonals alone: a block mixes channels, so it takes the matrix product.
    @ jacobian => * jacobian.diagonal()
skip counted twice
    You add the gradient itself at each block, but a block's Jacobian already contains its skip connection.
    grad = grad @ => grad = grad + grad @
last block missing
    You leave out the last block: the gradient comes after all L of them.
    jacobians => jacobians[:-1]
first block missing
    Whatever the first block is, your result is the same: the gradient stops one block short of the start.
    jacobians => jacobians[1:]
one block only
    All blocks but the last have no influence: each step must start from the gradient that the step before gave.
    return grad @ jacobians[-1]
changes pushed forward
    You compute how a change at the start arrives at the end; a gradient goes the other way, last block first.
    jacobians.flip(0) => jacobians
    @ jacobian => @ jacobian.T
""",
)


# A stack of residual blocks is a sum over paths, each through a block or around it (Veit et al., arXiv 1605.06431): of
# those that meet a block, r / (1 + r) go through it.
def effective_depth(r: Tensor) -> Tensor:
    """r (L,), the size of each block's update relative to the residual -> mean number of blocks on a path, a scalar."""
    return (r / (1 + r)).sum()


register(
    Exercise,
    question="Count the blocks on an average path, when block l has weight r[l] and its skip has weight 1.",
    solution=effective_depth,
    returns=("depth",),
    cases=lambda: [(randn64(length, seed=length).abs() * (randn64(length) > -1),) for length in (5, 3, 7)],
    hints=(
        "At each block a path forks: through the block with weight r, past it with weight 1.",
        "By weight, the share of paths through a block is r / (1 + r). How many blocks is that in all?",
        "Add r / (1 + r) over the blocks.",
    ),
    mistakes="""
weights added
    You add the weights r; a block with r = 9 is on nine paths of ten, which counts 0.9 and not 9.
    (r / (1 + r)) => r
blocks counted
    You count the blocks that add anything at all: small and large updates count the same.
    (r / (1 + r)) => (r > 0).to(r.dtype)
share of the mean
    You average over blocks; the number of blocks on a path is a sum, from 0 to L.
    sum => mean
skips counted
    You count the blocks that a path skips, 1 / (1 + r), and not those it goes through.
    r / => 1 /
one common weight
    You divide the sum of r by 1 + the sum of r, as if there were one block; the path forks at each block.
    return r.sum() / (1 + r.sum())
shares multiplied
    A block with r = 0 makes your result 0: you multiply the shares. That is the weight of the path through all.
    sum => prod
ratio of the sums
    Your result stays below 1 however many blocks there are: you divide one sum by another, after adding up.
    return r.sum() / (1 + r).sum()
""",
)


GIVEN = {"norm": "pre", "gate": 1.0, "kind": "identity", "lr": 3e-3, "warmup": 0}


def deep_start() -> dict[str, Any]:
    """The entry to change, and its new value."""
    return {"change": "gate", "to": 0.01}


def deep_start_measured(answer: dict[str, Any]) -> tuple[float, float] | str:
    """The held-out score of 36 blocks after 30 updates, and the number of updates."""
    if not isinstance(answer, dict) or set(answer) != {"change", "to"} or answer["change"] not in list(GIVEN):
        return f'give check {{"change": ..., "to": ...}} with one of {", ".join(GIVEN)}'
    name, value = answer.values() if list(answer) == ["change", "to"] else reversed(answer.values())
    allowed = {"norm": ("pre", "post", "none"), "kind": ("identity", "tanh", "one_plus")}.get(name)
    if allowed and value not in allowed:
        return f"{name} is one of {', '.join(allowed)}"
    if not allowed and not (isinstance(value, int | float) and math.isfinite(value) and (name == "gate" or value >= 0)):
        return f"{name} must be a finite number" + ", not a negative one" * (name != "gate")
    return _score_of(GIVEN | {name: value}, updates=30), 30


def _score_of(setting: dict[str, Any], updates: int) -> float:
    """LayerScale's blocks, 36 of them, in the setting; infinity if training diverges."""
    data, trial = datasets.load("digits"), sweep.Trial("LayerScale", 36, setting["lr"], 0)
    start = float(setting["gate"])
    scheme = schemes.Scheme(norm=setting["norm"], learned="channel", start=lambda _: start, kind=setting["kind"])
    model = schemes.deep_dit("LayerScale", trial.config)
    sizes = (trial.depth, trial.config.width, trial.config.heads, trial.config.width)
    model.blocks = torch.nn.ModuleList(schemes.SchemeBlock(scheme, *sizes) for _ in range(trial.depth))
    rates = [setting["lr"] * min(1, (n + 1) / max(1, setting["warmup"])) for n in range(updates)]
    *before, model = sweep.updates(model, data, rates, seed=0, batch=32)
    return sweep.score(model, data) if len(before) == updates else math.inf


register(
    Design,
    question="Make 36 blocks reach a score of 0.75 within 30 updates, by changing one setting.",
    solution=deep_start,
    measure=deep_start_measured,
    goal=0.75,
    budget=30,
    unit="updates",
    is_value=True,
    hints=(
        "Which setting decides what 36 blocks together do to the stream before the first update?",
        "Look at the map: which schemes learn at 36 blocks, and what do their starts have in common?",
        'Start the gates small: {"change": "gate", "to": 0.01}.',
    ),
)


def sandwich_branch(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """x + tanh(gate) * RMS(branch(RMS(x) * (1 + scale))); x (B, T, D), scale and gate (B, 1, D), eps 1e-5."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)  # (B, T, D)
    return x + torch.tanh(gate) * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def _branch(d: int) -> Callable:
    mix = 3 * randn64(d, d, seed=9)
    return lambda h: (h @ mix) ** 2 + 0.3


def sandwich_branch_cases() -> Iterator[tuple]:
    """The branch has a large output, mixes channels and is not linear: two mistakes cannot cancel."""
    for seed, (b, t, d) in enumerate([(2, 5, 6), (3, 4, 7), (1, 3, 5)]):
        scale, gate = 0.5 * randn64(2, b, 1, d, seed=10 + seed)
        yield faint(0.7 + 2 * randn64(b, t, d, seed=seed)), scale, gate, _branch(d)


register(
    Exercise,
    question="Write a branch as in Lumina 2 and Z-Image: RMS norm, scale, branch, RMS norm, tanh gate.",
    solution=sandwich_branch,
    returns=("x",),
    cases=sandwich_branch_cases,
    hints=(
        "Two norms: one for the branch's input, one for its output. The residual x itself stays as it is.",
        "F.rms_norm(x, x.shape[-1:], eps=1e-5) is the norm; the gate multiplies what comes out of the second one.",
        "h = rms(x) * (1 + scale); then x + torch.tanh(gate) * rms(branch(h)).",
    ),
    gradients=True,
    mistakes="""
second norm missing
    You do not normalise the branch's output: a large output would give a large update through a small gate.
    F.rms_norm(branch(h), x.shape[-1:], eps=1e-5) => branch(h)
gate without tanh
    You multiply by the gate itself: without tanh nothing bounds the update.
    torch.tanh(gate) => gate
sigmoid for tanh
    You put the gate through a sigmoid: at gate 0 half of the branch would pass; with tanh nothing does.
    tanh => sigmoid
gate inside the norm
    You gate first and normalise afterwards: the norm undoes the gate's scaling.
    torch.tanh(gate) * F.rms_norm(branch(h) => F.rms_norm(torch.tanh(gate) * branch(h)
scale without one
    You multiply by scale, not by 1 + scale: at scale 0 the branch would see nothing.
    (1 + scale) => scale
means subtracted
    You use layer norm, which also subtracts the mean; Lumina 2 and Z-Image have two RMS norms.
    every rms_norm => layer_norm
stream normalised
    You add the update to the normalised tokens: x was replaced, and the residual stream is lost.
    return x => return F.rms_norm(x, x.shape[-1:], eps=1e-5)
layer norm of the package
    Your tokens lose their mean: the package's layer_norm subtracts it, and its eps is 1e-6. RMS norm divides.
    every rms_norm => layer_norm
    every 1e-5 => 1e-6
first norm missing
    Tokens that are twice as large give a branch input that is twice as large: the norm in front is missing.
    F.rms_norm(x, x.shape[-1:], eps=1e-5) => x
gate missing
    Whatever the gate is, your result is the same.
    torch.tanh(gate) * =>
stream rebound
    You add the branch to its own input: x was replaced by the scaled tokens, and the residual stream is lost.
    return x => return h
one plus gate
    At gate 0 your branch is fully on: only scale has a 1 +.
    torch.tanh(gate) => (1 + torch.tanh(gate))
eps of the package
    Only faint tokens come out wrong: your eps is 1e-6, and this exercise has 1e-5.
    every 1e-5 => 1e-6
eps left to torch
    Only faint tokens come out wrong: without eps=, torch takes one that is nearly 0. This exercise has 1e-5.
    every , eps=1e-5 =>
scale and gate swapped
    At scale = 0 your branch adds nothing, and that is what the gate is for: the two are in each other's place.
    scale => gate
    tanh(gate) => tanh(scale)
gate on the sum
    At gate 0 your stream is erased instead of kept: the gate multiplies x as well.
    x + torch.tanh(gate) * F.rms_norm => torch.tanh(gate) * (x + F.rms_norm
    branch(h), x.shape[-1:], eps=1e-5) => branch(h), x.shape[-1:], eps=1e-5))
gate on the input
    At gate 0 your branch still adds something: the gate multiplies what it receives, not what it gives.
    torch.tanh(gate) * F.rms_norm(branch(h) => F.rms_norm(branch(torch.tanh(gate) * h)
stream missing
    At gate 0 your result is 0: the branch must be added to x.
    x + torch => torch
sum normalised
    At gate 0 your stream changes: the second norm runs over the sum. It belongs to the branch's output.
    x + torch.tanh(gate) * F.rms_norm(branch(h) => F.rms_norm(x + torch.tanh(gate) * branch(h)
scaled before the norm
    A scale that is equal in all channels has no effect: you scale first, and the norm takes it away.
    F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) => F.rms_norm(x * (1 + scale), x.shape[-1:], eps=1e-5)
tanh of the product
    However large the branch is, no number moves by more than 1: tanh covers the product, not the gate alone.
    torch.tanh(gate) * F.rms_norm => torch.tanh(gate * F.rms_norm
    branch(h), x.shape[-1:], eps=1e-5) => branch(h), x.shape[-1:], eps=1e-5))
""",
)
