"""The widgets of the course: a picture with sliders, a picture that a training loop redraws, a card with a question.

A figure is drawn once. After that a slider redraws only the artists that change, on top of the stored background
(blitting), and the browser gets the frame as a PNG in an <img> with alt text: about a tenth of the time of a full draw.
Pages without a kernel (GitHub, print, offline) show a contact sheet instead.

Figures are `matplotlib.figure.Figure` objects; pyplot and its global state are not used.
"""

import base64
import functools
import html
import io
import math
import re
import textwrap
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as W
import numpy as np
from IPython import get_ipython
from IPython.display import display, update_display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from adaln_lab.display.plots import small_png

SHEET_WIDTH = 900  # pixels
SHEET_GAP = 8
CARD_STYLE = (  # a long option wraps
    "<style>.adaln-card > .widget-button {white-space: normal; text-align: left; line-height: 1.4; padding: 4px 10px}"
    ".adaln-card > .widget-checkbox label {white-space: normal; line-height: 1.4}</style>"
)
WAIT_NOTE = " (Drawn when you let go of the slider: a model runs for each picture.)"


@dataclass(frozen=True)
class Slider:
    """A number to choose. `name` is the argument of `update` and `alt`, `label` is shown to the reader.

    If low, high, step and value are all int, the slider gives ints.
    """

    name: str
    low: float
    high: float
    step: float
    value: float  # the default
    label: str | None = None
    fmt: str | None = None  # as in f"{value:{fmt}}"; d for whole numbers, else .2f

    def __post_init__(self) -> None:
        if self.step <= 0:
            raise ValueError(f"slider {self.name!r}: the step must be positive, got {self.step}")
        if not self.low <= self.value <= self.high or self.low + self.step > self.high:
            raise ValueError(
                f"slider {self.name!r}: expected low <= value <= high and room for a step, got low {self.low}, "
                f"value {self.value}, high {self.high}, step {self.step}"
            )

    @property
    def is_whole(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step, self.value))

    @property
    def readout(self) -> str:
        return self.fmt or ("d" if self.is_whole else ".2f")

    def text(self, value: float) -> str:
        """The title of a tile of the contact sheet: label and value."""
        return f"{self.label or self.name}: {value:{self.readout}}"

    def spread(self, n: int) -> list[float]:
        """n values from low to high, rounded to the slider's steps."""
        steps = math.floor((self.high - self.low) / self.step + 1e-9)
        values = [self.low + round(i * steps / (n - 1)) * self.step for i in range(n)]
        return values if self.is_whole else [round(value, 10) for value in values]

    def control(self, continuous: bool) -> W.IntSlider | W.FloatSlider:
        kind = W.IntSlider if self.is_whole else W.FloatSlider
        return kind(
            min=self.low, max=self.high, step=self.step, value=self.value,
            description=self.label or self.name, readout_format=self.readout, continuous_update=continuous,
            style={"description_width": "14em"}, layout=W.Layout(width="min(39em, 98%)"),
        )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One of several options, shown as buttons beside the sliders."""

    name: str
    options: tuple[str, ...]
    value: str  # the default
    label: str | None = None

    def text(self, value: str) -> str:
        """The title of a tile of the contact sheet."""
        return value

    def spread(self, n: int) -> list[str]:
        """Up to n of the options, evenly spaced, with the first and the last."""
        n = min(n, len(self.options))
        return [self.options[round(i * (len(self.options) - 1) / (n - 1))] for i in range(n)]

    def control(self, continuous: bool) -> W.ToggleButtons:
        """Buttons, because JupyterLab intercepts the arrow keys of a drop-down list."""
        return W.ToggleButtons(
            options=self.options, value=self.value, description=self.label or self.name,
            style={"description_width": "14em", "button_width": "auto"}, layout=W.Layout(width="98%"),
        )  # fmt: skip


@dataclass(frozen=True)
class Words(Choice):
    """A line to type into; `options` are suggestions, and what pages without a kernel offer."""

    def control(self, continuous: bool) -> W.Combobox:
        return W.Combobox(
            options=self.options, value=self.value, description=self.label or self.name,
            continuous_update=False, style={"description_width": "14em"}, layout=W.Layout(width="min(39em, 98%)"),
        )  # fmt: skip


class Explorer:
    """A picture with sliders: `Explorer(fig, artists, update, sliders, alt, caption)` as the last line of a cell.

    fig         drawn once; axes, labels and limits stay fixed
    artists     redrawn for each frame, above everything fixed
    update      update(**values) puts new data into the artists
    sliders     `Slider`s and `Choice`s; the contact sheet varies the first one
    alt         alt(**values) -> str, the alt text: what the picture shows
    caption     plain text, always visible
    continuous  False if an update is slow: it then runs when the slider is released, and the caption says so
    sheet       slider values of the contact sheet, one dict per tile; omitted values are the defaults
    """

    def __init__(
        self,
        fig: Figure,
        artists: Sequence[Artist],
        update: Callable[..., Any],
        sliders: Sequence[Slider | Choice],
        alt: Callable[..., str],
        caption: str,
        *,
        continuous: bool = True,
        sheet: Sequence[dict[str, Any]] | None = None,
    ):
        if groups := [item for item in artists if not isinstance(item, Artist)]:
            raise ValueError(f"artists must be single artists (write *bars for a group), got {groups[0]!r}")
        self.fig, self.artists, self.update, self.alt = fig, sorted(artists, key=Artist.get_zorder), update, alt
        self.caption = caption if continuous else caption + WAIT_NOTE
        self.specs = {slider.name: slider for slider in sliders}
        self.sheet = sheet
        self.canvas = _white_canvas(fig)
        self.layout = fig.get_layout_engine()
        for artist in self.artists:
            artist.set_animated(True)  # left out of a full draw, hence out of the stored background
        self.sliders = {name: slider.control(continuous) for name, slider in self.specs.items()}
        self.picture, self.error = W.HTML(), W.HTML()
        self.widget = W.VBox([*self.sliders.values(), self.picture, W.HTML(_paragraph(self.caption)), self.error])
        self.redraw()
        for control in self.sliders.values():
            control.observe(self._on_change, names="value")

    @property
    def values(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.sliders.items()}

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: slider.value for name, slider in self.specs.items()}

    @property
    def text(self) -> str:
        """Replaces the widget where neither widgets nor pictures are shown; the same on every machine."""
        return f"{self.alt(**self.defaults)}\n{self.caption}"

    def redraw(self) -> None:
        """Solve the layout and draw the whole figure. Needed only after changing limits or labels."""
        self.update(**self.values)
        if self.layout is not None:
            self.layout.execute(self.fig)
            self.fig.set_layout_engine("none")  # solved once: the axes must not move with the slider
        self.canvas.draw()
        self._background = self.canvas.copy_from_bbox(self.fig.bbox)
        self._show_frame()

    def contact_sheet(self, n: int = 6) -> bytes:
        """A PNG for pages without a kernel: the picture at n values of the first slider, or at those of `sheet`."""
        first = next(iter(self.specs.values()))
        tiles = self.sheet or [{first.name: value} for value in first.spread(n)]
        titles = [", ".join(self.specs[name].text(value) for name, value in tile.items()) for tile in tiles]
        frames = [self.frame(self.defaults | tile) for tile in tiles]
        self.update(**self.values)  # the artists match the sliders again
        return small_png(_sheet(frames, titles, self.caption))

    def show(self) -> None:
        """Display the widget with its contact sheet and text. IPython calls this for the last line of a cell."""
        _publish(display, self.widget, self.contact_sheet(), self.text)

    _ipython_display_ = show

    def frame(self, values: dict[str, Any]) -> Image.Image:
        """The picture at these values, wherever the sliders stand."""
        self.update(**values)
        self.canvas.restore_region(self._background)
        for artist in self.artists:
            artist.draw(self.canvas.get_renderer())
        return _pixels(self.canvas)

    def _show_frame(self) -> None:
        self.picture.value = _img(self.frame(self.values), self.alt(**self.values))

    def _on_change(self, _change: dict) -> None:
        """Redraw. An exception is shown below the picture and raised, since JupyterLab alone would hide it."""
        try:
            self._show_frame()
        except Exception as error:
            message = html.escape(f"{type(error).__name__}: {error}")
            self.error.value = (
                f'<p class="adaln-error" role="alert" style="color:var(--jp-error-color1,inherit)">{message}</p>'
            )
            raise
        self.error.value = ""


class LivePicture:
    """A figure that is redrawn while a loop runs; the stored notebook keeps its last state.

    with LivePicture(fig, alt) as live:
        for step in train(...):
            ...  # new data into the artists of fig
            live.draw(every=0.5)
    """

    def __init__(self, fig: Figure, alt: str):
        self.fig, self.alt, self.canvas = fig, alt, _white_canvas(fig)
        self.widget = W.HTML()
        self._id, self._drawn = uuid.uuid4().hex, -math.inf

    def draw(self, every: float = 0.0) -> None:
        """Redraw the whole figure, unless the last drawing is less than `every` seconds old."""
        if time.monotonic() - self._drawn < every:
            return
        self.canvas.draw()
        self.widget.value = _img(_pixels(self.canvas), self.alt)
        self._drawn = time.monotonic()  # after drawing, so that a slow figure leaves time for the loop

    def __enter__(self) -> "LivePicture":
        self.draw()
        _publish(display, self.widget, self._png(), self.alt, display_id=self._id)
        return self

    def __exit__(self, *_error: object) -> None:
        self.draw()  # also after an interrupt, to show how far the loop came
        _publish(update_display, self.widget, self._png(), self.alt, display_id=self._id)

    def _png(self) -> bytes:
        return small_png(_pixels(self.canvas))


class Card:
    """A question with its options. The first click commits and shows what is right; running the cell again keeps it.

    options  {option: reply}; a list of options has no replies
    pick     commits in the code, where there are no widgets: the option's number, or a tuple of numbers
    answer   the right option or its number; a set of options where several may be right, or none
    commit   called once with True or False when the reader commits
    how      the argument that commits in the code, where it is not `pick=...`

    The output of a card with an answer also holds it as JSON (`MIME`): a web page makes from it a card without kernel.
    """

    MIME: ClassVar[str] = "application/vnd.adaln-lab.card+json"
    clicked: ClassVar[dict[tuple, tuple[int, ...]]] = {}  # in this kernel: question and options -> pick

    def __init__(
        self,
        question: str,
        options: dict[str, str] | Sequence[str],
        pick: int | Sequence[int] | None = None,
        answer: str | int | Collection[str] | None = None,
        *,
        title: str = "Your guess",
        commit: Callable[[bool], None] | None = None,
        how: str | None = None,
    ):
        self.question, self.title, self.commit = question, title, commit
        self.options = tuple(options)
        self.replies = tuple(options.values()) if isinstance(options, dict) else ("",) * len(options)
        self.has_several = not isinstance(answer, str | int | None)
        self.how = how or ("pick=(0, ...)" if self.has_several else "pick=...")
        self.answer = None if answer is None else self._numbers("answer", answer)
        self.pick = None if pick is None else self._numbers("pick", pick)
        self.text = self._text()  # from the arguments alone: a click must not change the stored notebook
        wide = W.Layout(width="auto", height="auto", min_width="14em", max_width="98%")
        kind = functools.partial(W.Checkbox, indent=False) if self.has_several else W.Button
        self.buttons = [kind(description=option, layout=wide) for option in self.options]
        self.done = W.Button(description="Commit", layout=wide)
        self.line = W.HTML()
        for button in (self.done,) if self.has_several else self.buttons:
            button.on_click(self._on_click)
        last = [self.done] if self.has_several else []
        layout = W.Layout(align_items="flex-start")
        head = W.HTML(_paragraph(f"{title}: {question}") + CARD_STYLE)
        self.widget = W.VBox([head, *self.buttons, *last, self.line], layout=layout)
        self.widget.add_class("adaln-card")
        if self.pick is None:
            self.pick = self.clicked.get((question, self.options))
        else:
            self._commit(self.pick)
        self._show_pick()

    def show(self) -> None:
        """Display the card with its text beside it; without IPython, print the text."""
        if get_ipython() is None:
            print(self.text)
        else:
            data = {} if self.answer is None else {self.MIME: self._json()}
            display(self.widget._repr_mimebundle_() | {"text/plain": self.text} | data, raw=True)

    @property
    def is_right(self) -> bool:
        return self.answer is not None and self.pick == self.answer

    def _numbers(self, name: str, given: str | int | Collection[str | int]) -> tuple[int, ...]:
        """The numbers of the given options."""
        given = [given] if isinstance(given, str | int) else given
        for item in given:
            if item not in self.options and item not in range(len(self.options)):
                allowed = f"a number from 0 to {len(self.options) - 1}" + ", or an option" * (name == "answer")
                raise ValueError(f"{name} must be {allowed}, got {item!r}")
        return tuple(sorted(self.options.index(item) if isinstance(item, str) else item for item in given))

    def _commit(self, pick: tuple[int, ...]) -> None:
        self.pick = pick
        if self.clicked.get((self.question, self.options)) != pick:
            self.clicked[self.question, self.options] = pick
            if self.commit is not None and self.answer is not None:
                self.commit(self.is_right)

    def _on_click(self, button: W.Button) -> None:
        if self.pick is None:  # a second click may already be queued
            ticked = (i for i, box in enumerate(self.buttons) if box is button or getattr(box, "value", False))
            self._commit(tuple(ticked))
            self._show_pick()

    def _show_pick(self) -> None:
        """Mark what was chosen, and write lines that screen readers announce."""
        if self.pick is None:
            choose = "tick all that are right, then commit" if self.has_several else "choose one"
            self.line.value = _status([f"Commit before you read on: {choose}."])
            return
        for i, button in enumerate(self.buttons):
            button.disabled = self.has_several or i not in self.pick  # a chosen button keeps the focus for Shift+Enter
            if self.has_several:
                button.value = i in self.pick
            elif i in self.pick:
                button.description, button.style.font_weight = f"\u2192 {self.options[i]} (your guess)", "bold"
        self.done.description = "Committed"
        said = "; ".join(self.options[i] for i in self.pick) or "none"
        first, *more = self._feedback()
        details = html.escape("\n".join(self._others())).replace("\n", "<br>")
        self.line.value = _status([f"You said: {said}. {first}", *more]) + (
            f"<details><summary>The other options</summary>{details}</details>" if details else ""
        )

    def _feedback(self) -> list[str]:
        """After committing: the verdict, what is right, and why."""
        if self.answer is None:
            return [f"{self.replies[self.pick[0]]} Now run the next cells.".strip()]
        if self.has_several:
            hits = sum((i in self.pick) == (i in self.answer) for i in range(len(self.options)))
            verdict = "All judged right." if self.is_right else f"{hits} of {len(self.options)} judged right."
            marks = ["supported" if i in self.answer else "not supported" for i in range(len(self.options))]
            return [verdict, *(self._reply(i, f"[{i}] {self.options[i]}: {mark}.") for i, mark in enumerate(marks))]
        (pick,), (answer,) = self.pick, self.answer
        if self.is_right:
            return [self._reply(pick, "Right.")]
        return [self._reply(pick, "Not this one."), self._reply(answer, f"It is [{answer}] {self.options[answer]}.")]

    def _others(self) -> list[str]:
        """The replies that the feedback does not contain."""
        told = range(len(self.options)) if self.has_several or self.answer is None else {*self.pick, *self.answer}
        others = [i for i in range(len(self.options)) if i not in told and self.replies[i]]
        return [self._reply(i, f"[{i}] {self.options[i]}:") for i in others]

    def _reply(self, i: int, verdict: str) -> str:
        return f"{verdict} {re.sub(r'^(Right|Yes|No)[.,:] ', '', self.replies[i])}".rstrip()

    def _text(self) -> str:
        lines = [
            f"  {'->' if i in (self.pick or ()) else '  '} [{i}] {option}" for i, option in enumerate(self.options)
        ]
        last = [f"Commit before you read on: add {self.how} to this cell and run it."]
        if self.pick is not None:
            last = [*self._feedback(), *self._others()] if self.answer is not None or any(self.replies) else []
        return "\n".join([f"{self.title}: {self.question}", *lines, *last]).rstrip()

    def _json(self) -> dict[str, Any]:
        options = [{"option": option, "reply": self._reply(i, "").strip()} for i, option in enumerate(self.options)]
        card = {"title": self.title, "question": self.question, "options": options}
        return card | {"answer": list(self.answer), "several": self.has_several}


def _white_canvas(fig: Figure) -> FigureCanvasAgg:
    fig.set_facecolor("white")  # opaque, so that it is legible on a dark page
    return FigureCanvasAgg(fig)


def _pixels(canvas: FigureCanvasAgg) -> Image.Image:
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _img(image: Image.Image, alt: str) -> str:
    """Width and height reserve the space; decoding=sync never shows a half-decoded picture."""
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)  # fast; the frame is replaced soon
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img alt="{html.escape(alt)}" width="{image.width}" height="{image.height}" decoding="sync" '
        f'style="max-width:100%;height:auto;display:block" src="data:image/png;base64,{data}">'
    )


def _paragraph(text: str) -> str:
    return f'<p style="margin:0;line-height:1.4;max-width:60em">{html.escape(text)}</p>'


def _status(lines: Sequence[str]) -> str:
    return f'<div role="status">{"".join(map(_paragraph, lines))}</div>'


def _publish(how: Callable[..., Any], widget: W.Widget, png: bytes, text: str, **options: Any) -> None:
    """One output in three formats: the live widget, a PNG for pages without a kernel, and text that never varies."""
    bundle = widget._repr_mimebundle_() | {"image/png": base64.b64encode(png).decode(), "text/plain": text}
    how(bundle, raw=True, metadata={"image/png": {"alt": text}}, **options)


def _sheet(frames: Sequence[Image.Image], titles: Sequence[str], caption: str) -> Image.Image:
    """Frames with titles in rows of up to three, then the caption; SHEET_WIDTH wide.

    White at the bottom of all frames is cut off: a live picture reserves that space for taller contents.
    """
    inked = [box for frame in frames if (box := ImageOps.invert(frame.convert("L")).getbbox())]
    bottom = min(frames[0].height, max((box[3] for box in inked), default=1) + SHEET_GAP)
    frames = [frame.crop((0, 0, frame.width, bottom)) for frame in frames]
    columns = 3 if frames[0].width <= 420 else 2 if len(frames) > 3 else 1
    rows, cell = -(-len(frames) // columns), SHEET_WIDTH // columns
    tile = frames[0].copy()
    tile.thumbnail((cell - SHEET_GAP, 10 * cell), Image.Resampling.LANCZOS)
    title, lines = 32, textwrap.wrap(caption, SHEET_WIDTH // 7)
    height = rows * (tile.height + title + SHEET_GAP) + 18 * len(lines) + 2 * SHEET_GAP
    sheet = Figure(figsize=(SHEET_WIDTH / 100, height / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(sheet)
    for i, (frame, text) in enumerate(zip(frames, titles, strict=True)):
        row, column = divmod(i, columns)
        top = height - row * (tile.height + title + SHEET_GAP)
        left = column * cell + (cell - tile.width) // 2
        small = frame.resize(tile.size, Image.Resampling.LANCZOS)
        sheet.figimage(np.asarray(small), left, top - title - tile.height)
        sheet.text((left + tile.width / 2) / SHEET_WIDTH, (top - title / 2) / height, text, size=10.5, weight="bold",
                   ha="center", va="center", parse_math=False)  # fmt: skip
    sheet.text(SHEET_GAP / SHEET_WIDTH, SHEET_GAP / height, "\n".join(lines), size=9.5, va="bottom", parse_math=False)
    canvas.draw()
    return _pixels(canvas)
