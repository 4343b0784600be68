"""Formulas in Markdown that some reader's renderer would not show: MathJax 2 to 4, KaTeX (VS Code) and GitHub differ.

GitHub refuses some macros of MathJax, KaTeX does not have all of them, and Markdown comes first in some places and last
in others. What JupyterLab and the offline pages show is looked at in a browser, by tests/browser/test_reading.py.
"""

import re

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
    found = []
    for match in MATHS.finditer(text):
        tex = match[0].strip("$")
        line = text[: match.start()].rpartition("\n")[2]
        found += [f"\\{name} is not known to all renderers" for name in re.findall(r"\\([A-Za-z]+)", tex)
                  if name not in KNOWN_EVERYWHERE.split()]  # fmt: skip
        found += [r"a < before a letter opens a tag, write \lt" for _ in re.findall(r"<[A-Za-z/!]", tex)]
        found += ["]( makes a link"] * ("](" in tex)
        found += [r"a | ends the cell of a table, write \vert"] * (line.startswith("|") and "|" in tex)
        found += [f"a space or a line break beside a $: {tex}"] * (match["inline"] not in (None, tex.strip()))
    return found
