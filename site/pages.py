"""The course as pages to read without network or kernel: `make site`, then open build/site/index.html.

    python site/pages.py [--out build/site] [--sliders 03 05]

Sphinx writes them from the notebooks as they are stored. Pictures become files, with their alt texts; a slider plays
pictures that its own notebook draws now (frames.py); a card becomes one to click; the model of notebook 05 runs in the
page (playground/). Everything a page needs lies beside it.
"""

import argparse
import base64
import datetime
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import parity
import torch
import weights
from frames import PNG, WIDGET, key
from nbformat import NotebookNode
from PIL import Image

from adaln_lab.display.plots import picture_grid
from adaln_lab.display.widgets import Card
from adaln_lab.samplers import euler, guided, time_grid
from adaln_lab.training.checkpoint import shipped_model

SITE = Path(__file__).parent
ROOT = SITE.parent
NOTEBOOKS = ROOT / "notebooks"
MODULES = ("model.js", "samplers.js", "weights.js", "page.js")  # in the order in which each needs those before it
TEXTS = ("faq", "glossary", "ledger")
FRAMES = "_static/frames"


def figure(data: dict[str, Any], number: str, source: Path, drawn: set[str]) -> str:
    """The <figure> of a stored picture, which becomes a file; one with sliders names its frames."""
    text = data["text/plain"]
    content = base64.b64decode(data[PNG])
    path = source / "_static" / "pictures" / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with Image.open(path) as image:
        size = f'width="{image.width}" height="{image.height}"'
    picture = (
        f'<img class="course-picture" loading="lazy" src="_static/pictures/{number}.png" {size} alt="{_quoted(text)}">'
    )
    if WIDGET not in data or key(text) not in drawn:
        return f"<figure>{picture}</figure>"
    return f'<figure class="explorer" data-folder="{FRAMES}" data-frames="{key(text)}">{picture}</figure>'


def _quoted(text: str) -> str:
    return html.escape(text).replace("\n", "&#10;")


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    """Those with data."""
    return [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]


def prepare(notebook: NotebookNode, name: str, source: Path, drawn: set[str]) -> NotebookNode:
    """The notebook with outputs that a page can show."""
    count = 0
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.metadata["tags"] = ["remove-cell"]  # it looks for the installed course, which a page does not need
    for cell in notebook.cells:
        if any(Card.MIME in output.get("data", {}) for output in cell.get("outputs", [])):
            cell.metadata["tags"] = ["hide-input"]  # the code holds the answer
    for output in outputs(notebook):
        data = output["data"]
        if card := data.get(Card.MIME):
            still = f"<pre>{html.escape(data['text/plain'])}</pre>"
            shown = f'<div class="question" data-card="{_quoted(json.dumps(card))}">{still}</div>'
        elif PNG in data:
            count += 1
            shown = figure(data, f"{name}_{count}", source, drawn)
        else:
            data.pop(WIDGET, None)
            continue
        output["data"], output["metadata"] = nbformat.from_dict({"text/html": shown}), nbformat.from_dict({})
    return notebook


def frames(paths: list[Path], store: Path) -> None:
    """Draw what the sliders show, two notebooks at a time; what was drawn from the same files is kept."""
    package = (file for file in (ROOT / "adaln_lab").rglob("*.*") if file.is_file() and file.suffix != ".pyc")
    code = [*sorted(package), SITE / "frames.py"]  # code and weights

    def draw(path: Path) -> None:
        begun = time.perf_counter()
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in [path, *code])).hexdigest()
        folder = store / path.stem
        done = folder / "done"
        if not (done.exists() and done.read_text() == digest):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            env = os.environ | {"ADALN_LAB_HOME": str(folder / "home"), "IPYTHONDIR": str(folder / "ipython")}
            env |= {"OMP_NUM_THREADS": "1", "ADALN_LAB_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
            if subprocess.run([sys.executable, SITE / "frames.py", path, folder], env=env).returncode:
                raise SystemExit(f"pages: the sliders of {path.name} could not be drawn, see above")
            done.write_text(digest)
        size = sum(file.stat().st_size for file in folder.glob("*.js")) / 1e6
        print(f"{time.perf_counter() - begun:6.1f} s  sliders of {path.stem}: {size:.1f} MB", flush=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(draw, paths))


def section_link(name: str, words: str) -> str:
    """The page of notebook `name`, at the section whose title contains `words` if there is one."""
    (path,) = NOTEBOOKS.glob(f"{name}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
            if words and line.startswith("##") and words in line:
                return f"{path.stem}.html#{slug(line.lstrip('# '))}"
    return f"{path.stem}.html"


def slug(title: str) -> str:
    """The name of a heading on its page, as docutils makes it."""
    return re.sub(r"^[^a-z]+|[^a-z0-9]+$", "", re.sub(r"[^a-z0-9]+", "-", title.lower()))


def bundle() -> str:
    """The modules in one script: a page opened as a file may not import."""
    code = "\n".join((SITE / "playground" / name).read_text(encoding="utf8") for name in MODULES)
    code = re.sub(r"^(import .*|export \{.*)$", "", code, flags=re.M)
    return '"use strict";\n(() => {\n' + re.sub(r"^export ", "", code, flags=re.M) + "})();\n"


def parity_sentence() -> str:
    if parity.node() is None:
        return "When these pages were built, no Node was there to compare the JavaScript with torch."
    found = parity.differences(shipped_model())
    if max(found.values()) > parity.TOLERANCE:
        raise SystemExit(f"pages: the JavaScript model does not equal torch's: {found}")
    values = ", ".join(f"{name} {value:.0e}" for name, value in found.items() if name not in ("noise", "times"))
    return (
        f"Checked on {datetime.date.today():%d %B %Y}: on the same float16 weights this JavaScript and torch agree, "
        f"for every digit and for 110 pictures and times. Largest differences: {values}."
    )


def playground(source: Path) -> None:
    folder = source / "_static" / "playground"
    weights.write_all(folder)
    for name in (*MODULES, "playground.css"):
        shutil.copy(SITE / "playground" / name, folder)
    (folder / "playground.js").write_text(bundle(), encoding="utf8")
    sheet(folder / "sheet.png")
    text = (SITE / "playground" / "page.html").read_text(encoding="utf8")
    text = re.sub(r'href="(\d\d)#([^"]*)"', lambda found: f'href="{section_link(*found.groups())}"', text)
    text = text.replace("{parity}", parity_sentence())
    (source / "playground.md").write_text(
        "# A DiT that draws digits in this page\n\n"
        "```{raw} html\n"
        '<link rel="stylesheet" href="_static/playground/playground.css">\n'
        f'{text}\n<script defer src="_static/playground/playground.js"></script>\n```\n',
        encoding="utf8",
    )


@torch.inference_mode()
def sheet(path: Path) -> None:
    """What the model draws, for a page without JavaScript."""
    model, times, y = shipped_model(), time_grid(6), torch.arange(10)
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    states = [x for _, x in euler(guided(model, y, times, 2), noise, times)]
    grid = picture_grid(torch.stack(states, 1).flatten(0, 1), columns=7, gap=1)
    image = Image.fromarray((255 * grid).astype("uint8"))
    image.resize((8 * image.width, 8 * image.height), Image.Resampling.NEAREST).save(path)


def first_lines(notebook: NotebookNode) -> tuple[str, str]:
    """The question that is the title, and what the reader will be able to do."""
    title, *rest = notebook.cells[0].source.split("\n\n")
    return title.lstrip("# "), " ".join(rest[0].replace("**", "").split()) if rest else ""


def template(name: str, **parts: list[str]) -> str:
    """A file of this folder, with each line that is the name of a part replaced by its lines."""
    text = (SITE / name).read_text(encoding="utf8")
    for part, lines in parts.items():
        text = re.sub(rf"^{part}$", lambda _, lines=lines: "\n".join(lines), text, flags=re.M)
    return text


def write_source(source: Path, moving: tuple[str, ...], store: Path) -> None:
    """All that Sphinx reads. Sliders move in notebooks whose name starts with one of `moving`."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    shutil.rmtree(source, ignore_errors=True)
    static = source / "_static"
    shutil.copytree(SITE / "static", static)
    shutil.copy(SITE / "conf.py", source)
    drawn_folder = source / FRAMES
    drawn_folder.mkdir()
    with_sliders = [path for path in paths if path.name.startswith(moving)]
    frames(with_sliders, store)
    for path in with_sliders:
        shown = {key(output["data"].get("text/plain", "")) for output in outputs(nbformat.read(path, as_version=4))}
        for file in (store / path.stem).glob("*.js"):
            if file.stem not in shown:
                raise SystemExit(
                    f"pages: a slider of {path.name} is not the stored one: make notebooks ONLY={path.stem[:2]}"
                )
            shutil.copy(file, drawn_folder)
    drawn = {file.stem for file in drawn_folder.glob("*.js")}

    mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    (static / "mathjax").mkdir()
    shutil.copy(mathjax / "tex-svg-full.js", static / "mathjax")

    readme = (ROOT / "README.md").read_text(encoding="utf8")
    titles = {stem: title for title, stem in re.findall(r"\[(\d\d [^]]+)\]\(notebooks/(\w+)\.ipynb\)", readme)}
    rows, lines, pages = [], [], []
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        question, able = first_lines(notebook)
        title = titles.get(path.stem, path.stem.replace("_", " "))
        rows.append(f"| [{title}]({path.name}) | {question} |")
        lines.append(f"- [{title}]({path.stem}.html): {question} {able}")
        pages.append(f"{title} <{path.stem}>")
        nbformat.write(prepare(notebook, path.stem, source, drawn), source / path.name)
    for name in TEXTS:
        shutil.copy(NOTEBOOKS / f"{name}.md", source)
    shutil.copy(ROOT / "adaln_lab" / "assets" / "README.md", source / "cards.md")
    (source / "index.md").write_text(template("index.md", ROWS=rows, NOTEBOOKS=pages), encoding="utf8")
    (source / "extra").mkdir()
    (source / "extra" / "llms.txt").write_text(template("llms.txt", NOTEBOOKS=lines), encoding="utf8")
    playground(source)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument(
        "--sliders",
        nargs="*",
        default=[""],
        help="only these notebooks' sliders move, e.g. 03: quicker, to look at words",
    )
    chosen = parser.parse_args(arguments)
    if importlib.util.find_spec("sphinx-mathjax-offline") is None:
        parser.error("what writes the pages is not installed: make site, or pip install -e .[site]")
    begun, out = time.perf_counter(), chosen.out.resolve()
    source = out.with_name(out.name + "_source")
    write_source(source, tuple(chosen.sliders), out.with_name(out.name + "_frames"))
    shutil.rmtree(out, ignore_errors=True)
    flags = ["-q", "-E", "-W", "--keep-going", "-d"]
    command = [sys.executable, "-m", "sphinx", *flags, out.with_name(out.name + "_trees"), source, out]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    address = {"ADALN_LAB_REPOSITORY": project.get("urls", {}).get("Repository", "")}  # `make address` writes it
    if subprocess.run(command, env=os.environ | address).returncode:
        raise SystemExit("pages: Sphinx has complaints, see above")
    print(f"{time.perf_counter() - begun:6.1f} s  all pages. Open {out / 'index.html'}")


if __name__ == "__main__":
    main()
