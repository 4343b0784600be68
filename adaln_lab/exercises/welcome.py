"""The page at which `make lab` opens: a greeting, this machine, what is solved so far, and the next step.

It is a notebook, because JupyterLab shows a notebook's text at once and its links open other notebooks. It is written
at each start, since the notebooks of the course are the same for everyone and do not know how far this reader is.
"""

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

from adaln_lab.exercises.progress import TITLES, progress, solved, still_open
from adaln_lab.exercises.recall import due
from adaln_lab.utils import environment
from adaln_lab.utils.files import write_json


def write_welcome(page: Path, notebooks: Path, notes: Sequence[str] = ()) -> None:
    """Write the page, with links to the notebooks in that folder and notes on what is new."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        progress()
    cells = [
        {"id": "welcome", "cell_type": "markdown", "metadata": {}, "source": _greeting(page, notebooks, notes)},
        _code("progress", [{"output_type": "stream", "name": "stdout", "text": told.getvalue()}]),
        *([_code("recall", [])] if due() else []),
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    write_json(page, {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells})


def _code(name: str, outputs: list[dict]) -> dict:
    """A cell that calls a function of this package."""
    source = f"from adaln_lab.exercises import {name}\n\n{name}()"
    cell = {"id": name, "cell_type": "code", "metadata": {}, "execution_count": None}
    return cell | {"source": source, "outputs": outputs}


def _greeting(page: Path, notebooks: Path, notes: Sequence[str]) -> str:
    so_far = solved()
    todo = still_open(so_far)
    begun = len(todo) < sum(map(len, so_far.values()))
    links = {number: _link(number, page, notebooks) for number in TITLES}
    next_step = f"Begin with {links['00']}; it takes ten minutes."
    if begun:
        next_step = "Every exercise is solved: open the next model's source and see how it is modulated."
    if begun and todo:
        notebook, name = todo[0]
        next_step = f"Go on with {links[notebook[:2]]}, exercise `{name}`."
    problems = (
        "".join(f"\n- {problem}" for problem in environment.problems())
        or "Everything that the course needs is installed."
    )
    news = "\n\n**New versions.**" + "".join(f"\n- {note}" for note in notes) if notes else ""
    return f"""# {"Welcome back" if begun else "Welcome to the AdaLN course"}

**Next step.** {next_step}{news}

**All notebooks.** {" · ".join(links.values())}

**This machine.** {environment.describe()}. {problems}

What you have solved and answered is kept in one small file on this machine and never sent anywhere;
`python -m adaln_lab progress --reset` starts over. This is how far you are (Shift+Enter updates it):"""


def _link(number: str, page: Path, notebooks: Path) -> str:
    """A Markdown link; the bare title where the notebook is not there."""
    title = f"{number} {TITLES[number]}"
    found = sorted(notebooks.glob(f"{number}_*.ipynb"))
    return f"[{title}]({Path(os.path.relpath(found[0], page.parent)).as_posix()})" if found else title
