"""Three questions from earlier notebooks, spaced over days: `questions/NN.json` holds those of notebook NN.

A question that was answered right is asked again after 1, 3, 7, 21 and 60 days, a missed one on the next day.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from adaln_lab.display.widgets import Card
from adaln_lab.exercises import record

FOLDER = Path(__file__).parent / "questions"
AT_A_TIME = 3


@dataclass(frozen=True)
class Question:
    """One question of a notebook; `name` is what `pick` calls it, such as "01.2"."""

    notebook: str
    number: int  # 1, 2, ... in its file
    question: str
    options: dict[str, str]  # option -> reply
    answer: str

    @property
    def name(self) -> str:
        return f"{self.notebook}.{self.number}"


def recall(notebook: str | None = None, *, own: bool = False, pick: dict[str, int] | None = None) -> None:
    """Ask three questions from the notebooks before this one, or from all; what the reader has missed comes first.

    recall("05")              near the top of notebook 05
    recall("05", own=True)    at its end: its own questions
    recall()                  what is due, from any notebook
    pick                      commits where there are no widgets: {name of a question: number of an option}
    """
    pick = pick or {}
    notebooks = sorted({question.notebook for question in bank()})
    if notebook not in notebooks and (own or notebook is not None):
        raise ValueError(f"notebook must be one of {', '.join(notebooks)}, got {notebook!r}")
    names = {question.name: question for question in bank()}
    asked = [question for question in bank() if question.notebook == notebook] if own else _chosen(notebook or "99")
    if unknown := set(pick) - set(names):
        raise ValueError(f"no question is called {min(unknown)!r}; this cell asks {[q.name for q in asked]}")
    picked = [names[name] for name in pick]
    rest = [question for question in asked if question not in picked]
    for question in (picked + rest)[: max(len(asked), len(picked))]:
        _show(question, pick.get(question.name))


def due() -> list[Question]:
    """The questions that the reader has answered before and that are to be asked today."""
    entries = _entries()
    return [q for q in bank() if q.question in entries and entries[q.question]["due"] <= record.today().isoformat()]


@cache
def bank() -> tuple[Question, ...]:
    """All questions, in the order of the notebooks."""
    return tuple(
        Question(path.stem, number, **question)
        for path in sorted(FOLDER.glob("*.json"))
        for number, question in enumerate(json.loads(path.read_text(encoding="utf8")), 1)
    )


@cache  # the same three when the cell runs again after a click
def _chosen(notebook: str) -> list[Question]:
    entries, today = _entries(), record.today().isoformat()
    counts = {question.notebook: question.number for question in bank()}

    def order(question: Question) -> tuple:
        """Misses that are due, then what else is due, then new questions, then the rest by their day.

        Without a record, notebook n asks question 1 of n - 1, question 2 of n - 2, ...: others than its neighbours ask.
        """
        distance = int(notebook) - int(question.notebook)
        new = ((question.number - distance) % counts[question.notebook], distance)
        entry = entries.get(question.question)
        if entry is None:
            return 2, "", new
        is_due = entry["due"] <= today
        return (0 if entry["streak"] == 0 else 1) if is_due else 3, entry["due"], new

    earlier = [question for question in bank() if question.notebook < notebook]
    return sorted(earlier, key=order)[:AT_A_TIME]


def _entries() -> dict[str, dict]:
    try:
        entries = record.read()
    except (OSError, ValueError):
        return {}
    return {name: entry for name, entry in entries.items() if "due" in entry}


def _show(question: Question, pick: int | None) -> None:
    Card(
        question.question, question.options, pick, question.answer, title=f"From notebook {question.notebook}",
        commit=lambda is_right: record.remember_card("recall", question.question, is_right),
        how=f'pick={{"{question.name}": ...}}',
    ).show()  # fmt: skip
