"""The x-ray: what does a module do with its condition? Two passes are watched, operation by operation.

    what moves when I touch this?

In the first pass every value remembers what it was made of (`watch`), and that is read (`reading`): where a vector of
the condition meets the stream, in which role, made by which Linear. In the second the suspected parameters are nudged,
and only what moves is reported (`report`). Names say where something is, never what it does.

B batch, T tokens, D channels.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from adaln_lab.analysis.xray.reading import (
    OF_TOKENS,
    UNKNOWN,
    Touch,
    describe,
    homes,
    norm_of,
    parents,
    residual_paths,
    touches,
)
from adaln_lab.analysis.xray.report import Report
from adaln_lab.analysis.xray.watch import Watch, untouched, watch

__all__ = ["Report", "xray"]


def xray(module: nn.Module, run: Callable[[], Any] | None = None) -> Report:
    """Say how a module is told what it is told. `run()` performs one forward pass; the module is left as it was.

    Without `run` only structure is known and the verdict is "unknown". Raises ValueError where `module` is none, and
    where `run` raises, never calls the module, or cannot be called.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"xray reads a torch.nn.Module, got {type(module).__name__}")
    if run is None:
        why = "nothing ran, and names prove nothing: give run, as in xray(model, lambda: model(x, t))"
        return Report(UNKNOWN, structure=structure(module), evidence=[why])
    if not callable(run):
        raise ValueError("run must be callable without arguments, as in xray(model, lambda: model(x, t, y))")
    seen = watch(module, run)
    if not seen.calls:
        raise ValueError("run() never called the module it should x-ray: is it another copy, or a part of it?")
    evidence = [f"{seen.n_inputs} tensors came in, and every operation on them was watched"]
    met = moved(touches(seen), module, run, seen, evidence)
    return report(module, met, seen, evidence)


def moved(met: list[Touch], module: nn.Module, run: Callable[[], Any], seen: Watch, evidence: list[str]) -> list[Touch]:
    """Those touches that move when the parameters of their vectors are nudged. All, where that cannot be seen."""
    params = dict(module.named_parameters())
    suspects = {n for t in met for n in (*t.maker, *t.vector.tables) if n in params}
    if not suspects or any(params[n].is_meta for n in suspects):
        return met
    with untouched(module, *suspects):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name in sorted(suspects):
                p = params[name]
                p.add_((0.1 + 0.1 * torch.rand(p.shape, generator=generator)).to(p))
        again = watch(module, run).values
    sums = [(v.op, str(v.sum)) for v in seen.values], [(v.op, str(v.sum)) for v in again]  # as text, nan is itself
    reached = set()
    for v in seen.values:
        if any(i in reached or i.name in suspects for i in v.inputs):
            reached.add(v)
    if len(again) != len(seen.values) or any(
        a != b for v, a, b in zip(seen.values, *sums, strict=True) if v not in reached
    ):
        evidence.append("run() is not the same twice, so what flows was read, once, and nothing could be nudged")
        return met
    after = {v: w.sum for v, w in zip(seen.values, again, strict=True)}
    told = [
        t for t in met if set(t.maker) & suspects and isfinite(t.value.sum or 0)
    ]  # where numbers ran away, none tell
    still = [t for t in told if after[t.value] == t.value.sum]
    evidence.append(f"{len(suspects)} parameters were nudged, and {len(met) - len(still)} of {len(met)} places moved")
    heard = {t.maker for t in met if t not in still}  # a gate may stand still because its branch is zero
    return [t for t in met if t.maker in heard]


def report(module: nn.Module, met: list[Touch], seen: Watch, evidence: list[str]) -> Report:
    params = dict(module.named_parameters())
    modulating = [t for t in met if t.role in ("scale", "shift", "gate")]
    home = homes(modulating, seen)
    near = {t for t, at in home.items() if at and t.value.path.startswith(at)}
    far = {t for t in near if t.role != "gate" and not norm_of(t.stream)[2].startswith(home[t])}
    home = {t: at for t, at in home.items() if t not in far}  # what another block normalised is just its stream
    blocks: dict[str, list[Touch]] = defaultdict(list)
    for t, at in home.items():
        if at is not None:
            blocks[at].append(t)
    everywhere: dict[tuple[str, ...], set] = defaultdict(set)
    for at, ts in blocks.items():
        for t in ts:
            everywhere[t.maker].add((at, t.slot))
    found = {at: describe(at, ts, everywhere, seen, params) for at, ts in blocks.items()}
    others = [at for at, facts in found.items() if facts["base_norm"] not in (*OF_TOKENS, UNKNOWN)]
    groups = grouped({at: facts for at, facts in found.items() if at not in others}, module, params)
    last, final = [t for t, at in home.items() if at is None], None
    last = last or unnormed(met, modulating, residual_paths(seen, modulating))
    if last:
        owner = last[-1].maker
        last = [t for t in last if t.maker == owner]
        final = last_layer(describe("", last, everywhere, seen, params), last)
    roles = {"other" if t in far else t.role for t in met}
    verdict = (
        "adaln" if groups
        else "other_conditional_modulation" if others or "other" in roles
        else "final_layer_only" if final
        else UNKNOWN if "alone" in roles
        else "additive_only" if "additive" in roles
        else "none"
    )  # fmt: skip
    total = sum(p.numel() for p in params.values()) or 1
    in_blocks = {name for g in groups for name in g["modulation_params"]}
    in_last = {n for t in last for n in ((*t.vector.tables,) if is_table(t) else (*t.maker, *t.vector.tables))}
    shares = [sum(params[n].numel() for n in names) / total for names in (in_blocks, in_blocks | in_last)]
    gates = {at: rms for at, ts in blocks.items() if (rms := size_of_gates(ts)) is not None}
    return Report(
        verdict, groups, final, *shares, gates, unmodulated(groups, module, seen), structure(module), evidence
    )


def size_of_gates(met: list[Touch]) -> float | None:
    sizes = [t.vector.rms for t in met if t.role == "gate" and t.vector.rms is not None]
    return (sum(s * s for s in sizes) / len(sizes)) ** 0.5 if sizes else None


def unnormed(met: list[Touch], modulating: list[Touch], blocks: set[str]) -> list[Touch]:
    """What is done to the stream after the last block where no norm precedes it: times a vector, plus a vector."""
    after = met[met.index(modulating[-1]) + 1 :] if modulating else []
    roles = {"other": "scale", "additive": "shift"}
    found = [
        replace(t, role=roles[t.role])
        for t in after
        if t.role in roles and not blocks & {*parents(t.value.path)} - {""}
    ]
    return found if any(t.role == "scale" for t in found) else []


def is_table(t: Touch) -> bool:
    """Whether a vector is a table's row plus the embedding of c itself, as in PixArt's last layer."""
    return bool(t.vector.tables) and t.slot[1] == 0 and t.width == t.made


def last_layer(facts: dict[str, Any], last: list[Touch]) -> dict[str, Any]:
    chunks = facts["chunk_order"]
    first = {"module": UNKNOWN, "roles": UNKNOWN} if chunks == UNKNOWN else chunks[0]
    final = {
        "module": first["module"].lstrip("/"),
        "roles": first["roles"],
        "norm": facts["base_norm"],
        "affine": facts["base_norm_affine"],
        "activation": facts["activation_before_linear"],
    }
    if is_table(last[0]):
        final |= {"module": f"TABLE {last[0].vector.tables[-1]} + raw t_emb", "activation": "none"}
    return final


def grouped(found: dict[str, dict[str, Any]], module: nn.Module, params: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Blocks of one list, class and description are one kind."""
    kinds: dict[tuple, list[str]] = {}
    for at, facts in found.items():
        same = {k: v for k, v in facts.items() if k not in ("modulation_params", "evidence")}
        kinds.setdefault((pattern(at), type(module.get_submodule(at)).__name__, repr(same)), []).append(at)
    groups = []
    for (place, kind, _), paths in kinds.items():
        alone = sum(k[0] == place for k in kinds) == 1
        names = sorted({n for at in paths for n in found[at]["modulation_params"]})
        groups.append(
            {"blocks": place if alone or len(paths) > 1 else paths[0], "block_class": kind, "n_blocks": len(paths)}
            | found[paths[0]]
            | {"modulation_params": names, "modulation_numel": sum(params[n].numel() for n in names)}
        )
    return groups


def pattern(path: str) -> str:
    """A path with a star for its last number."""
    parts = path.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join("*" if i == numbers[-1] else part for i, part in enumerate(parts)) if numbers else path


def unmodulated(groups: list[dict[str, Any]], module: nn.Module, seen: Watch) -> list[str]:
    """Blocks of the same classes that ran and that no vector met."""
    kinds = {g["block_class"] for g in groups}
    taken = {g["blocks"] for g in groups} | {pattern(g["blocks"]) for g in groups}
    ran = [n for n, m in module.named_modules() if n in seen.calls and type(m).__name__ in kinds]
    return sorted({pattern(n) for n in ran} - taken)


def structure(module: nn.Module) -> list[dict[str, Any]]:
    """Lists of modules of one class, with their share of all parameters: what can be said without a pass."""
    total = sum(p.numel() for p in module.parameters()) or 1
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, m in module.named_modules():
        if name.rpartition(".")[2].isdigit():
            found[pattern(name), type(m).__name__].append(sum(p.numel() for p in m.parameters()))
    return [
        {"blocks": place, "block_class": kind, "n_blocks": len(sizes), "share": sum(sizes) / total}
        for (place, kind), sizes in found.items()
        if len(sizes) > 1 and sum(sizes) and "*" not in place.rpartition(".*")[0]
    ]
