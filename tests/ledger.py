"""The ledger: every displayed equation of the course, and the lines that prove it, as a page.

    python tests/ledger.py      writes notebooks/ledger.md from the stored notebooks

The rule: what stands between $$ and $$ and states a fact (holds a relation besides a definition's :=) is followed by a
code cell that calls `prove`, before the next heading or the next Markdown cell with a displayed equation. Equations of
one cell share what follows. The stored output must hold the line `proved: claim` of every call.
"""

import ast
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from adaln_lab.utils.proof import OURS

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAGE = NOTEBOOKS / "ledger.md"
INTRODUCTION = """# Every equation of this course, and where it is proved

Below each displayed equation its notebook computes both sides, along different paths, and compares them. The call
`prove("claim", left, right)` prints one line if they agree, to 1e-10 unless the cell says otherwise, and stops the
notebook if they do not. That is no proof for all numbers, only for those in the cell: open it and change them.
A definition, written with `:=`, has nothing to prove.

`tests/ledger.py` writes this page from what the notebooks have printed, and a test refuses an equation without its
line.
"""

NO_TEXT = re.compile(  # fenced code, comments, code in a line
    r"^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)"
    r"|<!--.*?-->|(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)",
    re.M | re.S,
)
HEADING_OR_DISPLAY = re.compile(r"^ {0,3}#{1,6}\s|(?<!\\)\$\$(?P<tex>.+?)(?<!\\)\$\$", re.M | re.S)
STRAY_DISPLAY = re.compile(r"(?<!\\)\$\$|\\\\\[|^\s*\\begin\{(?:equation|align|gather)", re.M)
DEFINES = re.compile(r":=|=:|\\coloneqq\b|\\triangleq\b")
RELATION = re.compile(
    r"[=<>]|\\(?:leq?|geq?|lt|gt|ll|gg|neq?|approx|equiv|propto|simeq|cong|leftarrow|gets|implies|iff|perp"
    r"|Rightarrow|Leftrightarrow|leqslant|geqslant)(?![A-Za-z])"
)


@dataclass
class Group:
    """The displayed equations of one cell, in TeX, and the claims proved under them."""

    equations: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)


@dataclass
class Account:
    """What the ledger says of one notebook; `complaints` is empty if all is well."""

    groups: list[Group] = field(default_factory=list)
    further: list[str] = field(default_factory=list)  # claims under no equation
    complaints: list[str] = field(default_factory=list)


def account(nb: NotebookNode) -> Account:
    """Walk through a notebook. A heading or other equations close a group, and so does prose after its proof."""
    book, group = Account(), None
    for number, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            group = None if group is None or group.claims else group
            here = None
            text = text_of(cell.source)
            for found in HEADING_OR_DISPLAY.finditer(text):
                if not found["tex"]:
                    group = here = None
                    continue
                if here is None:
                    group = here = Group()
                    book.groups.append(group)
                here.equations.append(found["tex"].strip())
            if STRAY_DISPLAY.search(HEADING_OR_DISPLAY.sub("", text)):
                book.complaints.append(f"cell {number}: write displayed equations between $$ and $$")
        elif cell.cell_type == "code":
            claims, complaints = proofs(cell)
            (book.further if group is None else group.claims).extend(claims)
            book.complaints += [f"cell {number}: {complaint}" for complaint in complaints]
    book.complaints += [
        f"no proof with its printed line before the next heading or equation (a definition is written :=): {tex}"
        for group in book.groups
        for tex in group.equations
        if states_a_fact(tex) and not group.claims
    ]
    return book


def text_of(markdown: str) -> str:
    """Markdown without what is no text, and without the > of quotations."""
    return NO_TEXT.sub("", re.sub(r"^ {0,3}> ?", "", markdown, flags=re.M))


def states_a_fact(tex: str) -> bool:
    """Whether a relation is left when definitions, words, indices, and the conditions of cases are taken away."""
    tex = re.sub(r"\\begin\{cases\}.*?\\end\{cases\}", lambda m: re.sub(r"&.*?(?:\\\\|$)", "", m[0]), tex, flags=re.S)
    tex = re.sub(r"\\(?:text|mathrm)\{[^{}]*\}", "", DEFINES.sub("", tex))
    return bool(RELATION.search(without_indices(tex)))


def without_indices(tex: str) -> str:
    """TeX without _{...} and ^{...}: the = of a sum's lower limit relates nothing."""
    kept, depth = [], 0
    for i, letter in enumerate(tex):
        if letter == "{" and (depth or tex[:i].rstrip().endswith(("_", "^"))):
            depth += 1
        elif depth:
            depth -= letter == "}"
        else:
            kept.append(letter)
    return "".join(kept)


def proofs(cell: NotebookNode) -> tuple[list[str], list[str]]:
    """(claims that a code cell proved, calls of `prove` whose line is missing from its stored output)."""
    tree = ast.parse(TransformerManager().transform_cell(cell.source))
    calls = {node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == "prove"}
    texts = (output.text for output in cell.outputs if output.get("name") == "stdout")
    lines = [line.removesuffix(f" ({OURS})") for text in texts for line in text.splitlines()]
    lines = [line for line in lines if line.startswith("proved: ")]
    later = {call for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for call in ast.walk(node)}
    missing = [
        f"no line `proved: ...` for {ast.unparse(call)[:80]}: make notebooks"
        for call in sorted(calls - later, key=lambda call: call.lineno)
        if not any(re.fullmatch(claim_pattern(call), line.removeprefix("proved: ")) for line in lines)
    ]
    return [line.removeprefix("proved: ") for line in lines] if calls else [], missing


def name_of(function: ast.expr) -> str | None:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def claim_pattern(call: ast.Call) -> str:
    """What the claim of a call can look like: an f-string is known in part, a variable not at all."""
    claim = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "claim"), None)
    parts = claim.values if isinstance(claim, ast.JoinedStr) else [claim]
    return "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts)


# The page

SIGNS = {  # spellings that neither Markdown nor its tables read as their own: GitHub drops a \ before punctuation
    "\\,": r"\thinspace ", "\\:": r"\thinspace ", "\\;": r"\thinspace ", "\\>": r"\thinspace ", "\\ ": r"\thinspace ",
    "~": r"\thinspace ", "\\!": "", "\\{": r"\lbrace ", "\\}": r"\rbrace ", "\\|": r"\Vert ", "\\\\": r"\cr ",
    "|": r"\vert ", "<": r"\lt ", ">": r"\gt ", "*": r"\ast ", "_": "_ ", "](": "] (", "\\operatorname": r"\mathrm",
}  # fmt: skip
SIGN = re.compile(r"\\operatorname\*?|\\[^A-Za-z]|\]\(|(?<![A-Za-z0-9])_|[~|<>*]")  # x_t may stay
ENVELOPE = re.compile(r"\s*\\begin\{(aligned|gathered|split)\}(.*)\\end\{\1\}\s*", re.S)
TOKEN = re.compile(r"\\\\|\\[{}]|\\begin|\\end|\\qquad(?![A-Za-z])|.", re.S)


def in_a_line(tex: str) -> str:
    """A displayed equation as inline math for a table, one line for each row and for what a \\qquad sets apart."""
    tex = re.sub(r"\\(?:tag|label)\{[^{}]*\}|\\nonumber\b|\\notag\b", "", tex)
    tex = re.sub(r"\\\\\[[^\]]*\]", r"\\\\", tex)  # \\[4pt]
    lines = [SIGN.sub(lambda sign: SIGNS.get(sign[0].rstrip("*") or "*", sign[0]), part) for part in parts(tex)]
    return "<br> ".join(f"${' '.join(line.split())}$" for line in lines if line.strip())


def parts(tex: str) -> list[str]:
    """Outside of braces and environments, cut at each row's end and \\qquad; a row that begins with & goes on."""
    envelope = ENVELOPE.fullmatch(tex)
    found, depth = [""], 0
    for token in TOKEN.findall(envelope[2] if envelope else tex):
        depth += {"{": 1, "}": -1, r"\begin": 1, r"\end": -1}.get(token, 0)
        if depth or token not in ("&", r"\\", r"\qquad"):
            found[-1] += token
        elif token != "&":
            found.append("")
        elif len(found) > 1 and not found[-1].strip():
            found.pop()
    return [part.strip().rstrip(",") for part in found]


def as_text(claim: str) -> str:
    """Plain words for a table: what Markdown would read as a sign is escaped."""
    claim = claim.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("[", "&#91;")
    return re.sub(r"([\\`*_~|])", r"\\\1", claim.replace("$", ""))


def page(notebooks: dict[str, NotebookNode]) -> str:
    """The ledger of some notebooks, name -> notebook, as Markdown."""
    parts = [INTRODUCTION]
    for name, nb in notebooks.items():
        book = account(nb)
        if not book.groups and not book.further:
            continue
        title = nb.cells[0].source.partition("\n")[0].lstrip("# ")
        parts.append(f"## [{name[:2]}. {title}]({name}.ipynb)\n")
        if book.groups:
            parts.append("| no. | equation | proved by running | status |\n|---|---|---|---|")
        number = 0
        for group in book.groups:
            claims = "<br>".join(map(as_text, group.claims))
            for tex in group.equations:
                number += 1
                status = "definition" if not states_a_fact(tex) else "proved" if group.claims else "**not proved**"
                first = tex is group.equations[0]
                proved = claims if first or not claims else "as above"
                parts.append(f"| {name[:2]}.{number} | {in_a_line(tex)} | {proved} | {status} |")
        if book.further:
            parts.append("\nAlso proved there:\n" if book.groups else "Proved there:\n")
            parts += [f"- {as_text(claim)}" for claim in book.further]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def stored() -> dict[str, NotebookNode]:
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}


def main() -> int:
    notebooks = stored()
    PAGE.write_text(page(notebooks), encoding="utf8")
    complaints = [f"{name}: {complaint}" for name, nb in notebooks.items() for complaint in account(nb).complaints]
    print(*complaints, f"written: {PAGE.name}", sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
