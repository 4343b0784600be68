"""Record one forward pass, operation by operation: what ran on what, in which module.

Each tensor of the pass becomes a `Value` with its operation and inputs. A value also carries

lineage   the arguments of the module it was computed from, one bit each. A factor or a summand that is the same for all
          tokens (a scale, shift or gate) adds no bit; neither do the keys and values that a token attends to
hidden    why its content is unknown: it comes from a kernel of another library, or from outside torch
norm      what its numbers say: every token has mean 0 and one size (LayerNorm), or one size (RMSNorm)
codes     for each number of a small tensor: which output of which Linear it is, through views, copies and selections
checksum  of a product or a sum, to see in a second pass whether it changed
"""

import random
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

COPIES = {"clone", "_to_copy", "lift_fresh", "contiguous", "copy", "native_dropout", "_unsafe_view", "repeat"}
SAME_SHAPE = COPIES - {"_unsafe_view", "repeat"} | {"detach", "alias"}
VIEWS = COPIES | SAME_SHAPE | {  # the same numbers in another arrangement
    "view", "reshape", "_reshape_alias", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "slice",
    "select", "split", "split_with_sizes", "unbind", "unfold",
}  # fmt: skip
SELECTIONS = {"cat", "stack", "where", "index", "index_select", "gather"}  # numbers of several tensors, or some of one
LINEAR = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "_addmm_activation", "addmv", "mv", "convolution"}
NORMS = {
    "native_layer_norm": "LayerNorm", "_fused_rms_norm": "RMSNorm", "rms_norm": "RMSNorm",
    "native_group_norm": "GroupNorm", "native_batch_norm": "BatchNorm", "_native_batch_norm_legit": "BatchNorm",
}  # fmt: skip
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"}
CONSTANTS = EMPTY | {"zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"}
FEW_ROWS, SMALL, LARGE = 64, 1 << 17, 1 << 22  # largest tensors with codes: SMALL numbers, LARGE if it has few rows
ROWS, OUTPUTS = 1 << 20, 1 << 20  # code = (number of the Linear * ROWS + row) * OUTPUTS + output


@dataclass(eq=False, repr=False)
class Value:
    """One tensor of the pass."""

    op: str
    inputs: tuple["Value", ...]
    shape: tuple[int, ...]
    path: str = ""  # of the module that was running
    lineage: int = 0
    name: str = ""  # of a parameter or buffer
    codes: Tensor | None = None
    steps: tuple[str, ...] = ()  # functions applied to coded numbers since their Linear
    tables: tuple[str, ...] = ()  # parameters added to them
    offset: int = 0  # of a view in its storage
    index: int = 0  # its place in the pass
    is_outer: bool = False  # a product or sum of several smaller tensors, such as a vector and a token's statistic
    hidden: str = ""
    norm: str = ""
    checksum: float | None = None
    rms: float | None = None  # of a coded factor
    consumers: list["Value"] = field(default_factory=list)

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


class Recorder(TorchDispatchMode):
    """Records every operation of a pass and changes none."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module):
        super().__init__()
        self.value_of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.values: list[Value] = []  # in the order of the pass
        self.returned: set[Value] = set()
        self.running: list[str] = []  # stack of module paths
        self.called: set[str] = set()
        self.linears: list[tuple[str, ...]] = [()]  # the parameters of each Linear; number 0 is an input of the model
        self.first_output: dict[tuple[str, ...], Value] = {}  # of each Linear
        self.n_inputs = 0
        self.updates: dict[Value, Value] = {}  # the sums x + branch(x) of the stream, each with its x
        self.number: float | None = None  # the plain number of the operation
        self.lost = ""  # where vectors could not be followed, and why
        self.leaks: list[Value] = []  # values that became Python numbers
        self.outside: list[tuple[Value, weakref.ref, float]] = []  # tensors that no operation made, with their sum
        self.paths = {m: name for name, m in model.named_modules()}
        self.classes = {name: type(m).__name__ for m, name in self.paths.items()}
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            self.value_of[p] = Value("param", (), tuple(p.shape), name=name)

    def before_module(self, module: nn.Module, _args: Any) -> None:
        if module in self.paths:
            self.running.append(self.paths[module])
            self.called.add(self.paths[module])

    def before_model(self, _model: nn.Module, args: Any, kwargs: Any) -> None:
        """Each tensor argument of the model is an input of its own, also if it was computed from another."""
        if len(self.running) == 1:
            with _disable_current_modes():
                for t in (a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)):
                    self.value_of[t] = self._new_input(t)

    def after_module(self, module: nn.Module, _args: Any, result: Any) -> None:
        if module in self.paths:
            self.running.pop()
            if not self.running:
                self.returned |= {self.value_of[t] for t in tensors_of(result) if t in self.value_of}

    def _new_input(self, t: Tensor) -> Value:
        self.n_inputs += 1
        value = Value("input", (), tuple(t.shape), lineage=1 << self.n_inputs)
        value.codes = make_codes(0, value.shape)
        return value

    def _lookup(self, t: Tensor) -> Value:
        if t not in self.value_of:
            self.value_of[t] = value = self._new_input(t)
            if self.running and t.is_floating_point() and not t.is_meta and t.numel() > 1:
                value.path = self.running[-1]
                self.outside.append((value, weakref.ref(t), float(t.sum(dtype=torch.float64))))
        return self.value_of[t]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # there, compound operations arrive undivided
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        inputs = tuple(self._lookup(a) for a in tensors)
        result = func(*args, **kwargs)
        if not hasattr(func, "_schema"):  # an operator that takes functions, as flex_attention
            for t in (t for t in tree_leaves(result) if isinstance(t, Tensor)):
                self.value_of[t] = value = Value(func.name(), inputs, tuple(t.shape), self.running[-1])
                value.index, value.lineage = len(self.values), inputs[0].lineage
                value.hidden = f"{func.name()} is not recorded"
                self.values.append(value)
                for i in inputs:
                    i.consumers.append(value)
            return result
        name = func._schema.name.split("::")[1]
        in_place = name.endswith("_") and not name.startswith("_")
        name = name.rstrip("_") if in_place else name
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        is_foreign = func.namespace not in ("aten", "prims")
        if is_foreign:
            name, written = str(func), [a.name for a in func._schema.arguments if a.is_write]
            named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
            outputs += [t for t in tree_leaves([named.get(n) for n in written]) if isinstance(t, Tensor)]
        elif name == "_local_scalar_dense" and tensors[0].is_floating_point() and inputs[0].lineage and self.running:
            self.leaks.append(inputs[0])
        target = inputs[0] if inputs else None
        if name == "copy" and len(inputs) > 1:
            inputs = inputs[1:]  # what the target held is gone
        inputs = () if name in EMPTY and self.running else inputs  # it takes only a shape from them
        unread = in_place or name in ("addmm", "baddbmm")  # their first input may be room only
        for i in inputs[unread:] if name not in EMPTY | VIEWS | CONSTANTS else ():
            if (source := before_views(i)).op in EMPTY and not source.inputs:
                self.n_inputs += 1
                source.lineage = i.lineage = 1 << self.n_inputs
                source.hidden = f"what is written into the tensor made in {source.path or 'the model'} is not seen"
        if not inputs and not self.running:  # created outside the module
            for t in outputs:
                self.value_of[t] = self._new_input(t)
            return result
        if name in ("mul", "addcmul"):
            for a, v in zip(tensors, inputs, strict=True):
                if v.codes is not None and a.is_floating_point() and not a.is_meta:
                    v.rms = float(a.double().square().mean().sqrt())
        self.number = next((a for a in args if isinstance(a, int | float)), None)
        codes: list[Tensor | None] = [None] * len(outputs)
        small = all(is_small(t.shape) for t in outputs)
        if name in VIEWS | SELECTIONS and small and any(v.codes is not None for v in inputs):
            codes = self._rearrange_codes(func, name, args, kwargs, len(outputs))
        for t, c in zip(outputs, codes, strict=True):
            if name in ("addcmul", "lerp") and len(inputs) == 3:  # a + b * c, or a + (b - a) * c, as separate steps
                b = inputs[1] if name == "addcmul" else self._add(func, "sub", (inputs[1], inputs[0]), t)
                value = self._add(func, "add", (inputs[0], self._add(func, "mul", (b, inputs[2]), t)), t)
            elif t is outputs[0] and name in NORMS and any(i.lineage for i in inputs[1:]):
                value = self._add(func, name, (inputs[0], *(i for i in inputs[1:] if not i.lineage)), t)
                for argument, op in (("weight", "mul"), ("bias", "add")):  # a condition as weight and bias of a norm
                    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)).get(argument)
                    if isinstance(given, Tensor) and self._lookup(given).lineage:
                        value = self._add(func, op, (value, self._lookup(given)), t)
            else:
                value = self._add(func, name, inputs, t, c)
            if is_foreign:
                value.hidden = f"{name} is a kernel of another library"
            if in_place and target.op in VIEWS - COPIES:  # writing into a view changes its base
                base = target
                while base.op in VIEWS - COPIES and base.inputs:
                    base = base.inputs[0]
                base.inputs = (*base.inputs, *(i for i in inputs if i is not target))
                base.lineage |= value.lineage
                value.consumers.append(base)
            self.value_of[t] = value
        return result

    def _rearrange_codes(self, func: Any, name: str, args: Any, kwargs: Any, n: int) -> list[Tensor | None]:
        """Apply a view, copy or selection to the codes of its inputs."""

        def codes_of(a: Any) -> Any:
            if not isinstance(a, Tensor) or not (a.is_floating_point() or a.is_complex()):
                return a
            codes = self._lookup(a).codes
            return torch.full(a.shape, -1) if codes is None else codes

        if name in SAME_SHAPE:
            shapes = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
            codes = self._lookup(shapes[-1 if name == "copy" else 0]).codes
            return [codes if codes is None else codes.expand(shapes[0].shape), *[None] * (n - 1)]
        try:
            codes = tree_leaves(func(*tree_map(codes_of, args), **tree_map(codes_of, kwargs)))
        except (RuntimeError, NotImplementedError):  # indices without values, on meta
            codes = []
        chosen = (a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor) and not a.is_floating_point())
        if len(codes) != n or any(t.is_meta for t in (*codes, *chosen)):
            place = self.running[-1] if self.running else "the model"
            self.lost = f"{name} in {place} selects by values that meta lacks"
            return [None] * n
        return [c.contiguous() for c in codes]

    def _add(self, func: Any, op: str, inputs: tuple[Value, ...], t: Tensor, codes: Tensor | None = None) -> Value:
        """Record the result t of an operation."""
        v = Value(op, inputs, tuple(t.shape), self.running[-1] if self.running else "", offset=t.storage_offset())
        v.index = len(self.values)
        pointwise = torch.Tag.pointwise in func.tags
        full = [i for i in inputs if i.numel == v.numel and i.lineage] if pointwise or op in VIEWS else []
        v.is_outer = all(i.is_outer for i in full) and (
            bool(full) or (pointwise and sum(bool(i.lineage) for i in inputs) > 1)
        )
        full = [i for i in full if v.is_outer or not i.is_outer] if pointwise else []
        if op not in CONSTANTS:
            v.lineage = reduce(or_, [i.lineage for i in full or inputs], 0)
        if op in LINEAR or "attention" in op:  # of the query alone, not of the keys and values
            v.lineage = linear_input(op, inputs).lineage
        coded_inputs = [i for i in inputs if i.codes is not None]
        params = parameters_of(op, inputs) if op in LINEAR | {"embedding"} else ()
        if params:
            if params not in self.linears:
                self.linears.append(params)
                self.first_output[params] = v
            axis = 1 if op == "convolution" else -1
            v.codes = make_codes(self.linears.index(params), v.shape, axis, linear_input(op, inputs).codes)
        elif codes is not None:
            v.codes, v.steps, v.tables = codes, *merged_history(coded_inputs)
        elif pointwise and coded_inputs and not any(i.codes is None and i.lineage for i in inputs):
            self._apply_function(v, op, coded_inputs, tuple(name for i in inputs if (name := before_views(i).name)))
        if op in ("mul", "add") and len(inputs) == 2 and t.is_floating_point() and not t.is_meta:
            v.checksum = float(t.sum(dtype=torch.float64))
        if (op in ("mul", "div") or "::" in str(op) or op in SELECTIONS) and v.lineage:
            v.norm = norm_by_numbers(t)
        for i in inputs:
            i.consumers.append(v)
        self.values.append(v)
        return v

    def _is_adapter(self, v: Value, other: Value) -> bool:
        """Whether v is a low-rank term, up(down(x)), beside the full Linear(x) that `other` comes from."""
        linears = [self.linears[max(int(i.codes.max()), 0) // (ROWS * OUTPUTS)] for i in (v, other)]
        up, full = (self.first_output.get(names) for names in linears)
        if up is None or full is None or up is full or "embedding" in (up.op, full.op):
            return False
        given, target = (before_views(linear_input(i.op, i.inputs)) for i in (up, full))
        return any(i is target for i in upstream([given], lambda i: i.index >= target.index)) and given is not target

    def _apply_function(self, v: Value, op: str, coded_inputs: list[Value], params: tuple[str, ...]) -> None:
        """Codes of v, an elementwise function of coded numbers, or their sum with a table or with each other."""
        if not is_small(v.shape):
            return
        newest = max(coded_inputs, key=lambda i: (n_rows(i) if len(coded_inputs) > 1 else 0, int(i.codes.max())))
        if op == "add" and len(coded_inputs) == 2:  # a low-rank adapter beside a Linear of the same input
            other = next(i for i in coded_inputs if i is not newest)
            newest = other if self._is_adapter(newest, other) else newest
        v.codes, v.offset = newest.codes.expand(v.shape), newest.offset
        v.steps, v.tables = merged_history(coded_inputs)
        if params and op in ("add", "sub"):
            v.tables = (*v.tables, *params)
        elif len(coded_inputs) == 1:
            v.steps = (*v.steps, op if op not in ("add", "sub") or self.number == 1 else f"{op} {self.number}")
        elif op == "add":
            others = {int(i.codes.max()) // (ROWS * OUTPUTS) for i in coded_inputs if i is not newest}
            v.steps = (*v.steps, "sum")
            v.tables = (*v.tables, *(name for o in sorted(others) for name in self.linears[max(o, 0)]))
        else:
            v.steps = (*v.steps, "mixed")


def norm_by_numbers(t: Tensor) -> str:
    """LayerNorm or RMSNorm if the last axis of t has the same size in all rows; "" if not, or if t has no values."""
    if t.is_meta or not t.is_floating_point() or t.dim() < 2 or t.shape[-1] < 8 or t.numel() <= 2 * t.shape[-1]:
        return ""
    rows = t.reshape(-1, t.shape[-1]).float()
    mean, size = rows.mean(-1), rows.square().mean(-1).sqrt()
    if size.min() <= 0 or not size.max() < 1.02 * size.min() or (rows[0] == rows[1:]).all():
        return ""
    return "LayerNorm" if (mean.abs() < 0.01 * size).all() else "RMSNorm"


def n_rows(v: Value) -> int:
    """How many different rows a coded value has: a vector has fewer than a stream."""
    return v.codes.reshape(-1, v.shape[-1])[:, 0].unique().numel()


def merged_history(values: list[Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Steps and tables of a value computed from these: the longest steps, all tables."""
    longest = max(values, key=lambda i: len(i.steps))
    return longest.steps, tuple(dict.fromkeys(name for i in values for name in i.tables))


def make_codes(linear: int, shape: tuple[int, ...], axis: int = -1, given: Tensor | None = None) -> Tensor | None:
    """Codes of a Linear's output; `axis` counts its outputs, the other axes its rows. Rows with equal inputs are one.

    `given` are the codes of the Linear's input. None for a tensor that is too large.
    """
    if not is_small(shape):
        return None
    outputs = shape[axis]
    rows = torch.arange(torch.Size(shape).numel() // outputs)
    if given is not None and given.dim() and given.numel() == len(rows) * given.shape[-1] and given.min() >= 0:
        given = given.reshape(len(rows), -1)
        if given[:, 0].unique().numel() < len(rows):
            rows = given.unique(dim=0, return_inverse=True)[1]
    codes = linear * ROWS * OUTPUTS + rows[:, None] * OUTPUTS + torch.arange(outputs)
    return codes.reshape(shape) if axis == -1 else codes.reshape(shape[0], *shape[2:], outputs).movedim(-1, axis)


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether a tensor gets codes: a condition does; a long stream does not, since its codes would fill the memory."""
    n = torch.Size(shape).numel()
    return bool(shape) and 0 < n <= (LARGE if n <= FEW_ROWS * shape[-1] else SMALL)


def linear_input(op: str, inputs: tuple[Value, ...]) -> Value:
    """The input of a Linear, among its weights."""
    usual = inputs[1 if op in ("addmm", "baddbmm", "_addmm_activation", "addmv") or op == "embedding" else 0]
    return usual if usual.lineage else next((i for i in inputs if i.lineage), usual)


def parameters_of(op: str, inputs: tuple[Value, ...]) -> tuple[str, ...]:
    """The parameters that an operation uses, also where its weight is computed from several."""
    skip = linear_input(op, inputs) if op in LINEAR | {"embedding"} and inputs else None
    return tuple(v.name for v in upstream(i for i in inputs if not i.lineage and i is not skip) if v.name)


def upstream(values: Iterable[Value], within: Callable[[Value], bool] = lambda _: True) -> Iterator[Value]:
    """These values and all that they were computed from, the nearest first, as far as `within` is true."""
    found = list(dict.fromkeys(values))
    visited = set(found)
    for v in found:  # which grows during the loop
        yield v
        new = [i for i in dict.fromkeys(v.inputs) if i not in visited and within(i)]
        found += new
        visited.update(new)


def downstream(v: Value) -> Iterator[Value]:
    """All that is computed from a value."""
    found = dict.fromkeys(v.consumers)
    todo = list(found)
    for u in todo:  # which grows during the loop
        yield u
        todo += [w for w in u.consumers if w not in found]
        found |= dict.fromkeys(u.consumers)


def before_views(v: Value) -> Value:
    """The value that v is a view or copy of."""
    while v.op in VIEWS and v.inputs:
        v = v.inputs[0]
    return v


def tensors_of(result: Any) -> Iterator[Tensor]:
    """The tensors in what a module returned, also in objects that hold them."""
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (t for t in tree_leaves(vars(leaf)) if isinstance(t, Tensor))


def record(model: nn.Module, run: Callable[[], Any]) -> Recorder:
    """Record one pass. Random state, buffers and modes are restored, also if `run` raises (then: ValueError)."""
    recorder = Recorder(model)
    hooks = [
        global_hooks.register_module_forward_pre_hook(recorder.before_module),
        model.register_forward_pre_hook(recorder.before_model, with_kwargs=True),
        global_hooks.register_module_forward_hook(recorder.after_module, always_call=True),
    ]
    try:
        with warnings.catch_warnings(), restored(model), torch.no_grad(), run_eagerly():
            warnings.filterwarnings("ignore", message="Using `torch.compile")  # it warns of the hooks set above
            with recorder:
                run()
    except Exception as error:
        raise ValueError(f"run() raised {type(error).__name__}: {error}; the module is as it was") from error
    finally:
        for hook in hooks:
            hook.remove()
    return recorder


def mark_what_came_from_outside(recorder: Recorder, model: nn.Module, run: Callable[[], Any]) -> None:
    """Mark tensors that no operation made, as numpy's, and whose numbers depend on the model's parameters."""
    gone = [number for number, (_, tensor, _) in enumerate(recorder.outside) if tensor() is None]
    names = [name for name, p in model.named_parameters() if p.is_floating_point() and not p.is_meta]
    if not gone or not names:
        return
    with restored(model, *names), torch.no_grad():
        for name in names:
            model.get_parameter(name).add_(0.1)
        again = record(model, run).outside
    for number in gone:
        value, _, total = recorder.outside[number]
        if number >= len(again) or again[number][2] != total:
            value.hidden = "the tensor was computed outside torch"


def run_eagerly() -> AbstractContextManager:
    """What torch.compile made runs as it was written; where nothing was compiled, its slow import is spared."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def restored(model: nn.Module, *names: str) -> Iterator[None]:
    """Afterwards restore buffers, modes, random states and the parameters in `names`, bit for bit."""
    modes = {m: m.training for m in model.modules()}
    kept = {name: (b, b.clone()) for name, b in model.named_buffers()}
    kept |= {name: (p, p.detach().clone()) for name, p in model.named_parameters() if name in names}
    python_state, numpy = random.getstate(), sys.modules.get("numpy")
    numpy_state = numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
            yield
    finally:
        with torch.no_grad():
            for t, values in kept.values():
                t.copy_(values)
        for m, mode in modes.items():
            m.training = mode
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
