"""Exercises of the notebooks: `check` what you wrote, ask for a `hint` or the `solution`, `guess` before you run.

`judge` asks what a figure supports, `recall` what earlier notebooks taught. `progress()` shows what is solved and what
comes next.
"""

from adaln_lab.exercises import part00 as part00  # each part registers its exercises
from adaln_lab.exercises import part01 as part01
from adaln_lab.exercises import part02 as part02
from adaln_lab.exercises import part03 as part03
from adaln_lab.exercises import part04 as part04
from adaln_lab.exercises import part05 as part05
from adaln_lab.exercises import part06 as part06
from adaln_lab.exercises import part07 as part07
from adaln_lab.exercises import part08 as part08
from adaln_lab.exercises import part09 as part09
from adaln_lab.exercises import part10 as part10
from adaln_lab.exercises import part11 as part11
from adaln_lab.exercises.core import check, guess, hint, judge, solution
from adaln_lab.exercises.progress import progress, reset_progress
from adaln_lab.exercises.recall import recall

__all__ = ["check", "guess", "hint", "judge", "progress", "recall", "reset_progress", "solution"]
