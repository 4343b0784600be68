"""What does a drawn emoji show? Answered by a small network that was trained on real pictures alone, then frozen.

    style, category   its two heads
    noun              the real picture whose features are nearest by angle, among both styles' pictures of all nouns

It was trained to tell style, category and noun apart in pictures that were shifted, blurred and made noisy; every tenth
noun was kept from it, to measure what it is worth. Letters: N pictures, F = 96 features, M nouns.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.data import emoji
from adaln_lab.experiments.classifier import in_chunks, load_frozen
from adaln_lab.utils.assets import asset
from adaln_lab.utils.checks import one_of

FILE = "classifier_emoji.safetensors"
SIZE = 24  # pictures of other sizes are resized
KEPT = slice(5, None, 10)  # nouns that the fit never sees


def categories() -> tuple[str, ...]:
    return tuple(sorted({noun.category for noun in emoji.nouns()}))


class EmojiClassifier(nn.Module):
    """Pictures (N, 3, 24, 24) -> features (N, 96); `style` and `category` are Linear layers on them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GELU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, 96),
        )
        self.style, self.category = nn.Linear(96, len(emoji.STYLES)), nn.Linear(96, len(categories()))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@dataclass(frozen=True)
class Seen:
    """What the classifier sees in N pictures; shares are means over them."""

    style: Tensor  # (N,) index into emoji.STYLES
    category: Tensor  # (N,) index into categories()
    nouns: Tensor  # (N, 5) the nearest nouns, nearest first, none of them twice


def resized(x: Tensor) -> Tensor:
    if x.shape[-1] == SIZE:
        return x
    return F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(-1, 1)


def disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (N, 3, 24, 24) moved by up to two pixels, blurred by up to 0.6 pixels, with noise of 0.1."""
    i, j = torch.randint(5, (2,), generator=generator).tolist()
    x = F.pad(x, (2, 2, 2, 2), value=1.0)[..., i : i + SIZE, j : j + SIZE]
    sigma = 0.05 + 0.55 * torch.rand((), generator=generator)
    line = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * sigma**2))
    kernel = (line / line.sum()).repeat(3, 1)
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel[:, None, :, None], groups=3), kernel[:, None, None, :], groups=3)
    return x + 0.1 * torch.randn(x.shape, generator=generator)


@cache
def load() -> EmojiClassifier:
    """The classifier that comes with the package."""
    return load_frozen(EmojiClassifier(), asset(FILE))


@cache
def _gallery(model: EmojiClassifier) -> Tensor:
    """Features (2 M, F) of all real pictures, each of length 1."""
    return F.normalize(in_chunks(model, emoji.pictures(SIZE).flatten(0, 1)))


@torch.inference_mode()
def look(x: Tensor, model: EmojiClassifier | None = None) -> Seen:
    """Pictures (N, 3, size, size) in [-1, 1] -> what the classifier sees."""
    if x.dim() != 4 or x.shape[1] != 3 or not len(x) or not x.isfinite().all():
        raise ValueError(f"pictures must be (N, 3, size, size) with N >= 1, and finite; got {tuple(x.shape)}")
    model = model or load()
    features = in_chunks(model, resized(x.cpu()))
    near = F.normalize(features) @ _gallery(model).T  # (N, 2 M)
    near = near.unflatten(1, (len(emoji.STYLES), -1)).amax(1)  # (N, M), the better style
    return Seen(model.style(features).argmax(1), model.category(features).argmax(1), near.topk(5).indices)


def asked(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (N, S) of named nouns -> the index of the style and of the noun, (N,) each."""
    place = {noun.words: i for i, noun in enumerate(emoji.nouns())}
    found = [prompt.rsplit(", ", 1) for prompt in emoji.prompts(rows)]
    if lost := [words for words, _ in found if words not in place]:
        raise ValueError(f"only what a noun is called can be measured, and none is called {lost[0]!r:.60}")
    styles = torch.tensor([emoji.STYLES.index(one_of("style", style, emoji.STYLES)) for _, style in found])
    return styles, torch.tensor([place[words] for words, _ in found])


def quality(x: Tensor, rows: Tensor, model: EmojiClassifier | None = None) -> dict[str, float]:
    """Shares of pictures (N, ...) in which the classifier sees what the tokens (N, S) ask for."""
    style, noun = asked(rows)
    if len(x) != len(rows):
        raise ValueError(f"there must be one row of tokens for each of {len(x)} pictures, got {len(rows)}")
    seen = look(x, model)
    category = torch.tensor([categories().index(n.category) for n in emoji.nouns()])[noun]
    right = {
        "style": seen.style == style,
        "category": seen.category == category,
        "noun": seen.nouns[:, 0] == noun,
        "noun_in_5": (seen.nouns == noun[:, None]).any(1),
        "both": (seen.style == style) & (seen.nouns[:, 0] == noun),
    }
    return {name: values.float().mean().item() for name, values in right.items()}


def worth(model: EmojiClassifier | None = None) -> dict[str, float]:
    """The classifier on real pictures, disturbed, of the nouns that were kept from it."""
    generator = torch.Generator().manual_seed(1)
    kept = range(len(emoji.nouns()))[KEPT]
    rows = torch.tensor([emoji.tokens(emoji.nouns()[j].words, style) for style in emoji.STYLES for j in kept])
    real = emoji.pictures(SIZE)[:, KEPT].flatten(0, 1)
    return quality(torch.cat([disturbed(x, generator) for x in real.split(10)]), rows, model)


def nearest_training(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (N, 3, size, size) -> their distance to the closest picture that training shows (root mean square over
    pixels, which lie in [-1, 1]), and that picture's style and noun, (N,) each."""
    pairs = torch.tensor(emoji.pairs(seen=True))
    shown = emoji.pictures(x.shape[-1])[pairs[:, 0], pairs[:, 1]].flatten(1)
    distance, i = torch.cdist(x.cpu().flatten(1), shown).min(1)
    return distance / shown.shape[1] ** 0.5, pairs[i, 0], pairs[i, 1]
