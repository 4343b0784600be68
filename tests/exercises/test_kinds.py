"""Predict, repair and design: any right answer passes, a wrong one is told by its outcome, and Run All goes on."""

import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from solved import copy_solved
from torch import Tensor, nn

from adaln_lab.exercises import check, hint, kinds, progress, record, solution
from adaln_lab.exercises.core import EXERCISES
from adaln_lab.exercises.kinds import Design, Kind, Predict, Repair, Table, code, is_stub

HINTS = ("look", "look closely", "look here")
COLUMNS = ("V", "W", "g")
RIGHT = {"gate 0": (2, 2, 1), "both 0": (None, None, None)}


def first_gradient() -> dict[str, tuple]:
    return RIGHT


class GatedBranch(nn.Module):
    """The output layer starts at zero."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        self.gate = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x + self.gate * self.down(self.up(x).relu())


class Given(GatedBranch):
    """The gate starts at zero, too."""

    def __init__(self, width):
        super().__init__(width)
        self.gate = nn.Parameter(torch.zeros(width))


def examine(branch: type) -> tuple[bool, str]:
    block, x = branch(8), torch.randn(64, 8)
    change = (block(x) - x).abs().max().item()
    optimiser = torch.optim.Adam(block.parameters(), 0.03)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (block(x) - 2 * x).pow(2).mean()
        loss.backward()
        optimiser.step()
    if change > 0:
        return False, f"it does not start as the identity (it changes its input by {change:.2g})"
    return loss.item() < 0.5, f"identity at the start, loss {loss.item():.2f} after 60 steps"


def learning_rate() -> dict[str, float]:
    return {"lr": 0.3, "steps": 20}


def measure(answer: dict[str, float]) -> tuple[float, float] | str:
    if answer["lr"] < 0:
        return "a learning rate is positive"
    return abs(1 - answer["lr"]) ** answer["steps"], answer["steps"]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[[], str]:
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    kinds = [
        Predict(question="When?", solution=first_gradient, hints=HINTS, columns=COLUMNS, notes={"V": "Write dL/dV."}),
        Repair(question="Mend it.", solution=GatedBranch, hints=HINTS, given=Given, examine=examine),
        Design(
            question="Fast?", solution=learning_rate, hints=HINTS, measure=measure, goal=0.01, budget=30, is_value=True
        ),
    ]
    for kind in kinds:
        monkeypatch.setitem(EXERCISES, kind.name, kind)
    return lambda: capsys.readouterr().out


def table(**rows: tuple) -> dict[str, tuple]:
    return {"gate 0": rows.get("gate", RIGHT["gate 0"]), "both 0": rows.get("both", RIGHT["both 0"])}


@pytest.mark.parametrize("answer", [table(), table(gate=[2.0, torch.tensor(2), 1]), dict(reversed(RIGHT.items()))])
def test_a_right_table_passes_in_any_type(answer: dict, said: Callable) -> None:
    assert check("first_gradient", answer) is answer
    assert said() == "ok: first_gradient: 6 of 6 cells are right\n"
    assert record.read()["first_gradient"]["solved"]


def test_a_wrong_cell_gets_a_hint_and_not_its_answer(said: Callable) -> None:
    table_back = check("first_gradient", table(gate=(1, 2, 1), both=(None, None, 3)))
    told = (
        "not yet: first_gradient: 4 of 6 cells are right\n  gate 0, V: Write dL/dV.\n  both 0, g: work it out again\n"
    )
    assert said() == told and table_back == RIGHT
    assert table_back._ipython_display_() is None, "as the last line of a cell it would show the answers"


@pytest.mark.parametrize("answer", [None, ..., {}, table(gate=(...,) * 3), table(gate=(2, 2, ...)), table(both=...)])
def test_an_unfilled_table_is_to_do(answer: object, said: Callable) -> None:
    assert check("first_gradient", answer) == RIGHT
    assert said() == 'to do: first_gradient: When? hint("first_gradient") helps.\n' and not record.read()


@pytest.mark.parametrize(
    "answer, told",
    [
        (table(gate=(2, 2)), "row 'gate 0' needs 3 cells: V, W, g"),
        ({"gate 0": (2, 2, 1)}, "give check a table with the rows 'gate 0', 'both 0'"),
        (3, "give check a table"),
        (torch.ones(2), "give check a table"),
    ],
)
def test_a_table_of_another_form_is_told_so(answer: object, told: str, said: Callable) -> None:
    assert check("first_gradient", answer) == RIGHT
    assert said().startswith(f"not yet: first_gradient: {told}")


def test_code_that_is_unchanged_is_to_do_without_training(said: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    class Given(GatedBranch):
        """As the notebook has it, with another docstring and layout."""

        def __init__(self, width):
            super().__init__(width)
            self.gate = nn.Parameter(torch.zeros(width))  # fmt: skip

    assert check("GatedBranch", Given) is GatedBranch
    assert said().startswith("to do: GatedBranch: Mend it.") and not record.read()


def test_every_edit_counts_but_one_of_layout_or_text() -> None:
    def stub(width, std=0.0):
        """A stub."""

    def default(width, std=0.02):
        """A stub with another default."""

    def shouted(width, std=0.02):
        return None  # a comment

    assert code(stub) != code(default) and is_stub(stub) and is_stub(default) and not is_stub(shouted)
    first = code(shouted)

    def shouted(width: int, std: float = 0.02) -> None:
        """The same with a text."""
        return (None)  # fmt: skip

    assert code(shouted) == first
    assert code(torch.relu) is None  # no source: never equal to what was given


class Elsewhere(GatedBranch):
    """Another repair than the solution: the gate is zero, the layer is not."""

    def __init__(self, width):
        super().__init__(width)
        nn.init.normal_(self.down.weight, std=0.3)
        self.gate = nn.Parameter(torch.zeros(width))


class NoIdentity(GatedBranch):
    def __init__(self, width):
        super().__init__(width)
        nn.init.ones_(self.down.bias)


class StillDead(GatedBranch):
    def __init__(self, width):
        super().__init__(width)
        self.gate = nn.Parameter(0 * torch.ones(width))


class Breaks(GatedBranch):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x


@pytest.mark.parametrize(
    "answer, told",
    [
        (Elsewhere, "ok: GatedBranch: identity at the start, loss 0."),
        (NoIdentity, "not yet: GatedBranch: it does not start as the identity (it changes its input by 1)"),
        (StillDead, "not yet: GatedBranch: identity at the start, loss "),
        (Breaks, "not yet: GatedBranch: your function raised RuntimeError in line "),
        (3, "not yet: GatedBranch: give check the code itself, as in check('GatedBranch', GatedBranch)"),
    ],
)
def test_a_repair_is_judged_by_its_outcome(answer: object, told: str, said: Callable) -> None:
    state = torch.get_rng_state()
    assert check("GatedBranch", answer) is (answer if told.startswith("ok") else GatedBranch)
    first = said()
    check("GatedBranch", answer)
    assert said() == first and first.startswith(told) and torch.equal(state, torch.get_rng_state())
    assert ("in line" in first and "return x @ x" in first) == (answer is Breaks)


@pytest.mark.parametrize(
    "answer, told",
    [
        ({"lr": 0.5, "steps": 10}, "ok: learning_rate: yours 0.000977 in 10 steps; ours 0.000798 in 20\n"),
        ({"lr": 0.5, "steps": 40}, "not yet: learning_rate: yours 9.09e-13 in 40 steps; the budget is 30 steps\n"),
        ({"lr": 0.1, "steps": 10}, "not yet: learning_rate: yours 0.349 in 10 steps; the goal is 0.01\n"),
        ({"lr": -1, "steps": 10}, "not yet: learning_rate: a learning rate is positive\n"),
        ({"lr": ..., "steps": 10}, 'to do: learning_rate: Fast? hint("learning_rate") helps.\n'),
        (None, 'to do: learning_rate: Fast? hint("learning_rate") helps.\n'),
    ],
)
def test_a_design_is_graded_by_its_result(answer: dict | None, told: str, said: Callable) -> None:
    back = check("learning_rate", answer)
    assert said() == told and back == (answer if told.startswith("ok") else learning_rate())
    assert told.startswith("ok") or isinstance(back, Table)


def test_hints_solutions_and_progress_treat_all_kinds_alike(said: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first_gradient", "GatedBranch", "learning_rate"):
        hint(name)
        assert said() == "hint 1 of 3: look\n"
        solution(name)
        assert {"first_gradient": "'gate 0': (2, 2, 1),", "GatedBranch": "class GatedBranch(nn.Module):"}.get(
            name, "def learning_rate():"
        ) in said()
    # their solutions stand in this file, which is no notebook's part
    monkeypatch.setattr(sys.modules[progress.__module__], "notebook_of", lambda name: "03 AdaLN-Zero")
    check("learning_rate", {"lr": 0.5, "steps": 10})
    progress()
    told = said()
    assert "○ first_gradient" in told and "○ GatedBranch" in told and "● learning_rate" in told


def test_a_solved_copy_holds_the_solutions_of_all_kinds(said: Callable, tmp_path: Path) -> None:
    """What the tests of whole notebooks rest on."""
    cells = [
        "first_gradient = {\n    'gate 0': (..., ..., ...),  # why?\n}\ncheck('first_gradient', first_gradient)",
        "class GatedBranch:\n    pass\n\nGatedBranch = check('GatedBranch', GatedBranch)",
        "learning_rate = {'lr': ...}\nlearning_rate = check('learning_rate', learning_rate)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "open.ipynb")
    assert copy_solved(tmp_path / "open.ipynb", tmp_path / "solved.ipynb") == [
        "first_gradient",
        "GatedBranch",
        "learning_rate",
    ]
    scope = {"check": check, "nn": nn, "torch": torch, "__name__": "__main__"}
    for cell in nbformat.read(tmp_path / "solved.ipynb", as_version=4).cells:
        exec(cell.source, scope)
    assert said().count("ok: ") == 3 and len(record.read()) == 3


def test_a_cell_that_runs_twice_is_still_to_do(said: Callable) -> None:
    """In the second run the name stands for what `check` gave back."""
    again = check("GatedBranch", Given)
    assert said().startswith("to do: ")
    check("GatedBranch", again)
    assert said().startswith("to do: ")


@pytest.mark.slow
def test_registered_kinds_accept_their_solution_and_not_what_is_given(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_handed_back", set())
    for kind in [kind for kind in EXERCISES.values() if isinstance(kind, Kind)]:
        check(kind.name, kind.stand_in())
        assert capsys.readouterr().out.startswith(f"ok: {kind.name}: ")
        if kind.given is not None:
            check(kind.name, kind.given)
            assert capsys.readouterr().out.startswith(f"to do: {kind.name}: ")
            assert not kind.mark(kind.given)[0], f"what {kind.name} gives to the reader is right already"
