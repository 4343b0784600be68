"""Every notebook in a real JupyterLab, as stored and as solved: every formula and picture is shown, it runs, every
widget has a view, every control moves its picture.

nbclient and nbval never run a widget's JavaScript: they call a notebook well whose sliders are dead. The broken
notebooks below prove that this test does not.

    ADALN_LAB_SHOTS=shots python -m pytest -m browser -s     keeps screenshots
    ADALN_LAB_FULL=1 ...                                     walks every slider step by step from one end to the other
"""

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="no playwright: pip install playwright")

from driver import ROOT, Lab, explore, read
from playwright.sync_api import Browser
from solved import copy_solved, refused

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FULL = "ADALN_LAB_FULL" in os.environ


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_shows_everything_and_every_control_moves_its_picture(path: Path, lab: Lab, browser: Browser) -> None:
    """First as a reader meets it, with what is stored; then run by one who has done the exercises, so that test_solved
    need not run it once more."""
    names = copy_solved(path, lab.notebooks / path.name)
    with lab.open(browser, path.name) as notebook:
        errors = read(notebook.page, path)
        notebook.clear()
        errors += explore(notebook, FULL)[0]
    errors += [f"the check of {name} refuses its solution" for name in refused(names, lab.home)]
    assert not errors, "\n".join(errors)


# The test's own test: what is good passes, and everything broken is named.

DRAW = """
from adaln_lab.display.plots import new_figure
from adaln_lab.display.widgets import Card, Choice, Explorer, Slider

def draw(label, ends=lambda height, option: (option, height)):
    fig, (ax,) = new_figure(4, 2)
    (line,) = ax.plot([0, 1], [0, 1])
    ax.set_ylim(0, 2)
    def update(height, option):
        line.set_ydata(ends(round(height, 1), "abc".index(option)))
    controls = [Slider("height", 0, 2, 0.1, 1, label), Choice("option", ("a", "b", "c"), "a", label)]
    alt = "height {height:.1f}, option {option}".format
    return Explorer(fig, [line], update, controls, alt, "A line.", sheet=[{"height": 1}])

def raises_at(number):
    return lambda height, option: (option, height / (height != number))
"""
NOTHING, STILL, RAISED = "^$", "no new picture", r"no new picture .*\(ZeroDivisionError"
WIDGETS = {  # label: (cell, the first thing to be said of it)
    "good": ("draw(label)", NOTHING),
    "unwired": ("draw(label, lambda height, option: (option, 1))", f"slider .* ArrowRight: {STILL}"),
    "raises": ("draw(label, raises_at(1.1))", f"slider .* ArrowRight: {RAISED}"),
    "no mouse": ("x = draw(label); x.widget.add_class('dead'); x", f"slider .* mouse to 100%: {STILL}"),
    "lags": ("x = draw(label); x.sliders['height'].continuous_update = False; x", f"slider .* mouse to 100%: {STILL}"),
    "rebound": ("top = 1; draw(label, lambda height, option: (option, top * height))", "slider .* another picture"),
    "dead option": ("draw(label, lambda height, option: (min(option, 1), height))", f"choice .* click on 'c': {STILL}"),
    "far too long to stand beside its slider": ("draw(label)", "slider .* label is cut off"),
    "alone": ("import ipywidgets; ipywidgets.IntSlider(description=label)", "slider .* beside no picture"),
}
CARDS = """
class Mute(Card):
    def _on_click(self, button):
        pass

for card in (Card, Mute):
    card("Sure?", ["yes", "no"]).show()
"""
LATER = """
from IPython.display import HTML
top = 0.5
HTML("<style>.dead .noUi-target {pointer-events: none}</style>")
"""
VIEW = """
import ipywidgets
from IPython.display import Javascript, display
display(Javascript("setTimeout(() => { throw Error('lost') })"))
ipywidgets.VBox([], tooltip="kills the view")
"""


def complaints(lab: Lab, browser: Browser, name: str, cells: list[str]) -> list[str]:
    lab.write(f"{name}.ipynb", cells)
    with lab.open(browser, f"{name}.ipynb") as notebook:
        return explore(notebook, timeout=2)[0]


def test_each_broken_widget_is_named(lab: Lab, browser: Browser) -> None:
    cells = [f"label = {label!r}\n{cell}" for label, (cell, _) in WIDGETS.items()]
    said = complaints(lab, browser, "widgets", [DRAW, *cells, CARDS, LATER])
    for label, (_, expected) in WIDGETS.items():
        first = next((complaint for complaint in said if f"({label})" in complaint), "")
        assert re.search(expected, first), f"{label}: {first!r}"
    assert [complaint for complaint in said if "card" in complaint] == ["card 1 says nothing about the guess"]


def test_what_raises_is_named(lab: Lab, browser: Browser) -> None:
    """In a cell, in a widget's view, and in the page."""
    said = complaints(lab, browser, "raises", [VIEW, "1 / 0"])
    expected = ["a cell raised ZeroDivisionError", "a widget has no view", "the page raised lost", "there is no slider"]
    assert len(said) == len(expected) and all(map(re.search, expected, said)), said
