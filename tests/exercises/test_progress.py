"""Progress is a convenience: it remembers what the reader wrote, shows a map, and never stands in the way."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
import pytest

from adaln_lab.__main__ import main
from adaln_lab.display.widgets import Card
from adaln_lab.exercises import check, guess, judge, progress, recall, record, reset_progress
from adaln_lab.exercises.core import EXERCISES, Exercise, source
from adaln_lab.exercises.progress import TITLES, notebook_of
from adaln_lab.exercises.welcome import write_welcome
from adaln_lab.utils import environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    return tmp_path / "progress.json"


@pytest.fixture
def said(capsys: pytest.CaptureFixture) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


def swapped(x: Any, shift: Any, scale: Any) -> Any:
    return EXERCISES["modulated"].solution(x, scale, shift)


def learners(function: Callable, name: str) -> Callable:
    """`function` as it would be if a reader had written it in a notebook."""

    def written(*arguments: Any) -> Any:
        return function(*arguments)

    written.__name__, written.__module__ = name, "__main__"
    return written


RIGHT = learners(EXERCISES["modulated"].solution, "modulated")
WRONG = learners(swapped, "modulated")


def test_the_first_success_and_the_tries_up_to_it_are_kept(file: Path) -> None:
    for fn in (WRONG, WRONG, RIGHT, RIGHT, WRONG):
        check("modulated", fn)
    assert json.loads(file.read_text()) == {"modulated": {"solved": date.today().isoformat(), "tries": 3}}
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing else is left in the folder"


def test_a_failed_try_is_no_success(file: Path) -> None:
    check("modulated", WRONG)
    assert json.loads(file.read_text()) == {"modulated": {"solved": None, "tries": 1}}


@pytest.mark.parametrize(
    "fn",
    [
        None,
        ...,
        learners(lambda *a: None, "modulated"),
        EXERCISES["modulated"].solution,  # check gave it back earlier, and the cell ran again
        *EXERCISES["modulated"].wrong.values(),
        learners(swapped, "shipped"),  # a mistake that a notebook shows
        3.0,
    ],
)
def test_what_the_reader_did_not_write_does_not_count(fn: Any, file: Path) -> None:
    check("modulated", fn)
    assert not file.exists()


def test_success_counts_under_any_name(file: Path) -> None:
    check("modulated", learners(EXERCISES["modulated"].solution, "<lambda>"))
    assert record.read()["modulated"]["solved"]


def test_entries_of_another_kernel_are_kept(file: Path) -> None:
    check("modulated", WRONG)
    others = {"patchify": {"solved": "2026-01-02", "tries": 1}, "of a later version": {"solved": None, "tries": 9}}
    file.write_text(json.dumps(record.read() | others))
    check("modulated", RIGHT)
    assert record.read() == others | {"modulated": {"solved": date.today().isoformat(), "tries": 2}}


DAMAGED = [
    b"", b'{"modulated": ', b"\xff\xfe", b"[]", b"3", b'{"modulated": 3}', b"[" * 100_000,
    b'{"modulated": {"tries": 1}}', b'{"modulated": {"solved": null}}', b'{"modulated": {"solved": 1, "tries": 1}}',
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_kept_and_reported_once(content: bytes, file: Path, said: Callable) -> None:
    file.write_bytes(content)
    assert check("modulated", RIGHT) is RIGHT
    assert said() == "ok: modulated\nprogress.json is damaged; it is kept as progress.json.bad, and a new one begins.\n"
    check("modulated", RIGHT)
    assert said() == "ok: modulated\n" and record.read()["modulated"]["tries"] == 1
    assert file.with_name("progress.json.bad").read_bytes() == content


def test_one_damaged_file_is_kept_the_last(file: Path, said: Callable) -> None:
    for content in ("first", "second"):
        file.write_text(content)
        progress()
    assert [path.name for path in file.parent.iterdir()] == ["progress.json.bad"]
    assert file.with_name("progress.json.bad").read_text() == "second"


def in_the_way(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.joinpath("home").touch()
    monkeypatch.setenv("ADALN_LAB_HOME", str(file.parent / "home"))


def no_room(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_json", write)


def no_reading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.mkdir()


def damaged_and_stuck(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("damaged")
    file.with_name("progress.json.bad").mkdir()


@pytest.mark.parametrize("trouble", [in_the_way, no_room, no_reading, damaged_and_stuck])
def test_whatever_is_wrong_with_the_file_check_goes_on_and_says_that_nothing_is_kept(
    trouble: Callable, file: Path, monkeypatch: pytest.MonkeyPatch, said: Callable
) -> None:
    trouble(file, monkeypatch)
    goes_on(said)


def test_without_a_home_check_goes_on_and_forgetting_names_the_remedy(
    file: Path, no_home: None, said: Callable
) -> None:
    goes_on(said)
    with pytest.raises(ValueError, match="set ADALN_LAB_HOME"):
        reset_progress()


def goes_on(said: Callable) -> None:
    with pytest.warns(UserWarning, match="what you solve is not kept .*; set ADALN_LAB_HOME"):
        assert check("modulated", RIGHT) is RIGHT and check("modulated", WRONG) is not WRONG
    assert said().splitlines()[0] == "ok: modulated"
    progress()
    assert "○ modulated" in said()


def test_an_interrupted_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check("modulated", WRONG)
    before = file.read_text()

    def cut_short(path: Path, text: str, **_options: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_short)
    with pytest.raises(KeyboardInterrupt):
        check("modulated", RIGHT)
    assert file.read_text() == before


def test_the_map_is_the_same_for_everyone_who_begins(file: Path, said: Callable) -> None:
    progress()
    lines = said().splitlines()
    assert lines[0] == "● solved   ○ open"
    assert re.fullmatch(r"00 start here +○ modulated", lines[1])
    assert re.fullmatch(r"05 tiny DiT +○ flow_pair .*○ patchify", next(line for line in lines if line[:2] == "05"))
    assert lines[-1] == f"0 of {len(EXERCISES)} solved. Next: 00 start here, exercise modulated."
    assert all(f"○ {name}" in "\n".join(lines) for name in EXERCISES) and max(map(len, lines)) <= 100
    assert not file.exists()


def test_the_map_shows_what_is_solved_and_the_next_step(file: Path, said: Callable) -> None:
    entries = {name: {"solved": "2026-01-02", "tries": 1} for name in EXERCISES}
    entries["patchify"]["solved"] = None
    file.write_text(json.dumps(entries))
    progress()
    told = said()
    assert told.count("●") == len(EXERCISES) and "○ patchify" in told
    assert told.endswith(f"{len(EXERCISES) - 1} of {len(EXERCISES)} solved. Next: 05 tiny DiT, exercise patchify.\n")
    check("patchify", learners(EXERCISES["patchify"].solution, "patchify"))
    said()
    progress()
    assert said().endswith(f"{len(EXERCISES)} of {len(EXERCISES)} solved. That was all.\n")


def test_forgetting_keeps_one_backup(file: Path) -> None:
    assert reset_progress() == 0 and not list(file.parent.iterdir())
    for fn in (WRONG, RIGHT):
        check("modulated", fn)
        check("patchify", RIGHT)
        content = file.read_text()
        assert reset_progress() == (fn is RIGHT)
        assert [path.name for path in file.parent.iterdir()] == ["progress.json.bak"]
        assert file.with_name("progress.json.bak").read_text() == content
    assert reset_progress() == 0 and file.with_name("progress.json.bak").read_text() == content, "nothing to forget"


@pytest.mark.parametrize("number", TITLES)
def test_titles_are_those_of_the_map(number: str) -> None:
    assert f"{number} {TITLES[number]}" in README


def test_an_exercise_belongs_to_the_notebook_of_its_part() -> None:
    assert notebook_of("modulated") == "00 start here" and notebook_of("patchify") == "05 tiny DiT"


@pytest.mark.parametrize("name", sorted(name for name, it in EXERCISES.items() if isinstance(it, Exercise)))
def test_a_solution_runs_where_no_type_is_imported(name: str) -> None:
    """A reader pastes it into a notebook that has not imported Tensor; everything but the types is as written."""
    text = source(EXERCISES[name].solution)
    scope: dict[str, Any] = {}
    exec(text, scope)
    assert scope[name].__doc__ == EXERCISES[name].solution.__doc__
    assert re.match(rf"def {name}\(\w+(=[^,:]+)?(, \w+(=[^,:]+)?)*\):\n    \"\"\"", text)


def test_cards_and_what_is_due_are_told(file: Path, said: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Card, "clicked", {})
    guess("is it?", {"yes": "It is.", "no": "It is not."}, pick=0, answer="yes")
    guess("was it?", {"yes": "It was.", "no": "It was not."}, pick=1, answer="yes")
    guess("without an answer?", ["yes", "no"], pick=1)
    judge("supported?", {"a": "Five seeds.", "b": "One seed."}, answer={"a"}, pick=(0,))
    recall("02", pick={"01.1": 0})
    said()
    progress()
    lines = said().splitlines()
    assert lines[-2] == (
        "Right on the first try: 1 of 2 predictions, 1 of 1 judgements, 0 of 1 questions recalled."
    ) and lines[-1].startswith(f"0 of {len(EXERCISES)} solved.")
    entries = {name: entry | {"due": "2026-01-01"} for name, entry in record.read().items()}
    file.write_text(json.dumps(entries))
    progress()
    assert said().splitlines()[-2] == "Due today: 1 question; recall() asks, three at a time."
    write_welcome(file.parent / "welcome.ipynb", ROOT / "notebooks")
    assert nbformat.read(file.parent / "welcome.ipynb", as_version=4).cells[-1].source.endswith("recall()")
    assert reset_progress() == 0, "no exercise was solved"


# The page at which `make lab` opens, and the command


@pytest.fixture
def page(tmp_path: Path) -> Callable[[], tuple[str, str]]:
    """Writes the page; its text, and what stands under its cell."""

    def write() -> tuple[str, str]:
        write_welcome(tmp_path / "runs" / "welcome.ipynb", ROOT / "notebooks")
        nb = nbformat.read(tmp_path / "runs" / "welcome.ipynb", as_version=4)
        nbformat.validate(nb)
        text, code = nb.cells
        return text.source, code.outputs[0].text

    return write


def test_the_page_greets_and_leads_to_every_notebook(page: Callable, file: Path) -> None:
    text, told = page()
    assert text.startswith("# Welcome to") and "Begin with [00 start here](" in text
    links = re.findall(r"\]\(([^)]+\.ipynb)\)", text)
    there = {path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert {Path(link).name for link in links} == there
    assert all((file.parent / "runs" / link).is_file() for link in links), "a link leads nowhere"
    assert told.endswith("exercise modulated.\n") and not file.exists()


def test_the_page_says_how_far_this_reader_is(page: Callable, file: Path) -> None:
    check("modulated", RIGHT)
    text, told = page()
    assert text.startswith("# Welcome back") and "exercise `normalised`" in text and "● modulated" in told
    file.write_text(json.dumps({name: {"solved": "2026-01-02", "tries": 1} for name in EXERCISES}))
    assert "Every exercise is solved" in page()[0]


def test_the_page_checks_the_machine(page: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Everything that the course needs is installed." in page()[0]
    monkeypatch.setattr(environment.metadata, "requires", lambda _: ["torch>=99.0"])
    assert "\n- torch " in page()[0] and "pip install -U 'torch>=99.0'" in page()[0]


def test_the_command_shows_and_forgets(file: Path, said: Callable) -> None:
    check("modulated", RIGHT)
    said()
    assert main(["progress"]) == 0
    assert "● modulated" in said()
    assert main(["progress", "--reset"]) == 0
    told = said()
    assert told.startswith("forgotten: 1 solved\n") and "● modulated" not in told
    assert main(["progress", "--reset"]) == 0
    assert said().startswith("forgotten: 0 solved\n")


def test_make_lab_opens_the_page_that_it_writes() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf8").partition("\nlab:")[2].partition("\n\n")[0]
    written, opened = re.search(r"--own (\S+)", recipe)[1], re.search(r"default_url=/lab/tree/(\S+)", recipe)[1]
    assert f"{written}/welcome.ipynb" == opened and recipe.index("--own") < recipe.index("default_url")
    assert f"{written}/" in (ROOT / ".gitignore").read_text(encoding="utf8").split(), "the copy is the reader's alone"


def test_a_console_that_lacks_the_dots_shows_the_rest(tmp_path: Path) -> None:
    """Windows pipes in a code page of its own, which has no circles."""
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "ADALN_LAB_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "adaln_lab", "progress"]
    said = subprocess.run(command, env=env, capture_output=True, check=True).stdout.decode("cp1252")
    assert f"of {len(EXERCISES)} solved" in said
