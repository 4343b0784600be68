"""Reading what was watched: where a vector of the condition meets the stream, in which role, made by what.

A *vector* has one number for each channel and the same for many tokens, and is a version of other arguments than the
stream. Multiplied to a normalised stream it is a scale; added to one, a shift; multiplied to a branch that is then
added to the stream, a gate. Names say where something is, never what it does.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaln_lab.analysis.xray.watch import (
    LINEAR,
    OUTPUTS,
    ROWS,
    VIEWS,
    Value,
    Watch,
    back,
    door,
    is_small,
    union,
    weights_of,
)

NORMS = {
    "native_layer_norm": "LayerNorm", "_fused_rms_norm": "RMSNorm", "rms_norm": "RMSNorm",
    "native_group_norm": "GroupNorm", "native_batch_norm": "BatchNorm", "_native_batch_norm_legit": "BatchNorm",
}  # fmt: skip
ACTIVATIONS = {"silu": "SiLU", "gelu": "GELU", "mish": "Mish", "relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"}
SIZES = ("rsqrt", "sqrt", "reciprocal", "std", "linalg_vector_norm", "pow")
OF_TOKENS = ("LayerNorm", "RMSNorm")  # the norms that AdaLN modulates
UNKNOWN = "unknown"


@dataclass(eq=False)
class Touch:
    """One place where a vector meets the stream."""

    role: str  # scale, shift, gate, additive, or other
    value: Value  # what comes out
    stream: Value
    vector: Value
    maker: tuple[str, ...]  # parameters of the Linear that made the vector; () where it was handed in
    slot: tuple[int, ...]  # which of its outputs: row, first output, place in a table
    width: int
    made: int = 0  # outputs of that Linear


def users(v: Value) -> Iterator[Value]:
    """Who works on a value: behind views, and behind what a number does to it."""
    for user in v.users:
        if user.op in VIEWS or (user.op in ("mul", "div") and len(user.inputs) == 1):
            yield from users(user)
        else:
            yield user


def touches(seen: Watch) -> list[Touch]:
    """All of them, but for Linears that never reach what the module gives back, in no block."""
    found = []
    for v in seen.values:
        if v.op in ("mul", "add") and len(v.inputs) == 2:
            for stream, vector in (v.inputs, v.inputs[::-1]):
                if (axis := channel_axis(vector, stream, v)) is not None:
                    found.append(met_at(v, stream, vector, axis, seen))
                    break
            else:
                if v.op == "mul" and meets(v):  # token by token; of a single token, or too many, nobody can tell
                    alone = v.numel == v.shape[0] * v.shape[-1] or not is_small(v.shape)
                    found.append(Touch("alone" if alone else "other", v, *v.inputs, (), (), v.shape[-1]))
    alive = living(seen)
    kinds = {numberless(t.maker) for t in found if t.value in alive}
    return [t for t in found if t.role and numberless(t.maker) in kinds]


def numberless(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(re.sub(r"\d+", "*", name) for name in names)


def living(seen: Watch) -> set[Value]:
    """All that what the module gave back is made of; everything, where it gave nothing back."""
    todo = list(seen.made) or list(seen.values)
    alive = set(todo)
    while todo:
        for i in todo.pop().inputs:
            if i not in alive:
                alive.add(i)
                todo.append(i)
    return alive


def channel_axis(w: Value, s: Value, v: Value) -> int | None:
    """The axis along which w is a vector for the tokens of s; None where it is none."""
    out = v.shape
    if not w.lineage or not s.lineage or w.lineage == s.lineage or s.shape != out or len(out) < 2:
        return None
    shape = (1,) * (len(out) - len(w.shape)) + w.shape
    wide = [i for i in range(1, len(out)) if shape[i] > 1]
    if shape == out:  # repeated, or chosen token by token
        return len(out) - 1 if is_made(w) and is_repeated(w) else None
    if not wide:  # one number for each item
        return len(out) - 1 if is_made(w) and len(out) > 2 else None
    of_items = len(wide) == 1 and shape[0] == out[0]  # and of channels: no other meaning is left where they come last
    for_tokens = any(out[i] > 1 and shape[i] == 1 for i in range(1, len(out)))
    if of_items:
        return wide[0] if for_tokens and (wide[0] == len(out) - 1 or is_made(w)) else None
    return wide[-1] if is_made(w) else None


def is_repeated(w: Value) -> bool:
    """Whether a value of the stream's own shape has fewer different rows than tokens."""
    rows = w.codes.reshape(-1, w.shape[-1])[:, 0]
    return rows.unique().numel() < rows.numel()


def meets(v: Value) -> bool:
    """Whether a normalised stream is multiplied by what another argument makes for each token."""
    for s, w in (v.inputs, v.inputs[::-1]):
        apart = s.shape == w.shape and s.lineage and w.lineage and not s.lineage & w.lineage
        if apart and (is_made(w) or not is_small(w.shape)) and norm_of(s):
            return True
    return False


def is_made(w: Value) -> bool:
    """Whether a vector comes from a Linear of the module, and was not handed in."""
    return w.codes is not None and int(w.codes.min()) >= ROWS * OUTPUTS


def met_at(v: Value, stream: Value, vector: Value, axis: int, seen: Watch) -> Touch:
    width = v.shape[axis]
    maker, slot = (), (0, 0, 0)
    if vector.codes is not None:
        aligned = vector.codes.reshape((1,) * (len(v.shape) - len(vector.shape)) + vector.shape).movedim(axis, -1)
        first = int(aligned.reshape(-1, aligned.shape[-1])[0].min())
        if first >= 0:
            number, rest = divmod(first, ROWS * OUTPUTS)
            maker = seen.makers[number]
            slot = (rest // OUTPUTS, rest % OUTPUTS, vector.offset if vector.tables else 0)
    made = seen.first[maker].shape[-1] if maker else 0
    return Touch(role_of(v, stream, vector), v, stream, vector, maker, slot, width, made)


def role_of(v: Value, stream: Value, vector: Value) -> str:
    """What a vector does to a stream; "" where it does nothing that is asked about."""
    if v.op == "mul":
        ends = list(users(v))
        sums = [(u, i) for u in ends if u.op == "add" and len(u.inputs) == 2 for i in u.inputs if v not in ancestors(i)]
        others = [i for u, i in sums if i.numel == v.numel and i.lineage and channel_axis(i, v, u) is None]
        if ends and len(others) == len(ends):
            return "scale" if all(back(o) is back(stream) for o in others) else "gate"  # n + n * scale, or x + g * h
    if norm_of(stream) is None:
        if any(u.op in ("_softmax", "softmax") for u in users(v)):
            return ""  # scores of an attention
        return "additive" if v.op == "add" else "other"
    return "shift" if v.op == "add" else "scale"


def ancestors(v: Value) -> Iterator[Value]:
    """A value and what it is, behind views and numbers."""
    while True:
        yield v
        if v.inputs and (v.op in VIEWS or (v.op in ("mul", "div") and len(v.inputs) == 1)):
            v = v.inputs[0]
        else:
            return


# --- norms


def norm_of(v: Value) -> tuple[str, bool, str] | None:
    """The norm that a value left through, past weights and vectors; has it learned weights; where it is."""
    affine = False
    while True:
        v = back(v)
        if v.op in NORMS:
            name = "InstanceNorm" if NORMS[v.op] == "BatchNorm" and v.shape[0] == 1 else NORMS[v.op]
            return name, affine or any(back(i).op == "param" for i in v.inputs[1:]), v.path
        if v.op in ("mul", "div") and len(v.inputs) == 2:
            for x, size in (v.inputs, v.inputs[::-1]):
                if x.numel == v.numel and is_size(size, x):
                    return by_hand(x, size), affine, v.path
        if v.op in ("mul", "div", "add") and len(v.inputs) == 1:
            v = v.inputs[0]  # a number
            continue
        if v.op not in ("mul", "add") or len(v.inputs) != 2:
            return None
        weights = [i for i in v.inputs if not i.lineage]
        full = [i for i in v.inputs if i.numel == v.numel and i.lineage]
        if len(weights) == 1 and len(full) == 1:
            affine = affine or any(back(i).op == "param" for i in (weights[0], *weights[0].inputs))
        elif len(full) == 2 and sum(i.codes is None for i in full) == 1:  # a vector that was repeated
            full = [i for i in full if i.codes is None]
        elif len(full) != 1 or full[0].lineage == next(i for i in v.inputs if i is not full[0]).lineage:
            return None
        v = full[0]


def is_size(v: Value, x: Value) -> bool:
    """Whether v is the length or the deviation of x's tokens, or one over it."""
    for size in ancestors(v):
        if size.numel < x.numel and size.op in SIZES:
            return size.lineage == x.lineage
        if size.op in ("add", "clamp_min", "clamp", "maximum") and size.inputs:
            return is_size(size.inputs[0], x)
    return False


def by_hand(x: Value, size: Value) -> str:
    """LayerNorm takes the mean away and RMSNorm does not; where tokens are pooled it is neither."""
    small = next((v for v in ancestors(size) if v.numel < x.numel), size)
    if small.numel * x.shape[-1] != x.numel and (len(x.shape) < 3 or small.numel * x.shape[1] != x.numel):
        return "InstanceNorm"
    return "LayerNorm" if back(x).op == "sub" else "RMSNorm"


def norm_inside(v: Value, path: str) -> tuple[str, bool, str] | None:
    """The norm at the head of a branch: the nearest one behind v that the module at `path` computes."""
    todo, met = [v], {v}
    while todo:
        v = todo.pop(0)
        if (found := norm_of(v)) and len(v.shape) > 2 and v.path.startswith(path):
            return found
        for i in v.inputs:
            if i not in met and i.lineage and (i.path + ".").startswith(path + "." if path else ""):
                met.add(i)
                todo.append(i)
    return None


# --- blocks


def residual_paths(seen: Watch, met: list[Touch]) -> set[str]:
    """Modules in whose own forward versions of the streams are added."""
    streams, touched = union(t.stream.lineage for t in met), {t.value for t in met}
    return {
        v.path
        for v in seen.values
        if v.op == "add" and len(v.inputs) == 2 and len(v.shape) >= 2 and v.lineage & streams and v not in touched
        and all(i.shape == v.shape and i.lineage for i in v.inputs)
    }  # fmt: skip


def homes(met: list[Touch], seen: Watch) -> dict[Touch, str | None]:
    """The block of each touch: the innermost module that adds streams around all its touches. None: the last layer."""
    residual = residual_paths(seen, met)
    at = {t: next((p for p in parents(t.value.path) if p in residual and p), None) for t in met}
    for t, p in at.items():  # sub-layers that add their own branch: up to the item of a list that holds different ones
        for item in (i for i in parents(p or "") if is_item(i) and i in seen.calls):
            inside = {o for o in at.values() if o and (o + ".").startswith(item + ".")}
            are_parts = len({seen.classes[o] for o in inside}) == len(inside)
            if len(inside) > 1 and (are_parts or not any(re.search(r"\.\d", o[len(item) :]) for o in inside)):
                at[t] = item
    own = {t: next((p for p in parents(container(t.maker)) if is_item(p)), None) for t in met}
    adding = dict(at)
    for t, p in adding.items():  # a forward that writes out all blocks: the item that the Linear belongs to
        below = {o for u, o in own.items() if o and p and adding[u] == p and o.startswith(p + ".")}
        if p is None or (len(below) > 1 and not is_item(p)):
            at[t] = own[t] if p is None or own[t] in below else None
    if not any(at.values()) and "" in residual:
        return dict.fromkeys(met, "")
    found = {p for p in at.values() if p}
    wrappers = {p for p in found if sum(o.startswith(p + ".") for o in found) > 1}
    return {t: None if p in wrappers else p for t, p in at.items()}


def container(maker: tuple[str, ...]) -> str:
    """The module that holds the Linear of these parameters."""
    return maker[0].rpartition(".")[0].rpartition(".")[0] if maker else ""


def is_item(path: str) -> bool:
    return path.rpartition(".")[2].isdigit()


def parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def same_or_unknown(found: list[Any]) -> Any:
    return found[0] if found and all(f == found[0] for f in found) else ("none" if not found else UNKNOWN)


def bounding(gates: list[Touch]) -> str:
    forms = set()
    for gate in gates:
        steps = tuple(s for s in gate.vector.steps if s != "sum")
        if "mixed" in steps:
            forms.add(UNKNOWN)
        elif "tanh" in steps:
            forms.add("clamp(+-2) then tanh" if {"clamp", "hardtanh"} & set(steps) else "tanh")
        elif "sigmoid" in steps:
            forms.add("sigmoid")
        elif not steps:
            forms.add("raw")
        else:
            forms.add("1+g" if set(steps) <= {"add", "sub"} else UNKNOWN)
    return "none" if not forms else forms.pop() if len(forms) == 1 else UNKNOWN


def describe(block: str, met: list[Touch], everywhere: dict, seen: Watch, params: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of one block."""
    gates = [t for t in met if t.role == "gate"]
    norms = [norm_of(t.stream) for t in met if t.role in ("scale", "shift")]
    norms = norms or [n for t in gates if (n := norm_inside(t.stream, block))]
    after = [norm_of(t.stream) for t in gates]
    roles: dict[tuple[str, ...], dict[tuple, set[str]]] = defaultdict(lambda: defaultdict(set))
    for t in met:
        roles[t.maker][t.slot].add(t.role)
    is_clear = () not in roles and all(len(r) == 1 for slots in roles.values() for r in slots.values())
    is_clear &= not any("sum" in t.vector.steps and not is_own(t.maker, block) for t in met)  # of two Linears: whose?
    tables = sorted({name for t in met for name in t.vector.tables})
    makers = {m: seen.first[m] for m in roles if m}
    low = {m: narrow(v, block) for m, v in makers.items()}
    names = sorted({n for m in makers for n in (*m, *low[m])} | set(tables))
    doors = [back(door(v.op, v.inputs)) for v in makers.values()]
    return {
        "n_vectors_per_block": sum(map(len, roles.values())),
        "has_scale": any(t.role == "scale" for t in met),
        "has_shift": any(t.role == "shift" for t in met),
        "has_gate": bool(gates),
        "gate_bounding": bounding(gates),
        "chunk_order": [
            {"module": relative(m, block), "roles": [next(iter(slots[s])) for s in sorted(slots)]}
            for m, slots in roles.items()
        ]
        if is_clear
        else UNKNOWN,
        "base_norm": same_or_unknown([n[0] for n in norms if n]),
        "base_norm_affine": any(n[1] for n in norms if n) if len({n[1] for n in norms if n}) < 2 else UNKNOWN,
        "post_norm": same_or_unknown([n[0] + " affine" * n[1] if n else "none" for n in after]),
        "source": source(block, roles, [n for n in tables if not any(n in m for m in seen.makers)], low, everywhere),
        "activation_before_linear": same_or_unknown([activation(d) for d in doors]) if is_clear else UNKNOWN,
        "all_zero_now": UNKNOWN
        if any(params[n].is_meta for n in names) or not names
        else not any(params[n].any() for n in names),
        "modulation_params": names,
        "evidence": reasons(block, met, norms, tables, {len({b for b, _ in everywhere[m]}) for m in makers}),
    }


def reasons(block: str, met: list[Touch], norms: list, tables: list[str], served: set[int]) -> list[str]:
    """How each statement about a block is known."""
    steps = sorted({" then ".join(t.vector.steps) or "nothing" for t in met if t.role == "gate"})
    norms = sorted({f"{n[0]} in {n[2] or 'the model'}" for n in norms if n})
    found = [
        f"vectors: each of {len(met)} products and sums takes other outputs of "
        f"{', '.join(sorted({relative(t.maker, block) or 'itself' for t in met if t.maker})) or 'what was handed in'}",
        f"norm: the stream came from {', '.join(norms) or 'none'}",
        f"gate: {', '.join(steps)} between Linear and product, and the product is added to the stream" if steps else "",
        f"source: a Linear serves {', '.join(map(str, sorted(served)))} of the blocks" if served else "",
        f"tables: {', '.join(tables)} are added to its outputs" if tables else "",
    ]
    return [line for line in found if line]


def relative(maker: tuple[str, ...], block: str) -> str:
    owner = maker[0].rpartition(".")[0]
    if not block or owner == block:
        return "" if block else owner
    return owner[len(block) + 1 :] if owner.startswith(block + ".") else "/" + owner


def narrow(maker: Value, block: str) -> tuple[str, ...]:
    """Parameters of a smaller Linear of the same block in front of a Linear: a door of low rank."""
    v = back(door(maker.op, maker.inputs))
    while v.op not in LINEAR and len(told := [i for i in v.inputs if i.lineage]) == 1:
        v = back(told[0])
    names = weights_of(v.op, v.inputs)
    if v.op not in LINEAR or not names or not is_own(names, block):
        return ()
    return names if v.shape[-1] < min(door(v.op, v.inputs).shape[-1], maker.shape[-1]) else ()


def activation(door: Value) -> str:
    if door.op in ACTIVATIONS:
        return ACTIVATIONS[door.op]
    if door.op == "mul" and any(back(i).op == "sigmoid" and back(i).inputs[0] in door.inputs for i in door.inputs):
        return "SiLU"  # by hand
    return "none" if door.op in LINEAR | set(NORMS) | {"input", "embedding", "add", "mean", "cat", "sum"} else UNKNOWN


def is_own(maker: tuple[str, ...], block: str) -> bool:
    return bool(block) and maker[0].startswith(block + ".")


def source(block: str, roles: dict, tables: list[str], low: dict, everywhere: dict) -> str:
    """Whose the Linears are: the block's own, one for all, one cut in pieces, or a net asked for each vector."""
    if () in roles:
        return UNKNOWN
    kinds = set()
    for maker, slots in roles.items():
        blocks = {b for b, _ in everywhere[maker]}
        outside = not is_own(maker, block) or len(blocks) > 1
        if len({row for row, *_ in slots}) > 1 and outside:
            kinds.add("approximator")
        elif outside and block and tables:
            kinds.add("shared_linear_plus_table")
        elif outside and block:
            others = {s for b, s in everywhere[maker] if b != block}
            sliced = others - set(slots) if len(blocks) > 1 else False
            kinds.add("one_linear_sliced_per_block" if sliced else "fully_shared")
        else:
            kinds.add("low_rank" if low[maker] else "per_block_linear")
    return kinds.pop() if len(kinds) == 1 else UNKNOWN
