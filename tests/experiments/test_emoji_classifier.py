"""The classifier of emoji sees what real pictures show, knows its worth, and refuses what it cannot measure."""

import pytest
import torch

from adaln_lab.data import emoji
from adaln_lab.experiments import emoji_classifier
from adaln_lab.utils.assets import asset
from adaln_lab.utils.files import read_tensors
from benchmarks.classifiers import fit_emoji


def tokens(*names: str, style: str = "noto") -> torch.Tensor:
    return torch.tensor([emoji.tokens(name, style) for name in names])


@pytest.fixture(scope="module")
def real() -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Size -> 94 real pictures and their tokens."""
    nouns = emoji.nouns()[::30]
    rows = torch.cat([tokens(*(noun.words for noun in nouns), style=style) for style in emoji.STYLES])
    return {size: (emoji.pictures(size)[:, ::30].flatten(0, 1), rows) for size in (16, 24, 32)}


@pytest.mark.parametrize("size", [16, 24, 32])
def test_real_pictures_of_every_size_are_recognised(real, size):
    found = emoji_classifier.quality(*real[size])
    assert found["noun"] >= 0.95 and found["style"] >= 0.95 and found["category"] >= 0.9


def test_noise_and_exchanged_captions_are_found_out(real):
    """Else a model that draws anything would pass: pictures of others, the other style, noise, white."""
    x, rows = real[24]
    half = len(rows) // 2
    others = emoji_classifier.quality(x, torch.cat([rows[:half].roll(1, 0), rows[half:].roll(1, 0)]))
    assert others["noun"] == 0 and others["style"] >= 0.95
    other_style = emoji_classifier.quality(x, rows.roll(half, 0))
    assert other_style["style"] < 0.05 and other_style["noun"] >= 0.95 and other_style["both"] < 0.05
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert emoji_classifier.quality(noise, rows)["noun_in_5"] < 0.2
    assert emoji_classifier.quality(torch.ones_like(x), rows)["noun_in_5"] < 0.2


def test_its_worth_is_the_stored_one():
    """What samples are held against was measured with these weights, on things that the fit never saw."""
    stored = read_tensors(asset(emoji_classifier.FILE))[1]
    worth = emoji_classifier.worth()
    assert worth == pytest.approx({name: stored[name] for name in worth}, abs=0.01)
    assert worth["style"] >= 0.85 and worth["noun"] >= 0.95


def test_the_fit_never_sees_the_things_that_measure_its_worth(monkeypatch):
    shown = []
    monkeypatch.setattr(emoji_classifier, "disturbed", lambda x, generator: shown.append(x) or x)
    fitted = fit_emoji(steps=2, batch=64)
    kept = {row.numpy().tobytes() for row in emoji.pictures(24)[:, emoji_classifier.KEPT].flatten(0, 1)}
    assert len(torch.cat(shown)) == 128
    assert not kept & {row.numpy().tobytes() for row in torch.cat(shown)}
    assert not any(p.requires_grad for p in fitted.parameters())


def test_the_nearest_training_picture_of_one_that_was_shown_is_itself():
    shown, held = emoji.pairs(seen=True)[::200], emoji.pairs(seen=False)[::20]
    for pairs, is_zero in ((shown, True), (held, False)):
        x = torch.stack([emoji.pictures(16)[i, j] for i, j in pairs])
        distance, style, noun = emoji_classifier.nearest_training(x)
        assert (list(zip(style.tolist(), noun.tolist(), strict=True)) == pairs) == is_zero
        assert bool((distance < 1e-3).all()) == bool((distance < 1e-3).any()) == is_zero
        x = x + 0.5  # a distance is the root mean square over pixels
        assert emoji_classifier.nearest_training(x)[0].max() <= 0.5 + distance.max() + 1e-3


X = torch.zeros(2, 3, 24, 24)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: emoji_classifier.asked(tokens("heart red")), "none is called 'heart red'"),
        (lambda: emoji_classifier.asked(tokens("cat").flip(1)), "none is called 'cat noto'"),
        (
            lambda: emoji_classifier.asked(tokens("cat")[:, [1, 1, 2, 3, 4, 5]]),
            "style must be one of twemoji, noto; got 'cat'",
        ),
        (lambda: emoji_classifier.asked(torch.full((1, 6), 1202)), "integers in 0 .. 1201, got 1202"),
        (lambda: emoji_classifier.quality(X, tokens("cat")), "each of 2 pictures, got 1"),
        (lambda: emoji_classifier.quality(X[:0], tokens("cat")[:0]), "at least one"),
        (lambda: emoji_classifier.look(X[:0]), "with N >= 1"),
        (lambda: emoji_classifier.look(X[:, :1]), r"\(N, 3, size, size\) .* got \(2, 1, 24, 24\)"),
        (lambda: emoji_classifier.look(X[0]), r"got \(3, 24, 24\)"),
        (lambda: emoji_classifier.look(X / 0), "finite"),
        (lambda: emoji_classifier.nearest_training(X[..., :23, :23]), "sizes 16, 20, 24, 28, 32, got 23"),
    ],
)
def test_what_it_cannot_measure_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
