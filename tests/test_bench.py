"""The baselines compute what ours computes, timing is fair, numbers are counted right. No speed is asserted."""

import json
import subprocess
import sys

import pytest
import torch

from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.flow import flow_loss
from adaln_lab.samplers import sample
from benchmarks import bench, stopwatch
from benchmarks.baselines import TextbookDiT, TextbookTraining, textbook_sample

CPU = torch.device("cpu")
TINY = DiTConfig(width=24, depth=2, heads=2)


def twins(k: DiTConfig = TINY) -> tuple[TinyDiT, TextbookDiT]:
    """Ours with random weights everywhere, and the textbook model with the same weights."""
    torch.manual_seed(0)
    ours, book = TinyDiT(k), TextbookDiT(k)
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.1)
    weights = {
        "y_table.weight": ours.y_embed.table.weight,
        "patches.weight": ours.x_embed.linear.weight.reshape(k.width, k.channels, k.patch, k.patch),
        "patches.bias": ours.x_embed.linear.bias,
    }

    def linear(name, module):
        weights.update({f"{name}.weight": module.weight, f"{name}.bias": module.bias})

    def vectors(name, to_modulation):
        linear(f"{name}.adaLN_modulation.1", next(m for m in to_modulation.modules() if hasattr(m, "weight")))

    linear("t_mlp.0", ours.t_embed.mlp[0]), linear("t_mlp.2", ours.t_embed.mlp[2]), linear("linear", ours.final.linear)
    for i, block in enumerate(ours.blocks):
        for name, part in zip("qkv", range(3), strict=True):
            weights[f"blocks.{i}.{name}.weight"] = block.attn.qkv.weight.chunk(3)[part]
            weights[f"blocks.{i}.{name}.bias"] = block.attn.qkv.bias.chunk(3)[part]
        linear(f"blocks.{i}.out", block.attn.out), vectors(f"blocks.{i}", block.to_modulation)
        linear(f"blocks.{i}.mlp.0", block.mlp.up), linear(f"blocks.{i}.mlp.2", block.mlp.down)
    weights["adaLN_modulation.1.weight"] = ours.final.to_modulation.linear.weight
    weights["adaLN_modulation.1.bias"] = ours.final.to_modulation.linear.bias
    book.load_state_dict({name: value.detach() for name, value in weights.items()})
    return ours, book


@pytest.mark.parametrize("k", [TINY, DiTConfig(size=16, channels=3, patch=4, width=32, depth=3)])
def test_the_baseline_is_the_same_function_with_as_many_parameters(k):
    ours, book = twins(k)
    pair = bench._pair(k, 8, CPU)
    torch.testing.assert_close(book(pair.x_t, pair.t, pair.y), ours(pair.x_t, pair.t, pair.y), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in book.parameters()) == sum(p.numel() for p in ours.parameters())
    flow_loss(ours, pair).backward()
    before = book.linear.weight.clone()
    TextbookTraining(book, lr=0.0).step(pair)
    torch.testing.assert_close(book.linear.weight.grad, ours.final.linear.weight.grad, rtol=1e-3, atol=1e-5)
    assert torch.equal(book.linear.weight, before)  # lr 0, and no weight decay without it


@pytest.mark.parametrize("batched", [True, False])
def test_the_baseline_draws_the_same_samples(batched):
    ours, book = twins()
    y = torch.arange(6)
    noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = sample(ours, y, steps=4, guidance=2.0)
    torch.testing.assert_close(textbook_sample(book, noise, y, 4, 2.0, batched), expected, rtol=1e-3, atol=1e-4)


def test_candidates_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    clock, turns = [0.0], []
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])

    def candidate(name, seconds):
        def go():
            turns.append(name)
            clock[0] += seconds * (100 if len(turns) <= 2 else 1)

        return go

    seconds = stopwatch.interleaved({"ours": candidate("ours", 2.0), "other": candidate("other", 3.0)}, 4, CPU)
    assert all({turns[i], turns[i + 1]} == {"ours", "other"} for i in range(0, 10, 2))
    assert len({tuple(turns[i : i + 2]) for i in range(0, 10, 2)}) == 2  # not always the same one first
    assert seconds["ours"] == pytest.approx([2.0] * 4) and seconds["other"] == pytest.approx([3.0] * 4)
    assert stopwatch.summarise(seconds)["ratio"]["other"]["median"] == pytest.approx(1.5)


def test_ratios_are_paired():
    """A machine that slows down for both changes no ratio."""
    found = stopwatch.summarise({"ours": [1.0, 10.0, 2.0, 4.0], "other": [2.0, 20.0, 4.0, 8.0]})
    assert found["ratio"]["other"] == {"median": 2.0, "quartiles": [2.0, 2.0]}
    assert found["ms"] == {"ours": 3000.0, "other": 6000.0}


def test_flops_are_those_of_the_matrices():
    """Forward and backward: three products for each weight of a linear and each token; a multiply-add is two FLOPs."""
    k, batch = TINY, 8
    tokens, d = (k.size // k.patch) ** 2, k.width
    a_token = k.depth * (4 * d * d + 8 * d * d + 2 * tokens * d) + 2 * d * k.channels * k.patch**2
    a_picture = k.depth * 6 * d * d + 2 * d * d + 256 * d + d * d
    expected = 3 * 2 * batch * (tokens * a_token + a_picture) / 1e9
    found = bench.work(k, batch, CPU)
    assert found["GFLOP a step"] == pytest.approx(expected, rel=0.1)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["shares"]["matrix products"] > 0 and found["shares"]["optimiser"] > 0


@pytest.mark.slow
def test_all_of_it_runs_and_can_be_kept(monkeypatch):
    monkeypatch.setattr(bench, "SIZES", {"digits": TINY})
    monkeypatch.setattr(bench, "limits", lambda device: {"matmul float32, TFLOP/s": 1.0})
    monkeypatch.setattr(bench, "memory", lambda *_: {"ours": 1.0, "textbook": 2.0})
    small = {"digits": (TINY, bench.TrainConfig(steps=20))}
    monkeypatch.setattr(bench, "recipe", lambda data, _: small[data])
    said: list[str] = []
    ticks: list[int] = []
    found = bench.bench(CPU, quick=True, say=said.append, each=lambda: ticks.append(1))
    assert len(ticks) == bench.parts(CPU, quick=True, engine=False), "the bar would not end where the work does"
    assert json.loads(json.dumps(found)) == found
    assert {"machine", "torch", "date", "limits", "digits", "to 95 % on digits"} <= found.keys()
    assert {"as shipped", "the same work", "sampling", "modulation", "work", "memory, MB"} <= found["digits"].keys()
    for runs in found["to 95 % on digits"].values():
        assert all(r["seconds"] > 0 and 0 <= r["accuracy"] <= 1 and r["steps"] <= 60 for r in runs)
    assert any("x " in line for line in said)


def test_adamws_rate_is_the_fastest_and_not_at_the_end_of_the_grid(monkeypatch):
    """The steps of a run stand in for the run: fewest at the second rate, then at the last."""
    steps = dict(zip(bench.RATES, (90, 60, 70, 80, 90, 100, 110, 120), strict=True))
    monkeypatch.setattr(bench, "reach", lambda run, data: {"reached": True, "steps": steps[run.config.lr]})
    assert bench.tune_adamw(CPU, 0.2, 300)["rate"] == bench.RATES[1]
    steps[bench.RATES[-1]] = 5
    with pytest.raises(ValueError, match="lies at the end of .* widen RATES"):
        bench.tune_adamw(CPU, 0.2, 300)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    code = "from benchmarks.bench import _peak; _peak('ours', 'digits', 'cpu')"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=bench.ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 100 < float(said) < 4000
