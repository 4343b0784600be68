"""A widget's promises: every step is another picture, the words follow, and a page without a kernel reads."""

import base64
import html
import io
import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from adaln_lab.display import widgets
from adaln_lab.display.plots import new_figure
from adaln_lab.display.widgets import Card, Choice, Explorer, LivePicture, Slider, Words

SCALE = Slider("scale", -1.0, 2.0, 0.1, 0.0)
SHIFT = Slider("shift", -1.0, 1.0, 0.1, 0.0)


def explorer(alt: Any = "scale {scale:.1f}, shift {shift:.1f}".format, update: Any = None, **options: Any) -> Explorer:
    fig, (ax,) = new_figure(4, 2)
    (line,) = ax.plot([0, 1], [0, 1], lw=3)
    ax.set(xlim=(0, 1), ylim=(-3, 3))

    def draw(scale: float, shift: float) -> None:
        line.set_ydata([shift, shift + 1 + scale])

    return Explorer(fig, [line], update or draw, [SCALE, SHIFT], alt, "A line.", **options)


def picture(source: str) -> np.ndarray:
    """The pixels of an <img>."""
    return pixels(base64.b64decode(re.search(r"base64,([^\"]+)", source)[1]))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


class Notebook:
    """What a cell displays: in place of IPython's two functions, since there is no kernel here."""

    def __init__(self) -> None:
        self.shown: list[dict] = []
        self.ids: list[str | None] = []

    def __call__(self, bundle: dict, *, raw: bool, metadata: dict, display_id: str | None = None) -> None:
        assert raw and metadata["image/png"]["alt"] == bundle["text/plain"]
        self.shown.append(bundle)
        self.ids.append(display_id)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    notebook = Notebook()
    monkeypatch.setattr(widgets, "display", notebook)
    monkeypatch.setattr(widgets, "update_display", notebook)
    return notebook


@pytest.mark.parametrize("name", ["scale", "shift"])
def test_every_step_is_another_picture_and_another_text(name: str) -> None:
    e = explorer()
    frames = []
    for _ in range(6):
        frames.append(e.picture.value)
        e.sliders[name].value += 0.1
    assert len(set(frames)) == 6
    assert len({re.search('alt="([^"]*)"', frame)[1] for frame in frames}) == 6


def test_a_quick_frame_equals_a_full_draw() -> None:
    """Blitting is an optimisation: nothing of an earlier frame may stay behind."""
    e = explorer()
    for value in (1.0, -0.5, 0.7):
        e.sliders["scale"].value = value
    quick = picture(e.picture.value)
    fresh = explorer()
    fresh.sliders["scale"].value = 0.7
    fresh.redraw()
    assert (quick == picture(fresh.picture.value)).all()


def test_the_way_back_leads_to_the_same_picture() -> None:
    e = explorer()
    first = e.picture.value
    e.sliders["scale"].value = 1.0
    e.contact_sheet()  # draws on the same canvas
    e.sliders["scale"].value = 0.0
    assert e.picture.value == first


def test_redraw_shows_new_limits() -> None:
    """Limits belong to the background, which a slider does not touch."""
    e = explorer()
    before = e.picture.value
    e.fig.axes[0].set_ylim(-9, 9)
    e.redraw()
    assert e.picture.value != before


def test_the_place_of_the_picture_is_fixed_before_it_loads() -> None:
    assert 'width="400" height="200"' in explorer().picture.value


def test_alt_text_is_escaped() -> None:
    words = 'a "quoted" <b> & more'
    source = explorer(alt=lambda **_: words).picture.value
    inside = re.search('alt="([^"]*)"', source)[1]
    assert html.unescape(inside) == words and "<" not in inside


def test_whole_numbers_stay_whole() -> None:
    """update often indexes a list with the value."""
    seen = []
    fig, (ax,) = new_figure(3, 2)
    (line,) = ax.plot([0, 1])
    e = Explorer(fig, [line], lambda step: seen.append(step), [Slider("step", 0, 20, 1, 5)], "{step}".format, "Steps.")
    e.contact_sheet()
    e.sliders["step"].value = 7
    assert all(isinstance(step, int) for step in seen) and {0, 4, 8, 12, 16, 20, 7} <= set(seen)


def test_an_error_is_said_raised_and_cleared() -> None:
    fig, (ax,) = new_figure(3, 2)
    (line,) = ax.plot([0, 1])

    def update(k: float) -> None:
        if k > 1:
            raise RuntimeError("no <such> picture")
        line.set_ydata([0, k])

    e = Explorer(fig, [line], update, [Slider("k", 0, 2, 0.1, 0.6)], "{k}".format, "A line.")
    assert e.error.value == ""
    with pytest.raises(RuntimeError, match="no <such> picture"):
        e.sliders["k"].value = 1.5
    assert 'class="adaln-error" role="alert"' in e.error.value and "no &lt;such&gt; picture" in e.error.value
    e.sliders["k"].value = 0.5
    assert e.error.value == ""


def test_a_model_behind_the_slider_is_announced() -> None:
    e = explorer(continuous=False)
    assert not any(control.continuous_update for control in e.sliders.values())
    assert "let go" in e.text and "let go" in e.widget.children[-2].value


@pytest.mark.parametrize("width", [3, 6, 9])
def test_contact_sheet_decodes_and_stays_small(width: float) -> None:
    fig, (ax,) = new_figure(width, 2)
    (line,) = ax.plot([0, 1])
    e = Explorer(fig, [line], lambda scale: line.set_ydata([0, scale]), [SCALE], "{scale}".format, "A line. " * 40)
    png = e.contact_sheet()
    sheet = pixels(png)
    assert sheet.shape[1] <= 900 and sheet.min() < 128 and len(png) < 150_000
    assert (sheet[0] == 255).all() and (sheet[-1] == 255).all(), "white and opaque, nothing cut off at the edges"


@pytest.mark.parametrize("tall", [2, 8])
def test_contact_sheet_keeps_no_room_that_no_frame_uses(tall: float) -> None:
    """A live picture must not jump, so it keeps room for its tallest contents; on a page that is only white."""
    fig = Figure((4, tall))
    text = fig.text(0.5, 1 - 1 / tall, "", va="center")
    e = Explorer(fig, [text], lambda scale: text.set_text("word" * (scale > 0)), [SCALE], "{scale}".format, "A word.")
    assert 120 < len(pixels(e.contact_sheet(n=3))) < 240
    e.sheet = [{"scale": 0.0}]
    assert len(pixels(e.contact_sheet())) < 100, "nor does an empty one"


def test_contact_sheet_shows_the_range_and_leaves_the_widget_alone() -> None:
    e = explorer()
    live = e.picture.value
    tiles = e.contact_sheet(n=4)
    assert e.picture.value == live
    assert tiles != explorer(sheet=[{"shift": v} for v in (-1, 0, 0.5, 1)]).contact_sheet(), "sheet= chooses the tiles"


def test_shown_without_a_kernel_it_is_a_picture_and_a_text_that_never_vary(notebook: Notebook) -> None:
    e = explorer()
    e.sliders["scale"].value = 1.0  # what stands in a notebook must not depend on where the reader left the slider
    e._ipython_display_()
    explorer().show()
    used, fresh = notebook.shown
    assert "application/vnd.jupyter.widget-view+json" in used
    assert used["text/plain"] == fresh["text/plain"] == "scale 0.0, shift 0.0\nA line."
    assert used["image/png"] == fresh["image/png"] == base64.b64encode(e.contact_sheet()).decode()


@pytest.mark.parametrize(
    "numbers, said",
    [
        ((0, 3, 0.1, 5), "value 5"),
        ((0, 3, 0.1, -1), "value -1"),
        ((0, 3, 4, 1), "room for a step"),
        ((3, 0, 0.1, 1), "low <= value <= high"),
        ((0, 1, 0.0, 0.5), "step must be positive"),
    ],
)
def test_slider_refuses_numbers_that_ipywidgets_would_clamp(numbers: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Slider("scale", *numbers)


@pytest.mark.parametrize("block", range(8))
def test_a_slider_over_eight_blocks_may_start_anywhere(block: int) -> None:
    """How much room a slider leaves is the author's choice, not the class's."""
    assert Slider("block", 0, 7, 1, block).spread(8) == list(range(8))


def test_the_last_step_is_reached() -> None:
    """Ten steps of 0.1 are not 1.0 in binary."""
    assert Slider("scale", 0.0, 1.5, 0.1, 0.5).spread(4) == [0.0, 0.5, 1.0, 1.5]


def test_explorer_refuses_a_group_of_artists() -> None:
    fig, (ax,) = new_figure(3, 2)
    with pytest.raises(ValueError, match="bars"):
        Explorer(fig, [ax.bar([0], [1])], print, [SCALE], str, "")


def growing_figure() -> tuple[Figure, Any]:
    fig, (ax,) = new_figure(4, 2)
    return fig, ax.plot([0, 1], [0, 0])[0]


def test_live_picture_stores_its_last_state(notebook: Notebook) -> None:
    """nbval sees the first bundle only, a stored notebook the last: same text, other picture."""
    fig, line = growing_figure()
    with LivePicture(fig, "a line that rises") as live:
        first = live.widget.value
        line.set_ydata([0, 1])
        live.draw()
        assert live.widget.value != first and 'alt="a line that rises"' in first
    start, end = notebook.shown
    assert start["text/plain"] == end["text/plain"] == "a line that rises" and start["image/png"] != end["image/png"]
    assert start["application/vnd.jupyter.widget-view+json"] == end["application/vnd.jupyter.widget-view+json"]
    assert notebook.ids[0] == notebook.ids[1] is not None


def test_live_picture_shows_how_far_an_interrupted_loop_came(notebook: Notebook) -> None:
    fig, line = growing_figure()
    with pytest.raises(KeyboardInterrupt), LivePicture(fig, "a line"):
        line.set_ydata([0, 1])
        raise KeyboardInterrupt
    assert notebook.shown[0]["image/png"] != notebook.shown[1]["image/png"]


def test_live_picture_draws_no_more_often_than_asked(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(widgets.time, "monotonic", lambda: clock[0])
    fig, line = growing_figure()
    with LivePicture(fig, "a line") as live:
        frames = []
        for clock[0] in (0.4, 0.9, 1.1, 1.5, 2.2):
            line.set_ydata([0, clock[0]])
            live.draw(every=1.0)
            frames.append(live.widget.value)
    assert [a != b for a, b in itertools.pairwise(frames)] == [False, True, False, True]


def test_a_choice_changes_the_picture_and_its_words() -> None:
    fig, (ax,) = new_figure(4, 2)
    (line,) = ax.plot([0, 1], [0, 1])
    heights = {"low": 0.2, "middle": 0.5, "high": 0.8}
    choice = Choice("place", tuple(heights), "low")
    e = Explorer(
        fig, [line], lambda place: line.set_ydata([heights[place]] * 2), [choice], "at {place}".format, "A line."
    )
    before = e.picture.value
    e.sliders["place"].value = "high"
    assert e.picture.value != before and 'alt="at high"' in e.picture.value
    assert choice.spread(2) == ["low", "high"] and len(e.contact_sheet(3)) > 0


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Bundles that a kernel would have displayed, and a fresh memory of clicks."""
    bundles: list[dict] = []
    monkeypatch.setattr(widgets, "get_ipython", lambda: "a kernel")
    monkeypatch.setattr(widgets, "display", lambda bundle, *, raw: bundles.append(bundle))
    monkeypatch.setattr(Card, "clicked", {})
    return bundles


def faces(card: Card) -> tuple[list[str], list[bool], str]:
    """What the buttons say, which of them are dead, and the line below."""
    line = html.unescape(re.sub(r"<[^>]*>", "", card.line.value))
    return [button.description for button in card.buttons], [button.disabled for button in card.buttons], line


def test_what_is_typed_reaches_the_picture_and_an_error_is_shown_below_it():
    fig, axes = new_figure(2, 2)
    text = axes[0].text(0, 0, "")

    def write(words: str) -> None:
        if words == "bad":
            raise ValueError("no such word")
        text.set_text(words)

    explorer = Explorer(fig, [text], write, [Words("words", ("one", "two"), "one")], lambda words: words, "a caption")
    control = explorer.sliders["words"]
    assert not control.continuous_update, "a model would run at each letter"
    control.value = "something else"  # not among the suggestions
    assert text.get_text() == "something else"
    with pytest.raises(ValueError, match="no such word"):
        control.value = "bad"
    assert "no such word" in explorer.error.value


def test_a_click_commits_and_no_second_one_changes_that(shown: list[dict]) -> None:
    card = Card("equal?", ["yes", "no", "both"])
    assert faces(card) == (["yes", "no", "both"], [False] * 3, "Commit before you read on: choose one.")
    for button in (card.buttons[1], card.buttons[2]):
        button.click()
        marked = ["yes", "→ no (your guess)", "both"]
        assert faces(card) == (marked, [True, False, True], "You said: no. Now run the next cells.")


@pytest.mark.parametrize("pick, verdict", [(0, "Not this one.It is [1] no."), (1, "Right.")])
def test_a_card_that_knows_the_answer_tells_it_afterwards(pick: int, verdict: str, shown: list[dict]) -> None:
    card = Card("equal?", ["yes", "no"], answer=1)
    assert verdict not in card.text + faces(card)[2]
    card.buttons[pick].click()
    assert faces(card)[2] == f"You said: {card.options[pick]}. {verdict}"
    assert faces(Card("equal?", ["yes", "no"], pick, answer=1)) == faces(card)


def test_a_card_that_runs_again_stays_committed_and_what_is_stored_never_varies(shown: list[dict]) -> None:
    """Shift+Enter after a click runs the card's own cell once more."""
    card = Card("equal?", ["yes", "no"])
    card.show()
    card.buttons[0].click()
    again = Card("equal?", ["yes", "no"])
    again.show()
    assert again.pick == (0,) and Card("equal?", ["no", "yes"]).pick is None
    assert all(bundle["application/vnd.jupyter.widget-view+json"] and "image/png" not in bundle for bundle in shown)
    assert shown[0]["text/plain"] == shown[1]["text/plain"] == again.text
    assert again.text.splitlines()[1:] == ["     [0] yes", "     [1] no", again.text.splitlines()[-1]]


REPLIES = {"one": "Too few.", "two": "Right. A pair.", "three": "Too many."}
TOLD = {  # pick -> what is told in the text
    0: ["Not this one. Too few.", "It is [1] two. A pair.", "[2] three: Too many."],
    1: ["Right. A pair.", "[0] one: Too few.", "[2] three: Too many."],
}


@pytest.mark.parametrize("pick", TOLD)
def test_a_commitment_shows_the_reply_what_is_right_and_why(pick: int, shown: list[dict]) -> None:
    commits: list[bool] = []
    card = Card("how many?", REPLIES, answer="two", commit=commits.append)
    assert not any(reply in card.text + card.line.value for reply in REPLIES.values())
    for button in (card.buttons[pick], card.buttons[2]):
        button.click()
    said = [html.escape(line) for line in TOLD[pick]]
    assert [line for line in said if line not in card.line.value] == [] and commits == [pick == 1]
    assert Card("how many?", REPLIES, pick, "two").text.splitlines()[4:] == TOLD[pick]
    Card("how many?", REPLIES, pick, "two", commit=commits.append)
    assert len(commits) == 1, "the cell that runs again does not commit again"


def test_several_options_are_ticked_and_then_committed(shown: list[dict]) -> None:
    commits: list[bool] = []
    card = Card("which?", REPLIES, answer={"two", "three"}, commit=commits.append)
    card.buttons[1].value = True
    assert "supported" not in card.line.value
    card.done.click()
    assert "You said: two. 2 of 3 judged right." in card.line.value and commits == [False]
    assert "[2] three: supported. Too many." in card.line.value and all(box.disabled for box in card.buttons)
    assert "All judged right." in Card("which?", REPLIES, (1, 2), {"two", "three"}).text
    assert "All judged right." in Card("which?", REPLIES, (), set()).text, "none may be right"


def test_a_card_carries_what_a_web_page_needs(shown: list[dict]) -> None:
    Card("how many?", REPLIES, answer="two").show()
    card = json.loads(json.dumps(shown[0][Card.MIME]))
    assert card["answer"] == [1] and card["options"][1] == {"option": "two", "reply": "A pair."}
    Card("how many?", ["one"]).show()
    assert Card.MIME not in shown[1], "without an answer there is nothing to tell"


def test_words_of_a_card_are_escaped(shown: list[dict]) -> None:
    card = Card("a < b & c?", ["<b>"], pick=0)
    assert "a &lt; b &amp; c?" in card.widget.children[0].value and "&lt;b&gt;" in card.line.value


def test_without_ipython_a_card_prints_its_text(capsys: pytest.CaptureFixture) -> None:
    card = Card("equal?", ["yes", "no"])
    card.show()
    assert capsys.readouterr().out == card.text + "\n"
