"""A comparison of conditioning mechanisms: same scenes, words and trainer; only how the condition enters differs.

    compute      every variant gets the same number of floating-point operations, so each has its own number of steps
    parameters   the variants of DiT, made as large as adaLN-Zero by their width; all train for the same number of steps
    short        a few steps, so that a reader can repeat a part: does a new seed fall inside the interval?
    tuning       learning rates, the same values for each variant, on a seed that no other table reports

A trial is one training run on one thread, so its result does not depend on how many run at a time. The original is
Table 4 of DiT (arXiv 2212.09748).
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adaln_lab.data import datasets
from adaln_lab.data.scene_reader import agreement, read
from adaln_lab.data.scenes import GLOBAL, PAIRS, VOCABULARY, indices
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import grid
from adaln_lab.experiments.unet import TinyUNet, UNetConfig
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.samplers import sample
from adaln_lab.training.checkpoint import load_model, read_about, save_model
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.checks import Text, whole
from adaln_lab.utils.files import check_writable

SCENES = dict(size=24, channels=3, n_classes=len(VOCABULARY), context_length=11)  # two objects
BASE = DiTConfig(**SCENES, patch=4, width=96)
VARIANTS: dict[str, DiTConfig | UNetConfig] = {
    "in_context": replace(BASE, variant="in_context"),
    "cross_attention": replace(BASE, variant="cross_attention"),
    "adaln": replace(BASE, variant="adaln"),
    "adaln_zero": BASE,
    "adaln_zero_encoder": replace(BASE, encoder=2),
    "both": replace(BASE, variant="both"),
    "unet": UNetConfig(**SCENES, width=16),
}
REFERENCE = "adaln_zero"
WIDTHS = {"in_context": 116, "cross_attention": 104, "adaln": 100, "adaln_zero": 96}  # of the table "parameters"
SHORT = ("cross_attention", "adaln_zero")
TABLES = ("compute", "parameters", "short", "tuning")
SAMPLED = ("compute", "parameters")  # tables whose models also draw samples; the others report only the loss
TUNING_SEED = 100  # no other table has it


@dataclass(frozen=True)
class Settings:
    """What the trials have in common."""

    steps: int = 900  # of the reference; those of the others follow from their cost
    batch: int = 64
    lr_multipliers: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)  # of both learning rates below
    lr: float = 5e-3
    muon_lr: float = 0.03
    tuning_share: float = 1 / 3  # of the steps
    short_steps: int = 40
    curve_points: int = 4  # evenly spaced over training
    samples: int = 500  # drawn and read at each of them


@dataclass(frozen=True)
class Result:
    """What the file holds of a trial: why it failed, or what it cost and how good the model is."""

    failed: Text | None = None
    parameters: int | None = None
    flops: int | None = None
    steps: int | None = None
    seconds: float | None = None
    loss: float | None = None
    curve: list[dict] | None = None  # of `quality`, with step and loss
    new: dict | None = None
    guided: dict | None = None

    def __post_init__(self):
        if (self.failed is None) == (self.loss is None):
            raise ValueError("a result must hold either failed or loss; delete it, and the same command makes it again")


@dataclass(frozen=True)
class Trial:
    """One training run."""

    table: str
    variant: str
    lr_multiplier: float
    seed: int

    @property
    def config(self) -> DiTConfig | UNetConfig:
        config = VARIANTS[self.variant]
        return replace(config, width=WIDTHS[self.variant]) if self.table == "parameters" else config

    def steps(self, settings: Settings) -> int:
        if self.table == "short":
            return settings.short_steps
        steps = settings.steps
        if self.table != "parameters":
            steps *= flops(VARIANTS[REFERENCE]) / flops(self.config)
        return max(1, round(steps * (settings.tuning_share if self.table == "tuning" else 1)))


def build(config: DiTConfig | UNetConfig) -> TinyDiT | TinyUNet:
    return TinyDiT(config) if isinstance(config, DiTConfig) else TinyUNet(config)


@lru_cache
def flops(config: DiTConfig | UNetConfig) -> int:
    """Floating-point operations (a multiply-add is 2) of one picture's forward pass, counted on the meta device."""
    with torch.device("meta"):
        model = build(config)
        x = torch.empty(1, config.channels, config.size, config.size)
        t, y = torch.empty(1), torch.empty(1, config.context_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.forward_with(x, model.precompute(t, y))
    return counter.get_total_flops()


@grid.one_thread()
def train_and_score(trial: Trial, settings: Settings, models: Path | None = None) -> dict[str, Any]:
    """Train and measure one model; the result as JSON holds it. Models of "compute" are kept in the folder `models`."""
    data = datasets.load("pairs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        model = build(trial.config)
    steps = trial.steps(settings)
    config = TrainConfig(
        data="pairs",
        steps=steps,
        batch=settings.batch,
        lr=settings.lr * trial.lr_multiplier,
        muon_lr=settings.muon_lr * trial.lr_multiplier,
        t_mean=0.0,
        seed=trial.seed,
    )
    run, curve, seconds = Run.new(model, config), [], 0.0
    points = settings.curve_points if trial.table in SAMPLED else 0
    stops = {round(steps * (i + 1) / points) for i in range(points)}
    n, start = settings.samples, time.perf_counter()
    try:
        for step in train(run, data):
            if step.number in stops:
                seconds += time.perf_counter() - start
                point = {"step": step.number, "loss": held_loss(run.ema, data)}
                curve.append(point | quality(run.ema, data.held_labels[:n]))
                start = time.perf_counter()
    except ValueError as error:  # the loss is not finite: too large a learning rate is a result, too
        return {"failed": str(error)}
    seconds += time.perf_counter() - start
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops(trial.config),
        "steps": steps,
        "seconds": round(seconds, 1),
        "loss": held_loss(run.ema, data),
    }
    if points:
        new = data.held_labels[len(data.held_labels) // 2 :][:n]
        result |= {"curve": curve, "new": quality(run.ema, new)}
        result |= {"guided": quality(run.ema, data.held_labels[:n], guidance=2.0)}
    if models and trial.table == "compute":
        save_model(run.ema, models / f"{trial.variant}_{trial.seed}", data="pairs")
    return result


def load_variant(folder: Path, device: torch.device | str = "cpu") -> TinyDiT | TinyUNet:
    """The model in a run's folder, also a U-Net that `compare --models` kept."""
    if read_about(folder).kind == TinyUNet.__name__:
        return load_model(folder, device, TinyUNet, UNetConfig)
    return load_model(folder, device)


@torch.inference_mode()
def held_loss(model: nn.Module, data: datasets.Dataset) -> float:
    """The loss on 1,000 held-out pictures of seen combinations, each time with the same noise and times."""
    n = len(data.held_images) // 2
    generator = torch.Generator().manual_seed(0)
    pair = flow_pair(data.held_images[:n], data.held_labels[:n], model.config.n_classes, 0.0, generator)
    return round(flow_loss(model, pair).item(), 6)


def quality(model: nn.Module, words: Tensor, guidance: float = 1.0) -> dict[str, float | None]:
    """Shares of samples in which a factor is right (see `scene_reader.agreement`), and three more shares:

    global    brightness, tone and background are all right
    objects   every colour, shape, size and cell is there, on either object
    bound     each colour is on its own shape, among scenes with two colours and two shapes that were all found
              (chance: 1/2); None if these are fewer than 20
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


def bag_ceiling(words: Tensor) -> float:
    """The share of captions (B, 11) that the best model could get right if it knew only which words they hold.

    Of the scenes that share a caption's words it can only guess one, among those that training shows.
    """
    n, start = len(words), len(GLOBAL)
    first, second = words[:, start : start + 4], words[:, start + 4 :]
    scenes = []  # the cell stays, and size, colour and shape are exchanged or not
    for swap in product((False, True), repeat=3):
        mask = torch.tensor([*swap, False])
        scenes.append(torch.cat([torch.where(mask, second, first), torch.where(mask, first, second)], 1))
    scenes = torch.stack(scenes, 1)  # (B, 8, 8)
    looks = scenes.unflatten(2, (2, 4))[..., 1:3]  # (B, 8, 2, 2): colour and shape of each object
    shown = ~(looks.unsqueeze(3) == PAIRS).all(-1).any(-1).any(-1)  # (B, 8)
    return fmean(1 / len({tuple(s) for s in scenes[i][shown[i]].tolist()}) for i in range(n))


def run(
    out: Path, seeds: int = 3, jobs: int = 1, settings: Settings | None = None, models: Path | None = None
) -> Iterator[tuple[Trial, dict[str, Any]]]:
    """Train the trials that `out` does not hold yet, `jobs` at a time; yield each when its result is written."""
    settings = settings or Settings()
    whole("seeds", seeds, 2, 100)  # of one there is no interval
    if models:
        check_writable(models / "new" / "config.json")
    measure = partial(train_and_score, settings=settings, models=models)
    shared = asdict(settings)
    command = f"python -m adaln_lab compare --out FILE --seeds {seeds} --jobs {jobs}"
    yield from grid.run(tuning_trials(settings), measure, out, shared, command, jobs, Result)
    results = grid.read(out, shared, Result)["results"]
    best = {variant: best_multiplier(results, variant, settings) for variant in VARIANTS}
    yield from grid.run(final_trials(best, seeds), measure, out, shared, command, jobs, Result)


def missing(out: Path, seeds: int, settings: Settings | None = None) -> int:
    """How many trials the file does not hold yet."""
    settings, seeds = settings or Settings(), whole("seeds", seeds, 2, 100)
    n = len(tuning_trials(settings)) + len(final_trials(dict.fromkeys(VARIANTS, 1.0), seeds))
    return max(0, n - len(grid.read(out, asdict(settings), Result)["results"]))


def tuning_trials(settings: Settings) -> list[Trial]:
    return [Trial("tuning", variant, m, TUNING_SEED) for variant in VARIANTS for m in settings.lr_multipliers]


def final_trials(best: dict[str, float], seeds: int) -> list[Trial]:
    """The three other tables, each variant at its best multiplier; the reference of "parameters" is in "compute"."""
    short = [Trial("short", v, best[v], seed) for v in SHORT for seed in range(max(8, seeds))]
    compute = [Trial("compute", v, best[v], seed) for seed in range(seeds) for v in VARIANTS]
    parameters = [Trial("parameters", v, best[v], seed) for seed in range(seeds) for v in WIDTHS if v != REFERENCE]
    return short + compute + parameters


def best_multiplier(results: dict[str, Any], variant: str, settings: Settings) -> float:
    """The multiplier of the learning rates with the lowest held-out loss."""
    losses = {
        m: results[grid.key(Trial("tuning", variant, m, TUNING_SEED))].get("loss", float("inf"))
        for m in settings.lr_multipliers
    }
    return min(losses, key=losses.get)


def interval(values: list[float], level: float = 0.95, prediction: bool = False) -> tuple[float, float]:
    """Mean and half width of the interval for the mean of many runs, or with `prediction` for the next single run.

    Student's t, written out: scipy's ttest_1samp warns where all values are equal, as shares of 1 often are.
    """
    from scipy.stats import t  # scikit-learn brings scipy

    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    return fmean(values), float(t.ppf((1 + level) / 2, n - 1)) * stdev(values) * sqrt(1 / n + prediction)


def all_seeds(results: dict[str, Any], table: str, variant: str) -> list[dict[str, Any]]:
    """The results of a variant in one table; "parameters" has those of the reference from "compute"."""
    if table not in TABLES or variant not in VARIANTS:
        raise ValueError(f"expected one of {', '.join(TABLES)}, {', '.join(VARIANTS)}; got {table!r}, {variant!r}")
    if table == "parameters" and variant == REFERENCE:
        table = "compute"
    return [result for key, result in results.items() if key.startswith(f"{table}/{variant}/")]
