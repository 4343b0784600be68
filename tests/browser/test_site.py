"""The pages of `make site` in a real Chromium, opened as files: they ask for nothing outside, show all that is stored,
and answer to keys and fingers; the model in the page draws the digits that it is asked for.

    ADALN_LAB_SITE=build/site python -m pytest -m browser tests/browser/test_site.py    every slider of what is built

Without ADALN_LAB_SITE the pages are built here, and the sliders of notebook 00 alone move.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import torch

pytest.importorskip("playwright", reason="no playwright: pip install playwright")
pytest.importorskip("myst_nb", reason="no Sphinx for the pages: pip install -e .[site]")

import frames
from driver import ROOT
from playwright.sync_api import Browser, Locator, Page

from adaln_lab.data.datasets import load
from adaln_lab.display.plots import new_figure
from adaln_lab.display.widgets import Choice, Explorer, Slider
from adaln_lab.experiments.classifier import load_classifier

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = ["index", "playground", "glossary", "faq", "ledger", "cards", *(path.stem for path in NOTEBOOKS)]
DESK, PHONE = {"width": 1280, "height": 1600}, {"width": 390, "height": 800}
SHOWN = """async () => {
    if (window.MathJax?.startup) await MathJax.startup.promise;
    const all = selector => [...document.querySelectorAll(selector)];
    all('img').forEach(image => { image.loading = 'eager'; });
    await Promise.all(all('img').map(image => image.decode().catch(() => null)));
    const text = document.querySelector('article').cloneNode(true);
    text.querySelectorAll('code, pre, script, mjx-container, noscript').forEach(e => e.remove());
    return {
        pictures: all('img.course-picture').filter(image => image.naturalWidth > 1).length,
        formulas: all('mjx-container[display="true"]').length,
        missing: all('img').filter(image => image.complete && !image.naturalWidth).map(image => image.src.slice(0, 80)),
        unnamed: all('article img').filter(i => !i.alt && !i.closest('[role=img]')).map(i => i.src.slice(-80)),
        raw: text.textContent.match(/.{0,60}\\$.{0,60}/g) ?? [],
        errors: all('mjx-merror').map(e => e.textContent),
        wide: Math.max(0, document.documentElement.scrollWidth - innerWidth),
        links: all('article a[href]').map(link => link.getAttribute('href')),
        kilobytes: document.documentElement.outerHTML.length / 1000,
    };
}"""
MOVE = """(holder, event) => {
    const picture = holder.querySelector('.explorer-over'), old = picture.src;
    window.painted = new Promise(resolve => {
        let began;
        holder.addEventListener(event, e => { began = e.timeStamp; }, {once: true, capture: true});
        const stop = performance.now() + 5000;
        const look = now => {
            if (began && picture.src !== old && picture.complete && picture.naturalWidth) resolve(now - began);
            else if (now > stop) resolve(null);
            else requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    });
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if built := os.environ.get("ADALN_LAB_SITE"):
        return Path(built).resolve()
    out = tmp_path_factory.mktemp("site") / "pages"
    subprocess.run([sys.executable, ROOT / "site" / "pages.py", "--out", out, "--sliders", "00"], check=True)
    return out


@contextmanager
def opened(browser: Browser, path: Path, said: list[str], at: str = "", **context: object) -> Iterator[Page]:
    """A page from a file; `said` gets what goes wrong, and every request for what does not lie beside it."""
    with browser.new_context(viewport=context.pop("viewport", DESK), **context) as around, around.new_page() as page:
        page.on("pageerror", lambda error: said.append(f"the page raised {error}"))
        page.on("console", lambda line: said.append(f"console: {line.text}") if line.type == "error" else None)
        page.on(
            "request", lambda asked: said.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
        )
        page.goto(path.as_uri() + at)
        yield page


def moved(page: Page, holder: Locator, event: str, how: str, do: object) -> float | str:
    """Milliseconds from the event to the new picture, or what is wrong."""
    holder.evaluate(MOVE, event)
    do()
    ms = page.evaluate("() => window.painted")
    return f"{how}: no new picture" if ms is None else ms


def play(page: Page) -> tuple[list[str], list[float]]:
    """Move every control of every slider by key and by touch: (what is wrong, milliseconds of each move)."""
    found: list[float | str] = []
    for number, holder in enumerate(page.locator("[data-frames]").all()):
        holder.scroll_into_view_if_needed()
        holder.locator(".explorer-over").wait_for(timeout=20_000)
        picture = holder.locator(".explorer-picture")
        for control in holder.locator("input[type=range]").all():
            how, alt, start = f"slider {number}", picture.get_attribute("aria-label"), control.input_value()
            control.focus()
            found.append(moved(page, holder, "keydown", f"{how}, key", lambda: page.keyboard.press("ArrowRight")))
            found += [f"{how}: the alt text stays"] if picture.get_attribute("aria-label") == alt else []
            control.scroll_into_view_if_needed()
            box = control.bounding_box()
            place = (box["x"] + 4, box["y"] + box["height"] / 2)
            found.append(moved(page, holder, "input", f"{how}, touch", lambda at=place: page.touchscreen.tap(*at)))
            control.fill(start)  # at an end another control may have nothing to change
        for option in holder.locator("label:has(input[type=radio]:not(:checked))").all():
            found.append(moved(page, holder, "click", f"choice {number}", option.tap))
    return [item for item in found if isinstance(item, str)], [item for item in found if not isinstance(item, str)]


@pytest.mark.parametrize("name", PAGES)
def test_page_shows_everything_and_asks_for_nothing_outside(name: str, site: Path, browser: Browser) -> None:
    said: list[str] = []
    for scheme, viewport in (("light", DESK), ("dark", PHONE)):
        with opened(browser, site / f"{name}.html", said, viewport=viewport, color_scheme=scheme) as page:
            shown = page.evaluate(SHOWN)
            if shots := os.environ.get("ADALN_LAB_SHOTS"):
                page.screenshot(path=Path(shots) / f"site_{name}_{viewport['width']}_{scheme}.png", full_page=True)
        said += [f"{what}: {shown[what]}" for what in ("missing", "unnamed", "raw", "errors", "wide") if shown[what]]
    near = [link.split("#")[0] for link in shown["links"] if not link.startswith(("http", "#", "file:"))]
    said += [f"link: {link}" for link in near if not (site / link).is_file()]
    assert not said, "\n".join(said)
    assert shown["kilobytes"] < 2000
    if (path := ROOT / "notebooks" / f"{name}.ipynb").exists():
        cells = nbformat.read(path, as_version=4).cells
        bundles = [out["data"] for cell in cells for out in cell.get("outputs", []) if "data" in out]
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
        texts += [data.get("text/markdown", "") for data in bundles]
        assert shown["pictures"] == sum("image/png" in data for data in bundles)
        assert shown["formulas"] == sum(text.count("$$") // 2 for text in texts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sliders_move_and_cards_reply(path: Path, site: Path, browser: Browser) -> None:
    said: list[str] = []
    with opened(browser, site / f"{path.stem}.html", said, viewport=PHONE, has_touch=True) as page:
        wrong, ms = play(page)
        cards = page.locator("[data-card]")
        for card in cards.all():
            several = card.locator("input[type=checkbox]").count()
            (card.locator("input[type=checkbox]") if several else card.locator("button")).first.tap()
            if several:
                card.get_by_role("button", name="Commit").tap()
            card.get_by_role("status").filter(has_text="You said").wait_for(timeout=5000)
        if cards.count():
            page.reload()
            replied = page.get_by_role("status").filter(has_text="You said")
            replied.first.wait_for(timeout=5000)
            assert replied.count() == cards.count(), "an answer is not kept"
            cards.first.get_by_role("button", name="ask again").tap()
            cards.first.get_by_role("status").filter(has_text="Commit before you read on").wait_for(timeout=5000)
    assert not said + wrong, "\n".join(said + wrong)
    if "ADALN_LAB_SITE" in os.environ or path.name.startswith("00"):
        assert ms, "no slider moves"
        print(f"{path.stem}: {len(ms)} moves, median {sorted(ms)[len(ms) // 2]:.0f} ms, longest {max(ms):.0f} ms")


def test_each_way_to_offer_the_controls_plays(site: Path, browser: Browser, tmp_path: Path) -> None:
    """Sliders that keep all positions, fewer, and one control at a time; a damaged file leaves a sentence."""
    fig, (ax,) = new_figure(4, 2)
    (line,) = ax.plot([0, 1], [0, 1])
    ax.set_ylim(0, 20)

    def explorer(*controls: Slider | Choice) -> Explorer:
        def update(**values: float | str) -> None:
            line.set_ydata([sum(v for v in values.values() if not isinstance(v, str)), len(values.get("kind", ""))])

        return Explorer(fig, [line], update, controls, lambda **values: f"A line of {values}.", "A line.")

    sliders = [Slider(name, 0, 2, 0.1, 1) for name in "abcde"]
    kinds = {
        "all": explorer(sliders[0], Choice("kind", ("x", "xx", "xxx"), "xx")),
        "coarser": explorer(*sliders[:2]),
        "single": explorer(*sliders, Choice("kind", ("x", "xx", "xxx"), "xx")),
    }
    figures = []
    for mode, shown in kinds.items():
        assert frames.record(shown)["mode"] == mode
        frames.write(shown, tmp_path)
        figures.append(f'<figure data-folder="." data-frames="{frames.key(shown.text)}"></figure>')
    (tmp_path / "damaged.js").write_text("(globalThis.adalnFrames ??= {}).other = 0;\n")
    figures.append('<figure class="damaged" data-folder="." data-frames="damaged"></figure>')
    shutil.copy(site / "_static" / "explorers.js", tmp_path)
    page_text = f'<!doctype html><meta charset="utf-8"><script src="explorers.js"></script>{"".join(figures)}'
    (tmp_path / "page.html").write_text(page_text)
    said: list[str] = []
    with opened(browser, tmp_path / "page.html", said, has_touch=True) as page:
        page.locator(".damaged").get_by_text("could not be loaded").wait_for(timeout=5000)
        page.evaluate("() => document.querySelector('.damaged').remove()")
        wrong, ms = play(page)
        single = page.locator("figure").nth(2)
        single.locator("input[type=range]").nth(3).fill("0")
        assert [control.input_value() for control in single.locator("input[type=range]").all()].count("0") == 1
    assert not said + wrong and len(ms) == 2 * 8 + 4, (said, wrong, len(ms))


def test_cards_reply_where_storage_is_blocked(site: Path, browser: Browser) -> None:
    said: list[str] = []
    blocked = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('blocked'); }})"
    with opened(browser, site / "index.html", said) as page:
        page.add_init_script(blocked)
        page.goto((site / f"{NOTEBOOKS[0].stem}.html").as_uri())
        card = page.locator("[data-card]").first
        card.locator("button").first.press("Enter")
        card.get_by_text("This browser keeps nothing").wait_for(timeout=5000)


def test_without_javascript_the_pictures_stand_there(site: Path, browser: Browser) -> None:
    for name, picture in ((NOTEBOOKS[0].stem, "img.course-picture"), ("playground", "noscript img, img[src*=sheet]")):
        with opened(browser, site / f"{name}.html", [], java_script_enabled=False) as page:
            page.locator(picture).first.scroll_into_view_if_needed()
            assert page.locator(picture).first.is_visible()


# The model in the page

DRAW = """async questions => {
    const canvas = document.getElementById('play-picture'), status = document.getElementById('play-status');
    const pictures = [];
    for (const [digit, seed] of questions) {
        const changed = new Promise(resolve => new MutationObserver((_, it) => { it.disconnect(); resolve(); })
            .observe(status, {childList: true}));
        location.hash = `digit=${digit}&seed=${seed}`;
        await changed;
        const pixels = canvas.getContext('2d').getImageData(0, 0, 8, 8).data;
        pictures.push([...pixels].filter((_, i) => i % 4 === 0));
    }
    return pictures;
}"""
REDRAW = """() => new Promise(resolve => {
    const status = document.getElementById('play-status'), slider = document.querySelector('[data-name="mlp gate1"]');
    const start = performance.now();
    const done = () => requestAnimationFrame(() => resolve(performance.now() - start));
    new MutationObserver((_, it) => { it.disconnect(); done(); })
        .observe(status, {childList: true});
    slider.value = Number(slider.value) - 0.1;
    slider.dispatchEvent(new Event('input'));
})"""


def ready(page: Page, at: str = "Drawn: ") -> None:
    page.locator("#play-status").filter(has_text=at).wait_for(timeout=20_000)


def test_playground_draws_the_digits_that_it_is_asked_for(site: Path, browser: Browser) -> None:
    """200 of them, read by the package's own classifier."""
    said: list[str] = []
    asked = [(n % 10, 100 + n) for n in range(200)]
    with opened(browser, site / "playground.html", said) as page:
        ready(page)
        pictures = torch.tensor(page.evaluate(DRAW, asked)).reshape(-1, 1, 8, 8) / 127.5 - 1
        times = sorted(page.evaluate(REDRAW) for _ in range(9))
        first = page.evaluate(
            "() => { const [m] = performance.getEntriesByName('redraw'); return m.startTime + m.duration; }"
        )
    read = load_classifier(load("digits"))(pictures).argmax(-1)
    right = (read == torch.tensor([digit for digit, _ in asked])).float().mean().item()
    print(
        f"{right:.3f} of 200 digits read as asked; first after {first:.0f} ms, a move {times[4]:.0f} ms (median of 9)"
    )
    assert not said and right >= 0.95, (said, right)


def test_playground_controls_and_link(site: Path, browser: Browser) -> None:
    said: list[str] = []
    with opened(browser, site / "playground.html", said, viewport=PHONE, has_touch=True) as page:
        ready(page)
        picture = page.locator("#play-picture")
        first = picture.evaluate("canvas => canvas.toDataURL()")
        for control in page.locator("#play-root input[type=range]").all():
            if "time" in control.get_attribute("data-name"):
                page.locator("#play-stop").check()
            before = page.locator("#play-status").inner_text()
            control.focus()
            page.keyboard.press("ArrowLeft")
            page.wait_for_function("old => document.getElementById('play-status').innerText !== old", arg=before)
        page.locator("#play-blocks input").nth(2).tap()
        page.locator("#play-donor").select_option("5")
        ready(page, "block 2 gets 5")
        state, link = page.locator("#play-status").inner_text(), page.locator("#play-link").get_attribute("href")
        changed = picture.evaluate("canvas => canvas.toDataURL()")
        page.goto("about:blank")
        page.goto(link)
        ready(page, state)
        assert picture.evaluate("canvas => canvas.toDataURL()") == changed != first
        page.locator("#play-reset").tap()
        ready(page, "6 steps, trained.")
        assert picture.evaluate("canvas => canvas.toDataURL()") == first and "#" not in page.url
        assert page.locator("#play-heat tr").count() == 26 and page.locator("#play-sizes tr").count() == 5
        page.goto(page.url + "#digit=77&guidance=x&steps=3&attn_gate=1,2")
        ready(page, "the digit 3, seed 0, guidance 2, 3 steps")
    assert not said, "\n".join(said)


def test_untrained_gates_are_closed(site: Path, browser: Browser) -> None:
    with opened(browser, site / "playground.html", [], at="#training=0") as page:
        ready(page, "training step 0")
        sizes = page.locator("#play-sizes td:nth-child(2)").all_inner_texts()
        assert set(page.locator("#play-gates td:nth-child(2)").all_inner_texts()) == {"0.00"} and len(set(sizes)) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_weights_are_a_sentence(damage: str, site: Path, browser: Browser, tmp_path: Path) -> None:
    shutil.copytree(site / "_static" / "playground", tmp_path / "_static" / "playground")
    shutil.copy(site / "playground.html", tmp_path)
    path = tmp_path / "_static" / "playground" / "weights_trained.js"
    text = path.read_text()
    weights = json.loads(text[text.index("{", 30) : text.rindex(";")])
    weights["data"] = "AAAA" + weights["data"][4:]
    path.unlink()
    if damage != "gone":
        path.write_text(
            text[:9000] if damage == "cut" else f"(globalThis.adalnWeights ??= {{}}).trained = {json.dumps(weights)};"
        )
    remedy = "build the pages again" if damage == "gone" else "load the page again"
    with opened(browser, tmp_path / "playground.html", []) as page:
        page.get_by_role("alert").filter(has_text=remedy).wait_for(timeout=10_000)
