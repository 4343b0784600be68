"""What comes from a file, an option or a caller is checked once, where it enters.

A field states its range in its type, `depth: Annotated[int, Range(1, 1000)] = 4`. `conform` holds one value to such a
type, `check_fields` a whole dataclass, and `construct` makes a dataclass of what a JSON file holds.
"""

import functools
import math
import reprlib
import types
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

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
NAMES = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", list: "a list"}
_hints = functools.lru_cache(functools.partial(get_type_hints, include_extras=True))


def conform(name: str, value: Any, hint: Any) -> Any:
    """The value, if it is what the hint says: Any, a type, Annotated with a Range or with its choices, list[...],
    dict[str, ...], ... | None, or a dataclass, which is made of a dictionary. ValueError with the name if not."""
    if hint is Any:
        return value
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return None if value is None else conform(name, value, parts[0])
    if kind is Annotated:
        plain, allowed = parts
        if not isinstance(allowed, Range):
            if value not in list(allowed):
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {reprlib.repr(value)}")
            return value
        number = plain in (int, float)
        within = f" in {allowed.low} .. {allowed.high}" if number else f" of length {allowed.low} .. {allowed.high}"
        value = conform(name, value, plain) if not number else _number(name, value, plain, within)
        if not allowed.low <= (value if number else len(value)) <= allowed.high:
            what = NAMES.get(get_origin(plain) or plain)
            raise ValueError(f"{name} must be {what}{within}, got {reprlib.repr(value)}")
        return value
    if is_dataclass(hint):
        return value if isinstance(value, hint) else construct(hint, value, name)
    if kind is dict or hint is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object, got {reprlib.repr(value)}")
        return {key: conform(f"{name}.{key:.40}", item, parts[1]) for key, item in value.items()} if parts else value
    if kind is list:
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, got {reprlib.repr(value)}")
        return [conform(f"{name}[{i}]", item, parts[0]) for i, item in enumerate(value)]
    return _number(name, value, hint, "")


def _number(name: str, value: Any, kind: type, within: str) -> Any:
    """The value, if it is of the kind; a bool is no number, and a whole number is a float, too."""
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not fits or (kind is float and not abs(value) < math.inf):
        raise ValueError(f"{name} must be {NAMES[kind]}{within}, got {reprlib.repr(value)}")
    return value


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The value, if it is a whole number in low .. high; ValueError if not."""
    return conform(name, value, Annotated[int, Range(low, high)])


def finite(name: str, value: Any, low: float, high: float) -> float:
    """The value, if it is a number in low .. high; ValueError if not."""
    return conform(name, value, Annotated[float, Range(low, high)])


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
    return kind(**{key: conform(f"{name}: {key}", value, hints[key]) for key, value in values.items()})


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
