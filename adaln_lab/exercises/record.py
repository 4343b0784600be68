"""What the learner has solved, in one small file: home()/progress.json, written whole.

    {"patchify": {"solved": "2026-05-01", "tries": 3}}        tries: up to the first success

The file is a convenience: whatever is wrong with it, an exercise goes on without it.
"""

import itertools
import json
from datetime import date
from pathlib import Path
from typing import Any

from adaln_lab.utils.environment import home
from adaln_lab.utils.files import write_json


def remember(name: str, is_solved: bool) -> None:
    """Count one try, and the day of the first success, after which nothing changes."""
    try:
        entries = read()  # anew each time: another kernel may have written
        entry = entries.get(name, {"solved": None, "tries": 0})
        if entry["solved"] is None:
            solved = date.today().isoformat() if is_solved else None
            write_json(_file(), entries | {name: {"solved": solved, "tries": entry["tries"] + 1}})
    except (OSError, ValueError, RuntimeError):  # no home, or none that can be written: an exercise works without
        return


def read() -> dict[str, dict[str, Any]]:
    """All entries. A file that is none of ours is set aside, which is said; OSError if it cannot be read or moved."""
    try:
        entries = json.loads(_file().read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        entries = None
    if _is_valid(entries):
        return entries
    print(f"progress.json is damaged; it is kept as {set_aside('bad')}, and a new one begins.")
    return {}


def set_aside(ending: str) -> str:
    """Rename the file to the first name that is free, progress.json.ending or .ending2, ..., and return the name."""
    numbers = itertools.chain([""], itertools.count(2))
    aside = next(path for n in numbers if not (path := _file().with_name(f"progress.json.{ending}{n}")).exists())
    _file().rename(aside)
    return aside.name


def _file() -> Path:
    return home() / "progress.json"


def _is_valid(entries: Any) -> bool:
    return isinstance(entries, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("solved", 0), str | None) and type(entry.get("tries")) is int
        for entry in entries.values()
    )
