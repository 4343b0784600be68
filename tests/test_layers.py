"""Attention and embeddings against independent formulas."""

import math

import pytest
import torch

from adaln_lab import embed
from adaln_lab.layers import MLP, CrossAttention, SelfAttention, attend, zero_linear


def test_attention_equals_softmax_written_out():
    q, k, v = torch.randn(3, 2, 5, 8, dtype=torch.float64).unbind()
    heads, out = 2, []
    for h in range(heads):
        part = slice(4 * h, 4 * h + 4)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(4), -1)
        out.append(weights @ v[..., part])
    torch.testing.assert_close(attend(q, k, v, heads), torch.cat(out, -1), rtol=0, atol=1e-12)


def test_attention_layers_see_tokens_as_a_set():
    """No positions inside: permuting tokens permutes outputs, permuting the context changes nothing."""
    x, ctx, order = torch.randn(2, 6, 8).double(), torch.randn(2, 3, 8).double(), torch.randperm(6)
    attn, cross = SelfAttention(8, 2).double(), CrossAttention(8, 2).double()
    torch.testing.assert_close(attn(x)[:, order], attn(x[:, order]), rtol=0, atol=1e-12)
    torch.testing.assert_close(cross(x, ctx), cross(x, ctx.flip(1)), rtol=0, atol=1e-12)


def test_cross_attention_to_one_token_adds_the_same_vector_everywhere():
    """The softmax of a single logit is 1, whatever x is."""
    cross, ctx = CrossAttention(8, 2), torch.randn(1, 1, 8)
    a, b = cross(torch.randn(1, 6, 8), ctx), cross(torch.randn(1, 6, 8), ctx)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a, a[:, :1].expand_as(a))


def test_zero_linear_is_zero_and_mlp_acts_on_each_token_alone():
    assert not zero_linear(4, 3)(torch.randn(2, 4)).any()
    mlp, x = MLP(8), torch.randn(2, 5, 8)
    torch.testing.assert_close(mlp(x)[:, 2], mlp(x[:, 2]))


def test_sinusoidal_is_cosines_then_sines():
    s = torch.tensor([0.0, 3.0], dtype=torch.float64)
    out = embed.sinusoidal(s, 8)
    for k in range(4):
        w = 10_000 ** (-k / 4)
        assert out[1, k].item() == pytest.approx(math.cos(3 * w), abs=1e-12)
        assert out[1, 4 + k].item() == pytest.approx(math.sin(3 * w), abs=1e-12)
    assert out[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_time_is_stretched_by_a_thousand_once():
    """The frequencies were made for 0 .. 1000; without the stretch all times look alike, twice and they alias."""
    layer, t = embed.TimeEmbed(6, features=8).double(), torch.tensor([0.25, 0.7], dtype=torch.float64)
    angles = torch.stack([1000 * t * 10_000 ** (-k / 4) for k in range(4)], -1)
    torch.testing.assert_close(layer(t), layer.mlp(torch.cat([angles.cos(), angles.sin()], -1)), rtol=0, atol=1e-10)


def test_every_position_is_told_apart():
    table = embed.positions_2d(4, 6, 16)
    assert table.shape == (24, 16)
    assert torch.pdist(table).min() > 0.1
    torch.testing.assert_close(table[0, :8], table[6, :8])  # one column further down: the column half does not change
    torch.testing.assert_close(table[0, 8:], table[1, 8:])  # one step right: the row half does not change


def test_patchify_cuts_row_by_row_and_unpatchify_puts_back():
    image = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    tokens = embed.patchify(image, 2)
    assert tokens.shape == (2, 6, 12)
    assert torch.equal(tokens[:, 1], image[:, :, 0:2, 2:4].flatten(1))  # second token: one patch to the right
    channels_last = (
        tokens.unflatten(-1, (3, 2, 2)).permute(0, 1, 3, 4, 2).flatten(2)
    )  # unpatchify's order inside a patch
    assert torch.equal(embed.unpatchify(channels_last, 2, 2), image)


def test_labels_are_captions_of_one_word_and_places_matter_only_beyond():
    one = embed.LabelEmbed(5, 8)
    assert one(torch.tensor([1, 5])).shape == (2, 1, 8)
    two = embed.LabelEmbed(5, 8, context_length=2)
    e = two(torch.tensor([[1, 2], [2, 1]]))
    assert not torch.allclose(e[0], e[1].flip(0))  # as tokens the order is kept ...
    torch.testing.assert_close(e[0].sum(0), e[1].sum(0))  # ... and lost in the pooled sum
