"""The static guard: what must be true of every committed notebook, read from the file without running it.

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
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
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
        if "get_ipython()" in python(cell) and "nbval-ignore-output" not in tags(cell)
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


def rule_widgets_have_pictures(nb: NotebookNode) -> list[str]:
    """Where no kernel runs (GitHub, print), the picture and its text are all that is left of a slider."""
    widgets = [data for data in bundles(nb) if WIDGET in data]
    found = ["a widget without text/plain" for data in widgets if not data.get("text/plain", "").strip()]
    if not any("image/png" in data for data in widgets):
        found.append("no widget with an image/png beside it")
    return found


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


@pytest.fixture
def nb() -> NotebookNode:
    slider = {WIDGET: {"model_id": "0"}, "image/png": png("white", "black"), "text/plain": "scale 0.0: a flat line"}
    v4 = nbformat.v4
    title = "# Who sets the scale?\n\n10 minutes on a CPU, 5 on a GPU. Needs notebook 00."
    cells = [v4.new_markdown_cell(title)]
    cells += [v4.new_code_cell(f"x = {n}", execution_count=n) for n in range(1, 8)]
    cells[1].source = 'Slider("scale", -1.0, 1.0, 0.1, 0.0)'
    cells[-1].outputs = [v4.new_output("display_data", slider), v4.new_output("stream", name="stdout", text="ok\n")]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def source(text: str, cell: int = -1) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[cell].update(source=text)


def data(mime: str, content: str) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[-1].outputs[0].data.update({mime: content})


def stream(**content: str) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[-1].outputs[1].update(content)


def tag(*names: str, cells: int = 1) -> Callable[[NotebookNode], None]:
    return lambda nb: [cell.metadata.update(tags=list(names)) for cell in nb.cells[-cells:]]


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
    (rule_widgets_have_pictures, lambda nb: nb.cells[-1].outputs[0].data.pop("image/png")),
    (rule_widgets_have_pictures, lambda nb: nb.cells[-1].outputs[0].data.pop(WIDGET)),
    (rule_widgets_have_pictures, data("text/plain", " ")),
    (rule_has_a_slider, source("# Slider() is only named here", cell=1)),
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


@pytest.mark.parametrize("page", ["README.md", "notebooks/00_start_here.ipynb"])
def test_the_map_names_every_notebook(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf8")
    for path in NOTEBOOKS:
        assert path.name in text or page.endswith(path.name), f"{page} does not mention {path.name}"
