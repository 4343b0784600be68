"""A sweep is reproducible and scored against the answer zero."""

import json
import math

import pytest

from adaln_lab.__main__ import main
from adaln_lab.data import datasets
from adaln_lab.experiments import sweep
from adaln_lab.experiments.sweep import Trial


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_an_untrained_model_scores_one(digits):
    """The head starts at zero, so every scheme's answer is zero."""
    assert sweep.train_and_score(Trial("adaLN", 2, 1e-3, 0), digits, steps=0) == pytest.approx(1.0)


def test_a_score_is_decided_by_its_trial(digits):
    a, b = (sweep.train_and_score(Trial("adaLN-Zero", 2, 1e-2, 0), digits, steps=5) for _ in range(2))
    assert a == b < 1
    assert sweep.train_and_score(Trial("adaLN-Zero", 2, 1e-2, 1), digits, steps=5) != a


def test_a_run_that_explodes_scores_infinity(digits):
    assert sweep.train_and_score(Trial("pre-norm", 2, 1e30, 0), digits, steps=5) == math.inf


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
    """A sweep that is stopped early is complete for its first seeds."""
    trials = sweep.all_trials()
    assert [trial.seed for trial in trials] == sorted(trial.seed for trial in trials)
    assert len(set(trials)) == len(trials) == 12 * len(sweep.DEPTHS) * len(sweep.RATES) * len(sweep.SEEDS)


def test_the_stored_sweep_is_whole_and_says_how_it_was_made():
    scores, made = sweep.stored_scores()
    assert set(scores) == set(sweep.all_trials())
    assert made["command"].startswith("python -m adaln_lab schemes") and {"machine", "date", "seconds"} <= set(made)


def test_one_stored_score_is_reproduced(digits):
    """One of the quick trials, once more: other machines round otherwise, so within a margin."""
    trial = Trial("adaLN-Zero", 4, 3e-3, 0)
    assert sweep.train_and_score(trial, digits) == pytest.approx(sweep.stored_scores()[0][trial], rel=0.05)


def test_the_command_runs_what_is_asked(tmp_path, monkeypatch, capsys):
    trials = [Trial("adaLN", 2, lr, 0) for lr in (1e-3, 1e30)]
    monkeypatch.setattr(sweep, "all_trials", lambda seeds: trials)
    monkeypatch.setattr(sweep, "train_and_score", lambda trial, data: 0.25 if trial.lr < 1 else math.inf)
    assert main(["schemes", "--out", str(tmp_path / "s.json"), "--seeds", "1"]) == 0
    assert list(json.loads((tmp_path / "s.json").read_text())["results"].values()) == [0.25, None]
