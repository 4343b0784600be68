"""A grid of trials. Each result is written to one JSON file at once, so a stopped grid goes on where it was.

    {"settings": what all trials share, "made": {command, machine, torch, date, seconds}, "results": {key: result}}

A trial is a frozen dataclass; its key is its fields, joined by slashes.
"""

import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch

from adaln_lab.utils.environment import machine
from adaln_lab.utils.files import read_json, write_json

Trial = TypeVar("Trial")  # a frozen dataclass


def key(trial: Any) -> str:
    return "/".join(map(str, astuple(trial)))


def read(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds; without the file an empty table. ValueError if it was made with other settings."""
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if not out.exists():
        return {"settings": settings, "made": {}, "results": {}}
    table = read_json(out, "a table of results")
    if not (isinstance(table, dict) and table.keys() >= {"made", "results"} and table.get("settings") == settings):
        raise ValueError(f"{out} holds no results of the settings {settings}; choose another --out")
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
) -> Iterator[tuple[Trial, Any]]:
    """Measure the trials that the file does not hold, `jobs` at a time; yield each when its result is written."""
    table = read(out, settings)
    before, start = table["made"].get("seconds", 0.0), time.perf_counter()
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
    with ProcessPoolExecutor(jobs, spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        futures = {pool.submit(measure, trial): trial for trial in trials}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for worker in set(multiprocessing.active_children()) - set(others):
                worker.terminate()  # Ctrl-C reaches only this process; a trial takes minutes, do not wait for its end
            raise
