"""Every notebook, solved: each stub filled with its solution, as a reader does who copies it, and run to the end."""

import ast
import json
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from run_notebooks import NOTEBOOKS, run

from adaln_lab.exercises.core import EXERCISES, source

PATHS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def stubs(nb: NotebookNode) -> dict[str, NotebookNode]:
    """Name -> cell, for each cell that defines an exercise's function without writing it, and checks it."""
    found = {}
    for cell in nb.cells:
        if cell.cell_type == "code" and "check(" in cell.source:
            calls = [ast.unparse(node) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
            for name, node in functions(cell.source).items():
                body = [ast.unparse(statement) for statement in node.body[ast.get_docstring(node) is not None :]]
                if f"check('{name}', {name})" in calls and body == ["..."]:
                    found[name] = cell
    return found


def functions(code: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


def solve(name: str, cell: NotebookNode) -> None:
    node, lines = functions(cell.source)[name], cell.source.splitlines()
    lines[node.lineno - 1 : node.end_lineno] = source(EXERCISES[name].solution).splitlines()
    cell.source = "\n".join(lines)


def printed(cell: NotebookNode) -> list[str]:
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout").splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_solved_notebook_runs_and_every_check_says_ok(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder and with an empty home: a notebook needs nothing that lies about."""
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    nb = nbformat.read(path, as_version=4)
    names = list(stubs(nb))
    for name, cell in stubs(nb).items():
        solve(name, cell)
    nbformat.write(nb, tmp_path / path.name)
    done = run(tmp_path / path.name)  # raises if a cell does
    said = [line for cell in done.cells if cell.cell_type == "code" for line in printed(cell)]
    answers = {name: [line for line in said if f": {name}: " in line] for name in names if f"ok: {name}" not in said}
    assert answers == {}
    if names:
        progress = json.loads((tmp_path / "home" / "progress.json").read_text())
        assert [name for name in names if not progress[name]["solved"]] == []


def test_each_exercise_is_a_stub_in_its_notebook_and_in_no_other() -> None:
    """In the notebooks' own order, since `progress` names the next one by it."""
    asked = [(name, path.name[:2]) for path in PATHS for name in stubs(nbformat.read(path, as_version=4))]
    parts = [(name, exercise.solution.__module__[-2:]) for name, exercise in EXERCISES.items()]  # part05 -> 05
    assert asked == sorted(parts, key=lambda part: part[1])


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_stored_unsolved(path: Path) -> None:
    for name, cell in stubs(nbformat.read(path, as_version=4)).items():
        assert any(line.startswith(f"to do: {name}: ") for line in printed(cell)), name
