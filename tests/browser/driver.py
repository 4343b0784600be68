"""Drive a notebook in a real JupyterLab: run all, collect what went wrong, press arrow keys on every slider.

Nothing here sleeps; every wait is for something to be true in the page, and says what was awaited when it is not.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Page

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
SLIDERS, CHOICES = ".noUi-handle", ".widget-toggle-buttons button:not(.mod-active)"  # what moves a picture
PICTURE = """([controls, number]) =>
    document.querySelectorAll(controls)[number].closest('.widget-vbox').querySelector('img').src"""
WATCH = """([controls, number, timeout]) => {
    const handle = document.querySelectorAll(controls)[number];
    const picture = () => handle.closest('.widget-vbox').querySelector('img');
    const old = picture().src;
    handle.focus();
    window.painted = new Promise(resolve => {
        let pressed;
        document.addEventListener('keydown', event => {
            pressed = event.timeStamp;
            const look = now => {
                const image = picture();  // none for a moment where a new element takes the place of the old
                if (image && image.src !== old && image.complete && image.naturalWidth) resolve(now - pressed);
                else if (now - pressed > timeout) resolve(null);
                else requestAnimationFrame(look);
            };
            requestAnimationFrame(look);
        }, {once: true, capture: true});
    });
}"""


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A private server for `folder`/notebooks on a free port; yields a notebook's address with {name} to fill in."""
    home = folder / "home"
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    (folder / "notebooks").mkdir()
    private = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    env = os.environ | {key: str(home / value) for key, value in private.items()} | {"PYTHONPATH": str(ROOT)}
    env.setdefault("OMP_NUM_THREADS", "1")  # the browser needs a core, too
    options = [
        "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--LabApp.news_url=None",
        f"--ServerApp.root_dir={folder / 'notebooks'}", f"--IdentityProvider.token={os.urandom(16).hex()}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    with (folder / "jupyterlab.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=log)
    try:
        yield _address(server, home / "runtime", folder / "jupyterlab.log")
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
        self.notebooks, self.address = folder / "notebooks", address
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
        """One notebook in a page of its own; the screenshot shows how it was left."""
        with browser.new_page(viewport={"width": 1280, "height": 1600}) as page:
            try:
                yield Notebook(page, self.address.format(name=name))
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

    def run_all(self, timeout: float = 240) -> None:
        """Run > Run All Cells, as a reader does, until the kernel rests and every widget and picture is there."""
        for item in ("Run", "Run All Cells"):
            self.page.get_by_role("menuitem", name=item, exact=True).click()
        self.page.wait_for_function(HAS_RUN, timeout=1000 * timeout)
        self.page.wait_for_function(IS_SHOWN, timeout=30_000)

    def errors(self) -> list[str]:
        return self.page.evaluate(ERRORS) + self._page_errors

    def sliders(self) -> int:
        return self.page.locator(SLIDERS).count()

    def picture(self, slider: int) -> str:
        """What the slider's picture shows now, as its data."""
        return self.page.evaluate(PICTURE, [SLIDERS, slider])

    def press(self, slider: int, timeout: float = 10, key: str = "ArrowRight") -> float | None:
        """One key on one slider: milliseconds until another, complete picture is painted; None if none came."""
        return self._latency(SLIDERS, slider, key, timeout)

    def choose(self, timeout: float = 10) -> float | None:
        """Enter on the first choice that is not taken yet; else as `press`."""
        return self._latency(CHOICES, 0, "Enter", timeout)

    def choices(self) -> int:
        return self.page.locator(CHOICES).count()

    def _latency(self, controls: str, number: int, key: str, timeout: float) -> float | None:
        self.page.evaluate(WATCH, [controls, number, 1000 * timeout])
        self.page.keyboard.press(key)
        return self.page.evaluate("() => window.painted")


def explore(notebook: Notebook, presses: int = 5, timeout: float = 10) -> tuple[list[str], list[float]]:
    """Run a notebook and move all that moves a picture: (what went wrong, latencies in milliseconds).

    A slider that goes back to its start must show its first picture again. It does not where a cell further down has
    given another meaning to a name that the picture is drawn with.
    """
    notebook.run_all()
    errors, latencies = notebook.errors(), []

    def move(name: str, press: Callable[[float], float | None]) -> bool:
        for number in range(1, presses + 1):
            latency = press(timeout)
            if latency is None:
                errors.append(f"{name}, press {number}: no new picture in {timeout} s")
                return False
            latencies.append(latency)
        return True

    for slider in range(0 if errors else notebook.sliders()):
        first, back = notebook.picture(slider), partial(notebook.press, slider, key="ArrowLeft")
        there = move(f"slider {slider}", partial(notebook.press, slider)) and move(f"slider {slider}, back", back)
        if there and notebook.picture(slider) != first:
            errors.append(f"slider {slider} is back at its start and shows another picture than at first")
    if not errors and notebook.choices():
        move("choice", notebook.choose)
    return errors + [error for error in notebook.errors() if error not in errors], latencies


def copy_without_outputs(source: Path, target: Path) -> None:
    """What is on the page afterwards was made there, and not stored before."""
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbformat.write(notebook, target)
