"""Scenes whose every factor is known: coloured objects on a board of nine cells, under one light.

    pixel = light * albedo,    albedo = background where no object is, else the object's colour

Global factors belong to the whole picture (brightness and tone of the light, background), local ones to one object
(size, colour, shape, cell). A scene is a row of words, one a factor, (3 + 4 objects,); "nothing" stands four times for
an object that is not there. `render` draws words at any size; edges are anti-aliased by signed distances, in one go for
a whole batch. Letters: B scenes, S = 3 + 4 O words, O objects, N pixels a side.
"""

import difflib
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

GLOBAL = {"brightness": ("bright", "dim"), "tone": ("warm", "cold"), "background": ("plain", "striped", "checked")}
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
CELLS = tuple("-".join(filter(None, (r, c))) or "centre" for r in ROWS for c in COLUMNS)  # top-left, top, top-right ...
LOCAL = {
    "size": ("large", "small"),
    "colour": ("red", "green", "blue", "yellow"),
    "shape": ("circle", "square", "triangle"),
    "cell": CELLS,
}
FACTORS = GLOBAL | LOCAL
WORDS = (*(word for words in FACTORS.values() for word in words), "nothing")  # the vocabulary; a word's place is its id
NOTHING = len(WORDS) - 1
FIRST = {name: WORDS.index(words[0]) for name, words in FACTORS.items()}  # the id of a factor's first word
SILENT = {"light", "background", "on", "a", "an", "the", "and", "with", "under", "at"}  # may stand in a sentence

ALBEDO = torch.tensor([[0.85, 0.12, 0.12], [0.10, 0.60, 0.15], [0.10, 0.20, 0.85], [0.90, 0.80, 0.10]])  # of colours
LIGHT = torch.tensor([[1.0, 0.86, 0.62], [0.66, 0.86, 1.0]])  # warm, cold
LEVEL = torch.tensor([1.0, 0.55])  # bright, dim
RADIUS = torch.tensor([0.14, 0.085])  # large, small; the picture is 1 wide, a cell a third
JITTER = 0.02  # an object's centre, both ways; sizes and light vary by 5 %
NEW = (("red", "triangle"), ("green", "circle"), ("blue", "square"))  # may be held out: is "red" understood anywhere?
COMBINATIONS = ("all", "seen", "new")


def draw(n: int, generator: torch.Generator, objects: int = 1, combinations: str = "all") -> Tensor:
    """Words (n, 3 + 4 objects) of n random scenes, every value as likely as the next, no cell taken twice.

    combinations "seen" draws no object of the colours and shapes in NEW, "new" makes the first object one of them.
    """
    if not 1 <= objects <= len(CELLS):
        raise ValueError(f"objects must lie in 1 .. {len(CELLS)}, one a cell, got {objects}")
    if combinations not in COMBINATIONS:
        raise ValueError(f"combinations must be one of {', '.join(COMBINATIONS)}; got {combinations!r}")

    def pick(name: str) -> Tensor:
        chosen = torch.randint(len(FACTORS[name]), (n, 1), generator=generator, device=generator.device)
        return FIRST[name] + chosen

    scene = [pick(name) for name in GLOBAL]
    cells = FIRST["cell"] + torch.rand(n, len(CELLS), generator=generator, device=generator.device).argsort(1)
    for i in range(objects):
        scene += [pick("size"), pick("colour"), pick("shape"), cells[:, i : i + 1]]
    words = torch.cat(scene, dim=1)
    return words if combinations == "all" else _recombined(words, generator, combinations == "new")


def _recombined(words: Tensor, generator: torch.Generator, new: bool) -> Tensor:
    """The scenes with other shapes where an object's colour and shape are in NEW; or with one of NEW put first."""
    words, start, n = words.clone(), len(GLOBAL), len(LOCAL["shape"])
    pairs = torch.tensor([[WORDS.index(word) for word in pair] for pair in NEW], device=words.device)  # (3, 2)
    objects = words[:, start:].unflatten(1, (-1, len(LOCAL)))  # a view: (n, O, 4)
    looks = objects[..., 1:3]
    held = (looks.unsqueeze(2) == pairs).all(-1).any(-1)  # (n, O)
    step = 1 + torch.randint(n - 1, held.shape, generator=generator, device=words.device)
    other = FIRST["shape"] + (looks[..., 1] - FIRST["shape"] + step) % n
    looks[..., 1] = torch.where(held, other, looks[..., 1])
    if new:
        chosen = torch.randint(len(NEW), (len(words),), generator=generator, device=words.device)
        looks[:, 0] = pairs[chosen]
    return words


def indices(words: Tensor) -> dict[str, Tensor]:
    """Words (B, S) -> which value each factor has: (B,) for global and (B, O) for local ones, -1 for nothing."""
    own = {name: words[:, i] - FIRST[name] for i, name in enumerate(GLOBAL)}
    objects = words[:, len(GLOBAL) :].unflatten(1, (-1, len(LOCAL)))  # (B, O, 4)
    for i, name in enumerate(LOCAL):
        own[name] = torch.where(objects[..., i] == NOTHING, -1, objects[..., i] - FIRST[name])
    return own


def check(words: Tensor) -> None:
    """ValueError where words are no scene: a word in another factor's place, or two objects in one cell."""
    objects, rest = divmod(words.shape[-1] - len(GLOBAL), len(LOCAL))
    if words.dim() != 2 or objects < 1 or rest:
        raise ValueError(
            f"scenes are rows of {len(GLOBAL)} + {len(LOCAL)} x objects words, got shape {tuple(words.shape)}"
        )
    for name, value in indices(words).items():
        least = 0 if name in GLOBAL else -1
        if value.min() < least or value.max() >= len(FACTORS[name]):
            raise ValueError(
                f"a word for the {name} must be one of {', '.join(FACTORS[name])}; look at the words' order"
            )
    cells = indices(words)["cell"]
    taken = torch.nn.functional.one_hot(cells + 1, len(CELLS) + 1)[..., 1:].sum(1)  # (B, 9) objects in each cell
    if taken.max() > 1:
        raise ValueError("two objects stand in one cell; give each its own, or they hide each other")


def variations(words: Tensor, generator: torch.Generator) -> Tensor:
    """What no word names, in [-1, 1]: for each scene of words (B, S) the light's strength, then each object's move to
    the right, move down and growth, (B, 1 + 3 O)."""
    objects = (words.shape[1] - len(GLOBAL)) // len(LOCAL)
    return 2 * torch.rand(len(words), 1 + 3 * objects, generator=generator, device=generator.device) - 1


def render(words: Tensor, size: int = 32, vary: Tensor | None = None) -> Tensor:
    """Words (B, S) -> pictures (B, 3, size, size) in [-1, 1], on the words' device; the same scenes at any size.

    `vary`, from `variations`, moves objects a little in their cells and changes their sizes and the light by up to 5 %.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, or small shapes cannot be told apart; got {size}")
    check(words)
    own, device = indices(words), words.device
    b, objects = own["cell"].shape
    vary = torch.zeros(b, 1 + 3 * objects, device=device) if vary is None else vary
    along = (torch.arange(size, device=device) + 0.5) / size
    y, x = along[:, None], along[None, :]  # pixel centres; the picture is 1 wide and 1 high
    picture = _backgrounds(x, y)[own["background"]].unsqueeze(1).expand(-1, 3, -1, -1)  # (B, 3, N, N)
    for i in range(objects):
        shape, cell = own["shape"][:, i], own["cell"][:, i]
        dx, dy, grow = (v[:, None, None] for v in vary[:, 1 + 3 * i : 4 + 3 * i].unbind(1))  # each (B, 1, 1)
        px = x - (cell % 3 + 0.5)[:, None, None] / 3 - JITTER * dx  # (B, 1, N)
        py = y - (cell // 3 + 0.5)[:, None, None] / 3 - JITTER * dy
        r = RADIUS.to(device)[own["size"][:, i], None, None] * (1 + 0.05 * grow)
        distance = _distances(px, py, r)[shape, torch.arange(b, device=device)]  # (B, N, N), negative inside
        cover = (0.5 - distance * size).clamp(0, 1) * (cell >= 0)[:, None, None]
        colour = ALBEDO.to(device)[own["colour"][:, i], :, None, None]
        picture = torch.lerp(picture, colour, cover.unsqueeze(1))
    light = LIGHT.to(device)[own["tone"]] * (LEVEL.to(device)[own["brightness"]] * (1 + 0.05 * vary[:, 0]))[:, None]
    return 2 * light[..., None, None] * picture - 1


def _backgrounds(x: Tensor, y: Tensor) -> Tensor:
    """Grey albedo of the plain, the striped and the checked background, (3, N, N); sines, so nothing can alias."""
    plain = torch.full(torch.broadcast_shapes(x.shape, y.shape), 0.68, device=x.device)
    return torch.stack(
        [
            plain,
            plain + 0.18 * torch.sin(6 * math.tau * (x + y)),
            plain + 0.24 * torch.sin(4 * math.tau * x) * torch.sin(4 * math.tau * y),
        ]
    )


def _distances(px: Tensor, py: Tensor, r: Tensor) -> Tensor:
    """Signed distances (3, B, N, N) to a circle, a square of the same area and a triangle, around the origin."""
    circle = torch.hypot(px, py) - r
    square = torch.maximum(px.abs(), py.abs()) - 0.89 * r
    triangle = torch.maximum(py, 0.866 * px.abs() - 0.5 * py) - 0.64 * r  # inscribed radius; points up
    return torch.stack([circle, square, triangle])


def captions(words: Tensor) -> list[str]:
    """Words (B, S) -> sentences that `parse` reads: "bright warm light, plain background, small red circle top"."""
    check(words)
    sentences = []
    for row in words.tolist():
        brightness, tone, background, *rest = (WORDS[i] for i in row)
        objects = [" ".join(rest[i : i + 4]) for i in range(0, len(rest), 4) if rest[i] != "nothing"]
        sentences.append(", ".join([f"{brightness} {tone} light", f"{background} background", *objects]))
    return sentences


def sentences(words: Tensor) -> list[str]:
    """Words (B, S) -> plain English, for people: "A small red circle at the top, on a plain background, in ..."."""
    check(words)
    return [_sentence([WORDS[i] for i in row]) for row in words.tolist()]


def _sentence(row: list[str]) -> str:
    brightness, tone, background, *rest = row
    things = [rest[i : i + 4] for i in range(0, len(rest), 4) if rest[i] != "nothing"]
    said = [f"a {size} {colour} {shape} {_where(cell)}" for size, colour, shape, cell in things]
    board = f"on a {background} background, in {brightness} {tone} light."
    return ", ".join([" and ".join(said) or "nothing", board]).capitalize()


def _where(cell: str) -> str:
    preposition = {"centre": "in", "left": "on", "right": "on"}.get(cell, "at")
    return f"{preposition} the {cell.replace('-', ' ')}"


def parse(sentences: Sequence[str], objects: int = 1) -> Tensor:
    """Sentences -> words (B, 3 + 4 objects). Each factor is named once, each object's four after a comma of its own."""
    return torch.tensor([_parse(sentence, objects) for sentence in sentences])


def _parse(sentence: str, objects: int) -> list[int]:
    scene: dict[str, int] = {}
    things: list[dict[str, int]] = []
    for part in sentence.lower().split(","):
        words = [word for word in re.split(r"[\s.]+", part) if word and word not in SILENT]
        thing: dict[str, int] = {}
        for word in words:
            if word not in WORDS[:-1]:
                near = difflib.get_close_matches(word, WORDS[:-1], n=3, cutoff=0.4) or WORDS[:-1]
                raise ValueError(f"{word!r} is not in the vocabulary; nearest: {', '.join(near)}")
            name = next(name for name, values in FACTORS.items() if word in values)
            place = scene if name in GLOBAL else thing
            if place.get(name, WORDS.index(word)) != WORDS.index(word):
                raise ValueError(f"{word!r} contradicts {WORDS[place[name]]!r} in {sentence!r}: one {name} each")
            place[name] = WORDS.index(word)
        things += [thing] if thing else []
    if len(things) > objects:
        raise ValueError(f"{sentence!r} names {len(things)} objects, the caption has room for {objects}")
    for place, factors in ((scene, GLOBAL), *((thing, LOCAL) for thing in things)):
        for name in factors:
            if name not in place:
                raise ValueError(f"{sentence!r} names no {name}; choose one of {', '.join(FACTORS[name])}")
    row = [scene[name] for name in GLOBAL] + [thing[name] for thing in things for name in LOCAL]
    return row + [NOTHING] * (4 * (objects - len(things)))
