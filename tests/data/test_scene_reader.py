"""The reader is right on real renders, blurred ones too, and notices whatever is wrong: it says what counts as good."""

import pytest
import torch
from torch.nn import functional as F

from adaln_lab.data import scenes
from adaln_lab.data.scene_reader import agreement, read, scene_accuracy

FACTOR_OF_COLUMN = ("brightness", "tone", "background", "size", "colour", "shape", "cell")


def pictures(n: int, size: int = 32, objects: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    tokens = scenes.random_scenes(n, generator, objects)
    return scenes.render(tokens, size, scenes.random_jitter(tokens, generator)), tokens


@pytest.mark.parametrize(("size", "objects"), [(16, 1), (16, 3), (32, 1), (32, 3)])
def test_real_renders_are_read_right(size, objects):
    accuracy = scene_accuracy(*pictures(400, size, objects))
    assert accuracy.keys() == {*scenes.FACTORS, "binding", "all"}
    assert min(accuracy.values()) >= 0.995


def test_blur_and_grain_do_not_change_the_verdict():
    """What generators do to pictures: edges soften, some noise stays."""
    x, tokens = pictures(400)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), "replicate"), (kernel[:, None] * kernel).expand(3, 1, 3, 3), groups=3)
    grainy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for spoilt in (blurred, grainy):
        assert scene_accuracy(spoilt, tokens)["all"] >= 0.98


@pytest.mark.parametrize("column", range(7))
def test_one_wrong_factor_is_noticed_and_no_other_is_blamed(column):
    x, tokens = pictures(200)
    name = FACTOR_OF_COLUMN[column]
    others = tokens.clone()
    first, n = scenes.FIRST[name], len(scenes.FACTORS[name])
    others[:, column] = first + (tokens[:, column] - first + 1) % n
    accuracy = scene_accuracy(x, others)
    assert accuracy[name] <= 0.01
    assert accuracy["all"] <= 0.01
    blamed = {name, "all"} | ({"binding"} if name in ("colour", "shape") else set())
    assert all(accuracy[other] >= 0.99 for other in accuracy.keys() - blamed)


def test_swapped_colours_break_the_binding_alone():
    """Red circle and blue square is not blue circle and red square: the same bags, other pairs."""
    parse = lambda text: scenes.parse([f"bright cold light, plain background, {text}"], 2)  # noqa: E731
    wanted = parse("large red circle left, large blue square right")
    swapped = parse("large blue circle left, large red square right")
    accuracy = scene_accuracy(scenes.render(swapped), wanted)
    assert {name for name, value in accuracy.items() if value == 0} == {"binding", "all"}


def test_a_missing_and_an_extra_object_are_noticed():
    one = scenes.parse(["bright cold light, plain background, large red circle left"], 2)
    two = scenes.parse(["bright cold light, plain background, large red circle left, small blue square top"], 2)
    for shown, wanted in ((one, two), (two, one)):
        accuracy = scene_accuracy(scenes.render(shown), wanted)
        assert accuracy["cell"] == accuracy["colour"] == accuracy["all"] == 0 < accuracy["tone"]


def test_noise_is_no_scene():
    _, tokens = pictures(200)
    noise = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert scene_accuracy(noise, tokens)["all"] == 0


def test_the_order_of_objects_does_not_matter():
    _, tokens = pictures(50, objects=2)
    other_way = torch.cat([tokens[:, :3], tokens[:, 7:], tokens[:, 3:7]], 1)
    assert all(same.all() for same in agreement(tokens, other_way).values())


def test_what_is_no_batch_of_colour_pictures_is_refused():
    with pytest.raises(ValueError, match=r"must be \(B, 3, N, N\), got \(2, 1, 32, 32\)"):
        read(torch.zeros(2, 1, 32, 32))
