"""Exercises of notebook 10: what a table can replace, one product, eight bits, an average, launches, many processes.

B batch, C width of c, D width.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from adaln_lab.analysis.probes import kept_bytes, launches
from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.training.checkpoint import shipped_model

MODULATION = {  # numbers in one row, rows (None: without end), weights that the table replaces
    "DiT-XL/2, one label, 50 steps": (28 * 6 * 1152, 2 * 50, 28 * 6 * 1152**2),  # with and without the label
    "DiT-XL/2, all 1,000 labels, 50 steps": (28 * 6 * 1152, 1001 * 50, 28 * 6 * 1152**2),
    "PixArt (time only), 50 steps": (6 * 1152, 50, 6 * 1152**2),
    "SD3 (time + pooled text), any caption": (24 * 12 * 1536, None, 24 * 12 * 1536**2),
    "MiniMax-H3 (time only), 50 steps": (50 * 18 * 5376, 50, 50 * 18 * 5376 * 2688),
}


def fits_in_a_table() -> dict[str, tuple[str]]:
    """The table's size against that of the weights."""
    return {
        model: ("impossible" if rows is None else "smaller" if row * rows < weights else "larger",)
        for model, (row, rows, weights) in MODULATION.items()
    }


register(
    Predict,
    question="Say whether a table of all modulation is smaller than the weights that make it.",
    solution=fits_in_a_table,
    columns=("the table is",),
    notes={
        "DiT-XL/2, one label, 50 steps": "both have a factor 28 x 6 x 1152; compare 2 x 50 rows with 1152.",
        "DiT-XL/2, all 1,000 labels, 50 steps": "how many pairs of label and time are there?",
        "PixArt (time only), 50 steps": "one modulation for all blocks: 50 rows against a c of width 1152.",
        "SD3 (time + pooled text), any caption": "how many captions are there?",
        "MiniMax-H3 (time only), 50 steps": "50 rows, against a c of width 2,688.",
    },
    hints=(
        "A table has one row for each value that c can take. The weights have one row for each channel of c.",
        "So the table is smaller if c takes fewer values than it has channels.",
        "100 < 1152; 50,050 > 1152; 50 < 1152; no end of captions; 50 < 2688.",
    ),
)


def modulate_segments(h: Tensor, scale: Tensor, shift: Tensor, first: int) -> Tensor:
    """h (B, T, D), scale and shift (B, 2, D): row 0 for the tokens before `first`, row 1 for the others."""
    parts = h[:, :first], h[:, first:]
    return torch.cat([p * (1 + scale[:, i : i + 1]) + shift[:, i : i + 1] for i, p in enumerate(parts)], dim=1)


def given_segments(h, scale, shift, first):
    """h (B, T, D), scale and shift (B, 2, D): row 0 for the tokens before `first`, row 1 for the others."""
    which = (torch.arange(h.shape[1]) >= first).long()
    return h * (1 + scale[:, which]) + shift[:, which]


def examine_segments(modulate: Callable) -> tuple[bool, str]:
    for first in (24, 9):  # of 48 tokens
        tensors = [randn64(2, n, 8, seed=n + i).requires_grad_() for i, n in enumerate((48, 2, 2))]
        want, got = given_segments(*tensors, first), modulate(*tensors, first)
        if not isinstance(got, Tensor) or got.shape != want.shape or not torch.allclose(got, want):
            return False, f"with {first} tokens in the first part the result differs from that of the given code"
        loss = randn64(*want.shape, seed=9)
        for name, theirs, yours in zip(
            ("h", "scale", "shift"),
            torch.autograd.grad(want, tensors, loss),
            torch.autograd.grad(got, tensors, loss, allow_unused=True) if got.requires_grad else 3 * [None],
            strict=True,
        ):
            if yours is None or not torch.allclose(yours, theirs):
                return False, f"the result is the same, and the gradient of {name} is not"
        theirs, yours = (kept_bytes(partial(f, *tensors, first), tensors[:1]) for f in (given_segments, modulate))
        if yours > theirs / 4:
            return False, f"it keeps {yours} bytes for the backward pass; the goal is a quarter of {theirs}"
    return True, f"the same result, {yours} bytes kept for the backward pass beside h, {theirs} by the given code"


register(
    Repair,
    question="Give the same result, and keep at most a quarter of the bytes for the backward pass.",
    solution=modulate_segments,
    given=given_segments,
    examine=examine_segments,
    hints=(
        "Which tensor has a token axis and need not have one?",
        "scale[:, which] copies a row for each token. Where do all tokens share a row?",
        "Modulate h[:, :first] and h[:, first:] with one row each, (B, 1, D), and concatenate.",
    ),
)


PLACES = (
    "t, from 0 to 1", "1000 t", "the sinusoids of 1000 t", "the time embedding", "the modulation",
    "the stream between blocks",
)  # fmt: skip


def rounded(x: Tensor) -> Tensor:
    """The nearest numbers with 4 bits of exponent and 3 of mantissa (float8 e4m3, which ends at 448)."""
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype)


@contextlib.contextmanager
def rounded_at(model: TinyDiT, place: str) -> Iterator[None]:
    """Round to 8 bits in one of PLACES, inside the context."""

    def before(module: nn.Module, args: tuple) -> tuple:
        return (rounded(args[0] * 1000) / 1000 if place == "1000 t" else rounded(args[0]),)

    def after(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
        return rounded(out)

    with contextlib.ExitStack() as stack:
        if place in ("t, from 0 to 1", "1000 t"):
            handles = [model.t_embed.register_forward_pre_hook(before)]
        elif place == "the sinusoids of 1000 t":
            handles = [model.t_embed.mlp.register_forward_pre_hook(before)]
        elif place == "the time embedding":
            handles = [model.t_embed.register_forward_hook(after)]
        elif place == "the modulation":
            linears = [block.to_modulation.linear for block in [*model.blocks, model.final]]
            handles = [linear.register_forward_hook(after) for linear in linears]
        else:  # what a block starts from: its norms and its sums
            handles = []
            for block in model.blocks:
                whole = block.forward_with
                stack.callback(block.__dict__.pop, "forward_with")
                block.forward_with = lambda x, pre, whole=whole: whole(rounded(x), pre)
        for handle in handles:
            stack.callback(handle.remove)
        yield


@torch.no_grad()
def rounding_errors() -> dict[str, float]:
    """Place -> |v rounded there - v| / |v| of the shipped digits model, on held-out pictures."""
    model, data = shipped_model("digits"), datasets.load("digits")
    pair = flow_pair(data.held_images, data.held_labels, 10, 0.0, torch.Generator().manual_seed(0))
    v = model(pair.x_t, pair.t, pair.y)
    errors = {}
    for place in PLACES:
        with rounded_at(model, place):
            errors[place] = ((model(pair.x_t, pair.t, pair.y) - v).norm() / v.norm()).item()
    return errors


def eight_bits() -> dict[str, tuple[str]]:
    """Each error in words."""
    return {
        place: ("below 2 %" if error < 0.02 else "2 to 10 %" if error < 0.1 else "over 10 %",)
        for place, error in rounding_errors().items()
    }


register(
    Predict,
    question="Say how much the velocity changes if one quantity is rounded to 8 bits.",
    solution=eight_bits,
    columns=("v changes by",),
    notes={
        "t, from 0 to 1": "3 bits of mantissa: t is off by up to 6 %. What is it off by, in 1000 t?",
        "1000 t": "what is the largest number of this format, and how large does 1000 t get?",
        "the sinusoids of 1000 t": "they lie between -1 and 1, and 256 features share the error.",
        "the time embedding": "it is one part of c, and its rounding errors are independent.",
        "the modulation": "3 bits of mantissa: one channel is off by up to 6 %, independently of the next.",
        "the stream between blocks": "it is rounded four times, and everything passes through it.",
    },
    hints=(
        "A rounding error of 6 % in one of many channels averages out. Which quantity is a single number?",
        "The format ends at 448.",
        "over 10 % for 1000 t, 2 to 10 % for t and for the stream, below 2 % for the three others.",
    ),
)


class steady_average:
    """A moving average of a bfloat16 weight, kept in float32."""

    def __init__(self, weight, decay):
        self.average, self.decay = weight.float().clone(), decay

    def update(self, weight):
        self.average.lerp_(weight.float(), 1 - self.decay)

    def value(self):
        return self.average.bfloat16()


class GivenAverage:
    """A moving average of a bfloat16 weight."""

    def __init__(self, weight, decay):
        self.average, self.decay = weight.clone(), decay

    def update(self, weight):
        self.average.lerp_(weight, 1 - self.decay)

    def value(self):
        return self.average


def examine_average(average: type) -> tuple[bool, str]:
    """From one weight to another, with two decays; after 50 updates on the way, after 1,000 there."""
    start, end = torch.tensor([1.0, -2.0, 0.5]).bfloat16(), torch.tensor([1.125, -2.25, 0.75]).bfloat16()
    first = last = 0.0
    for decay in (0.99, 0.98):
        kept, want = average(start, decay), torch.lerp(end.float(), start.float(), decay**50)
        for n in range(1, 1001):
            kept.update(end)
            if n == 50:
                first = max(first, ((kept.value().float() - want) / want).abs().max().item())
        last = max(last, ((kept.value().float() - end.float()) / end.float()).abs().max().item())
    if kept.value().dtype != torch.bfloat16:
        return False, f"value() must be as the model's weights are, torch.bfloat16; got {kept.value().dtype}"
    return first < 0.01 and last < 0.01, f"{first:.1%} off after 50 updates, {last:.1%} off its goal after 1,000"


register(
    Repair,
    question="Mend the average, so that it arrives; its value stays bfloat16.",
    solution=steady_average,
    given=GivenAverage,
    examine=examine_average,
    hints=(
        "Print the average after 100, 200 and 300 updates. How large is one step, and how large is the last bit?",
        "The sum needs more bits than the weights.",
        "Keep self.average in float32, and turn it into bfloat16 only in value().",
    ),
)


def stacked(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """c (B, C), a weight (6D, C) and a bias (6D,) for each of L blocks -> (L, B, 6D) by one matrix product."""
    out = c @ torch.cat(weights).T + torch.cat(biases)  # (B, L 6D)
    return out.unflatten(1, (len(weights), -1)).transpose(0, 1)


register(
    Exercise,
    question="Make the modulation of all blocks with one matrix product.",
    solution=stacked,
    returns=("modulation",),
    cases=lambda: [
        (
            randn64(b, 3, seed=20 + b),
            [randn64(6, 3, seed=i) for i in range(n)],
            [randn64(6, seed=10 + i) for i in range(n)],
        )
        for b, n in ((5, 4), (2, 3), (1, 4))
    ],
    hints=(
        "All blocks read the same c. Concatenate their weights: torch.cat(weights) is (L 6D, C).",
        "c @ W.T is (B, L 6D): the columns of one block are consecutive.",
        "unflatten the columns to (L, 6D), then move L to the front.",
    ),
    products=1,
    mistakes="""
biases left out
    You left the biases out; they stack like the weights.
    + torch.cat(biases) =>
blocks and rows confused
    You split the product along the batch: each row of it holds all blocks, one after another in its columns.
    out.unflatten(1, (len(weights), -1)).transpose(0, 1) => out.reshape(len(weights), len(c), -1)
channels dealt out
    You assign every L-th column to a block; the columns of a block are consecutive.
    (len(weights), -1)).transpose(0, 1) => (-1, len(weights))).permute(2, 0, 1)
one weight for all
    You use the first block's weights for all blocks.
    torch.cat(weights) => torch.cat(weights[:1] * len(weights))
    torch.cat(biases) => torch.cat(biases[:1] * len(biases))
one bias for all
    You add the first block's bias to all blocks; they stack like the weights.
    torch.cat(biases) => torch.cat(biases[:1] * len(biases))
batch before blocks
    Your result is (B, L, 6D), and its first item is the first picture: the blocks come first, (L, B, 6D).
    .transpose(0, 1) =>
blocks left in the columns
    Your result is (B, L 6D), the product as it comes: give each block its own (B, 6D).
    .unflatten(1, (len(weights), -1)).transpose(0, 1) =>
""",
)


def few_launches(model: nn.Module, average: nn.Module) -> Callable[[], None]:
    """update(): AdamW with a rate of 1e-3, then the average moves by 1/50 towards the model's weights."""
    weights, averages = list(model.parameters()), list(average.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)

    @torch.no_grad()
    def update() -> None:
        optimizer.step()
        torch._foreach_lerp_(averages, weights, 0.02)

    return update


def given_launches(model, average):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)

    @torch.no_grad()
    def update():
        optimizer.step()
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            a.lerp_(p, 0.02)

    return update


def measure_launches(make_update: Callable) -> tuple[float, float] | str:
    """(operations of the third update, 3), or what differs from the update as it was given."""
    operations, found = 0, []
    for make in (given_launches, make_update):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, average = TinyDiT(DiTConfig(width=16, depth=2)), TinyDiT(DiTConfig(width=16, depth=2))
        generator = torch.Generator().manual_seed(0)
        update = make(model, average)
        if not callable(update):
            return f"few_launches must return a function, update(); got {type(update).__name__}"
        for _ in range(3):
            model.zero_grad()
            images = torch.randn(8, 1, 8, 8, generator=generator)
            flow_loss(model, flow_pair(images, torch.arange(8), 10, 0.0, generator)).backward()
            operations, _ = launches(update)
        found.append([torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (model, average)])
    for name, want, got in zip(("weights", "averages"), *found, strict=True):
        if (off := (got - want).abs().max().item()) > 1e-5:
            return f"after three updates the {name} differ by {off:.2g} from those of the update as it was given"
    return operations, 3


register(
    Design,
    question="Do the same update with at most 10 operations.",
    solution=few_launches,
    given=given_launches,
    measure=measure_launches,
    goal=10,
    budget=3,
    unit="updates",
    hints=(
        "There are two loops over the weights: one inside AdamW, one below it.",
        "AdamW has a switch that makes one operation of its loop. For lists torch has _foreach functions.",
        "AdamW(..., fused=True) and torch._foreach_lerp_(averages, weights, 0.02).",
    ),
)


def shard(rows: Tensor, rank: int, size: int) -> Tensor:
    """The rows of a global batch (B, ...) that belong to process `rank` of `size`; B is a multiple of size."""
    n = len(rows) // size
    return rows[rank * n : (rank + 1) * n]


register(
    Exercise,
    question="Give the rows of a global batch that process `rank` of `size` works on.",
    solution=shard,
    returns=("rows",),
    cases=lambda: [
        (randn64(12, 2), 1, 3),
        (randn64(8, 3), 0, 4),
        (randn64(10, 1), 0, 2),
        (randn64(15, 2, 7), 3, 5),
    ],
    hints=(
        "Every process gets B / size rows, no row goes to two of them.",
        "Ranks count from 0, so rank 0 has the first B / size rows.",
        "n = len(rows) // size; the slice starts at rank * n.",
    ),
    later=lambda: [(torch.arange(12), 1, 3), (randn64(12, 1, 4, 4), 2, 3)],  # labels and images
    mistakes="""
dealt out in turn
    You take every size-th row. That would work, too, but the package gives each process consecutive rows.
    [rank * n : (rank + 1) * n] => [rank::size]
everybody takes the first
    You give every process the first rows; the others are never seen.
    [rank * n : (rank + 1) * n] => [:n]
counted from one
    You count ranks from 1; torchrun counts from 0, so the first rows would be lost.
    rank * n : (rank + 1) => (rank + 1) * n : (rank + 2)
size rows each
    You take `size` rows for each process; each takes B / size.
    len(rows) // size => size
one row each
    Each process takes one row, and most rows are never seen.
    len(rows) // size => 1
to the end
    The last rows go to every process: your slice has a start and no end.
    (rank + 1) * n =>
last rows first
    Process 0 has the last rows: it should have the first.
    rank * n : (rank + 1) * n => (size - 1 - rank) * n : (size - rank) * n
""",
)


def ring_bytes(parameters: Tensor, processes: Tensor) -> Tensor:
    """Bytes that each process sends to average float32 gradients around a ring of N: 2 (N - 1) / N times their size."""
    return 2 * (processes - 1) / processes * 4 * parameters


register(
    Exercise,
    question="Count the bytes that each of N processes sends to average its float32 gradients around a ring.",
    solution=ring_bytes,
    returns=("bytes",),
    cases=lambda: [torch.tensor(pair, dtype=torch.float64).unbind() for pair in ((3e5, 2), (6.75e8, 8), (10, 1))],
    hints=(
        "The gradients are cut into N parts. N - 1 steps sum them, each process sending one part at a step.",
        "Then N - 1 more steps distribute the finished sums. A part has parameters / N numbers of four bytes.",
        "2 * (N - 1) steps, each of 4 * parameters / N bytes.",
    ),
    later=lambda: [(torch.tensor(1e6).double(), torch.arange(1, 6).double())],  # several rings at once
    mistakes="""
half missing
    The data goes around the ring twice, to sum and to distribute the sums; and a float32 has four bytes.
    2 * (processes => (processes
to everybody
    You send all gradients to all others: that grows with N. On a ring each sends a part of size 1 / N at a time.
    2 * (processes - 1) / processes => (processes - 1)
numbers for bytes
    You count numbers; each of them, in float32, is four bytes.
    * 4 =>
alone sends too
    You forget that one process alone sends nothing: the factor is (N - 1) / N.
    (processes - 1) / processes * => torch.ones_like(processes) *
bits for bytes
    You are off by a factor of eight: 32 counts the bits of a number, and a byte has eight.
    4 => 32
all processes together
    Your number grows with N: in each step a process sends one part, not everything, and only its own sends count.
    / processes =>
one part only
    Your number shrinks as N grows: you count one step, or one part. Each step sends a part, and there are many.
    (processes - 1) / => 1 /
one step too many
    One process alone sends something: N parts go around in N - 1 steps, and again in N - 1.
    2 * (processes - 1) => (2 * processes - 1)
""",
)
