"""Interventions change what the condition does and nothing else: each against the same change made by hand."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from adaln_lab.analysis.interventions import at_time, between, for_label, interpolated, patched, scaled
from adaln_lab.conditioning import VARIANTS
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments.unet import TinyUNet, UNetConfig
from adaln_lab.samplers import Precompute, sample
from adaln_lab.training.checkpoint import shipped_model

Y = torch.tensor([3, 8, 1, 10])


@pytest.fixture(scope="module")
def model() -> TinyDiT:
    return shipped_model("digits")


@pytest.fixture(params=VARIANTS)
def any_model(request) -> TinyDiT:
    """One small model a variant, without a zero anywhere, so that every path carries signal."""
    torch.manual_seed(0)
    made = TinyDiT(DiTConfig(width=24, depth=3, heads=2, variant=request.param))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0.1, 0.4, 0.7, 1.0])


def velocity(model: TinyDiT, precompute: Precompute, t: Tensor | None = None, y: Tensor = Y) -> Tensor:
    x, own = inputs()
    with torch.no_grad():
        return model.forward_with(x, precompute(own if t is None else t, y))


# On every variant: what it has is changed, what it has not is refused in one sentence.

HAS = {
    "in_context": set(),
    "cross_attention": {"ctx"},
    "adaln": {"shift", "scale"},
    "adaln_zero": {"shift", "scale", "gate"},
    "both": {"shift", "scale", "gate", "ctx"},
}


@pytest.mark.parametrize("part", ["shift", "scale", "gate"])
def test_scaled_by_one_is_the_model_itself_and_by_two_another(any_model, part):
    own = any_model.precompute
    if part in HAS[any_model.config.variant]:
        assert torch.equal(velocity(any_model, scaled(own, part, 1.0)), velocity(any_model, own))
        assert not torch.equal(velocity(any_model, scaled(own, part, 2.0, block=1)), velocity(any_model, own))
    else:
        with pytest.raises(ValueError, match=f"blocks have no {part}; from the condition they take"):
            velocity(any_model, scaled(own, part, 2.0))


@pytest.mark.parametrize("part", ["shift", "scale", "gate", "ctx"])
def test_a_part_is_patched_from_the_donor_or_refused(any_model, part):
    own = any_model.precompute
    changed = patched(own, at_time(for_label(own, 8, 3), 0.55), [1], [part])
    if part in HAS[any_model.config.variant]:
        assert not torch.equal(velocity(any_model, changed)[1], velocity(any_model, own)[1])
    else:
        with pytest.raises(ValueError, match=f"blocks have no {part}|take nothing from the condition"):
            velocity(any_model, changed)


def test_all_blocks_patched_leave_the_final_layer_alone(any_model):
    own, donor = any_model.precompute, for_label(any_model.precompute, 8, 3)
    if any_model.config.variant == "in_context":
        with pytest.raises(ValueError, match="take nothing from the condition: it enters once, as tokens"):
            velocity(any_model, patched(own, donor))
        return
    t = inputs()[1]
    by_hand = own(t, Y)._replace(blocks=donor(t, Y).blocks)
    assert torch.equal(velocity(any_model, patched(own, donor)), velocity(any_model, lambda _t, _y: by_hand))


def test_interpolated_and_between_run_from_one_condition_to_the_other(any_model):
    own, donor = any_model.precompute, for_label(any_model.precompute, 8, 3)
    assert torch.equal(velocity(any_model, interpolated(own, donor, 0.0)), velocity(any_model, own))
    torch.testing.assert_close(velocity(any_model, interpolated(own, donor, 1.0)), velocity(any_model, donor))
    other = at_time(own, 0.5)
    mixed = velocity(any_model, between(own, other, 0.4, 0.7))
    for row, source in enumerate((own, own, other, own)):
        torch.testing.assert_close(mixed[row], velocity(any_model, source)[row], rtol=1e-4, atol=1e-5)


def test_time_stands_still_and_labels_are_exchanged(any_model):
    own, t = any_model.precompute, inputs()[1]
    assert torch.equal(velocity(any_model, at_time(own, 0.3)), velocity(any_model, own, torch.full_like(t, 0.3)))
    three = velocity(any_model, own, y=torch.tensor([3, 3, 1, 10]))
    assert torch.equal(velocity(any_model, for_label(own, 8, 3)), three)


# What an intervention means, on the trained digits model.


def test_samples_follow_the_intervention(model):
    assert torch.equal(sample(model, Y[:3], precompute=model.precompute), sample(model, Y[:3]))
    exchanged = sample(model, torch.tensor([8, 8, 1]), guidance=2.0, precompute=for_label(model.precompute, 8, 3))
    torch.testing.assert_close(exchanged, sample(model, torch.tensor([3, 3, 1]), guidance=2.0))


@pytest.mark.parametrize("block", range(4))
def test_a_block_whose_gates_are_zero_is_a_block_that_is_not_there(model, block):
    shorter = copy.deepcopy(model)
    del shorter.blocks[block]
    closed = scaled(model.precompute, "gate", 0.0, block)
    torch.testing.assert_close(velocity(model, closed), velocity(shorter, shorter.precompute))


def test_a_branch_whose_gate_is_halved_is_a_branch_with_halved_weights(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.blocks[2].mlp.down.parameters():
            p /= 2
    halved = scaled(model.precompute, "gate", 0.5, 2, "MLP")
    torch.testing.assert_close(velocity(model, halved), velocity(other, other.precompute))


def test_scale_and_shift_zero_leave_a_plain_norm(model):
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        linear = block.to_modulation.linear
        with torch.no_grad():  # shift, scale, gate, twice
            for p in (linear.weight, linear.bias):
                p.unflatten(0, (6, -1))[[0, 1, 3, 4]] = 0
    unmodulated = scaled(scaled(model.precompute, "scale", 0.0), "shift", 0.0)
    torch.testing.assert_close(velocity(model, unmodulated), velocity(plain, plain.precompute))


def test_shift_scale_and_gate_patched_one_by_one_end_in_the_donor(model):
    donor, precompute = for_label(model.precompute, 8, 3), model.precompute
    seen = [velocity(model, precompute)]
    for part in ("shift", "scale", "gate"):
        precompute = patched(precompute, donor, parts=[part])
        seen.append(velocity(model, precompute))
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))
    assert torch.equal(seen[-1], velocity(model, patched(model.precompute, donor)))


def test_halfway_between_two_conditions_each_vector_is_their_mean(model):
    own, donor, t = model.precompute, for_label(model.precompute, 8, 3), inputs()[1]
    half, one, two = (f(t, Y).blocks[2].modulations[1].scale for f in (interpolated(own, donor, 0.5), own, donor))
    torch.testing.assert_close(half, (one + two) / 2)


def test_a_unet_takes_whole_conditions_and_refuses_what_needs_blocks():
    """It has no blocks of the DiT's kind, but at_time, for_label, between and interpolated need none."""
    torch.manual_seed(0)
    unet = TinyUNet(UNetConfig(size=8, channels=1, width=8))
    torch.nn.init.normal_(unet.conv_out.weight)
    own, donor = unet.precompute, at_time(for_label(unet.precompute, 8, 3), 0.5)
    torch.testing.assert_close(velocity(unet, interpolated(own, donor, 1.0)), velocity(unet, donor))
    for change in (scaled(own, "gate", 0.0), patched(own, donor)):
        with pytest.raises(ValueError, match="this model is no TinyDiT"):
            velocity(unet, change)


def test_what_no_model_has_is_refused(model):
    own = model.precompute
    with pytest.raises(ValueError, match="part must be one of shift, scale, gate; got 'gamma'"):
        scaled(own, "gamma", 1.0)
    with pytest.raises(ValueError, match="branch must be one of attention, MLP; got 'mlp'"):
        scaled(own, "gate", 1.0, branch="mlp")
    with pytest.raises(ValueError, match="parts must be among shift, scale, gate, ctx; got beta"):
        patched(own, own, parts=["beta"])
    with pytest.raises(ValueError, match=r"blocks must lie in 0 \.\. 3, got \[4\]"):
        velocity(model, scaled(own, "gate", 1.0, 4))
    with pytest.raises(ValueError, match=r"blocks must lie in 0 \.\. 3"):
        velocity(model, patched(own, own, [-1]))
