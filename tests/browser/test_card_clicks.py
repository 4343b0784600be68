"""A card in a real JupyterLab, by mouse and by keyboard: a choice shows its reply, and nothing shows it before.

And the reader's own copy: its page leads to its notebooks, and code that holds an answer is folded away.
"""

from pathlib import Path

import nbformat
import pytest

pytest.importorskip("playwright", reason="no playwright: pip install playwright")

from driver import CARD, ROOT, Lab
from playwright.sync_api import Browser

from adaln_lab.exercises.own_copy import update
from adaln_lab.exercises.welcome import write_welcome

pytestmark = pytest.mark.browser
CARDS = """
from adaln_lab.exercises import guess, judge
replies = {"one": "Too few of them.", "two": "A pair, as it must be.", "three": "Too many of them."}
guess("by mouse", replies, answer="two")
guess("by keyboard", replies, answer="two")
judge("several", replies, answer={"two", "three"})
"""


def test_cards_by_mouse_and_keyboard(lab: Lab, browser: Browser) -> None:
    lab.write("cards.ipynb", [CARDS])
    with lab.open(browser, "cards.ipynb") as notebook:
        notebook.run_all()
        page, (mouse, keys, several) = notebook.page, notebook.page.locator(CARD).all()
        assert all("of them" not in card.inner_text() and "A pair" not in card.inner_text() for card in (mouse, keys))
        mouse.get_by_role("button", name="one").click()
        mouse.get_by_role("status").filter(has_text="It is [1] two. A pair").wait_for(timeout=10_000)
        mouse.get_by_text("The other options").click()
        assert mouse.get_by_text("Too many of them.").is_visible()

        keys.get_by_role("button", name="one").focus()
        page.keyboard.press("Tab")  # to the second option
        page.keyboard.press("Enter")
        keys.get_by_role("status").filter(has_text="You said: two. Right. A pair").wait_for(timeout=10_000)

        several.get_by_role("checkbox").nth(1).focus()
        page.keyboard.press("Space")
        several.get_by_text("three").click()
        several.get_by_role("button", name="Commit").press("Enter")
        several.get_by_role("status").filter(has_text="You said: two; three. All judged right.").wait_for(
            timeout=10_000
        )
        assert notebook.errors() == []


def test_own_copy_opens_from_its_page_and_hides_answers(lab: Lab, browser: Browser, tmp_path: Path) -> None:
    course, own = tmp_path / "course", lab.notebooks / "my_course"
    course.mkdir()
    guess = 'from adaln_lab.exercises import guess\nguess("how many?", {"one": "Few.", "two": "A pair."}, answer="two")'
    cells = [nbformat.v4.new_code_cell(guess), nbformat.v4.new_code_cell("1 + 1")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), course / "11_cards.ipynb")
    for folder in (course, ROOT / "notebooks"):
        update(folder, own)
    write_welcome(own / "welcome.ipynb", own)

    with lab.open(browser, "my_course/welcome.ipynb") as notebook:
        notebook.page.get_by_role("link", name="00 start here").first.click()
        path = "() => window.jupyterapp.shell.currentWidget?.context?.path"
        notebook.page.wait_for_function(f"({path})() === 'my_course/00_start_here.ipynb'", timeout=20_000)

    with lab.open(browser, "my_course/11_cards.ipynb") as notebook:
        page = notebook.page
        assert page.locator(".jp-InputArea-editor").count() >= 1
        assert not page.get_by_text("A pair").is_visible()
        page.screenshot(path=lab.shots / "folded.png")
        notebook.run_all()
        page.locator(CARD).get_by_role("button", name="two").click()
        page.get_by_role("status").filter(has_text="Right. A pair.").wait_for(timeout=10_000)
        assert notebook.errors() == []


WORDS = """
from adaln_lab.display.plots import new_figure
from adaln_lab.display.widgets import Explorer, Words
fig, (ax,) = new_figure(3, 1)
text = ax.text(0, 0.5, "")


def write(words):
    if words == "bad":
        raise ValueError("no such word")
    text.set_text(words)


Explorer(fig, [text], write, [Words("words", ("one", "two"), "one")], "It says: {words}".format, "A line of text.")
"""


def test_a_typed_line_redraws_the_picture_and_a_refusal_is_shown(lab: Lab, browser: Browser) -> None:
    lab.write("words.ipynb", [WORDS])
    with lab.open(browser, "words.ipynb") as notebook:
        notebook.run_all()
        line = notebook.page.locator(".widget-combobox input, .jupyter-widgets.widget-text input").first
        line.fill("a red book")
        line.press("Enter")
        notebook.page.locator('img[alt="It says: a red book"]').wait_for(timeout=10_000)
        line.fill("bad")
        line.press("Enter")
        notebook.page.get_by_role("alert").filter(has_text="no such word").wait_for(timeout=10_000)
