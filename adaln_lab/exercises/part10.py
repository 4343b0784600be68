"""Exercises of notebook 10: one product for all blocks, a rank's rows, the cost of an all-reduce.

For each exercise: the solution, its common mistakes (a table for `core.mutants`), and the arguments of the check.
B batch, C width of c, D width.
"""

import torch
from torch import Tensor

from adaln_lab.exercises.core import Exercise, randn64, register

# stacked: the modulation of all blocks in one product


def stacked(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """c (B, C), a weight (6D, C) and a bias (6D,) for each of L blocks -> (L, B, 6D) by one matrix product."""
    out = c @ torch.cat(weights).T + torch.cat(biases)  # (B, L 6D)
    return out.unflatten(1, (len(weights), -1)).transpose(0, 1)


STACKED_MISTAKES = """
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
"""


def stacked_cases() -> list[tuple]:
    weights, biases = [randn64(6, 3, seed=i) for i in range(4)], [randn64(6, seed=10 + i) for i in range(4)]
    batches = [(5, 4), (2, 3), (1, 4)]
    return [(randn64(b, 3, seed=20 + b), weights[:n], biases[:n]) for b, n in batches]


# shard: the rows of one process


def shard(rows: Tensor, rank: int, size: int) -> Tensor:
    """The rows of a global batch (B, ...) that belong to process `rank` of `size`; B is a multiple of size."""
    n = len(rows) // size
    return rows[rank * n : (rank + 1) * n]


SHARD_MISTAKES = """
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
"""


def shard_cases() -> list[tuple]:
    return [(randn64(12, 2), 1, 3), (randn64(8, 3), 0, 4), (randn64(10, 1), 0, 2), (randn64(15, 2, 7), 3, 5)]


# ring_bytes: how much a process must send


def ring_bytes(parameters: Tensor, processes: Tensor) -> Tensor:
    """Bytes that each process sends to average float32 gradients around a ring of N: 2 (N - 1) / N times their size."""
    return 2 * (processes - 1) / processes * 4 * parameters


RING_BYTES_MISTAKES = """
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
"""


def ring_bytes_cases() -> list[tuple]:
    number = lambda value: torch.tensor(float(value), dtype=torch.float64)  # noqa: E731
    return [(number(3e5), number(2)), (number(6.75e8), number(8)), (number(10), number(1))]


register(
    Exercise(
        question="Make the modulation of all blocks with one matrix product.",
        solution=stacked,
        returns=("modulation",),
        cases=stacked_cases,
        hints=(
            "All blocks read the same c. Concatenate their weights: torch.cat(weights) is (L 6D, C).",
            "c @ W.T is (B, L 6D): the columns of one block are consecutive.",
            "unflatten the columns to (L, 6D), then move L to the front.",
        ),
        mistakes=STACKED_MISTAKES,
        products=1,
    )
)
register(
    Exercise(
        question="Give the rows of a global batch that process `rank` of `size` works on.",
        solution=shard,
        returns=("rows",),
        cases=shard_cases,
        hints=(
            "Every process gets B / size rows, no row goes to two of them.",
            "Ranks count from 0, so rank 0 has the first B / size rows.",
            "n = len(rows) // size; the slice starts at rank * n.",
        ),
        mistakes=SHARD_MISTAKES,
        later=lambda: [(torch.arange(12), 1, 3), (randn64(12, 1, 4, 4), 2, 3)],  # labels and images
    )
)
register(
    Exercise(
        question="Count the bytes that each of N processes sends to average its float32 gradients around a ring.",
        solution=ring_bytes,
        returns=("bytes",),
        cases=ring_bytes_cases,
        hints=(
            "The gradients are cut into N parts. N - 1 steps sum them, each process sending one part at a step.",
            "Then N - 1 more steps distribute the finished sums. A part has parameters / N numbers of four bytes.",
            "2 * (N - 1) steps, each of 4 * parameters / N bytes.",
        ),
        mistakes=RING_BYTES_MISTAKES,
        later=lambda: [(torch.tensor(1e6).double(), torch.arange(1, 6).double())],  # several rings at once
    )
)
