"""A proof that cannot fail proves nothing: every test but the first two is a thing `prove` must refuse."""

import builtins
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adaln_lab.utils import proof
from adaln_lab.utils.proof import prove


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "lhs, rhs",
    [
        (numbers(2, 3), numbers(2, 3).numpy()),
        (numbers(3).requires_grad_(), numbers(3).tolist()),
        ([numbers(2), numbers(2)], numbers(2).expand(2, 2)),
        (torch.ones(2, dtype=torch.bfloat16), [1, 1]),
        (torch.tensor(3.0), 3),
        (3, 3),  # one object in Python, yet two sides
        ([True, False], torch.tensor([1, 0])),
    ],
)
def test_equal_sides_of_any_kind_are_proved(lhs: object, rhs: object, capsys: pytest.CaptureFixture) -> None:
    assert prove("1 + 1 = 2", lhs, rhs) is None
    assert capsys.readouterr().out == "proved: 1 + 1 = 2\n"


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_tolerance_is_absolute_below_one_and_relative_above(size: float) -> None:
    rhs = size * torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    unit = 1e-10 * max(1.0, size)
    nudge = torch.tensor([0, 0, 1], dtype=torch.float64)
    prove("within", rhs + 0.5 * unit * nudge, rhs)
    with pytest.raises(AssertionError, match=r"off by ten.*at \[2\].*max \|difference\|"):
        prove("off by ten", rhs + 10 * unit * nudge, rhs)


def test_failure_names_the_worst_place_and_both_values(capsys: pytest.CaptureFixture) -> None:
    lhs, rhs = torch.zeros(2, 3), torch.zeros(2, 3)
    lhs[1, 2], lhs[0, 1] = 0.25, 0.125
    with pytest.raises(AssertionError, match=r"a = b: 0.25 on the left, 0 on the right at \[1, 2\]"):
        prove("a = b", lhs, rhs)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("lhs, rhs", [(torch.ones(3), 1.0), (torch.ones(2, 1), torch.ones(2)), ([1, 2], [1, 2, 3])])
def test_shapes_are_not_broadcast(lhs: object, rhs: object) -> None:
    with pytest.raises(ValueError, match="shapes"):
        prove("shape", lhs, rhs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused_even_if_both_sides_have_it(bad: float) -> None:
    with pytest.raises(AssertionError, match=r"left side holds (nan|inf) at \[1\]"):
        prove("limit", [1.0, bad], np.array([1.0, bad]))


def test_a_thing_is_not_compared_with_itself() -> None:
    x = numbers(3, 3)
    for other in (x, x.detach(), x.view(3, 3), x.numpy()):
        with pytest.raises(ValueError, match="different code paths"):
            prove("x = x", x, other)
    prove("symmetric", x + x.T, (x + x.T).T)


def test_nothing_and_no_real_number_prove_nothing() -> None:
    with pytest.raises(ValueError, match="empty"):
        prove("empty", [], torch.empty(0))
    for odd in (torch.ones(2, dtype=torch.complex64), ["a", "b"]):
        with pytest.raises(ValueError, match="real numbers"):
            prove("odd", odd, torch.ones(2))


def test_single_precision_gets_the_hint_and_double_does_not() -> None:
    third = torch.tensor(1.0) / 3
    with pytest.raises(AssertionError, match="compute in float64"):
        prove("a third", third, 1 / 3)
    with pytest.raises(AssertionError) as error:
        prove("a third", third.double(), 1 / 3)
    assert "float64" not in str(error.value)
    prove("a third", third, 1 / 3, tol=1e-6)


def test_what_a_noted_function_helped_to_prove_says_so_in_its_cell_and_no_later(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = SimpleNamespace(execution_count=1)
    monkeypatch.setattr(proof, "_noted", {})
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    double = proof.with_note(lambda x: 2 * x, proof.OURS)
    prove("before it has run", 2, 2)
    prove("2 x = x + x", double(3), 3 + 3)
    shell.execution_count = 2
    prove("in the next cell", 2, 2)
    assert capsys.readouterr().out.splitlines() == [
        "proved: before it has run",
        "proved: 2 x = x + x (with the course's solution)",
        "proved: in the next cell",
    ]


def test_an_answer_in_float32_is_proved_to_its_precision(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "_noted", {})
    third = proof.with_note(lambda: torch.tensor(1.0) / 3, proof.FLOAT32)
    prove("a third", third(), 1 / 3)
    assert capsys.readouterr().out == "proved: a third (to the precision of float32)\n"
    with pytest.raises(AssertionError, match="allowed 0.001"):
        prove("a third", third() + 0.01, 1 / 3)
