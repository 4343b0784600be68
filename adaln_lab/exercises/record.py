"""What the learner has solved, in one small file: home()/progress.json.

    {"patchify": {"solved": "2026-05-01", "tries": 3}}        tries: up to and with the first success

The file is a convenience: exercises work without it, and go on whatever is wrong with it.
"""

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

from adaln_lab.utils.environment import home
from adaln_lab.utils.files import write_json


def remember(name: str, is_solved: bool) -> None:
    """Count one try, and keep the date of the first success; after that the entry never changes."""
    try:
        entries = read()  # at each call, since another kernel may have written
        entry = entries.get(name, {"solved": None, "tries": 0})
        if entry["solved"] is None:
            solved = date.today().isoformat() if is_solved else None
            write_json(_file(), entries | {name: {"solved": solved, "tries": entry["tries"] + 1}})
    except (OSError, ValueError):  # no home folder, or one that cannot be written to
        return


def read() -> dict[str, dict[str, Any]]:
    """All entries. A damaged file becomes progress.json.bad, with a message. OSError or ValueError without access."""
    file = _file()
    try:
        entries = json.loads(file.read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        entries = None
    if _is_valid(entries):
        return entries
    os.replace(file, f"{file}.bad")
    print("progress.json is damaged; it is kept as progress.json.bad, and a new one begins.")
    return {}


def reset() -> dict[str, dict[str, Any]]:
    """Rename the file to progress.json.bak and return the entries that it held."""
    entries = read()
    if entries:
        os.replace(_file(), f"{_file()}.bak")
    return entries


def _file() -> Path:
    return home() / "progress.json"


def _is_valid(entries: Any) -> bool:
    return isinstance(entries, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("solved", 0), str | None) and type(entry.get("tries")) is int
        for entry in entries.values()
    )
