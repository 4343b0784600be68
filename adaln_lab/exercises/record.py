"""What the learner has solved and answered, in one small file: home()/progress.json. It is never sent anywhere.

    {"patchify": {"solved": "2026-05-01", "tries": 3},        tries: up to and with the first success
     "Is the gate ...?": {..., "card": "recall", "first": true, "streak": 2, "due": "2026-05-04"}}

A card has its question as name; first: was the first try right; streak: right answers in a row; due: when to ask again.
The file is a convenience: exercises work without it, and go on whatever is wrong with it.
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from adaln_lab.utils.environment import home
from adaln_lab.utils.files import write_json

DAYS = (1, 3, 7, 21, 60)  # until a question is asked again, after 1, 2, ... right answers in a row


def remember(name: str, is_solved: bool) -> None:
    """Count one try, and keep the date of the first success; after that the entry never changes."""
    with _without_fail():
        entries = read()  # at each call, since another kernel may have written
        entry = entries.get(name, {"solved": None, "tries": 0})
        if entry["solved"] is None:
            solved = today().isoformat() if is_solved else None
            write_json(_file(), entries | {name: {"solved": solved, "tries": entry["tries"] + 1}})


def remember_card(card: str, question: str, is_right: bool) -> None:
    """Keep an answer to a card ("guess", "judge" or "recall"), and the day on which `recall` asks again."""
    with _without_fail():
        entries, day = read(), today()
        new = {"solved": None, "tries": 0, "card": card, "first": is_right, "streak": 0, "due": day.isoformat()}
        entry = new | entries.get(question, {})
        entry["tries"] += entry["solved"] is None
        entry["solved"] = entry["solved"] or (day.isoformat() if is_right else None)
        if entry["due"] <= day.isoformat() or not is_right:  # a second right answer on one day proves little
            entry["streak"] = entry["streak"] + 1 if is_right else 0
            wait = DAYS[min(max(entry["streak"] - 1, 0), len(DAYS) - 1)]
            entry["due"] = (day + timedelta(wait)).isoformat()
        write_json(_file(), entries | {question: entry})


@contextmanager
def _without_fail() -> Iterator[None]:
    """Exercises go on without the file; that nothing is kept is said, as Python's warnings are, once."""
    try:
        yield
    except (OSError, ValueError) as error:
        warnings.warn(
            f"what you solve is not kept ({error}); set ADALN_LAB_HOME to a folder that can be written to", stacklevel=3
        )


def today() -> date:
    return date.today()


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
        isinstance(entry, dict)
        and isinstance(entry.get("solved", 0), str | None)
        and type(entry.get("tries")) is int
        and ("card" not in entry or {"first", "streak", "due"} <= entry.keys())
        and isinstance(entry.get("due", ""), str)
        and type(entry.get("streak", 0)) is int
        for entry in entries.values()
    )
