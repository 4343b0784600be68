"""Equations as code: `prove("LN(a x) = LN(x)", lhs, rhs)` prints a line that is the same on every machine, or raises.

The two sides must agree to max |lhs - rhs| <= tol * max(1, max |rhs|), in float64: absolute for numbers around one,
relative for large ones; integers must be equal. They should come from different code paths; an object compared with
itself is refused.
"""

from typing import Any

import numpy as np

from adaln_lab.utils.checks import finite


def prove(claim: str, lhs: Any, rhs: Any, tol: float = 1e-10) -> None:
    """Print `proved: claim` if the sides agree: tensors, arrays, numbers, or (nested) lists of them.

    ValueError if they cannot be compared, AssertionError with the numbers if they differ.
    """
    finite(f"{claim}: tol", tol, 0, 0.1)  # a larger one would prove anything
    left, right = _array(lhs), _array(rhs)
    if left.shape != right.shape:
        raise ValueError(f"{claim}: the sides have shapes {left.shape} and {right.shape}, they must be equal")
    if left.size == 0:
        raise ValueError(f"{claim}: both sides are empty, which proves nothing")
    if (lhs is rhs and not np.isscalar(lhs)) or (
        left.strides == right.strides and left.ctypes.data == right.ctypes.data
    ):
        raise ValueError(f"{claim}: both sides are the same object; two sides must come from different code paths")
    if left.dtype == right.dtype == object:  # two sides of integers
        tol = 0
    else:
        left, right = left.astype(np.float64), right.astype(np.float64)
        for side, array in (("left", left), ("right", right)):
            if not np.isfinite(array).all():
                raise AssertionError(f"not proved: {claim}: the {side} side holds {_first_bad(array)}")

    difference = np.asarray(abs(left - right))  # of two single integers it would be an integer
    allowed = tol * max(1, np.max(abs(right)))
    if difference.max() > allowed:
        worst = np.unravel_index(difference.argmax(), difference.shape)
        at = f" at {list(map(int, worst))}" if worst else ""
        form = "" if tol == 0 else ".12g"
        raise AssertionError(
            f"not proved: {claim}: {left[worst]:{form}} on the left, {right[worst]:{form}} on the right{at}; "
            f"max |difference| {difference.max():{form and '.3g'}}, allowed {allowed:.3g}{_rounding(lhs, rhs, tol)}"
        )
    print(f"proved: {claim}")


def _array(side: Any) -> np.ndarray:
    """Python's integers, which have no largest one, if there are only integers; else float64."""
    if hasattr(side, "detach"):  # a torch tensor; .double() first, because numpy has no bfloat16
        side = side.detach().cpu()
        side = (side.double() if side.is_floating_point() else side).numpy()
    elif isinstance(side, list | tuple):
        side = [_array(item).tolist() for item in side]
    array = np.asarray(side, dtype=object if isinstance(side, int | list) else None)
    plain = array.dtype != object or all(isinstance(item, int | float) for item in array.flat)
    if array.dtype.kind not in "biufO" or not plain:
        raise ValueError(f"prove compares real numbers, got {array.dtype} in {type(side).__name__}")
    is_whole = array.dtype.kind != "f" and all(isinstance(item, int) for item in array.astype(object).flat)
    return array.astype(object if is_whole else np.float64, copy=False)


def _first_bad(array: np.ndarray) -> str:
    index = tuple(np.argwhere(~np.isfinite(array))[0])
    return f"{array[index]} at {list(map(int, index))}"


def _rounding(lhs: Any, rhs: Any, tol: float) -> str:
    """A hint if a side is in a precision whose rounding alone exceeds tol."""
    for dtype in (str(getattr(side, "dtype", "")).removeprefix("torch.") for side in (lhs, rhs)):
        eps = {"float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.8e-3}.get(dtype, 0.0)
        if eps > tol:
            return f". One side is {dtype}, whose rounding alone is {eps:g}: compute in float64"
    return ""
