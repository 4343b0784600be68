"""The glossary sends its readers to sections that exist, and its formulas render on GitHub."""

import re
from pathlib import Path

import maths
import nbformat
import pytest
from ledger import NO_TEXT, SIGN

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PAGE = (NOTEBOOKS / "glossary.md").read_text(encoding="utf8")
PLACES = sorted(set(re.findall(r"\[(\d\d)\]\((\S+)\), (\d+) \|", PAGE)))  # number, file, section


@pytest.mark.parametrize(("number", "file", "section"), PLACES)
def test_section_exists(number: str, file: str, section: str) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS / file, as_version=4).cells)
    assert file.startswith(number)
    assert re.search(rf"^## {section}\. ", text, re.M)


def test_formulas_render_on_github() -> None:
    """There a page is read as Markdown first, and a backslash before punctuation is gone when MathJax comes."""
    text = NO_TEXT.sub("", PAGE)
    assert maths.complaints(text) == []
    assert [match[0] for match in maths.MATHS.finditer(text) if SIGN.search(match[0].strip("$"))] == []
