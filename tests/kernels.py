"""Kernels that talk over Unix sockets in a folder of their own: two that start at once cannot be given the same port.

By default a kernel's TCP ports are found free, let go, and bound by the kernel a second later; whatever takes one in
between, the kernel dies before it has replied. `-p tests.kernels` makes a pytest plugin of this file: so nbval starts
its kernels, and with more patience, since on a busy machine an output can take longer than its five seconds.
"""

import itertools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager


@contextmanager
def addresses() -> Iterator[Iterator[dict[str, str]]]:
    """Options for one KernelManager after another. A socket's path has 103 letters at most: no pytest folder fits."""
    with tempfile.TemporaryDirectory(prefix="kernels") as folder:
        own = ({"transport": "ipc", "ip": f"{folder}/{number}"} for number in itertools.count())
        yield itertools.repeat({}) if sys.platform == "win32" else own


def pytest_configure(config: pytest.Config) -> None:
    stack = ExitStack()
    own = stack.enter_context(addresses())
    config.add_cleanup(stack.close)
    nbval.kernel.KernelManager = lambda **options: KernelManager(**options, **next(own))
    config.option.nbval_kernel_startup_timeout = 180


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.output_timeout = 60
