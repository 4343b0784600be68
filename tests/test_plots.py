"""Every number that comes in is drawn, and what cannot be drawn truly is refused."""

import numpy as np
import pytest

from adaln_lab import plots


@pytest.fixture
def ax():
    return plots.new_figure(6, 3)[1][0]


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_curves_are_all_drawn_and_told_apart(ax):
    rows = {name: [1, 2, 3] for name in "abcd"}
    plots.plot_lines(range(3), rows, ax, "step", "loss")
    looks = {(line.get_linestyle(), line.get_color()) for line in ax.get_lines()}
    assert len(ax.get_lines()) == len(looks) == 4
    with pytest.raises(ValueError, match="at most 4 curves"):
        plots.plot_lines(range(3), rows | {"e": [1, 2, 3]}, ax, "step", "loss")


def test_spectra_are_told_apart_and_drawn_at_the_floor(ax):
    plots.plot_spectra({name: [2.0, 1.0, 0.0] for name in "abcdef"}, ax, floor=1e-3)
    looks = {(str(line.get_linestyle()), line.get_color(), line._dash_pattern[1] is None) for line in ax.get_lines()}
    assert len(ax.get_lines()) == 6 and len(looks) >= 5
    assert all(line.get_ydata()[-1] == 1e-3 for line in ax.get_lines())
    with pytest.raises(ValueError, match="at most 6 curves"):
        plots.plot_spectra({name: [1.0] for name in "abcdefg"}, ax)


def test_a_profile_shows_stream_and_gradient(ax):
    plots.plot_profile([1, 2, 4], [4, 2, 1], ax, reach=(0.5, 8))
    stream, gradient = ax.get_lines()
    assert list(stream.get_ydata()) == [1, 2, 4] and list(gradient.get_ydata()) == [4, 2, 1]
    assert ax.get_ylim() == (0.5, 8)


def test_a_wakeup_writes_powers_and_marks_silence(ax):
    plots.plot_wakeup(["a", "b"], [0, 1], [[0, 1e-3], [1, 1e-20]], ax)
    assert words(ax)[0] == words(ax)[3] == "0" != words(ax)[1] and len(words(ax)) == 4
    with pytest.raises(ValueError, match="not finite"):
        plots.plot_wakeup(["a"], [0], [[np.nan]], ax)


def test_counts_are_written_where_any_learnt(ax):
    plots.plot_success([[5, 0], [0, 3]], ["a", "b"], [0.1, 0.01], ax)
    assert words(ax) == ["5", "", "", "3"]


def test_an_infinite_mean_is_said_and_not_drawn(ax):
    plots.plot_intervals({"a": (0.5, 0.1), "b": (np.inf, np.nan)}, ax, "score", bar=0.4)
    assert words(ax) == ["diverged"] and len(ax.containers) == 1
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_shares_keep_the_first_block_at_the_bottom(ax):
    plots.plot_shares([[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]], ax)
    assert ax.images[0].origin == "lower" and ax.images[0].get_array().shape == (3, 2)
