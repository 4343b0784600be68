"""Drive a notebook in a real JupyterLab: run all, collect what went wrong, move every control by keyboard and mouse.

Nothing here sleeps; every wait is for something to be true in the page, and says what was awaited when it is not.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import nbformat
from playwright.sync_api import Browser, Locator, Page, TimeoutError

from adaln_lab.display.widgets import WAIT_NOTE

ROOT = Path(__file__).parents[2]
CHROMIUM_ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are in the page, also those out of sight
}
# Scripts for the page. A notebook's model is asked, not its looks, wherever the model knows.
OUTPUTS = """
    const panel = window.jupyterapp.shell.currentWidget;
    const code = panel.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.source.trim());
    const outputs = code.flatMap(c => Array.from({length: c.model.outputs.length}, (_, i) => c.model.outputs.get(i)));
    const failed = outputs.filter(o => o.type === 'error');
"""
IS_OPEN = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
HAS_RUN = f"""() => {{ {OUTPUTS}
    return (failed.length || code.every(c => c.model.executionCount))
        && panel.sessionContext.session.kernel.status === 'idle';
}}"""
IS_SHOWN = f"""() => {{ {OUTPUTS}
    const views = outputs.filter(o => 'application/vnd.jupyter.widget-view+json' in o.data);
    return document.querySelectorAll('.jp-OutputArea-output > .jupyter-widgets').length >= views.length
        && [...document.querySelectorAll('.jp-OutputArea-output img')].every(i => i.complete && i.naturalWidth);
}}"""
ERRORS = f"""() => {{ {OUTPUTS}
    const raised = failed.map(o => o.toJSON()).map(o => `a cell raised ${{o.ename}}: ${{o.evalue}}`);
    const boxes = [...document.querySelectorAll('.jupyter-widgets-error-widget')].map(() => 'a widget has no view');
    return [...raised, ...boxes, ...[...document.querySelectorAll('.adaln-error')].map(e => e.innerText)];
}}"""
READ = """() => {
    const all = selector => [...document.querySelectorAll(selector)];
    const texts = all('.jp-RenderedMarkdown').map(text => text.cloneNode(true));
    texts.forEach(text => text.querySelectorAll('code, pre, script').forEach(e => e.remove()));
    return {
        pictures: all('.jp-OutputArea-output img').filter(i => i.complete && i.naturalWidth > 1).length,
        formulas: all('mjx-container[display="true"], .MathJax_Display').length,
        cut: all('mjx-container[display="true"] > mjx-math').map(e => [e, e.closest('.jp-RenderedMarkdown')])
            .filter(([e, page]) => e.offsetWidth > page.clientWidth).map(([e]) => e.textContent.slice(0, 80)),
        missing: all('img').filter(i => i.complete && !i.naturalWidth).map(i => i.src.slice(0, 80)),
        raw: texts.map(text => text.textContent).filter(text => text.includes('$')).map(text => text.slice(0, 200)),
        errors: all(':is(mjx-container, .MathJax) [style*="color: red"]').concat(  // a macro that MathJax does not know
            all('mjx-merror, [data-mjx-error], .MathJax_Error, .merror, .noError')).map(e => e.textContent),
        dialogs: all('.jp-Dialog').map(dialog => dialog.innerText),
    };
}"""
IS_READ = f"""expected => {{
    const found = ({READ})();
    return found.raw.length === 0 && Object.entries(expected).every(([what, n]) => found[what] >= n);
}}"""
CARD = ".widget-vbox:has(> .widget-button)"
EXPLORER = ".widget-vbox:has(img)"
WATCH = """(control, [event, timeout]) => {
    const picture = () => control.closest('.widget-vbox').querySelector('img');
    const old = picture().src, start = performance.now();
    let moved;
    document.addEventListener(event, e => { moved = e.timeStamp; }, {once: true, capture: true});
    window.painted = new Promise(resolve => {
        const look = now => {
            const image = picture();  // none for a moment where a new element takes the place of the old
            if (moved && image && image.src !== old && image.complete && image.naturalWidth) resolve(now - moved);
            else if (now - start > timeout) resolve(null);
            else requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    });
}"""


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A private server for `folder`/notebooks on a free port; yields a notebook's address with {name} to fill in.

    Its kernels talk over Unix sockets, see tests/kernels.py; their paths must be short, which macOS does not give us.
    """
    home = folder / "home"
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    (folder / "notebooks").mkdir()
    private = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython", "ADALN_LAB_HOME": "",
    }  # fmt: skip
    env = os.environ | {key: str(home / value) for key, value in private.items()} | {"PYTHONPATH": str(ROOT)}
    env.setdefault("OMP_NUM_THREADS", "1")  # the browser needs a core, too
    options = [
        "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--LabApp.news_url=None",
        f"--ServerApp.root_dir={folder / 'notebooks'}", f"--IdentityProvider.token={os.urandom(16).hex()}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
        f"--KernelManager.transport={'ipc' if sys.platform == 'linux' else 'tcp'}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as runtime, (folder / "jupyterlab.log").open("wb") as log:
        env["JUPYTER_RUNTIME_DIR"] = runtime
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=log)
        try:
            yield _address(server, Path(runtime), folder / "jupyterlab.log")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def _address(server: subprocess.Popen, runtime: Path, log: Path, timeout: float = 60) -> str:
    deadline = time.monotonic() + timeout
    while server.poll() is None and time.monotonic() < deadline:
        for path in runtime.glob("jpserver-*.json"):
            if text := path.read_text():
                info = json.loads(text)
                return f"{info['url']}lab/tree/{{name}}?token={info['token']}&reset"
        time.sleep(0.1)  # a file of another process: there is no event to wait for
    raise RuntimeError(f"JupyterLab did not start in {timeout} s:\n{log.read_text()[-3000:]}")


class Lab:
    """A running JupyterLab and its folder of notebooks."""

    def __init__(self, folder: Path, address: str):
        self.notebooks, self.home, self.address = folder / "notebooks", folder / "home", address
        self.shots = Path(os.environ.get("ADALN_LAB_SHOTS", folder / "shots"))
        self.shots.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, cells: list[str]) -> None:
        """A notebook made of code cells."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, self.notebooks / name)

    @contextmanager
    def open(self, browser: Browser, name: str) -> Iterator["Notebook"]:
        """One notebook in a page of its own; screenshots show how the page and each picture were left."""
        with browser.new_page(viewport={"width": 1280, "height": 1600}) as page:
            try:
                yield Notebook(page, self.address.format(name=name))
                for number, explorer in enumerate(page.locator(EXPLORER).all()):
                    explorer.screenshot(path=self.shots / f"{Path(name).stem}_{number}.png")
            finally:
                page.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")
                page.screenshot(path=self.shots / f"{Path(name).stem}.png")


class Notebook:
    """One notebook, open in a page. `errors()` is empty as long as all is well."""

    def __init__(self, page: Page, address: str):
        self.page = page
        self._page_errors: list[str] = []
        page.on("pageerror", lambda error: self._page_errors.append(f"the page raised {error}"))
        page.goto(address)
        page.wait_for_function(IS_OPEN, timeout=60_000)

    def run_all(self, timeout: float = 480) -> None:
        """Run > Run All Cells, as a reader does, until the kernel rests and every widget and picture is there."""
        for item in ("Run", "Run All Cells"):
            self.page.get_by_role("menuitem", name=item, exact=True).click()
        self.page.wait_for_function(HAS_RUN, timeout=1000 * timeout)
        self.page.wait_for_function(IS_SHOWN, timeout=30_000)

    def clear(self) -> None:
        """No outputs and no numbers: what is there after a run was made by it."""
        self.page.evaluate("() => jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")

    def errors(self) -> list[str]:
        return self.page.evaluate(ERRORS) + self._page_errors

    def controls(self, timeout: float = 10) -> list["Control"]:
        """All sliders, then all groups of buttons, each from top to bottom."""
        return [
            kind(number, root, timeout)
            for kind in (Slider, Choice)
            for number, root in enumerate(self.page.locator(kind.selector).all())
        ]

    def guess(self, timeout: float = 10) -> list[str]:
        """Click the first option of every card; complains of those that do not say what was chosen."""
        silent = []
        for number, card in enumerate(self.page.locator(CARD).all()):
            card.locator("button:enabled").first.click()
            try:
                card.get_by_role("status").filter(has_text="You said").wait_for(timeout=1000 * timeout)
            except TimeoutError:
                silent.append(f"card {number} says nothing about the guess")
        return silent


class Fault(Exception):
    """What is wrong with a control."""


@dataclass(frozen=True)
class Move:
    """One thing done to a control, and how long it took from its event to another, complete picture on the page."""

    control: str
    hand: str  # keyboard or mouse
    ms: float


class Control:
    """What moves a picture. `walk` yields its moves; a move that brings no new picture is a `Fault`."""

    selector: ClassVar[str]

    def __init__(self, number: int, root: Locator, timeout: float):
        self.page, self.root, self.timeout = root.page, root, timeout
        self.label = root.locator(".widget-label").first
        self.name = f"{type(self).__name__.lower()} {number} ({self.label.inner_text()})"
        self.explorer = root.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")

    def walk(self, full: bool) -> Iterator[Move]:
        """From its start back to its start, also after a fault: so the next control is met as a reader meets it."""
        if self.label.evaluate("label => label.scrollWidth > label.clientWidth"):
            raise Fault("its label is cut off")
        self.first = self.picture()
        try:
            yield from self._moves(full)
            self._must_be_back()
        except Fault:
            self._go_back()
            with suppress(TimeoutError):
                self.explorer.locator(f"img[src='{self.first}']").wait_for(timeout=1000 * self.timeout)
            raise

    def _moves(self, full: bool) -> Iterator[Move]:
        raise NotImplementedError

    def _go_back(self) -> None:
        """By keyboard, to where it was at first."""
        raise NotImplementedError

    def picture(self) -> str:
        """What the picture shows now, as its data."""
        images = self.explorer.locator("img").all()
        if not images:
            raise Fault("it stands beside no picture")
        return images[0].get_attribute("src")

    def _moved(self, hand: str, how: str, event: str, move: Callable[[], None]) -> Move:
        self.root.evaluate(WATCH, [event, 1000 * self.timeout])
        move()
        ms = self.page.evaluate("() => window.painted")
        if ms is None:
            said = "".join(f" ({text})" for text in self.explorer.locator(".adaln-error").all_inner_texts())
            raise Fault(f"{how}: no new picture in {self.timeout} s{said}")
        return Move(self.name, hand, ms)

    def _must_be_back(self) -> None:
        """It is not where a cell further down has given another meaning to a name that the picture is drawn with."""
        if self.picture() != self.first:
            raise Fault("back at its start it shows another picture than at first")


class Slider(Control):
    """Arrow keys to and fro, the mouse to both ends, Home and End, and its number typed."""

    selector = ".widget-slider"

    def __init__(self, number: int, root: Locator, timeout: float):
        super().__init__(number, root, timeout)
        self.handle, self.readout = root.locator(".noUi-handle"), root.locator(".widget-readout")
        self.start = self.value()

    def _moves(self, full: bool) -> Iterator[Move]:
        """With `full` every step from one end to the other; without, some in the middle and those at the ends."""
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft"):
            yield self.press(key)
        self._must_be_back()
        yield self.drag(to=1)
        end = self.value()
        yield self.press("Home")
        while full and self.value() != end:
            yield self.press("ArrowRight")
        for key in () if full else ("ArrowRight", "End", "ArrowLeft"):
            yield self.press(key)
        yield self.drag(to=0)
        yield self._moved("keyboard", f"{self.start} typed", "keydown", self._go_back)

    def _go_back(self) -> None:
        self.readout.fill(self.start)
        self.readout.press("Enter")

    def value(self) -> str:
        return self.readout.inner_text().replace("\N{MINUS SIGN}", "-")  # as it is typed

    def press(self, key: str) -> Move:
        self.handle.focus()
        return self._moved("keyboard", key, "keydown", lambda: self.page.keyboard.press(key))

    def drag(self, to: float) -> Move:
        """The handle by the mouse, to 0 (left) ... 1 (right); let go only where the caption says that it waits."""
        self.handle.scroll_into_view_if_needed()
        handle, track = self.handle.bounding_box(), self.root.locator(".noUi-base").bounding_box()
        height = handle["y"] + handle["height"] / 2
        waits = WAIT_NOTE.strip() in self.explorer.inner_text()
        self.page.mouse.move(handle["x"] + handle["width"] / 2, height)
        self.page.mouse.down()

        def pull() -> None:
            self.page.mouse.move(track["x"] + to * track["width"], height)
            if waits:
                self.page.mouse.up()

        try:
            return self._moved("mouse", f"mouse to {to:.0%}", "mousemove", pull)
        finally:
            self.page.mouse.up()


class Choice(Control):
    """Every option by the mouse, then back to the first by keyboard."""

    selector = ".widget-toggle-buttons"

    def __init__(self, number: int, root: Locator, timeout: float):
        super().__init__(number, root, timeout)
        self.options = root.locator("button").all()
        self.start = next(option for option in self.options if "mod-active" in option.get_attribute("class"))

    def _moves(self, full: bool) -> Iterator[Move]:
        for option in self.options:
            if option is not self.start:
                yield self._moved("mouse", f"click on {option.inner_text()!r}", "click", option.click)
        yield self._moved("keyboard", "Enter", "keydown", self._go_back)

    def _go_back(self) -> None:
        self.start.press("Enter")


def read(page: Page, path: Path, timeout: float = 30) -> list[str]:
    """What is wrong with a notebook on a page, when all is there that should be, or after the time for it."""
    notebook = nbformat.read(path, as_version=4)
    bundles = [out.data for cell in notebook.cells for out in cell.get("outputs", []) if "data" in out]
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    texts += [data.get("text/markdown", "") for data in bundles]
    expected = {
        "pictures": sum("image/png" in data for data in bundles),
        "formulas": sum(text.count("$$") // 2 for text in texts),
    }
    with suppress(TimeoutError):  # what is missing is told below
        page.wait_for_function(IS_READ, arg=expected, timeout=1000 * timeout)
    found = page.evaluate(READ)
    complaints = [f"{found[what]} of {n} {what}" for what, n in expected.items() if found[what] != n]
    return complaints + [
        f"{what}: {found[what]}" for what in ("cut", "missing", "raw", "errors", "dialogs") if found[what]
    ]


def explore(notebook: Notebook, full: bool = False, timeout: float = 10) -> tuple[list[str], list[Move]]:
    """Run a notebook, guess on every card and walk every control: (what went wrong, all moves)."""
    notebook.run_all()
    errors, moves, controls = notebook.errors(), [], notebook.controls(timeout)
    if not any(isinstance(control, Slider) for control in controls):
        errors.append("there is no slider")
    if errors:
        return errors, moves
    errors += notebook.guess(timeout)
    for control in controls:
        try:
            for move in control.walk(full):
                moves.append(move)
        except Fault as fault:
            errors.append(f"{control.name}: {fault}")
    return errors + [error for error in notebook.errors() if error not in errors], moves
