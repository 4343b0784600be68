"""The map of the course's exercises: what is solved, what is open, and what comes next."""

import textwrap

from adaln_lab.exercises import record
from adaln_lab.exercises.core import EXERCISES

TITLES = {  # of the notebooks, as the README's map has them
    "00": "start here",
    "01": "layer norm",
    "02": "AdaLN",
    "03": "AdaLN-Zero",
    "04": "gradient flow",
    "05": "tiny DiT",
    "06": "inside the modulation",
    "07": "AdaLN against cross-attention",
    "08": "the zoo of real models",
    "09": "the x-ray",
    "10": "speed and scale",
}
SOLVED, OPEN = "●", "○"


def progress() -> None:
    """Print one line for each notebook with its exercises, solved or open, and the next step."""
    try:
        entries = record.read()
    except (OSError, RuntimeError):
        entries = {}
        print("progress.json cannot be read here, so every exercise is shown as open.")
    is_open = {name: entries.get(name, {}).get("solved") is None for name in EXERCISES}
    notebooks: dict[str, list[str]] = {}
    for notebook, name in sorted(((notebook_of(name), name) for name in EXERCISES), key=lambda pair: pair[0]):
        notebooks.setdefault(notebook, []).append(name)
    width = max(map(len, notebooks)) + 3
    print(f"{SOLVED} solved   {OPEN} open")
    for notebook, names in notebooks.items():
        marked = "   ".join(f"{OPEN if is_open[name] else SOLVED}\u00a0{name}" for name in names)  # no line ends there
        lines = textwrap.fill(marked, 100, initial_indent=notebook.ljust(width), subsequent_indent=" " * width)
        print(lines.replace("\u00a0", " "))
    todo = [f"{notebook}, exercise {name}" for notebook, names in notebooks.items() for name in names if is_open[name]]
    print(f"{len(EXERCISES) - len(todo)} of {len(EXERCISES)} solved.", f"Next: {todo[0]}." if todo else "That was all.")


def reset_progress() -> int:
    """Forget what is solved and return how many exercises that were; the file is kept as progress.json.bak."""
    try:
        entries = record.read()
        if entries:
            record.set_aside("bak")
    except (OSError, RuntimeError) as error:
        raise ValueError(f"progress.json cannot be moved aside here ({error}); set ADALN_LAB_HOME") from error
    return sum(entry["solved"] is not None for entry in entries.values())


def notebook_of(name: str) -> str:
    """The notebook of an exercise: "05 tiny DiT" for one whose solution stands in part05."""
    number = EXERCISES[name].solution.__module__.rpartition("part")[2]
    return f"{number} {TITLES[number]}"
