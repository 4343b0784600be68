"""Four models that differ in nothing but the way in, and footprints that say what they are."""

import json
from dataclasses import replace

import pytest
import torch

from adaln_lab.conditioning import VARIANTS
from adaln_lab.data import datasets, emoji
from adaln_lab.experiments import emoji_study, grid
from adaln_lab.experiments.emoji_study import TUNING_SEED, WAYS, Settings, Trial, shares
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, train

QUICK = Settings(width=16, depth=1, steps=2, batch=4, tuning_share=0.5, most_doublings=0, sampler_steps=1)


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("emoji", size=16)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_on_emoji(variant, data):
    model, config = recipe("emoji", "cpu")
    model = replace(model, size=16, width=16, depth=1, variant=variant)
    run = Run.new(model, replace(config, steps=2, batch=4))
    list(train(run, data))
    assert len(run.history) == 2 and all(torch.tensor(step.loss).isfinite() for step in run.history)


def test_the_four_ways_have_equal_parameters_and_equal_starts():
    """Also in what they are not given: where nothing is read as tokens, cross-attention reads a constant."""
    states = []
    for way in WAYS:
        torch.manual_seed(0)
        states.append(emoji_study.build(way, QUICK).state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


@pytest.mark.parametrize("way", WAYS)
def test_what_goes_through_the_vector_does_not_reach_the_tokens_nor_the_other_way_round(way):
    """Gradients of c and of ctx with respect to the style's and the words' rows of the label table."""
    style_in_c, noun_in_c = WAYS[way]
    model = emoji_study.build(way, QUICK)
    y = emoji.parse(["red book"], "noto")
    c, ctx = model.condition(torch.tensor([0.5]), y)
    reached = {}
    for name, part in (("c", c), ("ctx", ctx)):
        grad = torch.autograd.grad(part.sum(), model.y_embed.table.weight, retain_graph=True, allow_unused=True)[0]
        grad = torch.zeros_like(model.y_embed.table.weight) if grad is None else grad
        reached[name] = [bool(grad[y[0, i]].abs().sum() > 0) for i in (0, 1, 2)]  # style, red, book
    assert reached["c"] == [style_in_c, noun_in_c, noun_in_c]
    assert reached["ctx"] == [not style_in_c, not noun_in_c, not noun_in_c]
    assert ctx.shape[1] == max(1, (1 - style_in_c) + (1 - noun_in_c) * emoji.WORDS)


def test_the_order_of_words_reaches_tokens_and_not_their_sum():
    """In the vector a noun is the sum of its words, and a red book is a book red; tokens have places."""
    y, swapped = (emoji.parse([text], "noto") for text in ("red book", "book red"))
    t = torch.tensor([0.5])
    for way, (_, noun_in_c) in WAYS.items():
        model = emoji_study.build(way, QUICK)
        a, b = model.condition(t, y), model.condition(t, swapped)
        assert torch.allclose(a.c, b.c, atol=1e-5)
        assert torch.allclose(a.ctx, b.ctx, atol=1e-5) == noun_in_c


# Footprints


def test_shares_of_a_change_add_up_and_name_its_scale():
    draw = torch.Generator().manual_seed(0)
    block = torch.randn(5, 3, 4, 4, generator=draw)
    changes = {
        "whole": torch.randn(5, 3, 1, 1, generator=draw).expand(5, 3, 16, 16),
        "coarse": (block - block.mean((2, 3), keepdim=True)).repeat_interleave(4, 2).repeat_interleave(4, 3),
        "fine": torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8).expand(5, 3, 16, 16),
    }
    for scale, change in changes.items():
        found = shares(change)
        assert found[scale] == pytest.approx(1, abs=1e-3), scale
        assert found["rms"] == pytest.approx(change.square().mean().sqrt().item(), abs=1e-3)
    found = shares(sum(changes.values()))
    assert found["whole"] + found["coarse"] + found["fine"] == pytest.approx(1, abs=1e-3)
    assert min(found.values()) > 0.05
    assert shares(torch.zeros(2, 3, 16, 16)) == {"whole": 0, "coarse": 0, "fine": 0, "rms": 0}


# Trials


def test_rows_that_are_asked_for_are_of_their_split(data):
    rows = emoji_study.asked_rows(data)
    assert {name: len(found) for name, found in rows.items()} == {
        "seen": 400, "new style": 127, "new pair": 18, "new noun": 54,
    }  # fmt: skip
    known = set(map(tuple, data.labels.tolist()))
    for name, found in rows.items():
        assert all((tuple(row) in known) == (name == "seen") for row in found.tolist())


def test_learning_rates_come_first_and_the_best_is_used():
    k = replace(QUICK, most_doublings=1)
    results, rounds = {}, []
    while trials := emoji_study.remaining(results, 2, k):
        rounds.append([(trial.table, trial.doublings) for trial in trials if trial.way == next(iter(WAYS))])
        results |= {grid.key(trial): {"loss": 1 - 0.1 * trial.doublings} for trial in trials}
    assert rounds == [[("tuning", 0)], [("tuning", -1), ("tuning", 1)], [("final", 1)] * 2]
    with pytest.raises(ValueError, match="seeds must be a whole number in 2 .. 100, got 1"):
        emoji_study.remaining({}, 1, k)


def test_a_tuning_trial_says_the_loss_and_follows_its_seed_alone(data):
    trial = Trial(next(iter(WAYS)), "tuning", 0, TUNING_SEED)
    found = emoji_study.train_and_score(trial, QUICK)
    assert found.keys() == {"parameters", "loss"} and 0.5 < found["loss"] < 3
    torch.manual_seed(99)
    assert emoji_study.train_and_score(trial, QUICK) == found


@pytest.mark.slow
def test_a_small_study_runs_to_its_end_and_is_not_run_again(tmp_path, monkeypatch):
    out = tmp_path / "study.json"
    done = list(emoji_study.run(out, 2, settings=QUICK))
    results = json.loads(out.read_text())["results"]
    assert len(done) == len(results) == 4 + 8
    final = results[grid.key(Trial(next(iter(WAYS)), "final", 0, 1))]
    assert final["quality"].keys() == {"seen", "new style", "new pair", "new noun"}
    assert final["style_change"].keys() == final["noun_change"].keys() == {"whole", "coarse", "fine", "rms"}
    assert list(emoji_study.run(out, 2, settings=QUICK)) == []
    with pytest.raises(ValueError, match="holds no results of the settings"):
        next(emoji_study.run(out, 2, settings=replace(QUICK, steps=3)))
