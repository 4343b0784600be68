"""Every notebook, solved: each stub filled with its solution, as a reader does who copies it, and run to the end.

Where there is a Chromium, the browser tests do that, and no notebook is run solved a second time.
"""

from pathlib import Path

import nbformat
import pytest
from run_notebooks import NOTEBOOKS, run
from solved import copy_solved, refused, stubs

from adaln_lab.exercises.core import EXERCISES

PATHS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_solved_notebook_runs_and_every_check_says_ok(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder and with an empty home: a notebook needs nothing that lies about."""
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    names = copy_solved(path, tmp_path / path.name)
    run(tmp_path / path.name)  # raises if a cell does
    assert refused(names, tmp_path / "home") == []


def test_each_exercise_is_a_stub_in_its_notebook_and_in_no_other() -> None:
    """In the notebooks' own order, since `progress` names the next one by it."""
    asked = [(name, path.name[:2]) for path in PATHS for name in stubs(nbformat.read(path, as_version=4))]
    parts = [(name, exercise.solution.__module__[-2:]) for name, exercise in EXERCISES.items()]  # part05 -> 05
    assert asked == sorted(parts, key=lambda part: part[1])


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_stored_unsolved(path: Path) -> None:
    for name, cell in stubs(nbformat.read(path, as_version=4)).items():
        said = "".join(output.text for output in cell.outputs if output.get("name") == "stdout").splitlines()
        assert any(line.startswith(f"to do: {name}: ") for line in said), name
