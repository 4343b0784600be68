"""The race of the ways in: the same scenes, words, trainer and compute; only how the condition enters differs.

    compute      every runner gets the same number of floating-point operations, and so its own number of steps
    parameters   DiT's variants made as large as adaLN-Zero by their width; every runner gets the same number of steps
    short        a few steps only, for whoever wants to run a part again: does it fall inside the interval?
    tuning       each runner's learning rate, from the same values, on a seed that no other table reports

A cell is one training run; it is kept as soon as it is done, and `race` runs only what is missing. Every cell runs on
one thread, so that it does not matter how many run at a time. DiT, Table 4 (arXiv 2212.09748), is the original.
"""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import lru_cache
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adaln_lab.blocks.budget import parameters
from adaln_lab.data import datasets
from adaln_lab.data.scene_reader import agreement, read
from adaln_lab.data.scenes import GLOBAL, VOCABULARY, indices
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments.unet import TinyUNet, UNetConfig
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.samplers import sample
from adaln_lab.training.checkpoint import save_model
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.assets import stored
from adaln_lab.utils.environment import machine
from adaln_lab.utils.files import read_json, write_json

SCENES = dict(size=24, channels=3, n_classes=len(VOCABULARY), context_length=11)  # two objects
BASE = DiTConfig(**SCENES, patch=4, width=96)
RUNNERS: dict[str, DiTConfig | UNetConfig] = {
    "in_context": replace(BASE, variant="in_context"),
    "cross_attention": replace(BASE, variant="cross_attention"),
    "adaln": replace(BASE, variant="adaln"),
    "adaln_zero": BASE,
    "adaln_zero_encoder": replace(BASE, encoder=2),
    "both": replace(BASE, variant="both"),
    "unet": UNetConfig(**SCENES, width=16),
}
REFERENCE = "adaln_zero"
AS_LARGE = {"in_context": 116, "cross_attention": 104, "adaln": 100, "adaln_zero": 96}  # widths, table "parameters"
SHORT = ("cross_attention", "adaln_zero")
TABLES = ("compute", "parameters", "short", "tuning")
FULL = ("compute", "parameters")  # tables whose cells are sampled from, not only scored by their loss
TUNING_SEED = 100  # no other table counts so far


@dataclass(frozen=True)
class Race:
    """What the cells have in common."""

    steps: int = 900  # of the reference; the others' follow from their cost
    batch: int = 64
    factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)  # of both learning rates below
    lr: float = 5e-3
    muon_lr: float = 0.03
    tuning_share: float = 1 / 3  # of the steps
    short_steps: int = 40
    measures: int = 4  # points of a curve, evenly spaced
    samples: int = 500  # read at each of them


@dataclass(frozen=True)
class Cell:
    """One training run."""

    table: str
    runner: str
    factor: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.table}/{self.runner}/lr x {self.factor:g}/seed {self.seed}"

    @property
    def config(self) -> DiTConfig | UNetConfig:
        config = RUNNERS[self.runner]
        return replace(config, width=AS_LARGE[self.runner]) if self.table == "parameters" else config

    def steps(self, race: Race) -> int:
        if self.table == "short":
            return race.short_steps
        steps = race.steps
        if self.table != "parameters":
            steps *= flops(RUNNERS[REFERENCE]) / flops(self.config)
        return max(1, round(steps * (race.tuning_share if self.table == "tuning" else 1)))


def build(config: DiTConfig | UNetConfig) -> TinyDiT | TinyUNet:
    return TinyDiT(config) if isinstance(config, DiTConfig) else TinyUNet(config)


@lru_cache
def flops(config: DiTConfig | UNetConfig) -> int:
    """Floating-point operations of one picture's way forward, counted by torch on the meta device: 2 a multiply-add."""
    with torch.device("meta"):
        model = build(config)
        x = torch.empty(1, config.channels, config.size, config.size)
        t, y = torch.empty(1), torch.empty(1, config.context_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.run(x, model.plan(t, y))
    return counter.get_total_flops()


def run_cell(cell: Cell, race: Race, models: Path | None = None) -> dict[str, Any]:
    """Train and measure; the result as JSON holds it. On one thread, whatever the process had before."""
    torch.set_num_threads(1)
    data = datasets.load("pairs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = build(cell.config)
    steps = cell.steps(race)
    config = TrainConfig(
        data="pairs",
        steps=steps,
        batch=race.batch,
        lr=race.lr * cell.factor,
        muon_lr=race.muon_lr * cell.factor,
        t_mean=0.0,
        seed=cell.seed,
    )
    run, curve, seconds = Run.new(model, config), [], 0.0
    stops = {round(steps * (i + 1) / race.measures) for i in range(race.measures)} if cell.table in FULL else set()
    n, start = race.samples, time.perf_counter()
    try:
        for step in train(run, data):
            if step.number in stops:
                seconds += time.perf_counter() - start
                point = {"step": step.number, "loss": held_loss(run.ema, data)}
                curve.append(point | quality(run.ema, data.held_labels[:n]))
                start = time.perf_counter()
    except ValueError as error:  # a learning rate too large is a result, too
        return {"failed": str(error)}
    seconds += time.perf_counter() - start
    result = {
        "parameters": parameters(model),
        "flops": flops(cell.config),
        "steps": steps,
        "seconds": round(seconds, 1),
        "loss": held_loss(run.ema, data),
    }
    if stops:
        new = data.held_labels[len(data.held_labels) // 2 :][:n]
        result |= {"curve": curve, "new": quality(run.ema, new)}
        result |= {"guided": quality(run.ema, data.held_labels[:n], guidance=2.0)}
    if models and cell.table == "compute":
        save_model(run.ema, models / f"{cell.runner}_{cell.seed}", data="pairs")
    return result


@torch.inference_mode()
def held_loss(model: nn.Module, data: datasets.Dataset) -> float:
    """The loss on 1,000 held-out pictures of seen combinations, each time with the same noise and times."""
    n = len(data.held_images) // 2
    generator = torch.Generator().manual_seed(0)
    pair = flow_pair(data.held_images[:n], data.held_labels[:n], model.config.n_classes, 0.0, generator)
    return round(flow_loss(model, pair).item(), 6)


def quality(model: nn.Module, words: Tensor, guidance: float = 1.0) -> dict[str, float | None]:
    """Shares of right factors in samples for these words (see `scene_reader.agreement`), and three more:

    global    brightness, tone and background are all right
    objects   every colour, shape, size and cell is there, whoever has it
    bound     of scenes with two colours and two shapes, all of them found: each colour on its own shape (chance: 1/2)
    """
    found = read(sample(model, words, guidance=guidance, steps=8))
    same = agreement(found, words)
    same["global"] = torch.stack([same[name] for name in GLOBAL]).all(0)
    same["objects"] = same["size"] & same["colour"] & same["shape"] & same["cell"]
    own = indices(words)
    two = torch.stack([own[name][:, 0] != own[name][:, 1] for name in ("colour", "shape")]).all(0)
    fair = two & same["colour"] & same["shape"]
    shares = {name: round(values.float().mean().item(), 4) for name, values in same.items()}
    bound = round(same["binding"][fair].float().mean().item(), 4) if fair.sum() >= 20 else None
    return shares | {"bound": bound}


def race(
    out: Path, seeds: int = 3, jobs: int = 1, rules: Race | None = None, models: Path | None = None
) -> Iterator[str]:
    """Run the cells that the file `out` does not hold yet, `jobs` at a time; yield a line about each as it is kept."""
    rules = rules or Race()
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2, or there is no interval; got {seeds}")
    results = _table(out)
    if results.setdefault("rules", _plain(rules)) != _plain(rules):
        raise ValueError(f"{out} was raced under other rules ({results['rules']}); choose another file")
    results |= {"machine": machine(torch.device("cpu")), "torch": torch.__version__, "date": str(date.today())}
    for stage in (_tuning, _racing):
        cells = [cell for cell in stage(results, rules, seeds) if cell.key not in results["cells"]]
        for cell, result in _run(cells, rules, models, jobs):
            results["cells"][cell.key] = result
            write_json(out, results)
            told = result.get("failed") or f"held-out loss {result['loss']:.4f}, {result['seconds']:.0f} s"
            yield f"{cell.key}: {told} ({len(results['cells'])} cells kept)"


def todo(out: Path, seeds: int, rules: Race | None = None) -> int:
    """How many cells the file does not hold yet."""
    rules = rules or Race()
    all_alike = {"cells": {cell.key: {"loss": 0.0} for cell in _tuning({}, rules, seeds)}}  # which is best is not known
    everything = _tuning({}, rules, seeds) + _racing(all_alike, rules, seeds)
    return max(0, len(everything) - len(_table(out)["cells"]))


def _table(out: Path) -> dict[str, Any]:
    return read_json(out, "a table that `compare` made") if out.exists() else {"cells": {}}


def _tuning(results: dict[str, Any], rules: Race, seeds: int) -> list[Cell]:
    return [Cell("tuning", runner, factor, TUNING_SEED) for runner in RUNNERS for factor in rules.factors]


def _racing(results: dict[str, Any], rules: Race, seeds: int) -> list[Cell]:
    best = {runner: tuned(results, runner, rules.factors) for runner in RUNNERS}
    short = [Cell("short", runner, best[runner], seed) for runner in SHORT for seed in range(max(8, seeds))]
    compute = [Cell("compute", runner, best[runner], seed) for seed in range(seeds) for runner in RUNNERS]
    parameters = [Cell("parameters", runner, best[runner], seed) for seed in range(seeds) for runner in AS_LARGE]
    return short + compute + [cell for cell in parameters if cell.runner != REFERENCE]  # the reference is in compute


def tuned(results: dict[str, Any], runner: str, factors: tuple[float, ...]) -> float:
    """The factor of the learning rates with the least held-out loss."""
    tried = {f: results["cells"][Cell("tuning", runner, f, TUNING_SEED).key] for f in factors}
    return min(tried, key=lambda f: tried[f].get("loss", float("inf")))


def _run(cells: list[Cell], rules: Race, models: Path | None, jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if jobs == 1:
        threads = torch.get_num_threads()
        for cell in cells:
            yield cell, run_cell(cell, rules, models)
        torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(run_cell, cell, rules, models): cell for cell in cells}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _plain(rules: Race) -> dict[str, Any]:
    return asdict(rules) | {"factors": list(rules.factors)}


class Interval(NamedTuple):
    """A mean and the half width of an interval around it."""

    mean: float
    half: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.mean - self.half, self.mean + self.half


def interval(values: list[float], level: float = 0.95, prediction: bool = False) -> Interval:
    """Where the mean of many more runs would lie, or with `prediction` the next single run (Student's t)."""
    from scipy.stats import t  # scikit-learn brings scipy

    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    spread = stdev(values) * sqrt(1 / n + (1 if prediction else 0))
    return Interval(fmean(values), float(t.ppf((1 + level) / 2, n - 1)) * spread)


def difference(first: list[float], second: list[float], level: float = 0.95) -> Interval:
    """mean(first) - mean(second) and the interval for it, without assuming equal spreads (Welch)."""
    from scipy.stats import t

    parts = [stdev(values) ** 2 / len(values) for values in (first, second)]
    freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
    half = float(t.ppf((1 + level) / 2, freedom)) * sqrt(sum(parts))
    return Interval(fmean(first) - fmean(second), half)


def stored_race() -> dict[str, Any]:
    """The race that comes with the package: rules, machine, date and every cell."""
    return stored("compare")


def cells(results: dict[str, Any], table: str, runner: str) -> list[dict[str, Any]]:
    """All seeds of one runner in a table; the reference has the same cells in "compute" and "parameters"."""
    if table not in TABLES or runner not in RUNNERS:
        raise ValueError(f"expected one of {', '.join(TABLES)} and of {', '.join(RUNNERS)}; got {table!r}, {runner!r}")
    if table == "parameters" and runner == REFERENCE:
        table = "compute"
    return [cell for key, cell in results["cells"].items() if key.startswith(f"{table}/{runner}/")]
