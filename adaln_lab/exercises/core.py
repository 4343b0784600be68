"""Exercises that recognise common mistakes; each file partNN holds those of notebook NN, in its order.

`check` compares a learner's function with the solution and with versions of it that have one known mistake each: equal
outputs name the mistake. It never raises because of the learner's function, and always returns a function that works,
so that Run All reaches the end with every exercise unsolved. What the solution then proves is marked as its own.
"""

import ast
import dis
import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from adaln_lab.display.widgets import Card
from adaln_lab.exercises import outcomes
from adaln_lab.exercises.outcomes import NEAR, TOL, Outcome
from adaln_lab.exercises.record import remember, remember_card
from adaln_lab.utils.proof import FLOAT32, OURS, note_of, with_note

NOTHING = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}  # the bytecode of a stub


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all exercises share. The name of `solution` is the exercise's name, its module the notebook's part."""

    question: str  # one sentence
    solution: Callable
    hints: tuple[str, str, str]  # from a nudge to almost the answer

    @property
    def name(self) -> str:
        return self.solution.__name__

    def shown(self) -> str:
        """The solution as text; a class as it is written, so it must not need names that a notebook lacks."""
        return inspect.getsource(self.solution) if isinstance(self.solution, type) else source(self.solution)

    def say_to_do(self) -> None:
        print(f'to do: {self.name}: {self.question} hint("{self.name}") helps.')

    def check(self, answer: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Exercise(Task):
    """One function to write. Cases and answers are float64; the axes of a case have different sizes."""

    returns: tuple[str, ...]  # names of what the solution returns
    cases: Callable[[], Iterable[tuple]]  # makes the arguments of every call
    mistakes: str  # the known ones, as a table: see `mutants`
    gradients: bool = False  # whether they must flow back: the answer is a part of a model
    later: Callable[[], Iterable[tuple]] = tuple  # arguments of other shapes, as cells below give them
    products: int | None = None  # how many matrix products an answer may compute, where the method is the point

    @property
    def case(self) -> tuple:
        return next(iter(self.cases()))  # the first

    @cached_property
    def wrong(self) -> dict[str, Callable]:
        """Mistake -> the solution with it, made when a wrong answer is first checked; its docstring explains it."""
        return mutants(self.solution, self.mistakes)

    def check(self, fn: Callable | None) -> Callable:
        ours = with_note(self.solution, OURS)
        if note_of(fn) == OURS:  # from an earlier check
            fn = None
        if not callable(fn) and fn is not None and fn is not ...:
            text = f"give check the function itself, as in check({self.name!r}, {self.name}), not what it returns"
            print(f"not yet: {self.name}: {text}")
            return ours
        got = self.outcomes(fn) if callable(fn) else [Outcome((fn,))]
        if all(outcomes.is_stub(fn, outcome) for outcome in got):
            if _returns_nothing(fn, got):
                print(f"not yet: {self.name}: your function returns nothing; let it return {', '.join(self.returns)}")
            else:
                self.say_to_do()
            return ours
        complaint = self.diagnose(fn, got)
        want = self.outcomes(self.solution)
        is_rounded = not complaint and not outcomes.agree(got, want, TOL)
        beyond = "" if complaint else self._beyond(fn)
        rounded = f", {FLOAT32}" if is_rounded else ""
        print(f"not yet: {self.name}: {complaint}" if complaint else f"ok: {self.name}{rounded}{beyond}")
        if _is_the_readers(fn, self.name, is_right=not complaint):
            remember(self.name, is_solved=not complaint)
        if complaint or beyond:
            return ours
        is_ready = outcomes.is_ready(fn, self.solution, self.case, len(self.returns), self.gradients)
        if not is_ready or not outcomes.is_exact(got, want):
            fn = outcomes.adapted(fn, want[0], self.gradients)
        return with_note(fn, FLOAT32) if is_rounded else fn

    def outcomes(self, fn: Callable) -> list[Outcome]:
        return [outcomes.call(fn, case, len(self.returns)) for case in self.cases()]

    def diagnose(self, fn: Callable, got: list[Outcome]) -> str:
        """What is wrong with `fn`, whose outcomes are `got`; empty if nothing is."""
        want = self.outcomes(self.solution)
        known = {}
        if not outcomes.agree(got, want, TOL):
            with warnings.catch_warnings(action="ignore"):  # of wrong versions, which are not the reader's
                known = {mistake: self.outcomes(version) for mistake, version in self.wrong.items()}
        for tol in (TOL, NEAR):
            if outcomes.agree(got, want, tol):
                return outcomes.changes(got) or self._how(fn)
            for mistake, other in known.items():
                if outcomes.agree(got, other, tol):
                    off = outcomes.distance(got, want)
                    numbers = f" You are off by up to {off:.3g}." if off > 0 else ""
                    also = f" Besides, {text}." if (text := outcomes.changes(got)) else ""
                    return f"{mistake}. {self.wrong[mistake].__doc__}{numbers}{also}"
        if any(outcome.error is not None or len(outcome.items) != len(self.returns) for outcome in got):
            return outcomes.difference(fn, self.returns, got, want)
        how = outcomes.changes(got) or outcomes.difference(fn, self.returns, got, want)
        return how + outcomes.influence(fn, self.solution, self.case, len(self.returns))

    def _how(self, fn: Callable) -> str:
        """What is wrong with the way in which right numbers were computed; empty if nothing is."""
        if self.products is not None and (count := outcomes.count_products(fn, self.case)) > self.products:
            return f"the numbers are right, but {count} matrix products made them, as a loop does: {self.question}"
        return outcomes.missing_gradients(fn, self.solution, self.case, self.returns) if self.gradients else ""

    def _beyond(self, fn: Callable) -> str:
        """A sentence about arguments of cells below that `fn` cannot take, though it does what was asked."""
        for case in self.later():
            got, want = ([outcomes.call(f, case, len(self.returns))] for f in (fn, self.solution))
            if not outcomes.agree(got, want, NEAR):
                sizes = ", ".join(str(tuple(a.shape)) for a in case if isinstance(a, Tensor))
                return f". Cells below also call it with shapes {sizes}, where it fails: they use the course's solution"
        return ""


EXERCISES: dict[str, Task] = {}  # by name


def randn64(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def faint(x: Tensor) -> Tensor:
    """The same tokens, (B, T, D), the last of them 200 times smaller: there the size of an eps of 1e-6 is seen."""
    return torch.cat([x[:, :-1], x[:, -1:] / 200], dim=1)


def register(kind: type[Task], **fields: Any) -> None:
    """Make an exercise of this kind known. The calls are in the order of the notebook."""
    exercise = kind(**fields)
    if exercise.name in EXERCISES:
        raise ValueError(f"two exercises are called {exercise.name!r}: give one of them another name")
    EXERCISES[exercise.name] = exercise


def find(name: str) -> Task:
    if name not in EXERCISES:
        raise ValueError(f"no exercise is called {name!r}; there are {', '.join(sorted(EXERCISES))}")
    return EXERCISES[name]


def check(name: str, answer: Any) -> Any:
    """Print "to do", "ok" or the mistake of `answer`. Returns it if it is right, else the solution, which says so."""
    return find(name).check(answer)


def hint(name: str, level: int = 1) -> None:
    """Print hint 1, 2 or 3; each tells more than the one before."""
    hints = find(name).hints
    if level not in range(1, len(hints) + 1):
        raise ValueError(f"hint levels are 1 to {len(hints)}, got {level!r}")
    print(f"hint {level} of {len(hints)}: {hints[level - 1]}")


def solution(name: str) -> None:
    """Print the source of the solution."""
    print(find(name).shown())


def source(function: Callable) -> str:
    """A function's source without type annotations, whose names a notebook may not have imported."""
    text = textwrap.dedent(inspect.getsource(function)).rstrip()
    tree = ast.parse(text).body[0]
    for node in ast.walk(tree.args):
        if isinstance(node, ast.arg):
            node.annotation = None
    header = f"def {tree.name}({ast.unparse(tree.args)}):"
    return "\n".join([header, *text.splitlines()[tree.body[0].lineno - 1 :]])


def mutants(solution: Callable, table: str) -> dict[str, Callable]:
    """Name -> the solution with that mistake. An entry of the table is a name, what `check` says, and the change:

        scale without one plus
            You multiply by scale, not by 1 + scale: a modulation that starts at zero would erase its input.
            (1 + scale) => scale

    `old => new` replaces what occurs once below the solution's docstring, `every old => new` what occurs more often.
    There may be several such lines. Lines without an arrow are a new body.
    """
    versions, lines = {}, source(solution).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    header, body = lines[0], "\n".join(lines[tree.body[ast.get_docstring(tree) is not None].lineno - 1 :])
    for entry in re.split(r"\n(?=\S)", table.strip()):
        name, says, *changes = entry.splitlines()
        code = compile(f"{header}\n{_changed(body, changes)}", f"<{name}>", "exec")
        made: dict[str, Callable] = {}
        exec(code, solution.__globals__, made)
        versions[name] = made[solution.__name__]
        versions[name].__doc__ = says.strip()
    return versions


def _changed(body: str, changes: list[str]) -> str:
    if " =>" not in changes[0]:
        return "\n".join(changes)
    for change in changes:
        old, new = (part.strip() for part in change.split(" =>"))
        is_every, old = old.startswith("every "), old.removeprefix("every ")
        expected, count = "several times" if is_every else "once", body.count(old)
        if not count or is_every != (count > 1):
            raise ValueError(f"expected {old!r} {expected}, found it {count} times in\n{body}")
        body = body.replace(old, new)
    return body


def guess(
    question: str,
    options: dict[str, str] | Sequence[str],
    pick: int | None = None,
    answer: str | int | None = None,
) -> None:
    """Ask for a prediction, on a card to click. `options` is {option: reply}, and `answer` the right option.

    The first choice counts; it shows its reply, what is right and why. Without widgets pick=0, 1, ... commits.
    """
    Card(question, options, pick, answer, commit=partial(remember_card, "guess", question)).show()


def judge(
    question: str,
    conclusions: dict[str, str],
    answer: str | Collection[str],
    pick: int | Sequence[int] | None = None,
) -> None:
    """Ask which conclusion is supported, on a card to click. `conclusions` is {conclusion: reply}.

    With a set as `answer`, any number of conclusions may be supported, and the reader ticks all of them.
    """
    commit = partial(remember_card, "judge", question)
    Card(question, conclusions, pick, answer, title="Your judgement", commit=commit).show()


def _is_the_readers(fn: Callable | None, name: str, is_right: bool) -> bool:
    """Whether progress counts it: not a function of this package, nor a mistake that a notebook demonstrates."""
    is_ours = str(getattr(fn, "__module__", None)).startswith("adaln_lab")
    return not is_ours and (is_right or getattr(fn, "__name__", None) == name)


def _returns_nothing(fn: Callable | None, got: list[Outcome]) -> bool:
    """Whether a function does more than a stub does, but returns None."""
    code = getattr(fn, "__code__", None)
    is_more = code is not None and any(step.opname not in NOTHING for step in dis.get_instructions(code))
    return is_more and all(outcome.items == (None,) for outcome in got)
