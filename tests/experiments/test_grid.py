"""A grid can be stopped at any time: it goes on where it was, and never mixes results of different settings."""

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial

import pytest

from adaln_lab.experiments import grid


@dataclass(frozen=True)
class Trial:
    name: str
    lr: float


TRIALS = [Trial("a", 0.5), Trial("a", 1e-5), Trial("b, c", 2.0)]
SETTINGS = {"steps": 3, "rates": (1, 2)}


def test_a_stopped_grid_goes_on_where_it_was(tmp_path):
    measured = []
    out = tmp_path / "grid.json"
    run = partial(grid.run, TRIALS, lambda trial: measured.append(trial) or trial.lr, out, SETTINGS, "me")
    next(run())
    assert len(grid.missing(TRIALS, grid.read(out, SETTINGS))) == 2
    list(run())
    assert measured == TRIALS
    table = json.loads(out.read_text())
    assert table["results"] == {"a/0.5": 0.5, "a/1e-05": 1e-5, "b, c/2.0": 2.0}
    assert table["made"]["command"] == "me" and table["made"]["seconds"] >= 0


@pytest.mark.parametrize("content", ["[]", '{"results": {}}', '{"settings": {"steps": 7}, "made": {}, "results": {}}'])
def test_a_file_of_other_settings_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "grid.json").write_text(content)
    with pytest.raises(ValueError, match="holds no results of the settings|it holds list, not an object"):
        next(grid.run(TRIALS, lambda trial: 1, tmp_path / "grid.json", SETTINGS, ""))
    assert (tmp_path / "grid.json").read_text() == content


def slow_but_for_the_first(trial, folder):
    (folder / str(os.getpid())).touch()
    time.sleep(0 if trial == TRIALS[0] else 600)


@pytest.mark.slow
def test_workers_end_with_the_grid(tmp_path):
    """After Ctrl-C the parent neither waits for trials that take minutes nor leaves them running."""
    (tmp_path / "pids").mkdir()
    measure = partial(slow_but_for_the_first, folder=tmp_path / "pids")
    results = grid.run(TRIALS, measure, tmp_path / "grid.json", SETTINGS, "", jobs=2)
    assert next(results)[0] == TRIALS[0]
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 60
    for pid in (tmp_path / "pids").iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.name), 0)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals cannot be sent to one thread here")
def test_an_interrupt_that_another_thread_takes_waits_for_the_workers_to_start():
    """The mask holds for the main thread alone; a progress bar has a thread of its own."""
    done, reached_the_end = threading.Event(), False
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), grid._without_interrupts():
            signal.pthread_kill(other.ident, signal.SIGINT)
            time.sleep(0.2)
            reached_the_end = True
    finally:
        done.set()
        other.join()
    assert reached_the_end
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def losses_of(best, fails=()):
    """Loss by doublings: a valley at `best`; training at `fails` is not finite."""
    return lambda k: {"failed": "not finite"} if k in fails else {"loss": 1.0 + abs(k - best)}


@pytest.mark.parametrize(("best", "tried"), [(0, [-1, 0, 1]), (2, [-1, 0, 1, 2, 3]), (-2, [-3, -2, -1, 0, 1])])
def test_a_bracketed_grid_grows_until_the_best_has_a_worse_neighbour_on_both_sides(best, tried):
    losses = grid.bracketed(losses_of(best), most=4)
    assert sorted(losses) == tried and min(losses, key=losses.get) == best


def test_a_bracketed_grid_tries_one_round_at_a_time_and_ends_at_its_limit():
    results, rounds = {}, []
    while None in (losses := grid.bracketed(results.get, most=3)).values():
        rounds.append([k for k, loss in losses.items() if loss is None])
        results |= {k: losses_of(9)(k) for k in rounds[-1]}
    assert rounds == [[0], [-1, 1], [2], [3]]
    assert min(losses, key=losses.get) == 3  # the caller sees that it is at the limit


def test_a_learning_rate_that_fails_is_worse_than_all_others():
    assert grid.bracketed(losses_of(3, fails=(1,)), most=4) == {0: 4.0, -1: 5.0, 1: float("inf")}
    assert set(grid.bracketed(lambda k: {"failed": "not finite"}, most=4)) == {-1, 0, 1}
