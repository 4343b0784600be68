"""What must hold on a GPU before its speed means anything; `pytest -m cuda` and `benchmarks.gpu` call these functions.

Each takes the device and an empty folder and raises AssertionError; those in ON_A_CPU_TOO are tried there in every run
of the tests. This file needs no pytest, which a bare machine lacks.
"""

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.samplers import sample
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.checks import check_labels

ROOT = Path(__file__).parents[1]
SMALL = DiTConfig(width=32, depth=2, heads=2)
SHORT = TrainConfig(steps=40, batch=32, gates_every=5)


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found.cpu().double() - expected.cpu().double()).norm() / expected.cpu().double().norm()).item()


def _random_model() -> TinyDiT:
    torch.manual_seed(0)
    model = TinyDiT(SMALL)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model


def forward_and_gradients_equal_the_cpus(device: torch.device, folder: Path) -> None:
    model, data = _random_model(), datasets.load("digits")
    pair = flow_pair(data.images[:64], data.labels[:64], 10, 0.1, torch.Generator().manual_seed(0))
    there = copy.deepcopy(model).to(device)
    losses = [flow_loss(m, p) for m, p in ((model, pair), (there, type(pair)(*(part.to(device) for part in pair))))]
    for loss in losses:
        loss.backward()
    assert _relative(losses[1].detach(), losses[0].detach()) < 1e-5
    for (name, p), q in zip(model.named_parameters(), there.parameters(), strict=True):
        assert _relative(q.grad, p.grad) < 1e-3, name
    y = torch.arange(10)
    assert _relative(sample(there, y.to(device), guidance=2.0), sample(model, y, guidance=2.0)) < 1e-3


def _losses(device: torch.device, **how: object) -> list[float]:
    run = Run.new(SMALL, replace(SHORT, **how), device)
    list(train(run, datasets.load("digits", device)))
    return [step.loss for step in run.history]


def compiled_training_follows_the_eager_curve(device: torch.device, folder: Path) -> None:
    _same_curve(_losses(device, compile=True), _losses(device))


def graphed_training_follows_the_eager_curve(device: torch.device, folder: Path) -> None:
    """The graph draws the same batches, times and noise, so the curves agree far beyond chance."""
    _same_curve(_losses(device, graph=True), _losses(device))


def _same_curve(found: list[float], expected: list[float]) -> None:
    worst = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
    assert worst < 0.02, f"losses differ by up to {worst:.1%}; first {found[:3]}, eager {expected[:3]}"


def bfloat16_stays_finite_and_learns(device: torch.device, folder: Path) -> None:
    losses = _losses(device, precision="bfloat16")
    assert all(loss == loss for loss in losses)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def scenes_are_drawn_on_the_device(device: torch.device, folder: Path) -> None:
    data = datasets.load("pairs", device)
    images, tokens = next(data.batches(16, torch.Generator(device).manual_seed(0)))
    assert images.device.type == tokens.device.type == device.type
    assert images.isfinite().all()


def a_killed_run_goes_on(device: torch.device, folder: Path) -> None:
    """kill -9 in the middle, then --resume: it goes on from a checkpoint and comes to the end."""
    command = [
        sys.executable,
        "-m",
        "adaln_lab",
        "train",
        "--data",
        "digits",
        "--steps",
        "300",
        "--out",
        str(folder / "run"),
    ]
    command += ["--device", device.type, "--save-every", "0.2", "--batch", "32"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        checkpoint, patience = folder / "run" / "checkpoint.safetensors", time.monotonic() + 90
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.05)
        killed = process.poll() is None
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.wait()
    assert killed, (folder / "log").read_text()[-500:]
    done = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "from step 0 " not in done.stderr, done.stderr[-500:]


def one_process_of_torchrun_trains(device: torch.device, folder: Path) -> None:
    """NCCL on a GPU, gloo on a CPU; DDP and the broadcast of the start with a world of one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "adaln_lab"]
    command += ["train", "--data", "digits", "--steps", "5", "--out", str(folder / "run"), "--device", device.type]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-500:]


def labels_out_of_range_are_refused(device: torch.device, folder: Path) -> None:
    """Before they reach the device, where an index out of range ends the whole process."""
    data = datasets.load("digits", device)
    small = Run.new(replace(SMALL, n_classes=9), SHORT, device)
    for call in (lambda: next(train(small, data)), lambda: check_labels(torch.tensor([11], device=device), 1, 10)):
        try:
            call()
        except ValueError:
            continue
        raise AssertionError("labels out of range were accepted")


ON_A_CPU_TOO = (
    forward_and_gradients_equal_the_cpus,
    bfloat16_stays_finite_and_learns,
    scenes_are_drawn_on_the_device,
    labels_out_of_range_are_refused,
    a_killed_run_goes_on,
    one_process_of_torchrun_trains,
)
CHECKS = (*ON_A_CPU_TOO, graphed_training_follows_the_eager_curve, compiled_training_follows_the_eager_curve)
