"""What a notebook does not show is noticed, and what widgets say in words is legible in JupyterLab's two themes."""

import re

import nbformat
import pytest

pytest.importorskip("playwright", reason="no playwright: pip install playwright")

from driver import Lab, read
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
CONTRASTS = """() => {
    const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = v => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const paper = e => {
        const colour = rgb(getComputedStyle(e).backgroundColor);
        return (colour[3] ?? 1) || !e.parentElement ? colour : paper(e.parentElement);
    };
    const words = '.jupyter-widgets :is(p, label, button, summary, .widget-readout), .jp-RenderedMarkdown p';
    return [...document.querySelectorAll(words)].filter(e => e.innerText.trim() && !e.disabled).map(e => {
        const [dark, bright] = [light(rgb(getComputedStyle(e).color)), light(paper(e))].sort((a, b) => a - b);
        return [e.innerText, (bright + 0.05) / (dark + 0.05)];
    });
}"""


SPOILED = {  # text: what is said of it
    r"$$\gatte \odot F$$": "errors",
    "$$" + "x + " * 60 + "x$$": "cut",
    "It costs $5 and more.": "raw",
}


def test_what_does_not_show_is_noticed(lab: Lab, browser: Browser) -> None:
    """A macro that no renderer knows, a formula wider than the page, a lonely $, and a picture that is none."""
    v4, path = nbformat.v4, lab.notebooks / "spoiled.ipynb"
    shown = [v4.new_output("display_data", {"image/png": "bm90IGEgcGljdHVyZQ==", "text/plain": "none"})]
    cells = [*map(v4.new_markdown_cell, SPOILED), v4.new_code_cell("1", execution_count=1, outputs=shown)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "3"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), path)
    with lab.open(browser, path.name) as notebook:
        said = read(notebook.page, path, timeout=3)
    for what in ("pictures", *SPOILED.values()):
        assert any(re.search(rf"\b{what}\b", complaint) for complaint in said), f"{what}: {said}"


WIDGETS = """
from adaln_lab.exercises import guess
from adaln_lab.display.plots import figure, new_figure
from adaln_lab.display.widgets import Choice, Explorer, Slider

fig, (ax,) = new_figure(4, 2)
(line,) = ax.plot([0, 1], [0, 1])
controls = [Slider("height", 0, 2, 0.1, 1), Choice("kind", ("straight", "bent"), "bent")]
e = Explorer(fig, [line], lambda height, kind: None, controls, "{height} {kind}".format, "A line of some height.")
e.show()
e.update = lambda **values: 1 / 0
try:
    e.sliders["height"].value = 1.5
except ZeroDivisionError:
    pass
"""


def test_words_of_widgets_are_legible_in_light_and_dark(lab: Lab, browser: Browser) -> None:
    replies = '{"straight": "It is.", "bent": "It is not.", "broken": "It is whole."}'
    question = f'guess("the line is ...", {replies}); guess("and is ...", {replies}, 1, "straight")'
    question = f'from adaln_lab.exercises import guess, judge\n{question}; judge("so ...", {replies}, ["straight"])'
    caption = 'from adaln_lab.display.plots import figure\nfigure(fig, "A line of some height, once more.")'
    lab.write("legible.ipynb", [WIDGETS, question, caption])
    with lab.open(browser, "legible.ipynb") as notebook:
        notebook.run_all()
        for theme in ("JupyterLab Dark", "JupyterLab Light"):
            notebook.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
            notebook.page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
            contrasts = dict(notebook.page.evaluate(CONTRASTS))
            assert "ZeroDivisionError: division by zero" in contrasts and len(contrasts) >= 8, contrasts
            assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}, theme
