"""What is compared differs in what it says and in nothing else; what is kept is not run again; intervals are true."""

import json
from dataclasses import replace

import pytest
import torch

from adaln_lab.data.scenes import parse, render
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import comparison, grid
from adaln_lab.experiments.comparison import (
    CAPTIONS,
    REFERENCE,
    STUDIES,
    WAYS,
    Settings,
    Trial,
    build,
    flops,
    interval,
    train_and_score,
)
from adaln_lab.utils.assets import asset

QUICK = Settings(
    steps=2, label_steps=2, batch=4, short_steps=1, curve_points=1, samples=20, tuning_share=1, most_doublings=1
)
TRANSFORMERS = [name for name, way in WAYS.items() if way]
CAPTION = "bright warm light, plain background, large {} circle top-left, large {} square bottom-right"


def test_steps_make_the_compute_of_captions_equal_and_those_of_labels_are_equal():
    settings = Settings()
    spent = {name: Trial("captions", "final", name, 0, 0).steps(settings) * flops(name) for name in WAYS}
    for name, total in spent.items():
        assert total == pytest.approx(spent[REFERENCE], rel=1e-3), name
    assert {Trial("label", "final", name, 0, 0).steps(settings) for name in STUDIES["label"]} == {settings.label_steps}


def test_flops_are_those_of_arithmetic():
    """Twice the multiply-adds of each Linear and of attention: what a caption beside the image's tokens costs more."""
    d, words, tokens = 96, 12, 36
    blocks = 4 * 2 * (12 * words * d**2 + 2 * ((tokens + words) ** 2 - tokens**2) * d)
    plain = TinyDiT(DiTConfig(**CAPTIONS, patch=4, width=d)).config
    assert plain.depth == 4 and flops("context_tokens_time") - flops_of_plain(d, tokens, plain) == blocks


def flops_of_plain(d, tokens, config):
    """Embedding of patches, four blocks without any condition, final layer and the time's two Linears, by hand."""
    patch = config.channels * config.patch**2
    blocks = 4 * (12 * tokens * d**2 + 2 * tokens**2 * d)
    final = 2 * d**2 + tokens * d * patch  # shift and scale of the last norm, then pixels
    time = 64 * d + d**2  # two Linears after 64 sinusoids
    return 2 * (tokens * patch * d + blocks + final + time)


def randomized(name):
    torch.manual_seed(0)
    model = build(name).double()
    for weight in model.parameters():  # zeros would hide every difference
        torch.nn.init.normal_(weight, std=0.3 if weight.dim() < 2 else weight.shape[-1] ** -0.5)
    return model


def inputs():
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.2, 0.7], dtype=torch.float64)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_sum_cannot_tell_exchanged_colours_apart_and_the_others_can(name):
    y = parse([CAPTION.format("red", "yellow"), CAPTION.format("yellow", "red")], objects=2)
    model, (x, t) = randomized(name), inputs()
    one, other = model(x, t, y), model(x, t, y.flip(0))
    change = (one - other).abs().max()
    assert change < 1e-12 if WAYS[name].words == "sum" else change > 1e-3


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_only_gates_start_as_the_identity(name):
    """The whole stack of blocks, as `build` assembles it."""
    torch.manual_seed(0)
    model, (_, t) = build(name).double(), inputs()
    y = parse([CAPTION.format("red", "yellow")] * 2, objects=2)
    cond, h = model.condition(t, y), torch.randn(2, 47, 96, dtype=torch.float64)
    out = h
    for block in model.blocks:
        out = block(out, cond)
    assert torch.equal(out, h) == (WAYS[name].time == "gated")


@pytest.mark.parametrize(
    ("name", "variant"),
    {
        "adaln_sum": "adaln_zero",
        "adaln_sum_open": "adaln",
        "cross_tokens": "both",
        "cross_tokens_time": "cross_attention",
        "context_tokens_time": "in_context",
    }.items(),
)
def test_the_variants_of_the_package_are_among_the_ways(name, variant):
    model, (x, t) = randomized(name), inputs()
    known = TinyDiT(DiTConfig(**CAPTIONS, patch=4, width=96, variant=variant)).double()
    known.load_state_dict(model.state_dict())
    y = parse([CAPTION.format("red", "yellow"), CAPTION.format("green", "blue")], objects=2)
    assert torch.equal(model(x, t, y), known(x, t, y))


@pytest.fixture
def few(monkeypatch):
    """Three kinds of run, and in place of the loss on a thousand pictures a number that any change of weights moves."""
    monkeypatch.setattr(comparison, "STUDIES", {"label": (REFERENCE,), "captions": (REFERENCE, "cross_tokens")})
    size = lambda model, data: round(sum(p.abs().sum().item() for p in model.parameters()), 4)  # noqa: E731
    monkeypatch.setattr(comparison, "held_loss", size)


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_loses_no_trial(few, tmp_path, monkeypatch):
    straight, stopped = tmp_path / "straight.json", tmp_path / "stopped.json"
    done = list(comparison.run(straight, 2, settings=QUICK))
    results = json.loads(straight.read_text())["results"]
    assert len(done) == len(results) and sum("/final/" in key for key in results) == 3 * (2 + comparison.MORE_SEEDS)
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


def test_a_failed_rate_is_never_the_best():
    key = lambda k: grid.key(Trial("label", "tuning", "adaln_sum", k, comparison.TUNING_SEED))  # noqa: E731
    results = {key(0): {"loss": 0.2}, key(1): {"failed": "non-finite"}, key(-1): {"loss": 0.1}, key(-2): {"loss": 0.3}}
    losses = comparison.tuning_losses(results, "label", "adaln_sum", Settings())
    assert losses == {0: 0.2, 1: float("inf"), -1: 0.1, -2: 0.3}


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


def test_the_stored_comparison_is_complete_and_its_best_rates_have_worse_neighbours():
    stored = asset("compare.json")
    assert comparison.missing(stored, seeds=3) == []  # of the default settings, which notebook 07 shows
    results = json.loads(stored.read_text(encoding="utf8"))["results"]
    for study, names in STUDIES.items():
        for name in names:
            losses = comparison.tuning_losses(results, study, name, Settings())
            best = min(losses, key=losses.get)
            assert all(losses[k] > losses[best] for k in (best - 1, best + 1)), name
            found = comparison.all_seeds(results, study, "final", name)
            assert len(found) == 3 + comparison.MORE_SEEDS * (name in comparison.RACED)
            assert not any("failed" in result for result in found)
    with pytest.raises(ValueError, match="expected one of label"):
        comparison.all_seeds(results, "other", "final", "adaln_sum")


def test_the_number_of_threads_is_restored_after_an_interruption(monkeypatch):
    def interrupted(*_):
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "train", interrupted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_and_score(Trial("captions", "short", REFERENCE, 0, 0), QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
