"""Exercises that know their wrong answers.

`check` runs a learner's function next to the solution and next to versions with one known mistake each: whose output
it shares, that mistake it has. `check` never raises for what the function does and always returns a function that
works, so that Run All comes to its end with every exercise unsolved.
"""

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaln_lab.display.widgets import Card
from adaln_lab.exercises.record import remember

TOL = 1e-9  # of float64 answers, relative to the largest number in the solution
NEAR = 1e-4  # the same, of answers that miss no more than an eps or have lost digits
NOTHING = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}  # all that a stub's bytecode does


@dataclass(frozen=True)
class Exercise:
    """One function to write. Cases and answers are float64, and the sizes of a case differ from each other."""

    question: str  # one sentence
    solution: Callable  # its name is the exercise's name
    returns: tuple[str, ...]  # what the solution returns, by name
    cases: Callable[[], list[tuple]]  # makes the arguments of every call
    hints: tuple[str, str, str]  # from a nudge to nearly all
    wrong: dict[str, Callable]  # name of the mistake -> the solution with that mistake; its docstring explains it

    @property
    def name(self) -> str:
        return self.solution.__name__


EXERCISES: dict[str, Exercise] = {}


def randn64(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_name(*versions: Callable) -> dict[str, Callable]:
    """`velocity_flipped` is told as "velocity flipped"."""
    return {version.__name__.replace("_", " "): version for version in versions}


def register(exercise: Exercise) -> None:
    if exercise.name in EXERCISES:
        raise ValueError(f"two exercises are called {exercise.name!r}: give one of them another name")
    EXERCISES[exercise.name] = exercise


def find(name: str) -> Exercise:
    if name not in EXERCISES:
        raise ValueError(f"no exercise is called {name!r}; there are {', '.join(sorted(EXERCISES))}")
    return EXERCISES[name]


def check(name: str, fn: Callable | None) -> Callable:
    """Say "to do", "ok" or which mistake `fn` makes. Returns `fn` if it is right, else the solution."""
    exercise = find(name)
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
    """Print one of three hints, each telling more than the one before."""
    hints = find(name).hints
    if level not in range(1, len(hints) + 1):
        raise ValueError(f"hint levels are 1 to {len(hints)}, got {level!r}")
    print(f"hint {level} of {len(hints)}: {hints[level - 1]}")


def solution(name: str) -> None:
    """Print the source of the solution."""
    print(source(find(name).solution))


def source(function: Callable) -> str:
    """A function's source as a notebook writes it: without types, whose names the notebook need not have imported."""
    text = textwrap.dedent(inspect.getsource(function)).rstrip()
    tree = ast.parse(text).body[0]
    for node in ast.walk(tree.args):
        if isinstance(node, ast.arg):
            node.annotation = None
    header = f"def {tree.name}({ast.unparse(tree.args)}):"
    return "\n".join([header, *text.splitlines()[tree.body[0].lineno - 1 :]])


def guess(question: str, options: Sequence[str], pick: int | None = None, answer: int | None = None) -> None:
    """Ask before the cell that answers: a card to click. Without widgets pick=0, 1, ... in the call commits."""
    Card(question, options, pick, answer).show()


def diagnose(exercise: Exercise, got: list[Any]) -> str | None:
    """What is wrong with the outcomes of a learner's function, one for each case; None if nothing is."""
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
    """Whether progress counts it: nothing of this package, and no mistake that a notebook shows under another name."""
    is_ours = str(getattr(fn, "__module__", None)).startswith("adaln_lab")
    return not is_ours and (is_right or getattr(fn, "__name__", None) == name)


def _call(fn: Callable, arguments: tuple) -> Any:
    """The outcome of one call: a tuple, of one item if one was returned, or the exception that was raised."""
    try:
        result = fn(*(a.clone() if isinstance(a, Tensor) else a for a in arguments))  # += must not reach the next call
        items = result if isinstance(result, tuple | list) else (result,)
        return tuple(item.detach().cpu().to_dense() if isinstance(item, Tensor) else item for item in items)
    except (Exception, SystemExit) as error:
        return error


def _is_stub(outcome: Any) -> bool:
    """NotImplementedError, or nothing but None and ... returned."""
    if isinstance(outcome, BaseException):
        return isinstance(outcome, NotImplementedError)
    return all(item is None or item is ... for item in outcome)


def _returns_nothing(fn: Callable | None, got: list[Any]) -> bool:
    """Whether a function computes something and forgets to return it: more than a stub, and None comes back."""
    code = getattr(fn, "__code__", None)
    is_more = code is not None and any(step.opname not in NOTHING for step in dis.get_instructions(code))
    return is_more and all(outcome == (None,) for outcome in got)


def _same(a: Any, b: Any) -> bool:
    """Equal outcomes: the same kind of exception, or the same tensors up to rounding."""
    if isinstance(a, BaseException) or isinstance(b, BaseException):
        return type(a) is type(b)
    if len(a) != len(b) or not all(isinstance(item, Tensor) for item in (*a, *b)):
        return False
    return all(x.shape == y.shape and x.dtype == y.dtype and not _off(x, y).any() for x, y in zip(a, b, strict=True))


def _off(x: Tensor, y: Tensor, tol: float = TOL) -> Tensor:
    """Where x is further from y than rounding explains; NaN is off as well."""
    return ~((x - y).abs() <= tol * max(1.0, y.abs().max().item()))


def _distance(a: Any, b: Any) -> float:
    """max |a - b| over the tensors of two outcomes; 0 where one raised or the shapes differ."""
    if isinstance(a, BaseException):
        return 0.0
    return max((x - y).abs().max().item() if x.shape == y.shape else 0.0 for x, y in zip(a, b, strict=True))


def _difference(returns: tuple[str, ...], got: Any, want: tuple[Tensor, ...]) -> str | None:
    """Where an answer that matches no known mistake first differs from the solution."""
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
