"""The exercises of notebook 08: what cannot be built is refused in a sentence, and a right table passes in any form."""

import pytest
import torch

from adaln_lab.exercises import check
from adaln_lab.exercises.part08 import largest_difference, measure_small, to_ours_given, train_small, what_changes

GOOD = {"shared": True, "vectors": ("gate",), "rank": None}


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (GOOD | {"vectors": ("gate", "gate")}, "each once"),
        (GOOD | {"vectors": ("gain",)}, "must be some of shift, scale, gate"),
        (GOOD | {"vectors": ()}, "must be some of"),
        (GOOD | {"rank": 0}, "a whole number from 1 to 32, got 0"),
        (GOOD | {"rank": 2.5}, "a whole number"),
        ({"shared": True}, "a dict with shared, vectors and rank"),
        (None, "a dict with"),
    ],
)
def test_a_design_that_cannot_be_built_is_refused(design: object, words: str) -> None:
    assert words in measure_small(design)


def test_sharing_costs_a_third_and_narrowing_less() -> None:
    """Under no_grad, as the notebook runs."""
    with torch.no_grad():
        counts = [
            train_small(s, ("shift", "gate"), rank, seeds=1)[1] for s, rank in ((False, None), (True, None), (True, 4))
        ]
    d = 32
    assert counts == [3 * 4 * d * (d + 1), 4 * d * (d + 1), d * 4 + 4 * d * 5]


def test_the_loader_to_repair_is_wrong_by_much() -> None:
    assert largest_difference(to_ours_given) > 1


def test_a_table_of_yes_and_no_takes_bools(capsys: pytest.CaptureFixture) -> None:
    table = {kind: tuple(cell == "yes" for cell in cells) for kind, cells in what_changes().items()}
    check("what_changes", table)
    assert "ok: what_changes: 12 of 12" in capsys.readouterr().out
    check("what_changes", table | {"text": (True, True, False, False)})
    assert "11 of 12" in capsys.readouterr().out
