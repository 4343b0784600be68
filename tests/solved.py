"""Notebooks with their exercises solved, as a reader leaves them who copies the solutions."""

import ast
import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from adaln_lab.exercises.core import EXERCISES, source
from adaln_lab.exercises.kinds import Kind


def stubs(nb: NotebookNode) -> dict[str, NotebookNode]:
    """Name -> cell, for each cell that checks an exercise and holds what the reader is to write, fill in or mend."""
    found = {}
    for cell in nb.cells:
        if cell.cell_type == "code" and "check(" in cell.source:
            calls = [ast.unparse(node) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
            for name, node in _definitions(cell.source).items():
                if f"check('{name}', {name})" in calls and (_is_stub(node) or isinstance(EXERCISES.get(name), Kind)):
                    found[name] = cell
    return found


def copy_solved(path: Path, target: Path) -> list[str]:
    """Write a copy that holds the solutions; the names of the exercises."""
    nb = nbformat.read(path, as_version=4)
    found = stubs(nb)
    for name, cell in found.items():
        node, lines, exercise = _definitions(cell.source)[name], cell.source.splitlines(), EXERCISES[name]
        text = exercise.shown() if isinstance(exercise, Kind) else source(exercise.solution)
        lines[node.lineno - 1 : node.end_lineno] = text.splitlines()
        cell.source = "\n".join(lines)
    nbformat.write(nb, target)
    return list(found)


def refused(names: list[str], home: Path) -> list[str]:
    """Those of the names that no check has accepted, by the progress that it keeps."""
    progress = json.loads((home / "progress.json").read_text())
    return [name for name in names if not progress.get(name, {}).get("solved")]


def _definitions(code: str) -> dict[str, ast.stmt]:
    """Functions, classes and values of a cell, by name; the last of a name."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and "check(" not in ast.unparse(node.value):
            found |= {ast.unparse(target): node for target in node.targets}
    return found


def _is_stub(node: ast.stmt) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return False
    return [ast.unparse(statement) for statement in node.body[ast.get_docstring(node) is not None :]] == ["..."]
