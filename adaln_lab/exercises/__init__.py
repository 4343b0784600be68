"""Exercises of the notebooks: `check` what you wrote, ask for a `hint` or the `solution`, `guess` before you run."""

from adaln_lab.exercises import part00 as part00  # each part registers its exercises
from adaln_lab.exercises import part05 as part05
from adaln_lab.exercises.core import check, guess, hint, solution

__all__ = ["check", "guess", "hint", "solution"]
