"""Interventions change the plan and nothing else: each against a model where the same was done by hand."""

import copy
from itertools import pairwise

import pytest
import torch

from adaln_lab.analysis.interventions import at_time, between, blended, for_label, scaled, spliced
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.samplers import sample
from adaln_lab.training.checkpoint import shipped_model

Y = torch.tensor([3, 8, 1, 10])


@pytest.fixture(scope="module")
def model():
    return shipped_model("digits")


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0.1, 0.4, 0.7, 1.0])


def run(model, planner, t=None, y=Y):
    x, own = inputs()
    with torch.no_grad():
        return model.run(x, planner(own if t is None else t, y))


def test_factor_one_is_the_model_itself_bit_for_bit(model):
    for part in ("shift", "scale", "gate"):
        assert torch.equal(run(model, scaled(model.plan, part, 1.0)), run(model, model.plan))
    assert torch.equal(sample(model, Y[:3], plan=model.plan), sample(model, Y[:3]))


@pytest.mark.parametrize("block", range(4))
def test_a_block_whose_gates_are_zero_is_a_block_that_is_not_there(model, block):
    shorter = copy.deepcopy(model)
    del shorter.blocks[block]
    torch.testing.assert_close(run(model, scaled(model.plan, "gate", 0.0, block)), run(shorter, shorter.plan))


def test_a_branch_whose_gate_is_halved_is_a_branch_with_halved_weights(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.blocks[2].mlp.down.parameters():
            p /= 2
    halved = scaled(model.plan, "gate", 0.5, 2, "MLP")
    torch.testing.assert_close(run(model, halved), run(other, other.plan))


def test_scale_and_shift_zero_leave_a_plain_norm(model):
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        linear = block.to_modulation.linear
        with torch.no_grad():  # shift, scale, gate, twice
            for p in (linear.weight, linear.bias):
                six = p.unflatten(0, (6, -1))
                six[[0, 1, 3, 4]] = 0
    unmodulated = scaled(scaled(model.plan, "scale", 0.0), "shift", 0.0)
    torch.testing.assert_close(run(model, unmodulated), run(plain, plain.plan))


def test_time_stands_still_and_labels_are_exchanged(model):
    t = inputs()[1]
    assert torch.equal(run(model, at_time(model.plan, 0.3)), run(model, model.plan, torch.full_like(t, 0.3)))
    assert torch.equal(run(model, for_label(model.plan, 8, 3)), run(model, model.plan, y=torch.tensor([3, 3, 1, 10])))


def test_spliced_takes_some_blocks_from_each(model):
    other = for_label(model.plan, 8, 3)
    assert torch.equal(run(model, spliced(model.plan, other, [])), run(model, model.plan))
    halves = [run(model, spliced(model.plan, other, blocks)) for blocks in ([0, 1], [2, 3])]
    x, t = inputs()
    one, two = model.plan(t, Y), other(t, Y)
    by_hand = model.run(x, one._replace(blocks=two.blocks[:2] + one.blocks[2:]))
    assert torch.equal(halves[0], by_hand)
    assert not torch.equal(halves[0], halves[1])


def test_parts_are_spliced_one_by_one(model):
    """Shift, then scale, then gate of another label: after all three it is the other label's plan."""
    other, planner = for_label(model.plan, 8, 3), model.plan
    seen = [run(model, planner)]
    for part in ("shift", "scale", "gate"):
        planner = spliced(planner, other, parts=[part])
        seen.append(run(model, planner))
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))
    assert torch.equal(seen[-1], run(model, spliced(model.plan, other)))
    with pytest.raises(ValueError, match="parts must be among shift, scale, gate; got beta"):
        spliced(model.plan, other, parts=["beta"])


def test_between_acts_in_its_times_alone(model):
    silent = scaled(model.plan, "gate", 0.0)
    mixed = run(model, between(model.plan, silent, 0.4, 0.7))
    for row, source in enumerate((model.plan, model.plan, silent, model.plan)):
        torch.testing.assert_close(mixed[row], run(model, source)[row])


def test_blended_runs_from_one_plan_to_the_other(model):
    other = for_label(model.plan, 8, 3)
    assert torch.equal(run(model, blended(model.plan, other, 0.0)), run(model, model.plan))
    torch.testing.assert_close(run(model, blended(model.plan, other, 1.0)), run(model, other))
    t = inputs()[1]
    half, one, two = (
        planner(t, Y).blocks[2][1].scale for planner in (blended(model.plan, other, 0.5), model.plan, other)
    )
    torch.testing.assert_close(half, (one + two) / 2)


def test_guided_samples_follow_the_plan(model):
    asked = torch.tensor([8, 8, 1])
    exchanged = sample(model, asked, guidance=2.0, plan=for_label(model.plan, 8, 3))
    torch.testing.assert_close(exchanged, sample(model, torch.tensor([3, 3, 1]), guidance=2.0))


def test_strangers_are_refused(model):
    with pytest.raises(ValueError, match="part must be one of shift, scale, gate; got 'gamma'"):
        scaled(model.plan, "gamma", 1.0)
    with pytest.raises(ValueError, match="branch must be one of attention, MLP; got 'mlp'"):
        scaled(model.plan, "gate", 1.0, branch="mlp")
    with pytest.raises(ValueError, match=r"blocks must lie in 0 \.\. 3, got \[4\]"):
        run(model, scaled(model.plan, "gate", 1.0, 4))
    with pytest.raises(ValueError, match=r"blocks must lie in 0 \.\. 3"):
        run(model, spliced(model.plan, model.plan, [-1]))
    plain = TinyDiT(DiTConfig(variant="adaln"))
    with pytest.raises(ValueError, match="have no gate; an adaln_zero model has"):
        run(plain, scaled(plain.plan, "gate", 0.0))
