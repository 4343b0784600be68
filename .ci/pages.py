"""Write the course as pages that need neither network nor kernel: `make html`, then open html/00_start_here.html.

nbconvert does it, but for three things: where its pages fetch scripts from the network each time they are read, here a
copy of MathJax lies beside them; links lead to pages; and every picture carries its alt text. Half a minute.
"""

import html
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MATHJAX = "mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe"
FONTS = (
    '"HTML-CSS": {availableFonts: [], preferredFont: null, imageFont: null, webFont: "STIX-Web"}'  # those it carries
)
NO_ALT = 'alt="No description has been provided for this image"'


def page(notebook: NotebookNode, name: str) -> str:
    exporter = HTMLExporter(mathjax_url=MATHJAX, log_level="ERROR")
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output)
    for data in (output.data for output in outputs if "image/png" in output.data):
        text = text.replace(NO_ALT, f'alt="{html.escape(data["text/plain"])}"', 1)
    text = text.replace(f'<script src="{exporter.require_js_url}"></script>', "")  # only for widgets that are live
    text = re.sub(r'(href="\w+)\.(?:ipynb|md)"', r'\1.html"', text)
    return text.replace("<head>", f"<head><script>window.MathJax = {{{FONTS}}}</script>", 1)


def main(target: Path = Path("html")) -> None:
    shutil.rmtree(target, ignore_errors=True)
    (package,) = find_spec("jupyter_server_mathjax").submodule_search_locations
    shutil.copytree(Path(package) / "static", target / "mathjax")
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        (target / f"{path.stem}.html").write_text(page(nbformat.read(path, as_version=4), path.stem), encoding="utf8")
    for path in sorted(NOTEBOOKS.glob("*.md")):
        cell = nbformat.v4.new_markdown_cell(path.read_text(encoding="utf8"))
        notebook = nbformat.v4.new_notebook(cells=[cell])
        (target / f"{path.stem}.html").write_text(page(notebook, path.stem), encoding="utf8")
    print(f"open {target / '00_start_here.html'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
