"""What must be true of the assembled model, whatever its parts promise."""

from dataclasses import replace

import pytest
import torch

from adaln_lab.conditioning import VARIANTS, map_tensors
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.flow import flow_loss, flow_pair

SMALL = DiTConfig(width=24, depth=3, heads=2)


def make(variant: str = "adaln_zero", seed: int = 0, **changes) -> TinyDiT:
    torch.manual_seed(seed)
    return TinyDiT(replace(SMALL, variant=variant, **changes))


def inputs(n: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 8, 8, generator=g), torch.rand(n, generator=g), torch.randint(11, (n,), generator=g)


def shaken(model: TinyDiT) -> TinyDiT:
    """No zero left anywhere, so that every path carries signal."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("variant", ["adaln_zero", "both"])
def test_every_block_is_the_identity_at_init_bit_for_bit(variant):
    """gate = 0 multiplies the branch away. Asked of the assembled model: nothing may have re-initialised it."""
    model, (_, t, y) = make(variant), inputs()
    x = torch.randn(4, 16, 24)
    for block in model.blocks:
        assert torch.equal(block(x, model.condition(t, y)), x)


def test_the_other_variants_are_not_the_identity_at_init():
    for variant in set(VARIANTS) - {"adaln_zero", "both"}:
        model, (_, t, y) = make(variant), inputs()
        x = torch.randn(4, 16, 24)
        assert not torch.allclose(model.blocks[0](x, model.condition(t, y)), x), variant


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_untrained_model_predicts_zero(variant):
    """The final Linear is zero, so the first loss is the variance of v and no variant starts with an advantage."""
    assert not make(variant)(*inputs()).any()


def woken(model: TinyDiT, passes: int) -> list[set[str]]:
    """Names with a gradient that is not zero, pass by pass; modulation is split into its vectors."""
    names, generator = [], torch.Generator().manual_seed(0)
    for _ in range(passes):
        model.zero_grad()
        flow_loss(model, flow_pair(torch.randn(8, 1, 8, 8), torch.arange(8), 10, 0.0, generator)).backward()
        awake = set()
        for name, p in model.named_parameters():
            pieces = {name: p.grad}
            if "to_modulation" in name and name.startswith("blocks"):
                pieces = {
                    f"{name}:{v}{i}": p.grad[(3 * i + j) * 24 :][:24]
                    for i in (0, 1)
                    for j, v in enumerate(("shift", "scale", "gate"))
                }
            elif "qkv.bias" in name:
                pieces = {f"{name}:{part}": p.grad[24 * i :][:24] for i, part in enumerate("qkv")}
            awake |= {key for key, g in pieces.items() if g is not None and g.abs().max() > 1e-14}
        names.append(awake)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    return names


def test_wake_up_happens_in_three_steps():
    """A product of two zeros has no gradient in either factor: head and gates are zero, so the head must move first."""
    model = make().double()
    model.positions = model.positions.double()
    with torch.random.fork_rng():
        torch.set_default_dtype(torch.float64)
        try:
            first, second, third = woken(model, 3)
        finally:
            torch.set_default_dtype(torch.float32)
    assert first == {"final.linear.weight", "final.linear.bias"}
    gates = {n for n in second if ":gate" in n}
    assert len(gates) == 3 * 2 * 2  # depth x (weight, bias) x (attention, MLP)
    assert second - gates - first == {
        "x_embed.linear.weight",
        "x_embed.linear.bias",
        "final.to_modulation.linear.weight",
        "final.to_modulation.linear.bias",
    }
    everything = {n for n, _ in model.named_parameters()}
    assert {n.split(":")[0] for n in third} == everything  # and now all of it ...
    asleep = {f"blocks.{i}.attn.qkv.bias:k" for i in range(3)}  # ... but key biases: softmax does not see them
    assert not third & asleep


@pytest.mark.parametrize("variant", VARIANTS)
def test_time_and_label_both_reach_the_output(variant):
    model, (x, t, y) = shaken(make(variant)).eval(), inputs()
    out = model(x, t, y)
    assert not torch.allclose(out, model(x, 1 - t, y))
    assert not torch.allclose(out, model(x, t, (y + 1) % 10))


@pytest.mark.parametrize("variant", VARIANTS)
def test_conditions_precomputed_together_serve_each_row(variant):
    model, (x, t, y) = shaken(make(variant)).double(), inputs()
    x, t = x.double(), t.double()
    order = torch.tensor([2, 0, 3, 1])
    pre = map_tensors(lambda v: v[order], model.precompute(t, y))
    torch.testing.assert_close(model.forward_with(x[order], pre), model(x, t, y)[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pictures_of_a_batch_do_not_see_each_other(variant):
    model, (x, t, y) = shaken(make(variant)), inputs()
    torch.testing.assert_close(model(x, t, y)[1:2], model(x[1:2], t[1:2], y[1:2]), rtol=1e-4, atol=1e-5)


def test_words_reach_the_model_as_tokens_and_as_a_sum():
    for variant in VARIANTS:
        model, x = shaken(make(variant, n_classes=6, context_length=3)), torch.randn(1, 1, 8, 8)
        a, b, c = (model(x, torch.full((1,), 0.5), torch.tensor([w])) for w in ([1, 2, 3], [1, 2, 4], [3, 2, 1]))
        assert not torch.allclose(a, b, atol=1e-3)
        if variant.startswith("adaln"):
            torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-4)  # the sum forgets the order ...
        else:
            assert not torch.allclose(a, c, atol=1e-3)  # ... tokens keep it


def test_parameters_of_the_four_variants_follow_their_arithmetic():
    """Per block: 12 d^2 plain, +4 d^2 cross-attention, +4 d^2 adaLN, +6 d^2 adaLN-Zero (plus biases and norms)."""
    d = 24
    count = {v: sum(p.numel() for p in make(v).blocks.parameters()) / 3 for v in VARIANTS}
    plain = 12 * d**2 + 9 * d
    assert count == {
        "in_context": plain + 4 * d,
        "cross_attention": plain + 4 * d + 4 * d**2 + 4 * d + 2 * d,
        "adaln": plain + 4 * d**2 + 4 * d,
        "adaln_zero": plain + 6 * d**2 + 6 * d,
        "both": plain + 6 * d**2 + 6 * d + 4 * d**2 + 4 * d,
    }


def test_an_encoder_lets_the_vector_know_who_has_what():
    """c is the same for two captions with the same words in other places' company; not so once the words have met."""
    tokens = torch.tensor([[0, 4, 1, 5], [1, 4, 0, 5]])  # places 0 and 2 change words
    for encoder, same in ((0, True), (1, False)):
        model = shaken(TinyDiT(replace(SMALL, context_length=4, encoder=encoder)).double())
        c = model.condition(torch.full((2,), 0.5).double(), tokens).c
        assert torch.allclose(c[0], c[1], atol=1e-12, rtol=0) == same


def test_both_tells_the_blocks_time_by_the_vector_and_words_by_tokens():
    model = TinyDiT(replace(SMALL, context_length=2, variant="both"))
    t, y = torch.tensor([0.5, 0.5]), torch.tensor([[0, 1], [2, 3]])
    c, ctx = model.condition(t, y)
    assert torch.allclose(c[0], c[1]) and ctx.shape == (2, 2, SMALL.width) and not torch.equal(ctx[0], ctx[1])


@pytest.mark.parametrize("style_tokens", [0, 1, 2])
def test_style_tokens_join_the_time_and_leave_the_context(style_tokens):
    """c moves with the first tokens alone and ctx with the others alone; with 0 the time is alone in c, as before."""
    model = TinyDiT(replace(SMALL, context_length=3, variant="both", style_tokens=style_tokens))
    t, base = torch.tensor([0.5]), torch.tensor([[0, 1, 2]])
    for place in range(3):
        other = base.clone()
        other[0, place] = 7
        (c, ctx), (changed_c, changed_ctx) = (model.condition(t, y) for y in (base, other))
        assert ctx.shape == (1, 3 - style_tokens, SMALL.width)
        assert torch.equal(c, changed_c) == (place >= style_tokens)
        assert torch.equal(ctx, changed_ctx) == (place < style_tokens)
    if not style_tokens:
        assert torch.equal(c, model.t_embed(t))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "adaln-zero"}, "variant must be one of in_context, cross_attention, adaln, adaln_zero"),
        ({"patch": 3}, "valid patches: 1, 2, 4, 8"),
        ({"heads": 5}, "try width 20"),
        ({"width": 6, "heads": 2}, "multiple of 4"),
        ({"depth": 0}, "depth must be a whole number in 1 .. "),
        ({"heads": 0}, "heads must be a whole number in 1 .. "),
        ({"patch": 0}, "patch must be a whole number in 1 .. "),
        ({"style_tokens": 1}, "style_tokens must be below context_length, 1; got 1"),
        ({"style_tokens": -1}, "style_tokens must be a whole number in 0 .. 10000, got -1"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, t, y: (x[:, :, :4], t, y), r"x must be \(B, 1, 8, 8\)"),
        (lambda x, t, y: (x, t[:2], y), "one time for each image"),
        (lambda x, t, y: (x, t[:, None], y), "one time for each image"),
        (lambda x, t, y: (x, t, y[:2]), r"y must hold 1 label\(s\)"),
        (lambda x, t, y: (x, t, y + 11), r"labels must be integers in 0 \.\. 10"),
        (lambda x, t, y: (x, t, y - 20), r"labels must be integers in 0 \.\. 10"),
        (lambda x, t, y: (x, t * 1000, y), r"t must lie in \[0, 1\]"),
        (lambda x, t, y: (x, t * float("nan"), y), r"t must lie in \[0, 1\]"),
    ],
)
def test_wrong_inputs_are_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        make()(*spoil(*inputs()))
