"""The static guard: what must be true of every committed notebook, read from the file without running it.

Many readers meet a notebook with nothing running: on GitHub, on nbviewer, in print. The second half of the rules keeps
it readable there, and tests/browser/test_reading.py asks real renderers.

A rule is a function `rule_*(nb)` that returns its complaints, an empty list when all is well. Running the notebooks is
nbval's work (`make test`). The second half of this file proves that each rule can refuse.
"""

import ast
import base64
import copy
import functools
import io
import json
import re
import statistics
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import maths
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from ledger import NO_TEXT
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["urls"]["Repository"]
COLAB = ADDRESS.replace("https://github.com/", "https://colab.research.google.com/github/") + "/blob/main/notebooks/"
FETCH = f"""import sys

if "google.colab" in sys.modules:  # a notebook that came alone: fetch the course
    %pip install --quiet git+{ADDRESS}"""
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|Users|work|private/var)/|[A-Z]:\\+Users")


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(nb: NotebookNode) -> Iterator[NotebookNode]:
    return (output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs)


def bundles(nb: NotebookNode) -> Iterator[dict]:
    """The data of everything displayed: MIME type -> content."""
    return (output.data for output in outputs(nb) if "data" in output)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def python(cell: NotebookNode) -> str:
    """The cell as Python, with magics and shell lines turned into calls of get_ipython()."""
    return TransformerManager().transform_cell(cell.source)


def rule_is_valid(nb: NotebookNode) -> list[str]:
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        return [error.message]
    return []


def rule_kernel_is_python3(nb: NotebookNode) -> list[str]:
    name = nb.metadata.get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"the kernel must be python3, not {name}"]


def rule_executed_in_order(nb: NotebookNode) -> list[str]:
    counts = [cell.execution_count for cell in code_cells(nb)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"executed in the order {counts}: make notebooks"]


def rule_no_widget_state(nb: NotebookNode) -> list[str]:
    """With stored state, an offline page waits for a CDN and shows nothing instead of the picture."""
    return ["metadata.widgets is stored"] if "widgets" in nb.metadata else []


def rule_no_error(nb: NotebookNode) -> list[str]:
    found = [f"a cell raised {output.ename}" for output in outputs(nb) if output.output_type == "error"]
    return found + [f"tag {tag}" for cell in nb.cells for tag in tags(cell) if tag.endswith("raises-exception")]


def rule_no_stderr(nb: NotebookNode) -> list[str]:
    return [f"stored stderr: {output.text[:80]!r}" for output in outputs(nb) if output.get("name") == "stderr"]


def rule_nothing_skipped(nb: NotebookNode) -> list[str]:
    """Markers are tags, which readers do not see, and nbval-skip is not among them."""
    found = ["tag nbval-skip" for cell in nb.cells if "nbval-skip" in tags(cell)]
    return found + [f"marker {m}" for cell in nb.cells for m in re.findall(r"#\s*(NBVAL_\w+)", cell.source)]


def rule_few_ignored_outputs(nb: NotebookNode) -> list[str]:
    cells = code_cells(nb)
    ignored = sum("nbval-ignore-output" in tags(cell) for cell in cells)
    return (
        [f"{ignored} of {len(cells)} outputs are ignored, at most one in seven may be"]
        if ignored * 7 > len(cells)
        else []
    )


def rule_shell_is_tagged(nb: NotebookNode) -> list[str]:
    return [
        f"% or ! without the tag nbval-ignore-output: {cell.source[:60]!r}"
        for cell in code_cells(nb)
        if "get_ipython()" in python(cell) and cell.source != FETCH and "nbval-ignore-output" not in tags(cell)
    ]


def rule_no_machine_path(nb: NotebookNode) -> list[str]:
    texts = [cell.source for cell in nb.cells]
    texts += [json.dumps({k: v for k, v in data.items() if not k.startswith("image/")}) for data in bundles(nb)]
    texts += [output.get("text", "") for output in outputs(nb)]
    return [f"machine path {match[0]}" for text in texts for match in MACHINE_PATH.finditer(text)]


def rule_reads_no_file_itself(nb: NotebookNode) -> list[str]:
    """Files come from the package: a path in a notebook breaks as soon as the notebook is opened elsewhere."""
    found = []
    for cell in code_cells(nb):
        for call in (node for node in ast.walk(ast.parse(python(cell))) if isinstance(node, ast.Call) and node.args):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            path = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
            if isinstance(path, str) and (
                name in ("open", "Path") or (name in ("load", "load_file", "imread") and Path(path).suffix)
            ):
                found.append(f"{name}({path!r})")
    return found


def rule_is_small(nb: NotebookNode) -> list[str]:
    size = len(nbformat.writes(nb).encode())
    return [f"{size / 1e6:.2f} MB, must be under 1 MB"] if size >= 1_000_000 else []


def rule_cells_are_short(nb: NotebookNode) -> list[str]:
    lines = [len(cell.source.splitlines()) for cell in code_cells(nb)] or [0]
    found = [f"a code cell of {n} lines, at most 40" for n in lines if n > 40]
    if (median := statistics.median(lines)) > 8:
        found.append(f"the median code cell has {median} lines, at most 8")
    if sum(n > 25 for n in lines) * 10 > len(lines):
        found.append("more than one code cell in ten has over 25 lines")
    return found


def rule_has_title(nb: NotebookNode) -> list[str]:
    first = nb.cells[0]
    good = first.cell_type == "markdown" and first.source.startswith("# ")
    return [] if good else ["the first cell must be Markdown and start with '# '"]


def rule_title_asks(nb: NotebookNode) -> list[str]:
    title = nb.cells[0].source.partition("\n")[0].rstrip()
    return [] if title.endswith("?") else [f"the title must be a question: {title!r}"]


def rule_says_cost_and_needs(nb: NotebookNode) -> list[str]:
    """E.g. "Minutes: 20 on a CPU, 15 on a GPU. Needs notebook 02." in one of the first two cells."""
    lines = [line for cell in nb.cells[:2] for line in cell.source.splitlines()]
    found = []
    if not any(
        all(re.search(rf"\b{word}", line, re.I) for word in (r"minutes\b", r"\d", "CPU", "GPU")) for line in lines
    ):
        found.append("the first two cells need a line with the minutes on CPU and GPU")
    if not any(re.search(r"\bneeds?\b", line, re.I) for line in lines):
        found.append("the first two cells need a line that says what the notebook needs")
    return found


# To be read with nothing running


def prose(nb: NotebookNode) -> Iterator[str]:
    """The Markdown of each cell without code, in which # and $ mean something else."""
    return (NO_TEXT.sub("", cell.source) for cell in nb.cells if cell.cell_type == "markdown")


def rule_headings_form_an_outline(nb: NotebookNode) -> list[str]:
    """JupyterLab, Colab and screen readers make the table of contents of them."""
    heads = [found for text in prose(nb) for found in re.findall(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t#]*$", text, re.M)]
    levels, texts = [len(signs) for signs, _ in heads], [text for _, text in heads]
    found = [] if levels[:1] == [1] and levels.count(1) == 1 else ["one heading has one #: the title, above all others"]
    deeper = zip(levels, levels[1:], texts[1:], strict=False)
    found += [f"{text!r} skips a level" for above, level, text in deeper if level > above + 1]
    found += [f"two headings say {text!r}" for text, count in Counter(texts).items() if count > 1]
    found += [f"{text!r} says too little" for text in texts if len(text.split()) < 2]
    found += [f"{text!r}: a table of contents may show TeX as it is" for text in texts if "$" in text]
    numbers = [int(n) for signs, text in heads for n in re.findall(r"^(\d+)\. ", text) if signs == "##"]
    return found + ([] if numbers == list(range(1, len(numbers) + 1)) else [f"sections are numbered {numbers}"])


def rule_formulas_render_everywhere(nb: NotebookNode) -> list[str]:
    shown = (data["text/markdown"] for data in bundles(nb) if "text/markdown" in data)
    return [complaint for text in (*prose(nb), *shown) for complaint in maths.complaints(text)]


def rule_links_resolve(nb: NotebookNode) -> list[str]:
    """To files beside the notebook, not to places in them, which JupyterLab, GitHub and nbviewer spell differently."""
    targets = [target for text in prose(nb) for target in re.findall(r"\]\(([^)]*)\)", text)]
    beside = {path.name for path in (ROOT / "notebooks").iterdir()}
    return [f"no file of notebooks/: {t!r}" for t in targets if t not in beside and not t.startswith("https://")]


def rule_pictures_in_the_text_have_words(nb: NotebookNode) -> list[str]:
    """And need no network: a badge from another server is a hole in an offline page."""
    texts = list(prose(nb))
    found = [f"no alt text: {match}" for text in texts for match in re.findall(r"!\[\s*\]\S*", text)]
    found += [f"from the network: {match}" for text in texts for match in re.findall(r"!\[[^]]*\]\(http\S*", text)]
    return found + [f"write ![words](file): {match}" for text in texts for match in re.findall(r"<img\b[^>]*", text)]


def rule_glossary_is_at_hand(nb: NotebookNode) -> list[str]:
    line = f"**Letters and terms:** [glossary](glossary.md). Nothing installed here? [Open in Colab]({COLAB}"
    return [] if f"\n\n{line}" in nb.cells[0].source else [f"the first cell needs a paragraph {line}..."]


def rule_colab_cell_is_guarded(nb: NotebookNode) -> list[str]:
    """The first code cell fetches the package where the notebook came alone, and does nothing anywhere else."""
    first = code_cells(nb)[0]
    return [] if first.source == FETCH and not first.outputs else [f"the first code cell must be\n{FETCH}"]


def rule_widgets_have_pictures(nb: NotebookNode) -> list[str]:
    """The picture and its text are all that is left of a slider; of a guess, its question and its options."""
    widgets = [data for data in bundles(nb) if WIDGET in data]
    texts = [data.get("text/plain", "").strip() for data in widgets]
    found = ["a widget without text/plain" for text in texts if not text]
    bare = [t for d, t in zip(widgets, texts, strict=True) if "image/png" not in d and not t.startswith("Your guess: ")]
    found += [f"a widget without an image/png beside it: {text!r}" for text in bare]
    return found + ([] if any("image/png" in data for data in widgets) else ["no widget with an image/png beside it"])


def rule_pictures_have_alt_texts(nb: NotebookNode) -> list[str]:
    """In words about this one picture: no repr, and no other picture's; also in the metadata, where nbconvert looks."""
    pictures = [out for out in outputs(nb) if any(mime.startswith("image/") for mime in out.get("data", {}))]
    texts = [out.data.get("text/plain", "") for out in pictures]
    found = [f"no alt text: {t!r}" for t in texts if len(t.split()) < 5 or re.match(r"<|b?['\"]|[\w.]+\(", t)]
    different = {(text, out.data.get("image/png")) for text, out in zip(texts, pictures, strict=True)}
    uses = Counter(text for text, _ in different)
    found += [f"two pictures have the alt text {text!r}" for text, count in uses.items() if count > 1]
    kept = [[values.get("alt") for mime, values in out.metadata.items() if "image/" in mime] for out in pictures]
    return found + [
        f"another alt text in the metadata: {k}" for k, text in zip(kept, texts, strict=True) if k != [text]
    ]


def rule_letters_are_large_enough(nb: NotebookNode) -> list[str]:
    """8 points are 11 pixels, if the page is as wide as the picture."""
    sizes = re.findall(r"\b(?:font)?size=[1-7](?:\.\d+)?\b", "\n".join(cell.source for cell in code_cells(nb)))
    return [f"letters of 8 points or more, not {size}" for size in sizes]


def rule_has_a_slider(nb: NotebookNode) -> list[str]:
    """Every notebook lets the reader move what it teaches."""
    nodes = [node for cell in code_cells(nb) for node in ast.walk(ast.parse(python(cell)))]
    called = {getattr(node.func, "id", "") for node in nodes if isinstance(node, ast.Call)}
    return [] if "Slider" in called else ["no Slider"]


def rule_pictures_show_something(nb: NotebookNode) -> list[str]:
    found = []
    for png in (data["image/png"] for data in bundles(nb) if "image/png" in data):
        try:
            picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
        except (ValueError, OSError) as error:
            found.append(f"a picture does not decode: {error}")
            continue
        if all(low == high for low, high in picture.getextrema()):
            found.append("a picture is all of one colour")
    return found


Rule = Callable[[NotebookNode], list[str]]
RULES: list[Rule] = [function for name, function in list(globals().items()) if name.startswith("rule_")]
EXEMPT = {("00_start_here", "rule_title_asks")}  # the door of the course greets


@functools.cache
def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps(path: Path, rule: Rule) -> None:
    if (path.stem, rule.__name__) not in EXEMPT:
        assert rule(read(path)) == []


# The guard's own test: one good notebook passes every rule, and every rule refuses at least one way to spoil it.


def png(*colours: str) -> str:
    strip = Image.new("RGB", (len(colours), 1))
    for x, colour in enumerate(colours):
        strip.paste(colour, (x, 0, x + 1, 1))
    buffer = io.BytesIO()
    strip.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


TITLE = f"""# Who sets the scale?

10 minutes on a CPU, 5 on a GPU. Needs notebook 00.

**Letters and terms:** [glossary](glossary.md). Nothing installed here? [Open in Colab]({COLAB}01_x.ipynb).

## 1. One line

$x \\odot s$"""


@pytest.fixture
def nb() -> NotebookNode:
    alt = "At scale 0.0 a flat line."
    slider = {WIDGET: {"model_id": "0"}, "image/png": png("white", "black"), "text/plain": alt}
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell(TITLE), v4.new_code_cell(FETCH, execution_count=1)]
    cells += [v4.new_code_cell(f"x = {n}", execution_count=n) for n in range(2, 8)]
    cells[2].source = 'Slider("scale", -1.0, 1.0, 0.1, 0.0)'
    shown = v4.new_output("display_data", slider, metadata={"image/png": {"alt": alt}})
    cells[-1].outputs = [shown, v4.new_output("stream", name="stdout", text="ok\n")]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def source(text: str, cell: int = -1) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[cell].update(source=text)


def data(mime: str, content: str) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[-1].outputs[0].data.update({mime: content})


def stream(**content: str) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[-1].outputs[1].update(content)


def tag(*names: str, cells: int = 1) -> Callable[[NotebookNode], None]:
    return lambda nb: [cell.metadata.update(tags=list(names)) for cell in nb.cells[-cells:]]


def add(text: str) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell(text))


def twice(mime: str, content: str | None) -> Callable[[NotebookNode], None]:
    """The output once more, but for one part of it."""

    def spoil(nb: NotebookNode) -> None:
        again = copy.deepcopy(nb.cells[-1].outputs[0])
        again.data.pop(mime) if content is None else again.data.update({mime: content})
        nb.cells[-1].outputs.append(again)

    return spoil


UNSAFE = [
    "It costs $5.",
    r"$$\newcommand{\lr}[1]{#1}$$",
    r"$\operatorname{LN}(x)$",
    r"$\frac{a}{b$ and $c}$",
    r"$\left(a)$",
    r"$$\begin{pmatrix} a$$",
    r"$$a \\ b$$",
    "$$a$$ and more",
    "- first\n- $$a$$",
    "> $$a$$",
    "$$a\n\nb$$",
    "$ a$",
    "$a\n+ b$",
    "the $n$th step",
    "$`a`$",
    "$a<b$",
    "$[a](b)$",
    "| $|x|$ |\n|---|\n",
    "[$x$](glossary.md)",
]
HOME = "/".join(["", "home", "ada", "x.png"])
SPOILED: list[tuple[Rule, Callable[[NotebookNode], object]]] = [
    (rule_is_valid, lambda nb: nb.cells[-1].outputs[0].update(transient={"display_id": "1"})),
    (rule_kernel_is_python3, lambda nb: nb.metadata.kernelspec.update(name="my-env")),
    (rule_kernel_is_python3, lambda nb: nb.metadata.pop("kernelspec")),
    (rule_executed_in_order, lambda nb: nb.cells[-1].update(execution_count=9)),
    (rule_executed_in_order, lambda nb: [c.update(execution_count=None, outputs=[]) for c in code_cells(nb)]),
    (rule_no_widget_state, lambda nb: nb.metadata.update(widgets={})),
    (rule_no_error, lambda nb: nb.cells[2].outputs.append(nbformat.v4.new_output("error", ename="E", evalue=""))),
    (rule_no_error, tag("raises-exception")),
    (rule_no_error, tag("nbval-raises-exception")),
    (rule_no_stderr, stream(name="stderr")),
    (rule_nothing_skipped, tag("nbval-skip")),
    (rule_nothing_skipped, source("# NBVAL_IGNORE_OUTPUT\nx = 7")),
    (rule_few_ignored_outputs, tag("nbval-ignore-output", cells=2)),
    (rule_shell_is_tagged, source("!ls")),
    (rule_shell_is_tagged, source("if True:\n    %timeit x")),
    (rule_no_machine_path, source(f"x = '{HOME}'")),
    (rule_no_machine_path, source(f"See {HOME}.", cell=0)),
    (rule_no_machine_path, data("text/plain", HOME)),
    (rule_no_machine_path, stream(text=f"saved {HOME}")),
    (rule_no_machine_path, stream(text=r"saved C:" + r"\Users\ada")),
    (rule_reads_no_file_itself, source("text = open('data.txt').read()")),
    (rule_reads_no_file_itself, source("p = Path('../adaln_lab')")),
    (rule_reads_no_file_itself, source("w = torch.load('model.pt')")),
    (rule_is_small, stream(text="x" * 1_000_000)),
    (rule_cells_are_short, source("x\n" * 41)),
    (rule_cells_are_short, lambda nb: [cell.update(source="x\n" * 9) for cell in nb.cells]),
    (rule_cells_are_short, lambda nb: [cell.update(source="x\n" * 26) for cell in nb.cells[-2:]]),
    (rule_has_title, source("Who sets the scale?", cell=0)),
    (rule_has_title, lambda nb: nb.cells.pop(0)),
    (rule_title_asks, source("# The scale\n\nWho sets it?", cell=0)),
    (rule_says_cost_and_needs, source("# Who?\n\n10 minutes. Needs notebook 00.", cell=0)),
    (rule_says_cost_and_needs, source("# Who?\n\nMinutes on a CPU, less on a GPU.\n\nNeeds notebook 00.", cell=0)),
    (rule_says_cost_and_needs, source("# Who?\n\n10 minutes on a CPU, 5 on a GPU.", cell=0)),
    (rule_headings_form_an_outline, add("# Another title")),
    (rule_headings_form_an_outline, add("#### Three levels down")),
    (rule_headings_form_an_outline, add("## 1. One line")),
    (rule_headings_form_an_outline, add("## 3. Three, not two")),
    (rule_headings_form_an_outline, add("## Data")),
    (rule_headings_form_an_outline, add("## Why $1 + s$?")),
    (
        rule_headings_form_an_outline,
        lambda nb: nb.cells.insert(0, nbformat.v4.new_markdown_cell("## Before the title")),
    ),
    *[(rule_formulas_render_everywhere, add(text)) for text in UNSAFE],
    (rule_links_resolve, add("See [02](02_adaln_old.ipynb).")),
    (rule_links_resolve, add("See [02](02_adaln.ipynb#the-concierge).")),
    (rule_links_resolve, add("See [above](#1-one-line).")),
    (rule_links_resolve, add("See [the package](../adaln_lab/norms.py).")),
    (rule_pictures_in_the_text_have_words, add("![](gate.png)")),
    (rule_pictures_in_the_text_have_words, add("![a badge](https://example.org/badge.svg)")),
    (rule_pictures_in_the_text_have_words, add('<img src="gate.png">')),
    (rule_glossary_is_at_hand, source(TITLE.replace("glossary.md", "notes.md"), cell=0)),
    (rule_glossary_is_at_hand, source(TITLE.replace(COLAB, "https://example.org/"), cell=0)),
    (rule_colab_cell_is_guarded, source("%pip install adaln-lab", cell=1)),
    (rule_colab_cell_is_guarded, lambda nb: nb.cells.pop(1)),
    (rule_pictures_have_alt_texts, data("text/plain", "<Figure size 600x300 with 2 Axes>, drawn here")),
    (rule_pictures_have_alt_texts, data("text/plain", "A line.")),
    (rule_pictures_have_alt_texts, lambda nb: nb.cells[-1].outputs[0].metadata.clear()),
    (rule_pictures_have_alt_texts, twice("image/png", png("black", "white"))),
    (rule_widgets_have_pictures, twice("image/png", None)),
    (rule_widgets_have_pictures, lambda nb: nb.cells[-1].outputs[0].data.pop("image/png")),
    (rule_widgets_have_pictures, lambda nb: nb.cells[-1].outputs[0].data.pop(WIDGET)),
    (rule_widgets_have_pictures, data("text/plain", " ")),
    (rule_has_a_slider, source("# Slider() is only named here", cell=2)),
    (rule_formulas_render_everywhere, data("text/markdown", r"$$\operatorname{LN}(x)$$")),
    (rule_letters_are_large_enough, source("ax.legend(fontsize=7.5)")),
    (rule_pictures_show_something, data("image/png", png("white", "white"))),
    (rule_pictures_show_something, data("image/png", png("white", "black")[:40])),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_good_notebook_and_refuses_a_spoiled_one(rule: Rule, nb: NotebookNode) -> None:
    assert rule(nb) == []
    ways = [spoil for refusing, spoil in SPOILED if refusing is rule]
    assert ways, f"SPOILED has no notebook that {rule.__name__} must refuse"
    for spoil in ways:
        spoiled = copy.deepcopy(nb)
        spoil(spoiled)
        assert rule(spoiled), f"{rule.__name__} accepted way {ways.index(spoil)}"


def test_rules_accept_what_is_allowed(nb: NotebookNode) -> None:
    tag("nbval-ignore-output")(nb)
    source("!echo 1 in 7 may be ignored")(nb)
    assert [complaint for rule in RULES for complaint in rule(nb)] == []
    source('digits = datasets.load("digits")\ntext = f"""\n% no magic\n"""')(nb)
    assert rule_reads_no_file_itself(nb) == rule_shell_is_tagged(nb) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_with_exercises_imports_their_help(path: Path) -> None:
    """`check` tells the reader to call hint(...): the name must be there."""
    code = "\n".join(cell.source for cell in code_cells(read(path)))
    assert "check(" not in code or "import check, guess, hint, solution" in code


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_colab_opens_the_notebook_it_is_opened_from(path: Path) -> None:
    assert f"{COLAB}{path.name})" in read(path).cells[0].source


@pytest.mark.parametrize("page", ["README.md", "notebooks/00_start_here.ipynb"])
def test_the_map_names_every_notebook(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf8")
    for path in NOTEBOOKS:
        assert path.name in text or page.endswith(path.name), f"{page} does not mention {path.name}"
