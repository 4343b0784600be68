"""The page of equations is what the notebooks say, no equation is without its proof, and the rule can refuse."""

import re

import pytest
from ledger import PAGE, account, as_text, in_a_line, page, stored
from nbformat import NotebookNode, v4

NOTEBOOKS = stored()
FACT = "$$a = b$$"
PROOF = 'prove("a = b", a, b)'


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_equation_without_its_proof(name: str) -> None:
    assert account(NOTEBOOKS[name]).complaints == []


def test_page_is_up_to_date() -> None:
    assert PAGE.exists() and PAGE.read_text(encoding="utf8") == page(NOTEBOOKS), "run `python tests/ledger.py`"


def notebook(*sources: str, printed: str = "proved: a = b\n") -> NotebookNode:
    """Cells: Markdown where it holds a $ or begins with #, else code; every code cell printed the same."""
    out = v4.new_output("stream", name="stdout", text=printed)
    is_text = [source.startswith(("#", "words", "```", "<!--")) or "$$" in source[:30] for source in sources]
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell(source) if text else v4.new_code_cell(source, outputs=[out])
            for source, text in zip(sources, is_text, strict=True)
        ]
    )


COMPLIES = {
    "proved": [FACT, PROOF],
    "heading above in the same cell": [f"## A\n\n{FACT}", PROOF],
    "words and other code between": [FACT, "x = 1", "words", PROOF],
    "a definition": ["$$a := b$$"],
    "a definition with cases": [r"$$f := \begin{cases} x & x > 0 \\ 0 & x \le 0 \end{cases}$$"],
    "no relation": [r"$$x + y$$"],
    "a fence": ["```\n$$a = b$$\n```"],
    "a comment": ["<!-- $$a = b$$ -->"],
}
REFUSED = {
    "no proof": [FACT],
    "a proof before": [PROOF, FACT],
    "a proof after the next heading": [FACT, "## Next", PROOF],
    "a proof after the next equation": [FACT, f"words {FACT}", PROOF],
    "a proof in a comment": [FACT, f"x = 1  # {PROOF}"],
    "a definition that goes on": ["$$a := b = c$$"],
    "in a quotation": ["> $$\n> a = b\n> $$"],
    "an environment without dollars": ["words\n\\begin{align}\na = b\n\\end{align}"],
}


@pytest.mark.parametrize("case", COMPLIES)
def test_rule_accepts(case: str) -> None:
    assert account(notebook(*COMPLIES[case])).complaints == []


@pytest.mark.parametrize("case", REFUSED)
def test_rule_refuses(case: str) -> None:
    assert account(notebook(*REFUSED[case])).complaints != []


@pytest.mark.parametrize(
    ("call", "printed", "is_good"),
    [
        (PROOF, "", False),
        (PROOF, "not proved: a = b\n", False),
        (f'{PROOF}\nprove("c = d", c, d)', "proved: a = b\n", False),
        ('for n in (1, 2):\n    prove(f"{n} a = {n} b", n * a, n * b)', "proved: 1 a = 1 b\nproved: 2 a = 2 b\n", True),
        (f"def later():\n    {PROOF}", "", True),  # its lines stand where it is called
    ],
)
def test_every_call_left_its_line(call: str, printed: str, is_good: bool) -> None:
    assert (account(notebook(call, printed=printed)).complaints == []) == is_good


def test_a_line_without_a_call_is_no_proof() -> None:
    assert account(notebook(FACT, 'print("proved: a = b")')).complaints
    assert account(notebook(FACT, f"def later():\n    {PROOF}", printed="")).complaints


def test_page_lists_equations_definitions_and_further_claims() -> None:
    nb = notebook("# Who?", "$$a := b$$", FACT + "\n\n$$c = d$$", PROOF, "## Next", PROOF, "$$e = f$$")
    lines = page({"07_who": nb}).splitlines()
    assert "## [07. Who?](07_who.ipynb)" in lines
    assert [line for line in lines if line.startswith("| 07")] == [
        "| 07.1 | $a := b$ |  | definition |",
        "| 07.2 | $a = b$ | a = b | proved |",
        "| 07.3 | $c = d$ | as above | proved |",
        "| 07.4 | $e = f$ |  | **not proved** |",
    ]
    assert lines[-3:] == ["Also proved there:", "", "- a = b"]


@pytest.mark.parametrize(
    ("tex", "line"),
    [
        ("\\begin{aligned}\na &= b \\\\\n&= c \\\\[4pt]\nd &= e\n\\end{aligned}", "$a = b = c$<br> $d = e$"),
        (r"|x| < \|y\|,\; \{z\} * 2", r"$\vert x\vert \lt \Vert y\Vert ,\thinspace \lbrace z\rbrace \ast 2$"),
        (r"a = b, \qquad c = \text{d \qquad e} \qquad (f > 0)", r"$a = b$<br> $c = \text{d \qquad e}$<br> $(f \gt 0)$"),
        (r"\mathrm{a}_{i} = b_{i}\!\operatorname{c}", r"$\mathrm{a}_ {i} = b_{i}\mathrm{c}$"),
        (r"f = \begin{cases} 1 & x \\ 0 & y \end{cases}", r"$f = \begin{cases} 1 & x \cr 0 & y \end{cases}$"),
    ],
)
def test_an_equation_fits_in_a_table(tex: str, line: str) -> None:
    assert in_a_line(tex) == line


def test_nothing_on_the_page_breaks_its_tables_or_its_math() -> None:
    """GitHub drops a backslash before punctuation, takes | for the next column and }_ for emphasis, even in math."""
    text = page(NOTEBOOKS)
    for line in text.splitlines():
        math = re.findall(r"\$[^$]+\$", line)
        assert line.count("$") == 2 * len(math)
        assert not [tex for tex in math if re.search(r"\\[^A-Za-z]|[|<>*~`]|[^A-Za-z0-9]_(?! )", tex)], line
        assert not line.startswith("|") or len(re.findall(r"(?<!\\)\|", line)) == 5, line
    assert as_text("|a_b| <c> *d* [0]") == r"\|a\_b\| &lt;c&gt; \*d\* &#91;0]"
