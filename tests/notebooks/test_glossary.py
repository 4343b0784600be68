"""The glossary keeps what it promises: every term stands in the section it sends to, and every letter renders."""

import re
from pathlib import Path

import maths
import nbformat
import pytest
from ledger import NO_TEXT, SIGN

from adaln_lab.display.plots import COLOURS

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAGE = (NOTEBOOKS / "glossary.md").read_text(encoding="utf8")
TERM = re.compile(
    r"^\| \*\*(?P<term>.+?)\*\* \| (?P<line>.+) \| \[(?P<number>\d\d)\]\((?P<file>\S+)\), (?P<section>\d+) \|$", re.M
)
TERMS = [match.groupdict() for match in TERM.finditer(PAGE)]


def section(file: str, number: str) -> str:
    """Text and code of `## number. ...`, up to the next section."""
    cells = nbformat.read(NOTEBOOKS / file, as_version=4).cells
    text = "\n".join(cell.source if cell.cell_type == "markdown" else f"\n{cell.source}" for cell in cells)
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", text, re.M | re.S)
    return found[0] if found else ""


def test_every_row_is_read() -> None:
    """A row that TERM does not match would be checked by nobody."""
    assert len(TERMS) == PAGE.count("\n| **") >= 40


@pytest.mark.parametrize("row", TERMS, ids=lambda row: row["term"])
def test_term_is_taught_where_the_glossary_says(row: dict[str, str]) -> None:
    assert row["file"].startswith(row["number"])
    said = section(row["file"], row["section"])
    assert said, f"{row['file']} has no section {row['section']}"
    assert row["term"].casefold() in said.casefold(), f"section {row['section']} of {row['file']} does not say it"


def test_a_wrong_section_is_noticed() -> None:
    assert "effective depth" in section("04_gradient_flow.ipynb", "5").casefold()
    assert "effective depth" not in section("04_gradient_flow.ipynb", "1").casefold()
    assert section("04_gradient_flow.ipynb", "99") == ""


def test_terms_stand_in_order_and_once() -> None:
    names = [row["term"].casefold() for row in TERMS]
    assert names == sorted(set(names))


def test_every_colour_of_a_quantity_is_named() -> None:
    for quantity in COLOURS.keys() - {"data", "measure", "quiet"}:
        assert re.search(rf"\| {quantity} \| \w+", PAGE)


def test_formulas_render_on_github() -> None:
    """There a page is read as Markdown first, and a backslash before punctuation is gone when MathJax comes."""
    text = NO_TEXT.sub("", PAGE)
    assert maths.complaints(text) == []
    formulas = [match[0].strip("$") for match in maths.MATHS.finditer(text)]
    assert len(formulas) > 10
    assert [formula for formula in formulas if SIGN.search(formula)] == []
