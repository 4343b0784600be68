"""A grid of trials. Each result is written to one JSON file at once, so a stopped grid goes on where it was.

    {"settings": what all trials share, "made": {command, machine, torch, date, seconds}, "results": {key: result}}

A trial is a frozen dataclass; its key is its fields, joined by slashes.
"""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch

from adaln_lab.utils.checks import conform, construct, finite, whole
from adaln_lab.utils.environment import machine
from adaln_lab.utils.files import hold, read_json, write_json

Trial = TypeVar("Trial")  # a frozen dataclass

MOST_JOBS = 61  # what Windows can wait for


@dataclass(frozen=True)
class Table:
    """What a file of results holds."""

    settings: dict
    made: dict  # command, machine, torch, date, seconds
    results: dict


def key(trial: Any) -> str:
    return "/".join(map(str, astuple(trial)))


def read(out: Path, settings: dict[str, Any], kind: Any = Any) -> dict[str, Any]:
    """What the file holds; without the file an empty table. ValueError if it was made with other settings, or a result
    is not of the kind."""
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not os.path.lexists(out):
        return {"settings": settings, "made": {}, "results": {}}
    table = read_json(out, "a table of results")
    if table.get("settings") != settings:
        raise ValueError(f"{out} holds no results of the settings {settings}; choose another --out")
    conform(f"{out}, results", construct(Table, table, str(out)).results, dict[str, kind])
    return table


def missing(trials: Sequence[Trial], table: dict[str, Any]) -> list[Trial]:
    return [trial for trial in trials if key(trial) not in table["results"]]


def run(
    trials: Sequence[Trial],
    measure: Callable[[Trial], Any],
    out: Path,
    settings: dict[str, Any],
    command: str,
    jobs: int = 1,
    kind: Any = Any,
) -> Iterator[tuple[Trial, Any]]:
    """Measure the trials that the file does not hold, `jobs` at a time; yield each when its result is written."""
    whole("jobs", jobs, 1, MOST_JOBS)
    with hold(out.with_name(f".{out.name}.lock")):
        table = read(out, settings, kind)
        before, start = finite("seconds", table["made"].get("seconds", 0), 0, 1e10), time.perf_counter()
        for trial, result in _measured(missing(trials, table), measure, jobs):
            table["results"][key(trial)] = result
            table["made"] = {
                "command": command,
                "machine": machine(torch.device("cpu")),
                "torch": torch.__version__,
                "date": str(date.today()),
                "seconds": round(before + time.perf_counter() - start, 1),
            }
            write_json(out, table)
            yield trial, result


def _measured(trials: list[Trial], measure: Callable[[Trial], Any], jobs: int) -> Iterator[tuple[Trial, Any]]:
    if jobs == 1:
        yield from ((trial, measure(trial)) for trial in trials)
        return
    others = multiprocessing.active_children()
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, spawn, initializer=_follow_parent) as pool:
            try:
                with _without_interrupts():  # or a worker that is just starting would report one
                    futures = {pool.submit(measure, trial): trial for trial in trials}
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                for worker in set(multiprocessing.active_children()) - set(others):
                    worker.terminate()  # a trial takes minutes, do not wait for its end
                raise
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that trained was ended from outside, often for lack of memory; the same command goes on, try "
            "fewer --jobs"
        ) from error


def _follow_parent() -> None:
    """A worker leaves Ctrl-C to the parent, and ends when the parent does, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the context ends, and processes that start inside never see it. Does nothing on Windows.

    The mask is what they inherit; a signal can still reach another thread of ours, so the handler waits as well.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = []
    handler = signal.signal(signal.SIGINT, lambda *_: seen.append(True))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if seen:
        signal.raise_signal(signal.SIGINT)


def bracketed(result_of: Callable[[int], dict | None], most: int) -> dict[int, float | None]:
    """Doublings of a learning rate -> loss, infinite where training failed, None where it is to be tried.

    Tried are 0, then the neighbours of the best so far, up to `most` doublings: in the end the best has a worse one on
    both sides.
    """
    losses, todo = {}, {0}
    while todo:
        for k in sorted(todo):
            found = result_of(k)
            losses[k] = None if found is None else found.get("loss", float("inf"))
        if None in losses.values():
            return losses
        best = min(losses, key=losses.get)
        todo = {k for k in (best - 1, best + 1) if abs(k) <= most} - losses.keys()
    return losses


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread, then on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
