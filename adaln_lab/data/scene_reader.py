"""Read a scene back from its picture without a network: render the candidates and take the nearest.

    light, background   the empty board that differs least from the picture; a pixel counts at most FAR, so that objects
                        in front of the board matter little
    each cell           nothing, or the object (size, colour, shape, a little moved) whose drawing differs least

Candidates are drawn sharp, blurred, and blurred twice, so that a generator's blur does not change the result. Letters:
B scenes, S = 3 + 4 O tokens, O objects, N pixels a side.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.data.scenes import CELLS, FACTORS, FIRST, GLOBAL, LEVEL, LIGHT, LOCAL, NOTHING, check, indices, render

PARTS = ("size", "colour", "shape")  # of an object, beside its cell
FAR = 0.15  # the largest difference of light that one pixel contributes


def read(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, N, N) in [-1, 1] -> tokens (B, 3 + 4 * 9): the object in each of the nine cells, row by row."""
    if pictures.dim() != 4 or pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3] or len(pictures) < 1:
        raise ValueError(f"pictures must be (B, 3, N, N), got {tuple(pictures.shape)}")
    return torch.cat([_read(part) for part in pictures.split(250)])


def _read(pictures: Tensor) -> Tensor:
    size, device = pictures.shape[-1], pictures.device
    scenes, boards = _boards(size, device)
    light = (pictures + 1) / 2  # light * albedo
    off = (light[:, None] - boards.flatten(0, 1)).abs().clamp(max=FAR).mean((2, 3, 4))  # (B, 12 for each softness)
    scene = off.argmin(1) % len(scenes)
    empty = boards[0, scene].sum(1)  # (B, N, N)
    strength = (light.sum(1) / empty).flatten(1).median(1).values.clamp(min=0.1)  # the light varies by some per cent
    tokens = scenes[scene]
    own = indices(tokens)
    level = LIGHT.to(device)[own["tone"]] * (LEVEL.to(device)[own["brightness"]] * strength)[:, None]  # (B, 3)
    albedo = light / level[..., None, None]
    drawings, objects = _drawings(size, device)
    found = []
    for cell in range(len(CELLS)):
        here = _window(albedo, cell)  # (B, pixels)
        drawn = _window(drawings.flatten(0, 1), cell)  # (3 * M, pixels)
        off = (drawn.square().sum(1) - 2 * here @ drawn.T).unflatten(1, (len(drawings), -1))  # (B, 3, M), but |here|^2
        seen = objects[off[torch.arange(len(here)), own["background"]].argmin(1)]  # (B, 3) tokens
        place = torch.where(seen[:, :1] == NOTHING, NOTHING, FIRST["cell"] + cell)
        found += [seen, place]
    return torch.cat([tokens[:, : len(GLOBAL)], *found], dim=1)


def _window(pictures: Tensor, cell: int) -> Tensor:
    """The pixels (B, n) whose centres lie in one of the nine cells."""
    size = pictures.shape[-1]
    edges = [-(-(2 * size * i - 3) // 6) for i in range(4)]  # the first pixel with (pixel + 1/2) / size >= i / 3
    (top, bottom), (left, right) = edges[cell // 3 : cell // 3 + 2], edges[cell % 3 : cell % 3 + 2]
    return pictures[:, :, max(top, 0) : bottom, max(left, 0) : right].flatten(1)


def _soften(pictures: Tensor) -> list[Tensor]:
    """Sharp, blurred by (1, 2, 1) / 4 both ways, and blurred twice; blurred less where stripes would vanish."""
    softer = [pictures]
    kernel = torch.tensor([1.0, 2.0, 1.0], device=pictures.device) / 4
    kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    for _ in range(min(2, pictures.shape[-1] // 8 - 2)):
        softer.append(F.conv2d(F.pad(softer[-1], (1, 1, 1, 1), "replicate"), kernel, groups=3))
    return softer


@lru_cache(maxsize=4)
def _boards(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The 12 empty scenes as tokens (12, 7), and their light at each softness, (1 to 3, 12, 3, N, N)."""
    tokens = [[FIRST[n] + i for n, i in zip(GLOBAL, own, strict=True)] + 4 * [NOTHING] for own in _values(GLOBAL)]
    tokens = torch.tensor(tokens, device=device)
    return tokens, torch.stack(_soften((render(tokens, size) + 1) / 2))


@lru_cache(maxsize=4)
def _drawings(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Albedo (3 backgrounds, M, 3, N, N) with the same object in all nine cells, and its tokens (M, 3)."""
    things = [[NOTHING] * 3] + [[FIRST[n] + i for n, i in zip(LOCAL, own, strict=False)] for own in _values(PARTS)]
    moves = torch.tensor([(0.0, x, y, 0.0) for x in (-1, 0, 1) for y in (-1, 0, 1)], device=device)  # of random_jitter
    albedo, objects = [], []
    for background in range(len(GLOBAL["background"])):
        rows = []
        for thing in things:
            places = [NOTHING if thing[0] == NOTHING else FIRST["cell"] + cell for cell in range(len(CELLS))]
            board = [FIRST["brightness"], FIRST["tone"], FIRST["background"] + background]
            rows.append(board + [token for place in places for token in (*thing, place)])
        tokens = torch.tensor(rows, device=device).repeat_interleave(len(moves), 0)
        jitter = torch.cat([moves[:, :1], moves[:, 1:].repeat(1, len(CELLS))], 1).repeat(len(things), 1)
        light = (render(tokens, size, jitter) + 1) / 2
        albedo.append(torch.cat(_soften(light / LIGHT[0].to(device)[:, None, None])))
    objects = torch.tensor(things, device=device).repeat_interleave(len(moves), 0)
    return torch.stack(albedo), objects.repeat(albedo[0].shape[0] // len(objects), 1)


def _values(factors: Iterable[str]) -> Iterator[tuple[int, ...]]:
    """Every combination of the factors' values, as indices."""
    return itertools.product(*(range(len(FACTORS[name])) for name in factors))


def agreement(found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Which factors agree in each scene: name -> (B,) bool. The tokens may have different numbers of objects.

    Sizes, colours and shapes are compared as multisets and cells as a set, so that each has its own accuracy; `binding`
    asks whether each colour is on the right shape, `all` whether the two scenes are the same.
    """
    if len(found) != len(wanted):
        raise ValueError(f"there must be tokens for each of {len(found)} scenes, got {len(wanted)}")
    check(wanted)
    a, b = _board(found), _board(wanted)
    same = {name: indices(found)[name] == indices(wanted)[name] for name in GLOBAL}
    for i, name in enumerate(PARTS):
        same[name] = (a[..., i].sort(1).values == b[..., i].sort(1).values).all(1)
    same["cell"] = ((a[..., 0] >= 0) == (b[..., 0] >= 0)).all(1)
    pair_a, pair_b = (x[..., 1] * len(LOCAL["shape"]) + x[..., 2] for x in (a, b))
    same["binding"] = (pair_a.sort(1).values == pair_b.sort(1).values).all(1)
    same["all"] = (a == b).flatten(1).all(1) & torch.stack([same[name] for name in GLOBAL]).all(0)
    return same


def scene_accuracy(pictures: Tensor, tokens: Tensor) -> dict[str, float]:
    """Share of pictures (B, 3, N, N) in which each factor is as the tokens (B, S) say."""
    return {name: same.sum().item() / len(same) for name, same in agreement(read(pictures), tokens).items()}


def _board(tokens: Tensor) -> Tensor:
    """(B, 9, 3): indices of size, colour and shape in each cell, -1 where it is empty."""
    own = indices(tokens)
    board = torch.full((len(tokens), len(CELLS) + 1, 3), -1, device=tokens.device)  # one cell more, for nothing
    parts = torch.stack([own[name] for name in PARTS], dim=-1)  # (B, O, 3)
    board.scatter_(1, (own["cell"] % (len(CELLS) + 1)).unsqueeze(-1).expand_as(parts), parts)
    return board[:, : len(CELLS)]
