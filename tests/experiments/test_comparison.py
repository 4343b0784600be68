"""What is compared is equal, what is kept is not run again, and intervals cover what they say."""

import json
from dataclasses import replace

import pytest
import torch

from adaln_lab.__main__ import main
from adaln_lab.blocks.budget import parameters
from adaln_lab.data.scenes import parse, render
from adaln_lab.experiments import comparison, grid
from adaln_lab.experiments.comparison import (
    REFERENCE,
    VARIANTS,
    WIDTHS,
    Settings,
    Trial,
    build,
    flops,
    interval,
    train_and_score,
)
from adaln_lab.training.checkpoint import load_model
from adaln_lab.utils.assets import asset

QUICK = Settings(steps=2, batch=4, lr_multipliers=(0.5, 1.0), short_steps=1, curve_points=1, samples=4)


def test_steps_make_the_compute_equal():
    settings = Settings()
    spent = {r: Trial("compute", r, 1.0, 0).steps(settings) * flops(c) for r, c in VARIANTS.items()}
    for variant, total in spent.items():
        assert total == pytest.approx(spent[REFERENCE], rel=2e-3), variant


def test_widths_make_the_parameters_equal():
    """To 4 %: widths come in steps of the four heads."""
    aim = parameters(build(VARIANTS[REFERENCE]))
    for variant, width in WIDTHS.items():
        assert parameters(build(replace(VARIANTS[variant], width=width))) == pytest.approx(aim, rel=0.04)


def test_flops_are_those_of_arithmetic():
    """Twice the multiply-adds of each Linear and of attention, written down apart for the plain block."""
    config = replace(VARIANTS["in_context"], depth=3)
    deeper = replace(config, depth=4)
    n, d = 36 + 12, config.width
    one_block = 2 * (12 * n * d**2 + 2 * n**2 * d)
    assert flops(deeper) - flops(config) == one_block


def test_cross_attention_costs_what_its_words_cost():
    config = VARIANTS["cross_attention"]
    n, s, d = 36, 12, config.width
    extra = 2 * (2 * n * d**2 + 2 * s * d**2 + 2 * n * s * d)
    plain = 2 * (12 * n * d**2 + 2 * n**2 * d)
    assert flops(replace(config, depth=5)) - flops(config) == plain + extra


@pytest.fixture
def few(monkeypatch):
    """Two small variants, so that a trial takes a moment."""
    small = {r: replace(VARIANTS[r], width=16, depth=1) for r in ("cross_attention", "adaln_zero")}
    monkeypatch.setattr(comparison, "VARIANTS", small)
    monkeypatch.setattr(comparison, "WIDTHS", {"adaln_zero": 16, "cross_attention": 20})


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_loses_no_trial(few, tmp_path, monkeypatch):
    straight, stopped = tmp_path / "straight.json", tmp_path / "stopped.json"
    done = list(comparison.run(straight, 2, settings=QUICK))
    results = json.loads(straight.read_text())["results"]
    assert len(done) == len(results) == 4 + 16 + 4 + 2
    for i, _ in enumerate(comparison.run(stopped, 2, settings=QUICK)):
        if i == 6:
            break
    ran = []
    whole = comparison.train_and_score
    monkeypatch.setattr(comparison, "train_and_score", lambda trial, **how: ran.append(trial) or whole(trial, **how))
    list(comparison.run(stopped, 2, settings=QUICK))
    assert len(ran) == len(results) - 7
    again = json.loads(stopped.read_text())["results"]
    assert without_time(again) == without_time(results)


def without_time(results):
    return {key: {k: v for k, v in result.items() if k != "seconds"} for key, result in results.items()}


def test_other_settings_are_refused_and_nothing_is_lost(few, tmp_path):
    out = tmp_path / "comparison.json"
    next(comparison.run(out, 2, settings=QUICK))
    before = out.read_text()
    with pytest.raises(ValueError, match="holds no results of the settings"):
        list(comparison.run(out, 2, settings=replace(QUICK, steps=3)))
    with pytest.raises(ValueError, match="seeds must be a whole number in 2 .. 100, got 1"):
        list(comparison.run(out, 1, settings=QUICK))
    assert out.read_text() == before


def test_the_least_held_out_loss_tunes_and_a_failure_never_wins():
    key = lambda m: grid.key(Trial("tuning", "adaln", m, comparison.TUNING_SEED))  # noqa: E731
    results = {key(0.5): {"loss": 0.2}, key(1.0): {"loss": 0.1}, key(2.0): {"failed": "non-finite"}}
    assert comparison.best_multiplier(results, "adaln", Settings(lr_multipliers=(0.5, 1.0, 2.0))) == 1.0


def test_intervals_cover_as_often_as_they_say():
    """Of 2,000 draws of four normals: 95 % of the intervals hold the mean, 99.9 % of the others the next draw."""
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 5, generator=g).tolist()
    held = [(interval(d[:4]), interval(d[:4], 0.999, prediction=True), d[4]) for d in draws]
    mean = sum(abs(mean) <= half for (mean, half), _, _ in held) / len(held)
    following = sum(abs(d - mean) <= half for _, (mean, half), d in held) / len(held)
    assert abs(mean - 0.95) < 0.02 and following > 0.996
    with pytest.raises(ValueError, match="at least 2 values"):
        interval([1.0])


def test_bound_is_one_half_for_a_generator_that_mixes_pairs_up(monkeypatch):
    """All things are there, but half of the scenes exchange their shapes: only the binding is at chance."""
    words = comparison.datasets.load("pairs").held_labels[:400]
    swapped, coin = words.clone(), torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.5
    swapped[coin, 5], swapped[coin, 9] = words[coin, 9], words[coin, 5]  # the shapes change places
    for drawn, low, high in ((words, 1.0, 1.0), (swapped, 0.4, 0.6)):
        pictures = render(drawn, 24)
        monkeypatch.setattr(comparison, "sample", lambda *a, pictures=pictures, **k: pictures)
        found = comparison.quality(None, words)
        assert low <= found["bound"] <= high and found["objects"] == 1.0


def test_the_ceiling_of_a_bag_is_one_over_the_scenes_that_share_its_words():
    """Each of size, colour and shape that differs doubles them; a scene that training never shows is left out."""
    scene = "bright warm light, plain background, {} top-left, {} centre"
    for first, second, ceiling in (
        ("large red circle", "large red circle", 1),
        ("large red circle", "large yellow circle", 1 / 2),
        ("large red circle", "small yellow circle", 1 / 4),
        ("large red circle", "small yellow square", 1 / 8),
        ("large red circle", "small yellow triangle", 1 / 4),  # "red triangle" is held out: the colours stay
    ):
        tokens = parse([scene.format(first, second)], objects=2)
        assert comparison.bag_ceiling(tokens) == ceiling
        assert comparison.bag_ceiling(torch.cat([tokens, tokens])) == ceiling


def test_the_stored_comparison_is_complete(tmp_path):
    """Every result that the notebook reads is there, with five seeds or more, and nothing failed."""
    stored = asset("compare.json")
    assert comparison.missing(stored, seeds=5) == 0  # of the default settings, which notebook 07 shows
    results = json.loads(stored.read_text(encoding="utf8"))["results"]
    assert comparison.missing(tmp_path / "none.json", seeds=5) == len(results)
    for variant in VARIANTS:
        assert len(comparison.all_seeds(results, "compute", variant)) >= 5
    for variant in WIDTHS:
        assert len(comparison.all_seeds(results, "parameters", variant)) >= 5
    for variant in comparison.SHORT:
        assert len(comparison.all_seeds(results, "short", variant)) >= 8
    assert not any("failed" in result for key, result in results.items() if not key.startswith("tuning"))
    with pytest.raises(ValueError, match="expected one of compute"):
        comparison.all_seeds(results, "other", "adaln")


@pytest.mark.parametrize("variant", ["adaln_zero", "unet"])
def test_a_kept_model_is_loaded_as_what_it_is(variant, tmp_path, monkeypatch):
    """A U-Net's folder must give the U-Net back, also to `sample` and `evaluate`."""
    small = {"adaln_zero": {"width": 16, "depth": 1}, "unet": {"width": 8}}
    monkeypatch.setattr(comparison, "VARIANTS", {v: replace(VARIANTS[v], **small[v]) for v in small})
    train_and_score(Trial("compute", variant, 1.0, 0), QUICK, models=tmp_path)
    folder = tmp_path / f"{variant}_0"
    model = comparison.load_variant(folder)
    assert model.config == comparison.VARIANTS[variant]
    assert main(["sample", "--run", str(folder), "--n", "2", "--steps", "1", "--out", str(tmp_path / "a.png")]) == 0
    if variant == "unet":
        with pytest.raises(ValueError, match="holds a TinyUNet, not a TinyDiT"):
            load_model(folder)


def test_the_number_of_threads_is_restored_after_an_interruption(monkeypatch):
    def interrupted(*_):
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "train", interrupted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_and_score(Trial("short", "adaln_zero", 1.0, 0), QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
