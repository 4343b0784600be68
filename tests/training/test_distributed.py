"""Several processes are one: the same draws, the same gradients, the same model in the end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from adaln_lab.conditioning import VARIANTS
from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.flow import FlowPair, flow_loss, flow_pair
from adaln_lab.training.distributed import SINGLE_PROCESS, World, join
from adaln_lab.training.train import Run, TrainConfig, train

SMALL = DiTConfig(width=24, depth=2, heads=2)
SHORT = TrainConfig(steps=4, batch=16, gates_every=2)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def gradients(world: World, variant: str) -> dict[str, torch.Tensor]:
    """Of the loss of one global batch, in float64, for a model whose every weight is shaken awake."""
    torch.manual_seed(0)
    model = TinyDiT(replace(SMALL, variant=variant)).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 1, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)
    pair = flow_pair(x, y, 10, 0.3, generator)
    pair = FlowPair(pair.x_t.double(), pair.t.double(), pair.y, pair.v.double())
    wrapped = world.wrap_ddp(model)  # must live until the backward pass is over
    flow_loss(wrapped, world.shard(pair)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def rank_main(rank: int, folder: str) -> None:
    """What each of two processes does; rank 0 keeps the results."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (Path(folder) / "port").read_text()
    with join(torch.device("cpu")) as (world, device):
        found = {variant: gradients(world, variant) for variant in VARIANTS}
        run = Run.new(SMALL, SHORT, device)
        losses = [step.loss for step in train(run, datasets.load("digits"), world)]
        shared = world.broadcast(b"from rank 0" if rank == 0 else None)
        assert shared == b"from rank 0"
        if rank == 0:
            torch.save({"gradients": found, "losses": losses, "ema": run.ema.state_dict()}, Path(folder) / "found.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(rank_main, (str(folder),), nprocs=2)
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_give_the_gradients_of_one_with_the_whole_batch(two_ranks, variant):
    alone = gradients(SINGLE_PROCESS, variant)
    assert alone.keys() == two_ranks["gradients"][variant].keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(two_ranks["gradients"][variant][name], gradient, rtol=0, atol=1e-10, msg=name)
    assert sum(g.abs().max() > 1e-6 for g in alone.values()) > 20  # there was something to compare


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(two_ranks):
    """To float32's rounding: sums are taken in another order."""
    run = Run.new(SMALL, SHORT)
    losses = [step.loss for step in train(run, datasets.load("digits"))]
    assert two_ranks["losses"] == pytest.approx(losses, rel=1e-4)
    for name, weight in run.ema.state_dict().items():
        torch.testing.assert_close(two_ranks["ema"][name], weight, rtol=1e-3, atol=1e-4)


def test_shards_have_no_gap_and_no_overlap():
    pair = FlowPair(*(torch.arange(12.0) for _ in range(4)))
    parts = [World(rank, 3).shard(pair) for rank in range(3)]
    assert all(torch.equal(torch.cat(column), torch.arange(12.0)) for column in zip(*parts, strict=True))


def test_a_batch_that_cannot_be_split_is_refused_with_one_that_can():
    with pytest.raises(ValueError, match="shared by 3 processes and must be a multiple of it, got 16; try --batch 15"):
        World(0, 3).shard(FlowPair(*(torch.zeros(16) for _ in range(4))))


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join(torch.device("cpu")) as (world, device):
        assert (world, device.type) == (SINGLE_PROCESS, "cpu")
    assert SINGLE_PROCESS.wrap_ddp(model := torch.nn.Linear(1, 1)) is model


@pytest.mark.slow
def test_a_rank_that_dies_is_named_and_the_restarted_job_ends_as_if_never_stopped(tmp_path):
    train_it = ["-m", "adaln_lab", "train", "--steps", "40", "--batch", "16", "--device", "cpu", "--save-every", "0"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    broken, straight = tmp_path / "broken", tmp_path / "straight"
    command = [*TORCHRUN, "--max-restarts=3", *train_it, "--resume", "--out", str(broken)]
    job = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    while not (broken / "checkpoint.safetensors").exists():
        assert job.poll() is None
        time.sleep(0.01)
    victim = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()[-1]
    os.kill(int(victim), signal.SIGKILL)
    _, said = job.communicate(timeout=120)
    assert job.returncode == 0, said[-3000:]
    assert "exitcode: -9" in said  # torchrun names the rank that died
    starts = re.findall(r"from step (\d+) of 40", said)
    assert int(starts[0]) == 0 < int(starts[-1])
    subprocess.run([*TORCHRUN, *train_it, "--out", str(straight)], env=env, capture_output=True, check=True)
    assert (broken / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
