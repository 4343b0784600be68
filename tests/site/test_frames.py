"""What a page is given of a slider: which positions, and pictures that are the notebook's own."""

import base64
import io

import frames
import numpy as np
import pytest
from PIL import Image

from adaln_lab.display.plots import new_figure
from adaln_lab.display.widgets import WAIT_NOTE, Choice, Explorer, Slider

HEIGHT, SHIFT, KIND = Slider("height", 0, 2, 0.1, 0.7), Slider("shift", 0, 20, 1, 3), Choice("kind", ("a", "b"), "b")


def explorer(*controls: Slider | Choice, continuous: bool = True) -> Explorer:
    fig, (ax,) = new_figure(4, 2)
    (line,) = ax.plot([0, 1], [0, 1])
    ax.set_ylim(0, 30)

    def update(height: float = 1, shift: float = 0, kind: str = "a") -> None:
        line.set_ydata([10 * height + shift, 0 if kind == "a" else 30])

    return Explorer(fig, [line], update, controls, lambda **values: str(values), "A line.", continuous=continuous)


@pytest.mark.parametrize(
    ("controls", "most", "mode", "counts"),
    [
        ([HEIGHT, KIND], 300, "all", [21, 2]),
        ([HEIGHT, SHIFT], 300, "coarser", [17, 17]),
        ([HEIGHT, SHIFT, KIND], 60, "coarser", [5, 6]),
        ([HEIGHT, SHIFT, KIND], 40, "single", [13, 13, 2]),
    ],
)
def test_plan_keeps_to_its_number_of_pictures(controls: list, most: int, mode: str, counts: list[int]) -> None:
    found, offered = frames.plan(controls, most)
    assert (found, [len(values) for values in offered][: len(counts)]) == (mode, counts)
    starts = [frames.start(control, values) for control, values in zip(controls, offered, strict=True)]
    assert len(list(frames.chosen(mode, offered, starts))) <= most
    for control, values, at in zip(controls, offered, starts, strict=True):
        every = frames.positions(control)
        assert {values[0], values[-1], values[at]} == {every[0], every[-1], control.value} and set(values) <= set(every)


def test_stored_pictures_are_the_explorers_own() -> None:
    """To the pixel, with the alt text of each, in the order in which the page counts them."""
    shown = explorer(HEIGHT, KIND)
    stored = frames.record(shown)
    first = decoded(stored["first"])
    assert (len(stored["frames"]), stored["mode"]) == (42, "all")
    for number, (frame, alt) in enumerate(zip(stored["frames"], stored["alts"], strict=True)):
        values = {"height": frames.positions(HEIGHT)[number // 2], "kind": "ab"[number % 2]}
        over = decoded(frame)
        laid = np.where(over[..., 3:] > 0, over, first)[..., :3]
        assert np.array_equal(laid, np.asarray(shown.frame(values))) and alt == str(values)
    assert shown.values == {"height": 0.7, "kind": "b"}


def test_slow_explorers_store_fewer_pictures() -> None:
    stored = frames.record(explorer(HEIGHT, SHIFT, continuous=False))
    assert len(stored["frames"]) <= frames.MOST_SLOW and WAIT_NOTE not in stored["caption"]


def decoded(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
