"""The report of an x-ray: blocks grouped by kind, the final layer, a verdict; as text, table, HTML and dict."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Any

from torch import Tensor, nn

from adaln_lab.analysis.xray.blocks import (
    UNKNOWN,
    Uses,
    ancestor_paths,
    describe_block,
    enclosing_blocks,
    is_list_item,
    unread_uses,
)
from adaln_lab.analysis.xray.record import Recorder, downstream
from adaln_lab.analysis.xray.sites import Site

ADALN_NORMS = ("LayerNorm", "RMSNorm")  # norms of one token, as AdaLN modulates them
VERDICTS = {
    "unknown": "One pass does not decide it.",
    "final_layer_only": "Only the final layer is modulated.",
    "other_conditional_modulation": "A condition modulates, but not by vectors that all tokens of a layer norm share.",
    "additive_only": "A condition is added and multiplies nothing.",
    "none": "No conditioning vector meets the residual stream.",
}
TABLE_FIELDS = (
    "n_vectors_per_block", "chunk_order", "gate_bounding", "base_norm", "base_norm_affine", "post_norm", "source",
    "activation_before_linear", "all_zero_now", "modulation_numel",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Report:
    """What the x-ray found. Printing shows a sentence, a table and the evidence; `as_dict()` has every field."""

    verdict: str  # adaln, final_layer_only, other_conditional_modulation, additive_only, none, unknown
    groups: list[dict[str, Any]] = field(default_factory=list)  # one for each kind of modulated block
    final_layer: dict[str, Any] | None = None
    share_blocks: float | None = None  # modulation parameters of the blocks over all; None without a pass
    share_blocks_plus_final: float | None = None
    gates: dict[str, float] = field(default_factory=dict)  # block -> RMS of the factors of its branches
    unmodulated_blocks: list[str] = field(default_factory=list)  # of the same class as modulated ones
    elsewhere: list[str] = field(default_factory=list)  # what else meets the stream, or was not understood, and where
    structure: list[dict[str, Any]] = field(default_factory=list)  # lists of equal modules, and their parameters
    evidence: list[str] = field(default_factory=list)  # how each of this is known

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """The verdict in words."""
        if not self.groups:
            return " ".join([VERDICTS[self.verdict], *(f"{line}." for line in self.elsewhere)])
        zeros = {True: "all zero now", False: "not zero now", UNKNOWN: "weights have no values"}
        return " ".join(
            f"{g['n_blocks']} x {g['block_class']} ({g['blocks'] or 'the module'}): {g['n_vectors_per_block']} vectors "
            f"on {g['base_norm']}, gate {g['gate_bounding']}, source {g['source']}; {zeros[g['all_zero_now']]}."
            for g in self.groups
        )

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """The rows of the table: (place, field, value)."""
        for g in self.groups:
            yield from ((g["blocks"] or "the module", name, _format(g[name])) for name in TABLE_FIELDS)
        yield from (("final layer", name, _format(value)) for name, value in (self.final_layer or {}).items())
        for part in self.structure if not self.groups else ():
            share = f"{part['n_blocks']}, {100 * part['share']:.3g} % of parameters"
            yield part["blocks"], part["block_class"], share

    def __str__(self) -> str:
        lines, last = [f"verdict: {self.verdict}. {self.sentence()}"], None
        if self.share_blocks:
            lines.append(f"{100 * self.share_blocks:.3g} % of the parameters modulate blocks")
        for place, name, value in self.rows():
            lines += [place] * (place != last) + [f"    {name:26}{value}"]
            last = place
        return "\n".join([*lines, *(f"because {line}" for line in self.reasons())])

    def reasons(self) -> list[str]:
        """The evidence for each statement: first for the whole, then for each kind of block."""
        of_groups = [f"{g['blocks'] or 'the module'}: {line}" for g in self.groups for line in g["evidence"]]
        return self.evidence + of_groups + (self.elsewhere if self.groups else [])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in self.rows())
        because = "".join(f"<li>{escape(line)}</li>" for line in self.reasons())
        verdict = f"<p><b>{self.verdict}</b>. {escape(self.sentence())}</p>"
        return f"{verdict}<table>{cells}</table><details><summary>Evidence</summary><ul>{because}</ul></details>"


def _format(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(f"{v['module']}: {', '.join(v['roles'])}" if isinstance(v, dict) else str(v) for v in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def build_report(module: nn.Module, sites: list[Site], recorder: Recorder, evidence: list[str]) -> Report:
    params = dict(module.named_parameters())
    modulating = [s for s in sites if s.role in ("scale", "shift", "gate")]
    sources = {s.source_linear for s in modulating if s.source_linear}
    rest = [
        s if s.role != "additive" else replace(s, reason="a vector is added where no norm precedes")
        for s in sites
        if s.role in ("undecided", "other") or (s.role == "additive" and s.source_linear in sources)
    ]
    blocks, final_sites, misplaced = sites_by_block(modulating, recorder)
    open_ends, hidden = places_of(rest, [*modulating, *rest], recorder)
    unread = unread_uses(sites, recorder)
    uses: Uses = defaultdict(set)
    for block, of_block in blocks.items():
        for s in of_block:
            uses[s.source_linear].add((block, s.output_slice))
    for block, of_block in blocks.items():
        open_ends[block] += sorted({unread[s.source_linear] for s in of_block if s.source_linear in unread})
    found = {
        block: describe_block(block, of_block, uses, recorder, params, open_ends[block], block in hidden)
        for block, of_block in blocks.items()
    }
    for block in [b for b, facts in found.items() if facts["base_norm"] == UNKNOWN]:
        if not any(s.norm and s.role != "gate" for s in blocks[block]):  # a gate, and what precedes it is not known
            del found[block], blocks[block]
            unread[()] = "a gate on what is not known"
    others = [block for block, facts in found.items() if facts["base_norm"] not in (*ADALN_NORMS, UNKNOWN)]
    groups = group_blocks({block: facts for block, facts in found.items() if block not in others}, module, params)
    for block in others:
        roles = " and ".join(r for r in ("scale", "shift", "gate") if found[block][f"has_{r}"] is True)
        open_ends[block].insert(0, f"a condition gives {roles}; the norm is {found[block]['base_norm']}")
    if not final_sites and (final_sites := sites_without_norm(sites, modulating, {u.path for u in recorder.updates})):
        open_ends.pop("", None)  # where these sites stood as not understood
    last = final_sites[-1] if final_sites else None
    earlier = [s for s in final_sites if s.source_linear != last.source_linear and last.result in downstream(s.result)]
    if earlier:  # the stream goes on after them, in a way that was not seen
        for s in earlier:
            open_ends[s.result.path].append(f"a {s.role}, after which no update of the stream was recognised")
        final_sites, unread[()] = [], "the updates of the stream"
    final_sites = [s for s in final_sites if s.source_linear == final_sites[-1].source_linear]
    final = (
        final_layer(describe_block("", final_sites, uses, recorder, params, []), final_sites) if final_sites else None
    )
    elsewhere = what_else({b: lines for b, lines in open_ends.items() if b not in found or b in others}, module)
    roles = {s.role for s in sites if s not in misplaced} | ({"other"} if misplaced else set())
    verdict = (
        "adaln" if groups
        else "other_conditional_modulation" if others
        else UNKNOWN if () in unread or any(s.role == "undecided" and s.result.hidden for s in sites)
        else "other_conditional_modulation" if "other" in roles
        else UNKNOWN if "undecided" in roles
        else "final_layer_only" if final
        else "additive_only" if "additive" in roles
        else "none"
    )  # fmt: skip
    if recorder.lost and verdict in ("none", "additive_only", "final_layer_only"):
        verdict, final, elsewhere = UNKNOWN, None, [*elsewhere, recorder.lost]
    shares = parameter_shares(groups, final_sites, params)
    gates = {block: rms for block, of_block in blocks.items() if (rms := gate_rms(of_block)) is not None}
    also_ran = unmodulated({b for b in [*found, *open_ends] if b}, module, recorder) if groups else []
    return Report(verdict, groups, final, *shares, gates, also_ran, elsewhere, structure(module), evidence)


def sites_by_block(modulating: list[Site], recorder: Recorder) -> tuple[dict[str, list[Site]], list[Site], set[Site]]:
    """Sites of each block, those of the final layer, and those whose norm is in another block, so not AdaLN."""
    block_of = enclosing_blocks(modulating, recorder)
    inside = {s for s, block in block_of.items() if block and s.result.path.startswith(block)}
    misplaced = {s for s in inside if s.role != "gate" and not s.norm[2].startswith(block_of[s])}
    blocks: dict[str, list[Site]] = defaultdict(list)
    for s, block in block_of.items():
        if block is not None and s not in misplaced:
            blocks[block].append(s)
    return blocks, [s for s, block in block_of.items() if block is None], misplaced


def places_of(rest: list[Site], sites: list[Site], recorder: Recorder) -> tuple[dict[str, list[str]], set[str]]:
    """What was seen and is no AdaLN, or not understood: block -> reasons; and the blocks with undecided sites."""
    block_of, found = enclosing_blocks(sites, recorder), defaultdict(list)
    for s in rest:
        block = block_of[s] or ""
        why = f"{s.reason} ({s.result.op} in {path_pattern(s.result.path) or 'the model'})"
        found[block] += [why] if why not in found[block] else []
    return found, {block_of[s] or "" for s in rest if s.role == "undecided"}


def parameter_shares(groups: list[dict], final_sites: list[Site], params: dict[str, Tensor]) -> tuple[float, float]:
    """The share of all parameters that modulates blocks, and with the final layer's."""
    of_blocks = {name for g in groups for name in g["modulation_params"]}
    of_final = {n for s in final_sites for n in (() if is_table_plus_condition(s) else s.source_linear)}
    of_final |= {n for s in final_sites for n in s.vector.tables}
    total = sum(p.numel() for p in params.values()) or 1
    blocks, both = (sum(params[n].numel() for n in names) / total for names in (of_blocks, of_blocks | of_final))
    return blocks, both


def gate_rms(sites: list[Site]) -> float | None:
    sizes = [s.vector.rms for s in sites if s.role == "gate" and s.vector.rms is not None]
    return (sum(size * size for size in sizes) / len(sizes)) ** 0.5 if sizes else None


def sites_without_norm(sites: list[Site], modulating: list[Site], residual: set[str]) -> list[Site]:
    """A final layer without a norm: the scale and shift of the stream after the last block."""
    after = sites[sites.index(modulating[-1]) + 1 :] if modulating else []
    roles = {"other": "scale", "additive": "shift"}
    found = [
        replace(s, role=roles[s.role])
        for s in after
        if s.role in roles and not residual & {*ancestor_paths(s.result.path)} - {""}
    ]
    return found if any(s.role == "scale" for s in found) else []


def is_table_plus_condition(s: Site) -> bool:
    """Whether a vector is a row of a table plus the embedding of c itself, as in PixArt's final layer."""
    return bool(s.vector.tables) and s.is_whole_output


def final_layer(facts: dict[str, Any], sites: list[Site]) -> dict[str, Any]:
    chunks = facts["chunk_order"]
    first = {"module": UNKNOWN, "roles": UNKNOWN} if chunks == UNKNOWN else chunks[0]
    module, applied = first["module"].lstrip("/"), facts["activation_before_linear"]
    if is_table_plus_condition(sites[0]):
        module, applied = f"TABLE {sites[0].vector.tables[-1]} + raw t_emb", "none"
    norm, affine = facts["base_norm"], facts["base_norm_affine"]
    return {"module": module, "roles": first["roles"], "norm": norm, "affine": affine, "activation": applied}


def group_blocks(found: dict[str, dict[str, Any]], module: nn.Module, params: dict[str, Tensor]) -> list[dict]:
    """Blocks of one list with the same class and facts form a group."""
    kinds: dict[tuple, list[str]] = defaultdict(list)
    for block, facts in found.items():
        same = {k: v for k, v in facts.items() if k not in ("modulation_params", "evidence")}
        kinds[path_pattern(block), type(module.get_submodule(block)).__name__, repr(same)].append(block)
    groups = []
    for (_, block_class, _), paths in kinds.items():
        names = sorted({n for block in paths for n in found[block]["modulation_params"]})
        place = place_of(paths, module)
        groups.append(
            {"blocks": place, "block_class": block_class, "n_blocks": len(paths)}
            | found[paths[0]]
            | {"modulation_params": names, "modulation_numel": sum(params[n].numel() for n in names)}
        )
    return groups


def path_pattern(path: str) -> str:
    """A path with a star in place of its last number."""
    parts = path.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join("*" if i == numbers[-1] else part for i, part in enumerate(parts)) if numbers else path


def place_of(paths: list[str], module: nn.Module) -> str:
    """Where blocks are: `list.*` if they are all of a list, else with their numbers, as `list.0-3,7`."""
    pattern = path_pattern(paths[0])
    head, _, tail = pattern.partition("*") if "*" in pattern else (pattern, "", "")
    same = re.compile(re.escape(head) + r"(\d+)" + re.escape(tail))
    siblings = [n for n, _ in module.named_modules() if same.fullmatch(n)]
    if len(paths) == 1 and (pattern == paths[0] or len(siblings) > 1):
        return paths[0]
    if len(siblings) == len(paths):
        return pattern
    numbers = sorted(int(same.fullmatch(p)[1]) for p in paths)
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    runs = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return head + ",".join(runs) + tail


def what_else(lines: dict[str, list[str]], module: nn.Module) -> list[str]:
    """For each place outside the groups what was seen there: blocks with the same lines are one place."""
    same: dict[tuple, list[str]] = defaultdict(list)
    for block, reasons in lines.items():
        if reasons:
            same[path_pattern(block), tuple(reasons)].append(block)
    named = dict(module.named_modules())
    return [
        f"{place_of(blocks, module)} ({type(named[blocks[0]]).__name__}): {'; '.join(reasons)}" if pattern
        else "; ".join(reasons)
        for (pattern, reasons), blocks in same.items()
    ]  # fmt: skip


def unmodulated(found: Iterable[str], module: nn.Module, recorder: Recorder) -> list[str]:
    """Blocks that ran and update the stream, have the class of a modulated block, and are not modulated."""
    named, updating = dict(module.named_modules()), {p for u in recorder.updates for p in ancestor_paths(u.path)}
    classes = {type(named[block]) for block in found}
    inside = {p for block in found for p in ancestor_paths(block)}
    plain = [
        n for n, m in named.items()
        if n in recorder.called & updating and type(m) in classes and n not in inside
        and not any(p in found for p in ancestor_paths(n))
    ]  # fmt: skip
    kinds: dict[str, list[str]] = defaultdict(list)
    for n in plain:
        kinds[path_pattern(n)].append(n)
    return sorted(place_of(paths, module) for paths in kinds.values())


def structure(module: nn.Module) -> list[dict[str, Any]]:
    """Lists of modules of one class, with their share of all parameters: known without a pass."""
    total = sum(p.numel() for p in module.parameters()) or 1
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name, m in module.named_modules():
        if is_list_item(name):
            found[path_pattern(name), type(m).__name__].append(sum(p.numel() for p in m.parameters()))
    return [
        {"blocks": pattern, "block_class": block_class, "n_blocks": len(sizes), "share": sum(sizes) / total}
        for (pattern, block_class), sizes in found.items()
        if len(sizes) > 1 and sum(sizes) and "*" not in pattern.rpartition(".*")[0]
    ]
