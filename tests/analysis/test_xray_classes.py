"""The table of `xray_classes` against the classes themselves: each row is made to show, without the x-ray.

A row's Linears are made to say chosen values, role by role; what then reaches the block's layers must follow.
"""

import copy
import re
from collections import defaultdict

import pytest
import torch
from torch import nn
from xray_classes import MODELS, TRUTH, either

pytestmark = pytest.mark.usefixtures("diffusers")  # which makes it importable beside any torchvision

GROUPS = [
    pytest.param(name, group, id=f"{name}:{group['blocks']}")
    for name, row in TRUTH.items()
    for group in row["groups"]
    if "chunk_order" in group
]


def fullest(value):
    """Of several right values the one that names the most; a value that stands alone, itself."""
    return max(value, key=len) if isinstance(value, either) else value


def build(name: str):
    import diffusers

    if name not in ("torch_encoder", "resnet18") and not hasattr(diffusers, TRUTH[name]["cls"]):
        pytest.skip(f"this diffusers has no {TRUTH[name]['cls']}")
    return MODELS[name]()


def terms(group: dict) -> int:
    """How many shared Linears are summed to one set of vectors."""
    said = sum(len(chunk["roles"]) for chunk in fullest(group["chunk_order"]))
    return 1 if isinstance(group["n_vectors_per_block"], either) else said // group["n_vectors_per_block"]


def blocks_of(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    pattern = re.escape(pattern).replace(r"\*", r"\d+")
    return {path: module for path, module in model.named_modules() if re.fullmatch(pattern, path)}


@torch.no_grad()
def force(name: str, group: dict, **values: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A pass in which every scale, shift and gate of the group is the value given.

    Returns what enters the layers of the first block, one tensor a layer, and what leaves that block.
    """
    model, run = build(name)
    blocks, chunks = blocks_of(model, group["blocks"]), fullest(group["chunk_order"])
    linears = {
        chunk["module"][1:] if chunk["module"].startswith("/") else f"{path}.{chunk['module']}": chunk["roles"]
        for path in blocks
        for chunk in chunks
    }
    for parameter in fullest(group["modulation_params"]):
        if parameter.rpartition(".")[0] not in linears:  # a table, or another term of the same sum
            model.get_parameter(parameter).zero_()
    for path, roles in linears.items():
        linear = model.get_submodule(path)
        row = torch.tensor([values[role] / terms(group) for role in roles]).repeat_interleave(
            linear.out_features // len(roles)
        )
        linear.register_forward_hook(lambda *call, row=row: row.expand_as(call[2]).clone())
    entering, leaving = defaultdict(list), []
    block = next(iter(blocks.values()))
    for path, layer in block.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_pre_hook(lambda _, args, path=path: entering[path].append(args[0].flatten()))
    block.register_forward_hook(lambda *call: leaving.extend(call[2] if isinstance(call[2], tuple) else [call[2]]))
    run()
    return [torch.cat(inputs) for inputs in entering.values()], [out for out in leaving if out is not None]


def constant_inputs(name: str, group: dict) -> int:
    """Layers whose input is nothing but the shift, where the scale takes away all that a norm gave."""
    shift = 0.375 if group["has_shift"] else 0.0
    entering, _ = force(name, group, scale=-1.0, shift=0.375, gate=1.0)
    return sum(torch.allclose(inputs, torch.full_like(inputs, shift), atol=1e-6) for inputs in entering)


@pytest.mark.parametrize("name", MODELS)
def test_names(name):
    """Every block, class and parameter that the row names is there, and zero as handed over only where it says so."""
    model, run = build(name)
    with torch.no_grad():
        run()
    for group in TRUTH[name]["groups"]:
        blocks = blocks_of(model, group["blocks"])
        assert len(blocks) == group["n_blocks"]
        assert {type(block).__name__ for block in blocks.values()} == {group["block_class"]}
        if "modulation_params" in group:
            params = [model.get_parameter(parameter) for parameter in fullest(group["modulation_params"])]
            assert group["all_zero_now"] == all(not p.any() for p in params)
    for pattern in TRUTH[name].get("unmodulated_blocks", []) + TRUTH[name].get("also_allowed", []):
        assert blocks_of(model, pattern)


@pytest.mark.parametrize(("name", "group"), [case for case in GROUPS if case.values[1]["has_scale"]])
def test_scales_and_shifts(name, group):
    """Scale -1 and shift .375 leave as many layers as there are scales with .375 alone: the roles' order is right."""
    scales = sum(chunk["roles"].count("scale") for chunk in fullest(group["chunk_order"]))
    assert constant_inputs(name, group) >= scales // terms(group)


def test_a_wrong_order_shows():
    group = copy.deepcopy(TRUTH["cogview4"]["groups"][0])
    assert constant_inputs("cogview4", group)
    group["chunk_order"][0]["roles"] = 4 * ["shift", "scale", "gate"]  # as in CogView3Plus
    assert not constant_inputs("cogview4", group)


@pytest.mark.parametrize(("name", "group"), [case for case in GROUPS if case.values[1]["has_gate"]])
def test_gates(name, group):
    """Gates of 50 and of 100 give the same block if and only if the gate is bounded; gates of 1 and of 50 never do."""
    one, low, high = (force(name, group, scale=0.3, shift=0.1, gate=gate)[1] for gate in (1.0, 50.0, 100.0))

    def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
        return all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(a, b, strict=True))

    assert same(low, high) == (group["gate_bounding"] != "raw")
    assert not same(one, low)
