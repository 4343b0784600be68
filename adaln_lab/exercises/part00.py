"""Exercise 0, to see how exercises work: modulation, with mistakes from real code.

B batch, T tokens, D width.
"""

from torch import Tensor

from adaln_lab.exercises.core import Exercise, by_name, randn64, register
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


def modulated_cases() -> list[tuple]:
    """In the first B = T, so that a wrong broadcast runs and is wrong."""
    return [(2 * randn64(b, t, 6) + 1, randn64(b, 6, seed=1), randn64(b, 6, seed=2)) for b, t in ((3, 3), (2, 5))]


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
        ),
    )
)
