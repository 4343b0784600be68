"""A check must tell right from wrong, name the mistake it knows, and never stop a notebook."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab import embed, flow
from adaln_lab.display.widgets import Card
from adaln_lab.exercises import check, guess, hint, judge, record, solution
from adaln_lab.exercises.core import EXERCISES, Exercise, mutants
from adaln_lab.utils import proof

ROOT = Path(__file__).parents[2]
NAMES = sorted(name for name, exercise in EXERCISES.items() if isinstance(exercise, Exercise))
MISTAKES = [(name, mistake) for name in NAMES for mistake in EXERCISES[name].wrong]


def is_ours(returned: Callable, name: str) -> bool:
    """Whether it is the course's solution, which says so in what it proves."""
    return returned.__wrapped__ is EXERCISES[name].solution and proof.note_of(returned) == proof.OURS


@pytest.fixture
def said(capsys: pytest.CaptureFixture) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_solution_is_right_and_short_and_comes_back(name: str, said: Callable) -> None:
    fn = EXERCISES[name].solution
    assert check(name, fn) is fn
    assert said() == f"ok: {name}\n"
    solution(name)
    source = said()
    assert source.startswith(f"def {name}(") and len(source.splitlines()) <= 6


def test_solutions_agree_with_the_package() -> None:
    """Written twice on purpose: a solution reads alone, the package serves the model."""
    images = EXERCISES["patchify"].case[0]
    assert torch.equal(EXERCISES["patchify"].solution(images, 2), embed.patchify(images, 2))
    x_0, noise, t = EXERCISES["flow_pair"].case
    torch.testing.assert_close(EXERCISES["flow_pair"].solution(x_0, noise, t)[0], flow.interpolate(x_0, noise, t))


def test_patchify_has_the_order_of_a_convolution() -> None:
    images, patch = EXERCISES["patchify"].case
    weight = torch.randn(7, 3, patch, patch, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = EXERCISES["patchify"].solution(images, patch) @ weight.flatten(1).T
    torch.testing.assert_close(tokens, F.conv2d(images, weight, stride=patch).flatten(2).transpose(1, 2))


@pytest.mark.filterwarnings("ignore")  # in a notebook a warning is no error
@pytest.mark.parametrize("name, mistake", MISTAKES)
def test_known_mistake_is_refused_by_its_name(name: str, mistake: str, said: Callable) -> None:
    exercise = EXERCISES[name]
    assert is_ours(check(name, exercise.wrong[mistake]), name)
    assert said().startswith(f"not yet: {name}: {mistake}. ")


@pytest.mark.parametrize("name", NAMES)
def test_all_messages_differ(name: str, said: Callable) -> None:
    exercise = EXERCISES[name]
    fns = [*exercise.wrong.values(), exercise.solution, None, lambda *a: 7 * a[0], lambda *a: 1 / 0]
    messages = []
    for fn in fns:
        check(name, fn)
        messages.append(said())
    assert len(set(messages)) == len(fns) and all(message.count("\n") == 1 for message in messages)


def ellipsis_body(*arguments: object) -> Tensor: ...


def not_implemented(*arguments: object) -> Tensor:
    raise NotImplementedError("your turn")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stub", [None, ..., ellipsis_body, not_implemented, lambda *a: ..., lambda *a: (..., None)])
def test_stub_is_to_do(name: str, stub: Callable | None, said: Callable) -> None:
    assert is_ours(check(name, stub), name)
    assert said().startswith(f"to do: {name}: ")


def recursion(*arguments: object) -> Tensor:
    return recursion(*arguments)


BAD = {
    "raises": lambda *a: 1 / 0,
    "exits": lambda *a: sys.exit(1),
    "recursion": recursion,
    "takes nothing": lambda: torch.ones(2),
    "scalar": lambda *a: 3.0,
    "text": lambda *a: "tensor",
    "dict": lambda *a: {"x": a[0]},
    "empty tuple": lambda *a: [a[0]] * 7,
    "class": object,
    "tensor": torch.ones(2),
    "array": torch.ones(2).numpy(),
    "empty": lambda *a: torch.empty(0),
    "0-d": lambda *a: torch.tensor(1.0, dtype=torch.float64),
    "integers": lambda *a: a[0].long(),
    "complex": lambda *a: a[0].to(torch.complex128),
    "needs grad": lambda *a: a[0].requires_grad_() * 2,
    "nan": lambda *a: a[0] * float("nan"),
    "inf": lambda *a: a[0] / 0,
    "sparse": lambda *a: a[0].to_sparse(),
    "changes its input": lambda *a: a[0].zero_(),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", BAD)
def test_whatever_a_function_does_the_notebook_goes_on(name: str, bad: str, said: Callable) -> None:
    assert is_ours(check(name, BAD[bad]), name)
    assert said().startswith(f"not yet: {name}: ")


def test_unknown_mistake_gets_its_place_and_numbers(said: Callable) -> None:
    def almost(images: Tensor, patch: int) -> Tensor:
        tokens = EXERCISES["patchify"].solution(images, patch).clone()
        tokens[0, 1, 2] += 0.5
        return tokens

    check("patchify", almost)
    assert "tokens is off by up to 0.5, at tokens[0, 1, 2]: " in said()


def test_equal_digits_are_followed_by_more(said: Callable) -> None:
    check("modulated", lambda x, shift, scale: EXERCISES["modulated"].solution(x, shift, scale) + 5e-4)
    yours, right = re.search(r": (\S+) in yours, (\S+) in the solution", said()).groups()
    assert yours != right and float(yours) == pytest.approx(float(right), abs=1e-3)


def test_a_number_without_axes_has_no_place(said: Callable) -> None:
    check("footprint", lambda *a: EXERCISES["footprint"].solution(*a) + 0.5)
    assert "share is off by up to 0.5: " in said()


def test_a_forgotten_return_is_no_stub(said: Callable) -> None:
    def in_place(images: Tensor, patch: int) -> None:
        images *= patch

    assert is_ours(check("patchify", in_place), "patchify")
    assert said() == "not yet: patchify: your function returns nothing; let it return tokens\n"


def test_shapes_are_named(said: Callable) -> None:
    check("patchify", lambda images, patch: EXERCISES["patchify"].solution(images, patch).transpose(1, 2))
    assert "tokens last" in said()
    check("patchify", lambda images, patch: EXERCISES["patchify"].solution(images, patch).flatten(1))
    assert "tokens has shape (2, 72) and must have (2, 6, 12)" in said()
    check("flow_pair", lambda x_0, noise, t: EXERCISES["flow_pair"].solution(x_0, noise, t)[0])
    assert "return x_t, v; you returned 1" in said()


@pytest.mark.parametrize("name, mistake", MISTAKES)
def test_a_mistake_runs_and_tells_itself_from_all_others(name: str, mistake: str) -> None:
    """A version that raised in every case would be blamed for any exception, and a silent one would blame in vain."""
    exercise = EXERCISES[name]
    version = exercise.wrong[mistake]
    assert len(version.__doc__) > 40
    version(*exercise.case)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_of_some_case_differ(name: str) -> None:
    """With two equal sizes a wrong broadcast or a transposed axis goes unseen."""
    shapes = [case[0].shape for case in EXERCISES[name].cases()]
    assert any(len(set(shape)) == len(shape) for shape in shapes)


def test_hints_tell_more_and_more(said: Callable) -> None:
    for name in NAMES:
        hints = []
        for level in (1, 2, 3):
            hint(name, level)
            hints.append(said())
            assert hints[-1].startswith(f"hint {level} of 3: ")
        assert len(set(hints)) == 3
    with pytest.raises(ValueError, match="1 to 3, got 4"):
        hint("guided", 4)


@pytest.mark.parametrize("ask", [lambda: check("guide", None), lambda: hint("guide"), lambda: solution("guide")])
def test_unknown_name_lists_the_known_ones(ask: Callable) -> None:
    with pytest.raises(ValueError, match="'guide'; there are .*, guided, .*modulated, "):
        ask()


def test_guess_keeps_the_answer_until_the_reader_commits(said: Callable) -> None:
    guess("equal?", ["yes", "no"], answer=1)
    question, yes, no, advice = said().splitlines()
    assert (question, yes, no) == ("Your guess: equal?", "     [0] yes", "     [1] no") and "pick=" in advice
    guess("equal?", ["yes", "no"], pick=1)
    assert "-> [1] no" in said()
    guess("equal?", ["yes", "no"], pick=1, answer=1)
    assert said().endswith("Right.\n")
    guess("equal?", ["yes", "no"], pick=0, answer=1)
    assert said().endswith("Not this one.\nIt is [1] no.\n")
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        guess("equal?", ["yes", "no"], pick=2)
    with pytest.raises(ValueError, match="or an option, got 'perhaps'"):
        guess("equal?", ["yes", "no"], answer="perhaps")


def test_a_judgement_is_recorded_like_an_exercise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    monkeypatch.setattr(Card, "clicked", {})
    conclusions = {"a": "Shown on five seeds.", "b": "Not measured."}
    judge("supported?", conclusions, answer={"a"})
    assert record.read() == {}
    for pick in ((0, 1), (0, 1), (0,)):
        judge("supported?", conclusions, answer={"a"}, pick=pick)
    assert record.read()["supported?"]["tries"] == 2 and record.read()["supported?"]["solved"]


def test_an_exception_comes_with_the_readers_own_line(said: Callable) -> None:
    def helper(x: Tensor) -> Tensor:
        return x @ x  # here

    check("modulated", lambda x, shift, scale: helper(shift))
    assert re.search(r"raised RuntimeError in line \d+, `return x @ x  # here`: ", said())


def test_not_implemented_by_torch_is_an_error_and_no_stub(said: Callable) -> None:
    class Norm(torch.nn.Module):
        def foward(self, x: Tensor) -> Tensor:
            return x

    for answer in (lambda x, shift, scale: Norm()(x), lambda x, shift, scale: (x > 0).logcumsumexp(0)):
        check("modulated", answer)
        assert said().startswith("not yet: modulated: your function raised ")


def test_an_exception_that_cannot_be_printed_stops_nothing(said: Callable) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    def answer(*arguments: object) -> Tensor:
        raise Silent

    assert is_ours(check("modulated", answer), "modulated")
    assert "your function raised Silent in line" in said()


def test_the_courses_solution_is_not_the_readers(said: Callable) -> None:
    """A cell that only checks, run twice, gets back what the first check returned."""
    check("modulated", check("modulated", None))
    assert [line[:16] for line in said().splitlines()] == ["to do: modulated"] * 2


def test_mistakes_are_explained_without_docstrings_too() -> None:
    code = """if True:
        from adaln_lab.exercises import check
        from adaln_lab.norms import layer_norm
        check("modulated", lambda x, shift, scale: layer_norm(x) * scale[:, None] + shift[:, None])"""
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "scale without one plus. You multiply by scale" in done.stdout, done.stderr


@pytest.mark.parametrize("change", ["images.shape => 2", "every images.shape => 2", "patch => 2", "nothing => 2"])
def test_a_change_says_how_often_it_applies(change: str) -> None:
    """A mistake that changed another place as well, or none, would be blamed for what it does not do."""
    table = f"renamed\n    Why it is wrong.\n    {change}"
    if change == "images.shape => 2":
        assert mutants(EXERCISES["patchify"].solution, table)["renamed"].__doc__ == "Why it is wrong."
    else:
        with pytest.raises(ValueError, match="found it [0-9]+ times"):
            mutants(EXERCISES["patchify"].solution, table)


BLOCKS = ["adaln_zero_block", "modulated_branch", "sandwich_branch", "lumina_block", "hdm_step"]
IN_A_BLOCK = {  # a bug of the broken models -> words in the name of the mistake; where a block cannot have it
    "gate on the MLP branch only": (
        "gate missing",
        "attention branch only",
        "mlp branch only",
        "without a gate",
        "gates missing",
    ),
    "MLP branch calls the attention": ("calls attention",),
    "scale and shift swapped": ("scale and shift swapped", "shift first"),
    "sigmoid on the gate": ("sigmoid",),
    "stream rebound": ("stream rebound", "stream overwritten", "skip carries"),
    "scale without 1 +": ("scale without one",),
}
CANNOT = {
    "MLP branch calls the attention": ["modulated_branch", "sandwich_branch", "hdm_step"],  # one branch
    "scale and shift swapped": ["sandwich_branch", "lumina_block"],  # no shift
}


@pytest.mark.parametrize("bug", IN_A_BLOCK)
@pytest.mark.parametrize("name", BLOCKS)
def test_bugs_of_the_broken_models_are_known_to_every_block(bug: str, name: str) -> None:
    known = any(word in mistake for mistake in EXERCISES[name].wrong for word in IN_A_BLOCK[bug])
    assert known != (name in CANNOT.get(bug, []))


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_knows_at_least_six_mistakes(name: str) -> None:
    names = [line for line in EXERCISES[name].mistakes.splitlines() if line and not line.startswith(" ")]
    assert len(names) == len(EXERCISES[name].wrong) >= 6  # and each has a name of its own
