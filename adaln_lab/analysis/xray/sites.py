"""Find the sites where a conditioning vector meets the residual stream, each with its role and its source Linear.

A *vector* has one number per channel, the same for many tokens, and is computed from other arguments than the stream.
Multiplied with a normalised stream it is a scale; added to one, a shift; multiplied with a branch that is then added
to the stream, a gate. Names are used to say where something is, never to decide what it does.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import nn

from adaln_lab.analysis.xray.record import (
    OUTPUTS,
    ROWS,
    VIEWS,
    Recorder,
    Value,
    before_views,
    is_small,
    record,
    restored,
    upstream,
)

NORMS = {
    "native_layer_norm": "LayerNorm", "_fused_rms_norm": "RMSNorm", "rms_norm": "RMSNorm",
    "native_group_norm": "GroupNorm", "native_batch_norm": "BatchNorm", "_native_batch_norm_legit": "BatchNorm",
}  # fmt: skip
STATISTICS = ("rsqrt", "sqrt", "reciprocal", "std", "linalg_vector_norm", "pow")


@dataclass(eq=False)
class Site:
    """One place where a vector meets the stream."""

    role: str  # scale, shift, gate; additive, other; undecided: a single token, where any factor looks like a vector
    result: Value
    stream: Value
    vector: Value
    source_linear: tuple[str, ...]  # parameters of the Linear the vector comes from; () where it is an input
    output_slice: tuple[int, ...]  # which of its outputs: row, first output, place in a table
    is_whole_output: bool = False  # whether the vector has all outputs of its Linear


def find_sites(recorder: Recorder) -> list[Site]:
    """All sites, except those of Linears that never affect the model's output in any block."""
    found = []
    for v in recorder.values:
        if v.op in ("mul", "add") and len(v.inputs) == 2:
            for stream, vector in (v.inputs, v.inputs[::-1]):
                if (axis := channel_axis(vector, stream, v)) is not None:
                    found.append(make_site(v, stream, vector, axis, recorder))
                    break
            else:
                if v.op == "mul" and is_modulated_per_token(v):
                    undecided = v.numel == v.shape[0] * v.shape[-1] or not is_small(v.shape)
                    found.append(Site("undecided" if undecided else "other", v, *v.inputs, (), ()))
    used = set(upstream(recorder.returned or recorder.values))  # all, if the module returned nothing
    linears = {without_numbers(s.source_linear) for s in found if s.result in used}
    return [s for s in found if s.role and without_numbers(s.source_linear) in linears]


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
    return Site(role_of(v, stream, vector), v, stream, vector, source_linear, output_slice, is_whole_output)


def role_of(v: Value, stream: Value, vector: Value) -> str:
    """What the vector does to the stream; "" for attention scores, which are no modulation."""
    if v.op == "mul":
        ends = list(consumers(v))
        sums = [
            (u, i) for u in ends if u.op == "add" and len(u.inputs) == 2 for i in u.inputs if v not in back_to_source(i)
        ]
        others = [i for u, i in sums if i.numel == v.numel and i.lineage and channel_axis(i, v, u) is None]
        if ends and len(others) == len(ends):  # n + n * scale, or x + gate * h
            return "scale" if all(before_views(o) is before_views(stream) for o in others) else "gate"
    if norm_of(stream) is None:
        if any(u.op in ("_softmax", "softmax") for u in consumers(v)):
            return ""
        return "additive" if v.op == "add" else "other"
    return "shift" if v.op == "add" else "scale"


def channel_axis(w: Value, stream: Value, v: Value) -> int | None:
    """The axis of v = w * stream or w + stream along which w is a vector for the tokens; None if it is none."""
    out = v.shape
    if not w.lineage or not stream.lineage or w.lineage == stream.lineage or stream.shape != out or len(out) < 2:
        return None
    shape = (1,) * (len(out) - len(w.shape)) + w.shape
    wide = [i for i in range(1, len(out)) if shape[i] > 1]
    if shape == out:  # repeated for each token, or selected token by token
        return len(out) - 1 if comes_from_linear(w) and has_repeated_rows(w) else None
    if not wide:  # one number for each item
        return len(out) - 1 if comes_from_linear(w) and len(out) > 2 else None
    for_tokens = any(out[i] > 1 and shape[i] == 1 for i in range(1, len(out)))
    if len(wide) == 1 and shape[0] == out[0]:  # (items, channels); channels only if they are last or from a Linear
        return wide[0] if for_tokens and (wide[0] == len(out) - 1 or comes_from_linear(w)) else None
    return wide[-1] if comes_from_linear(w) else None


def has_repeated_rows(w: Value) -> bool:
    """Whether a value of the stream's shape has fewer distinct rows than tokens."""
    rows = w.codes.reshape(-1, w.shape[-1])[:, 0]
    return rows.unique().numel() < rows.numel()


def is_modulated_per_token(v: Value) -> bool:
    """Whether a normalised stream is multiplied with what another argument gives for each token."""
    for s, w in (v.inputs, v.inputs[::-1]):
        separate = s.shape == w.shape and s.lineage and w.lineage and not s.lineage & w.lineage
        if separate and (comes_from_linear(w) or not is_small(w.shape)) and norm_of(s):
            return True
    return False


def comes_from_linear(w: Value) -> bool:
    """Whether a vector is the output of a Linear of the module, not an input."""
    return w.codes is not None and int(w.codes.min()) >= ROWS * OUTPUTS


def without_numbers(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(re.sub(r"\d+", "*", name) for name in names)


def consumers(v: Value) -> Iterator[Value]:
    """The operations that use a value, behind views and factors that are plain numbers."""
    for user in v.consumers:
        if user.op in VIEWS or (user.op in ("mul", "div") and len(user.inputs) == 1):
            yield from consumers(user)
        else:
            yield user


def back_to_source(v: Value) -> Iterator[Value]:
    """A value and its predecessors before views and factors that are plain numbers."""
    while True:
        yield v
        if v.inputs and (v.op in VIEWS or (v.op in ("mul", "div") and len(v.inputs) == 1)):
            v = v.inputs[0]
        else:
            return


def norm_of(v: Value) -> tuple[str, bool, str] | None:
    """The norm a value comes from, before weights and vectors: (name, has learned weights, module path)."""
    affine = False
    while True:
        v = before_views(v)
        if v.op in NORMS:
            name = "InstanceNorm" if NORMS[v.op] == "BatchNorm" and v.shape[0] == 1 else NORMS[v.op]
            return name, affine or any(before_views(i).op == "param" for i in v.inputs[1:]), v.path
        if v.op in ("mul", "div") and len(v.inputs) == 2:
            for x, size in (v.inputs, v.inputs[::-1]):
                if x.numel == v.numel and is_statistic(size, x):
                    return handwritten_norm(x, size), affine, v.path
        if v.op in ("mul", "div", "add") and len(v.inputs) == 1:  # with a plain number
            v = v.inputs[0]
            continue
        if v.op not in ("mul", "add") or len(v.inputs) != 2:
            return None
        weights = [i for i in v.inputs if not i.lineage]
        full = [i for i in v.inputs if i.numel == v.numel and i.lineage]
        if len(weights) == 1 and len(full) == 1:
            affine = affine or any(before_views(i).op == "param" for i in (weights[0], *weights[0].inputs))
        elif len(full) == 2 and sum(i.codes is None for i in full) == 1:  # with a vector repeated for each token
            full = [i for i in full if i.codes is None]
        elif len(full) != 1 or full[0].lineage == next(i for i in v.inputs if i is not full[0]).lineage:
            return None
        v = full[0]


def is_statistic(v: Value, x: Value) -> bool:
    """Whether v is the RMS or standard deviation of x's tokens, or one over it."""
    for size in back_to_source(v):
        if size.numel < x.numel and size.op in STATISTICS:
            return size.lineage == x.lineage
        if size.op in ("add", "clamp_min", "clamp", "maximum") and size.inputs:
            return is_statistic(size.inputs[0], x)
    return False


def handwritten_norm(x: Value, size: Value) -> str:
    """The name of x / size: LayerNorm if a mean was subtracted, else RMSNorm; InstanceNorm over several tokens."""
    small = next((v for v in back_to_source(size) if v.numel < x.numel), size)
    if small.numel * x.shape[-1] != x.numel and (len(x.shape) < 3 or small.numel * x.shape[1] != x.numel):
        return "InstanceNorm"
    return "LayerNorm" if before_views(x).op == "sub" else "RMSNorm"


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
