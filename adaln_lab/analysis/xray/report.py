"""What the x-ray found, as a sentence, a table, a page and a dict."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

SAID = {
    "unknown": "What was seen does not decide it.",
    "final_layer_only": "Only the last layer is modulated.",
    "other_conditional_modulation": "A condition scales something that is no layer norm of tokens.",
    "additive_only": "A condition is added, and multiplies nothing.",
    "none": "No vector of a condition meets the stream.",
}
SHOWN = (
    "n_vectors_per_block", "chunk_order", "gate_bounding", "base_norm", "base_norm_affine", "post_norm", "source",
    "activation_before_linear", "all_zero_now", "modulation_numel",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Report:
    """Printing it shows sentence, table and evidence; `as_dict()` has every field."""

    verdict: str  # adaln, final_layer_only, other_conditional_modulation, additive_only, none, unknown
    groups: list[dict[str, Any]] = field(default_factory=list)  # one for each kind of modulated block
    final_layer: dict[str, Any] | None = None
    share_blocks: float | None = None  # parameters of the blocks' modulation over all; None where nothing ran
    share_blocks_plus_final: float | None = None
    gates: dict[str, float] = field(default_factory=dict)  # block -> RMS of what its branches were multiplied by
    unmodulated_blocks: list[str] = field(default_factory=list)  # of the same class as modulated ones
    structure: list[dict[str, Any]] = field(default_factory=list)  # lists of equal modules, and their parameters
    evidence: list[str] = field(default_factory=list)  # how each of this is known

    def as_dict(self) -> dict[str, Any]:
        shares = {f"{name}_tiny": getattr(self, name) for name in ("share_blocks", "share_blocks_plus_final")}
        return asdict(self) | shares  # also under the names that the rows of tiny models have

    def sentence(self) -> str:
        """What was found, in words."""
        if not self.groups:
            return SAID[self.verdict]
        return " ".join(
            f"{g['n_blocks']} x {g['block_class']} ({g['blocks'] or 'the module'}): {g['n_vectors_per_block']} vectors "
            f"on {g['base_norm']}, gate {g['gate_bounding']}, source {g['source']}; {self._zeros(g)}."
            for g in self.groups
        )

    @staticmethod
    def _zeros(group: dict[str, Any]) -> str:
        """Of the weights as they are now: how a trained model once started cannot be read from it."""
        return {True: "all zero now", False: "not zero now"}.get(group["all_zero_now"], "weights have no values")

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(of what, field, value) for a table."""
        for g in self.groups:
            yield from ((g["blocks"] or "the module", name, _said(g[name])) for name in SHOWN)
        yield from (("final layer", name, _said(value)) for name, value in (self.final_layer or {}).items())
        if not self.groups:
            for part in self.structure:
                yield (
                    part["blocks"],
                    part["block_class"],
                    f"{part['n_blocks']}, {100 * part['share']:.3g} % of parameters",
                )

    def __str__(self) -> str:
        lines, last = [f"verdict: {self.verdict}. {self.sentence()}"], None
        if self.share_blocks:
            lines.append(f"{100 * self.share_blocks:.3g} % of the parameters modulate blocks")
        for of, name, value in self.rows():
            lines += [of] * (of != last) + [f"    {name:34}{value}"]
            last = of
        return "\n".join([*lines, *(f"because {line}" for line in self.reasons())])

    def reasons(self) -> list[str]:
        """The evidence for each statement: of the whole, then kind by kind."""
        return self.evidence + [f"{g['blocks'] or 'the module'}: {line}" for g in self.groups for line in g["evidence"]]

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in self.rows())
        because = "".join(f"<li>{escape(line)}</li>" for line in self.reasons())
        said = f"<p><b>{self.verdict}</b>. {escape(self.sentence())}</p>"
        return f"{said}<table>{cells}</table><details><summary>Evidence</summary><ul>{because}</ul></details>"


def _said(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(f"{v['module']}: {', '.join(v['roles'])}" if isinstance(v, dict) else str(v) for v in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
