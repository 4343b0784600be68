"""Exercises of notebook 02: three vectors from one condition, time as sinusoids, AdaIN, modulation inside a Linear.

For each exercise: the solution, then common mistakes, one function each, with the docstring that `check` prints.
B batch, D width, C width of c, T places, O outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.exercises.core import Exercise, by_name, faint, randn64, register

# modulation_vectors: SiLU, Linear, three named vectors


def modulation_vectors(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SiLU, then Linear, cut in the order shift, scale, gate; c (B, C), weight (3 D, C) -> each (B, 1, D)."""
    vectors = F.linear(F.silu(c), weight, bias)  # (B, 3 D)
    return vectors.unsqueeze(1).chunk(3, dim=-1)


def silu_forgotten(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """You feed c straight into the Linear: without SiLU, the effects of time and label can only add up."""
    return F.linear(c, weight, bias).unsqueeze(1).chunk(3, dim=-1)


def silu_twice(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """You apply SiLU twice, as happens where both the embedder and the block apply one; it belongs in one place."""
    return modulation_vectors(F.silu(c), weight, bias)


def silu_after_the_linear(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """You put SiLU after the Linear: scale, shift and gate could then hardly be negative."""
    return F.silu(F.linear(c, weight, bias)).unsqueeze(1).chunk(3, dim=-1)


def scale_before_shift(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """You cut in the order scale, shift, gate; DiT's weights hold shift first. Chunk order is part of a checkpoint."""
    shift, scale, gate = modulation_vectors(c, weight, bias)
    return scale, shift, gate


def every_third_number(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """You take every third output for each vector; the three vectors follow one another, D numbers each."""
    return F.linear(F.silu(c), weight, bias).unflatten(-1, (-1, 3)).unsqueeze(1).unbind(-1)


def token_axis_missing(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Your vectors are (B, D): with tokens (B, T, D), the batch would broadcast over tokens. Make them (B, 1, D)."""
    return F.linear(F.silu(c), weight, bias).chunk(3, dim=-1)


def one_added_here(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """You add 1 to scale already; `modulate` multiplies by 1 + scale, so it would be added twice."""
    shift, scale, gate = modulation_vectors(c, weight, bias)
    return shift, 1 + scale, gate


def bias_forgotten(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """For c = 0 your three vectors are 0: the Linear has a bias as well."""
    return modulation_vectors(c, weight, 0 * bias)


def sigmoid_for_silu(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """However large c is, your vectors hardly grow: sigmoid stays below 1, SiLU is c times that."""
    return F.linear(c.sigmoid(), weight, bias).unsqueeze(1).chunk(3, dim=-1)


def gate_first(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Your first vector is the last third of the outputs: the order is shift, scale, gate."""
    shift, scale, gate = modulation_vectors(c, weight, bias)
    return gate, shift, scale


def gate_before_scale(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Your scale and gate are in each other's place: the order is shift, scale, gate."""
    shift, scale, gate = modulation_vectors(c, weight, bias)
    return shift, gate, scale


def relu_for_silu(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Negative numbers in c have no influence: that is a ReLU. SiLU lets a little of them through."""
    return F.linear(c.relu(), weight, bias).unsqueeze(1).chunk(3, dim=-1)


def gelu_for_silu(c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Your numbers are near the right ones, and closest for large c: that is a GELU. DiT has a SiLU there."""
    return F.linear(F.gelu(c), weight, bias).unsqueeze(1).chunk(3, dim=-1)


def left_in_one_piece(c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """You return a single tensor with all 3 D numbers of a picture: cut it into three."""
    return F.linear(F.silu(c), weight, bias).unsqueeze(1)


def modulation_vectors_cases() -> list[tuple]:
    sizes = ((3, 4, 5), (2, 6, 7), (1, 5, 3))
    return [(randn64(b, c), randn64(3 * d, c, seed=1), randn64(3 * d, seed=2)) for b, c, d in sizes]


# sinusoidal_embedding: time becomes a vector


def sinusoidal_embedding(t: Tensor, features: int) -> Tensor:
    """Cosines, then sines, of 1000 t w_k with w_k = 10000^(-k / half), k = 0 .. half - 1; t (B,) -> (B, features)."""
    half = features // 2
    w = 10_000 ** (-torch.arange(half, dtype=t.dtype) / half)
    angle = 1000 * t[:, None] * w  # (B, half)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def time_not_stretched(t: Tensor, features: int) -> Tensor:
    """You leave t in [0, 1]; the frequencies are made for 0 .. 1000, so all your embeddings are nearly equal."""
    return sinusoidal_embedding(t / 1000, features)


def time_stretched_twice(t: Tensor, features: int) -> Tensor:
    """You stretch t by 1000 twice: the embeddings of two close times become as different as those of any two."""
    return sinusoidal_embedding(1000 * t, features)


def frequencies_that_grow(t: Tensor, features: int) -> Tensor:
    """Your w_k = 10000^(+k / half) grow with k: a minus sign is missing; they must fall from 1 towards 1/10000."""
    half = features // 2
    angle = 1000 * t[:, None] * 10_000 ** (torch.arange(half, dtype=t.dtype) / half)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def frequencies_backwards(t: Tensor, features: int) -> Tensor:
    """Your slowest frequency comes first; in the table of w_k the fastest, w_0 = 1, has number 0."""
    cos, sin = sinusoidal_embedding(t, features).chunk(2, dim=-1)
    return torch.cat([cos.flip(-1), sin.flip(-1)], dim=-1)


def interleaved(t: Tensor, features: int) -> Tensor:
    """You alternate cos, sin, cos, sin; here all cosines come first, then all sines. Trained weights would not fit."""
    return torch.stack(sinusoidal_embedding(t, features).chunk(2, dim=-1), dim=-1).flatten(1)


def sines_first(t: Tensor, features: int) -> Tensor:
    """Your sines come before the cosines: a valid embedding, but not the one that these weights were trained with."""
    return sinusoidal_embedding(t, features).roll(features // 2, dims=-1)


def divided_by_half_minus_one(t: Tensor, features: int) -> Tensor:
    """You divide k by half - 1: another convention in use, where the last frequency is 1/10000 itself. Here by half."""
    half = features // 2
    angle = 1000 * t[:, None] * 10_000 ** (-torch.arange(half, dtype=t.dtype) / (half - 1))
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def divided_by_features(t: Tensor, features: int) -> Tensor:
    """You divide k by all features, so your frequencies stop at 1/100: k runs to half, so divide by half."""
    half = features // 2
    angle = 1000 * t[:, None] * 10_000 ** (-torch.arange(half, dtype=t.dtype) / features)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def times_cut_off(t: Tensor, features: int) -> Tensor:
    """Two times closer than a thousandth get the same embedding: 1000 t became a whole number, its fraction is lost."""
    return sinusoidal_embedding((1000 * t).floor() / 1000, features)


def times_rounded(t: Tensor, features: int) -> Tensor:
    """Two times closer than a thousandth get the same embedding: 1000 t was rounded to a whole number."""
    return sinusoidal_embedding((1000 * t).round() / 1000, features)


def whole_turns(t: Tensor, features: int) -> Tensor:
    """Your waves are 2 pi times too fast: 1000 t w_k is the angle itself, in radians."""
    return sinusoidal_embedding(2 * torch.pi * t, features)


def base_1000(t: Tensor, features: int) -> Tensor:
    """Your waves fall from 1 to 1/1000 only: the base of the frequencies is 10000, and 1000 stretches the time."""
    half = features // 2
    angle = 1000 * t[:, None] * 1000 ** (-torch.arange(half, dtype=t.dtype) / half)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def counted_from_one(t: Tensor, features: int) -> Tensor:
    """Your fastest wave has w < 1: k counts from 0, so w_0 is 1."""
    half = features // 2
    angle = 1000 * t[:, None] * 10_000 ** (-torch.arange(1, half + 1, dtype=t.dtype) / half)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def evenly_spaced(t: Tensor, features: int) -> Tensor:
    """Your frequencies are evenly spaced: they must fall by the same factor from each to the next."""
    half = features // 2
    angle = 1000 * t[:, None] * (1 - torch.arange(half, dtype=t.dtype) / half)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def time_cut_off_before_stretching(t: Tensor, features: int) -> Tensor:
    """All times below 1 get the same embedding: t became a whole number before it was multiplied by 1000."""
    return sinusoidal_embedding(t.floor(), features)


def sinusoidal_embedding_cases() -> list[tuple]:
    """1000 t is not whole, and two times are closer than that. As multiples of 1/4096 they are exact in float32."""
    times = torch.tensor([125.0, 1383.0, 2639.0, 3967.0, 1384.0], dtype=torch.float64) / 4096
    return [(times, 8), (times[:3], 6), (times[2:3], 10)]


# ada_in: gamma and beta measured on another picture


def ada_in(content: Tensor, style: Tensor) -> Tensor:
    """Content, normalised per picture and channel, with the mean and standard deviation of style; (B, D, T)."""
    mean = style.mean(-1, keepdim=True)  # (B, D, 1)
    std = style.std(-1, correction=0, keepdim=True)
    return std * F.instance_norm(content) + mean


def variance_for_deviation(content: Tensor, style: Tensor) -> Tensor:
    """You multiply by the variance of style; its square root, the standard deviation, has the right unit."""
    return style.var(-1, correction=0, keepdim=True) * F.instance_norm(content) + style.mean(-1, keepdim=True)


def content_and_style_swapped(content: Tensor, style: Tensor) -> Tensor:
    """You give the style picture the statistics of the content: the two are swapped."""
    return ada_in(style, content)


def statistics_over_channels(content: Tensor, style: Tensor) -> Tensor:
    """You average over the channels of each position, as layer norm does; AdaIN averages over positions."""
    return ada_in(content.transpose(1, 2), style.transpose(1, 2)).transpose(1, 2)


def statistics_over_the_batch(content: Tensor, style: Tensor) -> Tensor:
    """You average over the batch as well, as batch norm does: each picture must keep its own statistics."""
    std, mean = torch.std_mean(style, (0, 2), correction=0, keepdim=True)
    return std * F.batch_norm(content, None, None, training=True) + mean


def content_not_normalised(content: Tensor, style: Tensor) -> Tensor:
    """You scale and shift the content as it is: it still has its own mean and standard deviation."""
    return style.std(-1, correction=0, keepdim=True) * content + style.mean(-1, keepdim=True)


def style_mean_forgotten(content: Tensor, style: Tensor) -> Tensor:
    """You use the standard deviation of style, but not its mean: beta is missing."""
    return ada_in(content, style) - style.mean(-1, keepdim=True)


def one_plus_deviation(content: Tensor, style: Tensor) -> Tensor:
    """You multiply by 1 + std: the 1 is for predicted scales that start at zero; a measured one needs none."""
    return ada_in(content, style) + F.instance_norm(content)


def n_minus_one(content: Tensor, style: Tensor) -> Tensor:
    """Your std divides by n - 1, which is torch's default; norms divide by n. Say correction=0."""
    return style.std(-1, keepdim=True) * F.instance_norm(content) + style.mean(-1, keepdim=True)


def eps_missing(content: Tensor, style: Tensor) -> Tensor:
    """You divide by the plain deviation of content; 1e-5 is added under the root, because of constant maps."""
    std, mean = torch.std_mean(content, -1, correction=0, keepdim=True)
    return style.std(-1, correction=0, keepdim=True) * (content - mean) / std + style.mean(-1, keepdim=True)


def eps_outside_the_root(content: Tensor, style: Tensor) -> Tensor:
    """Only faint channels come out wrong: your 1e-5 is added to the deviation, and it belongs under the root."""
    std, mean = torch.std_mean(content, -1, correction=0, keepdim=True)
    normed = (content - mean) / (std + 1e-5)
    return style.std(-1, correction=0, keepdim=True) * normed + style.mean(-1, keepdim=True)


def mean_of_the_content_kept(content: Tensor, style: Tensor) -> Tensor:
    """Your result has the mean of content: content loses its own, and gets that of style."""
    return ada_in(content, style) - style.mean(-1, keepdim=True) + content.mean(-1, keepdim=True)


def ada_in_cases() -> list[tuple]:
    """The last channel of each content is faint, so that the eps under its root is seen."""
    contents = [2 * randn64(*shape) + 1 for shape in ((2, 3, 5), (3, 5, 6), (1, 4, 7))]
    return [(faint(content), 0.4 * randn64(*content.shape, seed=1) - 3) for content in contents]


# fold_into_linear: for one condition, AdaLN is free


def fold_into_linear(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Linear after n (1 + scale) + shift, as one Linear of n; weight (O, D), bias (O,), scale and shift (D,)."""
    return weight * (1 + scale), bias + weight @ shift


def rows_scaled(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """You scale the rows of weight, which are its outputs. Scale acts on inputs: on columns."""
    return weight * (1 + scale)[:, None], bias + weight @ shift


def one_plus_forgotten(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """You multiply the columns by scale, not by 1 + scale: at scale 0 the new Linear would ignore its input."""
    return weight * scale, bias + weight @ shift


def shift_forgotten(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Your bias is the old one: shift passes through the Linear, too, and adds weight @ shift."""
    return weight * (1 + scale), bias.clone()


def shift_added_bare(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """You add shift to the bias as it is; shift is added before the Linear, so it must be multiplied by weight."""
    return weight * (1 + scale), bias + shift


def shift_scaled_too(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """You send shift through the new weight; it was added after the scaling, so it is multiplied by the old weight."""
    return weight * (1 + scale), bias + (weight * (1 + scale)) @ shift


def weight_transposed(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """You multiply shift by the transposed weight; a Linear computes n @ weight.T + bias, which is weight @ n."""
    return weight * (1 + scale), bias + weight.T @ shift


def old_bias_dropped(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Your new bias is weight @ shift alone: the bias that the Linear already had is lost."""
    return weight * (1 + scale), weight @ shift


def one_plus_forgotten_in_both(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """At scale 0 your new Linear ignores its input: scale comes without 1 +, and shift goes through the new weight."""
    return weight * scale, bias + (weight * scale) @ shift


def fold_into_linear_cases() -> list[tuple]:
    """In the first the Linear is square, so that mixing up rows and columns runs and is wrong."""
    sizes = ((5, 5), (4, 6), (7, 3))
    return [(randn64(o, d), randn64(o, seed=1), 0.5 * randn64(d, seed=2), randn64(d, seed=3)) for o, d in sizes]


register(
    Exercise(
        question="Make shift, scale and gate, each (B, 1, D), from a condition and one Linear.",
        solution=modulation_vectors,
        returns=("shift", "scale", "gate"),
        cases=modulation_vectors_cases,
        hints=(
            "One Linear makes all three vectors at once; SiLU comes before it, the chunk after it.",
            "F.linear(F.silu(c), weight, bias) is (B, 3 D). The tokens' axis goes between batch and channels.",
            "vectors.unsqueeze(1).chunk(3, dim=-1) cuts (B, 1, 3 D) into three, in the order shift, scale, gate.",
        ),
        wrong=by_name(
            silu_forgotten,
            silu_twice,
            silu_after_the_linear,
            scale_before_shift,
            every_third_number,
            token_axis_missing,
            one_added_here,
            bias_forgotten,
            sigmoid_for_silu,
            gate_first,
            gate_before_scale,
            relu_for_silu,
            gelu_for_silu,
            left_in_one_piece,
        ),
        gradients=True,
    )
)
register(
    Exercise(
        question="Turn times in [0, 1] into cosines and sines at geometrically spaced frequencies.",
        solution=sinusoidal_embedding,
        returns=("embedding",),
        cases=sinusoidal_embedding_cases,
        hints=(
            "There are features // 2 frequencies; each gives one cosine and one sine.",
            "The exponents are -k / half for k = 0 .. half - 1; torch.arange(half, dtype=t.dtype) counts them.",
            "angle = 1000 * t[:, None] * w is (B, half); put angle.cos() and angle.sin() side by side with torch.cat.",
        ),
        wrong=by_name(
            time_not_stretched,
            time_stretched_twice,
            frequencies_that_grow,
            frequencies_backwards,
            interleaved,
            sines_first,
            divided_by_half_minus_one,
            divided_by_features,
            times_cut_off,
            times_rounded,
            whole_turns,
            base_1000,
            counted_from_one,
            evenly_spaced,
            time_cut_off_before_stretching,
        ),
    )
)
register(
    Exercise(
        question="Give each channel of content the mean and standard deviation that style has there.",
        solution=ada_in,
        returns=("painted",),
        cases=ada_in_cases,
        hints=(
            "First remove content's own mean and standard deviation, channel by channel; then apply those of style.",
            "F.instance_norm(content) does the first half. Statistics run over positions, the last axis: keepdim=True.",
            "gamma is style.std(-1, correction=0, keepdim=True), beta is style.mean(-1, keepdim=True).",
        ),
        wrong=by_name(
            variance_for_deviation,
            content_and_style_swapped,
            statistics_over_channels,
            statistics_over_the_batch,
            content_not_normalised,
            style_mean_forgotten,
            one_plus_deviation,
            n_minus_one,
            eps_missing,
            eps_outside_the_root,
            mean_of_the_content_kept,
        ),
    )
)
register(
    Exercise(
        question="Fold n (1 + scale) + shift into the Linear that follows it: a new weight and a new bias.",
        solution=fold_into_linear,
        returns=("weight", "bias"),
        cases=fold_into_linear_cases,
        hints=(
            "Write W (n (1 + scale) + shift) + b, and sort the terms: which ones multiply n, which do not?",
            "Input channel i is multiplied by column i of weight, so that column is multiplied by 1 + scale[i].",
            "weight * (1 + scale) scales columns by broadcasting; shift passes through the old weight: weight @ shift.",
        ),
        wrong=by_name(
            rows_scaled,
            one_plus_forgotten,
            shift_forgotten,
            shift_added_bare,
            shift_scaled_too,
            weight_transposed,
            old_bias_dropped,
            one_plus_forgotten_in_both,
        ),
    )
)
