"""Exercises of notebook 08: blocks from their formulas, halves that are swapped, modulation counted and shared.

For each exercise: the solution, then common mistakes, one function each, with the docstring that `check` prints.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks import golden, qwenimage21
from adaln_lab.conditioning import AdaLNZeroBlock, BlockCondition
from adaln_lab.data import scenes
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.exercises.core import Exercise, by_name, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.layers import zero_linear
from adaln_lab.norms import gated, layer_norm, modulate, split_vectors

# lumina_block: no shift, bounded gates, a norm on both sides of a branch


def lumina_block(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """x (B, T, D); vectors s1, g1, s2, g2 (B, 1, D); norms RMS_1 .. RMS_4 -> the stream after the block."""
    s1, g1, s2, g2 = vectors
    x = x + torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1)))
    return x + torch.tanh(g2) * norms[3](mlp(norms[2](x) * (1 + s2)))


def raw_gates(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your gates are raw, as DiT's. Lumina 2 bounds them: tanh(g)."""
    s1, g1, s2, g2 = vectors
    return lumina_block(x, (s1, torch.atanh(g1), s2, torch.atanh(g2)), norms, attn, mlp)


def nothing_after_the_branch(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your branches do not end in a norm. RMS_2 and RMS_4 come after attention and MLP, before the gate."""
    return lumina_block(x, vectors, (norms[0], _same, norms[2], _same), attn, mlp)


def norm_after_the_sum(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """You normalise the stream after the sum. The norm is part of the branch; the residual stream is not normalised."""
    s1, g1, s2, g2 = vectors
    x = norms[1](x + torch.tanh(g1) * attn(norms[0](x) * (1 + s1)))
    return norms[3](x + torch.tanh(g2) * mlp(norms[2](x) * (1 + s2)))


def scale_without_one(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """You multiply by s; it is 1 + s, so that zero vectors leave the norm as it is."""
    s1, g1, s2, g2 = vectors
    return lumina_block(x, (s1 - 1, g1, s2 - 1, g2), norms, attn, mlp)


def both_branches_see_x(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your MLP sees the block's input. It sees u, the stream after attention."""
    s1, g1, s2, g2 = vectors
    u = x + torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1)))
    return u + torch.tanh(g2) * norms[3](mlp(norms[2](x) * (1 + s2)))


def scales_before_gates(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """You took the vectors as s1, s2, g1, g2. The chunk order is scale, gate, scale, gate."""
    s1, g1, s2, g2 = vectors
    return lumina_block(x, (s1, s2, g1, g2), norms, attn, mlp)


def attention_lost(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """What attention gave is read by the MLP and then lost: the second sum starts again from the x that came in."""
    s1, g1, s2, g2 = vectors
    u = x + torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1)))
    return x + torch.tanh(g2) * norms[3](mlp(norms[2](u) * (1 + s2)))


def sigmoid_gates(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """At g = 0 half of each branch still passes: your gates go through a sigmoid. Lumina 2 has a tanh there."""
    s1, g1, s2, g2 = vectors
    return lumina_block(x, (s1, torch.atanh(g1.sigmoid()), s2, torch.atanh(g2.sigmoid())), norms, attn, mlp)


def one_plus_gates(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """At g = 0 your branches are fully on: only the scale has a 1 +."""
    s1, g1, s2, g2 = vectors
    x = x + (1 + torch.tanh(g1)) * norms[1](attn(norms[0](x) * (1 + s1)))
    return x + (1 + torch.tanh(g2)) * norms[3](mlp(norms[2](x) * (1 + s2)))


def attention_without_a_gate(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Whatever g1 is, your result is the same: the attention branch has no gate."""
    s1, _, s2, g2 = vectors
    x = x + norms[1](attn(norms[0](x) * (1 + s1)))
    return x + torch.tanh(g2) * norms[3](mlp(norms[2](x) * (1 + s2)))


def gates_missing(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Whatever g1 and g2 are, your result is the same: nothing multiplies a branch before it is added."""
    s1, _, s2, _ = vectors
    x = x + norms[1](attn(norms[0](x) * (1 + s1)))
    return x + norms[3](mlp(norms[2](x) * (1 + s2)))


def stream_rebound(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """You add each branch to its own input: x was replaced by the scaled tokens, and the residual stream is lost."""
    s1, g1, s2, g2 = vectors
    x = norms[0](x) * (1 + s1)
    x = norms[2](x + torch.tanh(g1) * norms[1](attn(x))) * (1 + s2)
    return x + torch.tanh(g2) * norms[3](mlp(x))


def mlp_branch_calls_attention(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your second branch calls attn again: a line was copied, its call was not changed, and mlp never runs."""
    return lumina_block(x, vectors, norms, attn, attn)


def gate_of_attention_twice(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Whatever g2 is, your result is the same: a line was copied, and with it the gate of attention."""
    s1, g1, s2, _ = vectors
    return lumina_block(x, (s1, g1, s2, g1), norms, attn, mlp)


def norms_of_attention_twice(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """The last two norms never run: your second branch uses those of attention."""
    return lumina_block(x, vectors, (norms[0], norms[1], norms[0], norms[1]), attn, mlp)


def gates_inside_the_norms(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """A gate of .01 and one of .1 give the same update: the norm after it removes the size of what it multiplies."""
    s1, g1, s2, g2 = vectors
    x = x + norms[1](torch.tanh(g1) * attn(norms[0](x) * (1 + s1)))
    return x + norms[3](torch.tanh(g2) * mlp(norms[2](x) * (1 + s2)))


def scales_and_gates_swapped(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """At s = 0 your branches add nothing, and that is what a gate is for: the order is scale, gate, scale, gate."""
    s1, g1, s2, g2 = vectors
    return lumina_block(x, (g1, s1, g2, s2), norms, attn, mlp)


def branches_told_each_others_vectors(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your attention gets s2 and g2, and the MLP s1 and g1: the first two of the four belong to attention."""
    s1, g1, s2, g2 = vectors
    return lumina_block(x, (s2, g2, s1, g1), norms, attn, mlp)


def nothing_before_the_branch(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your branches receive x without a norm. RMS_1 and RMS_3 come before attention and MLP."""
    return lumina_block(x, vectors, (_same, norms[1], _same, norms[3]), attn, mlp)


def tanh_on_the_scale_too(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Large scales have too little effect: only the gates are bounded by tanh."""
    s1, g1, s2, g2 = vectors
    return lumina_block(x, (torch.tanh(s1), g1, torch.tanh(s2), g2), norms, attn, mlp)


def skip_forgotten(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """At g = 0 your result is 0: each branch must be added to the stream."""
    s1, g1, s2, g2 = vectors
    x = torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1)))
    return torch.tanh(g2) * norms[3](mlp(norms[2](x) * (1 + s2)))


def scaled_before_the_norm(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """A scale that is equal in all channels has no effect: you scale first, and the norm takes it away."""
    s1, g1, s2, g2 = vectors
    x = x + torch.tanh(g1) * norms[1](attn(norms[0](x * (1 + s1))))
    return x + torch.tanh(g2) * norms[3](mlp(norms[2](x * (1 + s2))))


def norms_in_another_order(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your norms are in the wrong places: 1 and 3 stand before attention and MLP, 2 and 4 after them."""
    return lumina_block(x, vectors, (norms[1], norms[0], norms[3], norms[2]), attn, mlp)


def norms_of_both_first(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """Your norms are in the wrong places: the first two belong to attention, one before and one after it."""
    return lumina_block(x, vectors, (norms[0], norms[2], norms[1], norms[3]), attn, mlp)


def _mlp(d: int) -> Callable:
    mix = randn64(d, d, seed=21)
    return lambda h: torch.tanh(h @ mix)


def _same(h: Tensor) -> Tensor:
    return h


def lumina_block_cases() -> list[tuple]:
    cases = []
    for b, t, d in ((2, 5, 6), (1, 3, 7)):
        vectors = tuple(0.4 * torch.tanh(randn64(b, 1, d, seed=i)) for i in range(4))
        weights = [1 + 0.3 * randn64(d, seed=10 + i) for i in range(4)]
        norms = tuple(lambda h, w=w: F.rms_norm(h, w.shape, w, 1e-5) for w in weights)
        mix = randn64(d, d, seed=20)
        attn = lambda h, m=mix: torch.cumsum(h @ m, 1)  # noqa: E731
        cases.append((randn64(b, t, d, seed=22), vectors, norms, attn, _mlp(d)))
    return cases


register(
    Exercise(
        question="Write Lumina 2's block from its formula: norm, scale, branch, norm, bounded gate, twice.",
        solution=lumina_block,
        returns=("out",),
        cases=lumina_block_cases,
        hints=(
            "Four norms: one before and one after each branch. The stream itself is never normalised.",
            "A branch is norms[1](attn(norms[0](x) * (1 + s1))).",
            "x = x + torch.tanh(g1) * that; then the same with norms[2], norms[3], mlp, s2, g2.",
        ),
        wrong=by_name(
            raw_gates,
            nothing_after_the_branch,
            norm_after_the_sum,
            scale_without_one,
            both_branches_see_x,
            scales_before_gates,
            attention_lost,
            sigmoid_gates,
            one_plus_gates,
            attention_without_a_gate,
            gates_missing,
            stream_rebound,
            mlp_branch_calls_attention,
            gate_of_attention_twice,
            norms_of_attention_twice,
            gates_inside_the_norms,
            scales_and_gates_swapped,
            branches_told_each_others_vectors,
            nothing_before_the_branch,
            tanh_on_the_scale_too,
            skip_forgotten,
            scaled_before_the_norm,
            norms_in_another_order,
            norms_of_both_first,
        ),
        gradients=True,
    )
)

# hdm_step: what the skip carries


def hdm_step(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """One step of HDM: x (B, T, D); vectors s, b, g (B, 1, D), in the chunk order of HDM -> the stream after it."""
    s, b, g = vectors
    a = norm(x) * (1 + s) + b
    return a + (1 + g) * branch(a)


def skip_carries_x(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Your residual is x, as in other models. HDM replaces it: its residual is the modulated norm, a."""
    s, b, g = vectors
    return x + (1 + g) * branch(norm(x) * (1 + s) + b)


def gate_from_zero(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Your gate is g; HDM's is 1 + g: at the start every gate is 1."""
    s, b, g = vectors
    return hdm_step(x, (s, b, g - 1), norm, branch)


def shift_first(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """You took the shift first, as DiT does. HDM's chunk order is scale, shift, gate."""
    s, b, g = vectors
    return hdm_step(x, (b, s, g), norm, branch)


def skip_carries_the_norm(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Your residual is norm(x) before its modulation; it must be a, scaled and shifted."""
    s, b, g = vectors
    return norm(x) + (1 + g) * branch(norm(x) * (1 + s) + b)


def no_skip_at_all(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """You return the gated branch alone. HDM has a residual, too: which one?"""
    s, b, g = vectors
    return (1 + g) * branch(norm(x) * (1 + s) + b)


def scale_without_one_plus(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """At s = b = 0 your stream is 0 after the step: the scale comes without its 1 +."""
    s, b, g = vectors
    return hdm_step(x, (s - 1, b, g), norm, branch)


def sigmoid_gate(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """At g = 0 half of your branch passes: the gate goes through a sigmoid. HDM's gate is 1 + g."""
    s, b, g = vectors
    return hdm_step(x, (s, b, g.sigmoid() - 1), norm, branch)


def gate_missing_here(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Whatever g is, your result is the same: nothing multiplies the branch."""
    s, b, _ = vectors
    return hdm_step(x, (s, b, 0 * b), norm, branch)


def gate_on_the_sum(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """At g = -1 your stream is 0 after the step: the gate multiplies the residual as well as the branch."""
    s, b, g = vectors
    return (1 + g) * hdm_step(x, (s, b, 0 * g), norm, branch)


def branch_reads_the_norm(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Scale and shift do not change what the branch receives: it must read a, which has been modulated."""
    s, b, g = vectors
    return norm(x) * (1 + s) + b + (1 + g) * branch(norm(x))


def branch_reads_x(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Your branch receives x without norm and modulation: it must read a."""
    s, b, g = vectors
    return norm(x) * (1 + s) + b + (1 + g) * branch(x)


def gate_on_the_input(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """At g = -1 your branch still adds something: the gate multiplies what it receives, not what it gives."""
    s, b, g = vectors
    a = norm(x) * (1 + s) + b
    return a + branch((1 + g) * a)


def norm_missing(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Tokens that are twice as large give a stream that is twice as large: x is modulated without a norm."""
    s, b, g = vectors
    a = x * (1 + s) + b
    return a + (1 + g) * branch(a)


def shift_scaled_too(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """Where b is large, your result also depends on s: only the norm is scaled, and b is added after that."""
    s, b, g = vectors
    return hdm_step(x, (s, b * (1 + s), g), norm, branch)


def hdm_step_cases() -> list[tuple]:
    cases = []
    for n, t, d in ((2, 5, 6), (1, 3, 7)):
        vectors = tuple(randn64(n, 1, d, seed=i) for i in range(3))
        weight = randn64(d, seed=3)
        norm = lambda h, w=weight: F.rms_norm(h, w.shape, w, 1e-6)  # noqa: E731
        cases.append((3 * randn64(n, t, d, seed=5), vectors, norm, _mlp(d)))
    return cases


register(
    Exercise(
        question="Write one step of HDM, and see what its skip path carries.",
        solution=hdm_step,
        returns=("out",),
        cases=hdm_step_cases,
        hints=(
            "In the notebook's code, x is assigned twice.",
            "After the first line x is no longer the input but norm(x) * (1 + s) + b.",
            "a = norm(x) * (1 + s) + b, then a + (1 + g) * branch(a).",
        ),
        wrong=by_name(
            skip_carries_x,
            gate_from_zero,
            shift_first,
            skip_carries_the_norm,
            no_skip_at_all,
            scale_without_one_plus,
            sigmoid_gate,
            gate_missing_here,
            gate_on_the_sum,
            branch_reads_the_norm,
            branch_reads_x,
            gate_on_the_input,
            norm_missing,
            shift_scaled_too,
        ),
        gradients=True,
    )
)

# swap_halves: a last layer of one code base for another


def swap_halves(weight: Tensor) -> Tensor:
    """weight (2 D, C), rows of the scale, then of the shift -> rows of the shift, then of the scale."""
    scale, shift = weight.chunk(2)
    return torch.cat([shift, scale])


def rows_reversed(weight: Tensor) -> Tensor:
    """You reversed the order of all rows. Inside a half they stay as they are."""
    return weight.flip(0)


def columns_swapped(weight: Tensor) -> Tensor:
    """You swapped halves of columns, which belong to c. The vectors are rows."""
    return torch.cat(weight.chunk(2, dim=1)[::-1], dim=1)


def rows_interleaved(weight: Tensor) -> Tensor:
    """You swapped neighbouring rows; the halves are blocks of D rows."""
    return weight.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def half_lost(weight: Tensor) -> Tensor:
    """You return one half twice, and the other is lost."""
    return torch.cat([weight.chunk(2)[1]] * 2)


def cut_by_the_width_of_c(weight: Tensor) -> Tensor:
    """Your cut is right only where c is as wide as D: the number of columns is the width of c."""
    return torch.cat([weight[weight.shape[1] :], weight[: weight.shape[1]]])


def left_as_they_were(weight: Tensor) -> Tensor:
    """Your rows are where they were: put the second half first."""
    return torch.cat(weight.chunk(2))


def first_row_last(weight: Tensor) -> Tensor:
    """Only one row has moved: all D rows of a half move together."""
    return weight.roll(-1, 0)


def swap_halves_cases() -> list[tuple]:
    return [(randn64(8, 6),), (randn64(10, 3, seed=1),), (randn64(2, 7, seed=2),)]


register(
    Exercise(
        question="Convert a modulation weight from (scale, shift) to (shift, scale).",
        solution=swap_halves,
        returns=("weight",),
        cases=swap_halves_cases,
        hints=(
            "A Linear's output n is row n of its weight.",
            "weight.chunk(2) cuts the rows in two blocks.",
            "torch.cat the two blocks in the other order.",
        ),
        wrong=by_name(
            rows_reversed,
            columns_swapped,
            rows_interleaved,
            half_lost,
            cut_by_the_width_of_c,
            left_as_they_were,
            first_row_last,
        ),
        later=lambda: [(randn64(8),)],  # a bias
    )
)

# sd3_modulation: a third of a model, counted on paper


def sd3_modulation(depth: Tensor, width: Tensor) -> Tensor:
    """Parameters of all modulation in SD3, final layer included; depth and width are tensors of one number."""
    vectors = 12 * (depth - 1) + (6 + 2) + 2  # blocks of two streams; the last one; the final layer
    return vectors * (width * width + width)


def one_stream(depth: Tensor, width: Tensor) -> Tensor:
    """You counted one stream. Image and text have one Linear each: 12 vectors for each block."""
    return (6 * (depth - 1) + 6 + 2) * (width * width + width)


def biases_forgotten(depth: Tensor, width: Tensor) -> Tensor:
    """You forgot the biases: a Linear from D to D has D * D + D parameters."""
    return (12 * (depth - 1) + 10) * width * width


def last_block_like_the_others(depth: Tensor, width: Tensor) -> Tensor:
    """In the last block the text only gives q, k, v: it has two vectors, shift and scale, not six."""
    return (12 * depth + 2) * (width * width + width)


def two_vectors_missing(depth: Tensor, width: Tensor) -> Tensor:
    """The final layer has a shift and a scale, and so has the text in the last block: one pair is not counted."""
    return (12 * (depth - 1) + 8) * (width * width + width)


def final_layer_with_a_gate(depth: Tensor, width: Tensor) -> Tensor:
    """The final layer has no gate, for it has no residual: two vectors."""
    return (12 * (depth - 1) + 11) * (width * width + width)


def one_bias_in_all(depth: Tensor, width: Tensor) -> Tensor:
    """You are a little too low, and more so for many blocks: each vector has its own bias of D numbers."""
    return (12 * (depth - 1) + 10) * width * width + width


def only_whole_blocks(depth: Tensor, width: Tensor) -> Tensor:
    """With one block you count 12 vectors, with two 24, and so on: what is special at the end is missing."""
    return 12 * depth * (width * width + width)


def three_vectors_for_a_stream(depth: Tensor, width: Tensor) -> Tensor:
    """You counted shift, scale and gate once for each stream: attention and MLP each have their own three."""
    return (6 * (depth - 1) + 10) * (width * width + width)


def neither_bias_nor_end(depth: Tensor, width: Tensor) -> Tensor:
    """You count the weights of whole blocks: the biases are missing, and what is special at the end."""
    return 12 * depth * width * width


def sd3_modulation_cases() -> list[tuple]:
    return [
        (torch.tensor(float(depth)).double(), torch.tensor(float(width)).double())
        for depth, width in ((24, 1536), (3, 8), (1, 5))
    ]


register(
    Exercise(
        question="Count the parameters of SD3's modulation from depth and width.",
        solution=sd3_modulation,
        returns=("parameters",),
        cases=sd3_modulation_cases,
        hints=(
            "Count vectors first: how many D-wide vectors does the whole model predict from c?",
            "12 in every block but the last, 6 + 2 in the last, 2 in the final layer.",
            "Each vector costs width * width weights and width biases.",
        ),
        wrong=by_name(
            one_stream,
            biases_forgotten,
            last_block_like_the_others,
            two_vectors_missing,
            final_layer_with_a_gate,
            one_bias_in_all,
            only_whole_blocks,
            three_vectors_for_a_stream,
            neither_bias_nor_end,
        ),
    )
)

# flux2_stack: one modulation for all blocks


def flux2_stack(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """x (B, T, D), ctx (B, S, D), c (B, D), weights of the three Linears -> image tokens (B, T, D) after all blocks."""
    img, txt, one = (F.linear(F.silu(c), w).unsqueeze(1) for w in weights)
    x, ctx = double(x, ctx, img, txt)
    both = single(torch.cat([ctx, x], dim=1), one)
    return both[:, ctx.shape[1] :]


def _flux2(
    x: Tensor, ctx: Tensor, vectors: tuple, double: Callable, single: Callable, text_first: bool = True
) -> Tensor:
    """The solution after its first line, for versions with one mistake."""
    img, txt, one = (v.unsqueeze(1) for v in vectors)
    x, ctx = double(x, ctx, img, txt)
    n = ctx.shape[1]
    return single(torch.cat([ctx, x], dim=1), one)[:, n:] if text_first else single(torch.cat([x, ctx], 1), one)[:, :-n]


def silu_missing(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """Your vectors are linear in c: SiLU acts on c before each Linear."""
    return _flux2(x, ctx, tuple(F.linear(c, w) for w in weights), double, single)


def silu_on_vectors(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """Your vectors are hardly ever negative: SiLU acts on c before the Linear, not on what it makes."""
    return _flux2(x, ctx, tuple(F.silu(F.linear(c, w)) for w in weights), double, single)


def silu_on_both_sides(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """SiLU acts twice, before and after the Linear: only the first belongs there."""
    return _flux2(x, ctx, tuple(F.silu(F.linear(F.silu(c), w)) for w in weights), double, single)


def gelu_as_in_krea(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """You have GELU before the Linears, as Krea 2. FLUX.2 has SiLU."""
    return _flux2(x, ctx, tuple(F.linear(F.gelu(c, approximate="tanh"), w) for w in weights), double, single)


def vectors_of_the_other_stream(
    x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable
) -> Tensor:
    """Your image gets the vectors of the text, and the text those of the image."""
    return flux2_stack(x, ctx, c, (weights[1], weights[0], weights[2]), double, single)


def one_linear_for_both_streams(
    x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable
) -> Tensor:
    """The second Linear has no effect: text and image share blocks, but each has its own vectors."""
    return flux2_stack(x, ctx, c, (weights[0], weights[0], weights[2]), double, single)


def image_first(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """Your sequence begins with the image. In FLUX.2 the text comes first, and positions count on it."""
    img, txt, one = (F.linear(F.silu(c), w).unsqueeze(1) for w in weights)
    x, ctx = double(x, ctx, img, txt)
    return single(torch.cat([x, ctx], dim=1), one)[:, : x.shape[1]]


def text_returned(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """You return text tokens as well: only those of the image go on to the output layer."""
    img, txt, one = (F.linear(F.silu(c), w).unsqueeze(1) for w in weights)
    x, ctx = double(x, ctx, img, txt)
    return single(torch.cat([ctx, x], dim=1), one)


def text_from_before_the_blocks(
    x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable
) -> Tensor:
    """The single blocks get the text as it came in: double returns the image and the text, and both are new."""
    img, txt, one = (F.linear(F.silu(c), w).unsqueeze(1) for w in weights)
    x, _ = double(x, ctx, img, txt)
    return single(torch.cat([ctx, x], dim=1), one)[:, ctx.shape[1] :]


def single_blocks_without_text(
    x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable
) -> Tensor:
    """Your single blocks see the image alone: text and image go through them as one sequence."""
    img, txt, one = (F.linear(F.silu(c), w).unsqueeze(1) for w in weights)
    return single(double(x, ctx, img, txt)[0], one)


def flux2_stack_cases() -> list[tuple]:
    cases = []
    for batch, t, n, d in ((2, 5, 3, 6), (1, 4, 2, 7)):
        mix, other = randn64(d, d, seed=30), randn64(d, d, seed=31)

        def double(x, ctx, img, txt, mix=mix):
            seen = torch.tanh(torch.cat([ctx, x], 1).mean(1, keepdim=True) @ mix)
            streams = []
            for h, vectors in ((x, img), (ctx, txt)):
                b1, s1, g1, b2, s2, g2 = vectors.chunk(6, dim=-1)
                h = h + g1 * torch.tanh(h * (1 + s1) + b1 + seen)
                streams.append(h + g2 * torch.tanh(h * (1 + s2) + b2))
            return tuple(streams)

        def single(both, vectors, other=other):
            b, s, g = vectors.chunk(3, dim=-1)
            h = both * (1 + s) + b
            return both + g * torch.tanh(torch.cumsum(h @ other, 1) + h.mean(1, keepdim=True))

        weights = tuple(randn64(k * d, d, seed=32 + i) for i, k in enumerate((6, 6, 3)))
        streams = randn64(batch, t, d, seed=35), randn64(batch, n, d, seed=36), randn64(batch, d, seed=37)
        cases.append((*streams, weights, double, single))
    return cases


register(
    Exercise(
        question="Compute FLUX.2's vectors once, and carry both streams through all blocks with them.",
        solution=flux2_stack,
        returns=("image tokens",),
        cases=flux2_stack_cases,
        hints=(
            "Three Linears, each once: for the image, for the text, and for the blocks of one sequence.",
            "A Linear without bias is F.linear(F.silu(c), weight); a token axis makes its result (B, 1, 6 D).",
            "double gives x and ctx; torch.cat([ctx, x], dim=1) goes to single; drop the first ctx.shape[1] tokens.",
        ),
        wrong=by_name(
            silu_missing,
            silu_on_vectors,
            silu_on_both_sides,
            gelu_as_in_krea,
            vectors_of_the_other_stream,
            one_linear_for_both_streams,
            image_first,
            text_returned,
            text_from_before_the_blocks,
            single_blocks_without_text,
        ),
        gradients=True,
    )
)

# what_changes: rows of vectors for each token, and a mask


def what_changes() -> dict[str, tuple]:
    """Which tokens of a small random Qwen-Image-2.1 change when one input does."""
    kinds = {"text": slice(0, 3), "condition image": slice(3, 7), "target image": slice(7, 11)}
    ids = torch.tensor(3 * [-1] + 4 * [0] + 4 * [1])
    stack = qwenimage21.Stack(width=16, heads=2, head_width=8, hidden=32, depth=3, out=5).double()
    x, c = randn64(1, 11, 16), randn64(2, 16, seed=1)  # rows of c: the sample's time, and time 0
    before, table = stack(x, c, ids), {kind: [] for kind in kinds}
    for row, token in ((0, None), (None, 2), (None, 3), (None, 7)):
        new_x, new_c = x.clone(), c.clone()
        if row is None:
            new_x[:, token] = randn64(16, seed=2)
        else:
            new_c[row] = randn64(16, seed=2)
        moved = (stack(new_x, new_c, ids) - before).abs().amax((0, 2))
        for kind, tokens in kinds.items():
            table[kind].append("yes" if moved[tokens].max() > 1e-9 else "no")
    return {kind: tuple(cells) for kind, cells in table.items()}


register(
    Predict(
        question="Write yes where some token of the row's kind changes, else no.",
        solution=what_changes,
        columns=("the step's time", "the last word", "a condition patch", "a target patch"),
        notes={
            "the step's time": "which tokens read the row of the step's time, and who sees those tokens?",
            "text": "a word sees itself and the tokens before it. What stands before the text?",
            "condition image": "its tokens read the row of time 0, and they see the text and all of their own image.",
            "target image": "it is the last in the sequence: what does it not see?",
        },
        hints=(
            "Ask two questions of each cell: does this token read what changed, and does it see a token that did?",
            "Query i sees key j if j <= i, or if both are in the same image. The order is text, condition, target.",
            "Text and condition image read the row of time 0 and do not see the target: neither depends on the step.",
        ),
    )
)

# to_ours: weights of MiniMax-H3 for our block


def to_ours(weights: dict) -> dict:
    names = {"to_modulation.1": "adaln_proj.linear", "norm_attn": "norm1", "norm_mlp": "norm2"}
    names |= {"attn.norm_q": "attn.norm_q", "attn.norm_k": "attn.norm_k", "attn.out": "attn.to_out.0"}
    ours = {f"{mine}.weight": weights[f"{theirs}.weight"] for mine, theirs in names.items()}
    ours["to_modulation.1.bias"] = weights["adaln_proj.linear.bias"]
    ours["attn.qkv.weight"] = torch.cat([weights[f"attn.to_{name}.weight"] for name in "qkv"])
    ours["mlp.up.weight"] = torch.cat(weights["ff.net.0.proj.weight"].chunk(2)[::-1])  # value, gate -> gate, value
    ours["mlp.down.weight"] = weights["ff.net.2.weight"]
    return ours


def to_ours_given(weights: dict) -> dict:
    names = {"to_modulation.1": "adaln_proj.linear", "norm_attn": "norm1", "norm_mlp": "norm2"}
    names |= {"attn.norm_q": "attn.norm_q", "attn.norm_k": "attn.norm_k", "attn.out": "attn.to_out.0"}
    ours = {f"{mine}.weight": weights[f"{theirs}.weight"] for mine, theirs in names.items()}
    ours["to_modulation.1.bias"] = weights["adaln_proj.linear.bias"]
    ours["attn.qkv.weight"] = torch.cat([weights[f"attn.to_{name}.weight"] for name in "qkv"])
    ours["mlp.up.weight"] = weights["ff.net.0.proj.weight"]
    ours["mlp.down.weight"] = weights["ff.net.2.weight"]
    return ours


def largest_difference(to_ours: Callable) -> float:
    """Between the stored output of MiniMax-H3's block and ours with these weights, which must fit by name and shape."""
    stored = golden.shipped("minimax_h3_block")
    replica, inputs = golden.build(stored), stored.tensors["inputs"]
    with torch.no_grad():
        replica.block.load_state_dict(to_ours(dict(stored.tensors["weights"])), strict=True)
        found = replica.call(replica.block, **inputs)["x"]
    return (found - stored.tensors["outputs_exact"]["x"]).abs().max().item()


def examine_to_ours(answer: Callable) -> tuple[bool, str]:
    off = largest_difference(answer)
    text = f"the block is off by up to {off:.3g} (expected < 1e-10)"
    return off < 1e-10, text if off < 1e-10 else f"{text}; all names and shapes fit, so look at the order of rows"


register(
    Repair(
        question="Change one line, so that the block with these weights gives MiniMax-H3's numbers.",
        solution=to_ours,
        given=to_ours_given,
        examine=examine_to_ours,
        hints=(
            "A layer whose halves are swapped has the right shape. Which layers here are several layers in one?",
            "q, k, v come from three weights, so their order is ours to choose. The MLP's first weight is two in one.",
            "MiniMax-H3 has the value first, then the gate: torch.cat(weight.chunk(2)[::-1]).",
        ),
    )
)

# small_modulation: the least that does nearly as well on drawn scenes

WIDTH, DEPTH, STEPS, SIZE = 32, 3, 150, 16


class SmallModulation(nn.Module):
    """SiLU(c), through `rank` numbers if that is not None, to two branches of the named vectors, all zero at first."""

    def __init__(self, vectors: tuple[str, ...], rank: int | None):
        super().__init__()
        narrow = [] if rank is None else [nn.Linear(WIDTH, rank, bias=False)]
        self.layers = nn.Sequential(nn.SiLU(), *narrow, zero_linear(rank or WIDTH, 2 * len(vectors) * WIDTH))
        self.vectors = vectors

    def forward(self, c: Tensor) -> tuple:
        return split_vectors(self.layers(c).unsqueeze(1), 2, self.vectors)


class SmallBlock(AdaLNZeroBlock):
    """DiT's block, in which a vector may be missing."""

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = gated(x, self.attn(modulate(layer_norm(x), attn)), attn.gate)
        return gated(x, self.mlp(modulate(layer_norm(x), mlp)), mlp.gate)


@cache
def some_scenes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n captions and their pictures."""
    tokens = scenes.random_scenes(n, torch.Generator().manual_seed(seed))
    return tokens, scenes.render(tokens, SIZE)


def scenes_loss(model: nn.Module, tokens: Tensor, x_0: Tensor, generator: torch.Generator) -> Tensor:
    t, noise = torch.rand(len(x_0), generator=generator), torch.randn(x_0.shape, generator=generator)
    x_t = torch.lerp(x_0, noise, t[:, None, None, None])
    return (model(x_t, t, tokens) - (noise - x_0)).square().mean()


@cache
@torch.enable_grad()
def train_small(shared: bool, vectors: tuple[str, ...], rank: int | None, seeds: int = 2) -> tuple[float, int]:
    """Held-out loss after training, the mean over seeds, and the parameters of the modulation of all blocks."""
    words, losses = len(scenes.VOCABULARY), []
    config = DiTConfig(
        size=SIZE, channels=3, patch=4, width=WIDTH, depth=DEPTH, heads=4, n_classes=words, context_length=7
    )
    (tokens, pictures), held = some_scenes(2000, 0), some_scenes(500, 1)
    for seed in range(seeds):
        torch.manual_seed(seed)
        model, generator = TinyDiT(config), torch.Generator().manual_seed(seed)
        one = SmallModulation(vectors, rank)
        model.blocks = nn.ModuleList(SmallBlock(WIDTH, 4, WIDTH) for _ in range(DEPTH))
        for block in model.blocks:
            block.to_modulation = one if shared else SmallModulation(vectors, rank)
        parts = {id(p): p.numel() for block in model.blocks for p in block.to_modulation.parameters()}
        adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
        for step in range(STEPS):
            adam.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - step / STEPS)
            chosen = torch.randint(len(tokens), (32,), generator=generator)
            adam.zero_grad()
            scenes_loss(model, tokens[chosen], pictures[chosen], generator).backward()
            adam.step()
        with torch.no_grad():
            losses.append(scenes_loss(model, *held, torch.Generator().manual_seed(2)).item())
    return sum(losses) / seeds, sum(parts.values())


def small_modulation() -> dict:
    return {"shared": True, "vectors": ("shift", "gate"), "rank": 16}


def measure_small(design: dict) -> tuple[float, float] | str:
    """Loss and parameters of a design, or what is wrong with it."""
    names = ("shift", "scale", "gate")
    if not isinstance(design, dict) or set(design) != {"shared", "vectors", "rank"}:
        return "give check a dict with shared, vectors and rank"
    vectors, rank = design["vectors"], design["rank"]
    vectors = (vectors,) if isinstance(vectors, str) else tuple(vectors)
    if not vectors or len(set(vectors)) < len(vectors) or not set(vectors) <= set(names):
        return f"vectors must be some of {', '.join(names)}, each once; got {vectors}"
    if not (rank is None or (isinstance(rank, int) and 1 <= rank <= WIDTH)):
        return f"rank must be None or a whole number from 1 to {WIDTH}, got {rank!r}"
    return train_small(bool(design["shared"]), vectors, rank)


register(
    Design(
        question="Choose a modulation of at most 3,000 parameters whose held-out loss is at most 0.532.",
        solution=small_modulation,
        measure=measure_small,
        goal=0.532,
        budget=3000,
        unit="parameters",
        is_value=True,
        hints=(
            "Six vectors of width 32 from a c of width 32 are 6,336 parameters. Three blocks have three times that.",
            "Share one Linear first. Then leave out a vector or make c narrower. Keep the gate.",
            "Shared, without the scale, through 16 numbers: 2,688 parameters.",
        ),
    )
)
