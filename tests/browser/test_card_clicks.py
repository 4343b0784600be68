"""A card in a real JupyterLab, by mouse and by keyboard: a choice shows its reply, and nothing shows it before."""

import pytest

pytest.importorskip("playwright", reason="no playwright: pip install playwright")

from driver import CARD, Lab
from playwright.sync_api import Browser

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
