"""How long does a reader wait for a picture, from a key press to the painted picture?

    python -m benchmarks.latency                      Explorer against ipywidgets' interact with plt.show
    python -m benchmarks.latency notebooks/03*.ipynb  and every slider and choice of these notebooks

Needs Chromium and playwright, as `pytest -m browser` does, whose helpers it uses. Goals, on two quiet cores: a quarter
of interact's median, and 95 of 100 pictures within 110 ms.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from itertools import groupby
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "browser")]

from conftest import find_chromium  # noqa: E402
from driver import CHROMIUM_ARGS, Lab, Move, Slider, explore, jupyterlab  # noqa: E402

DATA = """
import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatSlider, interact

from adaln_lab.display.plots import new_figure
from adaln_lab.display.widgets import Explorer, Slider

values = np.random.default_rng(0).normal(size=2000)
bins, s = np.linspace(-6, 6, 31), np.linspace(0, 6, 200)
picture = np.random.default_rng(1).uniform(-1, 1, (32, 32))

def limits(histogram, line):
    histogram.set(xlim=(-6, 6), ylim=(0, 900), title="histogram")
    line.set(xlim=(0, 6), ylim=(-3, 3), title="line")
"""
EXPLORER = """
fig, (left, middle, right) = new_figure(6, 3, columns=3)
bars = left.hist(values, bins)[2]
(line,) = middle.plot(s, np.sin(s))
image = right.imshow(picture, vmin=-3, vmax=3)
limits(left, middle)

def update(scale):
    for bar, count in zip(bars, np.histogram(scale * values, bins)[0]):
        bar.set_height(count)
    line.set_ydata(scale * np.sin(s))
    image.set_data(scale * picture)

Explorer(fig, [*bars, line, image], update, [Slider("scale", 0.5, 2.5, 0.02, 0.7)], "scale {scale}".format, "Three.")
"""
INTERACT = """
@interact(scale=FloatSlider(value=0.7, min=0.5, max=2.5, step=0.02))
def draw(scale):
    _, (left, middle, right) = plt.subplots(1, 3, figsize=(6, 3), dpi=100, layout="constrained")
    left.hist(scale * values, bins)
    middle.plot(s, scale * np.sin(s))
    right.imshow(scale * picture, vmin=-3, vmax=3)
    limits(left, middle)
    plt.show()
"""
KINDS = ("Explorer", "interact")  # in the order of their sliders on the page
BLOCKS, PRESSES = 3, 8


def presses(slider: Slider) -> list[Move]:
    return [slider.press("ArrowRight") for _ in range(PRESSES)]


def explorer_against_interact(lab: Lab, browser: Browser) -> list[list[str]]:
    """Rows of the table. Both draw the same figure in one notebook, and take turns in blocks of presses."""
    lab.write("latency.ipynb", [DATA, EXPLORER, INTERACT])
    moves: dict[str, list[Move]] = {kind: [] for kind in KINDS}
    with lab.open(browser, "latency.ipynb") as notebook:
        notebook.run_all()
        sliders = dict(zip(KINDS, notebook.controls(), strict=True))
        for block in range(BLOCKS + 1):
            for kind, slider in sliders.items():
                found = presses(slider)
                moves[kind] += found if block else []  # the first block fills caches
    return [row(kind, "slider", found) for kind, found in moves.items()]


def of_notebook(path: Path, lab: Lab, browser: Browser, full: bool) -> list[list[str]]:
    """A row for each control of a notebook, the slowest first."""
    shutil.copy(path, lab.notebooks)
    with lab.open(browser, path.name) as notebook:
        errors, moves = explore(notebook, full)
    for error in errors:
        print(f"{path.name}: {error}", file=sys.stderr)
    rows = [row(path.stem, name, list(found)) for name, found in groupby(moves, key=lambda move: move.control)]
    return sorted(rows, key=lambda row: float(row[3]), reverse=True)


HEAD = ["notebook", "control", "moves", "median", "by keyboard", "by mouse", "p95", "worst"]


def row(name: str, control: str, moves: list[Move]) -> list[str]:
    times = sorted(move.ms for move in moves)
    by_hand = [[move.ms for move in moves if move.hand == hand] for hand in ("keyboard", "mouse")]
    medians = [f"{statistics.median(some):.0f}" if some else "-" for some in (times, *by_hand)]
    return [
        name,
        control,
        str(len(moves)),
        *medians,
        f"{times[round(0.95 * (len(times) - 1))]:.0f}",
        f"{times[-1]:.0f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.latency", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="whose controls to move")
    parser.add_argument("--full", action="store_true", help="every step of each slider")
    o = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyterlab(Path(folder)) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGS) as browser,
    ):
        lab = Lab(Path(folder), address)
        rows = explorer_against_interact(lab, browser)
        for path in o.notebooks:
            rows += of_notebook(path, lab, browser, o.full)
    print(f"Milliseconds from event to painted picture; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    for line in (HEAD, ["---"] * len(HEAD), *rows):
        print(f"| {' | '.join(line)} |")
    explorer, interact = (float(line[3]) for line in rows[:2])
    print(f"\nExplorer / interact: {explorer / interact:.2f} (goal: at most 0.25)")


if __name__ == "__main__":
    main()
