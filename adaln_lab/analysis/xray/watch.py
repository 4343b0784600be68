"""Watching a pass: every value remembers how it was made.

Value   one tensor of the pass: the operation, its inputs, the module that ran, and three kinds of memory

lineage  which arguments of the module a value is a version of, a bit each. What merely scales, shifts or gates it,
         being the same for all tokens, leaves no trace here; nor do the keys and values it attends to.
codes    for each number of a small tensor, which output of which Linear it is, whatever views, copies and
         choices lie between
sum      of a product or a sum, to see in a second pass whether it moved
"""

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

COPIES = {"clone", "_to_copy", "lift_fresh", "contiguous", "copy", "native_dropout", "_unsafe_view", "repeat"}
SAME = COPIES - {"_unsafe_view", "repeat"} | {"detach", "alias"}  # of the same shape, too
VIEWS = COPIES | SAME | {  # the same numbers, elsewhere
    "view", "reshape", "_reshape_alias", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "slice",
    "select", "split", "split_with_sizes", "unbind", "unfold",
}  # fmt: skip
CHOICES = {"cat", "stack", "where", "index", "index_select", "gather"}  # numbers of several tensors, or some of one's
LINEAR = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "_addmm_activation", "addmv", "mv", "convolution"}
UNTOLD = {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones"}
FEW, SMALL, LARGE = 64, 1 << 17, 1 << 22  # numbers of the largest tensor that gets codes; LARGE if it has few rows
ROWS, OUTPUTS = 1 << 20, 1 << 20  # a code is (maker * ROWS + row) * OUTPUTS + output


@dataclass(eq=False)
class Value:
    """One tensor of the pass."""

    op: str
    inputs: tuple["Value", ...]
    shape: tuple[int, ...]
    path: str = ""  # of the module that was running
    lineage: int = 0
    name: str = ""  # of a parameter or buffer
    codes: Tensor | None = None
    steps: tuple[str, ...] = ()  # what was done to coded numbers since their Linear
    tables: tuple[str, ...] = ()  # parameters that were added to them
    offset: int = 0  # of a view in what it is a view of
    sum: float | None = None
    rms: float | None = None  # of a coded factor
    users: list["Value"] = field(default_factory=list)

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


class Watch(TorchDispatchMode):
    """Records every operation of a pass, and changes nothing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.values: list[Value] = []
        self.made: set[Value] = set()  # what the module gave back
        self.running: list[str] = []
        self.calls: set[str] = set()
        self.first: dict[tuple[str, ...], Value] = {}  # output of each of these Linears
        self.makers: list[tuple[str, ...]] = [()]  # parameters of each Linear that was met; 0 is a tensor handed in
        self.n_inputs = 0
        self.names = {m: name for name, m in model.named_modules()}
        self.classes = {name: type(m).__name__ for m, name in self.names.items()}
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            self.known[p] = Value("param", (), tuple(p.shape), name=name)

    def enter(self, module: nn.Module, _args: Any) -> None:
        if module in self.names:
            self.running.append(self.names[module])
            self.calls.add(self.names[module])

    def given(self, _model: nn.Module, args: Any, kwargs: Any) -> None:
        """Each argument of the model is a source of its own, whatever it was made of."""
        if len(self.running) == 1:
            with _disable_current_modes():
                for t in (a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)):
                    self.known[t] = self._input(t)

    def leave(self, module: nn.Module, _args: Any, result: Any) -> None:
        if module in self.names:
            self.running.pop()
            if not self.running:
                self.made |= {self.known[t] for t in tensors_of(result) if t in self.known}

    def _input(self, t: Tensor) -> Value:
        self.n_inputs += 1
        value = Value("input", (), tuple(t.shape), lineage=1 << self.n_inputs)
        value.codes = coded(0, value.shape)
        return value

    def _value(self, t: Tensor) -> Value:
        if t not in self.known:
            self.known[t] = self._input(t)
        return self.known[t]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # where compound operations come here whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        inputs = tuple(self._value(a) for a in given)
        result = func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        in_place = name.endswith("_") and not name.startswith("_")
        name = name.rstrip("_") if in_place else name
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not inputs and not self.running:  # made outside the module
            for t in outputs:
                self.known[t] = self._input(t)
            return result
        if name in ("mul", "addcmul"):
            for a, v in zip(given, inputs, strict=True):
                if v.codes is not None and a.is_floating_point() and not a.is_meta:
                    v.rms = float(a.double().square().mean().sqrt())
        codes: list[Tensor | None] = [None] * len(outputs)
        small = all(is_small(t.shape) for t in outputs)
        if name in VIEWS | CHOICES and small and any(v.codes is not None for v in inputs):
            codes = self._carried(func, name, args, kwargs, len(outputs))
        for t, c in zip(outputs, codes, strict=True):
            if name in ("addcmul", "lerp") and len(inputs) == 3:  # a + b * c, or a + (b - a) * c, in steps
                b = inputs[1] if name == "addcmul" else self._made(func, "sub", (inputs[1], inputs[0]), t)
                value = self._made(func, "add", (inputs[0], self._made(func, "mul", (b, inputs[2]), t)), t)
            else:
                value = self._made(func, name, inputs, t, c)
            if (
                in_place and (base := inputs[0]).op in VIEWS - COPIES
            ):  # who writes into a view writes into what it shows
                while base.op in VIEWS - COPIES and base.inputs:
                    base = base.inputs[0]
                base.inputs, base.lineage = (*base.inputs, *inputs[1:]), base.lineage | value.lineage
            self.known[t] = value
        return result

    def _carried(self, func: Any, name: str, args: Any, kwargs: Any, n: int) -> list[Tensor | None]:
        """Codes, moved as the numbers were."""

        def swap(a: Any) -> Any:
            if not isinstance(a, Tensor) or not (a.is_floating_point() or a.is_complex()):
                return a
            codes = self._value(a).codes
            return torch.full(a.shape, -1) if codes is None else codes

        if name in SAME:
            first = next(a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor))
            return [self._value(first).codes, *[None] * (n - 1)]
        try:
            moved = tree_leaves(func(*tree_map(swap, args), **tree_map(swap, kwargs)))
        except (RuntimeError, NotImplementedError):  # indices without values, on meta
            return [None] * n
        if len(moved) != n or any(c.is_meta for c in moved):
            return [None] * n
        return [c.contiguous() for c in moved]

    def _made(self, func: Any, op: str, inputs: tuple[Value, ...], t: Tensor, codes: Tensor | None = None) -> Value:
        v = Value(op, inputs, tuple(t.shape), self.running[-1] if self.running else "", offset=t.storage_offset())
        pointwise = torch.Tag.pointwise in func.tags
        full = [i.lineage for i in inputs if i.numel == v.numel] if pointwise else []
        if op not in UNTOLD:
            v.lineage = union(full) or union(i.lineage for i in inputs)
        if op in LINEAR or "attention" in op:  # a query is what it asks; what it hears is another's
            v.lineage = door(op, inputs).lineage
        coded_inputs = [i for i in inputs if i.codes is not None]
        params = weights_of(op, inputs) if op in LINEAR | {"embedding"} else ()
        if op in LINEAR | {"embedding"} and params:
            if params not in self.makers:
                self.makers.append(params)
                self.first[params] = v
            axis = 1 if op == "convolution" else -1
            v.codes = coded(self.makers.index(params), v.shape, axis, door(op, inputs).codes)
        elif codes is not None:
            v.codes, v.steps, v.tables = codes, *self._history(coded_inputs)
        elif pointwise and coded_inputs and not any(i.codes is None and i.lineage for i in inputs):
            self._through(v, op, coded_inputs, tuple(name for i in inputs if (name := back(i).name)))
        if op in ("mul", "add") and len(inputs) == 2 and t.is_floating_point() and not t.is_meta:
            v.sum = float(t.sum(dtype=torch.float64))
        for i in inputs:
            i.users.append(v)
        self.values.append(v)
        return v

    def _through(self, v: Value, op: str, coded_inputs: list[Value], params: tuple[str, ...]) -> None:
        """Coded numbers, one by one through a function, or added to a table or to each other."""
        if not is_small(v.shape):
            return
        newest = max(coded_inputs, key=lambda i: int(i.codes.max()))
        v.codes, v.offset = newest.codes.expand(v.shape), newest.offset
        v.steps, v.tables = self._history(coded_inputs)
        if params and op in ("add", "sub"):
            v.tables = (*v.tables, *params)
        elif len(coded_inputs) == 1:
            v.steps = (*v.steps, op)
        elif op == "add":
            others = {int(i.codes.max()) // (ROWS * OUTPUTS) for i in coded_inputs if i is not newest}
            v.steps = (*v.steps, "sum")
            v.tables = (*v.tables, *(name for o in sorted(others) for name in self.makers[max(o, 0)]))
        elif any(not torch.equal(i.codes.expand(v.shape), v.codes) for i in coded_inputs):
            v.steps = (*v.steps, "mixed")

    @staticmethod
    def _history(values: list[Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        longest = max(values, key=lambda i: len(i.steps))
        return longest.steps, tuple(dict.fromkeys(name for i in values for name in i.tables))


def union(masks: Any) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


def coded(maker: int, shape: tuple[int, ...], axis: int = -1, told: Tensor | None = None) -> Tensor | None:
    """Codes of a maker's outputs, (row, output) along the other axes and along `axis`; equal rows have one number."""
    if not is_small(shape):
        return None
    outputs = shape[axis]
    rows = torch.arange(torch.Size(shape).numel() // outputs)
    if told is not None and told.dim() and told.numel() == len(rows) * told.shape[-1] and told.min() >= 0:
        told = told.reshape(len(rows), -1)
        if told[:, 0].unique().numel() < len(rows):
            rows = told.unique(dim=0, return_inverse=True)[1]
    codes = maker * ROWS * OUTPUTS + rows[:, None] * OUTPUTS + torch.arange(outputs)
    return codes.reshape(shape) if axis == -1 else codes.reshape(shape[0], *shape[2:], outputs).movedim(-1, axis)


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether a tensor gets codes: a condition does, a long stream does not, or they would fill the memory."""
    n = torch.Size(shape).numel()
    return bool(shape) and 0 < n <= (LARGE if n <= FEW * shape[-1] else SMALL)


def door(op: str, inputs: tuple[Value, ...]) -> Value:
    """The input of a Linear that is no weight of it."""
    usual = inputs[1 if op in ("addmm", "baddbmm", "_addmm_activation", "addmv") or op == "embedding" else 0]
    return usual if usual.lineage else next((i for i in inputs if i.lineage), usual)


def weights_of(op: str, inputs: tuple[Value, ...]) -> tuple[str, ...]:
    """The parameters that an operation uses, also where a weight is computed from several."""
    skip = door(op, inputs) if op in LINEAR | {"embedding"} and inputs else None
    todo = [i for i in inputs if not i.lineage and i is not skip]
    met = set(todo)
    for v in todo:  # which grows as it is walked
        new = [i for i in v.inputs if i not in met]
        todo += new
        met.update(new)
    return tuple(v.name for v in todo if v.name)


def back(v: Value) -> Value:
    """Where a value was made: back through views."""
    while v.op in VIEWS and v.inputs:
        v = v.inputs[0]
    return v


def tensors_of(result: Any) -> Iterator[Tensor]:
    """Tensors in what a module gave back, also in objects that hold them."""
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (t for t in tree_leaves(vars(leaf)) if isinstance(t, Tensor))


def watch(model: nn.Module, run: Callable[[], Any]) -> Watch:
    """One pass, watched. Random state, buffers and modes are as before when it ends, also if `run` raises."""
    seen = Watch(model)
    hooks = [
        global_hooks.register_module_forward_pre_hook(seen.enter),
        model.register_forward_pre_hook(seen.given, with_kwargs=True),
        global_hooks.register_module_forward_hook(seen.leave, always_call=True),
    ]
    try:
        with warnings.catch_warnings(), untouched(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            warnings.filterwarnings("ignore", message="Using `torch.compile")  # of the hooks, which are what we want
            with seen:
                run()
    except Exception as error:
        raise ValueError(f"run() raised {type(error).__name__}: {error}; the module is as it was") from error
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@contextmanager
def untouched(model: nn.Module, *also: str) -> Iterator[None]:
    """Afterwards buffers, modes, random state and the parameters named in `also` are what they were, bit for bit."""
    modes = {m: m.training for m in model.modules()}
    kept = {name: (b, b.clone()) for name, b in model.named_buffers()}
    kept |= {name: (p, p.detach().clone()) for name, p in model.named_parameters() if name in also}
    dice, numpy = random.getstate(), sys.modules.get("numpy")
    more_dice = numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
            yield
    finally:
        with torch.no_grad():
            for t, values in kept.values():
                t.copy_(values)
        for m, mode in modes.items():
            m.training = mode
        random.setstate(dice)
        if numpy:
            numpy.random.set_state(more_dice)
