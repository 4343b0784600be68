"""Which schemes learn, how deep, at which learning rates? A race of small deep models, one row a run.

Every run is the same but for scheme, depth, learning rate and seed: the digits model with 4 tokens of width 32, plain
AdamW, a constant learning rate, no warm-up, no clipping, no averaging: nothing that would hide a bad start. The seed
decides the first weights and all batches. A run is scored by its loss on held-out pictures with fixed noise, divided
by the loss of answering zero: 1 is "learnt nothing". A run whose loss is not finite scores infinity. "Learnt" means:
better than the best answer that looks at each pixel alone (`pixelwise_score`).
"""

import math
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from adaln_lab.data.datasets import Dataset
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments.schemes import SCHEMES, deep_dit
from adaln_lab.flow import FlowPair, flow_loss, flow_pair
from adaln_lab.utils.assets import stored
from adaln_lab.utils.files import read_json, write_json

STEPS, BATCH = 100, 64
DEPTHS, RATES, SEEDS = (4, 12, 36), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Trial:
    """One run of the race, named by what makes it differ from the others."""

    scheme: str
    depth: int
    lr: float
    seed: int

    @property
    def config(self) -> DiTConfig:
        return DiTConfig(patch=4, width=32, heads=2, depth=self.depth)


def grid() -> list[Trial]:
    """All trials; whole seeds first, shallow before deep, so that a race that was stopped early is a smaller race."""
    return [Trial(name, depth, lr, seed) for seed, depth, name, lr in product(SEEDS, DEPTHS, SCHEMES, RATES)]


def train_trial(trial: Trial, data: Dataset, steps: int = STEPS) -> Iterator[TinyDiT]:
    """The model of a trial, before its first update and after each; it ends early where the loss is not finite."""
    model, generator = deep_dit(trial.scheme, trial.config, trial.seed), torch.Generator().manual_seed(trial.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=trial.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    draw = data.batches(BATCH, generator)
    yield model
    for _ in range(steps):
        loss = flow_loss(model, flow_pair(*next(draw), data.n_classes, 0.0, generator))
        if not loss.isfinite():
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield model


@torch.no_grad()
def score(model: TinyDiT, data: Dataset) -> float:
    """Held-out loss over the loss of answering zero; infinity where it is not finite."""
    pair = held_out(data)
    value = (flow_loss(model, pair) / pair.v.square().mean()).item()
    return value if math.isfinite(value) else math.inf


def race(trial: Trial, data: Dataset, steps: int = STEPS) -> float:
    """Train one model to its end and score it; a run that broke off scores infinity."""
    *before, model = train_trial(trial, data, steps)
    return score(model, data) if len(before) == steps else math.inf


def held_out(data: Dataset) -> FlowPair:
    """The pictures, times and noise that every run is scored on."""
    return flow_pair(data.held_images, data.held_labels, data.n_classes, 0.0, torch.Generator().manual_seed(99))


def pixelwise_score(data: Dataset) -> float:
    """The score of the best straight-line answer for each pixel from that pixel alone (Wiener's filter, diagonal).

    E[x_0 | x_t] = mean + (1 - t) var / ((1 - t)^2 var + t^2) * (x_t - (1 - t) mean), and v = (x_t - x_0) / t.
    """
    pair = held_out(data)
    t, mean, var = pair.t.reshape(-1, 1, 1, 1), data.images.mean(0), data.images.var(0)  # (C, H, W)
    x_0 = mean + (1 - t) * var / ((1 - t) ** 2 * var + t**2) * (pair.x_t - (1 - t) * mean)
    return (((pair.x_t - x_0) / t - pair.v).square().mean() / pair.v.square().mean()).item()


def run_grid(trials: list[Trial], data: Dataset, out: Path, made: dict[str, Any]) -> Iterator[tuple[Trial, float]]:
    """Race what `out` does not hold yet and keep each score at once; whoever stops it loses one run at most."""
    table = _table(out)
    table["made"] |= made
    done = kept(out)

    def rest() -> Iterator[tuple[Trial, float]]:
        for trial in trials:
            if trial not in done:
                start = time.perf_counter()
                result = race(trial, data)
                table["rows"].append([*astuple(trial), round(result, 4) if math.isfinite(result) else None])
                table["made"]["seconds"] = round(table["made"]["seconds"] + time.perf_counter() - start, 1)
                write_json(out, table)
                yield trial, result

    return rest()


def kept(out: Path) -> set[Trial]:
    """The trials whose scores a file holds."""
    return {Trial(*row[:4]) for row in _table(out)["rows"]}


def _table(out: Path) -> dict[str, Any]:
    """What a race has kept in its file, an empty table where there is none yet."""
    rules = {"steps": STEPS, "batch": BATCH}
    if not out.exists():
        return {"made": rules | {"seconds": 0.0}, "rows": []}
    table = read_json(out, "a file that `schemes --out` made")
    if not (isinstance(table, dict) and {"made", "rows"} <= table.keys() and rules.items() <= table["made"].items()):
        raise ValueError(f"{out} holds no race of {STEPS} steps with batches of {BATCH}; choose another --out")
    return table


def stored_scores() -> tuple[dict[Trial, float], dict[str, Any]]:
    """The race that comes with the package, and how it was made: command, machine, date, seconds."""
    table = stored("schemes")
    return {Trial(*row[:4]): math.inf if row[4] is None else row[4] for row in table["rows"]}, table["made"]
