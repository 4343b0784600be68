"""Data -> pictures. `plot_*` draws numbers on Axes and returns them; nothing here imports a model.

One colour for each quantity, the same in every figure and widget: Okabe and Ito's palette, which colour-blind readers
can tell apart, with its orange and sky a little darker. On white all reach a contrast of 3:1 but `measure`, a fill that
needs an edge. A line style, a hatch or a label always says the same thing once more.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from adaln_lab.utils.proof import notes

COLOURS = {
    "shift": "#0072B2",  # blue
    "scale": "#D55E00",  # vermilion
    "gate": "#009E73",  # green
    "time": "#CC79A7",  # purple
    "label": "#C68400",  # orange
    "text": "#3498D1",  # sky
    "data": "#222222",
    "measure": "#C4C4C4",
    "quiet": "#767676",
}
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
}


def new_figure(
    width: float = 9.0, height: float = 3.0, columns: int = 1, rows: int = 1, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """A figure in the course's style, panels by rows, without pyplot's global state. Inches."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(width, height), dpi=100, layout="constrained")
        axes = fig.subplots(rows, columns, squeeze=False, gridspec_kw=grid)
    return fig, list(axes.flat)


def figure(fig: Figure, alt: str, caption: str | None = None) -> None:
    """Show a static figure: image/png, text/plain = alt (what a screen reader or a diff reads), a visible caption.

    The caption ends with the notes of the cell, such as that the course's solution stands in for the reader's answer.
    """
    from IPython.display import Markdown, display

    png = base64.b64encode(small_png(Image.fromarray(pixels(fig)))).decode()
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})
    display(Markdown(f"*{caption or alt}{''.join(f' ({note})' for note in notes())}*"))


def pixels(fig: Figure) -> np.ndarray:
    """A figure as a picture (height, width, 4), bytes."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def small_png(image: Image.Image) -> bytes:
    """A picture as a notebook stores it: 256 colours are plenty for a plot, at a fraction of the bytes."""
    buffer = io.BytesIO()
    image.convert("RGB").quantize(256).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def picture_grid(images: Any, columns: int = 10, gap: int = 1) -> np.ndarray:
    """Pictures (n, channels, h, w) in [-1, 1] -> one array (H, W) or (H, W, 3) in [0, 1], row by row, white gaps."""
    images = (np.clip(np.asarray(images, dtype=float), -1, 1) + 1) / 2
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.ones((c, rows * (h + gap) - gap, columns * (w + gap) - gap))
    for i, image in enumerate(images):
        r, k = divmod(i, columns)
        sheet[:, r * (h + gap) : r * (h + gap) + h, k * (w + gap) : k * (w + gap) + w] = image
    return sheet[0] if c == 1 else sheet.transpose(1, 2, 0)


def plot_pictures(images: Any, ax: Axes, columns: int = 10, title: str = "") -> Axes:
    """A grid of pictures, nothing else on the axes."""
    ax.imshow(picture_grid(images, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def plot_loss(steps: Sequence[float], losses: Sequence[float], ax: Axes) -> Axes:
    """Loss against step; thin: each step, thick: mean of the last twenty."""
    losses = np.asarray(losses)
    mean = [losses[max(0, i - 19) : i + 1].mean() for i in range(len(losses))]
    ax.plot(steps, losses, color=COLOURS["quiet"], lw=0.6, label="each step")
    ax.plot(steps, mean, color=COLOURS["data"], lw=1.8, label="mean of 20")
    ax.set(xlabel="training step", ylabel="loss (velocity MSE)", title="Loss")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right", fontsize=8)
    return ax


def plot_gates(steps: Sequence[float], gates: Any, ax: Axes) -> Axes:
    """Root mean square gate of each block against step: gates (n, depth, 2), attention full lines, MLP dashed."""
    plot_gates_over(steps, np.moveaxis(np.asarray(gates, dtype=float), 0, -1), ax, "training step")
    ax.set_title("Gates of each block")
    return ax


def plot_gates_over(values: Sequence[float], sizes: Any, ax: Axes, label: str, marker: str = "") -> Axes:
    """Gate size of each block along one axis: sizes (depth, 2, n), attention full, MLP dashed, darker is deeper."""
    sizes = np.asarray(sizes, dtype=float)
    depth = len(sizes)
    for block, pair in enumerate(sizes):
        deep = block / max(1, depth - 1)
        colour = (1 - 0.7 * deep) * np.array(to_rgb(COLOURS["gate"]))
        for row, line in zip(pair, ("-", "--"), strict=True):
            ax.plot(values, row, line, color=colour, lw=1.4 + 0.8 * deep, marker=marker, ms=4)
    lines = [Line2D([], [], color=COLOURS["gate"], ls=line) for line in ("-", "--")]
    ax.legend(lines, ["attention", "MLP"], title="darker: deeper block", fontsize=8, title_fontsize=8)
    ax.set(xlabel=label, ylabel="gate (RMS over channels)")
    ax.set_ylim(bottom=0)
    return ax


def plot_film(rows: dict[str, Any], ax: Axes, names: Sequence[str] = ()) -> Axes:
    """Pictures that change: one row of pictures (n, channels, h, w) for each label, which stands beside it.

    `names` are written above the columns.
    """
    columns, height = len(next(iter(rows.values()))), np.asarray(next(iter(rows.values()))).shape[-2] + 1
    width = np.asarray(next(iter(rows.values()))).shape[-1] + 1
    plot_pictures(np.concatenate([np.asarray(row) for row in rows.values()]), ax, columns)
    for i, label in enumerate(rows):
        ax.text(-1.5, i * height + height / 2 - 1, label, ha="right", va="center", fontsize=9)
    for i, name in enumerate(names):
        ax.text(i * width + width / 2 - 1, -0.05 * height, name, ha="center", fontsize=9)
    return ax


def tilted(points: Any) -> np.ndarray:
    """Tokens of three channels (..., 3) -> points on paper (..., 2), (1, 1, 1) upright: height is the mean.

    A camera without perspective looks down at the floor, mean = 0, at 30 degrees.
    """
    along, away, up = np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5, np.ones(3) / 3**0.5
    return np.asarray(points, dtype=float) @ np.stack([along, 0.5 * away + 0.75**0.5 * up], axis=-1)


def circle_of_tokens(radius: float = 3**0.5, height: float = 0.0, n: int = 121) -> np.ndarray:
    """Points (n, 3) of the circle around the diagonal, where every channel's mean over the circle is `height`."""
    angle = np.linspace(0, 2 * np.pi, n)[:, None]
    along, away = np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5
    return height + radius * (np.cos(angle) * along + np.sin(angle) * away)


def plot_token_space(ax: Axes, reach: float = 3.0, title: str = "", top: float = 1.5) -> Axes:
    """Where tokens of three channels live: the floor mean = 0, its circle of radius sqrt(3), a pole up to `top`."""
    ax.fill(*tilted(circle_of_tokens(reach)).T, color=COLOURS["measure"], alpha=0.3, lw=0)
    ax.plot(*tilted(circle_of_tokens()).T, color=COLOURS["data"], lw=0.9)
    if top:
        ax.plot(*tilted([[0, 0, 0], [top, top, top]]).T, color=COLOURS["quiet"], ls=":", lw=1.2)
        ax.annotate("mean", tilted([top, top, top]), ha="center", va="bottom", fontsize=8.5, color=COLOURS["quiet"])
    ax.set(aspect="equal", title=title, xlim=(-reach, reach), ylim=(-0.55 * reach, max(0.55 * reach, 1.5 * top + 0.5)))
    ax.set_axis_off()
    return ax


def plot_tokens(groups: dict[str, Any], ax: Axes, title: str = "", sphere: bool = False) -> Axes:
    """Tokens (n, 3) of each group over the floor, on thin stems; `sphere` draws the ball that the circle belongs to."""
    plot_token_space(ax, title=title, top=1.9)
    for (name, tokens), marker in zip(groups.items(), "vo^sD", strict=False):
        tokens = np.asarray(tokens)
        floor = tokens - tokens.mean(-1, keepdims=True)
        ax.plot(*tilted([floor, tokens]).transpose(2, 0, 1), color=COLOURS["quiet"], lw=0.5)
        ax.plot(*tilted(tokens).T, marker, color=COLOURS["data"], mfc="none", ms=6, label=name)
    if sphere:
        angle = np.linspace(0, 2 * np.pi, 121)
        ax.plot(3**0.5 * np.cos(angle), 3**0.5 * np.sin(angle), "--", color=COLOURS["quiet"], lw=1)
        ax.set_ylim(bottom=-1.85)
    return ax


def plot_gradients(tokens: Any, before: Any, after: Any, ax: Axes) -> Axes:
    """Arrows at tokens (n, 3): gradients before (thin) and after (thick) something let them pass."""
    plot_token_space(ax, top=1.0)
    for arrows, label, colour, width in ((before, "arrives", "quiet", 0.003), (after, "returns", "data", 0.007)):
        look = {"color": COLOURS[colour], "width": width, "angles": "xy", "scale_units": "xy", "scale": 1}
        ax.quiver(*tilted(tokens).T, *tilted(arrows).T, **look, label=label)
    ax.plot(*tilted(tokens).T, "o", color=COLOURS["data"], ms=4)
    ax.legend(loc="upper left", fontsize=8.5, frameon=False)
    return ax


def plot_shared(mask: Any, ax: Axes, title: str = "") -> Axes:
    """A box of numbers, `mask` (samples, channels, positions); dark and hatched: those that share one mean and size.

    Seen are the first sample (front), the first channel (top) and the last position (right).
    """
    mask = np.asarray(mask, dtype=bool)
    depth, high, wide = mask.shape
    slant = np.array([0.5, 0.4])  # one sample further back

    def cell(corner: Any, first: Any, second: Any, dark: bool) -> None:
        ring = [corner, corner + first, corner + first + second, corner + second]
        look = {"facecolor": COLOURS["quiet"], "hatch": "///"} if dark else {"facecolor": "white"}
        ax.fill(*np.transpose(ring), edgecolor=COLOURS["data"], lw=0.6, **look)

    right, down = np.array([1.0, 0.0]), np.array([0.0, -1.0])
    for b, c, p in np.ndindex(mask.shape):
        if b == 0:
            cell(c * down + p * right, right, down, mask[b, c, p])
        if c == 0:
            cell(b * slant + p * right, right, slant, mask[b, c, p])
        if p == wide - 1:
            cell(b * slant + c * down + wide * right, slant, down, mask[b, c, p])
    ax.text(-0.2, -high / 2, "channels", rotation=90, ha="right", va="center", fontsize=8.5)
    ax.text(wide / 2, -high - 0.2, "positions", ha="center", va="top", fontsize=8.5)
    ax.text(wide + depth / 4 + 0.25, -high + depth / 5 - 0.2, "samples", rotation=39, ha="left", va="top", fontsize=8.5)
    ax.set(aspect="equal", title=title)
    ax.margins(0.12)
    ax.set_axis_off()
    return ax


def plot_gradient_onset(names: Sequence[str], steps: Sequence[int], norms: Any, ax: Axes, title: str = "") -> Axes:
    """Gradient norms (names, steps), rounded to powers of ten: shaded and written; hatched: 1e-15 or less."""
    norms = np.asarray(norms, dtype=float)
    if not np.isfinite(norms).all():
        raise ValueError("a gradient norm is not finite: the model has diverged")
    powers = np.log10(np.where(norms > 1e-15, norms, np.nan)).round()
    edges = np.arange(len(steps) + 1) - 0.5, np.arange(len(names) + 1) - 0.5
    ax.patch.set(facecolor="#E4E4E4", hatch="////", edgecolor="white")  # seen where there is no gradient
    ax.pcolormesh(*edges, powers, cmap="viridis", vmin=-8, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), power in np.ndenumerate(powers):
        text = "0" if np.isnan(power) else f"$10^{{{power + 0:.0f}}}$"
        ax.text(column, row, text, color="white" if power < -4 else "black", ha="center", va="center", fontsize=8.5)
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.set(xlabel="backward pass", title=title, ylim=(len(names) - 0.5, -0.5))
    return ax


def plot_verdicts(names: Sequence[str], questions: Sequence[str], answers: Any, ax: Axes) -> Axes:
    """A table of yes (white) and NO (black): answers (names, questions) of booleans."""
    answers = np.asarray(answers, dtype=bool)
    ax.imshow(answers, cmap="gray", vmin=0, vmax=1, aspect="auto")
    for (row, column), yes in np.ndenumerate(answers):
        ax.text(column, row, "yes" if yes else "NO", color="black" if yes else "white", ha="center", va="center")
    ax.set_xticks(range(len(questions)), questions)
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(np.arange(1, len(questions)) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(which="minor", color=COLOURS["measure"], lw=0.8)
    ax.tick_params(which="both", length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set(visible=True, color=COLOURS["measure"])
    return ax


def plot_intervals(rows: dict[str, Any], ax: Axes, xlabel: str, bar: float | None = None, title: str = "") -> Axes:
    """Means with their intervals, rows[name] = (mean, half width), "diverged" where infinite; dashed: a bar to beat."""
    for place, (mean, half) in enumerate(rows.values()):
        if not np.isfinite(mean):
            ax.text(1, place, "diverged", transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=8.5)
            continue
        ax.errorbar(mean, place, xerr=half, fmt="o", color=COLOURS["data"], ms=4.5, capsize=3, lw=1.2)
    if bar is not None:
        ax.axvline(bar, color=COLOURS["quiet"], ls="--", lw=1)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8.5)
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    ax.set_title(title, fontsize=9.5)
    return ax


def plot_cells(
    values: Any, ax: Axes, title: str, xlabel: str, ylabel: str, cmap: str = "Greys", low: float = 0.0, top: float = 1.6
) -> Axes:
    """A matrix as coloured cells, its first row on top."""
    ax.imshow(values, cmap=cmap, vmin=low, vmax=top, aspect="auto", interpolation="nearest")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(False)
    return ax
