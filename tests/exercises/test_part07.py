"""Exercises of 07 that are judged by what comes out: other right answers pass, near misses say why."""

import pytest
import torch
from torch import Tensor

from adaln_lab.exercises.part07 import examine_pooling, given_pooling, measure_ways, pool_objects, ways_in


def objects(e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return e[:, :3].sum(1), e[:, 3:7].sum(1), e[:, 7:].sum(1)


def bounded(e: Tensor) -> Tensor:
    light, first, second = objects(e)
    return light + first.tanh() + second.tanh()


def larger(e: Tensor) -> Tensor:
    light, first, second = objects(e)
    return light + torch.maximum(first, second)


def by_order(e: Tensor) -> Tensor:
    light, first, second = objects(e)
    return light + first + 2 * second


def colours_and_cells(e: Tensor) -> Tensor:
    return e[:, 4] * e[:, 6] + e[:, 8] * e[:, 10]


def one_number(e: Tensor) -> Tensor:
    return pool_objects(e).sum(-1)


@pytest.mark.parametrize("pool", [pool_objects, bounded, larger])
def test_any_pooling_that_binds_is_right(pool):
    assert examine_pooling(pool)[0]


@pytest.mark.parametrize(
    "pool, says",
    [
        (given_pooling, "colours exchanged"),
        (by_order, "objects in another order"),
        (colours_and_cells, "word 0 of the caption"),
        (one_number, "expected a vector a caption"),
    ],
)
def test_a_pooling_that_loses_something_is_refused(pool, says):
    is_right, text = examine_pooling(pool)
    assert not is_right and says in text


@pytest.mark.parametrize(
    "change, is_within",
    [
        ({}, True),
        ({"time": "in_context", "style": "in_context"}, True),
        ({"modulation": "a Linear a block"}, False),
        ({"words": "cross_attention"}, False),
    ],
)
def test_the_budget_separates_the_ways_in(change, is_within):
    parameters, operations = measure_ways(ways_in() | change)
    assert (parameters <= 3 and operations <= 20) == is_within


def test_words_as_one_vector_are_refused():
    assert "which object has which colour is lost" in measure_ways(ways_in() | {"words": "adaln"})
