"""What must be true of every committed notebook, read from the file without running it.

A rule is a function `rule_*(nb)` that returns its complaints, an empty list when all is well. Running the notebooks is
nbval's work (`make test`). The second half of this file proves that each rule can refuse.
"""

import base64
import copy
import functools
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import maths
import nbformat
import pytest
from ledger import NO_TEXT
from nbformat import NotebookNode
from PIL import Image
from run_notebooks import METADATA, WIDGET

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|Users|work|private/var)/|[A-Z]:\\+Users")

spec = importlib.util.spec_from_file_location("address", ROOT / ".ci" / "address.py")
address = importlib.util.module_from_spec(spec)
spec.loader.exec_module(address)


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(nb: NotebookNode) -> list[NotebookNode]:
    return [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]


def bundles(nb: NotebookNode) -> list[dict]:
    """The data of everything displayed: MIME type -> content."""
    return [output.data for output in outputs(nb) if "data" in output]


def texts(nb: NotebookNode) -> Iterator[str]:
    """The Markdown of each cell without code, in which # and $ mean something else."""
    return (NO_TEXT.sub("", cell.source) for cell in nb.cells if cell.cell_type == "markdown")


def rule_is_valid(nb: NotebookNode) -> list[str]:
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        return [error.message]
    return []


def rule_metadata_are_the_same_everywhere(nb: NotebookNode) -> list[str]:
    """No kernel that another machine lacks; an extension for `nbconvert --to script`; and no state of widgets, with
    which an offline page waits for a CDN and shows nothing instead of the picture."""
    return [] if nb.metadata == METADATA else [f"metadata: {nb.metadata}"]


def rule_first_cell_says_where_the_course_is_missing(nb: NotebookNode) -> list[str]:
    first = code_cells(nb)[0]
    good = first.source == address.first_cell(address.known()) and not first.outputs
    return [] if good else ["the first code cell is not that of .ci/address.py"]


def rule_every_cell_succeeded_in_order(nb: NotebookNode) -> list[str]:
    counts = [cell.execution_count for cell in code_cells(nb)]
    found = [] if counts == list(range(1, len(counts) + 1)) else [f"executed in the order {counts}: make notebooks"]
    found += [f"a cell raised {output.ename}" for output in outputs(nb) if output.output_type == "error"]
    return found + [f"stderr: {output.text[:80]!r}" for output in outputs(nb) if output.get("name") == "stderr"]


def rule_outputs_are_compared(nb: NotebookNode) -> list[str]:
    """nbval must find what is stored again, in all but one cell in seven."""
    tags = [tag for cell in nb.cells for tag in cell.metadata.get("tags", [])]
    found = [tag for tag in tags if tag.endswith(("nbval-skip", "raises-exception"))]
    found += [marker for cell in nb.cells for marker in re.findall(r"#\s*NBVAL_\w+", cell.source)]
    ignored = tags.count("nbval-ignore-output")
    return found + ([f"{ignored} outputs are ignored"] if ignored * 7 > len(code_cells(nb)) else [])


def rule_no_machine_path(nb: NotebookNode) -> list[str]:
    places = [cell.source for cell in nb.cells] + [output.get("text", "") for output in outputs(nb)]
    places += [json.dumps({k: v for k, v in data.items() if not k.startswith("image/")}) for data in bundles(nb)]
    return [f"machine path {match[0]}" for text in places for match in MACHINE_PATH.finditer(text)]


def rule_is_small(nb: NotebookNode) -> list[str]:
    size = len(nbformat.writes(nb).encode())
    return [f"{size / 1e6:.2f} MB, must be under 1 MB"] if size >= 1_000_000 else []


def rule_links_resolve(nb: NotebookNode) -> list[str]:
    """To files beside the notebook, not to places in them, which JupyterLab, GitHub and nbviewer spell differently."""
    targets = [target for text in texts(nb) for target in re.findall(r"\]\(([^)]*)\)", text)]
    beside = {path.name for path in (ROOT / "notebooks").iterdir()}
    return [f"no file of notebooks/: {t!r}" for t in targets if t not in beside and not t.startswith("https://")]


def rule_formulas_render_everywhere(nb: NotebookNode) -> list[str]:
    shown = (data["text/markdown"] for data in bundles(nb) if "text/markdown" in data)
    return [complaint for text in (*texts(nb), *shown) for complaint in maths.complaints(text)]


def rule_exercises_have_their_help(nb: NotebookNode) -> list[str]:
    """`check` tells the reader to call hint(...): the name must be there."""
    code = "\n".join(cell.source for cell in code_cells(nb))
    return ["hint is not imported"] if "check(" in code and not re.search(r"import .*\bhint\b", code) else []


def rule_widgets_have_pictures(nb: NotebookNode) -> list[str]:
    """The picture and its text are all that is left of a slider without a kernel; of a card, its question."""
    widgets = [data for data in bundles(nb) if WIDGET in data]
    card = r"(Your guess|Your judgement|From notebook \d\d): "
    bare = [d for d in widgets if "image/png" not in d and not re.match(card, d.get("text/plain", ""))]
    return [f"a widget without a picture: {data.get('text/plain', '')!r}" for data in bare]


def rule_pictures_have_alt_texts(nb: NotebookNode) -> list[str]:
    """In words about this one picture: no repr, and no other picture's; also in the metadata, where nbconvert looks."""
    pictures = [out for out in outputs(nb) if any(mime.startswith("image/") for mime in out.get("data", {}))]
    alts = [out.data.get("text/plain", "") for out in pictures]
    found = [f"no alt text: {t!r}" for t in alts if len(t.split()) < 5 or re.match(r"<|b?['\"]|[\w.]+\(", t)]
    different = {(alt, out.data.get("image/png")) for alt, out in zip(alts, pictures, strict=True)}
    uses = Counter(alt for alt, _ in different)
    found += [f"two pictures have the alt text {alt!r}" for alt, count in uses.items() if count > 1]
    kept = [[values.get("alt") for mime, values in out.metadata.items() if "image/" in mime] for out in pictures]
    found += [f"another alt text in the metadata: {k}" for k, alt in zip(kept, alts, strict=True) if k != [alt]]
    in_text = [match for text in texts(nb) for match in re.findall(r"!\[\s*\]\S*|<img\b[^>]*", text)]
    return found + [f"write ![words](file): {match}" for match in in_text]


def rule_pictures_show_something(nb: NotebookNode) -> list[str]:
    found = []
    for png in (data["image/png"] for data in bundles(nb) if "image/png" in data):
        picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
        found += ["a picture is all of one colour"] * all(low == high for low, high in picture.getextrema())
    return found


Rule = Callable[[NotebookNode], list[str]]
RULES: list[Rule] = [function for name, function in list(globals().items()) if name.startswith("rule_")]


@functools.cache
def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps(path: Path, rule: Rule) -> None:
    assert rule(read(path)) == []


README_ROW = re.compile(r"^\| \[\d\d [^]]*\]\(notebooks/(\S+?)\.ipynb\) \| [^|]+ \| (\d+) \| [^|]+ \| (\d+) \|$", re.M)


def test_the_readme_gives_the_minutes_and_the_exercises_of_each_notebook() -> None:
    stated = README_ROW.findall((ROOT / "README.md").read_text(encoding="utf8"))
    found = []
    for path in NOTEBOOKS:
        minutes = re.search(r"\*\*Minutes:\*\* (?:about )?(\d+)", read(path).cells[0].source)[1]
        code = "\n".join(cell.source for cell in code_cells(read(path)))
        found.append((path.stem, minutes, str(len(re.findall(r'^(\w+) = check\("\1"', code, re.M)))))
    assert stated == found


def test_first_cell_under_a_wrong_kernel_names_the_python_and_the_remedy() -> None:
    """-S -E: an interpreter of this version that finds nothing installed."""
    command = [sys.executable, "-S", "-E", "-c", address.first_cell(None)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "notebooks")
    assert done.returncode == 1
    assert sys.executable in done.stderr and "Choose the kernel of its .venv" in done.stderr


# The guard's own test: one good notebook passes every rule, and every rule refuses each way to spoil it.


def png(*colours: str) -> str:
    strip = Image.new("RGB", (len(colours), 1))
    for x, colour in enumerate(colours):
        strip.paste(colour, (x, 0, x + 1, 1))
    buffer = io.BytesIO()
    strip.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def nb() -> NotebookNode:
    v4, alt = nbformat.v4, "At scale 0.0 a flat line."
    slider = {WIDGET: {"model_id": "0"}, "image/png": png("white", "black"), "text/plain": alt}
    shown = v4.new_output("display_data", slider, metadata={"image/png": {"alt": alt}})
    sources = [address.first_cell(address.known()), *(f"x = {n}" for n in range(2, 8))]
    code = [v4.new_code_cell(source, execution_count=n) for n, source in enumerate(sources, 1)]
    code[-1].outputs = [shown, v4.new_output("stream", name="stdout", text="ok\n")]
    text = v4.new_markdown_cell("# Who sets the scale?\n\nSee the [glossary](glossary.md): $x \\odot s$")
    return v4.new_notebook(cells=[text, *code], metadata=copy.deepcopy(METADATA))


Spoil = Callable[[NotebookNode], object]
HOME = "/".join(["", "home", "ada", "x.png"])


def text(source: str) -> Spoil:
    return lambda nb: nb.cells[0].update(source=source)


def code(source: str) -> Spoil:
    return lambda nb: nb.cells[-1].update(source=source)


def data(mime: str, content: object) -> Spoil:
    return lambda nb: nb.cells[-1].outputs[0].data.update({mime: content})


def stream(**content: str) -> Spoil:
    return lambda nb: nb.cells[-1].outputs[1].update(content)


def tag(name: str, cells: int = 1) -> Spoil:
    return lambda nb: [cell.metadata.update(tags=[name]) for cell in nb.cells[-cells:]]


def another_picture_of_the_same_name(nb: NotebookNode) -> None:
    nb.cells[-1].outputs.append(copy.deepcopy(nb.cells[-1].outputs[0]))
    data("image/png", png("black", "white"))(nb)


SPOILED: dict[Rule, list[Spoil]] = {
    rule_is_valid: [lambda nb: nb.cells[-1].outputs[0].update(transient={"display_id": "1"})],
    rule_metadata_are_the_same_everywhere: [
        lambda nb: nb.metadata.kernelspec.update(name="my-env"),
        lambda nb: nb.metadata.language_info.pop("file_extension"),
        lambda nb: nb.metadata.update(widgets={}),
    ],
    rule_first_cell_says_where_the_course_is_missing: [lambda nb: nb.cells.pop(1)],
    rule_every_cell_succeeded_in_order: [
        lambda nb: nb.cells[-1].update(execution_count=9),
        lambda nb: nb.cells[2].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="")),
        stream(name="stderr"),
    ],
    rule_outputs_are_compared: [
        tag("nbval-skip"), tag("nbval-raises-exception"), tag("nbval-ignore-output", cells=2),
        code("# NBVAL_IGNORE_OUTPUT\nx = 7"),
    ],
    rule_no_machine_path: [code(f"x = '{HOME}'"), text(HOME), data("text/plain", HOME), stream(text=f"saved {HOME}")],
    rule_is_small: [stream(text="x" * 1_000_000)],
    rule_links_resolve: [text("See [02](02_old.ipynb)."), text("See [above](#one-line).")],
    rule_formulas_render_everywhere: [
        text(r"$\operatorname{LN}(x)$"), text("$a<b$"), text("$[a](b)$"), text("| $|x|$ |\n|---|\n"), text("$ a$"),
        data("text/markdown", r"$$\newcommand{\lr}[1]{#1}$$"),
    ],
    rule_exercises_have_their_help: [code("check('norm', norm)")],
    rule_widgets_have_pictures: [lambda nb: nb.cells[-1].outputs[0].data.pop("image/png")],
    rule_pictures_have_alt_texts: [
        data("text/plain", "<Figure size 600x300 with 2 Axes>, drawn here"), text("![](gate.png)"),
        another_picture_of_the_same_name, lambda nb: nb.cells[-1].outputs[0].metadata.clear(),
    ],
    rule_pictures_show_something: [data("image/png", png("white", "white"))],
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_good_notebook_and_refuses_each_spoiled_one(rule: Rule, nb: NotebookNode) -> None:
    assert rule(nb) == []
    for number, spoil in enumerate(SPOILED[rule]):
        spoiled = copy.deepcopy(nb)
        spoil(spoiled)
        assert rule(spoiled), f"{rule.__name__} accepted way {number}"
