"""Exercises of notebook 08: Lumina 2's block from its formula, HDM's skip, swapped halves, SD3's modulation counted.

For each exercise: the solution, its common mistakes (a table for `core.mutants`), and the arguments of the check.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.exercises.core import Exercise, randn64, register

# lumina_block: no shift, bounded gates, a norm on both sides of a branch


def lumina_block(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """x (B, T, D); vectors s1, g1, s2, g2 (B, 1, D); norms RMS_1 .. RMS_4 -> the stream after the block."""
    s1, g1, s2, g2 = vectors
    x = x + torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1)))
    return x + torch.tanh(g2) * norms[3](mlp(norms[2](x) * (1 + s2)))


LUMINA_BLOCK_MISTAKES = """
raw gates
    Your gates are raw, as DiT's. Lumina 2 bounds them: tanh(g).
    every torch.tanh =>
nothing after the branch
    Your branches do not end in a norm. RMS_2 and RMS_4 come after attention and MLP, before the gate.
    norms[1] =>
    norms[3] =>
norm after the sum
    You normalise the stream after the sum. The norm is part of the branch; the residual stream is not normalised.
    x + torch.tanh(g1) * norms[1](attn( => norms[1](x + torch.tanh(g1) * attn(
    x + torch.tanh(g2) * norms[3](mlp( => norms[3](x + torch.tanh(g2) * mlp(
scale without one
    You multiply by s; it is 1 + s, so that zero vectors leave the norm as it is.
    every 1 + s => s
both branches see x
    Your MLP sees the block's input. It sees u, the stream after attention.
    x = x + => u = x +
    return x + => return u +
scales before gates
    You took the vectors as s1, s2, g1, g2. The chunk order is scale, gate, scale, gate.
    s1, g1, s2, g2 => s1, s2, g1, g2
attention lost
    What attention gave is read by the MLP and then lost: the second sum starts again from the x that came in.
    x = x + => u = x +
    norms[2](x) => norms[2](u)
sigmoid gates
    At g = 0 half of each branch still passes: your gates go through a sigmoid. Lumina 2 has a tanh there.
    every tanh => sigmoid
one plus gates
    At g = 0 your branches are fully on: only the scale has a 1 +.
    torch.tanh(g1) => (1 + torch.tanh(g1))
    torch.tanh(g2) => (1 + torch.tanh(g2))
attention without a gate
    Whatever g1 is, your result is the same: the attention branch has no gate.
    torch.tanh(g1) * =>
gates missing
    Whatever g1 and g2 are, your result is the same: nothing multiplies a branch before it is added.
    torch.tanh(g1) * =>
    torch.tanh(g2) * =>
stream rebound
    You add each branch to its own input: x was replaced by the scaled tokens, and the residual stream is lost.
    s1, g1, s2, g2 = vectors
    x = norms[0](x) * (1 + s1)
    x = x + torch.tanh(g1) * norms[1](attn(x))
    x = norms[2](x) * (1 + s2)
    return x + torch.tanh(g2) * norms[3](mlp(x))
mlp branch calls attention
    Your second branch calls attn again: a line was copied, its call was not changed, and mlp never runs.
    mlp => attn
gate of attention twice
    Whatever g2 is, your result is the same: a line was copied, and with it the gate of attention.
    tanh(g2) => tanh(g1)
norms of attention twice
    The last two norms never run: your second branch uses those of attention.
    norms[2] => norms[0]
    norms[3] => norms[1]
gates inside the norms
    A gate of .01 and one of .1 give the same update: the norm after it removes the size of what it multiplies.
    torch.tanh(g1) * norms[1](attn => norms[1](torch.tanh(g1) * attn
    torch.tanh(g2) * norms[3](mlp => norms[3](torch.tanh(g2) * mlp
scales and gates swapped
    At s = 0 your branches add nothing, and that is what a gate is for: the order is scale, gate, scale, gate.
    s1, g1, s2, g2 => g1, s1, g2, s2
branches told each others vectors
    Your attention gets s2 and g2, and the MLP s1 and g1: the first two of the four belong to attention.
    s1, g1, s2, g2 => s2, g2, s1, g1
nothing before the branch
    Your branches receive x without a norm. RMS_1 and RMS_3 come before attention and MLP.
    norms[0] =>
    norms[2] =>
tanh on the scale too
    Large scales have too little effect: only the gates are bounded by tanh.
    1 + s1 => 1 + torch.tanh(s1)
    1 + s2 => 1 + torch.tanh(s2)
skip forgotten
    At g = 0 your result is 0: each branch must be added to the stream.
    every x + torch => torch
scaled before the norm
    A scale that is equal in all channels has no effect: you scale first, and the norm takes it away.
    norms[0](x) * (1 + s1) => norms[0](x * (1 + s1))
    norms[2](x) * (1 + s2) => norms[2](x * (1 + s2))
norms in another order
    Your norms are in the wrong places: 1 and 3 stand before attention and MLP, 2 and 4 after them.
    norms[1](attn(norms[0] => norms[0](attn(norms[1]
    norms[3](mlp(norms[2] => norms[2](mlp(norms[3]
norms of both first
    Your norms are in the wrong places: the first two belong to attention, one before and one after it.
    norms[2](x) => norms[1](x)
    norms[1](attn => norms[2](attn
"""


def _mlp(d: int) -> Callable:
    mix = randn64(d, d, seed=21)
    return lambda h: torch.tanh(h @ mix)


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
        mistakes=LUMINA_BLOCK_MISTAKES,
        gradients=True,
    )
)

# hdm_step: what the skip carries


def hdm_step(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """One step of HDM: x (B, T, D); vectors s, b, g (B, 1, D), in the chunk order of HDM -> the stream after it."""
    s, b, g = vectors
    a = norm(x) * (1 + s) + b
    return a + (1 + g) * branch(a)


HDM_STEP_MISTAKES = """
skip carries x
    Your residual is x, as in other models. HDM replaces it: its residual is the modulated norm, a.
    return a => return x
gate from zero
    Your gate is g; HDM's is 1 + g: at the start every gate is 1.
    (1 + g) => g
shift first
    You took the shift first, as DiT does. HDM's chunk order is scale, shift, gate.
    s, b, g => b, s, g
skip carries the norm
    Your residual is norm(x) before its modulation; it must be a, scaled and shifted.
    return a => return norm(x)
no skip at all
    You return the gated branch alone. HDM has a residual, too: which one?
    a + (1 + g) => (1 + g)
scale without one plus
    At s = b = 0 your stream is 0 after the step: the scale comes without its 1 +.
    (1 + s) => s
sigmoid gate
    At g = 0 half of your branch passes: the gate goes through a sigmoid. HDM's gate is 1 + g.
    (1 + g) => g.sigmoid()
gate missing here
    Whatever g is, your result is the same: nothing multiplies the branch.
    (1 + g) * =>
gate on the sum
    At g = -1 your stream is 0 after the step: the gate multiplies the residual as well as the branch.
    a + (1 + g) * branch(a) => (1 + g) * (a + branch(a))
branch reads the norm
    Scale and shift do not change what the branch receives: it must read a, which has been modulated.
    branch(a) => branch(norm(x))
branch reads x
    Your branch receives x without norm and modulation: it must read a.
    branch(a) => branch(x)
gate on the input
    At g = -1 your branch still adds something: the gate multiplies what it receives, not what it gives.
    (1 + g) * branch(a) => branch((1 + g) * a)
norm missing
    Tokens that are twice as large give a stream that is twice as large: x is modulated without a norm.
    norm(x) => x
shift scaled too
    Where b is large, your result also depends on s: only the norm is scaled, and b is added after that.
    norm(x) * (1 + s) + b => (norm(x) + b) * (1 + s)
"""


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
        mistakes=HDM_STEP_MISTAKES,
        gradients=True,
    )
)

# swap_halves: a last layer of one code base for another


def swap_halves(weight: Tensor) -> Tensor:
    """weight (2 D, C), rows of the scale, then of the shift -> rows of the shift, then of the scale."""
    scale, shift = weight.chunk(2)
    return torch.cat([shift, scale])


SWAP_HALVES_MISTAKES = """
rows reversed
    You reversed the order of all rows. Inside a half they stay as they are.
    return weight.flip(0)
columns swapped
    You swapped halves of columns, which belong to c. The vectors are rows.
    return torch.cat(weight.chunk(2, dim=1)[::-1], dim=1)
rows interleaved
    You swapped neighbouring rows; the halves are blocks of D rows.
    return weight.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
half lost
    You return one half twice, and the other is lost.
    [shift, scale] => [shift, shift]
cut by the width of c
    Your cut is right only where c is as wide as D: the number of columns is the width of c.
    return torch.cat([weight[weight.shape[1] :], weight[: weight.shape[1]]])
left as they were
    Your rows are where they were: put the second half first.
    [shift, scale] => [scale, shift]
first row last
    Only one row has moved: all D rows of a half move together.
    return weight.roll(-1, 0)
"""


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
        mistakes=SWAP_HALVES_MISTAKES,
        later=lambda: [(randn64(8),)],  # a bias
    )
)

# sd3_modulation: a third of a model, counted on paper


def sd3_modulation(depth: Tensor, width: Tensor) -> Tensor:
    """Parameters of all modulation in SD3, final layer included; depth and width are tensors of one number."""
    vectors = 12 * (depth - 1) + (6 + 2) + 2  # blocks of two streams; the last one; the final layer
    return vectors * (width * width + width)


SD3_MODULATION_MISTAKES = """
one stream
    You counted one stream. Image and text have one Linear each: 12 vectors for each block.
    12 * (depth - 1) + (6 + 2) => 6 * (depth - 1) + 6
biases forgotten
    You forgot the biases: a Linear from D to D has D * D + D parameters.
    (width * width + width) => width * width
last block like the others
    In the last block the text only gives q, k, v: it has two vectors, shift and scale, not six.
    (6 + 2) => 12
two vectors missing
    The final layer has a shift and a scale, and so has the text in the last block: one pair is not counted.
    + (6 + 2) + 2 => + (6 + 2)
final layer with a gate
    The final layer has no gate, for it has no residual: two vectors.
    (6 + 2) + 2 => (6 + 2) + 3
one bias in all
    You are a little too low, and more so for many blocks: each vector has its own bias of D numbers.
    (width * width + width) => width * width + width
only whole blocks
    With one block you count 12 vectors, with two 24, and so on: what is special at the end is missing.
    12 * (depth - 1) + (6 + 2) + 2 => 12 * depth
three vectors for a stream
    You counted shift, scale and gate once for each stream: attention and MLP each have their own three.
    12 * => 6 *
neither bias nor end
    You count the weights of whole blocks: the biases are missing, and what is special at the end.
    return 12 * depth * width * width
"""


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
        mistakes=SD3_MODULATION_MISTAKES,
    )
)
