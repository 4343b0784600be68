"""Data -> pictures. Every function takes numbers (and `ax=None`) and returns Axes; nothing here imports a model.

One colour for each quantity, the same in every figure and widget: Okabe and Ito's palette, which colour-blind readers
can tell apart; a line style, a hatch or a label always says the same thing once more.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

COLOURS = {
    "shift": "#0072B2",  # blue
    "scale": "#D55E00",  # vermilion
    "gate": "#009E73",  # green
    "time": "#CC79A7",  # purple
    "label": "#E69F00",  # orange
    "text": "#56B4E9",  # sky
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


def new_figure(width: float = 9.0, height: float = 3.0, columns: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure in the course's style, `columns` panels side by side, without pyplot's global state. Inches."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(width, height), dpi=100, layout="constrained")
        axes = fig.subplots(1, columns, squeeze=False, gridspec_kw=grid)[0]
    return fig, list(axes)


def figure(fig: Figure, alt: str, caption: str | None = None) -> None:
    """Show a static figure: image/png, text/plain = alt (what a screen reader or a diff reads), a visible caption."""
    from IPython.display import Markdown, display

    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    png = base64.b64encode(small_png(Image.fromarray(np.asarray(canvas.buffer_rgba())))).decode()
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})
    display(Markdown(f"*{caption or alt}*"))


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
        shade = 0.35 + 0.65 * (block + 1) / depth
        for row, line in zip(pair, ("-", "--"), strict=True):
            ax.plot(values, row, line, color=COLOURS["gate"], alpha=shade, lw=1 + 1.2 * shade, marker=marker, ms=4)
    lines = [Line2D([], [], color=COLOURS["gate"], ls=line) for line in ("-", "--")]
    ax.legend(lines, ["attention", "MLP"], title="darker: deeper block", fontsize=8, title_fontsize=8)
    ax.set(xlabel=label, ylabel="gate (RMS over channels)")
    ax.set_ylim(bottom=0)
    return ax


def plot_bars(names: Sequence[str], values: Sequence[float], ax: Axes, label: str, real: float) -> Axes:
    """Bars with their numbers, and a dashed line at what real pictures score."""
    bars = ax.bar(names, values, color=COLOURS["measure"], edgecolor=COLOURS["data"], width=0.6)
    ax.bar_label(bars, fmt="%.3g", fontsize=8.5, label_type="center")
    ax.axhline(real, color=COLOURS["data"], ls="--", lw=1)
    ax.set(ylabel=label, title=f"dashed: real digits, {real:.3g}")
    ax.margins(y=0.15)
    return ax


def plot_film(rows: dict[str, Any], ax: Axes) -> Axes:
    """Pictures that change: one row of pictures (n, channels, h, w) for each label, the label beside it."""
    columns, height = len(next(iter(rows.values()))), np.asarray(next(iter(rows.values()))).shape[-2] + 1
    plot_pictures(np.concatenate([np.asarray(row) for row in rows.values()]), ax, columns)
    for i, label in enumerate(rows):
        ax.text(-1.5, i * height + height / 2 - 1, label, ha="right", va="center", fontsize=9)
    return ax
