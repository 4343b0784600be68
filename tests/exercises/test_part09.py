"""The design exercise of notebook 09: many ways past the tracer pass, what the x-ray does not see is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.exercises import check
from adaln_lab.exercises.part09 import Traced, diagnoses, measure_untraced
from adaln_lab.layers import xavier_linear
from adaln_lab.norms import layer_norm

Vectors = Callable[[nn.Module, Tensor, Tensor], Tensor]


def block(vectors: Vectors, part: Callable[[], object] = lambda: xavier_linear(32, 96)) -> type[nn.Module]:
    """A block whose shift, scale and gate are vectors(self, x, c), (B, 1, 96)."""

    def init(self: nn.Module) -> None:
        Traced.__init__(self)
        self.w = part()

    def forward(self: nn.Module, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = vectors(self, x, c).chunk(3, dim=-1)
        return x + gate * self.mlp(layer_norm(x) * (1 + scale) + shift)

    return type("Learners", (Traced,), {"__init__": init, "forward": forward})


def matrix() -> nn.Parameter:
    return nn.Parameter(torch.randn(32, 96) / 6)


PAST = {
    "a matrix": block(lambda self, x, c: (c @ self.w)[:, None], matrix),
    "the Linear's weight without its call": block(lambda self, x, c: F.linear(c, self.w.weight)[:, None]),
    "a convolution": block(lambda self, x, c: self.w(c[..., None]).mT, lambda: nn.Conv1d(32, 96, 1)),
    "a bilinear form": block(lambda self, x, c: self.w(c, c)[:, None], lambda: nn.Bilinear(32, 32, 96)),
    "one Linear for c and for the tokens": block(lambda self, x, c: self.w(torch.cat([c[:, None], x], 1))[:, :1]),
    "a table": block(lambda self, x, c: self.w((c[:, 0] > 0).long())[:, None], lambda: nn.Embedding(2, 96)),
}


class WithoutShift(Traced):
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, gate = F.linear(c, self.w.weight[:64])[:, None].chunk(2, dim=-1)
        return x + gate * self.mlp(layer_norm(x) * (1 + scale))


CAUGHT = {
    "as given": (block(lambda self, x, c: self.w(c)[:, None]), "yours 3 in 2 Linears that the tracer reports"),
    "made from the stream": (block(lambda self, x, c: self.w(x.mean(1, keepdim=True))), "It says none"),
    "constant": (block(lambda self, x, c: self.w[:1, None], matrix), "It says none"),
    "another for each token": (block(lambda self, x, c: (c[:, None] * x) @ self.w, matrix), "other_conditional"),
    "two vectors": (WithoutShift, "yours 2 in 0 Linears that the tracer reports; the goal is 3"),
    "not a class": (Traced(), "give check the class"),
}


@pytest.mark.parametrize("way", PAST)
def test_ways_past_the_tracer_are_accepted(way: str) -> None:
    assert measure_untraced(PAST[way]) == (3, 0)


@pytest.mark.parametrize("way", CAUGHT)
def test_what_is_caught_or_no_adaln_is_refused_with_the_reason(way: str, capsys: pytest.CaptureFixture) -> None:
    answer, words = CAUGHT[way]
    check("untraced", answer)
    said = capsys.readouterr().out
    assert said.startswith("not yet") and words in said


def test_a_wrong_diagnosis_is_not_told_the_right_number(capsys: pytest.CaptureFixture) -> None:
    right = diagnoses()
    check("diagnoses", {letter: bug for letter, (bug,) in right.items()})
    assert "ok: diagnoses: 10 of 10" in capsys.readouterr().out
    check("diagnoses", {**right, "A": (1,), "I": (5,)})
    said = capsys.readouterr().out
    assert "8 of 10" in said and "A, bug" in said and "solution" not in said
