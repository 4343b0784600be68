"""A notebook that is interrupted goes on exactly: every update is done and yielded, or not done."""

import dis
import gc
import random
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from types import CodeType, FrameType

import pytest
import torch

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig
from adaln_lab.training.checkpoint import pack_run, unpack_run
from adaln_lab.training.train import Run, TrainConfig, train

TINY = DiTConfig(width=16, depth=1, heads=2)
SHORT = TrainConfig(steps=3, batch=4, gates_every=2)
CHECKS = ("CALL", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")  # where Python looks for signals


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def straight(digits) -> Run:
    run = Run.new(TINY, SHORT)
    list(train(run, digits))
    return run


def assert_same(run: Run, straight: Run) -> None:
    assert run.number == straight.number
    assert [s.loss for s in run.history] == [s.loss for s in straight.history]
    for ours, theirs in ((run.model, straight.model), (run.ema, straight.ema)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    for ours, theirs in zip(run.optimizers, straight.optimizers, strict=True):
        ours, theirs = (o.state_dict()["state"] for o in (ours, theirs))
        assert ours.keys() == theirs.keys()
        for i, state in theirs.items():
            assert all(torch.equal(ours[i][name], value) for name, value in state.items())
    assert torch.equal(run.generator.get_state(), straight.generator.get_state())


@cache
def opnames(code: CodeType) -> dict[int, str]:
    return {i.offset: i.opname for i in dis.get_instructions(code)}


class InterruptAt:
    """A trace function that raises KeyboardInterrupt at the n-th instant at which Python would, in some functions."""

    def __init__(self, n: int, inside: str):
        self.left, self.inside, self.last = n, re.compile(inside), {}

    def __call__(self, frame: FrameType, event: str, _: object) -> Callable | None:
        code = frame.f_code
        if not self.inside.search(f"{code.co_filename}:{code.co_qualname}"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before, self.last[frame] = self.last.get(frame, ""), opnames(code)[frame.f_lasti]
            if before.startswith(CHECKS):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self


def traced(function: Callable[[], None], n: int, inside: str) -> int:
    """Call the function, interrupted at the n-th instant; returns how many of the n were left over at the end."""
    trace, before = InterruptAt(n, inside), sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return trace.left


def watch(run: Run, data: datasets.Dataset, seen: list[int]) -> None:
    for step in train(run, data):
        seen.append(step.number)


TRAIN = r"training/train.py:(train|_Update\..*)$"


@pytest.mark.parametrize(
    ("inside", "tries"), [(TRAIN, 1000), ("training/|torch/(optim|autograd/grad_mode|utils/_contextlib|nn/utils)", 60)]
)
def test_interrupted_at_any_instant_each_step_is_yielded_once_and_the_end_is_the_same(digits, straight, inside, tries):
    """Ctrl-C can come wherever Python looks for signals. After each: call train again."""
    run = Run.new(TINY, SHORT)
    last = 10**6 - traced(lambda: watch(run, digits, []), 10**6, inside)
    assert last > 100
    for n in range(1, last + 1, -(-last // tries)):
        run, seen = Run.new(TINY, SHORT), []
        with pytest.raises(KeyboardInterrupt):
            traced(partial(watch, run, digits, seen), n, inside)
        assert seen == [s.number for s in run.history] == list(range(1, run.number + 1)), n
        watch(run, digits, seen)
        assert seen == [1, 2, 3], n
        assert_same(run, straight)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interrupt in a `__del__` is lost
def test_real_signals_at_random_instants_change_nothing(digits):
    """The same with the clock's own signals, which also come inside torch's C++ code."""
    gc.collect()  # so that what earlier tests have left is not deleted, with a signal in it, during this one
    gc.disable()
    config, luck = replace(SHORT, steps=60), random.Random(0)
    straight, run, seen, interrupts = Run.new(TINY, config), Run.new(TINY, config), [], 0
    list(train(straight, digits))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while run.number < config.steps:
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, luck.uniform(0.005, 0.05))
                watch(run, digits, seen)
            interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert interrupts > 1
    assert seen == list(range(1, config.steps + 1))
    assert_same(run, straight)


@pytest.mark.parametrize("update", [1, 2])
def test_an_update_that_fails_half_way_is_taken_back(digits, straight, monkeypatch, update):
    run = Run.new(TINY, SHORT)
    if update == 2:
        next(train(run, digits))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="half-way"):
        patch.setattr(run.optimizers[1], "step", lambda: (_ for _ in ()).throw(RuntimeError("half-way")))
        next(train(run, digits))
    assert run.number == update - 1
    list(train(run, digits))
    assert_same(run, straight)


def half_updated(digits: datasets.Dataset) -> Run:
    """One step, then half an update, as kill -9 of `undo` itself would leave it."""
    run = Run.new(TINY, SHORT)
    next(train(run, digits))
    run.begin()
    torch.rand(1, generator=run.generator)
    run.optimizers[0].step()
    return run


def test_taking_an_update_back_may_itself_be_interrupted(digits, straight):
    inside = "training/train.py:Run.undo"
    last = 10**6 - traced(half_updated(digits).undo, 10**6, inside)
    assert last > 2
    for n in range(1, last + 1):
        run = half_updated(digits)
        with pytest.raises(KeyboardInterrupt):
            traced(run.undo, n, inside)
        list(train(run, digits))
        assert_same(run, straight)


def test_half_an_update_is_never_saved(digits, straight):
    run = unpack_run(pack_run(half_updated(digits)), "here")[0]
    assert run.number == 1
    list(train(run, digits))
    assert_same(run, straight)


def test_training_in_a_thread_of_a_notebook_leaves_the_signals_alone(digits, straight):
    """Only the main thread may touch signal handlers, so a training that needs them would fail here."""
    run, handlers = Run.new(TINY, SHORT), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=watch, args=(run, digits, []))
    thread.start()
    thread.join()
    assert_same(run, straight)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
