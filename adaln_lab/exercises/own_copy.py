"""The reader's own copy of the notebooks: a folder beside them, without outputs, to work in.

Stored outputs would spoil every prediction, and edits in `notebooks/` would stand in the way of `git pull`. A copy that
the reader has edited is never overwritten; one that was only run follows the course. Where both have changed, the new
version is laid beside the reader's. `.course.json` in the folder remembers which version each copy came from.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from adaln_lab.utils.files import atomic_write, write_json

STATE = ".course.json"
TELLS = re.compile(r"^(guess|judge)\(.*\banswer=", re.M | re.S)  # a cell whose code holds the answer


def update(course: Path, own: Path) -> list[str]:
    """Bring the copies in `own` up to date with `course`; one sentence for each new version that lies beside a copy."""
    notebooks = sorted(course.glob("[0-9]*.ipynb"))
    if not notebooks:
        raise ValueError(f"there are no notebooks in {course.absolute()}: run this in the folder of the course")
    if own.resolve() == course.resolve():
        raise ValueError(f"{own} holds the course itself: choose another folder for your copy")
    state = _state(own / STATE)
    for path in [*notebooks, *sorted(course.glob("*.md"))]:
        state[path.name] = _follow(path, own / path.name, state.get(path.name, {}))
    write_json(own / STATE, state)
    return [
        f"{new.name} is a new version of {new.name.partition('.')[0]}, which you have edited. Yours is unchanged: take "
        f"over what you like, then delete {new.name}."
        for new in sorted(own.glob("*.new*.*"))
    ]


def _follow(path: Path, copy: Path, before: dict[str, str]) -> dict[str, str]:
    """Copy one file, unless the reader has edited it. `from`: what the copy was made from; `seen`: the last version."""
    text = path.read_text(encoding="utf8")
    latest = fingerprint(text)
    if not copy.exists() or (own := _read(copy)) == latest or own == before.get("from"):
        if not copy.exists() or own != latest:
            _write(copy, text)
        return {"from": latest, "seen": latest}
    if latest != before.get("seen"):
        _write(_beside(copy, before.get("seen")), text)
    return before | {"seen": latest}


def _beside(copy: Path, seen: str | None) -> Path:
    """A free name, or that of an earlier new version that the reader has not edited."""
    number = 1
    while True:
        path = copy.with_name(f"{copy.stem}.new{'' if number == 1 else number}{copy.suffix}")
        if not path.exists() or _read(path) == seen:
            return path
        number += 1


def fingerprint(text: str) -> str:
    """Of the cells that a reader can edit: outputs, run numbers and the collapsing of cells are no edits."""
    notebook = _parsed(text)
    if notebook is not None:
        text = json.dumps([[cell.get("cell_type"), "".join(cell.get("source", ""))] for cell in notebook["cells"]])
    return hashlib.sha256(text.encode()).hexdigest()


def without_outputs(notebook: dict[str, Any]) -> dict[str, Any]:
    """A copy that shows no result. Code that holds the answer of a card is folded away, and runs all the same."""
    cells = []
    for cell in notebook["cells"]:
        metadata = dict(cell.get("metadata", {}))
        if cell["cell_type"] == "code":
            cell = cell | {"outputs": [], "execution_count": None}
            if TELLS.search("".join(cell["source"])):
                metadata["jupyter"] = metadata.get("jupyter", {}) | {"source_hidden": True}
        cells.append(cell | {"metadata": metadata})
    return notebook | {"cells": cells}


def _write(path: Path, text: str) -> None:
    notebook = _parsed(text)
    if notebook is None:
        atomic_write(path, lambda file: file.write_text(text, encoding="utf8"))
    else:
        write_json(path, without_outputs(notebook))


def _read(path: Path) -> str:
    """The fingerprint of a file of the reader's, whatever is in it."""
    return fingerprint(path.read_text(encoding="utf8", errors="replace"))


def _parsed(text: str) -> dict[str, Any] | None:
    """The notebook, or None where it is none."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_notebook = isinstance(notebook, dict) and isinstance(notebook.get("cells"), list)
    return notebook if is_notebook and all(isinstance(cell, dict) for cell in notebook["cells"]) else None


def _state(file: Path) -> dict[str, dict[str, str]]:
    """What is remembered; nothing where the file is missing or damaged, and then every copy counts as edited."""
    try:
        state = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    is_valid = isinstance(state, dict) and all(isinstance(entry, dict) for entry in state.values())
    return state if is_valid else {}
