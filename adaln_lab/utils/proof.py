"""Equations as code: `prove("LN(a x) = LN(x)", lhs, rhs)` prints a line that is the same on every machine, or raises.

The two sides must agree to max |lhs - rhs| <= tol * max(1, max |rhs|), in float64: absolute for numbers around one,
relative for large ones; integers must be equal. They should come from different code paths; an object compared with
itself is refused.

A function can carry a note, as the course's solution does in the place of a reader's answer: what is proved in a cell
after such a function has run in it, says so.
"""

import builtins
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from adaln_lab.utils.checks import finite

OURS = "with the course's solution"
FLOAT32 = "to the precision of float32"
ROUNDING = 1e-3  # of what was computed in float32 from large angles; everywhere else it is smaller

_noted: dict[str, str | int | None] = {}  # note -> the cell in which a function with that note ran last


def with_note(function: Callable, note: str) -> Callable:
    """The function, which leaves a note on everything that its cell proves afterwards."""

    @functools.wraps(function)
    def noted(*arguments: Any, **named: Any) -> Any:
        _noted[note] = _cell()
        return function(*arguments, **named)

    noted.note = note
    return noted


def note_of(function: Any) -> str | None:
    return getattr(function, "note", None)


def notes() -> list[str]:
    """The notes of all functions that have run in this cell: for a proof's line, and for a figure's caption."""
    return [note for note, cell in _noted.items() if cell == _cell()]


def _cell() -> str | int | None:
    """What tells the notebook cell that runs from all others; None outside a notebook, where a note stays."""
    shell = getattr(builtins, "get_ipython", lambda: None)()
    request = getattr(shell, "get_parent", dict)()  # of the kernel; the count stands still where no history is kept
    return request.get("header", {}).get("msg_id", getattr(shell, "execution_count", None))


def prove(claim: str, lhs: Any, rhs: Any, tol: float = 1e-10) -> None:
    """Print `proved: claim` if the sides agree: tensors, arrays, numbers, or (nested) lists of them.

    The notes of this cell follow the claim. ValueError if the sides cannot be compared, AssertionError with the numbers
    if they differ.
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

    said = notes()
    tol = max(tol, ROUNDING) if FLOAT32 in said and tol else tol
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
    print(f"proved: {claim}{''.join(f' ({note})' for note in said)}")


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
