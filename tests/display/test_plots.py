"""Every number that comes in is drawn, legibly, and what cannot be drawn truly is refused."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer

from adaln_lab.display import plots


@pytest.fixture
def ax():
    return plots.new_figure(6, 3)[1][0]


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_a_gradient_onset_writes_powers_and_marks_silence(ax):
    plots.plot_gradient_onset(["a", "b"], [0, 1], [[0, 1e-3], [1, 1e-20]], ax)
    assert words(ax)[0] == words(ax)[3] == "0" != words(ax)[1] and len(words(ax)) == 4
    with pytest.raises(ValueError, match="not finite"):
        plots.plot_gradient_onset(["a"], [0], [[np.nan]], ax)


def test_an_infinite_mean_is_said_and_not_drawn(ax):
    plots.plot_intervals({"a": (0.5, 0.1), "b": (np.inf, np.nan)}, ax, "score", bar=0.4)
    assert words(ax) == ["diverged"] and len(ax.containers) == 1
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


# Notebook 01's drawings must be true to scale: height is the mean, dark is what shares.


def test_height_on_paper_is_the_mean():
    """On the pole nothing moves sideways; on the floor a token and its negative are mirrored at the middle."""
    pole = plots.tilted(np.outer([-1.0, 0.0, 2.0], np.ones(3)))
    np.testing.assert_allclose(pole, [[0, -1.5], [0, 0], [0, 3.0]], atol=1e-12)
    floor = np.array([[1.0, 2.0, -3.0], [-1.0, -2.0, 3.0]])
    np.testing.assert_allclose(plots.tilted(floor[0]), -plots.tilted(floor[1]), atol=1e-12)


def test_camera_is_orthographic():
    """Two orthonormal rows: a sphere around 0 is a circle of its own radius on paper, as `plot_tokens` draws it."""
    camera = plots.tilted(np.eye(3))  # (3, 2)
    np.testing.assert_allclose(camera.T @ camera, np.eye(2), atol=1e-12)


@pytest.mark.parametrize(("radius", "height"), [(3**0.5, 0.0), (0.7, -1.2)])
def test_circle_has_its_mean_and_radius(radius: float, height: float):
    points = plots.circle_of_tokens(radius, height)
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
    mask, (_, (ax,)) = np.zeros((3, 6, 4)), plots.new_figure()
    mask[where] = 1
    plots.plot_shared(mask, ax)
    assert sum(patch.get_hatch() == "///" for patch in ax.patches) == faces
    assert len(ax.patches) == 6 * 4 + 3 * 4 + 3 * 6


def test_every_token_and_arrow_is_drawn():
    tokens, (_, axes) = plots.circle_of_tokens(n=9)[:8], plots.new_figure(columns=2)
    plots.plot_tokens({"dim": tokens, "bright": 1.2 * tokens + 1}, axes[0], sphere=True)
    marked = [line for line in axes[0].lines if line.get_marker() in ("v", "o")]
    assert [line.get_label() for line in marked] == ["dim", "bright"]
    np.testing.assert_allclose(marked[1].get_xydata(), plots.tilted(1.2 * tokens + 1))
    plots.plot_gradients(tokens, tokens, 0.5 * tokens, axes[1])
    arrives, returns = axes[1].collections
    np.testing.assert_allclose(np.c_[arrives.U, arrives.V], 2 * np.c_[returns.U, returns.V])


def test_film_names_its_columns():
    _, (ax,) = plots.new_figure()
    plots.plot_film({"before": np.zeros((3, 1, 4, 6)), "after": np.ones((3, 1, 4, 6))}, ax, ["a", "b", "c"])
    places = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert places["b"] - places["a"] == 7  # a picture of width 6 and a gap


# Legibility: WCAG 2.2 asks 4.5:1 of letters and 3:1 of marks that carry meaning.


def contrast(colour, alpha: float | None = None, paper: str = "white") -> float:
    """Between 1 (the same) and 21 (black on white), of what `alpha` leaves of a colour on paper."""
    paper, ink = np.array(to_rgb(paper)), np.array(to_rgb(colour))
    shown = [paper, ink if alpha is None else alpha * ink + (1 - alpha) * paper]
    linear = [np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) for rgb in shown]
    dark, light = sorted(rgb @ [0.2126, 0.7152, 0.0722] for rgb in linear)
    return (light + 0.05) / (dark + 0.05)


def faint(ax) -> list[str]:
    """What is drawn too faintly on white: lines, bars that have no edge, words that stand on no picture."""
    lines = [line for line in ax.lines if contrast(line.get_color(), line.get_alpha()) < 3]
    bars = [bar for bars in ax.containers if isinstance(bars, BarContainer) for bar in bars]
    edges = [contrast(bar.get_edgecolor()) >= 3 and bar.get_edgecolor()[3] for bar in bars]
    bars = [bar for bar, edge in zip(bars, edges, strict=True) if not edge and contrast(bar.get_facecolor()) < 3]
    words = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
    words += [] if ax.images or ax.collections else ax.texts
    return [str(item) for item in lines + bars + [word for word in words if contrast(word.get_color()) < 4.5]]


def test_palette_stands_out_from_white():
    for name, colour in plots.COLOURS.items():
        assert contrast(colour) >= (1 if name == "measure" else 3), name
    assert min(contrast(plots.COLOURS[name]) for name in ("data", "quiet")) >= 4.5, "letters are written in these"
    assert contrast("black", paper=plots.COLOURS["measure"]) >= 4.5, "numbers are written on bars"


DRAWN = {
    "loss": lambda ax: plots.plot_loss(range(30), np.linspace(2, 1, 30), ax),
    "gates": lambda ax: plots.plot_gates(range(3), np.ones((3, 12, 2)), ax),
    "tokens": lambda ax: plots.plot_tokens({"dim": np.eye(3), "bright": 2 * np.eye(3)}, ax, sphere=True),
    "gradients": lambda ax: plots.plot_gradients(np.eye(3), np.eye(3), np.eye(3), ax),
    "intervals": lambda ax: plots.plot_intervals({"a": (0.5, 0.1), "b": (np.inf, 0)}, ax, "score", bar=0.4),
}


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_drawn_faintly(name: str, ax):
    assert faint(DRAWN[name](ax)) == []


def test_faint_things_are_noticed(ax):
    ax.plot([0, 1], color=plots.COLOURS["gate"], alpha=0.5)
    ax.bar([0], [1], color=plots.COLOURS["measure"])
    ax.text(0, 0, "a word", color=plots.COLOURS["time"])
    assert len(faint(ax)) == 3


def test_blocks_are_told_apart_without_colour(ax):
    plots.plot_gates(range(3), np.ones((3, 4, 2)), ax)
    assert len({(line.get_linestyle(), line.get_linewidth()) for line in ax.lines}) == 8
    widths = [contrast(line.get_color()) for line in ax.lines[::2]]
    assert widths == sorted(widths), "darker: deeper block"


def test_powers_are_legible_on_every_shade(ax):
    plots.plot_gradient_onset(["a"], range(10), [np.logspace(-8, 1, 10)], ax)
    shades = ax.collections[0].to_rgba(np.arange(-8, 2))[:, :3]
    for text, shade in zip(ax.texts, shades, strict=True):
        assert contrast(text.get_color(), paper=shade) >= 4.5, text.get_text()
