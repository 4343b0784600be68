"""Answers that readers could give: no wrong one is accepted, no right one refused, and mistakes get their names."""

import linecache
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from answers import ANSWERS, Answer
from torch import nn
from torch.nn import functional as F

from adaln_lab.exercises import check
from adaln_lab.exercises.core import EXERCISES, Exercise
from adaln_lab.norms import layer_norm, modulate, rms_norm
from adaln_lab.utils import proof

EQUAL = re.compile(r"(-?\d[\d.e+-]*) in yours, (-?\d[\d.e+-]*) in the solution")
WITHOUT_GRADIENTS = ("part06", "part07", "part08")  # their notebooks begin with torch.set_grad_enabled(False)

WRITTEN = sorted(name for name, exercise in EXERCISES.items() if isinstance(exercise, Exercise))


def written(code: str, name: str) -> tuple[str, Callable]:
    """The exercise's name and the function, defined as in a notebook's cell."""
    file, names = f"<cell {name}>", {"torch": torch, "F": F, "nn": nn, "__name__": "__main__"}
    names |= {"layer_norm": layer_norm, "rms_norm": rms_norm, "modulate": modulate}
    linecache.cache[file] = len(code), None, code.splitlines(keepends=True), file  # as IPython does
    exec(compile(code, file, "exec"), names)
    return next((key, value) for key, value in reversed(names.items()) if key in EXERCISES)


def said(name: str, fn: Callable, capsys: pytest.CaptureFixture) -> tuple[str, str, Any]:
    """Verdict, words after the exercise's name, and what check returns."""
    with torch.set_grad_enabled(EXERCISES[name].solution.__module__[-6:] not in WITHOUT_GRADIENTS):
        returned = check(name, fn)
    line = capsys.readouterr().out.splitlines()[-1]
    verdict, _, words = line.partition(f": {name}")
    return verdict, words.lower(), returned


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.id)
def test_an_answer_gets_a_fair_verdict(answer: Answer, capsys: pytest.CaptureFixture) -> None:
    name, fn = written(answer.code.lstrip("\n"), answer.id)
    verdict, words, _ = said(name, fn, capsys)
    is_named = any(word in words for word in answer.words)
    if answer.verdict == "ok":
        assert verdict == "ok" or is_named, words
    else:
        assert verdict == answer.verdict and (is_named or not answer.words), words
    assert not any(yours == right for yours, right in EQUAL.findall(words)), words


def formed(name: str, change: Callable[[Any], Any]) -> Callable:
    """The solution, its result changed."""

    def answer(*arguments: Any) -> Any:
        return change(EXERCISES[name].solution(*arguments))

    return answer


def each(change: Callable[[torch.Tensor], Any]) -> Callable[[Any], Any]:
    return lambda result: tuple(map(change, result)) if isinstance(result, tuple) else change(result)


def as_later(argument: Any, dtype: torch.dtype) -> Any:
    """An argument as a later cell may give it: in another dtype, and with gradients."""
    if isinstance(argument, list | tuple):
        return type(argument)(as_later(item, dtype) for item in argument)
    is_float = isinstance(argument, torch.Tensor) and argument.is_floating_point()
    return argument.to(dtype).requires_grad_() if is_float else argument


FORMS = {  # of right values; do gradients pass?
    "float32": (each(lambda item: item.float()), True),
    "lists": (each(lambda item: item.tolist()), False),
    "arrays": (each(lambda item: item.numpy()), False),
    "through an array": (each(lambda item: torch.from_numpy(item.numpy().copy())), False),
    "a list of results": (lambda result: list(result) if isinstance(result, tuple) else result, True),
    "always float64": (each(lambda item: item.double()), True),
    "detached": (each(lambda item: item.detach()), False),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("form", FORMS)
def test_a_right_value_passes_in_any_form_and_later_cells_can_use_it(
    name: str, form: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    exercise, (change, passes_gradients) = EXERCISES[name], FORMS[form]
    verdict, words, returned = said(name, formed(name, change), capsys)
    if exercise.gradients and not passes_gradients:
        assert verdict == "not yet" and "grad" in words
        return
    assert verdict == "ok"
    monkeypatch.setattr(proof, "_noted", {})  # of what runs now
    for dtype in (torch.float64, torch.float32):
        case = exercise.case
        if any(map(callable, case)) and dtype != case[0].dtype:
            continue  # what it calls computes in the other dtype
        case = [as_later(a, dtype) for a in case]
        got, want = returned(*case), exercise.solution(*case)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in WRITTEN if len(EXERCISES[name].returns) == 1])
@pytest.mark.parametrize("change", [lambda item: (item,), lambda item: [item]])
def test_a_tuple_of_one_is_named(name: str, change: Callable, capsys: pytest.CaptureFixture) -> None:
    verdict, words, _ = said(name, formed(name, change), capsys)
    assert verdict == "not yet" and "of one item" in words and "comma" in words


@pytest.mark.parametrize("name", WRITTEN)
def test_a_changed_argument_is_named(name: str, capsys: pytest.CaptureFixture) -> None:
    def answer(first: Any, *others: Any) -> Any:
        result = EXERCISES[name].solution(first.clone(), *others)
        first += 1
        return result

    verdict, words, _ = said(name, answer, capsys)
    assert verdict == "not yet" and "changes its argument first in place" in words


@pytest.mark.parametrize("change", ["swapped", "sign", "times", "number", "order", "same numbers"])
def test_a_simple_pattern_in_wrong_numbers_is_told(change: str, capsys: pytest.CaptureFixture) -> None:
    answers = {
        "swapped": ("norm_backward", lambda result: (result[2], result[0], result[1])),
        "sign": ("modulated", lambda h: -h),
        "times": ("modulated", lambda h: 3 * h),
        "number": ("modulated", lambda h: h + 0.5),
        "order": ("fold_into_linear", lambda result: (result[0].T, result[1])),
        "same numbers": ("gate_gradient", lambda grad: grad[:, :, :, None]),
    }
    name, wrong = answers[change]
    verdict, words, _ = said(name, formed(name, wrong), capsys)
    assert verdict == "not yet" and change in words


def test_a_right_answer_that_cells_below_cannot_use_is_accepted_and_replaced(capsys: pytest.CaptureFixture) -> None:
    """The statement speaks of a weight; the notebook converts its bias as well."""
    verdict, words, returned = said("swap_halves", lambda weight: torch.vstack(weight.chunk(2)[::-1]), capsys)
    assert verdict == "ok" and "(8,)" in words and "the course's solution" in words
    assert proof.note_of(returned) == proof.OURS


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda x, shift, scale: layer_norm(x).sin() * (1 + scale[:, None]), "whatever shift is"),
        (lambda x, shift, scale: layer_norm(x - x[-1:]) * (1 + scale[:, None]) + shift[:, None], "of axis 0"),
        (lambda x, shift, scale: layer_norm(x - x[:, -1:]) * (1 + scale[:, None]) + shift[:, None], "of axis 1"),
    ],
)
def test_a_mistake_without_a_name_gets_a_symptom(answer: Callable, words: str, capsys: pytest.CaptureFixture) -> None:
    assert words in said("modulated", answer, capsys)[1]
