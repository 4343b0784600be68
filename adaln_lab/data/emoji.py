"""Emoji: real pictures with names, each noun drawn in two styles.

A condition is a row of 1 + 5 tokens: the style, then the words of a name, then "nothing" up to five. Twemoji's pictures
are CC BY 4.0 (Twitter and contributors), Noto's Apache 2.0 (Google); assets/emoji/README.md is the data card.
Letters: N pictures, S = 6 tokens.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image  # matplotlib brings Pillow
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.utils.assets import asset
from adaln_lab.utils.checks import Text, check_labels, conform, one_of

STYLES = ("twemoji", "noto")
SPLITS = ("both", *STYLES, "new_pair", "new_noun")  # the styles in which training shows a noun; the last two: in none
SIZES = (16, 20, 24, 28, 32)
WORDS, TILE, COLUMNS = 5, 32, 40
SILENT = {"a", "an", "and", "at", "in", "of", "on", "s", "the", "with", "over", "facing"}  # words without a token
SAME = {"men": "man", "women": "woman", "children": "child", "people": "person", "leaves": "leaf", "knives": "knife"}


@dataclass(frozen=True)
class Noun:
    """A thing that both styles draw."""

    name: str  # as published
    words: str  # those of the name that have tokens
    category: str
    split: str  # one of SPLITS


@cache
def nouns() -> tuple[Noun, ...]:
    """All nouns by name; a noun's index is its place on the sheets."""
    return tuple(Noun(*row) for row in _names()["nouns"])


@cache
def _names() -> dict[str, Any]:
    """What names.json holds: "nouns", the fields of each Noun; "other_words", keyword -> the words of a noun."""
    return json.loads((asset("emoji") / "names.json").read_text(encoding="utf8"))


@cache
def vocabulary() -> tuple[str, ...]:
    """The words, "nothing", the styles; a word's index is its token id."""
    return (*sorted({word for noun in nouns() for word in noun.words.split()}), "nothing", *STYLES)


@cache
def _ids() -> dict[str, int]:
    return {word: i for i, word in enumerate(vocabulary())}


def tokens(words: str, style: str) -> list[int]:
    """One row of S tokens of known words."""
    row = words.split()
    return [_ids()[word] for word in [style, *row, *["nothing"] * (WORDS - len(row))]]


def prompts(rows: Tensor) -> list[str]:
    """Tokens (N, S) -> "red book, noto"."""
    known = vocabulary()
    check_labels(rows, len(rows), len(known) - 1, 1 + WORDS)
    found = [[known[i] for i in row] for row in rows.tolist()]
    return [f"{' '.join(w for w in words if w != 'nothing')}, {style}" for style, *words in found]


def parse(texts: Sequence[str], style: str) -> Tensor:
    """Prompts like "a red book" -> tokens (N, S). ValueError for a word that no name has, with the nearest ones."""
    one_of("style", style, STYLES)
    return torch.tensor([tokens(" ".join(_words(text, style)), style) for text in texts])


def _spoken(text: str) -> list[str]:
    """The words of a text that need a token."""
    found = re.findall(r"[^\W_]+", conform("a prompt", text, Text).lower())
    return [word for word in found if word not in SILENT]


def _known(word: str) -> str | None:
    """The word that has the token; None for one that no name has."""
    forms = [form for form in (SAME.get(word, word), word.removesuffix("s")) if form in _ids() and form != "nothing"]
    return forms[0] if forms and forms[0] not in STYLES else None


def _words(text: str, style: str) -> list[str]:
    found = []
    for word in _spoken(text):
        if word == style:
            continue
        if word in STYLES:
            raise ValueError(f"the prompt names the style {word}, asked for is {style}; got {text!r:.60}")
        if (known := _known(word)) is None:
            raise ValueError(f"no emoji's name has the word {word!r:.40}; try {', '.join(suggestions(word))}")
        found.append(known)
    found = list(dict.fromkeys(found))
    if not found:
        raise ValueError(f"a prompt needs a word that an emoji's name has, such as red book; got {text!r:.60}")
    if len(found) > WORDS:
        raise ValueError(f"a prompt has room for {WORDS} words, got {len(found)}: {' '.join(found):.80}")
    return found


def understood(text: str) -> str:
    """The prompt in words that have tokens: each unknown one replaced by the first of its suggestions."""
    found = []
    for word in _spoken(text or "cat"):
        if word not in STYLES:
            found += [_known(word)] if _known(word) else suggestions(word)[0].split()
    return " ".join(list(dict.fromkeys(found))[:WORDS]) or suggestions("")[0]


def suggestions(word: str) -> list[str]:
    """What to write for an unknown word: the noun that has it as a keyword, and words that look like it."""
    meant = _names()["other_words"].get(word)
    near = difflib.get_close_matches(word, vocabulary()[:-3], n=3, cutoff=0.6)
    return [*([meant] if meant else []), *near] or ["cat", "red heart", "book"]


@cache
def pictures(size: int = 24) -> Tensor:
    """All pictures, (2 styles, nouns, 3, size, size) in [-1, 1], on white."""
    if size not in SIZES:
        raise ValueError(f"emoji come in the sizes {', '.join(map(str, SIZES))}, got {size}")
    sheets = torch.stack([_sheet(style) for style in STYLES])  # (2, nouns, 3, 32, 32)
    if size == TILE:
        return sheets
    small = F.interpolate(sheets.flatten(0, 1), (size, size), mode="bilinear", antialias=True)
    return small.unflatten(0, sheets.shape[:2]).clamp(-1, 1)


def _sheet(style: str) -> Tensor:
    with Image.open(asset("emoji") / f"{style}.webp") as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
    tiles = pixels.unflatten(1, (COLUMNS, TILE)).unflatten(0, (-1, TILE))
    tiles = tiles.permute(0, 2, 4, 1, 3).flatten(0, 1)[: len(nouns())]  # (nouns, 3, 32, 32)
    return tiles.float() / 127.5 - 1


def pairs(seen: bool) -> list[tuple[int, int]]:
    """(style, noun) of the pictures that training shows, or of those that it does not."""
    found = [(i, j) for i in range(len(STYLES)) for j in range(len(nouns()))]
    return [(i, j) for i, j in found if (nouns()[j].split in ("both", STYLES[i])) == seen]
