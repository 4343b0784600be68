"""The x-ray: what does a module do with its condition? One forward pass is watched, operation by operation.

    what moves when I touch this?   Every value remembers what it was made of: inputs, parameters, and by which steps.

A *vector* is a value that has one number for each channel and the same for all tokens, made from an input, but not from
all that the stream is made of. Multiplied to a normalised stream it is a scale; added to one, a shift; multiplied to a
branch that is then added to a stream, a gate. Names say where something is, never what it does.

B batch, T tokens, D channels.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

VIEWS = {  # the same numbers, elsewhere
    "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze",
    "slice", "select", "split", "split_with_sizes", "unbind", "alias", "detach", "clone", "_to_copy", "unfold",
    "as_strided", "lift_fresh", "contiguous",
}  # fmt: skip
LINEAR = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "_addmm_activation", "addmv", "mv"}
NORMS = {
    "native_layer_norm": "LayerNorm",
    "_fused_rms_norm": "RMSNorm",
    "rms_norm": "RMSNorm",
    "native_group_norm": "GroupNorm",
}
ACTIVATIONS = {"silu": "SiLU", "gelu": "GELU", "mish": "Mish", "relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"}
UNARY = {"add", "sub", "mul", "div", "neg", "tanh", "sigmoid", "clamp", "hardtanh", "softplus", "exp", "rsub"}


@dataclass(eq=False)
class Value:
    """One tensor of the pass: the step that made it, from what, where."""

    op: str
    inputs: tuple["Value", ...]
    shape: tuple[int, ...]
    offset: int  # in its storage: says which chunk a view is
    path: str  # of the module that was running
    leaves: int = 0  # which inputs it is made of, a bit each
    name: str = ""  # of a parameter or buffer
    users: list["Value"] = field(default_factory=list)


class Watch(TorchDispatchMode):
    """Records every operation of a pass, and changes nothing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.values: list[Value] = []
        self.running: list[str] = []
        self.inputs = 0
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            self.known[p] = Value("param", (), tuple(p.shape), p.storage_offset(), "", name=name)

    def _value(self, t: Tensor) -> Value:
        if t not in self.known:
            self.known[t] = Value("input", (), tuple(t.shape), t.storage_offset(), "", 1 << self.inputs)
            self.inputs += 1
        return self.known[t]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [a for a in tree_leaves((args, kwargs or {})) if isinstance(a, Tensor)]
        inputs = tuple(self._value(t) for t in given)
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        in_place = name.endswith("_") and not name.startswith("_")
        name = name.rstrip("_") if in_place else name
        leaves = 0
        for value in inputs:
            leaves |= value.leaves
        if in_place:  # who writes into a view writes into what it is a view of
            target = inputs[0]
            while target.op in VIEWS and target.inputs:
                target = target.inputs[0]
                target.leaves |= leaves
        if not inputs and not self.running:  # made outside the module: an input
            leaves, self.inputs = 1 << self.inputs, self.inputs + 1
        for t in tree_leaves(result):
            if isinstance(t, Tensor):
                if name == "addcmul":  # a + b * c, in its two steps
                    product = self._made("mul", inputs[1:], t, inputs[1].leaves | inputs[2].leaves)
                    self.known[t] = self._made("add", (inputs[0], product), t, leaves)
                else:
                    self.known[t] = self._made(name, inputs, t, leaves)
        return result

    def _made(self, op: str, inputs: tuple[Value, ...], t: Tensor, leaves: int) -> Value:
        path = self.running[-1] if self.running else ""
        value = Value(op, inputs, tuple(t.shape), t.storage_offset(), path, leaves)
        for i in inputs:
            i.users.append(value)
        self.values.append(value)
        return value


def watch(model: nn.Module, run: Callable[[], Any]) -> list[Value]:
    """All values of one pass, in order. Random state and buffers are as before when it ends, also if `run` raises."""
    names = {m: name for name, m in model.named_modules()}
    modes = {m: m.training for m in model.modules()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    seen = Watch(model)
    hooks = [
        global_hooks.register_module_forward_pre_hook(
            lambda m, _: seen.running.append(names[m]) if m in names else None
        ),
        global_hooks.register_module_forward_hook(
            lambda m, *_: seen.running.pop() and None if m in names else None, always_call=True
        ),
    ]
    cuda = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(cuda), torch.no_grad(), seen:
            run()
    except Exception as error:
        raise ValueError(f"run() raised {type(error).__name__}: {error}; the module is as it was") from error
    finally:
        for hook in hooks:
            hook.remove()
        for name, b in model.named_buffers():
            b.copy_(buffers[name])
        for m, mode in modes.items():
            m.training = mode
    return seen.values


# --- reading


def back(v: Value) -> Value:
    """Where a value was made: back through views."""
    while v.op in VIEWS and v.inputs:
        v = v.inputs[0]
    return v


def uses(v: Value) -> Iterator[Value]:
    """Who works on a value, behind views and dropout."""
    for user in v.users:
        if user.op in VIEWS or user.op == "native_dropout":
            yield from uses(user)
        else:
            yield user


def channel_axis(v: Value, out: tuple[int, ...]) -> int | None:
    """The axis along which v has a number for each channel of `out` and nothing else; None if v is no such vector."""
    shape = (1,) * (len(out) - len(v.shape)) + v.shape
    if len(out) < 3 or not v.leaves or len(shape) != len(out):
        return None
    wide = [i for i in range(1, len(out)) if shape[i] > 1]
    return wide[0] if len(wide) == 1 and any(out[i] > 1 and shape[i] == 1 for i in range(1, len(out))) else None


def parts(v: Value) -> tuple[Value, Value] | None:
    """(stream, vector) of a product or a sum with a vector of the condition."""
    if v.op not in ("mul", "add") or len(v.inputs) != 2:
        return None
    for s, w in (v.inputs, v.inputs[::-1]):
        if s.shape == v.shape and w.shape != v.shape and channel_axis(w, v.shape) is not None and s.leaves & ~w.leaves:
            return s, w
    return None


def norm_of(v: Value) -> tuple[Value, bool] | None:
    """The norm that a value left through, past weights and vectors, and whether it has learned weights."""
    affine = False
    while True:
        v = back(v)
        if v.op in NORMS:
            return v, affine or any(back(i).op == "param" for i in v.inputs[1:])
        if v.op == "mul" and any(back(i).op in ("rsqrt", "reciprocal") for i in v.inputs):
            return v, affine
        if v.op == "div" and len(v.inputs) == 2 and back(v.inputs[1]).op in ("sqrt", "add", "clamp_min"):
            return v, affine
        if v.op not in ("mul", "add") or len(v.inputs) != 2:
            return None
        if inner := parts(v):
            v = inner[0]
            continue
        weights = [i for i in v.inputs if back(i).op == "param" or (not i.leaves)]
        others = [i for i in v.inputs if i not in weights]
        if len(weights) != 1 or len(others) != 1:
            return None
        affine, v = True, others[0]


def norm_name(norm: Value) -> str:
    """LayerNorm takes the mean away, RMSNorm does not: also where it is written by hand."""
    if norm.op in NORMS:
        return NORMS[norm.op]
    return "LayerNorm" if any(back(i).op == "sub" for i in norm.inputs) else "RMSNorm"


@dataclass(eq=False)
class Touch:
    """One place where a vector meets the stream."""

    role: str  # scale, shift, gate, additive, or other
    stream: Value
    steps: tuple[str, ...]  # what was done to the vector after it left its Linear
    linear: Value | None
    table: str
    slot: int  # its place among the Linear's vectors
    vector: Value  # as it was before those steps
    width: int
    path: str


def role_of(v: Value, stream: Value) -> str:
    if v.op == "mul":
        users = list(uses(v))
        ends = [u for u in users if u.op == "add" and u.shape == v.shape and not parts(u)]
        if users and len(ends) == len(users):
            return "gate"
    if norm_of(stream) is None:
        return "additive" if v.op == "add" else "other"
    return "shift" if v.op == "add" else "scale"


def origin(w: Value, width: int) -> tuple[tuple[str, ...], Value | None, str, int, Value]:
    """Where a vector comes from: steps on the way, its Linear, a table that was added, its slot, the vector itself."""
    steps, table, slot, v, vector = [], "", None, w, w
    while True:
        if v.op in VIEWS and v.inputs:
            start = back(v)
            size = 1
            for n in start.shape[1:]:
                size *= n
            if size > width and slot is None:
                slot = (v.offset - start.offset) // width % (size // width)
            v = start
        elif v.op in UNARY and len(v.inputs) == 1:
            steps.append(v.op)
            v = vector = v.inputs[0]
        elif v.op == "add" and len(v.inputs) == 2 and any(back(i).op == "param" for i in v.inputs):
            table = next(back(i).name for i in v.inputs if back(i).op == "param")
            v = next(i for i in v.inputs if back(i).op != "param")
        elif v.op in LINEAR:
            return tuple(steps), v, table, slot or 0, vector
        else:
            return tuple(steps), None, table, slot or 0, vector


def touches(values: list[Value]) -> list[Touch]:
    found = []
    for v in values:
        if pair := parts(v):
            stream, w = pair
            width = v.shape[channel_axis(w, v.shape)]
            steps, linear, table, slot, vector = origin(w, width)
            found.append(Touch(role_of(v, stream), stream, steps, linear, table, slot, vector, width, v.path))
    return found


# --- what was found


def own(value: Value) -> list[str]:
    """Names of the parameters that an operation uses."""
    return [back(i).name for i in value.inputs if back(i).op == "param"]


def owner(t: Touch) -> str:
    """The module whose Linear made a vector."""
    names = own(t.linear) if t.linear is not None else []
    return names[0].rpartition(".")[0] if names else ""


def residual_paths(values: list[Value]) -> set[str]:
    """Modules in whose own forward two streams are added."""
    return {
        v.path
        for v in values
        if v.op == "add"
        and len(v.inputs) == 2
        and len(v.shape) >= 3
        and all(i.shape == v.shape and i.leaves for i in v.inputs)
    }


def block_of(t: Touch, residual: set[str], is_one_block: bool) -> str | None:
    """The innermost module around a touch that adds streams; else the list's item that its Linear belongs to.

    None for what belongs to no block. The module itself counts where it has no blocks inside.
    """
    path = t.path
    while path:
        if path in residual:
            return path
        path = path.rpartition(".")[0]
    if is_one_block:
        return ""
    path = owner(t).rpartition(".")[0]
    while path and not path.rpartition(".")[2].isdigit():
        path = path.rpartition(".")[0]
    return path or None


def bounding(gates: list[Touch]) -> str:
    if not gates:
        return "none"
    forms = set()
    for gate in gates:
        steps = gate.steps
        if "tanh" in steps:
            forms.add("clamp(+-2) then tanh" if {"clamp", "hardtanh"} & set(steps) else "tanh")
        elif "sigmoid" in steps:
            forms.add("sigmoid")
        elif "add" in steps or "sub" in steps:
            forms.add("1+g")
        else:
            forms.add("raw" if not steps else "unknown")
    return forms.pop() if len(forms) == 1 else "unknown"


def same_or_unknown(found: list[Any]) -> Any:
    return found[0] if found and all(f == found[0] for f in found) else ("none" if not found else "unknown")


def n_slots(met: list[Touch]) -> int:
    """How many vectors the Linears behind these touches make in all."""
    return sum(t.linear.shape[-1] // t.width for t in {id(t.linear): t for t in met if t.linear is not None}.values())


def describe(
    block: str, met: list[Touch], everywhere: dict[str, set[str]], parameters: dict[str, Tensor]
) -> dict[str, Any]:
    """The fields of one block."""
    gates = [t for t in met if t.role == "gate"]
    norms = [norm_of(t.stream) for t in met if t.role in ("scale", "shift")]
    after = [norm_of(t.stream) for t in gates]
    order: dict[str, dict[int, str]] = defaultdict(dict)
    vectors: dict[tuple[str, int], set[Value]] = defaultdict(set)
    for t in met:
        order[owner(t)].setdefault(t.slot, t.role)
        vectors[owner(t), t.slot].add(t.vector)
    is_clear = "" not in order and all(len(same) == 1 for same in vectors.values())  # one vector in each slot
    tables = sorted({t.table for t in met if t.table})
    names = sorted({name for t in met if t.linear is not None for name in own(t.linear)} | set(tables))
    shared = {len(everywhere[o]) > 1 for o in order}
    slots = [slot for taken in order.values() for slot in taken]
    if not is_clear or len(shared) > 1:
        source = "unknown"
    elif tables:
        source = "shared_linear_plus_table"
    elif shared == {False}:
        source = "per_block_linear"
    else:
        source = "one_linear_sliced_per_block" if len(slots) < n_slots(met) else "fully_shared"
    inside = [back(i) for t in met if t.linear is not None for i in t.linear.inputs if back(i).op != "param"]
    acts = [ACTIVATIONS.get(i.op, "none") for i in inside]
    return {
        "n_vectors_per_block": sum(map(len, vectors.values())),
        "has_scale": any(t.role == "scale" for t in met),
        "has_shift": any(t.role == "shift" for t in met),
        "has_gate": bool(gates),
        "gate_bounding": bounding(gates),
        "chunk_order": [
            {
                "module": o[len(block) + 1 :] if o.startswith(block + ".") else "/" + o,
                "roles": [roles[i] for i in sorted(roles)],
            }
            for o, roles in order.items()
        ]
        if is_clear
        else "unknown",
        "base_norm": same_or_unknown([norm_name(n[0]) for n in norms if n]),
        "base_norm_affine": same_or_unknown([n[1] for n in norms if n]),
        "post_norm": same_or_unknown([norm_name(n[0]) + " affine" * n[1] if n else "none" for n in after]),
        "source": source,
        "activation_before_linear": same_or_unknown(acts) if is_clear else "unknown",
        "zero_initialised_at_construction": bool(names) and not any(parameters[n].any() for n in names),
        "modulation_params": names,
    }


@dataclass(frozen=True)
class Report:
    """What was found; `as_dict()` has every field, printing it shows a table."""

    verdict: str  # unknown, adaln, final_layer_only, other_conditional_modulation, additive_only, none
    groups: list[dict[str, Any]]
    final_layer: dict[str, Any] | None
    share_blocks: float | None = None  # parameters of the blocks' modulation over all; None where nothing ran
    share_blocks_plus_final: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """What was found, in words."""
        if self.verdict == "unknown":
            return "Without a pass nothing flows, and names prove nothing: give run, as in xray(m, lambda: m(x, t))."
        if not self.groups:
            return SAID[self.verdict]
        return " ".join(
            f"{g['n_blocks']} x {g['block_class']} ({g['blocks'] or 'the module'}): {g['n_vectors_per_block']} vectors "
            f"on {g['base_norm']}, gate {g['gate_bounding']}, source {g['source']}; "
            f"{'all zero' if g['zero_initialised_at_construction'] else 'not zero'} as handed over."
            for g in self.groups
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """(block, field, value) for a table."""
        found = [(g["blocks"] or "the module", name, _said(g[name])) for g in self.groups for name in SHOWN]
        return found + [("final layer", name, _said(value)) for name, value in (self.final_layer or {}).items()]

    def __str__(self) -> str:
        lines, last = [f"verdict: {self.verdict}. {self.sentence()}"], ""
        if self.share_blocks is not None:
            lines.append(f"{100 * self.share_blocks:.3g} % of the parameters modulate blocks")
        for block, name, value in self.rows():
            lines += [block] * (block != last)
            lines.append(f"    {name:34}{value}")
            last = block
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in self.rows())
        return f"<p><b>{self.verdict}</b>. {escape(self.sentence())}</p><table>{cells}</table>"


SAID = {
    "final_layer_only": "Only the last layer is modulated.",
    "other_conditional_modulation": "A condition scales something that is no layer norm of tokens.",
    "additive_only": "A condition is added, and multiplies nothing.",
    "none": "No vector of a condition meets the stream.",
}
SHOWN = (
    "n_vectors_per_block", "chunk_order", "gate_bounding", "base_norm", "base_norm_affine", "post_norm", "source",
    "activation_before_linear", "zero_initialised_at_construction",
)  # fmt: skip


def _said(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(f"{v['module']}: {', '.join(v['roles'])}" if isinstance(v, dict) else str(v) for v in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def xray(module: nn.Module, run: Callable[[], Any] | None = None) -> Report:
    """Watch one pass, `run()`, and say how the module is told what it is told. The module is left as it was.

    Without `run` the answer is "unknown". Raises ValueError where `run` raises, naming what it raised.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"xray reads a torch.nn.Module, got {type(module).__name__}")
    if run is None:
        return Report("unknown", [], None)
    if not callable(run):
        raise ValueError("run must be callable without arguments, as in xray(model, lambda: model(x, t, y))")
    values = watch(module, run)
    met = touches(values)
    residual = residual_paths(values)
    parameters = dict(module.named_parameters())
    blocks: dict[str, list[Touch]] = defaultdict(list)
    last = []
    modulating = [t for t in met if t.role in ("scale", "shift", "gate")]
    inner = any(block_of(t, residual, False) for t in modulating)
    for t in modulating:
        at = block_of(t, residual, "" in residual and not inner)
        (last if at is None else blocks[at]).append(t)
    everywhere: dict[str, set[str]] = defaultdict(set)
    for at, ts in blocks.items():
        for t in ts:
            everywhere[owner(t)].add(at)
    found = {at: describe(at, ts, everywhere, parameters) for at, ts in blocks.items()}
    groups: dict[tuple, list[str]] = {}
    for at, facts in found.items():
        place, _, number = at.rpartition(".")
        plain = {k: v for k, v in facts.items() if k != "modulation_params"}
        key = (place if number.isdigit() else at, type(module.get_submodule(at)).__name__, repr(plain))
        groups.setdefault(key, []).append(at)
    rows = []
    for (place, kind, _), paths in groups.items():
        alone = sum(k[0] == place for k in groups) == 1
        names = sorted({n for at in paths for n in found[at]["modulation_params"]})
        pattern = f"{place}.*" if paths[0] != place and (alone or len(paths) > 1) else paths[0]
        rows.append(
            {"blocks": pattern, "block_class": kind, "n_blocks": len(paths)}
            | found[paths[0]]
            | {"modulation_params": names, "modulation_numel": sum(parameters[n].numel() for n in names)}
        )
    final = None
    if last:
        facts = describe("", last, everywhere, parameters)
        chunks, table = facts["chunk_order"], last[0].table
        first = {"module": "unknown", "roles": "unknown"} if chunks == "unknown" else chunks[0]
        final = {
            "module": first["module"].lstrip("/"),
            "roles": first["roles"],
            "norm": facts["base_norm"],
            "affine": facts["base_norm_affine"],
            "activation": facts["activation_before_linear"],
        }
        if table and not _is_own(last[0]):
            final |= {"module": f"TABLE {table} + raw t_emb", "activation": "none"}
    others = [row for row in rows if row["base_norm"] in ("GroupNorm", "InstanceNorm")]
    rows = [row for row in rows if row not in others]
    roles = {t.role for t in met}
    verdict = (
        "adaln" if rows
        else "other_conditional_modulation" if others or "other" in roles
        else "final_layer_only" if last
        else "additive_only" if "additive" in roles
        else "none"
    )  # fmt: skip
    total = sum(p.numel() for p in parameters.values()) or 1
    in_blocks = {name for row in rows for name in row["modulation_params"]}
    both = in_blocks | {name for t in last for name in [*(own(t.linear) if _is_own(t) else []), t.table] if name}
    shares = [sum(parameters[n].numel() for n in names) / total for names in (in_blocks, both)]
    return Report(verdict, rows, final, *shares)


def _is_own(t: Touch) -> bool:
    """Whether a touch's Linear makes modulation, and is not the embedding of c itself."""
    return t.linear is not None and not (t.table and t.linear.shape[-1] == t.width)
