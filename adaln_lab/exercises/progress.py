"""How far the reader is: exercises solved and open, predictions, questions that are due, and what comes next."""

import textwrap

from adaln_lab.exercises import record
from adaln_lab.exercises.core import EXERCISES
from adaln_lab.exercises.recall import due

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
    "11": "draw with words",
}
SOLVED, OPEN = "●", "○"
CARDS = {"guess": "predictions", "judge": "judgements", "recall": "questions recalled"}


def progress() -> None:
    """Print one line for each notebook with its exercises, then how the reader's cards went, and the next step."""
    notebooks = solved()
    width = max(map(len, notebooks)) + 3
    print(f"{SOLVED} solved   {OPEN} open")
    for notebook, exercises in notebooks.items():
        marked = "   ".join(f"{SOLVED if done else OPEN}\u00a0{name}" for name, done in exercises.items())
        lines = textwrap.fill(marked, 100, initial_indent=notebook.ljust(width), subsequent_indent=" " * width)
        print(lines.replace("\u00a0", " "))  # the no-break space kept mark and name on one line
    todo = still_open(notebooks)
    for line in answered():
        print(line)
    print(
        f"{len(EXERCISES) - len(todo)} of {len(EXERCISES)} solved.",
        "Next: {}, exercise {}.".format(*todo[0]) if todo else "That was all.",
    )


def answered() -> list[str]:
    """A line on the cards that the reader has answered, and one on what is due; none where there is nothing."""
    try:
        cards = [entry for entry in record.read().values() if "card" in entry]
    except (OSError, ValueError):
        return []
    parts = []
    for kind, name in CARDS.items():
        first = [entry["first"] for entry in cards if entry["card"] == kind]
        parts += [f"{sum(first)} of {len(first)} {name}"] if first else []
    lines = [f"Right on the first try: {', '.join(parts)}."] if parts else []
    if number := len(due()):
        lines.append(f"Due today: {number} question{'s' * (number > 1)}; recall() asks, three at a time.")
    return lines


def solved() -> dict[str, dict[str, bool]]:
    """For each notebook its exercises in order, and whether each is solved."""
    try:
        entries = record.read()
    except (OSError, ValueError):
        entries = {}
        print("progress.json cannot be read here, so every exercise is shown as open.")
    notebooks: dict[str, dict[str, bool]] = {}
    for notebook, name in sorted(((notebook_of(name), name) for name in EXERCISES), key=lambda pair: pair[0]):
        notebooks.setdefault(notebook, {})[name] = entries.get(name, {}).get("solved") is not None
    return notebooks


def still_open(notebooks: dict[str, dict[str, bool]]) -> list[tuple[str, str]]:
    """(notebook, exercise) for each exercise that is not solved; the first is the next step."""
    return [
        (notebook, name) for notebook, exercises in notebooks.items() for name, done in exercises.items() if not done
    ]


def reset_progress() -> int:
    """Forget what is solved and return how many exercises that was; the file is kept as progress.json.bak."""
    try:
        entries = record.reset()
    except OSError as error:
        raise ValueError(f"progress.json cannot be renamed here ({error}); set ADALN_LAB_HOME") from error
    return sum(entry["solved"] is not None for entry in entries.values() if "card" not in entry)


def notebook_of(name: str) -> str:
    """The notebook of an exercise: "05 tiny DiT" if its solution is in part05."""
    number = EXERCISES[name].solution.__module__.rpartition("part")[2]
    return f"{number} {TITLES[number]}"
