"""The update that a CUDA graph records: nothing in it waits for the GPU, and in chunks it is the same training."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adaln_lab import dit
from adaln_lab.data import datasets
from adaln_lab.data.scenes import VOCABULARY
from adaln_lab.dit import DiTConfig
from adaln_lab.training import train as train_module
from adaln_lab.training.distributed import SINGLE_PROCESS
from adaln_lab.training.train import Run, TrainConfig, train

SMALL = DiTConfig(width=24, depth=2, heads=2)
SCENES = DiTConfig(size=32, channels=3, patch=8, width=24, depth=1, heads=2, n_classes=len(VOCABULARY))
SHORT = TrainConfig(steps=7, batch=8, gates_every=3)
MODELS = {
    "digits": SMALL,
    "scenes": replace(SCENES, context_length=7),
    "pairs": replace(SCENES, size=24, context_length=11),
}
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim")


class NoWaiting(TorchDispatchMode):
    """Refuses operations whose result the CPU needs before it can go on."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in WAITS:
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("data", MODELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_update_never_waits_for_the_device(data, precision, monkeypatch):
    monkeypatch.setattr(dit, "check_inputs", lambda *_: None)  # it looks at values, but not on a GPU
    run = Run.new(MODELS[data], replace(SHORT, data=data, precision=precision))
    update = train_module._Update(run, datasets.load(data), SINGLE_PROCESS)
    with NoWaiting():
        found = [update(n) for n in range(2)]
    assert torch.stack(found).isfinite().all()
    with NoWaiting(), pytest.raises(RuntimeError, match="waits"):
        found[0][0].item()


@pytest.fixture
def graph_without_a_gpu(monkeypatch):
    """What is recorded is called instead of replayed; the chunks between two readings are the real ones."""
    monkeypatch.setattr(train_module, "captured", lambda run, compute, world: compute)


def test_training_in_chunks_is_the_same_training(graph_without_a_gpu):
    data = datasets.load("digits")
    plain, graph = Run.new(SMALL, SHORT), Run.new(SMALL, replace(SHORT, graph=True))
    list(train(plain, data))
    assert [step.number for step in train(graph, data)] == [1, 3, 6, 7]  # where the gates are read, and the end
    assert [step.number for step in graph.history] == [1, 2, 3, 4, 5, 6, 7]
    torch.testing.assert_close([s.loss for s in graph.history], [s.loss for s in plain.history], rtol=1e-5, atol=0)
    assert [s.number for s in graph.history if s.gates is not None] == [1, 3, 6]
    for p, q in zip(graph.ema.parameters(), plain.ema.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


def test_what_is_not_finite_takes_back_the_chunk_and_names_the_step(graph_without_a_gpu):
    run, data = Run.new(SMALL, replace(SHORT, graph=True)), datasets.load("digits")
    steps = train(run, data)
    next(steps)
    data.images.fill_(torch.nan)
    with pytest.raises(ValueError, match="non-finite at step 2 .* left as after step 1"):
        next(steps)
    assert run.number == 1 == len(run.history)
    assert all(p.isfinite().all() for model in (run.model, run.ema) for p in model.parameters())


def test_a_graph_needs_a_gpu():
    with pytest.raises(ValueError, match="needs one process on a CUDA device, got 1 on cpu; leave it out"):
        next(train(Run.new(SMALL, replace(SHORT, graph=True)), datasets.load("digits")))
