"""Every notebook in a real JupyterLab: it runs, every widget has a view, every step of every slider a new picture.

nbclient and nbval never run a widget's JavaScript: they call a notebook well whose sliders are dead. The three broken
notebooks below prove that this test does not. ADALN_LAB_SHOTS=folder keeps the screenshots.
"""

import re
import statistics
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="no playwright: pip install playwright")

from driver import ROOT, Lab, copy_without_outputs, explore
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_every_slider_draws(path: Path, lab: Lab, browser: Browser, record_property) -> None:
    copy_without_outputs(path, lab.notebooks / path.name)
    with lab.open(browser, path.name) as notebook:
        errors, latencies = explore(notebook)
    assert errors == []
    if latencies:
        median, worst = statistics.median(latencies), max(latencies)
        record_property("latency_ms", [round(latency) for latency in latencies])
        print(f"{path.stem}: {len(latencies)} presses, median {median:.0f} ms, worst {worst:.0f} ms")


EXPLORER = """
from adaln_lab.plots import new_figure
from adaln_lab.widgets import Explorer, LivePicture, Slider

fig, (ax,) = new_figure(4, 2)
(line,) = ax.plot([0, 1], [0, 1])
ax.set_ylim(0, 2)
factor = 1

def update(height):
    {update}

Explorer(fig, [line], update, [Slider("height", 0, 2, 0.1, 1)], "height {{height:.1f}}".format, "A line.")
"""
LIVE = """
with LivePicture(fig, "A line.") as live:
    live.draw()
"""
GOOD = "line.set_ydata([0, height])"
CASES = {  # name: (the body of update, one more cell, the complaint expected, None for no complaint)
    "good": (GOOD, LIVE, None),
    "unwired": ("pass", "", r"slider 0, press 1: no new picture"),
    "broken_callback": (f"{GOOD} if height != 1.1 else 1 / 0", "", r"^ZeroDivisionError"),  # 1.1: not in the sheet
    "rebound": ("line.set_ydata([0, factor * height])", "factor = 0.5", r"slider 0 is back .* another picture"),
    "no_view": (GOOD, "import ipywidgets\nipywidgets.VBox([], tooltip='kills the view')", r"a widget has no view"),
}


@pytest.mark.parametrize("name", CASES)
def test_dead_widgets_are_noticed(name: str, lab: Lab, browser: Browser) -> None:
    update, more, complaint = CASES[name]
    lab.write(f"{name}.ipynb", [EXPLORER.format(update=update), more])
    with lab.open(browser, f"{name}.ipynb") as notebook:
        errors, _ = explore(notebook, timeout=2)
    if complaint is None:
        assert errors == []
    else:
        assert any(re.search(complaint, error) for error in errors), errors
