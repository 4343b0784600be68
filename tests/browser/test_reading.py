"""Every notebook as most readers meet it, with nothing running: in JupyterLab before Run, and as an offline page.

Both are asked the same: all formulas are typeset and none is an error, and every stored picture is there. And what the
widgets say in words is legible in JupyterLab's light and dark theme.
"""

import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("playwright", reason="no playwright: pip install playwright")

from driver import ROOT, Lab
from playwright.sync_api import Browser, Page, TimeoutError

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
READ = """() => {
    const all = selector => [...document.querySelectorAll(selector)];
    const texts = all('.jp-RenderedMarkdown').map(text => text.cloneNode(true));
    texts.forEach(text => text.querySelectorAll('code, pre, script').forEach(e => e.remove()));
    return {
        pictures: all('.jp-OutputArea-output img').filter(i => i.complete && i.naturalWidth > 1).length,
        formulas: all('mjx-container[display="true"], .MathJax_Display').length,
        cut: all('mjx-container[display="true"] > mjx-math').map(e => [e, e.closest('.jp-RenderedMarkdown')])
            .filter(([e, page]) => e.offsetWidth > page.clientWidth).map(([e]) => e.textContent.slice(0, 80)),
        missing: all('img').filter(i => i.complete && !i.naturalWidth).map(i => i.src.slice(0, 80)),
        raw: texts.map(text => text.textContent).filter(text => text.includes('$')).map(text => text.slice(0, 200)),
        errors: all(':is(mjx-container, .MathJax) [style*="color: red"]').concat(  // a macro that MathJax does not know
            all('mjx-merror, [data-mjx-error], .MathJax_Error, .merror, .noError')).map(e => e.textContent),
        dialogs: all('.jp-Dialog').map(dialog => dialog.innerText),
    };
}"""
IS_READ = f"""expected => {{
    const found = ({READ})();
    return found.raw.length === 0 && Object.entries(expected).every(([what, n]) => found[what] >= n);
}}"""
CONTRASTS = """() => {
    const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = v => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const paper = e => {
        const colour = rgb(getComputedStyle(e).backgroundColor);
        return (colour[3] ?? 1) || !e.parentElement ? colour : paper(e.parentElement);
    };
    const words = '.jupyter-widgets :is(p, label, button, .widget-readout), .jp-RenderedMarkdown p';
    return [...document.querySelectorAll(words)].filter(e => e.innerText.trim() && !e.disabled).map(e => {
        const [dark, bright] = [light(rgb(getComputedStyle(e).color)), light(paper(e))].sort((a, b) => a - b);
        return [e.innerText, (bright + 0.05) / (dark + 0.05)];
    });
}"""


def read(page: Page, path: Path, timeout: float = 30) -> list[str]:
    """What is wrong with a notebook on a page, when all is there that should be, or after the time for it."""
    notebook = nbformat.read(path, as_version=4)
    bundles = [out.data for cell in notebook.cells for out in cell.get("outputs", []) if "data" in out]
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    texts += [data.get("text/markdown", "") for data in bundles]
    expected = {
        "pictures": sum("image/png" in data for data in bundles),
        "formulas": sum(text.count("$$") // 2 for text in texts),
    }
    with suppress(TimeoutError):  # what is missing is told below
        page.wait_for_function(IS_READ, arg=expected, timeout=1000 * timeout)
    found = page.evaluate(READ)
    complaints = [f"{found[what]} of {n} {what}" for what, n in expected.items() if found[what] != n]
    return complaints + [
        f"{what}: {found[what]}" for what in ("cut", "missing", "raw", "errors", "dialogs") if found[what]
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupyterlab_shows_a_notebook_that_nobody_ran(path: Path, lab: Lab, browser: Browser) -> None:
    shutil.copy(path, lab.notebooks)
    with lab.open(browser, path.name) as notebook:
        assert read(notebook.page, path) == []
        assert notebook.errors() == []


@pytest.mark.skipif(
    find_spec("jupyter_server_mathjax") is None, reason="no MathJax: pip install jupyter-server-mathjax"
)
def test_offline_pages_show_every_notebook(tmp_path: Path, browser: Browser) -> None:
    """What `make html` writes: a matter of half a minute, so all pages share it."""
    pages = tmp_path / "html"
    subprocess.run([sys.executable, ROOT / ".ci" / "pages.py", pages], check=True)
    complaints = {}
    for path in NOTEBOOKS:
        with browser.new_context(offline=True) as context, context.new_page() as page:
            page.goto((pages / f"{path.stem}.html").as_uri(), wait_until="domcontentloaded")
            said = read(page, path)
            alts = page.eval_on_selector_all("img", "images => images.map(image => image.alt)")
            links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.getAttribute('href'))")
        said += [f"alt text: {alt!r}" for alt in alts if not alt or "No description" in alt]
        near = [link for link in links if not link.startswith(("http", "#"))]
        said += [f"link: {link}" for link in near if not (pages / link).is_file()]
        complaints |= {path.stem: said} if said or not near else {}
    assert complaints == {}


SPOILED = {
    "an unknown macro": (r"$$\gatte \odot F$$", "", "errors"),
    "half a fraction": (r"$$\frac{1}$$", "", "errors"),
    "a formula wider than the page": ("$$" + "x + " * 60 + "x$$", "", "cut"),
    "a lonely $": ("It costs $5 and more.", "", "raw"),
    "a picture that is none": ("", "bm90IGEgcGljdHVyZQ==", "pictures"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_does_not_show_is_noticed(name: str, lab: Lab, browser: Browser) -> None:
    text, png, complaint = SPOILED[name]
    v4, path = nbformat.v4, lab.notebooks / "spoiled.ipynb"
    shown = [v4.new_output("display_data", {"image/png": png, "text/plain": name})] if png else []
    cells = [v4.new_markdown_cell(text), v4.new_code_cell("1", execution_count=1, outputs=shown)]
    nbformat.write(
        v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "3"}}), path
    )
    with lab.open(browser, path.name) as notebook:
        assert complaint in " ".join(read(notebook.page, path, timeout=3))


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


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_words_of_widgets_are_legible(theme: str, lab: Lab, browser: Browser) -> None:
    question = 'from adaln_lab.exercises import guess\nguess("the line is ...", ["straight", "bent"])'
    caption = 'from adaln_lab.display.plots import figure\nfigure(fig, "A line of some height, once more.")'
    lab.write("legible.ipynb", [WIDGETS, question, caption])
    with lab.open(browser, "legible.ipynb") as notebook:
        notebook.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        notebook.page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
        notebook.run_all()
        contrasts = dict(notebook.page.evaluate(CONTRASTS))
    assert "ZeroDivisionError: division by zero" in contrasts and len(contrasts) >= 8, contrasts
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}
