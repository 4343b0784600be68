"""Which parts of a fresh model get a gradient in which backward pass, and that the measurement reports it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from adaln_lab.analysis.gradient_onset import ROLES, measure_gradient_onset, named_parts, role
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.layers import SelfAttention
from adaln_lab.norms import ToModulation

FLOOR = 1e-15  # smaller norms are rounding


def make(variant: str = "adaln_zero") -> TinyDiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyDiT(DiTConfig(width=12, heads=2, depth=2, variant=variant)).double()


def loss(model: nn.Module) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 6, 1, 8, 8, generator=g, dtype=torch.float64)
    return (model(x, torch.linspace(0.1, 0.9, 6).double(), torch.arange(6)) - v).square().mean()


def reached(onset, step: int) -> set[str]:
    return {name for name, norm in zip(onset.names, onset.norms[:, step], strict=True) if norm > FLOOR}


def test_parts_are_all_parameters_and_nothing_twice():
    """Fill part by part: afterwards every number of every parameter has been touched once."""
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        for parameter, rows in named_parts(model).values():
            parameter[rows] += 1
    assert all((p == 1).all() for p in model.parameters())
    sizes = [parameter[rows].numel() for parameter, rows in named_parts(model).values()]
    assert sum(sizes) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("order", [("shift", "scale", "gate"), ("scale", "gate")])
def test_vectors_are_named_in_the_order_of_the_architecture(order: tuple[str, ...]):
    """A bias that is 1 in the part `gate1` must come out as the gate of branch 1, and as nothing else."""
    module = ToModulation(4, 6, branches=2, order=order)
    with torch.no_grad():
        parameter, rows = named_parts(module)["linear.bias:gate1"]
        parameter[rows] = 1
    first, second = module(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert (second.gate == 1).all() and not second.scale.any()
    assert not any(vector.any() for vector in first if vector is not None)


def test_q_k_and_v_are_the_thirds_of_the_joint_linear():
    attention = SelfAttention(6, 2)
    parts = named_parts(attention)
    thirds = [parameter[rows] for parameter, rows in (parts[f"qkv.weight:{part}"] for part in "qkv")]
    assert all(map(torch.equal, thirds, attention.qkv.weight.chunk(3)))


def test_the_loss_reaches_all_of_a_fresh_model_in_three_passes():
    """Head and gates are zero: first the head gets a gradient, then the gates, then all that is behind them."""
    onset = measure_gradient_onset(make(), loss, 3, lr=0.01)
    roles = [{role(name) for name in reached(onset, step)} for step in range(3)]
    assert roles[0] == {"final linear"}
    assert roles[1] == roles[0] | {"final AdaLN", "patch embedding", "gate rows"}
    assert roles[2] == set(ROLES.values()) - {"key bias"}


def test_with_a_head_that_is_not_zero_the_gates_get_a_gradient_in_pass_0():
    model = make()
    nn.init.constant_(model.final.linear.weight, 0.1)
    model.final.linear.weight.data[:, ::2] *= -2  # a constant row would only see the mean, which the norm removes
    onset = measure_gradient_onset(model, loss, 2)
    assert {role(name) for name in reached(onset, 0)} == {"final linear", "final AdaLN", "patch embedding", "gate rows"}
    assert {role(name) for name in reached(onset, 1)} == set(ROLES.values()) - {"key bias"}


def test_without_gates_the_zero_head_delays_the_rest_by_one_pass():
    onset = measure_gradient_onset(make("adaln"), loss, 2)
    assert {role(name) for name in reached(onset, 0)} == {"final linear"}
    assert "attention" in {role(name) for name in reached(onset, 1)}


def test_zero_times_zero_never_gets_a_gradient():
    """A zero gate on a branch whose last layer is zero: each one's gradient is the other, in every pass."""
    model = make()
    for block in model.blocks:
        nn.init.zeros_(block.attn.out.weight)
    onset = measure_gradient_onset(model, loss, 12)
    dead = [n for n in onset.names if ".attn." in n or (":gate0" in n and "blocks" in n)]
    norms = dict(zip(onset.names, onset.norms, strict=True))
    assert not any(norms[name].any() for name in dead)
    assert all(norms[name][-1] > FLOOR for name in onset.names if ":gate1" in name)  # the MLP's gates learn


def test_the_key_bias_never_gets_a_gradient():
    """Softmax is invariant to a constant added to all scores."""
    for variant in ("in_context", "adaln", "adaln_zero"):
        onset = measure_gradient_onset(make(variant), loss, 4)
        rows = [norms for name, norms in zip(onset.names, onset.norms, strict=True) if name.endswith("bias:k")]
        assert len(rows) == 2 and torch.stack(rows).max() <= FLOOR


def test_norms_are_those_of_a_loop_by_hand():
    model = make()
    onset = measure_gradient_onset(model, loss, 3, lr=0.1)
    by_hand = copy.deepcopy(model)
    for step in range(3):
        by_hand.zero_grad()
        loss(by_hand).backward()
        norms = dict(zip(onset.names, onset.norms[:, step], strict=True))
        for name, p in by_hand.named_parameters():
            pieces = [norm for part, norm in norms.items() if part.split(":")[0] == name]
            torch.testing.assert_close(torch.stack(pieces).norm(), p.grad.norm())
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= 0.1 * p.grad


def test_the_model_is_left_as_it_was():
    model = make()
    before = copy.deepcopy(model.state_dict())
    measure_gradient_onset(model, loss, 2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_roles_share_the_norm_of_their_parts():
    onset = measure_gradient_onset(make(), loss, 3)
    roles = onset.by_role()
    assert roles.names == list(ROLES.values()) and roles.steps == [0, 1, 2]
    torch.testing.assert_close(roles.norms.square().sum(0), onset.norms.square().sum(0))


def test_a_parameter_without_a_gradient_has_norm_zero():
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    onset = measure_gradient_onset(model, lambda m: m["used"](torch.ones(3, 2)).square().mean(), 2)
    assert reached(onset, 1) == {"used.weight", "used.bias"}
    assert onset.names == [name for name, _ in model.named_parameters()]  # no ToModulation, no attention: not split
