"""Exercises that recognise common mistakes.

`check` compares a learner's function with the solution and with versions of it that have one known mistake each: equal
outputs name the mistake. It never raises because of the learner's function, and always returns a function that works,
so that Run All reaches the end with every exercise unsolved.
"""

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adaln_lab.display.widgets import Card
from adaln_lab.exercises.record import remember, remember_card

TOL = 1e-9  # of float64 answers, relative to the largest number in the solution
NEAR = 1e-4  # the same, for answers that differ by an eps or by rounding to float32
NOTHING = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}  # the bytecode of a stub


@dataclass(frozen=True)
class Exercise:
    """One function to write. Cases and answers are float64; the axes of a case have different sizes."""

    question: str  # one sentence
    solution: Callable  # its name is the exercise's name
    returns: tuple[str, ...]  # names of what the solution returns
    cases: Callable[[], list[tuple]]  # makes the arguments of every call
    hints: tuple[str, str, str]  # from a nudge to almost the answer
    wrong: dict[str, Callable]  # mistake -> the solution with it; its docstring explains it

    @property
    def name(self) -> str:
        return self.solution.__name__


EXERCISES: dict[str, Any] = {}  # name -> Exercise, or one of kinds.py


def randn64(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_name(*versions: Callable) -> dict[str, Callable]:
    """`velocity_flipped` -> {"velocity flipped": velocity_flipped}, for `Exercise.wrong`."""
    return {version.__name__.replace("_", " "): version for version in versions}


def register(exercise: Any) -> None:
    if exercise.name in EXERCISES:
        raise ValueError(f"two exercises are called {exercise.name!r}: give one of them another name")
    EXERCISES[exercise.name] = exercise


def find(name: str) -> Any:
    if name not in EXERCISES:
        raise ValueError(f"no exercise is called {name!r}; there are {', '.join(sorted(EXERCISES))}")
    return EXERCISES[name]


def check(name: str, fn: Callable | None) -> Callable:
    """Print "to do", "ok" or the mistake of `fn`. Returns `fn` if it is right, else the solution."""
    exercise = find(name)
    if not isinstance(exercise, Exercise):  # one of kinds.py, which checks itself
        return exercise.check(fn)
    if not callable(fn) and fn is not None and fn is not ...:
        print(f"not yet: {name}: give check the function itself, as in check({name!r}, {name}), not what it returns")
        return exercise.solution
    got = [_call(fn, case) for case in exercise.cases()] if callable(fn) else [(fn,)]
    if all(_is_stub(outcome) for outcome in got):
        if _returns_nothing(fn, got):
            print(f"not yet: {name}: your function returns nothing; let it return {', '.join(exercise.returns)}")
        else:
            print(f'to do: {name}: {exercise.question} hint("{name}") helps.')
        return exercise.solution
    complaint = diagnose(exercise, got)
    print(f"not yet: {name}: {complaint}" if complaint else f"ok: {name}")
    if _is_the_readers(fn, name, is_right=not complaint):
        remember(name, is_solved=not complaint)
    return exercise.solution if complaint else fn


def hint(name: str, level: int = 1) -> None:
    """Print hint 1, 2 or 3; each tells more than the one before."""
    hints = find(name).hints
    if level not in range(1, len(hints) + 1):
        raise ValueError(f"hint levels are 1 to {len(hints)}, got {level!r}")
    print(f"hint {level} of {len(hints)}: {hints[level - 1]}")


def solution(name: str) -> None:
    """Print the source of the solution."""
    exercise = find(name)
    print(source(exercise.solution) if isinstance(exercise, Exercise) else exercise.shown())


def source(function: Callable) -> str:
    """A function's source without type annotations, whose names a notebook may not have imported."""
    text = textwrap.dedent(inspect.getsource(function)).rstrip()
    tree = ast.parse(text).body[0]
    for node in ast.walk(tree.args):
        if isinstance(node, ast.arg):
            node.annotation = None
    header = f"def {tree.name}({ast.unparse(tree.args)}):"
    return "\n".join([header, *text.splitlines()[tree.body[0].lineno - 1 :]])


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


def diagnose(exercise: Exercise, got: list[Any]) -> str | None:
    """What is wrong with `got`, the outcome of a learner's function in each case; None if it is right."""
    want = [_call(exercise.solution, case) for case in exercise.cases()]
    if all(_same(g, w) for g, w in zip(got, want, strict=True)):
        return None
    for mistake, version in exercise.wrong.items():
        outcomes = [_call(version, case) for case in exercise.cases()]
        if all(_same(g, o) for g, o in zip(got, outcomes, strict=True)):
            off = max(_distance(g, w) for g, w in zip(got, want, strict=True))
            numbers = f" You are off by up to {off:.3g}." if off > 0 else ""
            return f"{mistake}. {inspect.getdoc(version)}{numbers}"
    return next(text for g, w in zip(got, want, strict=True) if (text := _difference(exercise.returns, g, w)))


def _is_the_readers(fn: Callable | None, name: str, is_right: bool) -> bool:
    """Whether progress counts it: not a function of this package, nor a mistake that a notebook demonstrates."""
    is_ours = str(getattr(fn, "__module__", None)).startswith("adaln_lab")
    return not is_ours and (is_right or getattr(fn, "__name__", None) == name)


def _call(fn: Callable, arguments: tuple) -> Any:
    """The outcome of one call: what was returned, as a tuple, or the exception that was raised."""
    try:
        result = fn(
            *(a.clone() if isinstance(a, Tensor) else a for a in arguments)
        )  # the function may change its arguments
        items = result if isinstance(result, tuple | list) else (result,)
        return tuple(item.detach().cpu().to_dense() if isinstance(item, Tensor) else item for item in items)
    except (Exception, SystemExit) as error:
        return error


def _is_stub(outcome: Any) -> bool:
    """Whether it raised NotImplementedError or returned only None and `...`."""
    if isinstance(outcome, BaseException):
        return isinstance(outcome, NotImplementedError)
    return all(item is None or item is ... for item in outcome)


def _returns_nothing(fn: Callable | None, got: list[Any]) -> bool:
    """Whether a function does more than a stub does, but returns None."""
    code = getattr(fn, "__code__", None)
    is_more = code is not None and any(step.opname not in NOTHING for step in dis.get_instructions(code))
    return is_more and all(outcome == (None,) for outcome in got)


def _same(a: Any, b: Any) -> bool:
    """Whether outcomes agree: the same type of exception, or the same tensors up to rounding."""
    if isinstance(a, BaseException) or isinstance(b, BaseException):
        return type(a) is type(b)
    if len(a) != len(b) or not all(isinstance(item, Tensor) for item in (*a, *b)):
        return False
    return all(x.shape == y.shape and x.dtype == y.dtype and not _off(x, y).any() for x, y in zip(a, b, strict=True))


def _off(x: Tensor, y: Tensor, tol: float = TOL) -> Tensor:
    """Where x differs from y by more than rounding; NaN differs."""
    return ~((x - y).abs() <= tol * max(1.0, y.abs().max().item()))


def _distance(a: Any, b: Any) -> float:
    """max |a - b| over the tensors of two outcomes; 0 where one raised or the shapes differ."""
    if isinstance(a, BaseException):
        return 0.0
    return max((x - y).abs().max().item() if x.shape == y.shape else 0.0 for x, y in zip(a, b, strict=True))


def _difference(returns: tuple[str, ...], got: Any, want: tuple[Tensor, ...]) -> str | None:
    """How an answer that matches no known mistake differs from the solution."""
    if isinstance(got, BaseException):
        return f"your function raised {type(got).__name__}: {got}"
    if len(got) != len(want):
        one = "one tensor, " if len(returns) == 1 else ""
        return f"return {one}{', '.join(returns)}; you returned {len(got)} item(s)"
    for name, g, w in zip(returns, got, want, strict=True):
        if not isinstance(g, Tensor):
            return f"{name} must be a tensor, you returned {type(g).__name__}"
        if g.shape != w.shape:
            return f"{name} has shape {tuple(g.shape)} and must have {tuple(w.shape)}"
        if g.dtype != w.dtype:
            return f"{name} is {g.dtype}, but the inputs are {w.dtype}: keep their dtype"
        if not g.isfinite().all():
            return f"{name} holds {g[~g.isfinite()][0].item()}, and every number must be finite"
        if (off := _off(g, w)).any():
            if not _off(g, w, NEAR).any():
                gap = (g - w).abs().max()
                return f"{name} is right but for {gap:.1g}: look at eps, or for a float32 on the way"
            first = off.nonzero()[0].tolist()
            yours, right = g[tuple(first)], w[tuple(first)]
            place = f"the first place that differs is {name}{first}: " if first else ""
            return (
                f"{name} is off by up to {(g - w).abs().max():.3g}; {place}"
                f"{yours:.4g} in yours, {right:.4g} in the solution"
            )
    return None
