"""Recall: good questions, the reader's own misses first, spaced over days, and the same for everyone who begins."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from adaln_lab.display.widgets import Card
from adaln_lab.exercises import record
from adaln_lab.exercises.progress import TITLES
from adaln_lab.exercises.recall import FOLDER, _chosen, bank, due, recall

DAY = date(2026, 5, 1)


class Reader:
    """Someone who answers questions, day after day."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.wait(0)

    def wait(self, days: int) -> None:
        """Another day, another kernel."""
        self.day = getattr(self, "day", DAY) + timedelta(days)
        self.monkeypatch.setattr(record, "today", lambda: self.day)
        self.monkeypatch.setattr(Card, "clicked", {})
        _chosen.cache_clear()

    def asked(self, notebook: str, **options: object) -> list[str]:
        """The names of the questions, in order, as the text asks for them."""
        recall(notebook, **options)
        said = self.capsys.readouterr().out.splitlines()
        questions = [line.partition(": ")[2] for line in said if line.startswith("From notebook ")]
        return [next(q.name for q in bank() if q.question == question) for question in questions]

    def answer(self, name: str, is_right: bool) -> None:
        question = next(q for q in bank() if q.name == name)
        options = list(question.options)
        right = options.index(question.answer)
        recall("10", pick={name: right if is_right else (right + 1) % len(options)})
        self.capsys.readouterr()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Reader:
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    return Reader(monkeypatch, capsys)


def test_every_notebook_has_four_questions_whose_options_all_have_a_reply() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(TITLES)
    for notebook in TITLES:
        questions = [question for question in bank() if question.notebook == notebook]
        assert len(questions) >= 4
        for question in questions:
            assert question.answer in question.options and len(question.options) >= 3, question
            assert all(len(reply) > 10 and reply[-1] in ".:" for reply in question.options.values()), question
    assert len({question.question for question in bank()}) == len(bank())
    lines = [line for path in FOLDER.glob("*.json") for line in path.read_text(encoding="utf8").splitlines()]
    assert max(map(len, lines)) <= 120


def test_the_right_option_has_no_favourite_place() -> None:
    places = [list(question.options).index(question.answer) for question in bank()]
    assert max(places.count(place) for place in set(places)) < len(places) / 2


@pytest.mark.parametrize("notebook", [number for number in TITLES if number > "01"])
def test_without_a_record_the_same_three_are_asked_from_different_notebooks(notebook: str, reader: Reader) -> None:
    first = reader.asked(notebook)
    assert first == reader.asked(notebook) and len(first) == 3
    assert all(name < notebook for name in first) and len({name[:2] for name in first}) == min(3, int(notebook))
    assert not (record.home() / "progress.json").exists(), "asking alone records nothing"


def test_notebooks_in_a_row_ask_different_questions(reader: Reader) -> None:
    names = [name for notebook in ("03", "04", "05", "06") for name in reader.asked(notebook)]
    assert len(set(names)) == len(names)


def test_a_miss_comes_back_first_on_the_next_day_and_then_ever_more_rarely(reader: Reader) -> None:
    reader.answer("00.4", is_right=False)
    reader.wait(0)
    assert "00.4" not in reader.asked("10"), "on the same day something else is asked"
    reader.answer("01.1", is_right=True)
    reader.wait(1)
    assert reader.asked("10")[:2] == ["00.4", "01.1"]
    waited = []
    for _ in range(6):
        reader.answer("00.4", is_right=True)
        days = (date.fromisoformat(record.read()[named("00.4")]["due"]) - reader.day).days
        waited.append(days)
        reader.wait(days - 1)
        assert named("00.4") not in [question.question for question in due()]
        reader.wait(1)
        assert named("00.4") in [question.question for question in due()]
    assert waited == [1, 3, 7, 21, 60, 60]
    reader.answer("00.4", is_right=False)
    reader.wait(1)
    assert reader.asked("10")[0] == "00.4"


def named(name: str) -> str:
    return next(question.question for question in bank() if question.name == name)


def test_two_right_answers_on_one_day_count_once_and_the_first_try_is_kept(reader: Reader) -> None:
    for is_right in (False, True, True):
        reader.answer("02.1", is_right)
        reader.wait(0)
    entry = record.read()[named("02.1")]
    assert entry["due"] == (DAY + timedelta(1)).isoformat() and entry["streak"] == 0
    assert entry["first"] is False and entry["tries"] == 2 and entry["solved"] == DAY.isoformat()


def test_a_cell_that_runs_again_after_a_click_asks_the_same(reader: Reader) -> None:
    before = reader.asked("04")
    record.remember_card("recall", named(before[0]), is_right=True)
    assert reader.asked("04") == before
    reader.wait(0)
    assert before[0] not in reader.asked("04"), "another kernel asks what has not been answered"


def test_at_its_end_a_notebook_asks_its_own(reader: Reader) -> None:
    assert reader.asked("03", own=True) == [question.name for question in bank() if question.notebook == "03"]


def test_a_pick_names_its_question(reader: Reader) -> None:
    assert reader.asked("04", pick={"00.2": 1})[0] == "00.2"
    for wrong in ({"notebook": "12"}, {"notebook": None, "own": True}, {"notebook": "04", "pick": {"04.99": 0}}):
        with pytest.raises(ValueError, match=r"must be one of 00, |no question is called '04.99'; this cell asks "):
            recall(**wrong)


def test_a_record_that_cannot_be_read_is_no_obstacle(reader: Reader, no_home: None) -> None:
    assert len(reader.asked("02")) == 3
    with pytest.warns(UserWarning, match="what you solve is not kept"):
        reader.answer("01.1", is_right=True)


@pytest.mark.parametrize("entry", [{"due": 3}, {"due": "2026-05-01", "streak": "many"}])
def test_a_damaged_entry_is_noticed_as_in_any_file(entry: dict, reader: Reader, capsys: pytest.CaptureFixture) -> None:
    (record.home() / "progress.json").write_text(json.dumps({"q": {"solved": None, "tries": 1} | entry}))
    assert record.read() == {} and "progress.json is damaged" in capsys.readouterr().out
