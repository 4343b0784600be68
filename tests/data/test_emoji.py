"""Emoji: each tile shows what its name says, nothing held out is shown, and wrong words are refused with right ones."""

import pytest
import torch

from adaln_lab.data import datasets, emoji
from adaln_lab.utils.assets import asset


def place(words: str) -> int:
    return next(i for i, noun in enumerate(emoji.nouns()) if noun.words == words)


# The sheets and the names


@pytest.mark.parametrize("style", range(2))
def test_a_tile_shows_what_its_name_says(style):
    """The colour in the middle is that of the name; a sheet that is off by one tile fails in each of these."""
    colours = {"red": (0.85, -0.6, -0.55), "green": (-0.2, 0.4, -0.3), "blue": (-0.6, 0, 0.8), "yellow": (1, 0.6, -0.5)}
    colours |= {"orange": (1, 0.15, -1), "purple": (0.3, -0.3, 0.6), "brown": (0.5, -0.2, -0.4), "black": (-0.6,) * 3}
    known = torch.tensor(list(colours.values()))
    asked = [(c, t) for c in colours for t in ("heart", "circle", "square") if f"{c} {t}" in names()]
    assert len(asked) >= 20
    for colour, thing in asked:
        middle = emoji.pictures(32)[style, place(f"{colour} {thing}"), :, 10:22, 10:22].mean((1, 2))
        assert list(colours)[(known - middle).norm(dim=1).argmin()] == colour, thing


def names() -> set[str]:
    return {noun.words for noun in emoji.nouns()}


def test_names_are_unique_and_fit_a_row():
    nouns = emoji.nouns()
    assert len(nouns) == len(names()) == len({noun.name for noun in nouns}) == 1410
    assert [noun.name for noun in nouns] == sorted(noun.name for noun in nouns)
    assert all(1 <= len(noun.words.split()) <= emoji.WORDS and noun.split in emoji.SPLITS for noun in nouns)
    assert len({noun.category for noun in nouns}) == 8
    assert len(emoji.vocabulary()) == len(set(emoji.vocabulary())) == 1202


@pytest.mark.parametrize("size", emoji.SIZES)
def test_each_size_shows_the_same_pictures(size):
    """Means over a grid of 4 x 4 do not depend on the resolution."""
    large, own = emoji.pictures(32).flatten(0, 1), emoji.pictures(size).flatten(0, 1)
    assert own.shape == (2820, 3, size, size) and own.dtype == torch.float32
    assert own.min() >= -1 and own.max() <= 1
    coarse = (torch.nn.functional.adaptive_avg_pool2d(x, 4) for x in (large, own))
    assert torch.dist(*coarse, p=torch.inf) < 0.1
    data = datasets.load("emoji", size=size)
    assert torch.equal(data.images[0], emoji.pictures(size)[emoji.pairs(seen=True)[0]])


# The splits


def test_training_shows_nothing_that_is_held_out():
    """Neither the caption nor, pixel by pixel, the picture; at the smallest size, where pictures are most alike."""
    data = datasets.load("emoji", size=16)
    assert (len(data.images), len(data.held_images)) == (2621, 199)
    for shown, held in ((data.images, data.held_images), (data.labels, data.held_labels)):
        rows = [row.tobytes() for row in torch.cat([shown, held]).numpy()]
        assert len(set(rows)) == 2820
    split = {noun.words: noun.split for noun in emoji.nouns()}
    for prompt in emoji.prompts(data.labels):
        words, style = prompt.rsplit(", ", 1)
        assert split[words] in ("both", style)


def test_training_shows_every_word_that_is_asked_for_later():
    """A new combination of known words can be drawn; a word without a picture is a token that was never trained."""
    data = datasets.load("emoji", size=16)
    assert set(data.held_labels.unique().tolist()) <= set(data.labels.unique().tolist())
    for noun in emoji.nouns():
        if noun.split == "new_pair":  # both halves are seen in each style, apart
            for style in emoji.STYLES:
                row = torch.tensor(emoji.tokens(noun.words, style))
                assert all(((data.labels == word).any(1) & (data.labels[:, 0] == row[0])).sum() > 1 for word in row)


def test_each_split_has_as_many_nouns_as_the_card_says():
    counts = [sum(noun.split == split for noun in emoji.nouns()) for split in emoji.SPLITS]
    card = (asset("emoji") / "README.md").read_text(encoding="utf8")
    for split, count in zip(emoji.SPLITS, counts, strict=True):
        assert f"| `{split}` | {count:,} |" in card


# Words and tokens


def test_what_a_noun_is_called_leads_to_its_tokens_and_back():
    for style in emoji.STYLES:
        rows = torch.tensor([emoji.tokens(noun.words, style) for noun in emoji.nouns()])
        assert emoji.prompts(rows) == [f"{noun.words}, {style}" for noun in emoji.nouns()]
        assert torch.equal(emoji.parse(emoji.prompts(rows), style), rows)
        assert torch.equal(emoji.parse([noun.name for noun in emoji.nouns()], style), rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red book", "red book"),
        ("The RED-book!", "red book"),
        ("red books", "red book"),
        ("women holding hands", "woman holding hand"),
        ("leaves", "leaf"),
        ("glasses", "glasses"),  # what has a plural name keeps it
        ("red book red", "red book"),
        ("book red", "book red"),  # the order stays
        ("red book, noto", "red book"),
    ],
)
def test_articles_plurals_and_repetitions_do_not_matter(text, words):
    assert emoji.parse([text], "noto").tolist() == [emoji.tokens(words, "noto")]


NULL = [[1202] * 6]  # a dropped caption


@pytest.mark.parametrize(
    ("call", "said"),
    [
        *(
            (lambda text=text: emoji.parse([text], "noto"), said)
            for text, said in [
                ("", "needs a word that an emoji's name has, such as red book; got ''"),
                ("a the of", "needs a word"),
                ("\N{DOG FACE}", "needs a word"),
                ("nothing", "no emoji's name has the word 'nothing'"),
                ("red boook", "'boook'; try book"),
                ("feline", "'feline'; try cat, "),  # a keyword of it
                ("книга", "try cat, red heart, book"),
                ("cat dog book heart apple wolf", "room for 5 words, got 6: cat dog"),
                ("red book, twemoji", "names the style twemoji, asked for is noto"),
                ("a" * 5000, "a prompt must be text of length 0 .. 1000, got 'aaa"),
                (None, "a prompt must be text"),
                (3, "a prompt must be text"),
            ]
        ),
        (lambda: emoji.parse(["cat"], "apple"), "style must be one of twemoji, noto; got 'apple'"),
        (lambda: emoji.parse(["cat"], None), "style must be one of"),
        (lambda: emoji.prompts(torch.tensor(NULL)), "integers in 0 .. 1201, got 1202 .. 1202"),
        (lambda: emoji.prompts(-torch.tensor(NULL)), "in 0 .. 1201, got -1202"),
        (lambda: emoji.prompts(torch.zeros(2, 5).long()), r"\(2, 6\); got \(2, 5\)"),
        (lambda: emoji.prompts(torch.zeros(2, 6)), "got torch.float32"),
        (lambda: emoji.prompts(torch.zeros(0, 6).long()), "at least one"),
        (lambda: datasets.load("emoji", size=33), "sizes 16, 20, 24, 28, 32, got 33"),
        (lambda: datasets.load("emoji", size=0), "pictures of 24 pixels a side, asked for were 0"),
        (lambda: datasets.load("emoji", size="24"), "sizes 16, 20"),
        (lambda: datasets.load("emoji", size=-24), "got -24"),
        (lambda: datasets.load("emoji", size=24.5), "got 24.5"),
        (lambda: datasets.load("digits", size=16), "digits has pictures of 8 pixels a side, asked for were 16"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(call, said):
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)
