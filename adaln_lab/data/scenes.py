"""Scenes in which every factor is known: coloured objects on a board of nine cells, under one light.

    pixel = light * albedo,    albedo = background where no object is, else the object's colour

Global factors belong to the whole picture (brightness and tone of the light, background), local ones to one object
(size, colour, shape, cell). A scene is a row of token ids, one for each factor, (3 + 4 objects,); an absent object is
the token "nothing" four times. `render` draws a batch of scenes at any size; its edges are anti-aliased by signed
distances. Letters: B scenes, S = 3 + 4 O tokens, O objects, N pixels a side.
"""

import difflib
import math
import re
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from adaln_lab.utils.checks import one_of, whole

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
VOCABULARY = (*(word for words in FACTORS.values() for word in words), "nothing")  # a word's index is its token id
NOTHING = len(VOCABULARY) - 1
FIRST = {name: VOCABULARY.index(words[0]) for name, words in FACTORS.items()}  # the token of a factor's first word
SILENT = {"light", "background", "on", "a", "an", "the", "and", "with", "under", "at"}  # words without a token

ALBEDO = torch.tensor([[0.85, 0.12, 0.12], [0.10, 0.60, 0.15], [0.10, 0.20, 0.85], [0.90, 0.80, 0.10]])  # of colours
LIGHT = torch.tensor([[1.0, 0.86, 0.62], [0.66, 0.86, 1.0]])  # warm, cold
LEVEL = torch.tensor([1.0, 0.55])  # bright, dim
RADIUS = torch.tensor([0.14, 0.085])  # large, small; the picture is 1 wide, a cell a third
JITTER = 0.02  # an object's centre, both ways; sizes and light vary by 5 %
NEW = (("red", "triangle"), ("green", "circle"), ("blue", "square"))  # can be held out: does "red" carry over to them?
PAIRS = torch.tensor([[VOCABULARY.index(word) for word in pair] for pair in NEW])
COMBINATIONS = ("all", "seen", "new")


@cache
def _tables(device: torch.device) -> tuple[Tensor, ...]:
    """RADIUS, ALBEDO, LIGHT, LEVEL and PAIRS on the device, copied once: a copy in each batch would wait for it."""
    with torch.inference_mode(False):
        return tuple(table.to(device) for table in (RADIUS, ALBEDO, LIGHT, LEVEL, PAIRS))


def random_scenes(n: int, generator: torch.Generator, objects: int = 1, combinations: str = "all") -> Tensor:
    """Tokens (n, 3 + 4 objects) of n random scenes: all values equally likely, no cell taken twice.

    combinations: "seen" leaves out the pairs of colour and shape in NEW, "new" gives the first object one of them.
    """
    whole("objects", objects, 1, len(CELLS))  # one a cell
    whole("n", n, 1, 1_000_000)
    one_of("combinations", combinations, COMBINATIONS)

    def pick(name: str) -> Tensor:
        chosen = torch.randint(len(FACTORS[name]), (n, 1), generator=generator, device=generator.device)
        return FIRST[name] + chosen

    scene = [pick(name) for name in GLOBAL]
    cells = FIRST["cell"] + torch.rand(n, len(CELLS), generator=generator, device=generator.device).argsort(1)
    for i in range(objects):
        scene += [pick("size"), pick("colour"), pick("shape"), cells[:, i : i + 1]]
    tokens = torch.cat(scene, dim=1)
    return tokens if combinations == "all" else _recombined(tokens, generator, combinations == "new")


def _recombined(tokens: Tensor, generator: torch.Generator, new: bool) -> Tensor:
    """The scenes with another shape for each object that is in NEW; `new`: the first object is one of NEW."""
    tokens, start, n = tokens.clone(), len(GLOBAL), len(LOCAL["shape"])
    pairs = _tables(tokens.device)[-1]  # (3, 2)
    objects = tokens[:, start:].unflatten(1, (-1, len(LOCAL)))  # a view: (n, O, 4)
    looks = objects[..., 1:3]
    held = (looks.unsqueeze(2) == pairs).all(-1).any(-1)  # (n, O)
    step = 1 + torch.randint(n - 1, held.shape, generator=generator, device=tokens.device)
    other = FIRST["shape"] + (looks[..., 1] - FIRST["shape"] + step) % n
    looks[..., 1] = torch.where(held, other, looks[..., 1])
    if new:
        chosen = torch.randint(len(NEW), (len(tokens),), generator=generator, device=tokens.device)
        looks[:, 0] = pairs[chosen]
    return tokens


def indices(tokens: Tensor) -> dict[str, Tensor]:
    """Tokens (B, S) -> the index of each factor's value: (B,) for global, (B, O) for local factors, -1 for nothing."""
    own = {name: tokens[:, i] - FIRST[name] for i, name in enumerate(GLOBAL)}
    objects = tokens[:, len(GLOBAL) :].unflatten(1, (-1, len(LOCAL)))  # (B, O, 4)
    for i, name in enumerate(LOCAL):
        own[name] = torch.where(objects[..., i] == NOTHING, -1, objects[..., i] - FIRST[name])
    return own


def check(tokens: Tensor) -> None:
    """ValueError if tokens are not scenes: a token in another factor's position, or two objects in one cell."""
    objects, rest = divmod(tokens.shape[-1] - len(GLOBAL), len(LOCAL))
    if tokens.dim() != 2 or objects < 1 or rest or tokens.dtype != torch.int64 or len(tokens) < 1:
        raise ValueError(
            f"scenes are rows of {len(GLOBAL)} + {len(LOCAL)} tokens (int64) for each object, got {tokens.dtype} of "
            f"shape {tuple(tokens.shape)}"
        )
    for name, value in indices(tokens).items():
        least = 0 if name in GLOBAL else -1
        if value.min() < least or value.max() >= len(FACTORS[name]):
            raise ValueError(
                f"a token for the {name} must be one of {', '.join(FACTORS[name])}; check the order of the tokens"
            )
    absent = (tokens[:, len(GLOBAL) :] == NOTHING).unflatten(1, (-1, len(LOCAL)))  # (B, O, 4)
    if (absent.any(-1) != absent.all(-1)).any():
        raise ValueError(f"an object is {len(LOCAL)} tokens, or 'nothing' {len(LOCAL)} times; got a part of one")
    cells = indices(tokens)["cell"]
    taken = torch.nn.functional.one_hot(cells + 1, len(CELLS) + 1)[..., 1:].sum(1)  # (B, 9) objects in each cell
    if taken.max() > 1:
        raise ValueError("two objects stand in one cell, where one would hide the other; give each its own")


def random_jitter(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """What the tokens (B, S) leave open, uniform in [-1, 1]: (B, 1 + 3 O), the strength of the light, then for each
    object its offset to the right, its offset down and its growth."""
    objects = (tokens.shape[1] - len(GLOBAL)) // len(LOCAL)
    return 2 * torch.rand(len(tokens), 1 + 3 * objects, generator=generator, device=generator.device) - 1


def render(tokens: Tensor, size: int = 32, jitter: Tensor | None = None) -> Tensor:
    """Tokens (B, S) -> pictures (B, 3, size, size) in [-1, 1], on the tokens' device; the same scenes at any size.

    `jitter`, from `random_jitter`, moves objects a little and changes their sizes and the light by up to 5 %.
    """
    whole("size", size, 16, 1024)  # with fewer pixels small shapes cannot be told apart
    check(tokens)
    return render_checked(tokens, size, jitter)


def render_checked(tokens: Tensor, size: int = 32, jitter: Tensor | None = None) -> Tensor:
    """`render` for tokens that are known to be scenes: looking at their values would stop a GPU at each batch."""
    own, device = indices(tokens), tokens.device
    radius, albedo, tones, level, _ = _tables(device)
    b, objects = own["cell"].shape
    jitter = torch.zeros(b, 1 + 3 * objects, device=device) if jitter is None else jitter
    along = (torch.arange(size, device=device) + 0.5) / size
    y, x = along[:, None], along[None, :]  # pixel centres; the picture is 1 wide and 1 high
    picture = _backgrounds(x, y)[own["background"]].unsqueeze(1).expand(-1, 3, -1, -1)  # (B, 3, N, N)
    for i in range(objects):
        shape, cell = own["shape"][:, i], own["cell"][:, i]
        dx, dy, grow = (v[:, None, None] for v in jitter[:, 1 + 3 * i : 4 + 3 * i].unbind(1))  # each (B, 1, 1)
        px = x - (cell % 3 + 0.5)[:, None, None] / 3 - JITTER * dx  # (B, 1, N)
        py = y - (cell // 3 + 0.5)[:, None, None] / 3 - JITTER * dy
        r = radius[own["size"][:, i], None, None] * (1 + 0.05 * grow)
        distance = _distances(px, py, r)[shape, torch.arange(b, device=device)]  # (B, N, N), negative inside
        cover = (0.5 - distance * size).clamp(0, 1) * (cell >= 0)[:, None, None]
        colour = albedo[own["colour"][:, i], :, None, None]
        picture = torch.lerp(picture, colour, cover.unsqueeze(1))
    light = tones[own["tone"]] * (level[own["brightness"]] * (1 + 0.05 * jitter[:, 0]))[:, None]
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


def captions(tokens: Tensor) -> list[str]:
    """Tokens (B, S) -> sentences that `parse` reads: "bright warm light, plain background, small red circle top"."""
    check(tokens)
    sentences = []
    for row in tokens.tolist():
        brightness, tone, background, *rest = (VOCABULARY[i] for i in row)
        objects = [" ".join(rest[i : i + 4]) for i in range(0, len(rest), 4) if rest[i] != "nothing"]
        sentences.append(", ".join([f"{brightness} {tone} light", f"{background} background", *objects]))
    return sentences


def sentences(tokens: Tensor) -> list[str]:
    """Tokens (B, S) -> plain English, for people: "A small red circle at the top, on a plain background, in ..."."""
    check(tokens)
    return [_sentence([VOCABULARY[i] for i in row]) for row in tokens.tolist()]


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
    """Sentences -> tokens (B, 3 + 4 objects). Each factor is named once; each object comes after a comma."""
    return torch.tensor([_parse(sentence, objects) for sentence in sentences])


def _parse(sentence: str, objects: int) -> list[int]:
    scene: dict[str, int] = {}
    things: list[dict[str, int]] = []
    for part in sentence.lower().split(","):
        thing: dict[str, int] = {}
        for word in re.split(r"[\s.]+", part):
            if not word or word in SILENT:
                continue
            if word not in VOCABULARY[:-1]:
                near = difflib.get_close_matches(word, VOCABULARY[:-1], n=3, cutoff=0.4) or VOCABULARY[:-1]
                raise ValueError(f"{word!r} is not in the vocabulary; nearest: {', '.join(near)}")
            name = next(name for name, values in FACTORS.items() if word in values)
            place = scene if name in GLOBAL else thing
            if place.get(name, VOCABULARY.index(word)) != VOCABULARY.index(word):
                raise ValueError(f"{word!r} contradicts {VOCABULARY[place[name]]!r} in {sentence!r}: one {name} each")
            place[name] = VOCABULARY.index(word)
        things += [thing] if thing else []
    if len(things) > objects:
        raise ValueError(f"{sentence!r} names {len(things)} objects, the caption has room for {objects}")
    for place, factors in ((scene, GLOBAL), *((thing, LOCAL) for thing in things)):
        for name in factors:
            if name not in place:
                raise ValueError(f"{sentence!r} names no {name}; choose one of {', '.join(FACTORS[name])}")
    row = [scene[name] for name in GLOBAL] + [thing[name] for thing in things for name in LOCAL]
    return row + [NOTHING] * (4 * (objects - len(things)))
