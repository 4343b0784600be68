"""Exercises of notebook 06: clamp gates, borrow modulation, decompose a variance, measure a footprint.

A table holds all modulation of a model: (L blocks, 2 branches, 3 parts, n times, K labels, D channels), parts in the
order shift, scale, gate. For each exercise: the solution, then common mistakes, with the docstring that `check` prints.
"""

import torch
from torch import Tensor

from adaln_lab.exercises.core import Exercise, by_name, randn64, register

# clamp_gates: an intervention on a table


def clamp_gates(table: Tensor, block: int, value: float) -> Tensor:
    """The table with both gates of one block set to `value`; table (L, 2, 3, n, K, D)."""
    table = table.clone()
    table[block, :, 2] = value
    return table


def shifts_clamped(table: Tensor, block: int, value: float) -> Tensor:
    """You set part 0, which is shift; gate is part 2."""
    table[block, :, 0] = value
    return table


def all_blocks_clamped(table: Tensor, block: int, value: float) -> Tensor:
    """You set the gates of every block; only one was asked for."""
    table[:, :, 2] = value
    return table


def one_branch_clamped(table: Tensor, block: int, value: float) -> Tensor:
    """You set the gate of attention alone; the block has a second gate, for its MLP."""
    table[block, 0, 2] = value
    return table


def gates_multiplied(table: Tensor, block: int, value: float) -> Tensor:
    """You multiply the gates by `value`; to clamp is to set them, whatever they were."""
    table[block, :, 2] *= value
    return table


def whole_block_clamped(table: Tensor, block: int, value: float) -> Tensor:
    """You set shift and scale, too; the branch would then get another input."""
    table[block] = value
    return table


def scales_clamped(table: Tensor, block: int, value: float) -> Tensor:
    """The gates are as they were: you set part 1, which is scale. The order is shift, scale, gate."""
    table[block, :, 1] = value
    return table


def gates_added_to(table: Tensor, block: int, value: float) -> Tensor:
    """With value = 0 your table stays as it is: you add to the gates. To clamp is to set them."""
    table[block, :, 2] += value
    return table


def all_but_one_clamped(table: Tensor, block: int, value: float) -> Tensor:
    """The gates of all other blocks are set, and those of this block are not."""
    clamped = all_blocks_clamped(table.clone(), block, value)
    clamped[block] = table[block]
    return clamped


def gates_limited(table: Tensor, block: int, value: float) -> Tensor:
    """Gates below the value stay as they are: here, to clamp is to set them, whatever they were."""
    table[block, :, 2] = table[block, :, 2].clamp(max=value)
    return table


def clamp_gates_cases() -> list[tuple]:
    return [
        (randn64(4, 2, 3, 5, 6, 7), 2, 0.5),
        (randn64(3, 2, 3, 2, 4, 5), 0, 0.0),
        (randn64(1, 2, 3, 1, 1, 3), 0, -1.0),
    ]


# borrow: some blocks get the modulation of another label


def borrow(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """`mine` in the blocks before `first`, `theirs` from there on; both (L, ...)."""
    return torch.cat([mine[:first], theirs[first:]])


def early_blocks_borrowed(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """You take theirs before block `first` and mine after it: the other way round."""
    return torch.cat([theirs[:first], mine[first:]])


def one_block_borrowed(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """You take theirs in block `first` alone; all blocks after it were asked for, too."""
    mine[first] = theirs[first]
    return mine


def starts_one_late(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """You start one block late: block `first` itself must be theirs."""
    return torch.cat([mine[: first + 1], theirs[first + 1 :]])


def blended(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """You mix mine and theirs; each block belongs to one of them."""
    return torch.cat([mine[:first], (mine[first:] + theirs[first:]) / 2])


def all_borrowed(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """Whatever `first` is, all blocks are theirs."""
    return theirs.clone()


def nothing_borrowed(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """Whatever `first` is, all blocks are mine."""
    return mine.clone()


def their_first_blocks_borrowed(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """Their block 0 stands at place `first`: each block must keep its place."""
    return torch.cat([mine[:first], theirs[: len(theirs) - first]])


def counted_from_the_end(mine: Tensor, theirs: Tensor, first: int) -> Tensor:
    """You borrow the last `first` blocks: `first` counts the blocks that stay mine, from the start."""
    return torch.cat([mine[: len(mine) - first], theirs[len(mine) - first :]])


def borrow_cases() -> list[tuple]:
    cases = [(randn64(*s), randn64(*s, seed=1), first) for s, first in (((5, 2, 3), 2), ((4, 3), 1), ((3, 1, 7), 0))]
    return cases


# variance_shares: what time explains, what the label explains, and what only both together explain


def variance_shares(m: Tensor) -> Tensor:
    """m (n times, K labels, D) -> the shares (3,) of its variance that t, the label, and their interaction hold."""
    m = m - m.mean((0, 1))
    by_t, by_label = m.mean(1, keepdim=True), m.mean(0, keepdim=True)
    parts = [by_t.expand_as(m), by_label.expand_as(m), m - by_t - by_label]
    return torch.stack([part.square().sum() for part in parts]) / m.square().sum()


def mean_left_in(m: Tensor) -> Tensor:
    """You left the overall mean in: it depends neither on t nor on the label. Subtract it first, channel by channel."""
    by_t, by_label = m.mean(1, keepdim=True), m.mean(0, keepdim=True)
    parts = [by_t.expand_as(m), by_label.expand_as(m), m - by_t - by_label]
    return torch.stack([part.square().sum() for part in parts]) / m.square().sum()


def time_and_label_exchanged(m: Tensor) -> Tensor:
    """Your first share is the label's: to keep the effect of t, average over labels, axis 1."""
    return variance_shares(m)[[1, 0, 2]]


def means_not_repeated(m: Tensor) -> Tensor:
    """You sum squares over n and over K means; each mean counts for a whole row or column: expand it first."""
    m = m - m.mean((0, 1))
    by_t, by_label = m.mean(1, keepdim=True), m.mean(0, keepdim=True)
    parts = [by_t, by_label, m - by_t - by_label]
    return torch.stack([part.square().sum() for part in parts]) / m.square().sum()


def nothing_left_over(m: Tensor) -> Tensor:
    """Your third part is the whole table; subtract the two other parts from it."""
    shares = variance_shares(m)
    return torch.stack([shares[0], shares[1], shares.sum()])


def divided_by_n_minus_one(m: Tensor) -> Tensor:
    """Your variances divide by n - 1, torch's default, so they do not add up: use correction=0, or sums of squares."""
    total = m.flatten(0, 1).var(0).sum()
    by_t, by_label = m.mean(1).var(0).sum() / total, m.mean(0).var(0).sum() / total
    return torch.stack([by_t, by_label, 1 - by_t - by_label])


def not_divided(m: Tensor) -> Tensor:
    """You return sums of squares; divide them by the sum of all three to get shares."""
    return variance_shares(m) * (m - m.mean((0, 1))).square().sum()


def deviations_for_variances(m: Tensor) -> Tensor:
    """Your shares do not add up to 1: you take roots. Variances add up, and deviations do not."""
    return variance_shares(m).sqrt()


def percent(m: Tensor) -> Tensor:
    """Your shares add up to 100: a share of the whole is 1."""
    return 100 * variance_shares(m)


def divided_by_the_sum_of_two(m: Tensor) -> Tensor:
    """Time and label alone add up to 1: the whole is the variance of m, and the rest is a part of it."""
    shares = variance_shares(m)
    return shares / (shares[0] + shares[1])


def variance_shares_cases() -> list[tuple]:
    by_t, by_label = randn64(6, 1, 3, seed=1), 2 * randn64(1, 7, 3, seed=2)
    return [(randn64(5, 4, 3) + 2.0,), (by_t + by_label + 1.0,), (randn64(3, 5, 1, seed=3) - 1.0,)]


# footprint: where a picture changes


def footprint(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """Share of the mean absolute change that lies inside; pictures (n, C, H, W), inside (H, W) bool -> scalar."""
    change = (after - before).abs().mean((0, 1))
    return change[inside].sum() / change.sum()


def signs_cancel(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """You average before taking the absolute value: changes of opposite sign would cancel."""
    change = (after - before).mean((0, 1)).abs()
    return change[inside].sum() / change.sum()


def mean_for_share(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """You compare the mean inside with the mean of all, which can exceed one; a share compares sums."""
    change = (after - before).abs().mean((0, 1))
    return change[inside].mean() / change.mean()


def outside_measured(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """Your share is that of the change outside."""
    return 1 - footprint(before, after, inside)


def change_squared(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """You square the change; a few large changes would outweigh all others."""
    change = (after - before).square().mean((0, 1))
    return change[inside].sum() / change.sum()


def area_measured(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """You return the share of pixels that lie inside, independent of any change."""
    return inside.to(before.dtype).mean()


def shares_averaged(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """A picture that hardly changes counts as much as one that changes a lot: you average the pictures' shares."""
    change = (after - before).abs()
    return (change[..., inside].sum((1, 2)) / change.sum((1, 2, 3))).mean()


def inside_against_outside(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """Your result can exceed 1: you divide by the change outside. A share is a part of the whole."""
    change = (after - before).abs().mean((0, 1))
    return change[inside].sum() / change[~inside].sum()


def not_compared_with_the_whole(before: Tensor, after: Tensor, inside: Tensor) -> Tensor:
    """A change that is twice as large doubles your result, and a share would stay: nothing is divided by the whole."""
    return (after - before).abs().mean((0, 1))[inside].sum()


def footprint_cases() -> list[tuple]:
    """The pictures of a batch change by different amounts, so that a mean of shares is not the share of all."""
    inside = torch.zeros(5, 6, dtype=torch.bool)
    inside[:2, :3] = True
    cases = []
    for seed, (n, channels, mask) in enumerate([(4, 3, inside), (2, 5, ~inside), (1, 4, inside)]):
        before, change = randn64(n, channels, 5, 6, seed=seed), randn64(n, channels, 5, 6, seed=10 + seed)
        cases.append((before, before + change * torch.arange(1, n + 1)[:, None, None, None], mask))
    return cases


register(
    Exercise(
        question="Give the share of a table's variance that t explains, that the label explains, and what is left.",
        solution=variance_shares,
        returns=("shares",),
        cases=variance_shares_cases,
        hints=(
            "The mean over labels is the effect of t alone; the mean over times is the effect of the label.",
            "First subtract the mean over both. The rest, which neither mean explains, is m - by_t - by_label.",
            "by_t = m.mean(1, keepdim=True); expand each part to m's shape, sum squares, divide by m's.",
        ),
        wrong=by_name(
            mean_left_in,
            time_and_label_exchanged,
            means_not_repeated,
            nothing_left_over,
            divided_by_n_minus_one,
            not_divided,
            deviations_for_variances,
            percent,
            divided_by_the_sum_of_two,
        ),
    )
)
register(
    Exercise(
        question="Set both gates of one block to a value, in a table of all modulation.",
        solution=clamp_gates,
        returns=("table",),
        cases=clamp_gates_cases,
        hints=(
            "Which of the six axes is the block, and which is the part? Gate is the last of shift, scale, gate.",
            "Work on a copy: table.clone(). Set both branches: their axis is a colon.",
            "table[block, :, 2] = value, and return the copy.",
        ),
        wrong=by_name(
            shifts_clamped,
            all_blocks_clamped,
            one_branch_clamped,
            gates_multiplied,
            whole_block_clamped,
            scales_clamped,
            gates_added_to,
            all_but_one_clamped,
            gates_limited,
        ),
    )
)
register(
    Exercise(
        question="Keep your own modulation in the first blocks, and take that of another label from block `first` on.",
        solution=borrow,
        returns=("table",),
        cases=borrow_cases,
        hints=(
            "The first axis counts the blocks. Nothing is mixed: each block is yours or theirs.",
            "mine[:first] holds the blocks before `first`.",
            "torch.cat the first blocks of mine with the last of theirs.",
        ),
        wrong=by_name(
            early_blocks_borrowed,
            one_block_borrowed,
            starts_one_late,
            blended,
            all_borrowed,
            nothing_borrowed,
            their_first_blocks_borrowed,
            counted_from_the_end,
        ),
    )
)
register(
    Exercise(
        question="Give the share of a change that lies inside a part of the picture.",
        solution=footprint,
        returns=("share",),
        cases=footprint_cases,
        hints=(
            "First a map: how much does each pixel change, on average over pictures and colours?",
            "Absolute values first, then the mean over axes 0 and 1.",
            "change[inside].sum() / change.sum()",
        ),
        wrong=by_name(
            signs_cancel,
            mean_for_share,
            outside_measured,
            change_squared,
            area_measured,
            shares_averaged,
            inside_against_outside,
            not_compared_with_the_whole,
        ),
    )
)
