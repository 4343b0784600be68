"""Exercise 0, to see how exercises work: modulation, with mistakes from real code.

B batch, T tokens, D width.
"""

from torch import Tensor

from adaln_lab.exercises.core import Exercise, faint, randn64, register
from adaln_lab.norms import layer_norm


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift; x (B, T, D), shift and scale (B, D), the same for every token."""
    return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]


register(
    Exercise,
    question="Normalise each token, then multiply by 1 + scale and add shift.",
    solution=modulated,
    returns=("h",),
    # in the first B = T, so that a wrong broadcast runs and is wrong
    cases=lambda: [
        (faint(2 * randn64(b, t, d) + 1), randn64(b, d, seed=1), randn64(b, d, seed=2))
        for b, t, d in ((3, 3, 6), (2, 5, 7), (1, 4, 5))
    ],
    hints=(
        "layer_norm(x) is already imported; shift and scale are (B, D), x is (B, T, D).",
        "Give scale and shift an axis for the tokens: scale[:, None] is (B, 1, D).",
        "return layer_norm(x) * (1 + scale[:, None]) + ...",
    ),
    gradients=True,
    mistakes="""
scale without one plus
    You multiply by scale, not by 1 + scale: a modulation that starts at zero would erase its input.
    (1 + scale[:, None]) => scale[:, None]
scale and shift swapped
    You multiply by 1 + shift and add scale: the two are swapped, as after a chunk in the wrong order.
    (1 + scale[:, None]) + shift[:, None] => (1 + shift[:, None]) + scale[:, None]
batch broadcast over tokens
    Without an axis for tokens, (B, D) broadcasts over (T, D): token i gets the vector of picture i.
    every [:, None] =>
norm missing
    You modulate x itself: without the norm, what scale and shift do depends on how large x is.
    layer_norm(x) => x
modulated before the norm
    You modulate first and normalise afterwards: the norm removes most of the modulation again.
    return layer_norm(x * (1 + scale[:, None]) + shift[:, None])
shift scaled too
    Where shift is large, your result also depends on scale: shift is multiplied, too. It moves what is scaled.
    return (layer_norm(x) + shift[:, None]) * (1 + scale[:, None])
shift forgotten
    Whatever shift is, your result is the same.
    + shift[:, None] =>
scale added
    You add scale where it should multiply: your tokens keep the size that the norm gave them.
    * (1 + scale[:, None]) => + scale[:, None]
statistics of the whole picture
    If one token grows, all others of its picture shrink: your mean and variance run over the tokens as well.
    layer_norm(x) => layer_norm(x.flatten(1)).view_as(x)
variance with d minus 1
    Your tokens come out a little too small: torch divides a variance by D - 1 unless told correction=0.
    layer_norm(x) => (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()
another eps
    Only faint tokens come out wrong: your norm has eps = 1e-5, torch's default. Here, as in DiT, it is 1e-6.
    layer_norm(x) => layer_norm(x, 1e-5)
normalised over the tokens
    Each channel has mean 0 over the tokens, and no token has: the norm runs over the channels of a token.
    layer_norm(x) => layer_norm(x.mT).mT
mean left in
    Your tokens keep their mean: that is an RMS norm, and a layer norm subtracts it first.
    layer_norm(x) => x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
modulated by the first picture
    All pictures are modulated alike: the vectors of the first one are used for all.
    shift[:, None] => shift[:1, None]
    scale[:, None] => scale[:1, None]
""",
)
