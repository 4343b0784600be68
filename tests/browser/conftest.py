"""A Chromium, and one JupyterLab for all notebooks. Imports wait: without playwright these tests are skipped."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")  # not longer: while playwright runs, asyncio is its own
def browser(chromium: str | None) -> Iterator[Any]:
    from driver import CHROMIUM_ARGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from driver import Lab, jupyterlab

    folder = tmp_path_factory.mktemp("lab")
    with jupyterlab(folder) as address:
        yield Lab(folder, address)
