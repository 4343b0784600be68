"""Which residual schemes learn, how deep, at which learning rate? A grid of small deep models.

All trials are the same but for scheme, depth, learning rate and seed: the digits model with 4 tokens of width 32, plain
AdamW at a constant learning rate, without warm-up, clipping or averaging, which would hide a bad start. The seed sets
the first weights and all batches. The score is the loss on held-out pictures with fixed noise, divided by the loss of
answering zero: 1 means "learnt nothing", infinity a loss that is not finite. A model has "learnt" if it is better than
the best answer that looks at each pixel alone (`pixelwise_score`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch

from adaln_lab.data import datasets
from adaln_lab.data.datasets import Dataset
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import grid
from adaln_lab.experiments.schemes import SCHEMES, deep_dit
from adaln_lab.flow import FlowPair, flow_loss, flow_pair
from adaln_lab.utils.assets import stored
from adaln_lab.utils.checks import Range, whole

STEPS, BATCH = 100, 64
SETTINGS = {"steps": STEPS, "batch": BATCH}
Score = Annotated[float, Range(0, 1e300)] | None  # in the file; None for infinity
DEPTHS, RATES, SEEDS = (4, 12, 36), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Trial:
    scheme: str
    depth: int
    lr: float
    seed: int

    @property
    def config(self) -> DiTConfig:
        return DiTConfig(patch=4, width=32, heads=2, depth=self.depth)


def all_trials(seeds: int = len(SEEDS)) -> list[Trial]:
    """Seed by seed and shallow before deep, so that a sweep that is stopped early is complete for its first seeds."""
    chosen = SEEDS[: whole("seeds", seeds, 1, len(SEEDS))]
    return [Trial(name, depth, lr, seed) for seed, depth, name, lr in product(chosen, DEPTHS, SCHEMES, RATES)]


def updates(model: TinyDiT, data: Dataset, rates: list[float], seed: int, batch: int = BATCH) -> Iterator[TinyDiT]:
    """The model before its first update and after each, one at each rate; ends early if the loss is not finite."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(seed)
    batches = data.batches(batch, generator)
    yield model
    for lr in rates:
        loss = flow_loss(model, flow_pair(*next(batches), data.n_classes, 0.0, generator))
        if not loss.isfinite():
            return
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield model


def train_trial(trial: Trial, data: Dataset, steps: int = STEPS) -> Iterator[TinyDiT]:
    """`updates` of a trial's model."""
    return updates(deep_dit(trial.scheme, trial.config, trial.seed), data, steps * [trial.lr], trial.seed)


@torch.no_grad()
def score(model: TinyDiT, data: Dataset) -> float:
    """Held-out loss over the loss of answering zero; infinity if it is not finite."""
    pair = held_out(data)
    value = (flow_loss(model, pair) / pair.v.square().mean()).item()
    return value if math.isfinite(value) else math.inf


def train_and_score(trial: Trial, data: Dataset, steps: int = STEPS) -> float:
    """The score after all steps, infinity if training broke off."""
    *before, model = train_trial(trial, data, steps)
    return score(model, data) if len(before) == steps else math.inf


def held_out(data: Dataset) -> FlowPair:
    """The pictures, times and noise that every model is scored on."""
    return flow_pair(data.held_images, data.held_labels, data.n_classes, 0.0, torch.Generator().manual_seed(99))


def pixelwise_score(data: Dataset) -> float:
    """The score of the best linear answer for each pixel from that pixel alone (a diagonal Wiener filter).

    E[x_0 | x_t] = mean + (1 - t) var / ((1 - t)^2 var + t^2) * (x_t - (1 - t) mean), and v = (x_t - x_0) / t.
    """
    pair = held_out(data)
    t, mean, var = pair.t.reshape(-1, 1, 1, 1), data.images.mean(0), data.images.var(0)  # (C, H, W)
    x_0 = mean + (1 - t) * var / ((1 - t) ** 2 * var + t**2) * (pair.x_t - (1 - t) * mean)
    return (((pair.x_t - x_0) / t - pair.v).square().mean() / pair.v.square().mean()).item()


def missing(out: Path, seeds: int) -> int:
    """How many trials the file does not hold yet."""
    return len(grid.missing(all_trials(seeds), grid.read(out, SETTINGS, Score)))


def run(out: Path, seeds: int) -> Iterator[tuple[Trial, float | None]]:
    """Train what the file does not hold yet; each trial and its score, None (in JSON) for infinity."""
    data = datasets.load("digits")

    def measure(trial: Trial) -> float | None:
        value = train_and_score(trial, data)
        return round(value, 4) if math.isfinite(value) else None

    command = f"python -m adaln_lab schemes --out FILE --seeds {seeds}"
    return grid.run(all_trials(seeds), measure, out, SETTINGS, command, kind=Score)


def stored_scores() -> tuple[dict[Trial, float], dict[str, Any]]:
    """The sweep that comes with the package, and how it was made: command, machine, date, seconds."""
    table = stored("schemes")
    results = {trial: table["results"][grid.key(trial)] for trial in all_trials()}
    return {trial: math.inf if value is None else value for trial, value in results.items()}, table["made"]
