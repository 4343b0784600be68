"""Scenes: words say everything but a little variation, and wrong words are refused with the right ones."""

import pytest
import torch

from adaln_lab.data import scenes
from adaln_lab.data.scenes import (
    FIRST,
    GLOBAL,
    LOCAL,
    NOTHING,
    VOCABULARY,
    captions,
    indices,
    parse,
    random_jitter,
    random_scenes,
    render,
)

SENTENCE = "bright warm light, plain background, large red circle centre"


def drawn(n: int, seed: int = 0, objects: int = 1):
    return random_scenes(n, torch.Generator().manual_seed(seed), objects)


@pytest.mark.parametrize("objects", [1, 2, 3, 9])
def test_drawn_scenes_are_valid_follow_their_seed_and_use_every_word(objects):
    tokens = drawn(600, objects=objects)
    assert tokens.shape == (600, 3 + 4 * objects)
    scenes.check(tokens)
    assert torch.equal(tokens, drawn(600, objects=objects))
    assert not torch.equal(tokens, drawn(600, seed=1, objects=objects))
    assert set(tokens.flatten().tolist()) == set(range(NOTHING))


def test_values_are_equally_likely():
    """Within four standard deviations of a fair draw."""
    n = 8000
    own = indices(drawn(n))
    for name, values in scenes.FACTORS.items():
        p = 1 / len(values)
        share = own[name].flatten().bincount(minlength=len(values)) / n
        assert (share - p).abs().max() < 4 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("objects", [1, 3])
def test_captions_read_back(objects):
    tokens = drawn(50, objects=objects)
    assert torch.equal(parse(captions(tokens), objects), tokens)


def test_sentences_are_english():
    tokens = scenes.parse(["dim cold light, striped background, large red circle top-left, small blue square left"], 3)
    assert scenes.sentences(tokens) == [
        "A large red circle at the top left and a small blue square on the left, on a striped background, "
        "in dim cold light."
    ]
    board = scenes.parse(["bright warm light, plain background"], 1)
    assert scenes.sentences(board) == ["Nothing, on a plain background, in bright warm light."]


def test_a_shorter_caption_is_filled_with_nothing():
    tokens = parse([SENTENCE], objects=2)
    assert tokens[0, -4:].tolist() == [NOTHING] * 4
    assert captions(tokens) == [SENTENCE]
    assert torch.equal(render(tokens), render(parse([SENTENCE])))


def test_a_picture_is_the_same_scene_at_any_size():
    """Averaged down, the finer rendering is the coarser one, but for edges."""
    tokens = drawn(20, objects=2)
    jitter = random_jitter(tokens, torch.Generator().manual_seed(3))
    fine, coarse = render(tokens, 64, jitter), render(tokens, 32, jitter)
    difference = (torch.nn.functional.avg_pool2d(fine, 2) - coarse).abs()
    assert difference.mean() < 0.03
    assert (difference.flatten(1).quantile(0.95, dim=1) < 0.15).all()


def test_an_object_stands_in_its_cell_has_its_colour_and_leaves_the_rest_alone():
    tokens = parse([SENTENCE])
    with_it, without = render(tokens, 48), render(torch.cat([tokens[:, :3], torch.full((1, 4), NOTHING)], 1), 48)
    changed = (with_it - without).abs().amax(1)[0] > 0.02
    rows, columns = changed.nonzero(as_tuple=True)
    assert rows.min() >= 16 and rows.max() < 32 and columns.min() >= 16 and columns.max() < 32
    red, green, blue = with_it[0, :, 24, 24]
    assert red > 0.5 > -0.5 > green and blue < -0.5


def test_light_multiplies_every_pixel_alike():
    """Warm or cold, bright or dim: the ratio of two pictures is one number a channel."""
    one, other = (
        (render(parse([f"{light} light, checked background, small blue square left"])) + 1) / 2
        for light in ("bright warm", "dim cold")
    )
    ratio = (one / other)[0].flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)


def test_a_small_shape_is_smaller_than_every_large_one():
    """Circle and square have the same area; a triangle, which must fit the cell, a little less."""
    area = {}
    for size in LOCAL["size"]:
        for shape in LOCAL["shape"]:
            x = render(parse([f"bright cold light, plain background, {size} red {shape} centre"]), 64)
            area[size, shape] = ((x - x[..., :1, :1]).abs().sum(1) > 0.5).sum().item()
    assert area["large", "square"] == pytest.approx(area["large", "circle"], rel=0.1)
    assert min(a for (size, _), a in area.items() if size == "large") > 1.5 * area["small", "circle"]


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (SENTENCE.replace("red", "redd"), "'redd' is not in the vocabulary; nearest: red"),
        (SENTENCE.replace("warm", "warm cold"), "'cold' contradicts 'warm' .*one tone each"),
        (SENTENCE.replace("red", "red blue"), "'blue' contradicts 'red' .*one colour each"),
        (SENTENCE.replace("large", ""), "names no size; choose one of large, small"),
        (SENTENCE.replace("plain", ""), "names no background; choose one of plain, striped, checked"),
        (SENTENCE + ", small blue circle top", "names 2 objects, the caption has room for 1"),
        ("", "names no brightness"),
    ],
)
def test_wrong_sentences_are_refused_with_the_remedy(sentence, message):
    with pytest.raises(ValueError, match=message):
        parse([sentence])


def test_impossible_scenes_are_refused():
    two = parse([SENTENCE + ", small blue circle top"], 2)
    two[0, -1] = two[0, 6]
    with pytest.raises(ValueError, match="two objects stand in one cell"):
        render(two)
    with pytest.raises(ValueError, match="a token for the tone must be one of warm, cold"):
        render(parse([SENTENCE])[:, [0, 0, 2, 3, 4, 5, 6]])
    with pytest.raises(ValueError, match="scenes are rows of"):
        render(parse([SENTENCE])[:, :5])
    with pytest.raises(ValueError, match="size must be a whole number in 16 .. "):
        render(parse([SENTENCE]), 8)
    with pytest.raises(ValueError, match="objects must be a whole number in 1 .. 9, got 10"):
        random_scenes(1, torch.Generator(), 10)


def test_ids_of_words_are_their_places():
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 26
    for name, values in (GLOBAL | LOCAL).items():
        assert [VOCABULARY[FIRST[name] + i] for i in range(len(values))] == list(values)


def joined(tokens: torch.Tensor) -> set[tuple[str, str]]:
    """The pairs of colour and shape that occur."""
    own = indices(tokens)
    pairs = torch.stack([own["colour"], own["shape"]], -1).flatten(0, 1).tolist()
    return {(LOCAL["colour"][c], LOCAL["shape"][s]) for c, s in pairs}


def test_held_out_combinations_are_never_seen_and_always_new():
    g = torch.Generator().manual_seed(0)
    seen, new = (random_scenes(3000, g, 2, combinations) for combinations in ("seen", "new"))
    everything = {(c, s) for c in LOCAL["colour"] for s in LOCAL["shape"]}
    assert joined(seen) == everything - set(scenes.NEW)
    scenes.check(new)
    assert joined(new[:, :7]) == set(scenes.NEW) and joined(new) == everything
    assert joined(torch.cat([new[:, :3], new[:, 7:]], 1)) == everything - set(scenes.NEW)


def test_without_held_out_pairs_colours_and_shapes_stay_equally_likely():
    """Each of three colours loses another shape, so no shape is rarer than the next."""
    n = 8000
    own = indices(random_scenes(n, torch.Generator().manual_seed(0), 1, "seen"))
    for name in ("colour", "shape"):
        p = 1 / len(LOCAL[name])
        share = own[name].flatten().bincount(minlength=len(LOCAL[name])) / n
        assert (share - p).abs().max() < 4 * (p * (1 - p) / n) ** 0.5


def test_all_combinations_draw_as_before():
    assert torch.equal(drawn(20), random_scenes(20, torch.Generator().manual_seed(0), 1, "all"))


def test_unknown_combinations_are_refused():
    with pytest.raises(ValueError, match="one of all, seen, new; got 'old'"):
        random_scenes(1, torch.Generator(), 1, "old")
