"""Stable Diffusion 1.5's block, against stored numbers and the installed diffusers; and the TinyUNet made of it."""

import pytest
import torch
from replicas import randomised

from adaln_lab.blocks.sd15 import ResNetBlock, SpatialTransformer, TransformerBlock
from adaln_lab.blocks.upstream import from_upstream, prefixed
from adaln_lab.data import datasets
from adaln_lab.experiments.unet import TinyUNet, UNetConfig
from adaln_lab.samplers import sample
from adaln_lab.training.train import Run, TrainConfig, gate_sizes, train


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("out", [8, 12])
def test_the_resnet_block_equals_diffusers(diffusers, scale_shift, out):
    """The time as an additive shift before the norm, or as scale and shift after it; with and without a new width."""
    torch.manual_seed(0)
    theirs = randomised(
        diffusers("models.resnet", "ResnetBlock2D")(
            in_channels=8,
            out_channels=out,
            temb_channels=6,
            groups=4,
            eps=1e-5,
            time_embedding_norm="scale_shift" if scale_shift else "default",
        )
    )
    ours = ResNetBlock(8, out, 6, groups=4, scale_shift=scale_shift).double()
    ours.load_state_dict(from_upstream(ResNetBlock.UPSTREAM, theirs.state_dict()))
    x, t_emb = torch.randn(2, 8, 6, 5).double(), torch.randn(2, 6).double()
    torch.testing.assert_close(ours(x, t_emb), theirs(x, t_emb), atol=1e-10, rtol=1e-9)


def test_the_spatial_transformer_equals_diffusers(diffusers):
    torch.manual_seed(0)
    theirs = randomised(
        diffusers("models", "Transformer2DModel")(
            2, 4, in_channels=8, norm_num_groups=4, cross_attention_dim=6, use_linear_projection=False
        )
    )
    names = SpatialTransformer.UPSTREAM
    inner = prefixed("block", "transformer_blocks.0", TransformerBlock.UPSTREAM)
    ours = SpatialTransformer(8, 2, 6, groups=4).double()
    ours.load_state_dict(from_upstream(inner | {k: v for k, v in names.items() if k != "block"}, theirs.state_dict()))
    x, text = torch.randn(2, 8, 3, 5).double(), torch.randn(2, 7, 6).double()
    torch.testing.assert_close(ours(x, text), theirs(x, text, return_dict=False)[0], atol=1e-10, rtol=1e-9)


def test_an_unknown_name_is_named():
    with pytest.raises(ValueError, match="no layer for 'attn3.to_q.weight'; known: norm1, attn1.to_q"):
        from_upstream(TransformerBlock.UPSTREAM, {"attn3.to_q.weight": torch.zeros(1)})


def test_residual_blocks_start_as_the_identity():
    """CompVis starts the last convolution of each at zero; diffusers does not."""
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(ResNetBlock(8, 8, 6, groups=4)(x, torch.randn(2, 6)), x)
    assert torch.equal(SpatialTransformer(8, 2, 6, groups=4)(x, torch.randn(2, 3, 6)), x)


def test_the_tiny_unet_learns_with_the_course_s_trainer_and_sampler():
    digits = datasets.load("digits")
    config = UNetConfig(size=8, channels=1, width=8, heads=2)
    torch.manual_seed(0)
    run = Run.new(TinyUNet(config), TrainConfig(steps=30, batch=32))
    losses = [step.loss for step in train(run, digits)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert gate_sizes(run.model) is None
    assert sample(run.ema, torch.arange(4), guidance=2.0).shape == (4, 1, 8, 8)


@pytest.mark.parametrize(("wrong", "message"), [({"size": 18}, "multiple of 4"), ({"width": 12}, "of 8 groups")])
def test_shapes_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**wrong)
