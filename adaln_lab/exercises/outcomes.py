"""What an answer gives for some arguments, and in which ways that differs from what the solution gives.

A right value is accepted in any form: a number, a list, another dtype, float32 within its rounding. What else happened
in a call counts, too: arguments that changed, gradients that cannot flow back, the number of matrix products.
"""

import dis
import functools
import inspect
import itertools
import linecache
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaln_lab.analysis.probes import Operations

TOL = 1e-9  # of float64 answers, relative to the largest number in the solution
NEAR = 2e-5  # the same, for answers that were computed in float32
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot", "linear", "matmul"}


@dataclass
class Outcome:
    """What came of one call."""

    items: tuple[Any, ...] = ()  # one for each result of the solution: tensors, where they can be made tensors
    error: BaseException | None = None
    changed: tuple[str, ...] = ()  # names of arguments that are not what they were
    is_plain: bool = True  # tensors were returned, not numbers or lists


def call(fn: Callable, arguments: tuple, results: int) -> Outcome:
    arguments = _mapped(arguments, Tensor.clone)
    before = [list(_state(a)) for a in arguments]
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # whatever the answer does to it
            result = fn(*arguments)
        items = to_items(result, results)
        items = tuple(item.detach().cpu() if isinstance(item, Tensor) else item for item in items)
    except (Exception, SystemExit) as error:
        return Outcome(error=error)
    after = [list(_state(a)) for a in arguments]
    names = _names(fn, len(arguments))
    changed = tuple(n for n, old, new in zip(names, before, after, strict=True) if not _same_state(old, new))
    parts = result if results > 1 and isinstance(result, tuple | list) else (result,)
    return Outcome(items, changed=changed, is_plain=all(isinstance(part, Tensor) for part in parts))


def to_items(result: Any, results: int) -> tuple[Any, ...]:
    """As many tensors as the solution returns, if possible. A tuple of one item stays a tuple."""
    if results > 1:
        if isinstance(result, Tensor) and result.dim() and len(result) == results:
            result = result.unbind()
        return tuple(map(_tensor, result if isinstance(result, tuple | list) else (result,)))
    if isinstance(result, tuple | list) and len(result) == 1:
        is_tensor = isinstance(result, tuple) or isinstance(result[0], Tensor)
        return (result,) if is_tensor else (_tensor(result),)
    if isinstance(result, tuple) and not all(isinstance(item, bool | int | float) for item in result):
        return tuple(map(_tensor, result))
    return (_tensor(result),)


def is_ready(fn: Callable, solution: Callable, arguments: tuple, results: int, gradients: bool) -> bool:
    """Whether later cells can use the answer as it is: with float32, and with tensors that need gradients."""
    if not any(map(callable, arguments)):
        single = _mapped(arguments, lambda a: a.float() if a.is_floating_point() else a)
        got, want = (call(f, single, results) for f in (fn, solution))
        if not _agree(got, want, NEAR) or not is_exact([got], [want]):
            return False
    leaves = _mapped(arguments, lambda a: a.clone().requires_grad_() if a.is_floating_point() else a)
    with torch.enable_grad():
        return gradients or call(fn, leaves, results).error is None


def adapted(fn: Callable, want: Outcome, gradients: bool) -> Callable:
    """`fn` as later cells need it: it computes in float64, and gives tensors in the dtype of its first argument."""

    def given(a: Tensor, is_free: bool) -> Tensor:
        a = a.double() if is_free and a.is_floating_point() else a
        return a if gradients else a.detach()

    @functools.wraps(fn)
    def as_tensors(*arguments: Any, **named: Any) -> Any:
        values = (*arguments, *named.values())
        like = next((a for a in values if isinstance(a, Tensor)), want.items[0])
        is_free = not any(map(callable, values))  # what it calls may need another dtype
        arguments = _mapped(arguments, lambda a: given(a, is_free))
        named = dict(zip(named, _mapped(tuple(named.values()), lambda a: given(a, is_free)), strict=True))
        items = to_items(fn(*arguments, **named), len(want.items))
        items = tuple(
            (item.reshape(()) if right.dim() == 0 and item.numel() == 1 else item).to(like)
            for item, right in zip(items, want.items, strict=True)
        )
        return items[0] if len(items) == 1 else items

    return as_tensors


def is_stub(fn: Any, outcome: Outcome) -> bool:
    """Whether the answer itself raised NotImplementedError, by a `raise`, or returned only None and `...`."""
    if isinstance(outcome.error, NotImplementedError):
        last = outcome.error.__traceback__
        while last.tb_next:
            last = last.tb_next
        is_raise = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
        return is_raise and _is_own(fn, last.tb_frame)
    return outcome.error is None and all(item is None or item is ... for item in outcome.items)


def agree(got: list[Outcome], want: list[Outcome], tol: float) -> bool:
    """Whether all outcomes are equal up to `tol`: the same numbers, or the same type of exception."""
    return all(_agree(g, w, tol) for g, w in zip(got, want, strict=True))


def is_exact(got: list[Outcome], want: list[Outcome]) -> bool:
    """Whether outcomes that agree have the same form as well: tensors of the same shapes and dtypes."""
    pairs = [pair for g, w in zip(got, want, strict=True) for pair in zip(g.items, w.items, strict=True)]
    return all(g.is_plain for g in got) and all(x.dtype == y.dtype and x.shape == y.shape for x, y in pairs)


def distance(got: list[Outcome], want: list[Outcome]) -> float:
    """The largest difference between numbers in the same place; 0 where shapes differ."""
    pairs = [pair for g, w in zip(got, want, strict=True) for pair in zip(g.items, w.items, strict=False)]
    return max([_gap(x, y).max().item() for x, y in pairs if x.shape == y.shape and x.numel()], default=0.0)


def changes(got: list[Outcome]) -> str:
    """A sentence about arguments that the answer has changed; empty if there are none."""
    names = list(dict.fromkeys(name for g in got for name in g.changed))
    if not names:
        return ""
    return (
        f"your function changes its argument {' and '.join(names)} in place, but the caller needs the old "
        f"values, bit for bit. Look for +=, for an assignment to {names[0]}[...], or for a method whose name ends in _"
    )


def influence(fn: Callable, solution: Callable, arguments: tuple, results: int) -> str:
    """A sentence about what an answer depends on and should not, or should and does not; empty if there is none."""
    base = [call(f, arguments, results) for f in (fn, solution)]
    names = _names(fn, len(arguments))

    def irregular(a: Tensor) -> Tensor:
        return 0.2 * (torch.arange(1.0, a.numel() + 1).double() ** 2).sin().view_as(a)

    def moved(i: int, by: Tensor) -> list[list[Tensor]]:
        """Where the results of both change if argument i does; nowhere if an answer cannot take the new one."""
        changed = (*arguments[:i], arguments[i] + by.to(arguments[i]), *arguments[i + 1 :])
        new = [call(f, changed, results) for f in (fn, solution)]
        pairs = [list(zip(n.items, old.items, strict=False)) for n, old in zip(new, base, strict=True)]
        if any(
            not isinstance(x, Tensor) or x.is_complex() or x.shape != getattr(y, "shape", None)
            for ps in pairs
            for x, y in ps
        ):
            return [[], []]
        return [[_off(x, y, TOL) for x, y in ps] for ps in pairs]

    for i, a in enumerate(arguments):
        if isinstance(a, Tensor) and a.is_floating_point():
            both = moved(i, irregular(a))
            if both[0] and any(m.any() for m in both[1]) and not any(m.any() for m in both[0]):
                return f". Whatever {names[i]} is, your result is the same"
    for axis, size in enumerate(arguments[0].shape):
        both = moved(0, irregular(arguments[0]).index_fill(axis, torch.arange(size - 1), 0.0))
        kept = all(m.dim() > axis and m.shape[axis] == size > 1 for ms in both for m in ms)
        if kept:
            yours, right = (any(m.narrow(axis, 0, size - 1).any() for m in ms) for ms in both)
            if yours and not right:
                return (
                    f". If {names[0]} changes in the last place of axis {axis}, your result changes in the others, "
                    "too, and should not: look at the axes (dim) over which you take means or sums"
                )
    return ""


def difference(fn: Callable, returns: tuple[str, ...], got: list[Outcome], want: list[Outcome]) -> str:
    """How an answer that matches no known mistake differs: the first case that does, with its largest difference."""
    texts = (_difference(fn, returns, g, w) for g, w in zip(got, want, strict=True) if not _agree(g, w, TOL))
    return next(text for text in texts if text)


def raised(fn: Callable, error: BaseException) -> str:
    """An exception, with the last line of the reader's own code that led to it."""
    place = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if _is_own(fn, frame) and (line := linecache.getline(frame.f_code.co_filename, number).strip()):
            place = f" in line {number}, `{line}`"
    try:
        text = f": {error}" if str(error) else ""
    except Exception:  # an exception that cannot be printed
        text = ""
    return f"your function raised {type(error).__name__}{place}{text}"


def missing_gradients(fn: Callable, solution: Callable, arguments: tuple, returns: tuple[str, ...]) -> str:
    """A sentence about gradients that do not come back through the answer as they do through the solution."""
    try:
        mine = _gradients(fn, arguments, len(returns))
    except (Exception, SystemExit) as error:
        return f"the numbers are right, but with arguments that need gradients {raised(fn, error)}"
    wanted = _gradients(solution, arguments, len(returns))
    if all(grad is None for grad in mine.values()):
        return (
            f"the numbers are right, but {', '.join(returns)} carries no gradient, so nothing before it could be "
            "trained. Look for no_grad, .detach(), .data, .item() or .numpy()"
        )
    for (name, grad), want in zip(mine.items(), wanted.values(), strict=True):
        if want is not None and want.any() and (grad is None or _off(grad, want, NEAR).any()):
            how = "no gradient reaches" if grad is None or not grad.any() else "a wrong gradient reaches"
            return f"the numbers are right, but {how} {name}: part of your calculation is detached from it"
    return ""


def count_products(fn: Callable, arguments: tuple) -> int:
    """How many matrix products one call computes."""
    with Operations() as operations:
        call(fn, arguments, 1)
    return sum(schema.name.removeprefix("aten::") in PRODUCTS for schema in operations.seen)


def _gradients(fn: Callable, arguments: tuple, results: int) -> dict[str, Tensor | None]:
    """Gradients of one fixed combination of all results, by the names of the arguments."""
    leaves: dict[str, Tensor] = {}

    def leaf(value: Any, name: str) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(leaf(item, f"{name}[{i}]") for i, item in enumerate(value))
        if isinstance(value, Tensor) and value.is_floating_point():
            leaves[name] = value.clone().requires_grad_()
            return leaves[name]
        return value

    names = _names(fn, len(arguments))
    with torch.enable_grad():
        items = to_items(fn(*(leaf(a, name) for a, name in zip(arguments, names, strict=True))), results)
        total = sum((item * torch.linspace(-1, 2, item.numel()).to(item).view_as(item)).sum() for item in items)
        if not total.requires_grad:
            return dict.fromkeys(leaves)
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, grads, strict=True))


def _is_own(fn: Any, frame: Any) -> bool:
    """Whether a frame runs code of the module in which the answer was written: in a notebook, any of its cells."""
    return frame.f_globals.get("__name__") == getattr(fn, "__module__", None)


def _names(fn: Callable, count: int) -> list[str]:
    try:
        names = [p.name for p in inspect.signature(fn).parameters.values() if p.kind != p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"number {i + 1}" for i in range(count)]


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Arguments with all their tensors changed, those in tuples and lists included."""
    if isinstance(value, tuple | list):
        items = [_mapped(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return change(value) if isinstance(value, Tensor) else value


def _state(value: Any) -> Iterator[Tensor]:
    """Copies of all tensors in an argument, parameters of a module included."""
    if isinstance(value, Tensor):
        yield value.detach().clone()
    elif isinstance(value, nn.Module):
        yield from (p.detach().clone() for p in value.state_dict().values())
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _state(item)


def _same_state(old: list[Tensor], new: list[Tensor]) -> bool:
    return len(old) == len(new) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(old, new, strict=True))


def _tensor(item: Any) -> Any:
    """A number, an array or a list as a tensor; anything else as it is."""
    try:
        if isinstance(item, tuple | list) and any(isinstance(part, Tensor) for part in item):
            item = torch.stack([torch.as_tensor(part) for part in item])
        return item.to_dense() if isinstance(item, Tensor) else torch.as_tensor(item, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return item


def _agree(got: Outcome, want: Outcome, tol: float) -> bool:
    if got.error is not None or want.error is not None:
        return type(got.error) is type(want.error)
    pairs = list(zip(got.items, want.items, strict=False))
    if len(got.items) != len(want.items) or not all(isinstance(item, Tensor) for pair in pairs for item in pair):
        return False
    pairs = [(x.reshape(()) if y.dim() == 0 and x.numel() == 1 else x, y) for x, y in pairs]
    return all(x.shape == y.shape and not x.is_complex() and not _off(x, y, tol).any() for x, y in pairs)


def _gap(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() - y.double()).abs()


def _off(x: Tensor, y: Tensor, tol: float) -> Tensor:
    """Where x differs from y by more than `tol`; NaN differs from all but NaN, which a known mistake may give."""
    near = _gap(x, y) <= tol * max(1.0, y.double().nan_to_num().abs().max().item() if y.numel() else 0.0)
    return ~(near | (x.isnan() & y.isnan()))


def _difference(fn: Callable, returns: tuple[str, ...], got: Outcome, want: Outcome) -> str:
    if got.error is not None:
        return raised(fn, got.error)
    if len(got.items) != len(want.items):
        one = "one tensor, " if len(returns) == 1 else ""
        return f"return {one}{', '.join(returns)}; you returned {len(got.items)} item(s)"
    for items in list(itertools.permutations(got.items))[1:]:
        if _agree(Outcome(items), want, NEAR):
            return f"your results are right, but swapped: their order is {', '.join(returns)}"
    for name, g, w in zip(returns, got.items, want.items, strict=True):
        if isinstance(g, tuple | list) and len(g) == 1:
            return f"{name} comes inside a {type(g).__name__} of one item: look for a comma or for brackets too many"
        if not isinstance(g, Tensor):
            return f"{name} must be a tensor, you returned {type(g).__name__}"
        if g.is_complex():
            return f"{name} holds complex numbers, and every number must be real"
        if g.shape != w.shape and not w.dim() == 0 == g.numel() - 1:
            is_same = g.numel() == w.numel() and not _off(g.reshape(w.shape), w, NEAR).any()
            also = ", with the same numbers" if is_same else ""
            return f"{name} has shape {tuple(g.shape)} and must have {tuple(w.shape)}{also}"
        if not g.isfinite().all():
            return f"{name} holds {g[~g.isfinite()][0].item()}, and every number must be finite"
        if _off(g.reshape(w.shape), w, TOL).any():
            return _largest(name, g.reshape(w.shape), w)
    return ""


def _largest(name: str, got: Tensor, want: Tensor) -> str:
    """The largest difference and its place, in as many digits as it takes to see it."""
    gap = _gap(got, want)
    place = [i.item() for i in torch.unravel_index(gap.argmax(), gap.shape)]
    at = f", at {name}{place}" if place else ""
    yours, right = got[tuple(place)].item(), want[tuple(place)].item()
    digits = next((n for n in range(4, 17) if f"{yours:.{n}g}" != f"{right:.{n}g}"), 17)
    return (
        f"{name} is off by up to {gap.max():.3g}{at}: {yours:.{digits}g} in yours, {right:.{digits}g} in the solution"
        f"{_pattern(got.double(), want.double())}"
    )


def _pattern(got: Tensor, want: Tensor) -> str:
    """What all differences have in common, if it is simple."""
    if want.numel() < 2:
        return ""
    factor = ((got * want).sum() / want.square().sum()).item()
    if not _off(got, factor * want, NEAR).any():
        if abs(factor + 1) < NEAR:
            return ". Only the sign is wrong, everywhere"
        return f". All numbers are {factor:.4g} times as large"
    if not _off(got, want + (got - want).mean(), NEAR).any():
        return ". All differ by the same number"
    for axes in itertools.permutations(range(got.dim())):
        if got.permute(axes).shape == want.shape and not _off(got.permute(axes), want, NEAR).any():
            return ". The numbers are right, but their axes are in another order"
    for axis in range(got.dim()):
        if not _off(got.flip(axis), want, NEAR).any():
            return f". The numbers are right, but axis {axis} runs backwards"
    return ""
