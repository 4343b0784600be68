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
from adaln_lab.exercises.core import EXERCISES
from adaln_lab.norms import layer_norm, modulate, rms_norm

EQUAL = re.compile(r"(-?\d[\d.e+-]*) in yours, (-?\d[\d.e+-]*) in the solution")
WITHOUT_GRADIENTS = ("part06", "part07", "part08")  # their notebooks begin with torch.set_grad_enabled(False)


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
