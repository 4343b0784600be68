"""Notebooks with their stubs filled in, as a reader leaves them who copies the solutions."""

import ast
import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from adaln_lab.exercises.core import EXERCISES, source


def stubs(nb: NotebookNode) -> dict[str, NotebookNode]:
    """Name -> cell, for each cell that defines an exercise's function without writing it, and checks it."""
    found = {}
    for cell in nb.cells:
        if cell.cell_type == "code" and "check(" in cell.source:
            calls = [ast.unparse(node) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
            for name, node in _functions(cell.source).items():
                body = [ast.unparse(statement) for statement in node.body[ast.get_docstring(node) is not None :]]
                if f"check('{name}', {name})" in calls and body == ["..."]:
                    found[name] = cell
    return found


def copy_solved(path: Path, target: Path) -> list[str]:
    """Write a copy that holds the solutions; the names of the exercises."""
    nb = nbformat.read(path, as_version=4)
    found = stubs(nb)
    for name, cell in found.items():
        node, lines = _functions(cell.source)[name], cell.source.splitlines()
        lines[node.lineno - 1 : node.end_lineno] = source(EXERCISES[name].solution).splitlines()
        cell.source = "\n".join(lines)
    nbformat.write(nb, target)
    return list(found)


def refused(names: list[str], home: Path) -> list[str]:
    """Those of the names that no check has accepted, by the progress that it keeps."""
    progress = json.loads((home / "progress.json").read_text())
    return [name for name in names if not progress.get(name, {}).get("solved")]


def _functions(code: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
