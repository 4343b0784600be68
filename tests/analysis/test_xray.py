"""The x-ray against what is known of eight real models, against look-alikes, and against our own."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import xray_adversarial
import xray_classes
from torch import nn

from adaln_lab.analysis.xray import xray
from adaln_lab.blocks.sd15 import ResNetBlock
from adaln_lab.blocks.zoo import ZOO
from adaln_lab.dit import DiTConfig, TinyDiT

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "xray.json").read_text())
ROWS = {row["name"]: row for row in GOLDEN["rows"]}
for _group in (group for row in ROWS.values() for group in row["groups"]):  # measured on freshly built models
    _group["all_zero_now"] = _group.pop("zero_initialised_at_construction")
FIELDS = (
    "blocks", "block_class", "n_blocks", "n_vectors_per_block", "has_scale", "has_shift", "has_gate", "gate_bounding",
    "chunk_order", "base_norm", "base_norm_affine", "post_norm", "source", "activation_before_linear", "all_zero_now",
    "modulation_params", "modulation_numel",
)  # fmt: skip
B, randn = 2, torch.randn
MODELS = {  # row -> its class's arguments, and a pass; classes and sizes as in the rows
    "dit": (
        dict(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
            patch_size=2, num_embeds_ada_norm=10,
        ),
        lambda m: m(randn(B, 4, 8, 8), timestep=torch.tensor([3, 700]), class_labels=torch.tensor([1, 2])),
    ),
    "pixart": (
        dict(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
            cross_attention_dim=24, sample_size=8, patch_size=2, caption_channels=20, norm_eps=1e-6,
            use_additional_conditions=False,
        ),
        lambda m: m(
            randn(B, 4, 8, 8), encoder_hidden_states=randn(B, 5, 20), timestep=torch.tensor([3, 700]),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ),
    ),
    "sd3": (
        dict(
            sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=24, caption_projection_dim=16, pooled_projection_dim=20, out_channels=4,
            pos_embed_max_size=8, qk_norm="rms_norm", dual_attention_layers=(0,),
        ),
        lambda m: m(
            hidden_states=randn(B, 4, 8, 8), encoder_hidden_states=randn(B, 5, 24), pooled_projections=randn(B, 20),
            timestep=torch.tensor([3.0, 700.0]),
        ),
    ),
    "flux": (
        dict(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=20, guidance_embeds=False,
            axes_dims_rope=(4, 4, 8),
        ),
        lambda m: m(
            hidden_states=randn(B, 6, 4), encoder_hidden_states=randn(B, 5, 24), pooled_projections=randn(B, 20),
            timestep=torch.rand(B), img_ids=randn(6, 3), txt_ids=randn(5, 3),
        ),
    ),
    "lumina2": (
        dict(
            sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
            num_attention_heads=3, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(64, 32, 32),
            cap_feat_dim=20,
        ),
        lambda m: m(
            hidden_states=randn(B, 4, 8, 8), timestep=torch.rand(B), encoder_hidden_states=randn(B, 5, 20),
            encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool),
        ),
    ),
    "zimage": (
        dict(
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=20,
            axes_dims=[8, 4, 4], axes_lens=[128, 32, 32],
        ),
        lambda m: m(x=[randn(4, 1, 8, 8)] * B, t=torch.rand(B), cap_feats=[randn(5, 20)] * B),
    ),
    "qwenimage": (
        dict(
            patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, axes_dims_rope=(4, 4, 8),
        ),
        lambda m: m(
            hidden_states=randn(B, 16, 16), encoder_hidden_states=randn(B, 5, 24),
            encoder_hidden_states_mask=torch.ones(B, 5, dtype=torch.bool), timestep=torch.rand(B),
            img_shapes=[[(1, 4, 4)]] * B,
        ),
    ),
    "sd15_unet": (
        dict(
            sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=24, attention_head_dim=8,
        ),
        lambda m: m(randn(B, 4, 16, 16), torch.tensor([3, 700]), randn(B, 5, 24)),
    ),
}  # fmt: skip


@pytest.fixture(params=ROWS)
def real(request, diffusers):
    """A tiny real model, its pass, and its row."""
    row = ROWS[request.param]
    options, run = MODELS[request.param]
    torch.manual_seed(0)
    model = diffusers(row["module"].removeprefix("diffusers."), row["cls"])(**options).eval()
    return model, lambda: run(model), row


def test_every_field_of_the_eight_models(real):
    model, run, row = real
    found = xray(model, run).as_dict()
    assert found["verdict"] == row["verdict"]
    wanted = {group["blocks"]: {f: group[f] for f in FIELDS} for group in row["groups"]}
    assert {group["blocks"]: {f: group[f] for f in FIELDS} for group in found["groups"]} == wanted
    final = row["final_layer"]
    assert found["final_layer"] == (final and {k: v for k, v in final.items() if k != "verified"})
    if row["groups"] and row["n_params_tiny"] == sum(p.numel() for p in model.parameters()):
        assert found["share_blocks"] == pytest.approx(row["share_blocks_tiny"], abs=1e-6)
        assert found["share_blocks_plus_final"] == pytest.approx(row["share_blocks_plus_final_tiny"], abs=1e-6)


def test_the_module_is_left_as_it_was(real):
    """Bit for bit: parameters, buffers, modes, hooks, and the state of the random numbers."""
    model, run, _ = real
    before, state = copy.deepcopy(model), torch.get_rng_state()
    xray(model, run)
    assert unchanged(model, before, state)


def unchanged(model: nn.Module, before: nn.Module, state: torch.Tensor) -> bool:
    """Bit for bit: parameters, buffers, modes, hooks, and the state of the random numbers."""
    now = dict([*model.named_parameters(), *model.named_buffers()])
    then = dict([*before.named_parameters(), *before.named_buffers()])
    return (
        torch.equal(torch.get_rng_state(), state)
        and all(torch.equal(t.nan_to_num(), now[name].nan_to_num()) for name, t in then.items())
        and [m.training for m in model.modules()] == [m.training for m in before.modules()]
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    )


def fits(wanted: Any, found: Any) -> bool:
    """Whether an answer is right or `unknown`; `either` holds several right ones."""
    if found == "unknown":
        return True
    if isinstance(wanted, tuple | frozenset):
        return any(fits(w, found) for w in wanted)
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(fits(value, found.get(name)) for name, value in wanted.items())
    return wanted == found


def disagreements(found: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """What the x-ray gets wrong. Two lists of equal blocks may be one group of both."""
    if found["verdict"] not in (row["verdict"], "unknown", *row["accept_also"]):
        return [f"verdict {found['verdict']}"]
    if found["verdict"] != row["verdict"] or row["verdict"] == "other_conditional_modulation":
        return []
    complaints, groups = [], {group["blocks"]: group for group in found["groups"]}
    for wanted in row["groups"]:
        if "blocks" in wanted:
            mine = [groups.pop(wanted["blocks"], None)]
        else:
            mine, groups = list(groups.values()), {}
            wanted = {k: v for k, v in wanted.items() if k not in ("n_blocks", "modulation_params")}
        for group in mine:
            complaints += ["a group is missing"] if group is None else []
            named = {k: v for k, v in wanted.items() if k in FIELDS}
            complaints += [f"{k}: {group[k]}, not {v}" for k, v in named.items() if group and not fits(v, group[k])]
    complaints += [f"a group too many: {blocks}" for blocks in groups if blocks not in row.get("also_allowed", ())]
    final = row.get("final_layer", found["final_layer"])
    return complaints + ([] if fits(final, found["final_layer"]) else [f"final layer {found['final_layer']}"])


@pytest.mark.parametrize("name", xray_adversarial.MODELS)
def test_adversarial_models_are_read_right_and_left_alone(name):
    """Neutral names, unusual layouts, look-alikes: the report states nothing false."""
    model, run = xray_adversarial.MODELS[name]()
    before, state = copy.deepcopy(model), torch.get_rng_state()
    assert disagreements(xray(model, run).as_dict(), xray_adversarial.TRUTH[name]) == []
    assert unchanged(model, before, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", xray_classes.MODELS)
def test_published_classes_are_read_right_and_left_alone(name):
    """Sixty classes of diffusers; their rows were written by reading the classes."""
    model, run = xray_classes.MODELS[name]()
    before, state = copy.deepcopy(model), torch.get_rng_state()
    assert disagreements(xray(model, run).as_dict(), xray_classes.TRUTH[name]) == []
    assert unchanged(model, before, state)


def test_most_fields_are_answered():
    """`unknown` is allowed, but a tool that always answers `unknown` must not pass."""
    rows = [(n, xray_adversarial.MODELS[n], xray_adversarial.TRUTH[n]) for n in list(xray_adversarial.MODELS)[::4]]
    asked = unknown = 0
    for _, build, row in rows:
        if row["verdict"] == "adaln":
            for group in xray(*build()).groups:
                asked, unknown = asked + len(FIELDS), unknown + [group[f] for f in FIELDS].count("unknown")
    assert asked > 200 and unknown < 0.02 * asked


def test_a_tool_that_guesses_would_be_caught():
    row = xray_adversarial.TRUTH["gate_tanh"]
    found = xray(*xray_adversarial.MODELS["gate_tanh"]()).as_dict()
    assert disagreements(found, row) == []
    found["groups"][0]["gate_bounding"] = "raw"
    assert disagreements(found, row) == ["gate_bounding: raw, not tanh"]
    assert disagreements(found | {"groups": []}, row) == ["a group is missing"]
    assert disagreements(found | {"verdict": "none"}, row) == ["verdict none"]


def dit(**options):
    torch.manual_seed(0)
    model = TinyDiT(DiTConfig(depth=2, **options))
    x, t, y = randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])
    return model, lambda m=model: m(x, t, y)


def test_on_meta_the_structure_is_read_and_values_are_unknown():
    model, _ = xray_adversarial.MODELS["gate_tanh"]()
    model = model.to("meta")
    x, c = torch.empty(2, 5, 24, device="meta"), torch.empty(2, 24, device="meta")
    (group,) = xray(model, lambda: model(x, c)).groups
    assert (group["n_vectors_per_block"], group["gate_bounding"]) == (6, "tanh")
    assert group["all_zero_now"] == "unknown"


@pytest.mark.parametrize("wrap", [torch.compile, lambda m: nn.DataParallel(m, device_ids=[])])
def test_a_wrapper_changes_the_paths_alone(wrap):
    model, run = dit()
    wrapped = wrap(model)
    (group,) = xray(wrapped, lambda: run(wrapped)).groups
    assert group["blocks"].endswith(".blocks.*") and group["n_vectors_per_block"] == 6


def test_a_run_that_is_random_returns_nothing_and_ties_weights_is_still_read():
    model, _ = dit()
    model.blocks[1].mlp = model.blocks[0].mlp
    generator = torch.Generator().manual_seed(1)

    def random_run():
        model(torch.randn(2, 1, 8, 8, generator=generator), torch.rand(2), torch.tensor([1, 2]))

    found = xray(model, random_run)
    assert found.groups[0]["n_vectors_per_block"] == 6
    assert any("different results each time" in line for line in found.evidence)


def test_a_module_without_parameters_and_a_run_that_misses_the_module():
    norm = nn.LayerNorm(4, elementwise_affine=False)
    assert xray(norm, lambda: norm(randn(2, 3, 4))).verdict == "none"
    with pytest.raises(ValueError, match="never called this module"):
        xray(norm, lambda: None)


def test_values_that_are_not_finite_do_not_hide_the_modulation():
    model, run = dit()
    with torch.no_grad():
        model.x_embed.linear.bias.fill_(float("nan"))
    assert xray(model, run).verdict == "adaln"


def test_random_states_of_all_kinds_are_restored():
    """A run may use the random numbers of torch, Python or numpy; code after it must get the same numbers as before."""
    model, run = dit()

    def noisy_run():
        run(), torch.rand(1), random.random(), numpy.random.rand()
        model.train()

    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    xray(model.eval(), noisy_run)
    now = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    assert torch.equal(now[0], states[0]) and now[1:] == states[1:] and not model.training


def test_gates_have_the_rms_of_their_factors_in_this_pass():
    model, run = dit()
    assert set(xray(model, run).gates.values()) == {0.0}
    with torch.no_grad():
        model.blocks[1].to_modulation.linear.bias += 0.5
    gates = xray(model, run).gates
    assert gates["blocks.0"] == 0 and gates["blocks.1"] == pytest.approx(0.5)


class LayerScale(nn.Module):
    """A gate that is a parameter, independent of any condition."""

    def __init__(self, d: int):
        super().__init__()
        self.gamma, self.norm, self.mlp = nn.Parameter(1e-4 * torch.ones(d)), nn.LayerNorm(d), nn.Linear(d, d)

    def forward(self, x):
        return x + self.gamma * self.mlp(self.norm(x))


class SqueezeExcite(nn.Module):
    """A vector computed from the stream that it scales, by a Linear called adaLN_modulation."""

    def __init__(self, d: int):
        super().__init__()
        self.conv, self.norm, self.adaLN_modulation = nn.Conv2d(d, d, 3, padding=1), nn.BatchNorm2d(d), nn.Linear(d, d)

    def forward(self, x):
        h = self.norm(self.conv(x))
        return x + h * self.adaLN_modulation(h.mean((2, 3))).sigmoid()[:, :, None, None]


class Decoy(nn.Module):
    """Misleading names, a table without a condition, and a Linear that is never called."""

    def __init__(self, d: int):
        super().__init__()
        self.norm, self.attn, self.adaLN_modulation = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, 6 * d)
        self.scale_shift_table = nn.Parameter(torch.randn(6, d))

    def forward(self, x, c):
        return x + self.attn(self.norm(x) * (1 + self.scale_shift_table[0]) + self.scale_shift_table[1])


LOOK_ALIKES = {
    "LayerScale": (nn.Sequential(LayerScale(8), LayerScale(8)), lambda m: m(randn(2, 5, 8))),
    "squeeze and excitation": (nn.Sequential(SqueezeExcite(8), SqueezeExcite(8)), lambda m: m(randn(2, 8, 6, 6))),
    "decoy": (Decoy(8), lambda m: m(randn(2, 5, 8), randn(2, 8))),
    "torch's encoder": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        lambda m: m(randn(2, 5, 16)),
    ),
    "U-Net's transformer block": (ZOO["sd15"].build(), lambda m: m(*ZOO["sd15"].example())),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_are_not_reported(name):
    model, run = LOOK_ALIKES[name]
    found = xray(model, lambda: run(model))
    assert found.verdict == "none" and not found.groups and found.final_layer is None


def test_adaptive_group_norm_is_another_modulation():
    """ADM's ResNet block: scale and shift of the time, on a group norm of pictures."""
    block = ResNetBlock(8, 8, 6, groups=4, scale_shift=True)
    found = xray(block, lambda: block(randn(2, 8, 6, 6), randn(2, 6)))
    assert found.verdict == "other_conditional_modulation" and not found.groups


@pytest.mark.parametrize("key", [k for k, spec in ZOO.items() if k != "sd15" and "shared" not in spec.inputs])
def test_blocks_of_the_zoo_are_what_their_facts_say(key):
    """A block that is handed its vectors, as PixArt's, is left out: nothing can say what made them."""
    spec = ZOO[key]
    block, inputs = spec.build(), spec.example()
    (group,) = xray(block, lambda: block(*inputs)).groups
    facts, streams = spec.facts, 2 if key in ("sd3", "qwenimage") else 1
    assert group["n_vectors_per_block"] == streams * len(facts.order)
    assert group["has_shift"] == ("shift" in facts.order)
    assert group["gate_bounding"] == {"1 + g": "1+g"}.get(facts.gate, facts.gate)
    assert (group["base_norm"], group["base_norm_affine"]) == (facts.norm, facts.affine)
    assert (group["post_norm"] != "none") == facts.post_norm
    roles = [role for part in group["chunk_order"] for role in part["roles"]]
    assert tuple(roles) == streams * facts.order


def test_the_course_s_own_model_is_reported_as_zero():
    model = TinyDiT(DiTConfig())
    found = xray(model, lambda: model(randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])))
    (group,) = found.groups
    assert group["blocks"] == "blocks.*" and group["n_blocks"] == 4 and group["all_zero_now"]
    assert found.final_layer["module"] == "final.to_modulation.linear"
    assert "4 x AdaLNZeroBlock (blocks.*): 6 vectors on LayerNorm, gate raw" in str(found)
    assert "<td>to_modulation.linear: shift, scale, gate, shift, scale, gate</td>" in found._repr_html_()


def test_zero_weights_are_reported_as_they_are_now_and_not_as_they_were_built():
    """A trained model started at zero, but nothing in it says so; the report must not claim otherwise."""
    config = DiTConfig(depth=2)
    x, t, y = randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])
    fresh = TinyDiT(config)
    trained = copy.deepcopy(fresh)
    with torch.no_grad():
        for block in trained.blocks:
            block.to_modulation.linear.weight += 0.1
    for model, zero, words in ((fresh, True, "all zero now"), (trained, False, "not zero now")):
        found = xray(model, lambda model=model: model(x, t, y))
        assert found.groups[0]["all_zero_now"] is zero and words in found.sentence()
        assert "construction" not in str(found) and "initialised" not in str(found)


def test_without_a_pass_it_does_not_guess():
    found = xray(TinyDiT(DiTConfig()))
    assert found.verdict == "unknown" and not found.groups and found.share_blocks is None
    assert "no pass was given" in str(found)


def test_a_pass_that_raises_leaves_the_module_and_says_why():
    model = TinyDiT(DiTConfig())
    with pytest.raises(ValueError, match=r"run\(\) raised RuntimeError: no picture; the module is as it was"):
        xray(model, lambda: (_ for _ in ()).throw(RuntimeError("no picture")))
    with pytest.raises(ValueError, match="run must be callable"):
        xray(model, 3)
    with pytest.raises(ValueError, match="expected a torch.nn.Module, got int"):
        xray(3, lambda: None)


def test_a_gate_is_a_gate_also_where_its_branch_starts_at_zero():
    """Zero times zero: the gates change nothing, but other vectors of their Linear do."""
    model, run = dit()
    with torch.no_grad():
        for block in model.blocks:
            for p in (*block.attn.out.parameters(), *block.mlp.down.parameters()):
                p.zero_()
    (group,) = xray(model, run).groups
    assert (group["n_vectors_per_block"], group["gate_bounding"]) == (6, "raw")
