"""Ctrl-C at any moment ends a command quietly, and leaves no process behind; a folder has one owner at a time."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaln_lab.__main__ import main
from adaln_lab.utils.files import hold

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")]
STOPPED = "adaln_lab: stopped"
LONG = ["train", "--steps", "1000000", "--batch", "8", "--device", "cpu", "--resume"]


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen]:
    """A process of the command line, alone in its group, that ends with the test."""
    command = [sys.executable, "-m", "adaln_lab", *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_for(what: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def maps(process: subprocess.Popen, library: str) -> bool:
    """Whether it has begun to load a library; also true of a process that has ended."""
    try:
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return True


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def assert_stopped(process: subprocess.Popen, *codes: int) -> None:
    told = process.communicate(timeout=60)[1]
    assert process.returncode in codes, told
    assert "Traceback" not in told and "KeyboardInterrupt" not in told, told
    assert process.returncode != 130 or told.splitlines()[-1] == STOPPED, told


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("command", ["progress", "train", "compare"])
def test_ctrl_c_at_any_moment_ends_a_command_quietly(command: str, moment: int, tmp_path: Path) -> None:
    """From the moment when torch begins to load: imports, the data, training. `progress` may have ended before."""
    more = {"progress": [], "train": LONG[1:], "compare": []}[command]
    out = [] if command == "progress" else ["--out", tmp_path / "out"]
    with started(command, *out, *more) as process:
        wait_for(lambda: maps(process, "libtorch_cpu"))
        time.sleep(random.Random(moment).uniform(0, 0.6) * (moment + 1))
        process.send_signal(signal.SIGINT)
        assert_stopped(process, -signal.SIGINT, *((0,) if command == "progress" else (130,)))
    assert not list(tmp_path.rglob(".*"))  # no half-written file, no lock


@pytest.mark.parametrize("whom", ["the process", "its group, as a terminal does", "the process, by kill -9"])
@pytest.mark.parametrize("when", ["as workers start", "as they train"])
def test_the_workers_of_compare_end_with_it(whom: str, when: str, tmp_path: Path) -> None:
    workers: list[int] = []
    with started("compare", "--out", tmp_path / "t.json", "--jobs", 2) as process:
        wait_for(lambda: len(children(process)) >= 3)  # two workers, and the resource tracker
        if when == "as they train":
            time.sleep(8)
        workers = children(process)
        if "kill" in whom:
            process.kill()
            process.wait()
        else:
            (os.killpg if "group" in whom else os.kill)(process.pid, signal.SIGINT)
            assert_stopped(process, 130, -signal.SIGINT)
    wait_for(lambda: not any(map(is_alive, workers)), 30)
    assert not list(tmp_path.glob("t.json*"))


def test_a_second_start_is_told_who_holds_the_folder_and_a_dead_owner_holds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    with started(*LONG, "--out", out) as process:
        wait_for((out / "run.json").exists)
        for more in (LONG, LONG[:-1]):
            assert main([*more, "--out", str(out)]) == 2
            assert f"process {process.pid} is at work in {out}; wait" in capsys.readouterr().err
        process.kill()
        process.wait()
    assert (out / ".lock").read_text() == str(process.pid)
    with hold(out / ".lock"):
        assert (out / ".lock").read_text() == str(os.getpid())
    assert not (out / ".lock").exists()


def test_two_grids_do_not_write_one_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with hold(tmp_path / ".t.json.lock"):
        assert main(["schemes", "--out", str(tmp_path / "t.json"), "--seeds", "1"]) == 2
    assert f"process {os.getpid()} is at work" in capsys.readouterr().err


def test_a_lock_file_that_nobody_holds_is_taken_over(tmp_path: Path) -> None:
    """Whatever it says: the id may belong to another program by now."""
    for text in ("1", str(os.getpid()), "", "junk" * 100, json.dumps({})):
        (tmp_path / ".lock").write_text(text)
        with hold(tmp_path / ".lock"):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
