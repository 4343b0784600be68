"""The x-ray against what is known of eight real models, against look-alikes, and against our own."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from adaln_lab.blocks import ZOO
from adaln_lab.blocks.sd15 import ResNetBlock
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.xray import xray

ROWS = {row["name"]: row for row in json.loads((Path(__file__).parent / "golden" / "xray.json").read_text())["rows"]}
FIELDS = (
    "blocks",
    "block_class",
    "n_blocks",
    "n_vectors_per_block",
    "has_scale",
    "has_shift",
    "has_gate",
    "gate_bounding",
    "chunk_order",
    "base_norm",
    "base_norm_affine",
    "post_norm",
    "source",
    "activation_before_linear",
    "zero_initialised_at_construction",
    "modulation_params",
    "modulation_numel",
)
B, randn = 2, torch.randn
MODELS = {  # row -> its class's arguments, and a pass; classes and sizes as in the rows
    "dit": (
        dict(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        ),
        lambda m: m(randn(B, 4, 8, 8), timestep=torch.tensor([3, 700]), class_labels=torch.tensor([1, 2])),
    ),
    "pixart": (
        dict(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=24,
            sample_size=8,
            patch_size=2,
            caption_channels=20,
            norm_eps=1e-6,
            use_additional_conditions=False,
        ),
        lambda m: m(
            randn(B, 4, 8, 8),
            encoder_hidden_states=randn(B, 5, 20),
            timestep=torch.tensor([3, 700]),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ),
    ),
    "sd3": (
        dict(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            out_channels=4,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
        ),
        lambda m: m(
            hidden_states=randn(B, 4, 8, 8),
            encoder_hidden_states=randn(B, 5, 24),
            pooled_projections=randn(B, 20),
            timestep=torch.tensor([3.0, 700.0]),
        ),
    ),
    "flux": (
        dict(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=20,
            guidance_embeds=False,
            axes_dims_rope=(4, 4, 8),
        ),
        lambda m: m(
            hidden_states=randn(B, 6, 4),
            encoder_hidden_states=randn(B, 5, 24),
            pooled_projections=randn(B, 20),
            timestep=torch.rand(B),
            img_ids=randn(6, 3),
            txt_ids=randn(5, 3),
        ),
    ),
    "lumina2": (
        dict(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(64, 32, 32),
            cap_feat_dim=20,
        ),
        lambda m: m(
            hidden_states=randn(B, 4, 8, 8),
            timestep=torch.rand(B),
            encoder_hidden_states=randn(B, 5, 20),
            encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool),
        ),
    ),
    "zimage": (
        dict(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=20,
            axes_dims=[8, 4, 4],
            axes_lens=[128, 32, 32],
        ),
        lambda m: m(x=[randn(4, 1, 8, 8)] * B, t=torch.rand(B), cap_feats=[randn(5, 20)] * B),
    ),
    "qwenimage": (
        dict(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            axes_dims_rope=(4, 4, 8),
        ),
        lambda m: m(
            hidden_states=randn(B, 16, 16),
            encoder_hidden_states=randn(B, 5, 24),
            encoder_hidden_states_mask=torch.ones(B, 5, dtype=torch.bool),
            timestep=torch.rand(B),
            img_shapes=[[(1, 4, 4)]] * B,
        ),
    ),
    "sd15_unet": (
        dict(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=8,
        ),
        lambda m: m(randn(B, 4, 16, 16), torch.tensor([3, 700]), randn(B, 5, 24)),
    ),
}


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
    assert torch.equal(torch.get_rng_state(), state)
    now = dict([*model.named_parameters(), *model.named_buffers()])
    assert all(torch.equal(t, now[name]) for name, t in [*before.named_parameters(), *before.named_buffers()])
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class LayerScale(nn.Module):
    """A gate that is a parameter: told by nobody."""

    def __init__(self, d: int):
        super().__init__()
        self.gamma, self.norm, self.mlp = nn.Parameter(1e-4 * torch.ones(d)), nn.LayerNorm(d), nn.Linear(d, d)

    def forward(self, x):
        return x + self.gamma * self.mlp(self.norm(x))


class SqueezeExcite(nn.Module):
    """A vector made of the very stream it scales, by a Linear with a telling name."""

    def __init__(self, d: int):
        super().__init__()
        self.conv, self.norm, self.adaLN_modulation = nn.Conv2d(d, d, 3, padding=1), nn.BatchNorm2d(d), nn.Linear(d, d)

    def forward(self, x):
        h = self.norm(self.conv(x))
        return x + h * self.adaLN_modulation(h.mean((2, 3))).sigmoid()[:, :, None, None]


class Decoy(nn.Module):
    """All the names, a table without a condition, and a Linear that is never called."""

    def __init__(self, d: int):
        super().__init__()
        self.norm, self.attn, self.adaLN_modulation = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, 6 * d)
        self.scale_shift_table = nn.Parameter(torch.randn(6, d))

    def forward(self, x, c):
        return x + self.attn(self.norm(x) * (1 + self.scale_shift_table[0]) + self.scale_shift_table[1])


SILENT = {
    "LayerScale": (nn.Sequential(LayerScale(8), LayerScale(8)), lambda m: m(randn(2, 5, 8))),
    "squeeze and excitation": (nn.Sequential(SqueezeExcite(8), SqueezeExcite(8)), lambda m: m(randn(2, 8, 6, 6))),
    "decoy": (Decoy(8), lambda m: m(randn(2, 5, 8), randn(2, 8))),
    "torch's encoder": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        lambda m: m(randn(2, 5, 16)),
    ),
    "U-Net's transformer block": (ZOO["sd15"].build(), lambda m: m(*ZOO["sd15"].example())),
}


@pytest.mark.parametrize("name", SILENT)
def test_look_alikes_are_not_reported(name):
    model, run = SILENT[name]
    found = xray(model, lambda: run(model))
    assert found.verdict == "none" and not found.groups and found.final_layer is None


def test_adaptive_group_norm_is_another_modulation():
    """ADM's ResNet block: scale and shift of the time, on a group norm of pictures."""
    block = ResNetBlock(8, 8, 6, groups=4, scale_shift=True)
    found = xray(block, lambda: block(randn(2, 8, 6, 6), randn(2, 6)))
    assert found.verdict == "other_conditional_modulation" and not found.groups


@pytest.mark.parametrize("key", [k for k in ZOO if k not in ("sd15", "pixart")])
def test_blocks_of_the_zoo_are_what_their_facts_say(key):
    """PixArt's block alone is handed its vectors, so nothing can say what made them."""
    spec = ZOO[key]
    block, inputs = spec.build(), spec.example()
    (group,) = xray(block, lambda: block(*inputs)).groups
    facts, streams = spec.facts, 2 if key in ("sd3", "qwenimage") else 1
    assert group["n_vectors_per_block"] == streams * facts.vectors
    assert group["has_shift"] == facts.shift
    assert group["gate_bounding"] == {"1 + g": "1+g"}.get(facts.gate, facts.gate)
    assert (group["base_norm"], group["base_norm_affine"]) == (facts.norm, facts.affine)
    assert (group["post_norm"] != "none") == facts.post_norm
    roles = [role for part in group["chunk_order"] for role in part["roles"]]
    assert tuple(roles) == streams * facts.order


def test_the_course_s_own_model_starts_at_zero_and_says_so():
    model = TinyDiT(DiTConfig())
    found = xray(model, lambda: model(randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])))
    (group,) = found.groups
    assert group["blocks"] == "blocks.*" and group["n_blocks"] == 4 and group["zero_initialised_at_construction"]
    assert found.final_layer["module"] == "final.to_modulation.linear"
    assert "4 x AdaLNZeroBlock (blocks.*): 6 vectors on LayerNorm, gate raw" in str(found)
    assert "<td>to_modulation.linear: shift, scale, gate, shift, scale, gate</td>" in found._repr_html_()


def test_without_a_pass_it_does_not_guess():
    found = xray(TinyDiT(DiTConfig()))
    assert found.verdict == "unknown" and not found.groups and found.share_blocks is None
    assert "give run" in str(found)


def test_a_pass_that_raises_leaves_the_module_and_says_why():
    model = TinyDiT(DiTConfig())
    with pytest.raises(ValueError, match=r"run\(\) raised RuntimeError: no picture; the module is as it was"):
        xray(model, lambda: (_ for _ in ()).throw(RuntimeError("no picture")))
    with pytest.raises(ValueError, match="run must be callable"):
        xray(model, 3)
    with pytest.raises(ValueError, match=r"reads a torch.nn.Module, got int"):
        xray(3, lambda: None)
