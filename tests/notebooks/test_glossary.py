"""The glossary sends its readers to sections that hold the term, and its formulas render on GitHub."""

import re
from pathlib import Path

import maths
import nbformat
import pytest
from ledger import NO_TEXT, SIGN

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAGE = (NOTEBOOKS / "glossary.md").read_text(encoding="utf8")
ROWS = re.findall(r"^\| \*\*(.+?)\*\* \| .* \| \[(\d\d)\]\((\S+)\), (\d+) \|$", PAGE, re.M)


def plain(text: str) -> str:
    """In small letters, without the signs of Markdown and formulas, with single spaces."""
    return " ".join(re.sub(r"[*$_`]", "", text).replace("-", " ").lower().split())


def test_every_term_names_a_section() -> None:
    assert len(ROWS) == PAGE.count("| **")


@pytest.mark.parametrize(("term", "number", "file", "section"), ROWS, ids=[row[0] for row in ROWS])
def test_term_occurs_in_its_section(term: str, number: str, file: str, section: str) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS / file, as_version=4).cells)
    found = re.search(rf"^## {section}\. .*?(?=^## |\Z)", text, re.M | re.S)
    assert file.startswith(number) and found
    assert plain(term) in plain(found[0])


def test_formulas_render_on_github() -> None:
    """There a page is read as Markdown first, and a backslash before punctuation is gone when MathJax comes."""
    text = NO_TEXT.sub("", PAGE)
    assert maths.complaints(text) == []
    assert [match[0] for match in maths.MATHS.finditer(text) if SIGN.search(match[0].strip("$"))] == []
