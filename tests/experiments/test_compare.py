"""The race: what is compared is equal, what is kept is not run again, and intervals cover what they say."""

import json
from dataclasses import replace

import pytest
import torch

from adaln_lab.data.scenes import render
from adaln_lab.experiments import compare
from adaln_lab.experiments.compare import AS_LARGE, REFERENCE, RUNNERS, Cell, Race, build, flops, interval, parameters

QUICK = Race(steps=2, batch=4, factors=(0.5, 1.0), short_steps=1, measures=1, samples=4)


def test_steps_make_the_compute_equal():
    rules = Race()
    spent = {r: Cell("compute", r, 1.0, 0).steps(rules) * flops(c) for r, c in RUNNERS.items()}
    for runner, total in spent.items():
        assert total == pytest.approx(spent[REFERENCE], rel=2e-3), runner


def test_widths_make_the_parameters_equal():
    """To 4 %: widths come in steps of the four heads."""
    aim = parameters(build(RUNNERS[REFERENCE]))
    for runner, width in AS_LARGE.items():
        assert parameters(build(replace(RUNNERS[runner], width=width))) == pytest.approx(aim, rel=0.04)


def test_flops_are_those_of_arithmetic():
    """Twice the multiply-adds of each Linear and of attention, written down apart for the plain block."""
    config = replace(RUNNERS["in_context"], depth=3)
    deeper = replace(config, depth=4)
    n, d = 36 + 12, config.width
    one_block = 2 * (12 * n * d**2 + 2 * n**2 * d)
    assert flops(deeper) - flops(config) == one_block


def test_cross_attention_costs_what_its_words_cost():
    config = RUNNERS["cross_attention"]
    n, s, d = 36, 12, config.width
    extra = 2 * (2 * n * d**2 + 2 * s * d**2 + 2 * n * s * d)
    plain = 2 * (12 * n * d**2 + 2 * n**2 * d)
    assert flops(replace(config, depth=5)) - flops(config) == plain + extra


@pytest.fixture
def few(monkeypatch):
    """Two runners of two steps, and digits-sized patience."""
    small = {r: replace(RUNNERS[r], width=16, depth=1) for r in ("cross_attention", "adaln_zero")}
    monkeypatch.setattr(compare, "RUNNERS", small)
    monkeypatch.setattr(compare, "AS_LARGE", {"adaln_zero": 16, "cross_attention": 20})


@pytest.mark.slow
def test_a_stopped_race_goes_on_and_loses_no_cell(few, tmp_path, monkeypatch):
    straight, stopped = tmp_path / "straight.json", tmp_path / "stopped.json"
    told = list(compare.race(straight, 2, rules=QUICK))
    cells = json.loads(straight.read_text())["cells"]
    assert len(told) == len(cells) == 4 + 16 + 4 + 2
    for i, _ in enumerate(compare.race(stopped, 2, rules=QUICK)):
        if i == 6:
            break
    ran = []
    whole = compare.run_cell
    monkeypatch.setattr(compare, "run_cell", lambda cell, *rest: (ran.append(cell.key), whole(cell, *rest))[1])
    list(compare.race(stopped, 2, rules=QUICK))
    assert len(ran) == len(cells) - 7
    again = json.loads(stopped.read_text())["cells"]
    assert without_time(again) == without_time(cells)


def without_time(cells):
    return {key: {k: v for k, v in cell.items() if k != "seconds"} for key, cell in cells.items()}


def test_other_rules_are_refused_and_nothing_is_lost(few, tmp_path):
    out = tmp_path / "race.json"
    next(compare.race(out, 2, rules=QUICK))
    before = out.read_text()
    with pytest.raises(ValueError, match="raced under other rules"):
        list(compare.race(out, 2, rules=replace(QUICK, steps=3)))
    with pytest.raises(ValueError, match="seeds must be at least 2"):
        list(compare.race(out, 1, rules=QUICK))
    assert out.read_text() == before


def test_the_least_held_out_loss_tunes_and_a_failure_never_wins():
    key = lambda f: Cell("tuning", "adaln", f, compare.TUNING_SEED).key  # noqa: E731
    results = {"cells": {key(0.5): {"loss": 0.2}, key(1.0): {"loss": 0.1}, key(2.0): {"failed": "non-finite"}}}
    assert compare.tuned(results, "adaln", (0.5, 1.0, 2.0)) == 1.0


def test_intervals_cover_as_often_as_they_say():
    """Of 2,000 draws of four normals: 95 % of the intervals hold the mean, 99.9 % of the others the next draw."""
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 5, generator=g).tolist()
    held = [(interval(d[:4]), interval(d[:4], 0.999, prediction=True), d[4]) for d in draws]
    mean = sum(i.ends[0] <= 0 <= i.ends[1] for i, _, _ in held) / len(held)
    following = sum(p.ends[0] <= d <= p.ends[1] for _, p, d in held) / len(held)
    assert abs(mean - 0.95) < 0.02 and following > 0.996
    with pytest.raises(ValueError, match="at least 2 values"):
        interval([1.0])


def test_a_difference_is_welchs():
    """Against scipy's own test, which counts the degrees of freedom for itself."""
    from scipy.stats import ttest_ind

    first, second = [0.3, 0.5, 0.1, 0.4], [0.9, 0.2, 1.4]
    stored = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert compare.difference(first, second).ends == pytest.approx((stored.low, stored.high), rel=1e-9)


def test_bound_is_one_half_for_a_generator_that_mixes_pairs_up(monkeypatch):
    """Pictures of the right things in the wrong company: everything is found, only the binding is a coin's toss."""
    words = compare.datasets.load("pairs").held_labels[:400]
    swapped, coin = words.clone(), torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.5
    swapped[coin, 5], swapped[coin, 9] = words[coin, 9], words[coin, 5]  # the shapes change places
    for drawn, low, high in ((words, 1.0, 1.0), (swapped, 0.4, 0.6)):
        pictures = render(drawn, 24)
        monkeypatch.setattr(compare, "sample", lambda *a, pictures=pictures, **k: pictures)
        found = compare.quality(None, words)
        assert low <= found["bound"] <= high and found["objects"] == 1.0


def test_the_stored_race_is_complete(tmp_path):
    """Every cell that the notebook reads is there, with five seeds or more, and nothing failed."""
    results = compare.stored_race()
    assert compare.todo(tmp_path / "none.json", seeds=5) == len(results["cells"])
    for runner in RUNNERS:
        assert len(compare.cells(results, "compute", runner)) >= 5
    for runner in AS_LARGE:
        assert len(compare.cells(results, "parameters", runner)) >= 5
    for runner in compare.SHORT:
        assert len(compare.cells(results, "short", runner)) >= 8
    assert not any("failed" in cell for key, cell in results["cells"].items() if not key.startswith("tuning"))
    with pytest.raises(ValueError, match="expected one of compute"):
        compare.cells(results, "other", "adaln")
