"""What comes from a file, an option or a caller is checked once, where it enters.

A field states its range in its type, `depth: Annotated[int, Range(1, 1000)] = 4`. `conform` holds one value to such a
type, `check_fields` a whole dataclass, and `construct` makes a dataclass of what a JSON file holds.
"""

import functools
import reprlib
import types
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


class Range(NamedTuple):
    """The least and the largest value of a number, or length of a list or text."""

    low: float
    high: float


Count = Annotated[int, Range(1, 1_000_000)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Text = Annotated[str, Range(0, 1000)]
NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
NAMES |= {list: "a list", dict: "an object"}
ANY_FINITE = Range(-1e308, 1e308)
_hints = functools.lru_cache(functools.partial(get_type_hints, include_extras=True))


def conform(name: str, value: Any, hint: Any) -> Any:
    """The value, if it is what the hint says: a type, Annotated with a Range or with its choices, list[...],
    dict[str, ...], ... | None, or a dataclass, which is made of a dictionary. ValueError with the name if not."""
    if hint is Any:
        return value
    if get_origin(hint) in (Union, types.UnionType):
        return None if value is None else conform(name, value, get_args(hint)[0])
    if is_dataclass(hint):
        return value if isinstance(value, hint) else construct(hint, value, name)
    hint, allowed = get_args(hint) if get_origin(hint) is Annotated else (hint, ANY_FINITE)
    kind, items = get_origin(hint) or hint, get_args(hint)
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if isinstance(allowed, Range):
        within = f"{'in' if kind in (int, float) else 'of length'} {allowed.low} .. {allowed.high}"
        what = f"{NAMES[kind]}{'' if allowed == ANY_FINITE else ' ' + within},"
        fits = fits and allowed.low <= (len(value) if isinstance(value, str | list | dict) else value) <= allowed.high
    else:
        what = f"one of {', '.join(allowed)};"
        fits = fits and value in allowed
    if not fits:
        raise ValueError(f"{name} must be {what} got {reprlib.repr(value)}")
    if kind is list:
        return [conform(f"{name}[{i}]", item, items[0]) for i, item in enumerate(value)] if items else value
    if kind is dict:
        return {key: conform(f"{name}.{key:.40}", item, items[1]) for key, item in value.items()} if items else value
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The value, also one of numpy's, if it is a whole number in low .. high; ValueError if not."""
    return conform(name, value.item() if isinstance(value, np.generic) else value, Annotated[int, Range(low, high)])


def finite(name: str, value: Any, low: float, high: float) -> float:
    """The value, also one of numpy's, if it is a number in low .. high; ValueError if not."""
    return conform(name, value.item() if isinstance(value, np.generic) else value, Annotated[float, Range(low, high)])


def one_of(name: str, value: Any, choices: Collection[str]) -> Any:
    """The value, if it is one of the choices; ValueError if not."""
    return conform(name, value, Annotated[str, choices])


def check_fields(made: Any) -> None:
    """ValueError unless every field of the dataclass is what its type says. For `__post_init__`."""
    for name, hint in _hints(type(made)).items():
        conform(name, getattr(made, name), hint)


def construct(kind: type[T], values: Any, name: str) -> T:
    """The dataclass that a dictionary from a file describes: every field, but for those that are None without it."""
    hints = _hints(kind)
    if not isinstance(values, dict):
        raise ValueError(f"{name} must be an object with {', '.join(hints)}; got {reprlib.repr(values)}")
    needed = {f.name for f in fields(kind) if f.default is not None}
    if lost := sorted(needed - values.keys()):
        raise ValueError(f"{name} lacks {', '.join(lost)}; a {kind.__name__} of this version has {', '.join(hints)}")
    if surplus := [f"{key!s:.40}" for key in values if key not in hints]:
        raise ValueError(f"{name} holds {', '.join(surplus[:5])}; a {kind.__name__} has only {', '.join(hints)}")
    given = {key: conform(f"{name}: {key}", value, hints[key]) for key, value in values.items()}
    try:
        return kind(**given)
    except ValueError as error:  # fields that do not fit each other
        raise ValueError(f"{name}: {error}") from error


def check_labels(y: Tensor, n: int, most: int, length: int = 1, look: bool = True) -> None:
    """ValueError unless y is (n,), or (n, length), of integers in 0 .. most. `look=False` leaves the values alone."""
    if y.shape != (n, length) and (length > 1 or y.shape != (n,)):
        shape = f"({n},)" if length == 1 else f"({n}, {length})"
        raise ValueError(f"y must hold {length} label(s) for each of {n} pictures, {shape}; got {tuple(y.shape)}")
    if n < 1:
        raise ValueError("y must hold at least one label, got none")
    if y.dtype not in (torch.int64, torch.int32) or (look and (y.min() < 0 or y.max() > most)):
        got = f"{y.min()} .. {y.max()}" if y.dtype in (torch.int64, torch.int32) else y.dtype
        raise ValueError(f"labels must be integers in 0 .. {most}, got {got}")


def check_tensors(tensors: dict[str, Tensor], needed: dict[str, Tensor], source: object) -> None:
    """ValueError unless the tensors have the names, shapes and dtypes of those needed, and only finite numbers."""
    if tensors.keys() != needed.keys():
        lost, surplus = sorted(needed.keys() - tensors.keys()), sorted(tensors.keys() - needed.keys())
        raise ValueError(
            f"{source} does not fit its configuration: it lacks {lost[:3]}, and has {surplus[:3]} too many"
        )
    for name, wanted in needed.items():
        tensor = tensors[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{source} does not fit its configuration: {name} must be {wanted.dtype} {tuple(wanted.shape)}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{source}: {name} holds numbers that are not finite; train again, or copy the file again")
