"""Exercises of notebook 08: blocks from what they changed, halves that are swapped, modulation counted and shared."""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.blocks import golden, qwenimage21
from adaln_lab.conditioning import AdaLNZeroBlock, BlockCondition
from adaln_lab.data import scenes
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.layers import zero_linear
from adaln_lab.norms import gated, layer_norm, modulate, split_vectors


def lumina_block(x: Tensor, vectors: tuple, norms: tuple, attn: Callable, mlp: Callable) -> Tensor:
    """x (B, T, D); vectors s1, g1, s2, g2 (B, 1, D); norms RMS_1 .. RMS_4 -> the stream after the block."""
    s1, g1, s2, g2 = vectors
    x = x + torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1)))
    return x + torch.tanh(g2) * norms[3](mlp(norms[2](x) * (1 + s2)))


def _mlp(d: int) -> Callable:
    mix = randn64(d, d, seed=21)
    return lambda h: torch.tanh(h @ mix)


def lumina_block_cases() -> Iterator[tuple]:
    for b, t, d in ((2, 5, 6), (1, 3, 7)):
        vectors = tuple(0.4 * torch.tanh(randn64(b, 1, d, seed=i)) for i in range(4))
        weights = [1 + 0.3 * randn64(d, seed=10 + i) for i in range(4)]
        norms = tuple(lambda h, w=w: F.rms_norm(h, w.shape, w, 1e-5) for w in weights)
        mix = randn64(d, d, seed=20)
        attn = lambda h, m=mix: torch.cumsum(h @ m, 1)  # noqa: E731
        yield randn64(b, t, d, seed=22), vectors, norms, attn, _mlp(d)


register(
    Exercise,
    question="Write Lumina 2's block from the lines that it changed in DiT's.",
    solution=lumina_block,
    returns=("out",),
    cases=lumina_block_cases,
    hints=(
        "Four norms: one before and one after each branch. The stream itself is never normalised.",
        "A branch is norms[1](attn(norms[0](x) * (1 + s1))).",
        "x = x + torch.tanh(g1) * that; then the same with norms[2], norms[3], mlp, s2, g2.",
    ),
    gradients=True,
    mistakes="""
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
tanh of the whole branch
    Large branches add at most 1: your tanh acts on the product. It bounds the gate alone.
    torch.tanh(g1) * norms[1](attn(norms[0](x) * (1 + s1))) => torch.tanh(g1 * norms[1](attn(norms[0](x) * (1 + s1))))
    torch.tanh(g2) * norms[3](mlp(norms[2](x) * (1 + s2))) => torch.tanh(g2 * norms[3](mlp(norms[2](x) * (1 + s2))))
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
""",
)


def hdm_step(x: Tensor, vectors: tuple, norm: Callable, branch: Callable) -> Tensor:
    """One step of HDM: x (B, T, D); vectors s, b, g (B, 1, D), in the chunk order of HDM -> the stream after it."""
    s, b, g = vectors
    a = norm(x) * (1 + s) + b
    return a + (1 + g) * branch(a)


def hdm_step_cases() -> Iterator[tuple]:
    for n, t, d in ((2, 5, 6), (1, 3, 7)):
        vectors = tuple(randn64(n, 1, d, seed=i) for i in range(3))
        weight = randn64(d, seed=3)
        norm = lambda h, w=weight: F.rms_norm(h, w.shape, w, 1e-6)  # noqa: E731
        yield 3 * randn64(n, t, d, seed=5), vectors, norm, _mlp(d)


register(
    Exercise,
    question="Write one step of HDM, and see what its skip path carries.",
    solution=hdm_step,
    returns=("out",),
    cases=hdm_step_cases,
    hints=(
        "In the notebook's code, x is assigned twice.",
        "After the first line x is no longer the input but norm(x) * (1 + s) + b.",
        "a = norm(x) * (1 + s) + b, then a + (1 + g) * branch(a).",
    ),
    gradients=True,
    mistakes="""
skip carries x
    Your residual is x, as in other models. HDM assigns x twice: its residual is the modulated norm.
    return a => return x
gate from zero
    Your gate is g; HDM's is 1 + g: at the start every gate is 1.
    (1 + g) => g
shift first
    You took the shift first, as DiT does. HDM's chunk order is scale, shift, gate.
    s, b, g => b, s, g
skip carries the norm
    Your residual is norm(x) before its modulation; it must be scaled and shifted, too.
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
tanh inside the gate
    Gates beyond 0 and 2 are missing: HDM's gate is 1 + g, without a tanh.
    (1 + g) => (1 + torch.tanh(g))
gate on the sum
    At g = -1 your stream is 0 after the step: the gate multiplies the residual as well as the branch.
    a + (1 + g) * branch(a) => (1 + g) * (a + branch(a))
branch reads the norm
    Scale and shift do not change what the branch receives: it must read the modulated norm.
    branch(a) => branch(norm(x))
branch reads x
    Your branch receives x without norm and modulation: it must read the modulated norm.
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
""",
)


def swap_halves(weight: Tensor) -> Tensor:
    """weight (2 D, C), rows of the scale, then of the shift -> rows of the shift, then of the scale."""
    scale, shift = weight.chunk(2)
    return torch.cat([shift, scale])


def diffusers_last_layer() -> dict[str, Tensor]:
    """The weights of Flux.1's last layer, in the order in which diffusers stores them."""
    weights = golden.shipped("flux_last").tensors["weights"]
    return {k: swap_halves(v) if "adaLN" in k else v for k, v in weights.items()}


register(
    Exercise,
    question="Convert a modulation weight from (scale, shift) to (shift, scale).",
    solution=swap_halves,
    returns=("weight",),
    cases=lambda: [(randn64(8, 6),), (randn64(10, 3, seed=1),), (randn64(2, 7, seed=2),)],
    hints=(
        "A Linear's output n is row n of its weight.",
        "weight.chunk(2) cuts the rows in two blocks.",
        "torch.cat the two blocks in the other order.",
    ),
    later=lambda: [(randn64(8),)],  # a bias
    mistakes="""
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
""",
)


def sd3_modulation(depth: Tensor, width: Tensor) -> Tensor:
    """Parameters of all modulation in SD3, final layer included; depth and width are tensors of one number."""
    vectors = 12 * (depth - 1) + (6 + 2) + 2  # blocks of two streams; the last one; the final layer
    return vectors * (width * width + width)


register(
    Exercise,
    question="Count the parameters of SD3's modulation from depth and width.",
    solution=sd3_modulation,
    returns=("parameters",),
    cases=lambda: [torch.tensor(pair, dtype=torch.float64).unbind() for pair in ((24, 1536), (3, 8), (1, 5))],
    hints=(
        "Count vectors first: how many D-wide vectors does the whole model predict from c?",
        "12 in every block but the last, 6 + 2 in the last, 2 in the final layer.",
        "Each vector costs width * width weights and width biases.",
    ),
    mistakes="""
one stream
    You counted one stream. Image and text have one Linear each: 12 vectors for each block.
    12 * (depth - 1) + (6 + 2) => 6 * (depth - 1) + 6
biases forgotten
    You forgot the biases: a Linear from D to D has D * D + D parameters.
    (width * width + width) => width * width
last block like the others
    In the last block the text only gives q, k, v: it has two vectors, shift and scale, not six.
    (6 + 2) => 12
last block counted twice
    You count the last block among those of two streams, and once more: depth - 1 blocks have twelve vectors.
    (depth - 1) => depth
last block without six
    In the last block the text has two vectors and the image still has its six.
    (6 + 2) => 4
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
""",
)


def flux2_stack(x: Tensor, ctx: Tensor, c: Tensor, weights: tuple, double: Callable, single: Callable) -> Tensor:
    """x (B, T, D), ctx (B, S, D), c (B, D), weights of the three Linears -> image tokens (B, T, D) after all blocks."""
    img, txt, one = (F.linear(F.silu(c), w).unsqueeze(1) for w in weights)
    x, ctx = double(x, ctx, img, txt)
    both = single(torch.cat([ctx, x], dim=1), one)
    return both[:, ctx.shape[1] :]


def flux2_stack_cases() -> Iterator[tuple]:
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
        yield *streams, weights, double, single


register(
    Exercise,
    question="Compute FLUX.2's vectors once, and carry both streams through all blocks with them.",
    solution=flux2_stack,
    returns=("image tokens",),
    cases=flux2_stack_cases,
    hints=(
        "Three Linears, each once: for the image, for the text, and for the blocks of one sequence.",
        "A Linear without bias is F.linear(F.silu(c), weight); a token axis makes its result (B, 1, 6 D).",
        "double gives x and ctx; torch.cat([ctx, x], dim=1) goes to single; drop the first ctx.shape[1] tokens.",
    ),
    gradients=True,
    mistakes="""
silu missing
    Your vectors are linear in c: SiLU acts on c before each Linear.
    F.silu(c) => c
silu on vectors
    Your vectors are hardly ever negative: SiLU acts on c before the Linear, not on what it makes.
    F.linear(F.silu(c), w) => F.silu(F.linear(c, w))
silu on both sides
    SiLU acts twice, before and after the Linear: only the first belongs there.
    F.linear(F.silu(c), w) => F.silu(F.linear(F.silu(c), w))
gelu as in krea
    You have GELU before the Linears, as Krea 2. FLUX.2 has SiLU.
    F.silu(c) => F.gelu(c, approximate="tanh")
vectors of the other stream
    Your image gets the vectors of the text, and the text those of the image.
    img, txt, one = => txt, img, one =
one linear for both streams
    The second Linear has no effect: text and image share blocks, but each has its own vectors.
    in weights) => in (weights[0], weights[0], weights[2]))
image first
    Your sequence begins with the image. In FLUX.2 the text comes first, and positions count on it.
    torch.cat([ctx, x], dim=1) => torch.cat([x, ctx], dim=1)
    [:, ctx.shape[1] :] => [:, : x.shape[1]]
text returned
    You return text tokens as well: only those of the image go on to the output layer.
    [:, ctx.shape[1] :] =>
text from before the blocks
    The single blocks get the text as it came in: double returns the image and the text, and both are new.
    x, ctx = double( => x, _ = double(
first tokens returned
    You return as many tokens as there are image tokens, but from the front: there the text is.
    [:, ctx.shape[1] :] => [:, : x.shape[1]]
called for each block
    double stands for all eight double blocks, single for all 48 single blocks: each is called once.
    img, txt, one = (F.linear(F.silu(c), w).unsqueeze(1) for w in weights)
    for _ in range(8):
        x, ctx = double(x, ctx, img, txt)
    both = torch.cat([ctx, x], dim=1)
    for _ in range(48):
        both = single(both, one)
    return both[:, ctx.shape[1] :]
single blocks without text
    Your single blocks see the image alone: text and image go through them as one sequence.
    single(torch.cat([ctx, x], dim=1), one) => single(x, one)
    [:, ctx.shape[1] :] =>
""",
)


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
    Predict,
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
    Repair,
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
    Design,
    question="Choose a modulation of at most 3,000 parameters whose held-out loss is at most 0.545.",
    solution=small_modulation,
    measure=measure_small,
    goal=0.545,
    budget=3000,
    unit="parameters",
    is_value=True,
    hints=(
        "Six vectors of width 32 from a c of width 32 are 6,336 parameters. Three blocks have three times that.",
        "Share one Linear first. Then leave out a vector or make c narrower. Keep the gate.",
        "Shared, without the scale, through 16 numbers: 2,688 parameters.",
    ),
)
