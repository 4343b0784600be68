"""A race is exact, resumable and scored against an honest zero."""

import json
import math

import pytest
import torch

from adaln_lab.__main__ import main
from adaln_lab.data import datasets
from adaln_lab.experiments import sweep
from adaln_lab.experiments.sweep import Trial


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_an_untrained_model_scores_one(digits):
    """The head starts at zero, so every scheme's answer is zero."""
    assert sweep.race(Trial("adaLN", 2, 1e-3, 0), digits, steps=0) == pytest.approx(1.0)


def test_a_race_is_decided_by_its_trial(digits):
    a, b = (sweep.race(Trial("adaLN-Zero", 2, 1e-2, 0), digits, steps=5) for _ in range(2))
    assert a == b < 1
    assert sweep.race(Trial("adaLN-Zero", 2, 1e-2, 1), digits, steps=5) != a


def test_a_run_that_explodes_scores_infinity(digits):
    assert sweep.race(Trial("pre-norm", 2, 1e30, 0), digits, steps=5) == math.inf


def test_the_pixelwise_answer_is_the_best_of_its_kind(digits):
    """Among all lines through the same means none does better: trusting the pixel more or less than that is worse."""
    pair = sweep.held_out(digits)
    t, mean, var = pair.t.reshape(-1, 1, 1, 1), digits.images.mean(0), digits.images.var(0)

    def scored(trust: float) -> float:
        x_0 = mean + trust * (1 - t) * var / ((1 - t) ** 2 * var + t**2) * (pair.x_t - (1 - t) * mean)
        return (((pair.x_t - x_0) / t - pair.v).square().mean() / pair.v.square().mean()).item()

    assert sweep.pixelwise_score(digits) == pytest.approx(scored(1.0))
    assert scored(1.0) < min(scored(0.8), scored(1.2))


def test_whole_seeds_come_first():
    """Whoever stops the race early has a smaller race, not a part of the map."""
    trials = sweep.grid()
    assert [trial.seed for trial in trials] == sorted(trial.seed for trial in trials)
    assert len(set(trials)) == len(trials) == 12 * len(sweep.DEPTHS) * len(sweep.RATES) * len(sweep.SEEDS)


def test_a_stopped_race_goes_on_where_it_was(digits, tmp_path, monkeypatch):
    raced = []
    monkeypatch.setattr(sweep, "race", lambda trial, data: raced.append(trial) or (math.inf if trial.lr > 1 else 0.5))
    trials = [Trial("adaLN", 2, lr, 0) for lr in (0.1, 0.2, 3.0)]
    out = tmp_path / "race.json"
    next(sweep.run_grid(trials, digits, out, {"machine": "here"}))
    list(sweep.run_grid(trials, digits, out, {"machine": "here"}))
    assert raced == trials
    table = json.loads(out.read_text())
    assert table["rows"] == [["adaLN", 2, 0.1, 0, 0.5], ["adaLN", 2, 0.2, 0, 0.5], ["adaLN", 2, 3.0, 0, None]]
    assert table["made"]["machine"] == "here" and table["made"]["seconds"] >= 0


def test_a_file_that_holds_another_race_is_refused(digits, tmp_path):
    for content in ("[]", '{"rows": []}', '{"made": {"steps": 7, "batch": 64}, "rows": []}'):
        (tmp_path / "race.json").write_text(content)
        with pytest.raises(ValueError, match="holds no race of 100 steps"):
            next(sweep.run_grid([Trial("adaLN", 2, 0.1, 0)], digits, tmp_path / "race.json", {}))


def test_the_stored_race_is_whole_and_says_how_it_was_made():
    scores, made = sweep.stored_scores()
    assert set(scores) == set(sweep.grid())
    assert made["command"].startswith("python -m adaln_lab schemes") and {"machine", "date", "seconds"} <= set(made)


def test_one_stored_score_is_reproduced(digits):
    """One of the quick cells, once more: other machines round otherwise, so within a margin."""
    trial = Trial("adaLN-Zero", 4, 3e-3, 0)
    assert sweep.race(trial, digits) == pytest.approx(sweep.stored_scores()[0][trial], rel=0.05)


def test_the_command_runs_what_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "grid", lambda: [Trial("adaLN", 2, 1e-3, seed) for seed in (0, 1)])
    monkeypatch.setattr(sweep, "race", lambda trial, data: torch.tensor(0.25).item())
    assert main(["schemes", "--out", str(tmp_path / "s.json"), "--seeds", "1"]) == 0
    assert len(json.loads((tmp_path / "s.json").read_text())["rows"]) == 1
