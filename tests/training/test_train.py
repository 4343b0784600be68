"""Training: the same seed is the same run, Muon is Muon, the average averages, and nothing non-finite is learnt."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from adaln_lab.conditioning import VARIANTS
from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments.classifier import evaluate, load_classifier
from adaln_lab.samplers import sample
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, TrainConfig, gate_sizes, lr_factor, read_gates, train

SMALL = DiTConfig(width=24, depth=2, heads=2)
SHORT = TrainConfig(steps=6, batch=16, gates_every=2)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_same_seed_same_run_and_another_seed_another(digits):
    runs = [Run.new(SMALL, replace(SHORT, seed=s)) for s in (0, 0, 1)]
    losses = [[step.loss for step in train(run, digits)] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(weights(runs[0]), weights(runs[1]))


def test_training_leaves_the_global_generator_alone(digits):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(train(Run.new(SMALL, SHORT), digits))
    assert torch.equal(before, torch.get_rng_state())


def test_steps_are_numbered_and_gates_read_at_their_cadence(digits):
    run = Run.new(SMALL, SHORT)
    steps = list(train(run, digits))
    assert [s.number for s in steps] == [1, 2, 3, 4, 5, 6] == [s.number for s in run.history]
    assert [s.number for s in steps if s.gates is not None] == [1, 2, 4, 6]
    assert not steps[0].gates.any()  # update 1 moved the head alone: gates get their first gradient in pass 2
    assert (steps[-1].gates > 0).all()


@pytest.mark.cuda
def test_the_larger_recipe_learns_on_cuda(digits):
    """What notebook 05 does by itself where a GPU is: train, sample and measure there."""
    data = digits.to("cuda")
    run = Run.new(*recipe("digits", "cuda"), "cuda")
    run.config = replace(run.config, steps=200)
    losses = [s.loss for s in train(run, data)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    labels = torch.arange(200, device="cuda") % 10
    assert evaluate(sample(run.ema, labels, guidance=2.0), labels, data, load_classifier(data)).accuracy > 0.5


def test_recipes_fit_their_data_and_grow_on_cuda(digits):
    (small, _), (large, _) = recipe("digits", "cpu"), recipe("digits", "cuda")
    assert digits.images.shape[1:] == (small.channels, small.size, small.size)
    assert (large.depth, large.width) > (small.depth, small.width)
    with pytest.raises(ValueError, match="data must be one of digits, mnist, .*; got 'imagenet'"):
        recipe("imagenet")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns(digits, variant):
    run = Run.new(replace(SMALL, variant=variant), TrainConfig(steps=40, batch=64))
    losses = [s.loss for s in train(run, digits)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert (gate_sizes(run.model) is None) == (variant not in ("adaln_zero", "both"))


@pytest.mark.parametrize("module", ["train", "checkpoint", "session", "recipes"])
def test_training_does_not_load_the_published_blocks(module):
    """They are many files, and a TinyDiT has none of them."""
    code = f"import sys, adaln_lab.training.{module}; print(*(m for m in sys.modules if 'adaln_lab.blocks' in m))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(("n_classes", "first"), [(9, 0), (10, -1)])
def test_labels_outside_the_models_classes_are_refused_before_the_first_step(digits, n_classes, first):
    """An id equal to n_classes means "no label": a 9 among nine classes would train as unconditional, silently."""
    run = Run.new(replace(SMALL, n_classes=n_classes), SHORT)
    before, labels = weights(run).clone(), digits.labels.clone()
    labels[0] = first
    with pytest.raises(ValueError, match=rf"labels must be integers in 0 .. {n_classes - 1}, got {first} .. 9"):
        next(train(run, replace(digits, labels=labels)))
    assert torch.equal(before, weights(run)) and run.number == 0


def test_the_average_follows_the_weights_from_behind(digits):
    """It starts where the model starts, lies between start and end, and with ema 0 is the model itself."""
    run = Run.new(SMALL, replace(SHORT, ema=0.0))
    list(train(run, digits))
    for p, q in zip(run.model.parameters(), run.ema.parameters(), strict=True):
        assert torch.equal(p, q)
    run = Run.new(SMALL, SHORT)
    head = run.model.final.linear.weight
    trail = []
    for _ in train(run, digits):
        trail.append(head.detach().clone())
    expected = torch.zeros_like(head)
    for n, weight in enumerate(trail, 1):
        expected.lerp_(weight, 1 - min(0.98, n / (n + 10)))
    torch.testing.assert_close(run.ema.final.linear.weight, expected)


def test_the_schedule_warms_up_and_falls_to_zero():
    k = TrainConfig(steps=100, warmup=10, decay=0.5)
    factors = [lr_factor(n, k) for n in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[50] == 1
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0


def test_nan_stops_training_names_the_step_and_keeps_the_weights(digits):
    run = Run.new(SMALL, SHORT)
    steps = train(run, digits)
    next(steps), next(steps)
    before = weights(run).clone()
    with torch.no_grad():
        digits.images[:] += float("nan")
    try:
        with pytest.raises(ValueError, match="non-finite at step 3 .*Lower lr"):
            next(steps)
    finally:
        digits.images.copy_(datasets.load("digits").images)
    assert torch.equal(before, weights(run))
    assert run.number == 2
    assert next(train(run, digits)).number == 3  # the data mended, it goes on: no NaN was left in a gradient


def test_read_gates_holds_every_gate_by_name(digits):
    run = Run.new(SMALL, SHORT)
    list(train(run, digits))
    gates = read_gates(run.model, torch.tensor([0.2, 0.8]))
    assert gates.shape == (2, 2, 2, 10, 24)  # depth, branch, time, class, width
    attn, mlp = run.model.blocks[1].precompute(run.model.condition(torch.tensor([0.8]), torch.tensor([3]))).modulations
    torch.testing.assert_close(gates[1, :, 1, 3], torch.cat([attn.gate, mlp.gate])[:, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a whole number in 1 .. "),
        ({"label_drop": 1.5}, "label_drop must be a finite number in 0 .. 1, got 1.5"),
        ({"lr": 0.0}, "lr must be a finite number in 1e-12 .. 1000"),
        ({"lr": float("nan")}, "lr must be a finite number in 1e-12 .. 1000"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SHORT, **change)


def test_bfloat16_learns_and_leaves_float32_weights_and_settings(digits):
    before = torch.get_float32_matmul_precision()
    exact, rounded = (Run.new(SMALL, TrainConfig(steps=40, precision=p)) for p in ("float32", "bfloat16"))
    losses = [[s.loss for s in train(run, digits)] for run in (exact, rounded)]
    assert losses[0] != losses[1]  # it did compute in another precision
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}
    assert list(train(Run.new(SMALL, replace(SHORT, precision="tf32")), digits))
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, bfloat16; got 'fp8'"):
        replace(SHORT, precision="fp8")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_training_is_the_same_training(digits):
    small = replace(SMALL, depth=1)  # the compiler takes its time for each block
    eager, compiled = (Run.new(small, replace(SHORT, compile=c)) for c in (False, True))
    losses = [[s.loss for s in train(run, digits)] for run in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_reading_gates_does_not_grow_with_the_vocabulary():
    """A caption model has thousands of labels; a reading takes an evenly spaced sample of them."""
    small, large = (TinyDiT(replace(SMALL, n_classes=n)) for n in (64, 5000))
    times = torch.tensor([0.2, 0.8])
    assert read_gates(small, times).shape == read_gates(large, times).shape
