"""The facts of a block: which module encloses its sites, and what its vectors, norms, gates and Linears are."""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Any

from torch import Tensor

from adaln_lab.analysis.xray.record import (
    CONSTANTS,
    LINEAR,
    NORMS,
    OUTPUTS,
    ROWS,
    Recorder,
    Value,
    before_views,
    downstream,
    linear_input,
    parameters_of,
    upstream,
)
from adaln_lab.analysis.xray.sites import Site, comes_from_linear, nearest_norm

ACTIVATIONS = {"silu": "SiLU", "gelu": "GELU", "mish": "Mish", "relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"}
UNKNOWN = "unknown"
Linear = tuple[str, ...]  # the names of its parameters
Uses = dict[Linear, set[tuple[str, tuple[int, ...]]]]  # of each Linear: the blocks, and which slice goes there


def enclosing_blocks(sites: list[Site], recorder: Recorder) -> dict[Site, str | None]:
    """The block of each site: the innermost module around it that updates the stream. None for the final layer."""
    streams = reduce(or_, (s.stream.lineage for s in sites), 0)
    scaled = {(before_views(s.stream), s.result) for s in sites if s.role == "scale"}  # n + n * scale is no update
    updates = {
        u for u, skip in recorder.updates.items()
        if u.lineage & streams and not any((before_views(skip), before_views(i)) in scaled for i in u.inputs)
    }  # fmt: skip
    updating = {p for u in updates for p in ancestor_paths(u.path)} - {""}
    block_of = {s: next((p for p in ancestor_paths(s.result.path) if p in updating), None) for s in sites}
    for s, p in block_of.items():  # sub-layers that update the stream themselves: up to the list item that holds them
        for item in (i for i in ancestor_paths(p or "") if is_list_item(i) and i in recorder.called):
            inside = {o for o in block_of.values() if o and (o + ".").startswith(item + ".")}
            are_parts = len({recorder.classes[o] for o in inside}) == len(inside)
            if len(inside) > 1 and (are_parts or not any(re.search(r"\.\d", o[len(item) :]) for o in inside)):
                block_of[s] = item
    found = {p for p in block_of.values() if p}
    wrappers = {
        p for p in found
        if sum(o.startswith(p + ".") for o in found) > 1
        or any(o.startswith(p + ".") and re.search(r"\.\d", o[len(p) :]) for o in found)
    }  # fmt: skip
    owner_of = {s: next(filter(is_list_item, ancestor_paths(parent_of(s.source_linear))), None) for s in sites}
    below = {p: {o for s, o in owner_of.items() if o and block_of[s] == p and o.startswith(p + ".")} for p in found}
    for s, p in block_of.items():
        if p in wrappers or p is None:
            goes_on = any(u in updates for u in downstream(s.result))
            block_of[s] = (owner_of[s] or "") if goes_on else None
        elif len(below[p]) > 1 and not is_list_item(p):  # one forward for all blocks: the owner of the Linear
            block_of[s] = owner_of[s] if owner_of[s] in below[p] else None
    return block_of


def unread_uses(sites: list[Site], recorder: Recorder) -> dict[Linear, str]:
    """Linears of these sites whose outputs go somewhere else as well, and where: what they do there is unknown."""
    read = {before_views(s.vector) for s in sites} | {s.vector for s in sites}
    results, sources = {s.result for s in sites}, {s.source_linear for s in sites}
    found = {}
    for v in upstream(recorder.returned or recorder.values):
        for i in v.inputs if v.codes is None and v.op not in CONSTANTS and v not in results else ():
            if comes_from_linear(i) and not (v.is_outer and (i in read or before_views(i) in read)):
                linear = recorder.linears[int(i.codes.max()) // (ROWS * OUTPUTS)]
                if linear in sources:
                    found[linear] = f"{v.op} in {v.path or 'the model'} takes outputs of {linear[0]} as well"
    return found


def parent_of(linear: Linear) -> str:
    """The path of the module that holds a Linear."""
    return linear[0].rpartition(".")[0].rpartition(".")[0] if linear else ""


def is_list_item(path: str) -> bool:
    return path.rpartition(".")[2].isdigit()


def ancestor_paths(path: str) -> Iterator[str]:
    """The path itself and those of all modules around it, up to the root."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def describe_block(
    block: str,
    sites: list[Site],
    uses: Uses,
    recorder: Recorder,
    params: dict[str, Tensor],
    open_ends: list[str],
    is_hidden: bool = False,
) -> dict[str, Any]:
    """All fields of one block, as in `Report.groups`. `open_ends` is what was seen there and not understood."""
    gates = [s for s in sites if s.role == "gate"]
    norms = norms_before(block, sites)
    norms_after = [s.norm.name + " affine" * s.norm.affine if s.norm else "none" for s in gates]
    affine = {n[1] for n in norms}
    roles: dict[Linear, dict[tuple, set[str]]] = defaultdict(lambda: defaultdict(set))
    for s in sites:
        roles[s.source_linear][s.output_slice].add(s.role)
    chunks = chunk_order(block, sites, roles)
    linears = {linear: recorder.first_output[linear] for linear in roles if linear}
    inputs = [before_views(linear_input(v.op, v.inputs)) for v in linears.values()]
    low_rank = {linear: down_projection(v, block) for linear, v in linears.items()}
    tables = sorted({name for s in sites for name in s.vector.tables})
    own_tables = [name for name in tables if not any(name in linear for linear in recorder.linears)]
    names = sorted({n for linear in linears for n in (*linear, *low_rank[linear])} | set(tables))
    has_values = names and not any(params[n].is_meta for n in names)
    n_slices = sum(map(len, roles.values()))  # unknown where one slice is used with several tables, or of no Linear
    used = {(s.source_linear, s.output_slice, s.vector.tables if s.source_linear else s) for s in sites}
    has = {f"has_{role}": any(s.role == role for s in sites) for role in ("scale", "shift", "gate")}
    return {
        "n_vectors_per_block": UNKNOWN if open_ends or len(used) != n_slices else n_slices,
        **({name: yes or UNKNOWN for name, yes in has.items()} if open_ends else has),
        "gate_bounding": UNKNOWN if open_ends else single_value([gate_bounding(s) for s in gates]),
        "chunk_order": UNKNOWN if open_ends else chunks,
        "base_norm": single_value([n[0] for n in norms]) if norms or not is_hidden else UNKNOWN,
        "base_norm_affine": any(affine) if len(affine) < 2 else UNKNOWN,
        "post_norm": UNKNOWN if open_ends else single_value(norms_after),
        "source": source_of(block, roles, own_tables, low_rank, uses),
        "activation_before_linear": UNKNOWN if chunks == UNKNOWN else single_value([activation(v) for v in inputs]),
        "all_zero_now": not any(params[n].any() for n in names) if has_values else UNKNOWN,
        "modulation_params": names,
        "evidence": [f"unknown: {why}" for why in open_ends]
        + evidence_of(block, sites, norms, tables, {len({b for b, _ in uses[linear]}) for linear in linears}),
    }


def norms_before(block: str, sites: list[Site]) -> list[tuple[str, bool, str]]:
    """The norms under scales and shifts; where there are only gates, those at the start of their branches."""
    norms = [s.norm for s in sites if s.role in ("scale", "shift")]
    norms = norms or [nearest_norm(s.stream, block) for s in sites if s.role == "gate"]
    return [n for n in norms if n]


def chunk_order(block: str, sites: list[Site], roles: dict[Linear, dict[tuple, set[str]]]) -> list[dict] | str:
    """The roles of each Linear's outputs, in their order; unknown where a slice has two roles or two sources."""
    is_sum = any("sum" in s.vector.steps and not belongs_to(s.source_linear, block) for s in sites)
    if is_sum or () in roles or any(len(r) > 1 for slices in roles.values() for r in slices.values()):
        return UNKNOWN
    return [
        {"module": relative_path(linear, block), "roles": [next(iter(slices[i])) for i in sorted(slices)]}
        for linear, slices in roles.items()
    ]


def single_value(found: list[Any]) -> Any:
    """The value that all agree on; "none" of nothing, "unknown" if they differ."""
    return found[0] if found and all(f == found[0] for f in found) else ("none" if not found else UNKNOWN)


def gate_bounding(gate: Site) -> str:
    """The function between the Linear and the product: raw, tanh, sigmoid, 1+g."""
    steps = tuple(step for step in gate.vector.steps if step not in ("sum", "mul", "div"))
    if steps and steps[-1] == "tanh":
        before = set(steps[:-1])
        return UNKNOWN if before - {"clamp", "hardtanh"} else "clamp(+-2) then tanh" if before else "tanh"
    if steps and steps[-1] == "sigmoid":
        return "sigmoid"
    return "raw" if not steps else "1+g" if steps == ("add",) else UNKNOWN


def source_of(block: str, roles: dict, tables: list[str], low_rank: dict, uses: Uses) -> str:
    """Which Linears make the vectors: the block's own, one shared by all, one sliced, or one called once per vector."""
    if () in roles:
        return UNKNOWN
    kinds = set()
    for linear, slices in roles.items():
        blocks = {b for b, _ in uses[linear]}
        outside = not belongs_to(linear, block) or len(blocks) > 1
        if len({row for row, *_ in slices}) > 1 and outside:
            kinds.add("approximator")
        elif outside and block and tables:
            kinds.add("shared_linear_plus_table")
        elif outside and block:
            others = {i for b, i in uses[linear] if b != block}
            sliced = others - set(slices) if len(blocks) > 1 else False
            kinds.add("one_linear_sliced_per_block" if sliced else "fully_shared")
        else:
            kinds.add("low_rank" if low_rank[linear] else "per_block_linear")
    return kinds.pop() if len(kinds) == 1 else UNKNOWN


def down_projection(output: Value, block: str) -> Linear:
    """The narrower Linear of the same block in front of this Linear's output, if they form a low-rank pair."""
    v = before_views(linear_input(output.op, output.inputs))
    while v.op not in LINEAR and len(computed := [i for i in v.inputs if i.lineage]) == 1:
        v = before_views(computed[0])
    names = parameters_of(v.op, v.inputs)
    if v.op not in LINEAR or not names or not belongs_to(names, block):
        return ()
    return names if v.shape[-1] < min(linear_input(v.op, v.inputs).shape[-1], output.shape[-1]) else ()


def activation(v: Value) -> str:
    """The activation that computed v, the input of a Linear."""
    if v.op in ACTIVATIONS:
        return ACTIVATIONS[v.op]
    sigmoids = [u for i in v.inputs if (u := before_views(i)).op == "sigmoid"]
    if v.op == "mul" and any(u.inputs[0] in v.inputs for u in sigmoids):
        return "SiLU"  # as x * sigmoid(x)
    return "none" if v.op in LINEAR | set(NORMS) | {"input", "embedding", "add", "mean", "cat", "sum"} else UNKNOWN


def belongs_to(linear: Linear, block: str) -> bool:
    return bool(block) and linear[0].startswith(block + ".")


def relative_path(linear: Linear, block: str) -> str:
    """The path of a Linear from its block, or with a leading slash from the model's root."""
    owner = linear[0].rpartition(".")[0]
    if not block or owner == block:
        return "" if block else owner
    return owner[len(block) + 1 :] if owner.startswith(block + ".") else "/" + owner


def evidence_of(block: str, sites: list[Site], norms: list, tables: list[str], n_served: set[int]) -> list[str]:
    """How each statement about a block is known."""
    steps = sorted({" then ".join(s.vector.steps) or "nothing" for s in sites if s.role == "gate"})
    norms = sorted({f"{n[0]} in {n[2] or 'the model'}" for n in norms})
    sources = sorted({relative_path(s.source_linear, block) or "the block itself" for s in sites if s.source_linear})
    found = [
        f"vectors: {len(sites)} products and sums, each with other outputs of {', '.join(sources) or 'an input'}",
        f"norm: the stream comes from {', '.join(norms) or 'no norm'}",
        f"gate: {', '.join(steps)} between Linear and product; the product is added to the stream" if steps else "",
        f"source: a Linear serves {', '.join(map(str, sorted(n_served)))} block(s)" if n_served else "",
        f"tables: {', '.join(tables)} are added to its outputs" if tables else "",
    ]
    return [line for line in found if line]
