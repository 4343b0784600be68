"""Find the sites where a conditioning vector meets the residual stream, each with its role and its source Linear.

A *vector* has one number per channel, the same for many tokens, and is computed from other arguments than the stream.
Its role is read from what happens to the numbers until the stream is next updated, x + branch(x): a product that goes
on to this sum through products, masks, casts and norms alone is gated; else a factor of a normalised stream is a scale,
and a summand a shift. What is not understood is `undecided`, with the reason. Names never decide.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import nn

from adaln_lab.analysis.xray.record import (
    CONSTANTS,
    EMPTY,
    LINEAR,
    NORMS,
    OUTPUTS,
    ROWS,
    SAME_SHAPE,
    VIEWS,
    Recorder,
    Value,
    before_views,
    linear_input,
    n_rows,
    record,
    restored,
    upstream,
)

STATISTICS = ("rsqrt", "sqrt", "reciprocal", "std", "linalg_vector_norm", "pow")
PRODUCTS, SUMS = ("mul", "div"), ("add", "sub")
MOVES = VIEWS | {  # numbers move, some are dropped or copied: linear in them
    "cat", "stack", "where", "masked_fill", "native_dropout", "neg", "index", "index_select", "index_put", "gather",
    "scatter", "masked_scatter", "constant_pad_nd", "roll", "flip", "view_as_complex", "view_as_real", "slice_scatter",
}  # fmt: skip
MEASURES = {"mean", "sum", "var", "var_mean", "std", "std_mean", "pow", "linalg_vector_norm", "square"}


class Norm(NamedTuple):
    """The norm that a value comes from."""

    name: str
    affine: bool  # has learned weights
    path: str
    source: Value  # what it normalises


@dataclass(eq=False)
class Site:
    """One place where a vector meets the stream."""

    role: str  # scale, shift, gate; additive; other; undecided
    result: Value
    stream: Value
    vector: Value
    source_linear: tuple[str, ...] = ()  # parameters of the Linear the vector comes from; () where it is an input
    output_slice: tuple[int, ...] = (0, 0, 0)  # which of its outputs: row, first output, place in a table
    is_whole_output: bool = False  # whether the vector has all outputs of its Linear
    norm: Norm | None = None  # of the stream
    reason: str = ""  # why it is undecided, or other


def find_sites(recorder: Recorder) -> list[Site]:
    """All sites, except those of Linears that never affect the model's output in any block."""
    updates = recorder.updates = stream_updates(recorder.values)
    found = [Site("undecided", v, v, v, reason="numbers leave torch and become Python's") for v in recorder.leaks]
    for v in [*recorder.values, *(v for v, *_ in recorder.outside)]:
        if v.op in PRODUCTS + SUMS and len(v.inputs) == 2:
            found += sites_at(v, recorder, updates)
        if v.hidden and (v.op in EMPTY or len({i.lineage for i in v.inputs if i.lineage}) != 1):
            found.append(Site("undecided", v, v, v, reason=v.hidden))
    used = set(upstream(recorder.returned or recorder.values))  # all, if the module returned nothing
    linears = {without_numbers(s.source_linear) for s in found if s.result in used}
    return [s for s in found if s.role and without_numbers(s.source_linear) in linears]


def sites_at(v: Value, recorder: Recorder, updates: dict[Value, Value]) -> Iterator[Site]:
    """The sites at one product or sum: the vectors of the one side, where the other is the stream."""
    for stream, side in (v.inputs, v.inputs[::-1]):
        parts = flattened(side, PRODUCTS if v.op in PRODUCTS else SUMS) if side.is_outer else [side]
        if stream.shape != v.shape or not stream.lineage or stream.is_outer:
            continue
        vectors = [(p, axis) for p in parts if (axis := channel_axis(p, stream, v)) is not None]
        for vector, axis in vectors:
            site = make_site(v, stream, vector, axis, recorder)
            if v.op in PRODUCTS:
                site.norm = norm_of(stream, [p for p in parts if p is not vector] + later_factors(v), axis)
            else:
                site.norm = norm_of(stream, axis=axis)
            site.role, site.reason = role_of(site, updates)
            yield site
        if vectors:
            return
    if v.op == "mul":
        yield from per_token(v, recorder)


def flattened(v: Value, ops: tuple[str, ...]) -> list[Value]:
    """The factors of a product of products, or the summands of a sum of sums."""
    while v.op in SAME_SHAPE and v.inputs:
        v = v.inputs[0]
    return [f for i in v.inputs for f in flattened(i, ops)] if v.op in ops else [v]


def later_factors(v: Value) -> list[Value]:
    """The factors that a product meets after v, before anything else happens to it."""
    users = [u for u in v.consumers if u.op not in MEASURES]
    if len(users) != 1 or users[0].op not in (*PRODUCTS, *SAME_SHAPE):
        return []
    others = [f for i in users[0].inputs if i is not v for f in flattened(i, PRODUCTS)]
    return others + later_factors(users[0])


def make_site(v: Value, stream: Value, vector: Value, axis: int, recorder: Recorder) -> Site:
    source_linear, output_slice, is_whole_output = (), (0, 0, 0), False
    if vector.codes is not None:
        aligned = vector.codes.reshape((1,) * (len(v.shape) - len(vector.shape)) + vector.shape).movedim(axis, -1)
        first = int(aligned.reshape(-1, aligned.shape[-1])[0].min())
        if first >= 0:
            number, rest = divmod(first, ROWS * OUTPUTS)
            source_linear = recorder.linears[number]
            output_slice = (rest // OUTPUTS, rest % OUTPUTS, vector.offset if vector.tables else 0)
            width = recorder.first_output[source_linear].shape[-1] if source_linear else 0
            is_whole_output = rest % OUTPUTS == 0 and v.shape[axis] == width
    return Site("", v, stream, vector, source_linear, output_slice, is_whole_output)


def role_of(s: Site, updates: dict[Value, Value]) -> tuple[str, str]:
    """What the vector does to the stream, and why this is not decided; "" if it is no modulation."""
    v, is_product = s.result, s.result.op in PRODUCTS
    ends = ends_of(v, updates)
    if ends and all(is_score(u, came) for u, came in ends):  # as rotary positions do, or a temperature
        return "", ""
    skips = [updates[u] if u in updates and came is not updates[u] else None for u, came in ends]
    itself = [o is not None and before_views(o) is before_views(s.stream) for o in skips]
    is_gate = is_product and bool(ends) and None not in skips and not any(itself)
    if s.vector.lineage == s.stream.lineage:  # a condition made from the stream: of now, or of an earlier one?
        anchors = skips if is_gate else [s.norm.source] if s.norm else [s.stream]
        if not comes_from_linear(s.vector) or any(derives_from(s.vector, before_views(a)) for a in anchors):
            return "", ""
        if not is_gate and s.norm is None:
            return "", ""
        return "undecided", "a vector that is computed from an earlier state of the stream itself"
    if is_gate:
        return "gate", ""
    if is_product and itself and all(itself) and s.norm:  # n + n * scale
        return "scale", ""
    if s.norm is None:
        return ("other", "a vector scales what no norm precedes") if is_product else ("additive", "")
    return ("scale" if is_product else "shift"), ""


def ends_of(v: Value, updates: dict[Value, Value]) -> list[tuple[Value, Value]]:
    """Where a value goes on to through operations that are linear in it, or norms: (operation, its input)."""
    ends, todo, seen = [], [v], {v}
    while todo:
        came = todo.pop()
        for user in came.consumers:
            if user in updates or (user.op == "sum" and before_views(came).op in ("stack", "cat")):
                ends.append((user, came))
            elif user.op in MOVES or user.op in PRODUCTS + SUMS or user.op in NORMS:
                todo += [user] if user not in seen else []
                seen.add(user)
            elif user.op not in MEASURES | EMPTY | CONSTANTS:
                ends.append((user, came))
    return ends


def is_score(u: Value, came: Value) -> bool:
    """Whether a value is used at u for attention scores alone."""
    if "softmax" in u.op:
        return True
    if "attention" in u.op:
        return came not in u.inputs[2:3]
    return u.op in LINEAR and bool(ends := ends_of(u, {})) and all("softmax" in e.op for e, _ in ends)


def stream_updates(values: list[Value]) -> dict[Value, Value]:
    """The sums x + branch(x), each with its x."""
    updates, veiled = {}, set()  # veiled: computed from numbers of unknown origin
    for v in values:
        if (v.hidden and not v.inputs) or any(i in veiled or (i.hidden and not i.inputs) for i in v.inputs):
            veiled.add(v)
        operands = v.inputs
        if v.op == "sum" and before_views(v.inputs[0]).op in ("stack", "cat"):
            operands = before_views(v.inputs[0]).inputs
        elif not v.hidden and v.op not in (*SUMS, "index_add", "scatter_add", "addmm", "baddbmm"):
            continue
        full = [i for i in operands if i.lineage and i.numel >= v.numel and not i.is_outer and not is_repeated(i)]
        if len(operands) < 2 or (len(full) < 2 and v.op in (*SUMS, "sum")):
            continue
        for skip in full:
            others = [i for i in operands if i is not skip]
            is_veiled = any(i in veiled for i in others) and skip not in veiled
            if is_veiled or any(is_branch_of(i, skip, updates) for i in others):
                updates[v] = skip
                break
    return updates


def is_branch_of(v: Value, skip: Value, updates: dict[Value, Value]) -> bool:
    """Whether v is computed from the x that `skip` is: x itself, a projection of it, or x times some factor."""
    x = before_views(skip)
    projected = before_views(linear_input(x.op, x.inputs)) if x.op in LINEAR else x
    earlier = before_views(updates.get(x, x))  # several branches of one x are added one by one
    if any(derives_from(v, s) for s in {x, projected, earlier}):
        return True
    scaled = x
    while scaled.op in PRODUCTS or (scaled.op in MOVES and scaled.inputs):
        solid = [i for i in scaled.inputs if i.lineage and i.numel >= scaled.numel and not i.is_outer]
        if not solid or is_repeated(solid[0]):
            break
        scaled = before_views(solid[0])
    if scaled is x:
        return False
    between = list(upstream([v], lambda i: i.index > scaled.index))
    return scaled in {i for u in between for i in u.inputs} and any(u.op in LINEAR for u in between)


def derives_from(v: Value, ancestor: Value) -> bool:
    """Whether v is computed from `ancestor`."""
    return ancestor in upstream([v], lambda i: i.index >= ancestor.index)


def channel_axis(w: Value, stream: Value, v: Value) -> int | None:
    """The axis of v = w * stream or w + stream along which w is a vector for the tokens; None if it is none."""
    out = v.shape
    if not w.lineage or not stream.lineage or len(out) < 2 or len(w.shape) > len(out):
        return None
    if w.lineage == stream.lineage and not comes_from_linear(w):
        return None
    shape = (1,) * (len(out) - len(w.shape)) + w.shape
    if any(s not in (1, o) for s, o in zip(shape, out, strict=True)):
        return None
    wide = [i for i in range(1, len(out)) if shape[i] > 1]
    if shape == out:  # repeated for each token, or selected token by token
        return len(out) - 1 if is_repeated(w) else None
    if not wide:  # one number for each item
        return len(out) - 1 if comes_from_linear(w) and len(out) > 2 else None
    for_tokens = any(out[i] > 1 and shape[i] == 1 for i in range(1, len(out)))
    if len(wide) == 1 and shape[0] == out[0]:  # (items, channels); channels only if they are last or from a Linear
        return wide[0] if for_tokens and (wide[0] == len(out) - 1 or comes_from_linear(w)) else None
    return wide[-1] if comes_from_linear(w) else None


def is_repeated(w: Value) -> bool:
    """Whether a value of the stream's shape is a vector from a Linear: it has fewer distinct rows than tokens."""
    if not comes_from_linear(w):
        return False
    return n_rows(w) < w.numel // w.shape[-1]


def per_token(v: Value, recorder: Recorder) -> Iterator[Site]:
    """The site where a normalised stream is multiplied with what a condition gives for each token."""
    for s, w in (v.inputs, v.inputs[::-1]):
        if len(w.shape) < 2 or s.shape[-len(w.shape) :] != w.shape:
            continue
        if not (s.lineage and w.lineage) or s.is_outer or w.is_outer:
            continue
        if not (norm := norm_of(s)) or not (comes_from_linear(w) or is_from_untraced_linear(w)):
            continue
        if (ends := ends_of(v, recorder.updates)) and all(is_score(u, came) for u, came in ends):
            return
        if s.lineage & w.lineage:
            if norm_of(w) or derives_from(w, before_views(norm.source)):
                continue
            role = "undecided"
            reason = "a factor for each token that may be computed from an earlier state of the stream"
        elif v.numel == v.shape[0] * v.shape[-1]:
            role, reason = "undecided", "each row has a factor of its own, so nothing tells tokens from items"
        elif w.codes is None:
            role, reason = "undecided", "a factor of the stream's size, too large to trace"
        else:
            role, reason = "other", f"a condition for each token scales a {norm.name}"
        yield Site(role, v, s, w, norm=norm, reason=reason)
        return


def comes_from_linear(w: Value) -> bool:
    """Whether a vector is the output of a Linear of the module, not an input."""
    return w.codes is not None and int(w.codes.min()) >= ROWS * OUTPUTS


def is_from_untraced_linear(w: Value) -> bool:
    """Whether w is computed by a Linear whose outputs were too many to have codes."""
    return w.codes is None and any(u.op in LINEAR for u in upstream([w], lambda i: i.lineage == w.lineage))


def without_numbers(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(re.sub(r"\d+", "*", name) for name in names)


def back_to_source(v: Value) -> Iterator[Value]:
    """A value and its predecessors before views and factors that are plain numbers."""
    while True:
        yield v
        if v.inputs and (v.op in VIEWS or (v.op in PRODUCTS and len(v.inputs) == 1)):
            v = v.inputs[0]
        else:
            return


def norm_of(v: Value, factors: list[Value] = (), axis: int | None = None) -> Norm | None:
    """The norm that v comes from, before weights and vectors; `factors` multiply v as well, `axis` is its channels'.

    It is read from the operations, and where these are unknown from the numbers.
    """
    rank = len(v.shape)
    affine, factors, open_factors = has_parameter(factors), list(factors), set()
    while True:
        v = before_views(v)
        if v.op in NORMS:
            if open_factors:
                return None
            name = "InstanceNorm" if NORMS[v.op] == "BatchNorm" and v.shape[0] == 1 else NORMS[v.op]
            return Norm(name, affine or has_parameter(v.inputs[1:]), v.path, v.inputs[0])
        parts = [v]
        if v.op in PRODUCTS:
            parts = [f for i in v.inputs for f in (flattened(i, PRODUCTS) if i.is_outer else [i])]
        solid = [i for i in parts if i.numel == v.numel and i.lineage]
        if len(solid) > 1 and sum(i.codes is None for i in solid) == 1:  # with a vector repeated for each token
            solid = [i for i in solid if i.codes is None]
        small = [i for i in [*parts, *factors] if i not in solid]
        for x in solid:
            for size in (i for i in [*small, *solid] if i is not x):
                along = axis if len(x.shape) == rank else None
                if not open_factors - {size} and (name := statistic_of(size, x, along)):
                    return Norm(name, affine, size.path, x)
        factors = factors if v.op in PRODUCTS else []
        if v.op in SUMS and len(v.inputs) == 2:
            solid = [i for i in v.inputs if i.numel == v.numel and i.lineage and not i.is_outer]
            if len(solid) == 2 and sum(i.codes is None for i in solid) == 1:
                solid = [i for i in solid if i.codes is None]
            small = [i for i in v.inputs if i not in solid]
        elif v.op in SUMS:  # with a plain number
            solid = [i for i in v.inputs if i.lineage]
        elif v.op not in PRODUCTS:
            solid = []
        weights = [i for i in small if not i.lineage]
        own = {i for i in small if solid and i.lineage == solid[0].lineage and not i.is_outer}
        if own and v.op in PRODUCTS and v.norm:  # operations of no known norm, and numbers of one
            return Norm(v.norm, affine or has_parameter(v.inputs), v.path, solid[0])
        open_factors |= own if v.op in PRODUCTS else set()  # a statistic, of what is found further back
        if len(solid) != 1 or (own and v.op not in PRODUCTS):
            is_known = v.norm and not open_factors
            return Norm(v.norm, affine or has_parameter(v.inputs), v.path, v.inputs[0]) if is_known else None
        affine = affine or has_parameter(i for w in weights for i in (w, *w.inputs))
        factors += small if v.op in PRODUCTS else []
        v = solid[0]


def has_parameter(values: Iterable[Value]) -> bool:
    return any(before_views(v).op == "param" for v in values)


def statistic_of(v: Value, x: Value, axis: int | None) -> str:
    """The norm that x * v or x / v is, if v is the RMS or standard deviation of x's tokens, or one over it; else ""."""
    for size in back_to_source(v):
        if size.numel < x.numel and size.op in STATISTICS:
            centred = before_views(x).op == "sub"
            sources = [before_views(i) for i in (x, *(before_views(x).inputs if centred else ()))]
            since = min(s.index for s in sources)
            between = {u.op for u in upstream([size], lambda i, since=since: i.index > since)}
            if size.lineage != x.lineage or not any(derives_from(size, s) for s in sources) or between & LINEAR:
                return ""
            return handwritten_norm(x, size, centred, between, axis)
        if size.op in ("add", "clamp_min", "clamp", "maximum") and size.inputs:
            return statistic_of(size.inputs[0], x, axis)
    return ""


def handwritten_norm(x: Value, size: Value, is_centred: bool, measured: set[str], axis: int | None) -> str:
    """The name of x / size: LayerNorm if a mean was subtracted, else RMSNorm; InstanceNorm over several tokens."""
    axes = [axis] if axis is not None else [-1, 1][: 1 + (len(x.shape) > 2)]
    if not any(size.numel * x.shape[a] == x.numel and is_reduced(size, x, a) for a in axes):
        return "InstanceNorm"
    if is_centred:
        return "LayerNorm"
    return "unknown" if measured & {"sub", "var", "var_mean", "std", "std_mean"} else "RMSNorm"


def is_reduced(size: Value, x: Value, axis: int) -> bool:
    """Whether a statistic has one number along this axis of x, or lost that axis."""
    shape = (1,) * (len(x.shape) - len(size.shape)) + size.shape
    return len(size.shape) < len(x.shape) or shape[axis] == 1


def nearest_norm(v: Value, path: str) -> tuple[str, bool, str] | None:
    """The nearest norm before v inside the module at `path`: the norm at the start of a branch."""
    inside = upstream([v], lambda i: i.lineage and (not path or f"{i.path}.".startswith(f"{path}.")))
    return next((n for u in inside if len(u.shape) > 2 and u.path.startswith(path) and (n := norm_of(u))), None)


def confirm_by_perturbation(
    sites: list[Site], module: nn.Module, run: Callable[[], Any], recorder: Recorder
) -> tuple[list[Site], list[str]]:
    """Perturb the vectors' parameters in a second pass: the sites of Linears that change any site, and the evidence.

    Returns all sites where this cannot be tested: on the meta device, or if two passes differ anyway.
    """
    params = dict(module.named_parameters())
    suspects = {name for s in sites for name in (*s.source_linear, *s.vector.tables) if name in params}
    if not suspects or any(params[name].is_meta for name in suspects):
        return sites, []
    with restored(module, *suspects):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name in sorted(suspects):
                p = params[name]
                p.add_((0.1 + 0.1 * torch.rand(p.shape, generator=generator)).to(p))
        perturbed = record(module, run).values
    if not differs_only_behind(suspects, recorder.values, perturbed):
        return sites, ["run() gives different results each time, so the sites were read from one pass, not perturbed"]
    after = {v: w.checksum for v, w in zip(recorder.values, perturbed, strict=True)}
    testable = [s for s in sites if set(s.source_linear) & suspects and isfinite(s.result.checksum or 0)]
    unchanged = [s for s in testable if after[s.result] == s.result.checksum]
    confirmed = {s.source_linear for s in sites if s not in unchanged}  # a gate on a zero branch changes nothing
    evidence = f"{len(suspects)} parameters were perturbed; {len(sites) - len(unchanged)} of {len(sites)} sites changed"
    return [s for s in sites if s.source_linear in confirmed], [evidence]


def differs_only_behind(parameters: set[str], before: list[Value], after: list[Value]) -> bool:
    """Whether two passes ran the same operations and agree in all values not computed from these parameters."""
    affected: set[Value] = set()
    for v in before:
        if any(i in affected or i.name in parameters for i in v.inputs):
            affected.add(v)
    return len(before) == len(after) and all(  # compared as text, so that nan equals nan
        v in affected or (v.op, str(v.checksum)) == (w.op, str(w.checksum)) for v, w in zip(before, after, strict=True)
    )
