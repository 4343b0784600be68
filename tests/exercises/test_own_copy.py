"""The reader's own copy: edits are never overwritten, the rest follows the course, and nothing spoils a prediction."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from adaln_lab.__main__ import main
from adaln_lab.exercises.own_copy import STATE, fingerprint, update

ROOT = Path(__file__).parents[2]
CARD = 'guess("is it?", {\n    "yes": "It is.",\n}, answer="yes")'


@pytest.fixture
def course(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder / "00_a.ipynb", ["1 + 1", CARD])
    write(folder / "01_b.ipynb", ["x = 1"])
    (folder / "glossary.md").write_text("# Terms\n")
    (folder / "ruff.toml").write_text("")
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "my_course"


def write(path: Path, sources: list[str], outputs: bool = True) -> None:
    v4 = nbformat.v4
    shown = [v4.new_output("stream", text="the answer")] if outputs else []
    cells = [v4.new_code_cell(source, outputs=shown, execution_count=1 if outputs else None) for source in sources]
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# A question"), *cells]), path)


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells[1:]]


def test_copies_hold_no_outputs_and_fold_what_tells_an_answer(course: Path, own: Path) -> None:
    assert update(course, own) == []
    assert sorted(path.name for path in own.iterdir()) == [STATE, "00_a.ipynb", "01_b.ipynb", "glossary.md"]
    notebook = nbformat.read(own / "00_a.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert "the answer" not in (own / "00_a.ipynb").read_text()
    folded = [cell.metadata.get("jupyter", {}).get("source_hidden", False) for cell in notebook.cells]
    assert folded == [False, False, True]


def test_a_copy_that_was_only_run_follows_the_course_and_else_keeps_its_outputs(course: Path, own: Path) -> None:
    update(course, own)
    write(own / "01_b.ipynb", ["x = 1"])
    update(course, own)
    assert "the answer" in (own / "01_b.ipynb").read_text(), "nothing is new, so nothing is written"
    write(course / "01_b.ipynb", ["x = 2"])
    (course / "glossary.md").write_text("# More terms\n")
    assert update(course, own) == []
    assert sources(own / "01_b.ipynb") == ["x = 2"] and (own / "glossary.md").read_text() == "# More terms\n"


def test_an_edited_copy_is_never_overwritten(course: Path, own: Path) -> None:
    update(course, own)
    write(own / "01_b.ipynb", ["x = 42"])
    before = (own / "01_b.ipynb").read_bytes()
    assert update(course, own) == [] and (own / "01_b.ipynb").read_bytes() == before, "the course is as it was"

    write(course / "01_b.ipynb", ["x = 2"])
    (note,) = update(course, own)
    assert note.startswith("01_b.new.ipynb is a new version of 01_b, which you have edited. Yours is unchanged")
    assert (own / "01_b.ipynb").read_bytes() == before and sources(own / "01_b.new.ipynb") == ["x = 2"]
    assert update(course, own) == [note], "said as long as it lies there"
    (own / "01_b.new.ipynb").unlink()
    assert update(course, own) == [], "what the reader has thrown away does not come back"

    write(course / "01_b.ipynb", ["x = 3"])
    update(course, own)
    write(course / "01_b.ipynb", ["x = 4"])
    update(course, own)
    assert sources(own / "01_b.new.ipynb") == ["x = 4"], "a new version gives way to a newer one"
    write(own / "01_b.new.ipynb", ["x = 4", "mine"])
    write(course / "01_b.ipynb", ["x = 5"])
    assert len(update(course, own)) == 2
    assert sources(own / "01_b.new.ipynb") == ["x = 4", "mine"] and sources(own / "01_b.new2.ipynb") == ["x = 5"]


def test_a_copy_that_took_over_the_new_version_follows_again(course: Path, own: Path) -> None:
    update(course, own)
    write(own / "01_b.ipynb", ["x = 42"])
    write(course / "01_b.ipynb", ["x = 2"])
    update(course, own)
    (own / "01_b.new.ipynb").replace(own / "01_b.ipynb")
    assert update(course, own) == []
    write(course / "01_b.ipynb", ["x = 3"])
    update(course, own)
    assert sources(own / "01_b.ipynb") == ["x = 3"]


def test_a_copy_that_was_deleted_comes_back_and_other_files_stay(course: Path, own: Path) -> None:
    update(course, own)
    (own / "00_a.ipynb").unlink()
    (own / "notes.ipynb").write_text("mine")
    update(course, own)
    assert (own / "00_a.ipynb").exists() and (own / "notes.ipynb").read_text() == "mine"


@pytest.mark.parametrize("state", [None, "", "[]", "[" * 100_000, '{"01_b.ipynb": 3}'])
def test_without_what_is_remembered_every_other_copy_counts_as_edited(
    state: str | None, course: Path, own: Path
) -> None:
    update(course, own)
    write(course / "01_b.ipynb", ["x = 2"])
    (own / STATE).unlink()
    if state is not None:
        (own / STATE).write_text(state)
    assert len(update(course, own)) == 1 and sources(own / "01_b.ipynb") == ["x = 1"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"cells": [3]}', b'{"cells": 3}', b"[" * 100_000])
def test_a_damaged_copy_is_kept_like_an_edited_one(content: bytes, course: Path, own: Path) -> None:
    update(course, own)
    (own / "01_b.ipynb").write_bytes(content)
    assert update(course, own) == [] and (own / "01_b.ipynb").read_bytes() == content


def test_what_jupyterlab_saves_is_no_edit() -> None:
    """It joins or splits lines of source, and adds numbers, outputs and metadata."""
    saved = {"cells": [{"cell_type": "code", "source": ["a\n", "b"], "metadata": {"trusted": True}, "outputs": [1]}]}
    laid = {"cells": [{"cell_type": "code", "source": "a\nb"}], "metadata": {"kernelspec": {}}}
    assert fingerprint(json.dumps(saved)) == fingerprint(json.dumps(laid))


def test_the_command_writes_the_copy_and_a_page_whose_links_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(ROOT)
    own = tmp_path / "my_course"
    assert main(["progress", "--own", str(own)]) == 0
    assert capsys.readouterr().out.endswith("my_course: start with welcome.ipynb\n")
    for path in own.glob("*.ipynb"):
        nbformat.validate(nbformat.read(path, as_version=4))
        texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        links = [link for text in texts for link in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md))\)", text)]
        assert [link for link in links if not (own / link).is_file()] == [] and links, path.name
    write(own / "00_start_here.ipynb", ["edited"])
    (own / STATE).unlink()
    main(["progress", "--own", str(own)])
    assert "00_start_here.new.ipynb is a new version" in capsys.readouterr().out
    page = nbformat.read(own / "welcome.ipynb", as_version=4).cells[0].source
    assert "**New versions.**\n- 00_start_here.new.ipynb is a new version" in page


def test_elsewhere_the_command_says_where_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["progress", "--own", "my_course"]) == 2
    assert "run this in the folder of the course" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_its_folder_is_not_one_of_the_course(course: Path) -> None:
    with pytest.raises(ValueError, match="another folder"):
        update(course, course)


def test_the_page_is_told_nothing_where_nothing_is_new(course: Path, own: Path, page: Callable) -> None:
    assert "New versions" not in page(update(course, own))


@pytest.fixture
def page(own: Path) -> Callable[[list[str]], str]:
    from adaln_lab.exercises.welcome import write_welcome

    def text(notes: list[str]) -> str:
        write_welcome(own / "welcome.ipynb", own, notes)
        return nbformat.read(own / "welcome.ipynb", as_version=4).cells[0].source

    return text
