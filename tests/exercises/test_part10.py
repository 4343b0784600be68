"""Exercises of 10 that are judged by what comes out: other right answers pass, near misses say why."""

import pytest
import torch
from torch import nn

from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.exercises import part10
from adaln_lab.exercises.part10 import PLACES, examine_average, examine_segments, measure_launches, rounded_at


def late(h, scale, shift, first):
    """Two slices, written in place of a concatenation."""
    out = torch.empty_like(h)
    out[:, :first] = h[:, :first] * (1 + scale[:, :1]) + shift[:, :1]
    out[:, first:] = h[:, first:] * (1 + scale[:, 1:]) + shift[:, 1:]
    return out


def without_gradients(h, scale, shift, first):
    return part10.modulate_segments(h.detach(), scale, shift, first)


def one_row(h, scale, shift, first):
    return h * (1 + scale[:, :1]) + shift[:, :1]


@pytest.mark.parametrize("answer, says", [(late, ""), (without_gradients, "gradient of h"), (one_row, "differs")])
def test_segments(answer, says):
    is_right, text = examine_segments(answer)
    assert is_right == (says == "") and says in text


def averages():
    class Double(part10.steady_average):
        def __init__(self, weight, decay):
            self.average, self.decay = weight.double(), decay

        def update(self, weight):
            self.average += (1 - self.decay) * (weight.double() - self.average)

    class Decay99(part10.steady_average):
        def update(self, weight):
            self.average.lerp_(weight.float(), 0.01)

    class Returns32(part10.steady_average):
        def value(self):
            return self.average

    return (Double, True), (Decay99, False), (Returns32, False), (part10.GivenAverage, False)


@pytest.mark.parametrize("average, is_right", averages())
def test_averages(average, is_right):
    assert examine_average(average)[0] == is_right


def test_an_update_with_another_result_is_refused():
    def no_average(model: nn.Module, average: nn.Module):
        return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True).step

    def sgd(model: nn.Module, average: nn.Module):
        return torch.optim.SGD(model.parameters(), lr=1e-3, fused=True).step

    assert "averages differ" in measure_launches(no_average)
    assert "weights differ" in measure_launches(sgd)
    assert measure_launches(part10.given_launches)[0] > 10 >= measure_launches(part10.few_launches)[0]


@pytest.mark.parametrize("place", PLACES)
def test_rounding_leaves_nothing_behind(place):
    model = TinyDiT(DiTConfig(width=16, depth=1)).eval()
    nn.init.normal_(model.final.linear.weight)
    nn.init.normal_(model.blocks[0].to_modulation.linear.weight)
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.6]), torch.tensor([1, 2])
    before = model(*inputs)
    with rounded_at(model, place):
        assert not torch.equal(model(*inputs), before)
    assert torch.equal(model(*inputs), before)
