"""Blocks of the zoo against the installed diffusers, on fresh random weights, in shapes that no stored file has."""

import pytest
import stacks
import torch
from replicas import randomised

from adaln_lab.blocks import (
    ernie,
    flux,
    flux2,
    flux3,
    ideogram4,
    krea2,
    lumina2,
    minimax_h3,
    pixart,
    qwenimage,
    sd3,
    zimage,
)
from adaln_lab.blocks.upstream import SwappedHalves, from_upstream, load_upstream
from adaln_lab.conditioning import AdaLNZeroBlock, Condition
from adaln_lab.dit import FinalLayer

D, HEADS, T, S = 32, 4, 6, 5  # width, heads, image tokens, text tokens
EXACT = {"atol": 1e-12, "rtol": 1e-9}
FLOAT32_NORM = {"atol": 1e-6, "rtol": 1e-6}  # diffusers' RMSNorm takes the variance in float32, also of float64
# diffusers' names for our layers, where its blocks differ from the originals
DIT = {  # BasicTransformerBlock(norm_type="ada_norm_zero"), without its copy of the embedders, norm1.emb
    "to_modulation.linear": "norm1.linear",
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.out": "attn1.to_out.0",
    "mlp.up": "ff.net.0.proj",
    "mlp.down": "ff.net.2",
}
PIXART = {  # BasicTransformerBlock(norm_type="ada_norm_single")
    "to_modulation.table": "scale_shift_table",
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.out": "attn1.to_out.0",
    "cross.q": "attn2.to_q",
    "cross.kv": ("attn2.to_k", "attn2.to_v"),
    "cross.out": "attn2.to_out.0",
    "mlp.up": "ff.net.0.proj",
    "mlp.down": "ff.net.2",
}
SD3_LAST = sd3.JointBlock.DIFFUSERS | {"ctx.to_modulation.linear": SwappedHalves("norm1_context.linear")}
FLUX_SINGLE = {  # FluxSingleTransformerBlock
    "to_modulation.linear": "norm.linear",
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "norm_q": "attn.norm_q",
    "norm_k": "attn.norm_k",
    "linear2": "proj_out",
}
FLUX_LAST = {"to_modulation.linear": SwappedHalves("norm_out.linear"), "linear": "proj_out"}  # of `dit.FinalLayer`
LUMINA2 = {  # Lumina2TransformerBlock
    "to_modulation.linear": "norm1.linear",
    "pre_norm_attn": "norm1.norm",
    "attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.norm_q": "attn.norm_q",
    "attn.norm_k": "attn.norm_k",
    "attn.out": "attn.to_out.0",
    "post_norm_attn": "norm2",
    "pre_norm_mlp": "ffn_norm1",
    "mlp.up": ("feed_forward.linear_1", "feed_forward.linear_3"),
    "mlp.down": "feed_forward.linear_2",
    "post_norm_mlp": "ffn_norm2",
}


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def inputs(batch=3):
    return torch.randn(batch, T, D), torch.randn(batch, S, D), torch.randn(batch, D)


def angles(*shape):
    """cos and sin, and the same as complex numbers, which is what some classes take."""
    a = torch.randn(*shape, D // HEADS // 2)
    return (a.cos(), a.sin()), torch.polar(torch.ones_like(a), a)


def pairs(cos_sin):
    """Flux's classes in diffusers take each angle twice, once for each number of a pair."""
    return tuple(a.repeat_interleave(2, dim=-1) for a in cos_sin)


def test_dit(diffusers):
    theirs = randomised(
        diffusers("models.attention", "BasicTransformerBlock")(
            D,
            HEADS,
            D // HEADS,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=10,
            attention_bias=True,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        )
    )
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("norm1.emb.")}
    ours = load_upstream(AdaLNZeroBlock(D, HEADS, D), DIT, weights)
    x, t, y = torch.randn(2, T, D), torch.tensor([3, 700]), torch.tensor([1, 9])
    c = theirs.norm1.emb(t, y, hidden_dtype=x.dtype)
    torch.testing.assert_close(ours(x, Condition(c)), theirs(x, timestep=t, class_labels=y), **EXACT)


def test_pixart(diffusers):
    theirs = randomised(
        diffusers("models.attention", "BasicTransformerBlock")(
            D,
            HEADS,
            D // HEADS,
            cross_attention_dim=D,
            activation_fn="gelu-approximate",
            attention_bias=True,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        )
    )
    ours = load_upstream(pixart.Block(D, HEADS), PIXART, theirs.state_dict())
    x, text, _ = inputs()
    shared = torch.randn(3, 6 * D)
    torch.testing.assert_close(
        ours(x, text, shared[:, None]), theirs(x, encoder_hidden_states=text, timestep=shared), **EXACT
    )


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dual", [False, True])
def test_sd3_in_all_combinations(diffusers, qk_norm, last, dual):
    theirs = randomised(
        diffusers("models.attention", "JointTransformerBlock")(
            D,
            HEADS,
            D // HEADS,
            context_pre_only=last,
            qk_norm="rms_norm" if qk_norm else None,
            use_dual_attention=dual,
        )
    )
    ours = sd3.JointBlock(D, HEADS, qk_norm=qk_norm, ctx_pre_only=last, dual=dual)
    names = SD3_LAST if last else sd3.JointBlock.DIFFUSERS
    weights = theirs.state_dict()
    if last and qk_norm:
        assert "attn.norm_added_q.weight" in weights  # stored, although that query is never used
    ours = load_upstream(ours, names, weights)
    x, ctx, c = inputs()
    their_ctx, their_x = theirs(hidden_states=x, encoder_hidden_states=ctx, temb=c)
    our_x, our_ctx = ours(x, ctx, c)
    close = FLOAT32_NORM if qk_norm else EXACT
    torch.testing.assert_close(our_x, their_x, **close)
    if last:
        assert our_ctx is None and their_ctx is None
    else:
        torch.testing.assert_close(our_ctx, their_ctx, **close)


@pytest.mark.parametrize("rotary", [False, True])
def test_flux_double(diffusers, rotary):
    theirs = randomised(diffusers("models.transformers.transformer_flux", "FluxTransformerBlock")(D, HEADS, D // HEADS))
    ours = load_upstream(flux.DoubleBlock(D, HEADS), flux.DoubleBlock.DIFFUSERS, theirs.state_dict())
    x, ctx, c = inputs()
    rope, _ = angles(S + T)
    their_ctx, their_x = theirs(
        hidden_states=x, encoder_hidden_states=ctx, temb=c, image_rotary_emb=pairs(rope) if rotary else None
    )
    our_x, our_ctx = ours(x, ctx, c, rope if rotary else None)
    torch.testing.assert_close(our_x, their_x, **FLOAT32_NORM)
    torch.testing.assert_close(our_ctx, their_ctx, **FLOAT32_NORM)


@pytest.mark.parametrize("rotary", [False, True])
def test_flux_single(diffusers, rotary):
    theirs = randomised(
        diffusers("models.transformers.transformer_flux", "FluxSingleTransformerBlock")(D, HEADS, D // HEADS)
    )
    ours = load_upstream(flux.SingleBlock(D, HEADS), FLUX_SINGLE, theirs.state_dict())
    x, ctx, c = inputs()
    rope, _ = angles(S + T)
    found = theirs(hidden_states=x, encoder_hidden_states=ctx, temb=c, image_rotary_emb=pairs(rope) if rotary else None)
    mine = ours(torch.cat([ctx, x], dim=1), c, rope if rotary else None)
    torch.testing.assert_close(mine, torch.cat(found, dim=1), **FLOAT32_NORM)


@pytest.mark.parametrize("rotary", [False, True])
def test_qwenimage(diffusers, rotary):
    theirs = randomised(
        diffusers("models.transformers.transformer_qwenimage", "QwenImageTransformerBlock")(D, HEADS, D // HEADS)
    )
    ours = load_upstream(qwenimage.Block(D, HEADS), qwenimage.Block.UPSTREAM, theirs.state_dict())
    x, ctx, c = inputs()
    rope, turns = angles(S + T)
    their_ctx, their_x = theirs(
        hidden_states=x,
        encoder_hidden_states=ctx,
        encoder_hidden_states_mask=None,
        temb=c,
        image_rotary_emb=(turns[S:], turns[:S]) if rotary else None,
    )
    our_x, our_ctx = ours(x, ctx, c, rope if rotary else None)
    torch.testing.assert_close(our_x, their_x, **FLOAT32_NORM)
    torch.testing.assert_close(our_ctx, their_ctx, **FLOAT32_NORM)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_lumina2(diffusers, monkeypatch, kv_heads, modulated, rotary):
    """Grouped and multi-query attention, refiners; diffusers has another eps for Q and K than the original."""
    theirs = randomised(
        diffusers("models.transformers.transformer_lumina2", "Lumina2TransformerBlock")(
            dim=D,
            num_attention_heads=HEADS,
            num_kv_heads=kv_heads,
            multiple_of=8,
            ffn_dim_multiplier=1.3,
            norm_eps=1e-5,
            modulation=modulated,
        )
    )
    monkeypatch.setattr(lumina2.Block, "qk_eps", 1e-5)
    hidden = theirs.state_dict()["feed_forward.linear_1.weight"].shape[0]
    assert hidden == lumina2.hidden_width(D, 8, 1.3)
    ours = lumina2.Block(D, HEADS, kv_heads, hidden, D if modulated else None)
    names = LUMINA2 if modulated else LUMINA2 | {"pre_norm_attn": "norm1"}
    ours = load_upstream(ours, names, theirs.state_dict())
    x, _, c = inputs()
    rope, turns = angles(3, T)
    found = theirs(x, None, turns if rotary else None, c if modulated else None)
    torch.testing.assert_close(ours(x, c if modulated else None, rope if rotary else None), found, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_zimage(diffusers, modulated, rotary):
    theirs = randomised(
        diffusers("models.transformers.transformer_z_image", "ZImageTransformerBlock")(
            0, D, HEADS, HEADS, 1e-5, True, modulation=modulated
        )
    )
    ours = zimage.Block(D, HEADS, HEADS, zimage.hidden_width(D), D if modulated else None)
    ours = load_upstream(ours, zimage.Block.UPSTREAM, theirs.state_dict())
    x, _, c = inputs()
    rope, turns = angles(3, T)
    found = theirs(x, None, turns if rotary else None, c if modulated else None)
    mine = ours(x, c if modulated else None, rope if rotary else None)
    torch.testing.assert_close(mine, found, atol=2e-6, rtol=2e-6)


def halves(cos_sin):
    """Classes that pair channel k with k + r take each angle twice, one half after the other."""
    return tuple(torch.cat([a, a], dim=-1) for a in cos_sin)


CLOSE = {"atol": 1e-5, "rtol": 1e-6}  # rotary positions, and some norms, in float32


def flux2_double(theirs, x, ctx, c, rope):
    shared = [torch.randn(len(x), 1, 6 * D) for _ in range(2)]
    ours = load_upstream(flux2.DoubleBlock(D, HEADS, D // HEADS, 80), flux2.DoubleBlock.UPSTREAM, theirs.state_dict())
    mine = ours(x, ctx, *shared, rope)
    return torch.cat(mine[::-1], 1), torch.cat(theirs(x, ctx, *(s[:, 0] for s in shared), pairs(rope)), 1)


def flux2_single(theirs, x, ctx, c, rope):
    both, shared = torch.cat([ctx, x], 1), torch.randn(len(x), 1, 3 * D)
    ours = load_upstream(flux2.SingleBlock(D, HEADS, D // HEADS, 80), flux2.SingleBlock.UPSTREAM, theirs.state_dict())
    return ours(both, shared, rope), theirs(both, None, shared[:, 0], pairs(rope))


def krea2_block(theirs, x, ctx, c, rope):
    both, shared = torch.cat([ctx, x], 1), torch.randn(len(x), 1, 6 * D)
    ours = load_upstream(krea2.Block(D, HEADS, 2, 20), krea2.Block.UPSTREAM, theirs.state_dict())
    return ours(both, shared, rope), theirs(both, shared, pairs(rope))


def minimax_h3_block(theirs, x, ctx, c, rope):
    ours = load_upstream(minimax_h3.Block(D, 3, 8, 20, D), minimax_h3.Block.UPSTREAM, theirs.state_dict())
    part, row = tuple(a[S:, :3] for a in rope), torch.randint(3 * len(c), (T,))  # 6 of 8 channels are turned
    return ours(x, c, row, part), theirs(x, c, row, halves(part))


def flux3_block(theirs, x, ctx, c, rope):
    shared, ctx_shared = torch.randn(len(x), T, 3 * D), torch.randn(len(x), S, 3 * D)
    ours = load_upstream(flux3.Block(D, HEADS, D // HEADS, 80), flux3.Block.UPSTREAM, theirs.state_dict())
    mine = ours(torch.cat([ctx, x], 1), torch.cat([ctx_shared, shared], 1), rope)
    return mine, torch.cat(theirs(x, ctx, shared, ctx_shared, pairs(rope)), 1)


def ideogram4_block(theirs, x, ctx, c, rope):
    ours = load_upstream(ideogram4.Block(D, HEADS, HEADS, 20, D), ideogram4.Block.UPSTREAM, theirs.state_dict())
    part, mask = tuple(a[S:] for a in rope), torch.ones(len(x), 1, T, T, dtype=torch.bool)
    return ours(x, c, part), theirs(x, mask, tuple(a[None] for a in halves(part)), c[:, None])


def ernie_block(theirs, x, ctx, c, rope):
    ours = load_upstream(ernie.Block(D, HEADS, 20), ernie.Block.UPSTREAM, theirs.state_dict())
    angle, shared = torch.randn(T, D // HEADS // 2), torch.randn(len(x), 1, 6 * D)
    theirs_angle = angle.repeat_interleave(2, dim=-1)[None, :, None]
    found = theirs(x.transpose(0, 1), theirs_angle, [v.transpose(0, 1) for v in shared.chunk(6, dim=-1)])
    return ours(x, shared, angle), found.transpose(0, 1)


OF_2026 = {
    flux2_double: ("flux2.Flux2TransformerBlock", (D, HEADS, D // HEADS, 2.5)),
    flux2_single: ("flux2.Flux2SingleTransformerBlock", (D, HEADS, D // HEADS, 2.5)),
    krea2_block: ("krea2.Krea2TransformerBlock", (D, 20, HEADS, 2, 1e-5)),
    minimax_h3_block: ("minimax_h3.MiniMaxH3TransformerBlock", (D, 3, 8, 20, D, 1e-5, 1e-5)),
    flux3_block: ("flux3.Flux3SingleTransformerBlock", (D, HEADS, D // HEADS, 2.5)),
    ideogram4_block: ("ideogram4.Ideogram4TransformerBlock", (D, 20, HEADS, 1e-5, D)),
    ernie_block: ("ernie_image.ErnieImageSharedAdaLNBlock", (D, HEADS, 20)),
}


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # Krea 2 takes its norms in float32
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("run", OF_2026, ids=lambda run: run.__name__)
def test_blocks_of_2026(diffusers, run, batch):
    (name, sizes), (x, ctx, c), (rope, _) = OF_2026[run], inputs(batch), angles(S + T)
    module, _, kind = name.partition(".")
    theirs = randomised(diffusers(f"models.transformers.transformer_{module}", kind)(*sizes))
    mine, found = run(theirs, x, ctx, c, rope)
    torch.testing.assert_close(mine, found, **CLOSE)


def test_the_last_layer_of_flux_has_its_halves_swapped_in_diffusers(diffusers):
    """(scale, shift) there, (shift, scale) in the original: loaded as they stand, the answer is another one."""
    norm = randomised(
        diffusers("models.normalization", "AdaLayerNormContinuous")(D, D, elementwise_affine=False, eps=1e-6)
    )
    leave = randomised(torch.nn.Linear(D, 7))
    weights = {f"norm_out.{k}": v for k, v in norm.state_dict().items()}
    weights |= {f"proj_out.{k}": v for k, v in leave.state_dict().items()}
    x, _, c = inputs()
    ours = load_upstream(FinalLayer(D, D, 7), FLUX_LAST, weights)
    torch.testing.assert_close(ours(x, Condition(c)), leave(norm(x, c)), **EXACT)
    straight = {k: str(v) for k, v in FLUX_LAST.items()}
    wrong = load_upstream(FinalLayer(D, D, 7), straight, weights)
    assert (wrong(x, Condition(c)) - leave(norm(x, c))).abs().max() > 0.1


NAMES = {"qkv": ("to_q", "to_k"), "out": "proj", "halves": SwappedHalves("mod")}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"to_q.weight": torch.ones(1)}, r"'to_k.weight' is missing, the other part of 'to_q.weight'"),
        ({"extra.weight": torch.ones(1)}, r"no layer for 'extra.weight'; known: to_q \+ to_k, proj, mod"),
    ],
)
def test_weights_without_a_place_or_a_partner_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        from_upstream(NAMES, weights)


def test_fused_and_swapped_rows():
    ours = from_upstream(
        NAMES, {"to_q.weight": torch.zeros(1), "to_k.weight": torch.ones(1), "mod.bias": torch.arange(4.0)}
    )
    assert ours["qkv.weight"].tolist() == [0, 1] and ours["halves.bias"].tolist() == [2, 3, 0, 1]


def test_weights_that_are_missing_or_of_another_size_are_named():
    block = zimage.Block(D, HEADS, HEADS, 8, D)
    weights = {}
    for name, p in block.state_dict().items():
        layer, _, suffix = name.rpartition(".")
        place = zimage.Block.UPSTREAM[layer]
        parts = [place] if isinstance(place, str) else place
        weights |= {f"{q}.{suffix}": r for q, r in zip(parts, p.chunk(len(parts)), strict=True)}
    load_upstream(block, zimage.Block.UPSTREAM, weights)
    less = {k: v for k, v in weights.items() if k != "ffn_norm2.weight"}
    with pytest.raises(ValueError, match=r"'ffn_norm2.weight' is missing: our post_norm_mlp.weight, \(32,\)"):
        load_upstream(block, zimage.Block.UPSTREAM, less)
    wrong = weights | {"attention.to_out.0.weight": torch.zeros(4, 4)}
    with pytest.raises(ValueError, match=r"'attention.to_out.0.weight' must be \(32, 32\).* got \(4, 4\)"):
        load_upstream(block, zimage.Block.UPSTREAM, wrong)


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (6, 4), (3, 7), (5, 5)])
def test_cell_centres_of_hdm_are_exact_in_float64(rows, columns):
    """Cell i of n lies at (2 i + 1 - n) / longest; with a float32 box, a 3:2 picture is off by 1e-8."""
    axes = [(2 * torch.arange(n).double() + 1 - n) / max(rows, columns) for n in (rows, columns)]
    torch.testing.assert_close(stacks.cell_centres(rows, columns), torch.cartesian_prod(*axes), atol=1e-15, rtol=0)
