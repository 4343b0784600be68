"""Exercises of notebook 02: a recipe to repair, scale read off, features of time, a Linear that absorbs modulation.

B batch, D width, C width of c, T tokens or places, O outputs.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.exercises.core import Exercise, faint, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair


def recipe(x, c, mlp_adaln, norm, mlp):
    """x (B, T, D), c (B, C) -> x after one branch, (B, T, D)."""
    scale, shift, gate = mlp_adaln(nn.functional.silu(c)).unsqueeze(1).chunk(3, dim=-1)  # each (B, 1, D)
    h = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    x = x + mlp(h) * gate
    return x


def recipe_given(x, c, mlp_adaln, norm, mlp):
    """x (B, T, D), c (B, C) -> x after one branch, (B, T, D)."""
    scale, shift, gate = mlp_adaln(c).chunk(3, dim=-1)
    h = norm(x) * (1 + scale) + shift
    x = x + mlp(h) * gate
    return x


@torch.no_grad()  # weights are set in place
def recipe_examined(answer: Callable) -> tuple[bool, str]:
    """Four symptoms, one after another; then the numbers."""
    linear, norm, mlp = nn.Linear(8, 24).double(), nn.LayerNorm(8).double(), nn.Linear(8, 8).double()
    x, c, other = randn64(4, 4, 8), randn64(4, 8, seed=1), randn64(4, 8, seed=1)
    other[1] += 1
    changes = (answer(x, c, linear, norm, mlp) - answer(x, other, linear, norm, mlp)).abs().amax(-1)  # (B, T)
    if changes[[0, 2, 3]].max() > 1e-9 or changes[1].min() < 1e-9:
        share = (changes[[0, 2, 3]] > 1e-9).sum().item()
        return False, f"a new condition for picture 1 changes {share} tokens of the other pictures (expected 0)"
    answer(x[:2, :3], c[:2], linear, norm, mlp)  # raises where the batch meets the tokens
    out = answer(x, c, linear, norm, mlp)
    nn.init.constant_(norm.weight, 2.0)
    moved = (answer(x, c, linear, norm, mlp) - out).abs().max().item()
    if moved > 1e-9:
        text = f"gamma of `norm` still changes the output, by up to {moved:.2g} (expected 0)"
        return False, f"{text}: one owner is enough"
    t, y = randn64(2, 1, 8, seed=2), randn64(1, 2, 8, seed=3)
    nn.init.zeros_(linear.weight[16:]), nn.init.ones_(linear.bias[16:])  # gate 1
    h = answer(x, (t + y).flatten(0, 1), linear, norm, nn.Identity()) - x  # with this mlp, the branch's input
    n = F.layer_norm(x, (8,))
    scale = ((h[:, 0] - h[:, 1]) / (n[:, 0] - n[:, 1])).unflatten(0, (2, 2))
    interplay = (scale[0, 0] - scale[0, 1] - scale[1, 0] + scale[1, 1]).abs().max().item()
    if interplay < 1e-3:
        return False, f"time changes both labels' scales alike, up to {interplay:.1g} (expected > 0.001): look at c"
    right = recipe(x, c, linear, norm, mlp)
    off = (answer(x, c, linear, norm, mlp) - right).abs().max().item()
    if not off < 1e-3:
        return False, f"each picture has its own vectors, but the numbers are off by up to {off:.2g}: keep SiLU"
    return True, f"each picture has its own scale, gamma has one owner, and time meets label (by {interplay:.2g})"


register(
    Repair,
    question="Mend the three lines: each picture gets its own vectors, gamma has one owner, and time meets label.",
    solution=recipe,
    given=recipe_given,
    examine=recipe_examined,
    hints=(
        "Write the shape of scale beside the shape of x. Which of the batch's and tokens' axes do they share?",
        "The vectors need an axis of length 1 for tokens. layer_norm(x) has no gamma. A sum needs a SiLU first.",
        "mlp_adaln(F.silu(c)).unsqueeze(1).chunk(3, dim=-1), and layer_norm(x) instead of norm(x).",
    ),
)


def read_off(n: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised tokens n and modulated tokens h, both (B, T, D) -> scale and shift, each (B, 1, D)."""
    scale = (h[:, :1] - h[:, 1:2]) / (n[:, :1] - n[:, 1:2]) - 1  # between two tokens the shift cancels
    return scale, h[:, :1] - n[:, :1] * (1 + scale)


def read_off_cases() -> Iterator[tuple]:
    for seed, (b, t, d) in enumerate(((2, 4, 5), (3, 2, 6), (2, 5, 3))):
        n, scale, shift = F.layer_norm(randn64(b, t, d, seed=seed), (d,)), randn64(b, 1, d, seed=8), randn64(b, 1, d)
        yield n, n * (1 + scale) + shift


register(
    Exercise,
    question="Read scale and shift off from normalised tokens and what modulation made of them.",
    solution=read_off,
    returns=("scale", "shift"),
    cases=read_off_cases,
    hints=(
        "In one channel all tokens lie on a line h = n * slope + shift. How many points give you a line?",
        "Between two tokens of a picture shift cancels: the change of h over the change of n is 1 + scale.",
        "scale = (h[:, :1] - h[:, 1:2]) / (n[:, :1] - n[:, 1:2]) - 1; then solve for shift at one token.",
    ),
    mistakes="""
one kept in scale
    Your scale is 1 too large: the slope of the line is 1 + scale.
    return scale => return 1 + scale
shift taken for nothing
    You divide h by n, as if shift were 0: the line need not go through the origin. Take two tokens.
    (h[:, :1] - h[:, 1:2]) / (n[:, :1] - n[:, 1:2]) => h[:, :1] / n[:, :1]
two channels
    You compare two channels of a token, and each channel has a scale of its own: compare two tokens.
    scale = ((h - h.roll(1, -1)) / (n - n.roll(1, -1)) - 1)[:, :1]
    return scale, h[:, :1] - n[:, :1] * (1 + scale)
shift of the mean
    Your shift is the mean of h over tokens. LN makes the mean over channels 0, not the mean over tokens.
    h[:, :1] - n[:, :1] * (1 + scale) => h.mean(1, keepdim=True)
shift of a token
    You subtract n and not n (1 + scale): what is left holds a part of the scale.
    * (1 + scale) =>
one for the batch
    All your pictures have the first one's vectors: each picture has its own condition.
    scale, shift = read_off(n, h)
    return scale[:1].expand_as(scale), shift[:1].expand_as(shift)
tokens upside down
    You divide the difference of n by that of h: the slope is the change of h over the change of n.
    (h[:, :1] - h[:, 1:2]) / (n[:, :1] - n[:, 1:2]) => (n[:, :1] - n[:, 1:2]) / (h[:, :1] - h[:, 1:2])
shift first
    Both vectors are right and in each other's place: scale comes first.
    return read_off(n, h)[::-1]
no token axis
    Your vectors are right but have no axis for tokens: make them (B, 1, D).
    scale, shift = read_off(n, h)
    return scale[:, 0], shift[:, 0]
""",
)


def time_features(t):
    """t (B,) in [0, 1] -> (B, n) with n at most 8."""
    w = 2 * 50 ** (torch.arange(4, dtype=t.dtype) / 3)  # 2, 7.4, 27, 100
    return torch.cat([(t[:, None] * w).cos(), (t[:, None] * w).sin()], dim=-1)


def time_features_measured(features: Callable[[Tensor], Tensor]) -> tuple[float, float] | str:
    """The largest error of three small networks at times between the 201 of their training, and the width."""
    times = torch.linspace(0, 1, 401, dtype=torch.float64)
    given, rows = times.clone(), features(times)
    if not isinstance(rows, Tensor) or rows.dim() != 2 or len(rows) != len(times) or not rows.is_floating_point():
        return "for t of shape (B,) return a tensor of decimal numbers, (B, n)"
    if not rows.isfinite().all() or not torch.equal(given, times):
        return "a feature is not finite, or t was changed in place"
    rows = rows.detach().double()
    if rows.shape[1] > 8:
        return f"{rows.shape[1]} features; the budget is 8"
    if (rows - torch.cat([features(part) for part in times.split(100)])).abs().max() > 1e-6:
        return "the features of a time must not depend on the other times of the batch"
    wanted = torch.exp(-(((times - 0.3) / 0.02) ** 2)) + torch.sigmoid((times - 0.6) / 0.004)
    errors = []
    for _ in range(3):
        net = nn.Sequential(nn.Linear(rows.shape[1], 64), nn.SiLU(), nn.Linear(64, 1)).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(400):
            optimizer.zero_grad()
            (net(rows[::2])[:, 0] - wanted[::2]).square().mean().backward()
            optimizer.step()
        errors.append((net(rows[1::2])[:, 0] - wanted[1::2]).square().mean().sqrt().item())
    return max(errors), rows.shape[1]


register(
    Design,
    question="Make at most 8 numbers of a time, from which a small network learns a bump and a switch.",
    solution=time_features,
    measure=time_features_measured,
    goal=0.1,
    budget=8,
    unit="features",
    hints=(
        "The bump is 0.04 wide. How much must a feature change over that width to be of use there?",
        "Waves that are all fast repeat: two times then share all features. Combine slow and fast ones.",
        "Cosine and sine of four frequencies from about 2 to about 100, each by the same factor above the last.",
    ),
)


def fold_into_linear(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Linear after n (1 + scale) + shift, as one Linear of n; weight (O, D), bias (O,), scale and shift (D,)."""
    return weight * (1 + scale), bias + weight @ shift


register(
    Exercise,
    question="Fold n (1 + scale) + shift into the Linear that follows it: a new weight and a new bias.",
    solution=fold_into_linear,
    returns=("weight", "bias"),
    # in the first the Linear is square, so that mixing up rows and columns runs and is wrong
    cases=lambda: [
        (randn64(o, d), randn64(o, seed=1), 0.5 * randn64(d, seed=2), randn64(d, seed=3))
        for o, d in ((5, 5), (4, 6), (7, 3))
    ],
    hints=(
        "Write W (n (1 + scale) + shift) + b, and sort the terms: which ones multiply n, which do not?",
        "Input channel i is multiplied by column i of weight, so that column is multiplied by 1 + scale[i].",
        "weight * (1 + scale) scales columns by broadcasting; shift passes through the old weight: weight @ shift.",
    ),
    mistakes="""
rows scaled
    You scale the rows of weight, which are its outputs. Scale acts on inputs: on columns.
    (1 + scale) => (1 + scale)[:, None]
one plus forgotten
    You multiply the columns by scale, not by 1 + scale: at scale 0 the new Linear would ignore its input.
    (1 + scale) => scale
shift forgotten
    Your bias is the old one: shift passes through the Linear, too, and adds weight @ shift.
    bias + weight @ shift => bias.clone()
shift added bare
    You add shift to the bias as it is; shift is added before the Linear, so it must be multiplied by weight.
    weight @ shift => shift
shift scaled too
    You send shift through the new weight; it was added after the scaling, so it is multiplied by the old weight.
    weight @ shift => (weight * (1 + scale)) @ shift
weight transposed
    You multiply shift by the transposed weight; a Linear computes n @ weight.T + bias, which is weight @ n.
    weight @ => weight.T @
old bias dropped
    Your new bias is weight @ shift alone: the bias that the Linear already had is lost.
    bias + =>
""",
)


def modulation_sizes() -> dict[str, tuple]:
    """Millions of parameters that make six vectors for each of 28 blocks of width 1152, biases included."""
    blocks, vectors = 28, 6 * 1152
    return {
        "a Linear in each block": (blocks * vectors * (1152 + 1) / 1e6,),
        "one Linear for all blocks": (vectors * (1152 + 1) / 1e6,),
        "one Linear, and a table [6, D] a block": ((vectors * (1152 + 1) + blocks * vectors) / 1e6,),
        "a Linear in each block, c of width 256": (blocks * vectors * (256 + 1) / 1e6,),
        "no Linear: rows for 50 fixed times": (blocks * vectors * 50 / 1e6,),
    }


register(
    Predict,
    question="Count the parameters that make the modulation of 28 blocks, in five designs.",
    solution=modulation_sizes,
    columns=("million parameters",),
    tolerance=0.01,
    hints=(
        "A Linear from C to O numbers has O weights for each input, and O biases.",
        "Six vectors of width D are O = 6 D = 6,912 numbers; C is 1,152 for DiT-XL.",
        "28 * 6,912 * 1,153 for the first row. A table has no inputs: count its numbers.",
    ),
    notes={
        "a Linear in each block": "28 times a Linear from 1,152 to 6 * 1,152, with its biases",
        "one Linear for all blocks": "the same Linear once",
        "one Linear, and a table [6, D] a block": "the table adds 6 D numbers for each block",
        "a Linear in each block, c of width 256": "only the number of inputs changes",
        "no Linear: rows for 50 fixed times": "each row holds the 6 D numbers of one block at one time",
    },
)


def ada_in(content: Tensor, style: Tensor) -> Tensor:
    """Content, normalised per picture and channel, with the mean and standard deviation of style; (B, D, T)."""
    mean = style.mean(-1, keepdim=True)  # (B, D, 1)
    std = style.std(-1, correction=0, keepdim=True)
    return std * F.instance_norm(content) + mean


register(
    Exercise,
    question="Give each channel of content the mean and standard deviation that style has there.",
    solution=ada_in,
    returns=("painted",),
    # the last channel of each content is faint, so that the eps under its root is seen
    cases=lambda: [
        (faint(2 * randn64(*shape) + 1), 0.4 * randn64(*shape, seed=1) - 3)
        for shape in ((2, 3, 5), (3, 5, 6), (1, 4, 7))
    ],
    hints=(
        "First remove content's own mean and standard deviation, channel by channel; then apply those of style.",
        "F.instance_norm(content) does the first half. Statistics run over positions, the last axis: keepdim=True.",
        "gamma is style.std(-1, correction=0, keepdim=True), beta is style.mean(-1, keepdim=True).",
    ),
    mistakes="""
variance for deviation
    You multiply by the variance of style; its square root, the standard deviation, has the right unit.
    style.std => style.var
content and style swapped
    You give the style picture the statistics of the content: the two are swapped.
    return ada_in(style, content)
statistics over channels
    You average over the channels of each position, as layer norm does; AdaIN averages over positions.
    return ada_in(content.mT, style.mT).mT
statistics over the batch
    You average over the batch as well, as batch norm does: each picture must keep its own statistics.
    every -1 => (0, 2)
    F.instance_norm(content) => F.batch_norm(content, None, None, training=True)
content not normalised
    You scale and shift the content as it is: it still has its own mean and standard deviation.
    F.instance_norm(content) => content
style mean forgotten
    You use the standard deviation of style, but not its mean: beta is missing.
    + mean =>
one plus deviation
    You multiply by 1 + std: the 1 is for predicted scales that start at zero; a measured one needs none.
    return std => return (1 + std)
n minus one
    Your std divides by n - 1, which is torch's default; norms divide by n. Say correction=0.
    correction=0, =>
eps missing
    You divide by the plain deviation of content; 1e-5 is added under the root, because of constant maps.
    F.instance_norm(content) => (content - content.mean(-1, keepdim=True)) / content.std(-1, correction=0, keepdim=True)
eps outside the root
    Only faint channels come out wrong: your 1e-5 is added to the deviation, and it belongs under the root.
    c_std, c_mean = torch.std_mean(content, -1, correction=0, keepdim=True)
    std, mean = torch.std_mean(style, -1, correction=0, keepdim=True)
    return std * (content - c_mean) / (c_std + 1e-5) + mean
mean of the content kept
    Your result has the mean of content: content loses its own, and gets that of style.
    style.mean => content.mean
""",
)
