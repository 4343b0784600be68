"""What ZOO says of a model is what its block does, and what it costs is what the published models cost."""

import json
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from adaln_lab.analysis.diagrams import describe
from adaln_lab.blocks import budget, golden
from adaln_lab.blocks.zoo import ZOO

SHARES = {  # of all modulation, per cent: counted on the originals, independently of this package
    "dit": 33.07,
    "pixart": 1.34,
    "sd3": 33.06,
    "flux": 27.3,
    "qwenimage": 33.27,
    "lumina2": 10.13,
    "zimage": 2.05,
    "hdm": 14.67,
    "flux2": 1.757 + 0.234,
    "ernie": 1.253 + 0.418,
    "qwenimage21": 0.943 + 0.236,
    "krea2": 1.767 + 0.008,
    "minimax_h3": 39.28 + 0.087,
    "flux3": 3.067 + 0.341,
    "ideogram4": 3.465 + 0.025,
}
PARAMETERS = {  # the papers' and repositories' own numbers, and counts of the classes as published, exact
    "dit": 674_834_720,
    "hdm": 343_176_208,
    "flux2": 32_223_281_152,
    "ernie": 8_033_490_048,
    "qwenimage21": 7_115_124_736,
    "krea2": 12_820_073_036,
    "minimax_h3": 33_122_992_896,
    "flux3": 5_538_458_368,
    "ideogram4": 9_279_288_448,
}
OWN_LINEARS = {
    "flux2": 9.06e9,
    "ernie": 3.62e9,
    "qwenimage21": 2.15e9,
    "krea2": 6.34e9,
    "flux3": 2.80e9,
}  # blocks alone
ROUNDED = {
    "sd3": 2.028e9,
    "flux": 11.90e9,
    "qwenimage": 20.43e9,
    "lumina2": 2.61e9,
    "zimage": 6.155e9,
    "pixart": 0.611e9,
}


def image_of(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The image stream of what a block gives."""
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("key", ZOO)
def test_every_block_can_be_built_run_and_drawn(key):
    spec = ZOO[key]
    block, inputs = spec.build(), spec.example()
    assert image_of(block(*inputs)).shape == inputs[0].shape
    words = describe(block)
    assert ("scale" in words) == ("scale" in spec.facts.order)
    assert ("shift" in words) == ("shift" in spec.facts.order)
    assert ("tanh(gate)" in words) == (spec.facts.gate == "tanh") and ("(1 + gate)" in words) == (
        spec.facts.gate == "1 + g"
    )
    assert ("RMS(gamma) ->" in words) == (spec.facts.norm == "RMSNorm" or key in ("flux", "flux2"))


def test_an_architecture_loads_without_the_others():
    """Training imports Stable Diffusion's blocks, and a run should not wait for the rest of the zoo."""
    code = "import sys, adaln_lab.blocks.sd15; print(*(m for m in sys.modules if m.startswith('adaln_lab.blocks.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"adaln_lab.blocks.sd15", "adaln_lab.blocks.spec"}


@pytest.mark.parametrize("key", [k for k in ZOO if k != "sd15"])
def test_order_of_vectors_is_the_originals(key):
    """The stored runs name the vectors in chunk order."""
    name = {
        "sd3": "sd3_joint",
        "flux": "flux_single",
        "flux2": "flux2_stack",
        "qwenimage21": "qwenimage21_block_causal",
        "flux3": "flux3_single",
    }.get(key, f"{key}_block")
    names = json.loads(golden.shipped(name).meta["modulation_names"])
    parts = ("block", "x_block", "single", "img", "image")
    image = next((names[k] for k in parts if k in names), None) or [*names["attn"], *names["mlp"]]
    assert tuple(re.sub("^pre|^post|_.*", "", vector) for vector in image) == ZOO[key].facts.order


def test_an_unknown_run_is_refused():
    with pytest.raises(ValueError, match="no asset is called 'golden/dalle.safetensors'; there are dit_block"):
        golden.shipped("dalle")


@pytest.mark.parametrize("key", SHARES)
def test_shares_are_those_of_the_published_models(key):
    """Within half a per cent where the other count left out the final layer's modulation."""
    n = budget.stored_totals()[key]
    close = 6e-3 if key in PARAMETERS and key != "dit" else 0.5
    assert abs(100 * n["modulation"] / n["parameters"] - SHARES[key]) < close
    if key in PARAMETERS:
        assert n["parameters"] == PARAMETERS[key]
    else:
        assert n["parameters"] == pytest.approx(ROUNDED[key], rel=1e-3)


@pytest.mark.parametrize("key", ZOO)
def test_what_sharing_saves(key):
    """Own Linears cost more than shared ones; the original is one of the two."""
    n = budget.stored_totals()[key]
    assert n["shared"] < n["own"] and n["modulation"] == n["shared" if ZOO[key].readers else "own"]
    if key in OWN_LINEARS:
        assert n["own"] == pytest.approx(OWN_LINEARS[key], rel=0.02)  # ours count the output layer's, too
    if key == "dit":  # 28 Linears of six vectors, and the final layer's
        d = ZOO["dit"].width
        assert n["own"] - n["shared"] == 27 * 6 * d * (d + 1)


@pytest.mark.slow
@pytest.mark.usefixtures("diffusers")
def test_stored_totals_are_counted_again_on_meta():
    assert {key: budget.total(key) for key in ZOO} == budget.stored_totals()


def test_a_block_at_full_size_is_counted_without_memory():
    """DiT-XL's block at 256 tokens: 118.6 GMACs for 28 blocks in the paper, so about 4.2 a block, and 2 FLOPs each."""
    all_of_it, modulation = budget.flops("dit", tokens=256)
    assert all_of_it / 2 == pytest.approx(4.2e9, rel=0.03)
    assert modulation == 2 * 6 * 1152**2


def test_numbers_of_vectors_in_a_block():
    for key, spec in ZOO.items():
        if key == "sd15":
            continue
        block = spec.build(32, 4)
        if spec.readers and key != "hdm":
            assert not [name for name, _ in block.named_parameters() if "to_" in name and "table" not in name]
            continue
        rows = sum(len(p) for name, p in block.named_parameters() if "to_" in name and name.endswith("weight"))
        streams = {"sd3": 2, "qwenimage": 2, "minimax_h3": 3}.get(key, 1)
        assert rows == streams * len(spec.facts.order) * 32
        assert torch.is_tensor(image_of(block(*spec.example(32))))
