"""Exercises of notebook 10: one product for all blocks, a rank's rows, the cost of an all-reduce.

For each exercise: the solution, then common mistakes, one function each, with the docstring that `check` prints.
B batch, C width of c, D width.
"""

import torch
from torch import Tensor

from adaln_lab.exercises.core import Exercise, by_name, randn64, register

# stacked: the modulation of all blocks in one product


def stacked(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """c (B, C), a weight (6D, C) and a bias (6D,) for each of L blocks -> (L, B, 6D) by one matrix product."""
    out = c @ torch.cat(weights).T + torch.cat(biases)  # (B, L 6D)
    return out.unflatten(1, (len(weights), -1)).transpose(0, 1)


def biases_left_out(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """You left the biases out; they stack like the weights."""
    return stacked(c, weights, [0 * b for b in biases])


def blocks_and_rows_confused(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """You split the product along the batch: each row of it holds all blocks, one after another in its columns."""
    out = c @ torch.cat(weights).T + torch.cat(biases)
    return out.reshape(len(weights), len(c), -1)


def channels_dealt_out(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """You assign every L-th column to a block; the columns of a block are consecutive."""
    out = c @ torch.cat(weights).T + torch.cat(biases)
    return out.unflatten(1, (-1, len(weights))).permute(2, 0, 1)


def one_weight_for_all(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """You use the first block's weights for all blocks."""
    return stacked(c, [weights[0]] * len(weights), [biases[0]] * len(biases))


def one_bias_for_all(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """You add the first block's bias to all blocks; they stack like the weights."""
    return stacked(c, weights, [biases[0]] * len(biases))


def batch_before_blocks(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Your result is (B, L, 6D), and its first item is the first picture: the blocks come first, (L, B, 6D)."""
    return stacked(c, weights, biases).transpose(0, 1)


def blocks_left_in_the_columns(c: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Your result is (B, L 6D), the product as it comes: give each block its own (B, 6D)."""
    return c @ torch.cat(weights).T + torch.cat(biases)


def stacked_cases() -> list[tuple]:
    weights, biases = [randn64(6, 3, seed=i) for i in range(4)], [randn64(6, seed=10 + i) for i in range(4)]
    batches = [(5, 4), (2, 3), (1, 4)]
    return [(randn64(b, 3, seed=20 + b), weights[:n], biases[:n]) for b, n in batches]


# shard: the rows of one process


def shard(rows: Tensor, rank: int, size: int) -> Tensor:
    """The rows of a global batch (B, ...) that belong to process `rank` of `size`; B is a multiple of size."""
    n = len(rows) // size
    return rows[rank * n : (rank + 1) * n]


def dealt_out_in_turn(rows: Tensor, rank: int, size: int) -> Tensor:
    """You take every size-th row. That would work, too, but the package gives each process consecutive rows."""
    return rows[rank::size]


def everybody_takes_the_first(rows: Tensor, rank: int, size: int) -> Tensor:
    """You give every process the first rows; the others are never seen."""
    return rows[: len(rows) // size]


def counted_from_one(rows: Tensor, rank: int, size: int) -> Tensor:
    """You count ranks from 1; torchrun counts from 0, so the first rows would be lost."""
    n = len(rows) // size
    return rows[(rank + 1) * n : (rank + 2) * n]


def size_rows_each(rows: Tensor, rank: int, size: int) -> Tensor:
    """You take `size` rows for each process; each takes B / size."""
    return rows[rank * size : (rank + 1) * size]


def one_row_each(rows: Tensor, rank: int, size: int) -> Tensor:
    """Each process takes one row, and most rows are never seen."""
    return rows[rank : rank + 1]


def to_the_end(rows: Tensor, rank: int, size: int) -> Tensor:
    """The last rows go to every process: your slice has a start and no end."""
    return rows[rank * (len(rows) // size) :]


def last_rows_first(rows: Tensor, rank: int, size: int) -> Tensor:
    """Process 0 has the last rows: it should have the first."""
    return shard(rows, size - 1 - rank, size)


def shard_cases() -> list[tuple]:
    return [(randn64(12, 2), 1, 3), (randn64(8, 3), 0, 4), (randn64(10, 1), 0, 2), (randn64(15, 2, 7), 3, 5)]


# ring_bytes: how much a process must send


def ring_bytes(parameters: Tensor, processes: Tensor) -> Tensor:
    """Bytes that each process sends to average float32 gradients around a ring of N: 2 (N - 1) / N times their size."""
    return 2 * (processes - 1) / processes * 4 * parameters


def half_missing(parameters: Tensor, processes: Tensor) -> Tensor:
    """The data goes around the ring twice, to sum and to distribute the sums; and a float32 has four bytes."""
    return ring_bytes(parameters, processes) / 2


def to_everybody(parameters: Tensor, processes: Tensor) -> Tensor:
    """You send all gradients to all others: that grows with N. On a ring each sends a part of size 1 / N at a time."""
    return (processes - 1) * 4 * parameters


def numbers_for_bytes(parameters: Tensor, processes: Tensor) -> Tensor:
    """You count numbers; each of them, in float32, is four bytes."""
    return ring_bytes(parameters, processes) / 4


def alone_sends_too(parameters: Tensor, processes: Tensor) -> Tensor:
    """You forget that one process alone sends nothing: the factor is (N - 1) / N."""
    return 2 * 4 * parameters + 0 * processes


def bits_for_bytes(parameters: Tensor, processes: Tensor) -> Tensor:
    """You are off by a factor of eight: 32 counts the bits of a number, and a byte has eight."""
    return 8 * ring_bytes(parameters, processes)


def all_processes_together(parameters: Tensor, processes: Tensor) -> Tensor:
    """Your number grows with N: in each step a process sends one part, not everything, and only its own sends count."""
    return processes * ring_bytes(parameters, processes)


def one_part_only(parameters: Tensor, processes: Tensor) -> Tensor:
    """Your number shrinks as N grows: you count one step, or one part. Each step sends a part, and there are many."""
    return 2 * 4 * parameters / processes


def one_step_too_many(parameters: Tensor, processes: Tensor) -> Tensor:
    """One process alone sends something: N parts go around in N - 1 steps, and again in N - 1."""
    return (2 * processes - 1) / processes * 4 * parameters


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
        mistakes=by_name(
            biases_left_out,
            blocks_and_rows_confused,
            channels_dealt_out,
            one_weight_for_all,
            one_bias_for_all,
            batch_before_blocks,
            blocks_left_in_the_columns,
        ),
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
        mistakes=by_name(
            dealt_out_in_turn,
            everybody_takes_the_first,
            counted_from_one,
            size_rows_each,
            one_row_each,
            to_the_end,
            last_rows_first,
        ),
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
        mistakes=by_name(
            half_missing,
            to_everybody,
            numbers_for_bytes,
            alone_sends_too,
            bits_for_bytes,
            all_processes_together,
            one_part_only,
            one_step_too_many,
        ),
        later=lambda: [(torch.tensor(1e6).double(), torch.arange(1, 6).double())],  # several rings at once
    )
)
