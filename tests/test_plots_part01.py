"""The drawings of notebook 01 must be true to scale: height is the mean, dark is what shares."""

import numpy as np
import pytest

from adaln_lab import plots
from adaln_lab.plots import circle_of_tokens, new_figure, tilted


def test_height_on_paper_is_the_mean():
    """On the pole nothing moves sideways; on the floor a token and its negative are mirrored at the middle."""
    pole = tilted(np.outer([-1.0, 0.0, 2.0], np.ones(3)))
    np.testing.assert_allclose(pole, [[0, -1.5], [0, 0], [0, 3.0]], atol=1e-12)
    floor = np.array([[1.0, 2.0, -3.0], [-1.0, -2.0, 3.0]])
    np.testing.assert_allclose(tilted(floor[0]), -tilted(floor[1]), atol=1e-12)


def test_camera_is_orthographic():
    """Two orthonormal rows: a sphere around 0 is a circle of its own radius on paper, as `plot_tokens` draws it."""
    camera = tilted(np.eye(3))  # (3, 2)
    np.testing.assert_allclose(camera.T @ camera, np.eye(2), atol=1e-12)


@pytest.mark.parametrize(("radius", "height"), [(3**0.5, 0.0), (0.7, -1.2)])
def test_circle_has_its_mean_and_radius(radius: float, height: float):
    points = circle_of_tokens(radius, height)
    np.testing.assert_allclose(points.mean(1), height, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(points - height, axis=1), radius, atol=1e-12)


@pytest.mark.parametrize(
    ("where", "faces"),
    [
        ((slice(None), 0, slice(None)), 4 + 12 + 3),  # one channel: a row in front, the whole top, a row at the right
        ((0, slice(None), -1), 6 + 1 + 6),  # one position: a column in front, one cell on top, a column at the right
        ((2, 5, 0), 0),  # hidden inside the box
    ],
)
def test_shared_box_darkens_the_visible_faces_of_its_mask(where: tuple, faces: int):
    mask, (_, (ax,)) = np.zeros((3, 6, 4)), new_figure()
    mask[where] = 1
    plots.plot_shared(mask, ax)
    assert sum(patch.get_hatch() == "///" for patch in ax.patches) == faces
    assert len(ax.patches) == 6 * 4 + 3 * 4 + 3 * 6


def test_every_token_and_arrow_is_drawn():
    tokens, (_, axes) = circle_of_tokens(n=9)[:8], new_figure(columns=2)
    plots.plot_tokens({"dim": tokens, "bright": 1.2 * tokens + 1}, axes[0], sphere=True)
    marked = [line for line in axes[0].lines if line.get_marker() in ("v", "o")]
    assert [line.get_label() for line in marked] == ["dim", "bright"]
    np.testing.assert_allclose(marked[1].get_xydata(), tilted(1.2 * tokens + 1))
    plots.plot_gradients(tokens, tokens, 0.5 * tokens, axes[1])
    arrives, returns = axes[1].collections
    np.testing.assert_allclose(np.c_[arrives.U, arrives.V], 2 * np.c_[returns.U, returns.V])


def test_film_names_its_columns():
    _, (ax,) = new_figure()
    plots.plot_film({"before": np.zeros((3, 1, 4, 6)), "after": np.ones((3, 1, 4, 6))}, ax, ["a", "b", "c"])
    places = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert places["b"] - places["a"] == 7  # a picture of width 6 and a gap
