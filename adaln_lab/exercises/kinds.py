"""Exercises whose answer is not one function with one right output: predict, repair, design.

    Predict   the reader fills in a table; the experiment runs and marks it cell by cell
    Repair    the reader edits code that runs and does not work; a short training shows whether it now does
    Design    the reader reaches a goal within a budget; the result counts

`check`, `hint`, `solution` and `progress` treat them like `core.Exercise`, and each is registered in its notebook's
part. What `check` runs takes at most 10 s, from fixed seeds and with margins that hold on any CPU.
"""

import ast
import functools
import linecache
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adaln_lab.exercises.core import Task
from adaln_lab.exercises.outcomes import raised
from adaln_lab.exercises.record import remember
from adaln_lab.utils.proof import OURS, note_of, with_note

_handed_back: set[str] = set()  # exercises whose stand-in a notebook has got


class Table(dict):
    """A table that `check` hands back. As the last line of a cell it stays hidden, since it holds the answers."""

    def _ipython_display_(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Kind(Task):
    """What these three share."""

    given: Callable | None = None  # the code that the notebook gives to the reader; unchanged, it is "to do"

    def stand_in(self) -> Any:  # until the reader's answer is right; what a function then proves says so
        return self.solution if isinstance(self.solution, type) else with_note(self.solution, OURS)

    def mark(self, answer: Any) -> tuple[bool, str]:  # whether it is right, and what to say about it
        raise NotImplementedError

    def is_open(self, answer: Any) -> bool:
        if callable(answer):
            return is_stub(answer) or (self.given is not None and code(self.given) in {code(answer)} - {None})
        return answer is None or any(item is ... for item in _items(answer))

    def check(self, answer: Any) -> Any:
        """Print "to do", "not yet" or "ok" with the outcome. Returns the answer if it is right, else a stand-in."""
        is_ours = isinstance(answer, Table) or answer is self.solution or note_of(answer) == OURS
        if self.is_open(answer) or (is_ours and self.name in _handed_back):  # a cell that runs for the second time
            self.say_to_do()
            _handed_back.add(self.name)
            return self.stand_in()
        try:
            is_right, text = _seeded(lambda: self.mark(answer))
        except (Exception, SystemExit) as error:
            is_right, text = False, raised(answer, error)
        print(f"{'ok' if is_right else 'not yet'}: {self.name}: {text}")
        if not str(getattr(answer, "__module__", None)).startswith("adaln_lab"):  # of a Table, too
            remember(self.name, is_solved=is_right)
        if is_right:
            return answer
        _handed_back.add(self.name)
        return self.stand_in()


@dataclass(frozen=True, kw_only=True)
class Predict(Kind):
    """A table to fill in: {row: (cell, ...)} with `...` in each cell. `solution` runs the experiment that makes it."""

    columns: tuple[str, ...]
    notes: dict[Hashable, str] = field(default_factory=dict)  # (row, column), column or row -> what to work out there
    tolerance: float = 1e-9  # of numbers, relative

    def stand_in(self) -> Table:
        return Table(_result(self.solution))

    def shown(self) -> str:
        rows = "".join(f"    {row!r}: {cells!r},\n" for row, cells in _result(self.solution).items())
        return f"{self.name} = {{  # {', '.join(self.columns)}\n{rows}}}"

    def is_open(self, answer: Any) -> bool:
        cells = [cell for row in _items(answer) for cell in _items(row)]
        return answer is None or not cells or any(cell is ... for cell in cells)

    def mark(self, answer: dict[str, tuple]) -> tuple[bool, str]:
        want = _result(self.solution)
        if not isinstance(answer, dict) or set(answer) != set(want):
            return False, f"give check a table with the rows {', '.join(map(repr, want))}"
        if short := [row for row in want if len(_items(answer[row])) != len(self.columns)]:
            return False, f"row {short[0]!r} needs {len(self.columns)} cells: {', '.join(self.columns)}"
        mine, right = ([cell for row in want for cell in _items(table[row])] for table in (answer, want))
        places = [(row, column) for row in want for column in self.columns]
        wrong = [place for place, cell, true in zip(places, mine, right, strict=True) if not self._agree(cell, true)]
        notes = [f"\n  {row}, {column}: {self._note(row, column)}" for row, column in wrong[:3]]
        return not wrong, f"{len(places) - len(wrong)} of {len(places)} cells are right" + "".join(notes)

    def _agree(self, mine: Any, right: Any) -> bool:
        mine = mine.item() if isinstance(mine, Tensor) and mine.numel() == 1 else mine
        mine = {True: "yes", False: "no"}[mine] if isinstance(mine, bool) and right in ("yes", "no") else mine
        if isinstance(mine, int | float) and isinstance(right, int | float):
            return math.isclose(mine, right, rel_tol=self.tolerance)
        return str(mine).strip().lower() == str(right).lower()

    def _note(self, row: str, column: str) -> str:
        return next((self.notes[key] for key in ((row, column), column, row) if key in self.notes), "work it out again")


@dataclass(frozen=True, kw_only=True)
class Repair(Kind):
    """A class or function to mend. `examine` trains it for a few steps and says what came out: (is right, sentence)."""

    examine: Callable[[Callable], tuple[bool, str]]

    def mark(self, answer: Callable) -> tuple[bool, str]:
        if not callable(answer):
            return False, f"give check the code itself, as in check({self.name!r}, {self.name})"
        return self.examine(answer)


@dataclass(frozen=True, kw_only=True)
class Design(Kind):
    """A goal to reach within a budget. The answer is like `solution`, or, with `is_value`, the dict that it returns."""

    measure: Callable[[Any], tuple[float, float] | str]  # (result, cost), or a sentence that refuses the answer
    goal: float
    budget: float
    unit: str = "steps"
    is_lower_better: bool = True
    is_value: bool = False

    def stand_in(self) -> Any:
        return Table(self.solution()) if self.is_value else super().stand_in()

    def shown(self) -> str:
        return super().shown() + f"\n\n{self.name} = {self.name}()" * self.is_value

    def mark(self, answer: Any) -> tuple[bool, str]:
        measured = self.measure(answer)
        if isinstance(measured, str):
            return False, measured
        result, cost = measured
        yours = f"yours {result:.3g} in {cost:.4g} {self.unit}"
        if not cost <= self.budget:
            return False, f"{yours}; the budget is {self.budget:.4g} {self.unit}"
        if not (result <= self.goal if self.is_lower_better else result >= self.goal):
            return False, f"{yours}; the goal is {self.goal:.3g}"
        result, cost = _seeded(lambda: self.measure(self.stand_in()))
        return True, f"{yours}; ours {result:.3g} in {cost:.4g}"


def code(thing: Any) -> str | None:
    """What the source of a function or class says; equal where only names, layout and docstrings differ."""
    tree = _tree(thing)
    return tree and ast.dump(tree)


def is_stub(thing: Any) -> bool:
    """Whether a function's body is nothing but `...`, `pass` or a docstring."""
    tree = _tree(thing)
    return isinstance(tree, ast.FunctionDef) and all(
        isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in tree.body
    )


def _tree(thing: Any) -> ast.AST | None:
    """The definition, without its name, docstrings and annotations; None where there is no source."""
    methods = [thing, *vars(thing).values()] if hasattr(thing, "__dict__") else []  # a class itself has no file
    file = next((it.__code__.co_filename for it in methods if hasattr(it, "__code__")), "")
    try:
        nodes = [*ast.walk(ast.parse("".join(linecache.getlines(file))))]
    except SyntaxError:
        return None
    kinds = ast.FunctionDef | ast.ClassDef
    found = [node for node in nodes if isinstance(node, kinds) and node.name == thing.__name__]
    if not found:
        return None
    found[-1].name = ""
    for node in ast.walk(found[-1]):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return found[-1]


@functools.cache
def _result(experiment: Callable[[], dict[str, tuple]]) -> dict[str, tuple]:
    return _seeded(experiment)  # once in a kernel


def _seeded(run: Callable[[], Any]) -> Any:
    """From the same random numbers each time, and without a trace in those of the notebook."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run()


def _items(group: Any) -> tuple:
    return tuple(group.values() if isinstance(group, dict) else group if isinstance(group, tuple | list) else (group,))
