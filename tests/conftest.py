"""What every test can count on: the CPU, pinned threads, an empty ADALN_LAB_HOME, and no test that cannot run here.

Seeds belong to the tests that draw numbers; none is set here.
"""

import functools
import importlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", metavar="DIR", type=Path, help="other stored runs of the original models")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("ADALN_LAB_DEVICE", "cpu")
    home = tempfile.TemporaryDirectory(prefix="adaln_lab_")  # also where the learner has set one: it is not ours
    os.environ["ADALN_LAB_HOME"] = home.name
    config.add_cleanup(home.cleanup)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it puts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # when -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("browser") and find_chromium() is None:
            item.add_marker(pytest.mark.skip(reason="no Chromium: .venv/bin/python -m playwright install chromium"))
    if find_chromium():
        moved = [_notebook(item) for item in items if item.name.startswith("test_notebook_shows_everything")]
        twice = [i for i in items if i.name.startswith("test_solved_notebook_runs") and _notebook(i) in moved]
        config.hook.pytest_deselected(items=twice)
        items[:] = [item for item in items if item not in twice]
    items.sort(
        key=lambda item: any(map(item.get_closest_marker, ("slow", "browser")))
    )  # a quick mistake is seen quickly


def _notebook(item: pytest.Item) -> str:
    return item.callspec.params["path"].name


@functools.cache
def find_chromium() -> str | None:
    """The path of a Chromium that playwright can drive: the system's, else playwright's own; None without either."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    for name in ("chromium", "google-chrome", "chromium-browser"):
        if path := shutil.which(name):
            return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.exists(path) else None


@pytest.fixture(scope="session")
def chromium() -> str | None:
    """For `browser` tests: what to pass as executable_path."""
    return find_chromium()


@pytest.fixture(scope="session")
def diffusers() -> Callable[[str, str], type]:
    """diffusers("models.attention", "JointTransformerBlock"), also beside a torchvision that would stop its import."""
    from diffusers.utils import import_utils

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        import_utils._torchvision_available = False
    return lambda module, name: getattr(importlib.import_module(f"diffusers.{module}"), name)


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account without home folder, as in a container that runs under a user id of its own."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ADALN_LAB_HOME")
    monkeypatch.setattr(Path, "home", home)
