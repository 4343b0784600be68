"""Formulas in Markdown: whether every renderer that a reader may meet reads the same thing.

Those are MathJax 2 (nbviewer, nbconvert, Colab), MathJax 3 and 4 (JupyterLab, GitHub) and KaTeX (VS Code). GitHub
refuses some macros of MathJax, KaTeX does not have all of them, and Markdown comes first in some places and last in
others. So formulas keep to what is safe everywhere. test_notebooks.py asks this of all notebooks, test_glossary.py of
a page, which is harder: there GitHub drops a backslash before punctuation.
"""

import re
from collections.abc import Iterator

MATHS = re.compile(r"(?<!\\)\$\$(?P<display>.*?)(?<!\\)\$\$|(?<!\\)\$(?P<inline>[^$]*?)(?<!\\)\$", re.S)
# \operatorname, \newcommand, \def, \mbox, \phantom, \require and \label are not among them.
KNOWN_EVERYWHERE = """
    alpha beta gamma delta varepsilon lambda mu sigma tau theta phi omega Delta Sigma nabla partial infty ell top
    mathrm mathbf mathbb mathcal text frac tfrac sqrt sum prod int max min log exp sin cos tanh angle
    hat bar tilde vec underbrace overbrace big Big left right langle rangle vert Vert lbrace rbrace mid begin end
    odot cdot times otimes oplus le leq ge geq lt gt neq approx equiv propto perp in to leftarrow rightarrow
    Rightarrow dots ldots cdots vdots quad qquad thinspace
"""


def complaints(text: str) -> list[str]:
    """What is wrong with the formulas of a Markdown text from which code has been taken out."""
    rest = MATHS.sub("", text).replace(r"\$", "")
    found = [rf"a $ without its partner (a price is \$5): {line:.80}" for line in rest.splitlines() if "$" in line]
    return found + [f"{why}: {match[0]:.80}" for match in MATHS.finditer(text) for why in reasons(match)]


def reasons(match: re.Match) -> Iterator[str]:
    tex = match["inline"] if match["display"] is None else match["display"]
    before, after = match.string[: match.start()], match.string[match.end() :]
    if unknown := sorted(set(re.findall(r"\\([A-Za-z]+)", tex)) - set(KNOWN_EVERYWHERE.split())):
        yield f"not known to all renderers: {', '.join(unknown)}"
    if re.search(r"<[A-Za-z/!]", tex):
        yield r"a < before a letter opens a tag, write \lt"
    if "](" in tex:
        yield "]( makes a link"
    if not braces_match(tex):
        yield "braces do not match"
    if len(re.findall(r"\\left(?![a-z])", tex)) != len(re.findall(r"\\right(?![a-z])", tex)):
        yield r"\left without \right"
    if sorted(re.findall(r"\\begin\{(\w+)", tex)) != sorted(re.findall(r"\\end\{(\w+)", tex)):
        yield r"\begin without \end"
    if r"\\" in re.sub(r"\\begin.*\\end", "", tex, flags=re.S):
        yield "a line break outside of an environment"
    if match["inline"] is None:
        if not re.search(r"(^|\n\n)$", before) or not re.match(r"\n*$|\n\n", after) or re.search(r"\n\s*\n", tex):
            yield "a displayed formula is a paragraph of its own, in no list and no quotation"
    else:
        if tex != tex.strip() or not tex or "\n" in tex:
            yield "a space or a line break beside a $, or a line break inside"
        if before[-1:].isalnum() or after[:1].isalnum():
            yield "a letter or digit beside a $"
        if before.rpartition("\n")[2].startswith("|") and "|" in tex:
            yield r"a | ends the cell of a table, write \vert or \Vert"
        if re.search(r"\[[^][\n]*$", before) and re.match(r"[^][\n]*\]\(", after):
            yield "a formula inside of a link"


def braces_match(tex: str) -> bool:
    depth = 0
    for brace in re.findall(r"[{}]", re.sub(r"\\[\\{}]", "", tex)):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0
