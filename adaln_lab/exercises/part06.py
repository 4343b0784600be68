"""Exercises of notebook 06: footprints, what depends on positions, shares of variance, two times, a table.

t = 0 is data, t = 1 is noise.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from adaln_lab.analysis.interventions import scaled
from adaln_lab.conditioning import map_tensors
from adaln_lab.data import datasets
from adaln_lab.dit import Precomputed, TinyDiT
from adaln_lab.embed import patchify, unpatchify
from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.experiments import classifier
from adaln_lab.samplers import sample, time_grid
from adaln_lab.training.checkpoint import shipped_model


def footprint(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """Share of the mean absolute change that lies inside; pictures (n, C, H, W), inside (H, W) bool -> scalar."""
    change = (after - before).abs().mean((0, 1))
    return change[inside].sum() / change.sum()


def footprint_cases() -> Iterator[tuple]:
    """The pictures of a batch change by different amounts, so that a mean of shares is not the share of all."""
    inside = torch.zeros(5, 6, dtype=torch.bool)
    inside[:2, :3] = True
    for seed, (n, channels, mask) in enumerate([(4, 3, inside), (2, 5, ~inside), (1, 4, inside)]):
        before, change = randn64(n, channels, 5, 6, seed=seed), randn64(n, channels, 5, 6, seed=10 + seed)
        yield before, before + change * torch.arange(1, n + 1)[:, None, None, None], mask


register(
    Exercise,
    question="Give the share of a change that lies inside a part of the picture.",
    solution=footprint,
    returns=("share",),
    cases=footprint_cases,
    hints=(
        "First a map: how much does each pixel change, on average over pictures and colours?",
        "Absolute values first, then the mean over axes 0 and 1.",
        "change[inside].sum() / change.sum()",
    ),
    mistakes="""
signs cancel
    You average before taking the absolute value: changes of opposite sign would cancel.
    abs().mean((0, 1)) => mean((0, 1)).abs()
mean for share
    You compare the mean inside with the mean of all, which can exceed one; a share compares sums.
    every sum => mean
outside measured
    Your share is that of the change outside.
    [inside] => [~inside]
change squared
    You square the change; a few large changes would outweigh all others.
    abs => square
area measured
    You return the share of pixels that lie inside, independent of any change.
    return inside.to(before.dtype).mean()
shares averaged
    A picture that hardly changes counts as much as one that changes a lot: you average the pictures' shares.
    change = (after - before).abs()
    return (change[..., inside].sum((1, 2)) / change.sum((1, 2, 3))).mean()
inside against outside
    Your result can exceed 1: you divide by the change outside. A share is a part of the whole.
    / change => / change[~inside]
not compared with the whole
    A change that is twice as large doubles your result, and a share would stay: nothing is divided by the whole.
    / change.sum() =>
""",
)


def order_of_patches() -> dict[str, tuple[str, str]]:
    """The trained digits model in float64: are its answers permuted with the patches, and do tokens stay apart?"""
    model = shipped_model("digits").double()
    x, t, y = randn64(4, 1, 8, 8), torch.linspace(0.2, 0.8, 4).double(), torch.tensor([1, 3, 8, 10])
    order, kept = torch.randperm(16, generator=torch.Generator().manual_seed(1)), model.positions
    first_changed = x.clone()
    first_changed[..., :2, :2] += 1
    found = {}
    for row, (positions, branch) in {
        "as trained": (kept, ""),
        "positions 0": (0 * kept, ""),
        "attention's gates 0": (kept, "attention"),
        "both gates 0": (kept, None),
        "positions 0, attention's gates 0": (0 * kept, "attention"),
    }.items():
        precompute = model.precompute if branch == "" else scaled(model.precompute, "gate", 0.0, branch=branch)

        @torch.no_grad()
        def answer(x: Tensor, precompute: Callable = precompute) -> Tensor:
            return patchify(model.forward_with(x, precompute(t, y)), 2)  # (B, 16, 4)

        model.positions = positions
        permuted = answer(unpatchify(patchify(x, 2)[:, order], 2, rows=4))
        is_same = torch.allclose(permuted, answer(x)[:, order], atol=1e-9)
        is_apart = torch.equal(answer(x)[:, 1:], answer(first_changed)[:, 1:])
        found[row] = ("yes" if is_same else "no", "yes" if is_apart else "no")
    return found


register(
    Predict,
    question="Say for each version: do permuted patches permute the answer, and do tokens ignore each other?",
    solution=order_of_patches,
    columns=("answer permuted with the patches", "tokens ignore each other"),
    notes={
        "answer permuted with the patches": "which part of the model treats token 3 differently from token 7?",
        "tokens ignore each other": "which branch is the only one that mixes tokens?",
        "both gates 0": "with every gate at 0 the stream is patch embedding + positions. Who reads it?",
    },
    hints=(
        "Modulation, LN and MLP do the same to every token. What is added that depends on the place?",
        "Attention alone lets a token see another one. A gate of 0 removes it.",
        "Column 1 asks whether positions are 0, column 2 whether attention's gates are 0.",
    ),
)


def variance_shares(m: Tensor) -> Tensor:
    """m (n times, K labels, D) -> the shares (3,) of its variance that t, the label, and their interaction hold."""
    m = m - m.mean((0, 1))
    by_t, by_label = m.mean(1, keepdim=True), m.mean(0, keepdim=True)
    parts = [by_t.expand_as(m), by_label.expand_as(m), m - by_t - by_label]
    return torch.stack([part.square().sum() for part in parts]) / m.square().sum()


register(
    Exercise,
    question="Give the share of a table's variance that t explains, that the label explains, and what is left.",
    solution=variance_shares,
    returns=("shares",),
    cases=lambda: [
        (randn64(5, 4, 3) + 2.0,),
        (randn64(6, 1, 3, seed=1) + 2 * randn64(1, 7, 3, seed=2) + 1.0,),
        (randn64(3, 5, 1, seed=3) - 1.0,),
    ],
    hints=(
        "The mean over labels is the effect of t alone; the mean over times is the effect of the label.",
        "First subtract the mean over both. The rest, which neither mean explains, is m - by_t - by_label.",
        "by_t = m.mean(1, keepdim=True); expand each part to m's shape, sum squares, divide by m's.",
    ),
    mistakes="""
mean left in
    You left the overall mean in: it depends neither on t nor on the label. Subtract it first, channel by channel.
    - m.mean((0, 1)) =>
time and label exchanged
    Your first share is the label's: to keep the effect of t, average over labels, axis 1.
    by_t, by_label = => by_label, by_t =
means not repeated
    You sum squares over n and over K means; each mean counts for a whole row or column: expand it first.
    by_t.expand_as(m), by_label.expand_as(m), => by_t, by_label,
nothing left over
    Your third part is the whole table; subtract the two other parts from it.
    m - by_t - by_label => m
divided by n minus one
    Your variances divide by n - 1, torch's default, so they do not add up: use correction=0, or sums of squares.
    total = m.flatten(0, 1).var(0).sum()
    by_t, by_label = m.mean(1).var(0).sum() / total, m.mean(0).var(0).sum() / total
    return torch.stack([by_t, by_label, 1 - by_t - by_label])
not divided
    You return sums of squares; divide them by the sum of all three to get shares.
    / m.square().sum() =>
deviations for variances
    Your shares do not add up to 1: you take roots. Variances add up, and deviations do not.
    return variance_shares(m).sqrt()
percent
    Your shares add up to 100: a share of the whole is 1.
    return => return 100 *
divided by the sum of two
    Time and label alone add up to 1: the whole is the variance of m, and the rest is a part of it.
    shares = variance_shares(m)
    return shares / (shares[0] + shares[1])
""",
)


def given_times() -> dict[str, float]:
    """The time that the model receives in each of six steps."""
    return {"step 1": 0.6, "step 2": 0.6, "step 3": 0.6, "step 4": 0.6, "step 5": 0.3, "step 6": 0.3}


def measure_given(given: dict[str, float]) -> tuple[float, float] | str:
    """Frechet distance of 1,000 samples, and how many different times the model received."""
    if not isinstance(given, dict) or set(given) != set(given_times()):
        return "give one time for each of step 1 .. step 6"
    if not all(0 <= time <= 1 for time in given.values()):
        return "times lie in 0 .. 1 (0 is data, 1 is noise)"
    model, data = shipped_model("digits"), datasets.load("digits")
    given_at, grid = torch.tensor([float(given[f"step {i}"]) for i in range(1, 7)]), time_grid(6)[:-1]

    def precompute(t: Tensor, y: Tensor) -> Precomputed:
        return model.precompute(given_at[(t[:, None] - grid).abs().argmin(1)], y)

    y = torch.arange(1000) % 10
    images = sample(model, y, precompute=precompute)
    return classifier.evaluate(images, y, data, classifier.load_classifier(data)).frechet, len(given_at.unique())


register(
    Design,
    question="Choose the times that the model receives in six steps: at most two different ones.",
    solution=given_times,
    measure=measure_given,
    goal=3.0,
    budget=2,
    unit="different times",
    is_value=True,
    hints=(
        "The steps start at t = 1, .83, .67, .50, .33, .17. One time for all of them gives 3.6 at best.",
        "The last steps finish the strokes and need a time near the data. Where does the first group end?",
        "0.6 for the first four steps and 0.3 for the last two.",
    ),
)


def draw_from_table(model: TinyDiT, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Euler from noise x (n, 1, 8, 8) for labels y (n,); one row of modulation for each time and label."""
    times = torch.linspace(1, 0, steps + 1)[:-1].to(x)
    table = model.precompute(times.repeat_interleave(10), torch.arange(10).repeat(steps))
    for i in range(steps):
        rows = 10 * i + y
        now = map_tensors(lambda part, rows=rows: part[rows], table)
        x = x - model.forward_with(x, now) / steps
    return x


def given_table(model: TinyDiT, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Two lines of it are wrong."""
    times = torch.linspace(1, 0, steps + 1)[1:].to(x)
    table = model.precompute(times.repeat_interleave(10), torch.arange(10).repeat(steps))
    for i in range(steps):
        rows = steps * y + i
        now = map_tensors(lambda part, rows=rows: part[rows], table)
        x = x - model.forward_with(x, now) / steps
    return x


@torch.no_grad()
def examine_table(draw: Callable) -> tuple[bool, str]:
    model, y, x = shipped_model("digits").double(), torch.tensor([3, 8, 0, 9, 5]), randn64(5, 1, 8, 8)
    calls, precompute = [], model.precompute
    model.precompute = lambda *args: (calls.append(1), precompute(*args))[1]
    got, tables = draw(model, x.clone(), y, 6), len(calls)
    if not isinstance(got, Tensor) or got.shape != x.shape:
        return False, "return the pictures, shaped like x"

    def by_hand(end: int) -> Tensor:  # the model receives the time at the start of a step, or at its end
        z, grid = x, torch.linspace(1, 0, 7).double()
        for i in range(6):
            z = z - model(z, grid[i + end].expand(5), y) / 6
        return z

    off = (got - by_hand(0)).abs().max().item()
    if off < 1e-9:
        text = f"samples differ from the model's by at most {off:.0e}; modulation was computed {tables} time(s)"
        return tables == 1, text + ("" if tables == 1 else ", and once is enough")
    if (got - by_hand(1)).abs().max() < 1e-9:
        return False, "each picture has its own label now, but a step receives the time at its end, not at its start"
    return False, f"samples differ from the model's by up to {off:.2g}; which row belongs to step i and label y?"


register(
    Repair,
    question="Mend the two wrong lines, so that the samples are those of the model.",
    solution=draw_from_table,
    given=given_table,
    examine=examine_table,
    hints=(
        "Print the times and labels of the table's rows: which label stands in row 0, row 1, row 10?",
        "A step from t to t - dt asks for the velocity at t. The rows are ordered time by time.",
        "times are linspace(...)[:-1], and step i with label y is row 10 * i + y.",
    ),
)
