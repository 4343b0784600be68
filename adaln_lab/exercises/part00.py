"""Exercise 0, to see how exercises work: modulation, with mistakes from real code.

B batch, T tokens, D width.
"""

from torch import Tensor
from torch.nn import functional as F

from adaln_lab.exercises.core import Exercise, by_name, faint, randn64, register
from adaln_lab.norms import layer_norm


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift; x (B, T, D), shift and scale (B, D), the same for every token."""
    return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]


def scale_without_one_plus(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """You multiply by scale, not by 1 + scale: a modulation that starts at zero would erase its input."""
    return layer_norm(x) * scale[:, None] + shift[:, None]


def scale_and_shift_swapped(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """You multiply by 1 + shift and add scale: the two are swapped, as after a chunk in the wrong order."""
    return modulated(x, shift=scale, scale=shift)


def batch_broadcast_over_tokens(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Without an axis for tokens, (B, D) broadcasts over (T, D): token i gets the vector of picture i."""
    return layer_norm(x) * (1 + scale) + shift


def norm_missing(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """You modulate x itself: without the norm, what scale and shift do depends on how large x is."""
    return x * (1 + scale[:, None]) + shift[:, None]


def modulated_before_the_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """You modulate first and normalise afterwards: the norm removes most of the modulation again."""
    return layer_norm(x * (1 + scale[:, None]) + shift[:, None])


def shift_scaled_too(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Where shift is large, your result also depends on scale: shift is multiplied, too. It moves what is scaled."""
    return (layer_norm(x) + shift[:, None]) * (1 + scale[:, None])


def shift_forgotten(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Whatever shift is, your result is the same."""
    return layer_norm(x) * (1 + scale[:, None])


def scale_added(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """You add scale where it should multiply: your tokens keep the size that the norm gave them."""
    return layer_norm(x) + scale[:, None] + shift[:, None]


def statistics_of_the_whole_picture(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """If one token grows, all others of its picture shrink: your mean and variance run over the tokens as well."""
    return F.layer_norm(x, x.shape[1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def variance_with_d_minus_1(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Your tokens come out a little too small: torch divides a variance by D - 1 unless told correction=0."""
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()
    return normed * (1 + scale[:, None]) + shift[:, None]


def another_eps(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Only faint tokens come out wrong: your norm has eps = 1e-5, torch's default. Here, as in DiT, it is 1e-6."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale[:, None]) + shift[:, None]


def normalised_over_the_tokens(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Each channel has mean 0 over the tokens, and no token has: the norm runs over the channels of a token."""
    return layer_norm(x.mT).mT * (1 + scale[:, None]) + shift[:, None]


def mean_left_in(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Your tokens keep their mean: that is an RMS norm, and a layer norm subtracts it first."""
    return F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def modulated_by_the_first_picture(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """All pictures are modulated alike: the vectors of the first one are used for all."""
    return modulated(x, shift[:1], scale[:1])


def modulated_cases() -> list[tuple]:
    """In the first B = T, so that a wrong broadcast runs and is wrong."""
    sizes = ((3, 3, 6), (2, 5, 7), (1, 4, 5))
    return [(faint(2 * randn64(b, t, d) + 1), randn64(b, d, seed=1), randn64(b, d, seed=2)) for b, t, d in sizes]


register(
    Exercise(
        "Normalise each token, then multiply by 1 + scale and add shift.",
        modulated,
        ("h",),
        modulated_cases,
        (
            "layer_norm(x) is already imported; shift and scale are (B, D), x is (B, T, D).",
            "Give scale and shift an axis for the tokens: scale[:, None] is (B, 1, D).",
            "return layer_norm(x) * (1 + scale[:, None]) + ...",
        ),
        by_name(
            scale_without_one_plus,
            scale_and_shift_swapped,
            batch_broadcast_over_tokens,
            norm_missing,
            modulated_before_the_norm,
            shift_scaled_too,
            shift_forgotten,
            scale_added,
            statistics_of_the_whole_picture,
            variance_with_d_minus_1,
            another_eps,
            normalised_over_the_tokens,
            mean_left_in,
            modulated_by_the_first_picture,
        ),
        gradients=True,
    )
)
