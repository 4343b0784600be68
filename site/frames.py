"""What each slider of a notebook shows, drawn once and stored: `python site/frames.py NOTEBOOK FOLDER`.

The notebook runs as it is, in this process; when it shows an `Explorer`, the explorer's own `frame` and `alt` are asked
for every combination of its controls that a page will offer. FOLDER gets one script for each explorer, named by `key`.
A picture is stored as what differs from the first: the page lays it over that one.
"""

import base64
import contextlib
import hashlib
import io
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from adaln_lab.display.widgets import WAIT_NOTE, Choice, Explorer, Slider

MOST, MOST_SLOW = 300, 60  # pictures of one explorer; where a model runs for each, fewer
LEAST = 5  # positions of a slider, below which its controls are better moved one at a time
WIDGET, PNG = "application/vnd.jupyter.widget-view+json", "image/png"


def key(text: str) -> str:
    """The name of an explorer's frames, from the text that stands for it in a stored notebook."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def has_widget_and_picture(data: dict[str, Any]) -> bool:
    return WIDGET in data and PNG in data


def positions(control: Slider | Choice) -> list[Any]:
    if isinstance(control, Choice):
        return list(control.options)
    return control.spread(1 + math.floor((control.high - control.low) / control.step + 1e-9))


def fewer(control: Slider | Choice, n: int) -> list[Any]:
    """n positions from end to end, the default among them."""
    every = positions(control)
    if n >= len(every):
        return every
    chosen = control.spread(n)
    default = min(range(len(every)), key=lambda i: abs(every[i] - control.value))
    nearest = min(range(1, n - 1), key=lambda i: abs(chosen[i] - control.value))
    chosen[nearest] = every[default] if every[default] not in (chosen[0], chosen[-1]) else chosen[nearest]
    return chosen


def plan(controls: Sequence[Slider | Choice], most: int) -> tuple[str, list[list[Any]]]:
    """How to offer the controls with at most so many pictures, and the positions of each.

    "all": every combination; "coarser": of fewer positions; "single": one control at a time, the others at their start.
    """
    counts = [len(positions(control)) for control in controls]
    while math.prod(counts) > most:
        sliders = [i for i, control in enumerate(controls) if isinstance(control, Slider) and counts[i] > LEAST]
        if not sliders:
            share = max(LEAST, most // len(controls))
            return "single", [fewer(c, share) if isinstance(c, Slider) else positions(c) for c in controls]
        counts[max(sliders, key=lambda i: counts[i])] -= 1
    offered = [fewer(control, n) if isinstance(control, Slider) else positions(control)
               for control, n in zip(controls, counts, strict=True)]  # fmt: skip
    is_all = all(len(positions(control)) == n for control, n in zip(controls, counts, strict=True))
    return "all" if is_all else "coarser", offered


def start(control: Slider | Choice, offered: list[Any]) -> int:
    """The number of the position that is the default."""
    if isinstance(control, Choice):
        return offered.index(control.value)
    return min(range(len(offered)), key=lambda i: abs(offered[i] - control.value))


def chosen(mode: str, offered: list[list[Any]], starts: list[int]) -> Iterator[tuple[int, ...]]:
    """The positions of all controls, picture by picture, in the order in which the page looks for them."""
    if mode != "single":
        yield from itertools.product(*(range(len(values)) for values in offered))
        return
    for i, values in enumerate(offered):
        for n in range(len(values)):
            yield tuple(n if i == j else at for j, at in enumerate(starts))


def record(explorer: Explorer) -> dict[str, Any]:
    """All that the page needs to play an explorer."""
    controls = list(explorer.specs.values())
    mode, offered = plan(controls, MOST_SLOW if explorer.caption.endswith(WAIT_NOTE) else MOST)
    starts = [start(control, values) for control, values in zip(controls, offered, strict=True)]
    first, frames, alts = None, [], []
    with torch.random.fork_rng(devices=[]):
        for places in chosen(mode, offered, starts):
            names = zip(explorer.specs, offered, places, strict=True)
            values = {name: options[place] for name, options, place in names}
            pixels = np.asarray(explorer.frame(values))
            first = pixels if first is None else first
            frames.append(webp(np.dstack([pixels, 255 * (pixels != first).any(-1)]).astype(np.uint8)))
            alts.append(explorer.alt(**values))
        explorer.update(**explorer.values)
    return {
        "mode": mode,
        "caption": explorer.caption.removesuffix(WAIT_NOTE),
        "width": first.shape[1],
        "height": first.shape[0],
        "controls": [
            {
                "label": control.label or control.name,
                "choice": isinstance(control, Choice),
                "start": at,
                "texts": [format_value(control, value) for value in values],
            }
            for control, values, at in zip(controls, offered, starts, strict=True)
        ],
        "first": webp(first),
        "frames": frames,
        "alts": alts,
    }


def format_value(control: Slider | Choice, value: Any) -> str:
    return value if isinstance(control, Choice) else f"{value:{control.readout}}"


def webp(pixels: np.ndarray) -> str:
    """Lossless; what is transparent is black, which costs nothing."""
    if pixels.shape[-1] == 4:
        pixels = pixels * (pixels[..., 3:] > 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="webp", lossless=True, quality=30, method=1)
    return base64.b64encode(buffer.getvalue()).decode()


def write(explorer: Explorer, folder: Path) -> None:
    name = key(explorer.text)
    line = f'(globalThis.adalnFrames ??= {{}})["{name}"] = {json.dumps(record(explorer))};\n'
    (folder / f"{name}.js").write_text(line, encoding="ascii")


def run(path: Path, folder: Path) -> int:
    """Run a notebook as far as its last explorer; how many explorers were recorded."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    shows = [any(has_widget_and_picture(out.get("data", {})) for out in cell.outputs) for cell in cells]
    last = max((i for i, does in enumerate(shows) if does), default=-1)
    shell, count = InteractiveShell.instance(), 0

    def show(explorer: Explorer) -> None:
        nonlocal count
        write(explorer, folder)
        count += 1

    Explorer.show = Explorer._ipython_display_ = show
    with contextlib.chdir(path.parent):
        for cell in cells[: last + 1]:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                result = shell.run_cell(cell.source)
            if not result.success:
                error = result.error_before_exec or result.error_in_exec
                raise SystemExit(f"frames: a cell of {path.name} raises {type(error).__name__}: {error}")
    return count


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
