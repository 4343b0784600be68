"""Saving takes its share of the time and no more, the time is told honestly, and a failure is one sentence."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig
from adaln_lab.training import session
from adaln_lab.training.failures import explain
from adaln_lab.training.session import SAVE_SHARE, Session
from adaln_lab.training.train import Run, Step, TrainConfig

TINY = DiTConfig(width=16, depth=1, heads=2)
SHORT = TrainConfig(steps=8, batch=16)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.mark.parametrize(
    ("cost", "save_every", "most"),
    [(0.0, 1.0, 1), (0.01, 1.0, SAVE_SHARE), (0.5, 1.0, SAVE_SHARE), (2.0, 1.0, SAVE_SHARE), (2.0, 0.0, 1)],
)
def test_saving_takes_at_most_its_share_and_counts_in_seconds(digits, tmp_path, monkeypatch, cost, save_every, most):
    """On a clock of our own: a step takes .1 s, a save `cost`. With save_every 0 each step is saved at any cost."""
    clock, saves = [0.0], []

    def steps(run, *_):
        for run.number in range(1, 1001):
            clock[0] += 0.1
            yield Step(run.number, 0.0, 0.0, 0.0)

    def slow_save(run, path, **facts):
        saves.append(clock[0])
        clock[0] += cost

    monkeypatch.setattr(session, "train", steps)
    monkeypatch.setattr(session.checkpoint, "save_run", slow_save)
    monkeypatch.setattr(session, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    run = Session(tmp_path, TINY, SHORT, torch.device("cpu"), save_every=save_every).train(digits)
    n = len(saves) - 1  # the last is made at the end, due or not
    assert cost * (n - 1) <= most * clock[0]  # the first save is the first measurement
    if save_every:
        assert 100 / max(save_every + 0.2, 1.2 * cost / SAVE_SHARE) - 1 <= n <= 100 / save_every
    else:
        assert n == 1000
    assert run.seconds == pytest.approx(clock[0])
    assert json.loads((tmp_path / "run.json").read_text())["seconds"] == pytest.approx(clock[0], abs=0.01)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RuntimeError("CUDA error: unspecified launch failure\nmore"),
            "the GPU stopped .* at step 1 .CUDA error",
        ),
        (
            RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1].\nmore"),
            "another process .* is gone",
        ),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited"), "another process .* is gone"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory with a batch of 16 at step 1; try --batch 8"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory .* try --batch 8"),
        (RuntimeError("a peerless error"), None),
        (RuntimeError(""), None),
    ],
)
def test_a_failure_is_explained_where_its_cause_is_known(tmp_path, error, sentence):
    said = explain(error, Run.new(TINY, SHORT), tmp_path)
    assert said is None if sentence is None else re.match(sentence, said)


@pytest.mark.parametrize("empty", [True, False])
def test_an_unknown_error_passes_through_as_it_is(digits, tmp_path, monkeypatch, empty):
    """Nothing is raised from itself, and a message may be empty."""
    error = RuntimeError() if empty else RuntimeError("a peerless error")
    monkeypatch.setattr(session, "train", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(RuntimeError) as raised:
        Session(tmp_path, TINY, SHORT, torch.device("cpu")).train(digits)
    assert raised.value is error and error.__cause__ is None


@pytest.mark.slow  # importing the compiler takes its time
def test_compiling_without_a_compiler_is_one_sentence(tmp_path):
    """In a process of its own, because torch remembers whether it has found a compiler."""
    command = [sys.executable, "-m", "adaln_lab", "train", "--compile", "--steps", "2", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], env=os.environ | {"CXX": "no-such-compiler"}, capture_output=True, text=True
    )
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(r"could not compile the loss .*No working C\+\+ compiler.* leave out", said)
