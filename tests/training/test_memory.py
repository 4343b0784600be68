"""Training for long keeps the memory of its first steps."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.training.train import Run, TrainConfig, read_gates, train

TRAIN = """
import torch
from adaln_lab.data.datasets import Dataset
from adaln_lab.dit import DiTConfig
from adaln_lab.training.train import Run, TrainConfig, train

def resident():  # MB
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
images, labels = torch.randn(500, 3, 24, 24, generator=draw), torch.randint(1304, (500, 12), generator=draw)
data = Dataset("noise", "drawn here", images, labels, images, labels)
model = DiTConfig(24, 3, 4, 144, 5, 4, 1304, 12, variant="both")
for step in train(Run.new(model, TrainConfig(steps=45, batch=4, gates_every=1)), data):
    if step.number in (10, 45):
        print(resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident memory from /proc")
def test_reading_the_gates_of_a_large_vocabulary_does_not_make_memory_grow():
    """Small tensors kept among the large temporaries of a reading made it grow by some 200 MB here, in 35 readings."""
    said = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True).stdout
    first, last = map(float, said.split())
    assert last - first < 90, f"{last - first:.0f} MB more after 35 readings, of {first:.0f} MB"


EMOJI = """
from dataclasses import replace
import torch
from adaln_lab.data import datasets
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, train

def resident():  # MB
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

torch.set_num_threads(1)
model, config = recipe("emoji", "cpu")
run = Run.new(replace(model, width=48, depth=2), replace(config, steps=60, batch=8, gates_every=1))
for step in train(run, datasets.load("emoji", size=model.size)):
    if step.number % 10 == 0:
        print(resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident memory from /proc")
def test_memory_stays_flat_while_a_model_of_emoji_trains():
    """1,202 tokens, and the gates read after each update: 0.0 MB more here from update 10 to 60."""
    said = subprocess.run([sys.executable, "-c", EMOJI], capture_output=True, text=True, check=True).stdout
    resident = [float(line) for line in said.split()]
    assert len(resident) == 6
    assert max(resident) - resident[0] < 20, f"resident MB after each 10 updates: {resident}"


def test_reading_the_gates_does_not_scale_with_the_vocabulary():
    """As many labels are looked up, and as many gates come back, for 1,202 tokens as for 100."""
    looked_up, shapes = [], []
    for n_classes in (100, 1202):
        config = DiTConfig(width=16, depth=2, heads=2, n_classes=n_classes, context_length=6, variant="both")
        model = TinyDiT(config)
        model.y_embed.register_forward_hook(lambda module, inputs, output: looked_up.append(len(output)))
        shapes.append(read_gates(model, torch.tensor([0.1, 0.9])).shape)
    assert looked_up[0] == looked_up[1] and shapes[0] == shapes[1]


def test_the_history_keeps_no_tensor():
    """Each would lie among the temporaries of its step and keep the allocator from using their memory again."""
    run = Run.new(DiTConfig(width=16, depth=1, heads=2), TrainConfig(steps=2, batch=4, gates_every=1))
    list(train(run, datasets.load("digits")))
    assert [step.gates.shape for step in run.history] == [(1, 2), (1, 2)]
    assert not any(isinstance(value, torch.Tensor) for step in run.history for value in vars(step).values())
