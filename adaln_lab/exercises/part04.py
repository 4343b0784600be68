"""Exercises of notebook 04: fresh stacks, gradients through a stack, effective depth, a deep start, a bounded branch.

L blocks, N entries of the stream as one vector, B batch, T tokens, D width.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.analysis import probes
from adaln_lab.conditioning import Condition
from adaln_lab.data import datasets
from adaln_lab.exercises.core import Exercise, by_name, faint, randn64, register
from adaln_lab.exercises.kinds import Design, Predict
from adaln_lab.experiments import schemes, sweep
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.norms import layer_norm

# fresh_stacks: which starts are open


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


# pull_back: what autograd does with a stack


def pull_back(grad: Tensor, jacobians: Tensor) -> Tensor:
    """Gradients (B, N) at the end of L blocks, Jacobians (L, N, N), first block first -> gradients at the start."""
    for jacobian in jacobians.flip(0):
        grad = grad @ jacobian
    return grad


def first_block_first(grad: Tensor, jacobians: Tensor) -> Tensor:
    """You go through the first block first; a gradient goes backwards, through the last block first."""
    return pull_back(grad, jacobians.flip(0))


def pushed_forward(grad: Tensor, jacobians: Tensor) -> Tensor:
    """You multiply by J where J^T belongs (for rows: grad @ J.T for grad @ J): that propagates changes forward."""
    return pull_back(grad, jacobians.transpose(1, 2))


def jacobians_added(grad: Tensor, jacobians: Tensor) -> Tensor:
    """You add the Jacobians, but blocks follow one another: their Jacobians are multiplied."""
    return grad @ jacobians.sum(0)


def entry_by_entry(grad: Tensor, jacobians: Tensor) -> Tensor:
    """You multiply entry by entry, with the diagonals alone: a block mixes channels, so it takes the matrix product."""
    return grad * jacobians.diagonal(dim1=1, dim2=2).prod(0)


def skip_counted_twice(grad: Tensor, jacobians: Tensor) -> Tensor:
    """You add the gradient itself at each block, but a block's Jacobian already contains its skip connection."""
    return pull_back(grad, jacobians + torch.eye(grad.shape[-1], dtype=grad.dtype))


def last_block_missing(grad: Tensor, jacobians: Tensor) -> Tensor:
    """You leave out the last block: the gradient comes after all L of them."""
    return pull_back(grad, jacobians[:-1])


def first_block_missing(grad: Tensor, jacobians: Tensor) -> Tensor:
    """Whatever the first block is, your result is the same: the gradient stops one block short of the start."""
    return pull_back(grad, jacobians[1:])


def one_block_only(grad: Tensor, jacobians: Tensor) -> Tensor:
    """All blocks but the last have no influence: each step must start from the gradient that the step before gave."""
    return grad @ jacobians[-1]


def changes_pushed_forward(grad: Tensor, jacobians: Tensor) -> Tensor:
    """You compute how a change at the start arrives at the end; a gradient goes the other way, last block first."""
    for jacobian in jacobians:
        grad = grad @ jacobian.T
    return grad


def pull_back_cases() -> list[tuple]:
    shapes = ((2, 4, 3), (3, 5, 2), (1, 3, 4))
    return [(randn64(b, n, seed=n), randn64(length, n, n, seed=length) / n**0.5) for b, n, length in shapes]


# effective_depth: how many blocks an average path goes through


def effective_depth(r: Tensor) -> Tensor:
    """r (L,), the size of each block's update relative to the residual -> mean number of blocks on a path, a scalar."""
    return (r / (1 + r)).sum()


def weights_added(r: Tensor) -> Tensor:
    """You add the weights r; a block with r = 9 is on nine paths of ten, which counts 0.9 and not 9."""
    return r.sum()


def blocks_counted(r: Tensor) -> Tensor:
    """You count the blocks that add anything at all: small and large updates count the same."""
    return (r > 0).to(r.dtype).sum()


def share_of_the_mean(r: Tensor) -> Tensor:
    """You average over blocks; the number of blocks on a path is a sum, from 0 to L."""
    return (r / (1 + r)).mean()


def skips_counted(r: Tensor) -> Tensor:
    """You count the blocks that a path skips, 1 / (1 + r), and not those it goes through."""
    return (1 / (1 + r)).sum()


def one_common_weight(r: Tensor) -> Tensor:
    """You divide the sum of r by 1 + the sum of r, as if there were one block; the path forks at each block."""
    return r.sum() / (1 + r.sum())


def shares_multiplied(r: Tensor) -> Tensor:
    """A block with r = 0 makes your result 0: you multiply the shares. That is the weight of the path through all."""
    return (r / (1 + r)).prod()


def ratio_of_the_sums(r: Tensor) -> Tensor:
    """Your result stays below 1 however many blocks there are: you divide one sum by another, after adding up."""
    return r.sum() / (1 + r).sum()


def effective_depth_cases() -> list[tuple]:
    return [(randn64(length, seed=length).abs() * (randn64(length) > -1),) for length in (5, 3, 7)]


# deep_start: 36 blocks that learn in 30 updates

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
    model, generator = schemes.deep_dit("LayerScale", trial.config), torch.Generator().manual_seed(0)
    sizes = (trial.depth, trial.config.width, trial.config.heads, trial.config.width)
    model.blocks = torch.nn.ModuleList(schemes.SchemeBlock(scheme, *sizes) for _ in range(trial.depth))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    batches = data.batches(32, generator)
    for update in range(updates):
        loss = flow_loss(model, flow_pair(*next(batches), data.n_classes, 0.0, generator))
        if not loss.isfinite():
            return math.inf
        optimizer.param_groups[0]["lr"] = setting["lr"] * min(1, (update + 1) / max(1, setting["warmup"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sweep.score(model, data)


# sandwich_branch: a branch whose step is bounded by its gate


def sandwich_branch(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """x + tanh(gate) * RMS(branch(RMS(x) * (1 + scale))); x (B, T, D), scale and gate (B, 1, D), eps 1e-5."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)  # (B, T, D)
    return x + torch.tanh(gate) * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def second_norm_missing(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You do not normalise the branch's output: a large output would give a large update through a small gate."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + torch.tanh(gate) * branch(h)


def gate_without_tanh(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You multiply by the gate itself: without tanh nothing bounds the update."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + gate * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def sigmoid_for_tanh(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You put the gate through a sigmoid: at gate 0 half of the branch would pass; with tanh nothing does."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + torch.sigmoid(gate) * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def gate_inside_the_norm(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You gate first and normalise afterwards: the norm undoes the gate's scaling."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + F.rms_norm(torch.tanh(gate) * branch(h), x.shape[-1:], eps=1e-5)


def scale_without_one(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You multiply by scale, not by 1 + scale: at scale 0 the branch would see nothing."""
    return sandwich_branch(x, scale - 1, gate, branch)


def means_subtracted(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You use layer norm, which also subtracts the mean; Lumina 2 and Z-Image have two RMS norms."""
    h = F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + torch.tanh(gate) * F.layer_norm(branch(h), x.shape[-1:], eps=1e-5)


def stream_normalised(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You add the update to the normalised tokens: x was replaced, and the residual stream is lost."""
    return sandwich_branch(x, scale, gate, branch) - x + F.rms_norm(x, x.shape[-1:], eps=1e-5)


def layer_norm_of_the_package(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Your tokens lose their mean: the package's layer_norm subtracts it, and its eps is 1e-6. RMS norm divides."""
    return x + torch.tanh(gate) * layer_norm(branch(layer_norm(x) * (1 + scale)))


def first_norm_missing(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Tokens that are twice as large give a branch input that is twice as large: the norm in front is missing."""
    return x + torch.tanh(gate) * F.rms_norm(branch(x * (1 + scale)), x.shape[-1:], eps=1e-5)


def gate_missing(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Whatever the gate is, your result is the same."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def stream_rebound(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You add the branch to its own input: x was replaced by the scaled tokens, and the residual stream is lost."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return h + torch.tanh(gate) * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def one_plus_gate(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your branch is fully on: only scale has a 1 +."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + (1 + torch.tanh(gate)) * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def eps_of_the_package(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Only faint tokens come out wrong: your eps is 1e-6, and this exercise has 1e-5."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale)
    return x + torch.tanh(gate) * F.rms_norm(branch(h), x.shape[-1:], eps=1e-6)


def eps_left_to_torch(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Only faint tokens come out wrong: without eps=, torch takes one that is nearly 0. This exercise has 1e-5."""
    h = F.rms_norm(x, x.shape[-1:]) * (1 + scale)
    return x + torch.tanh(gate) * F.rms_norm(branch(h), x.shape[-1:])


def scaled_before_the_norm(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """A scale that is equal in all channels has no effect: you scale first, and the norm takes it away."""
    h = F.rms_norm(x * (1 + scale), x.shape[-1:], eps=1e-5)
    return x + torch.tanh(gate) * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5)


def tanh_of_the_product(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """However large the branch is, no number moves by more than 1: tanh covers the product, not the gate alone."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + torch.tanh(gate * F.rms_norm(branch(h), x.shape[-1:], eps=1e-5))


def _branch(d: int) -> Callable:
    mix = 3 * randn64(d, d, seed=9)
    return lambda h: (h @ mix) ** 2 + 0.3


def scale_and_gate_swapped(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At scale = 0 your branch adds nothing, and that is what the gate is for: the two are in each other's place."""
    return sandwich_branch(x, gate, scale, branch)


def gate_on_the_sum(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your stream is erased instead of kept: the gate multiplies x as well."""
    return torch.tanh(gate) * sandwich_branch(x, scale, torch.full_like(gate, 100.0), branch)


def gate_on_the_input(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your branch still adds something: the gate multiplies what it receives, not what it gives."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return x + F.rms_norm(branch(torch.tanh(gate) * h), x.shape[-1:], eps=1e-5)


def stream_missing(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your result is 0: the branch must be added to x."""
    return sandwich_branch(x, scale, gate, branch) - x


def sum_normalised(x: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your stream changes: the second norm runs over the sum. It belongs to the branch's output."""
    h = F.rms_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale)
    return F.rms_norm(x + torch.tanh(gate) * branch(h), x.shape[-1:], eps=1e-5)


def sandwich_branch_cases() -> list[tuple]:
    """The branch has a large output, mixes channels and is not linear: two mistakes cannot cancel."""
    cases = []
    for seed, (b, t, d) in enumerate([(2, 5, 6), (3, 4, 7), (1, 3, 5)]):
        scale, gate = 0.5 * randn64(2, b, 1, d, seed=10 + seed)
        cases.append((faint(0.7 + 2 * randn64(b, t, d, seed=seed)), scale, gate, _branch(d)))
    return cases


register(
    Predict(
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
)
register(
    Exercise(
        question="Propagate gradients from the end of a stack to its start, given the Jacobian of each block.",
        solution=pull_back,
        returns=("grad",),
        cases=pull_back_cases,
        hints=(
            "A gradient goes through the last block first. What multiplies it there?",
            "Gradients come as rows, (B, N): one block takes grad to grad @ J, that is J^T times each row.",
            "for jacobian in jacobians.flip(0): grad = grad @ jacobian",
        ),
        mistakes=by_name(
            first_block_first,
            pushed_forward,
            jacobians_added,
            entry_by_entry,
            skip_counted_twice,
            last_block_missing,
            first_block_missing,
            one_block_only,
            changes_pushed_forward,
        ),
    )
)
register(
    Exercise(
        question="Count the blocks on an average path, when block l has weight r[l] and its skip has weight 1.",
        solution=effective_depth,
        returns=("depth",),
        cases=effective_depth_cases,
        hints=(
            "At each block a path forks: through the block with weight r, past it with weight 1.",
            "By weight, the share of paths through a block is r / (1 + r). How many blocks is that in all?",
            "Add r / (1 + r) over the blocks.",
        ),
        mistakes=by_name(
            weights_added,
            blocks_counted,
            share_of_the_mean,
            skips_counted,
            one_common_weight,
            shares_multiplied,
            ratio_of_the_sums,
        ),
    )
)
register(
    Design(
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
)
register(
    Exercise(
        question="Write a branch as in Lumina 2 and Z-Image: RMS norm, scale, branch, RMS norm, tanh gate.",
        solution=sandwich_branch,
        returns=("x",),
        cases=sandwich_branch_cases,
        hints=(
            "Two norms: one for the branch's input, one for its output. The residual x itself stays as it is.",
            "F.rms_norm(x, x.shape[-1:], eps=1e-5) is the norm; the gate multiplies what comes out of the second one.",
            "h = rms(x) * (1 + scale); then x + torch.tanh(gate) * rms(branch(h)).",
        ),
        mistakes=by_name(
            second_norm_missing,
            gate_without_tanh,
            sigmoid_for_tanh,
            gate_inside_the_norm,
            scale_without_one,
            means_subtracted,
            stream_normalised,
            layer_norm_of_the_package,
            first_norm_missing,
            gate_missing,
            stream_rebound,
            one_plus_gate,
            eps_of_the_package,
            eps_left_to_torch,
            scale_and_gate_swapped,
            gate_on_the_sum,
            gate_on_the_input,
            stream_missing,
            sum_normalised,
            scaled_before_the_norm,
            tanh_of_the_product,
        ),
        gradients=True,
    )
)
