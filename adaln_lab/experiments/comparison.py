"""A comparison of conditioning mechanisms: same pictures, trainer and compute; only how the condition enters differs.

    captions   scenes of two objects, eleven words. Two factors are crossed: what the model receives (the sum of
               the words, one vector pooled by an encoder, or all of them) and where that enters (adaLN,
               cross-attention, in context). The time enters by adaLN-Zero; by adaLN without gates; or as one more
               token, as in DiT's in-context and cross-attention blocks
    label      digits, one class label: the four variants of DiT at equal steps, its Table 4 (arXiv 2212.09748)

Every way to enter has its own learning rates: the grid grows until the best of it has a worse neighbour on both sides,
on a seed that no other table has. A trial is one training run on one thread, so its result does not depend on how many
run at a time.
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

from adaln_lab.conditioning import (
    AdaLNBlock,
    AdaLNZeroBlock,
    Block,
    BlockCondition,
    BothBlock,
    Condition,
    CrossAttentionBlock,
    InContextBlock,
)
from adaln_lab.data import datasets
from adaln_lab.data.scene_reader import agreement, read
from adaln_lab.data.scenes import GLOBAL, PAIRS, VOCABULARY, indices
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import classifier, grid
from adaln_lab.experiments.unet import TinyUNet, UNetConfig
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.layers import CrossAttention
from adaln_lab.norms import layer_norm, modulate
from adaln_lab.samplers import sample
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.checks import Text, whole

# blocks that no other part of the course needs


class JointBlock(AdaLNZeroBlock):
    """The time by adaLN-Zero, the words as tokens beside the image's, modulated like them: Lumina 2, Z-Image."""

    uses_ctx_as_tokens = splits_condition = True


class OpenJointBlock(AdaLNBlock):
    """JointBlock without gates."""

    uses_ctx_as_tokens = splits_condition = True


class OpenBothBlock(AdaLNBlock):
    """BothBlock without gates, and its cross-attention starts like any other Linear."""

    splits_condition = True

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__(width, heads, c_width, mlp_ratio)
        self.cross = CrossAttention(width, heads)

    def precompute(self, cond: Condition) -> BlockCondition:
        return BlockCondition(self.to_modulation(cond.c), cond.ctx)

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = x + self.attn(modulate(layer_norm(x), attn))  # (B, T, D)
        x = x + self.cross(layer_norm(x), pre.ctx)
        x = x + self.mlp(modulate(layer_norm(x), mlp))
        return x


# ways for a condition to enter


@dataclass(frozen=True)
class Way:
    """What a transformer receives of its caption, and where caption and time enter."""

    words: str  # "sum", "pooled" (by a small transformer, then summed) or "tokens"
    enter: str  # "adaln", "cross_attention" or "in_context"
    time: str = "gated"  # adaLN-Zero; "open": adaLN without gates; "token": one more token


BLOCKS: dict[tuple[str, str], tuple[str, type[Block]]] = {  # (enter, time) -> the variant of TinyDiT and its block
    ("adaln", "gated"): ("adaln_zero", AdaLNZeroBlock),
    ("adaln", "open"): ("adaln", AdaLNBlock),
    ("cross_attention", "gated"): ("adaln_zero", BothBlock),
    ("cross_attention", "open"): ("adaln", OpenBothBlock),
    ("cross_attention", "token"): ("cross_attention", CrossAttentionBlock),
    ("in_context", "gated"): ("adaln_zero", JointBlock),
    ("in_context", "open"): ("adaln", OpenJointBlock),
    ("in_context", "token"): ("in_context", InContextBlock),
}
WAYS: dict[str, Way | None] = {
    "adaln_sum": Way("sum", "adaln"),
    "adaln_pooled": Way("pooled", "adaln"),
    "cross_sum": Way("sum", "cross_attention"),
    "cross_pooled": Way("pooled", "cross_attention"),
    "cross_tokens": Way("tokens", "cross_attention"),
    "context_sum": Way("sum", "in_context"),
    "context_pooled": Way("pooled", "in_context"),
    "context_tokens": Way("tokens", "in_context"),
    "adaln_sum_open": Way("sum", "adaln", "open"),
    "cross_tokens_open": Way("tokens", "cross_attention", "open"),
    "context_tokens_open": Way("tokens", "in_context", "open"),
    "cross_tokens_time": Way("tokens", "cross_attention", "token"),
    "context_tokens_time": Way("tokens", "in_context", "token"),
    "unet": None,
}
LABEL_WAYS = ("context_tokens_time", "cross_tokens_time", "adaln_sum_open", "adaln_sum")  # the order of DiT's Table 4
STUDIES = {"label": LABEL_WAYS, "captions": tuple(WAYS)}
GATES = (  # with and without
    ("adaln_sum", "adaln_sum_open"),
    ("cross_tokens", "cross_tokens_open"),
    ("context_tokens", "context_tokens_open"),
)
VECTOR = (("cross_tokens_open", "cross_tokens_time"), ("context_tokens_open", "context_tokens_time"))  # or a token
RACED = {name for pair in GATES + VECTOR for name in pair}
MORE_SEEDS = 2  # of these, because their question is how fast
REFERENCE = "adaln_sum"  # whose steps and compute set those of the others
TABLES = ("tuning", "final", "short")
TUNING_SEED = 100  # no other table has it
CAPTIONS = dict(size=24, channels=3, n_classes=len(VOCABULARY), context_length=11)  # two objects
ENCODER = 2  # blocks that pooled words pass


@dataclass(frozen=True)
class Settings:
    """What the trials have in common."""

    steps: int = 2400  # of the reference on captions; all others get its compute
    label_steps: int = 440  # on digits, of every variant
    short_steps: int = 40
    batch: int = 64
    lr: float = 5e-3
    muon_lr: float = 0.03
    tuning_share: float = 0.2  # of the steps
    most_doublings: int = 5  # of both learning rates, up or down
    curve_points: int = 8  # evenly spaced over training
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
    """One training run. Both learning rates are those of the settings times 2^doublings."""

    study: str
    table: str
    way: str
    doublings: int
    seed: int

    def steps(self, settings: Settings) -> int:
        if self.table == "short":
            return settings.short_steps
        share = settings.tuning_share if self.table == "tuning" else 1
        if self.study == "label":
            return max(1, round(settings.label_steps * share))
        return max(1, round(settings.steps * flops(REFERENCE) / flops(self.way) * share))


class WayDiT(TinyDiT):
    """A TinyDiT with the blocks of a `Way`; "sum" and "pooled" words are one token wherever they enter."""

    def __init__(self, way: Way, config: DiTConfig):
        variant, block = BLOCKS[way.enter, way.time]
        super().__init__(replace(config, variant=variant, encoder=ENCODER if way.words == "pooled" else 0))
        self.way, k = way, config
        self.blocks = nn.ModuleList(block(k.width, k.heads, k.width, k.mlp_ratio) for _ in range(k.depth))

    def condition(self, t: Tensor, y: Tensor) -> Condition:
        cond = super().condition(t, y)
        return cond if self.way.words == "tokens" else cond._replace(ctx=cond.ctx.sum(1, keepdim=True))


def build(name: str, study: str = "captions") -> WayDiT | TinyUNet:
    """A fresh model of one way, with the global random numbers."""
    if WAYS[name] is None:
        return TinyUNet(UNetConfig(**CAPTIONS, width=16))
    return WayDiT(WAYS[name], DiTConfig(**CAPTIONS, patch=4, width=96) if study == "captions" else DiTConfig())


@lru_cache
def flops(name: str, study: str = "captions") -> int:
    """Floating-point operations (a multiply-add is 2) of one picture's forward pass, counted on the meta device."""
    with torch.device("meta"):
        model = build(name, study)
        k = model.config
        x, t = torch.empty(1, k.channels, k.size, k.size), torch.empty(1)
        y = torch.empty(1, k.context_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.forward_with(x, model.precompute(t, y))
    return counter.get_total_flops()


# one trial


@grid.one_thread()
def train_and_score(trial: Trial, settings: Settings) -> dict[str, Any]:
    """Train and measure one model; the result as JSON holds it."""
    data = datasets.load("pairs" if trial.study == "captions" else "digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        model = build(trial.way, trial.study)
    steps, factor = trial.steps(settings), 2.0**trial.doublings
    rates = dict(lr=settings.lr * factor, muon_lr=settings.muon_lr * factor)
    config = TrainConfig(data.name, steps, settings.batch, **rates, seed=trial.seed)
    if trial.study == "captions":
        config = replace(config, t_mean=0.0)
    run, curve, seconds = Run.new(model, config), [], 0.0
    points = settings.curve_points if trial.table == "final" else 0
    stops = {round(steps * (i + 1) / points) for i in range(points)}
    start = time.perf_counter()
    try:
        for step in train(run, data):
            if step.number in stops:
                seconds += time.perf_counter() - start
                point = {"step": step.number, "loss": held_loss(run.ema, data)}
                curve.append(point | score(run.ema, data, settings.samples))
                start = time.perf_counter()
    except ValueError as error:  # the loss is not finite: too large a learning rate is a result, too
        return {"failed": str(error)}
    seconds += time.perf_counter() - start
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops(trial.way, trial.study),
        "steps": steps,
        "seconds": round(seconds, 1),
        "loss": held_loss(run.ema, data),
    }
    if points:
        result |= {"curve": curve, "guided": score(run.ema, data, settings.samples, guidance=2.0)}
        if trial.study == "captions":
            result["new"] = quality(run.ema, data.held_labels[len(data.held_labels) // 2 :][: settings.samples])
    return result


@torch.inference_mode()
def held_loss(model: nn.Module, data: datasets.Dataset) -> float:
    """The loss on held-out pictures (of captions: 1,000 of seen combinations), with the same noise and times."""
    n = len(data.held_images) // (2 if data.name == "pairs" else 1)
    generator = torch.Generator().manual_seed(0)
    pair = flow_pair(data.held_images[:n], data.held_labels[:n], model.config.n_classes, 0.0, generator)
    return round(flow_loss(model, pair).item(), 6)


def score(model: nn.Module, data: datasets.Dataset, n: int, guidance: float = 1.0) -> dict[str, float | None]:
    """Samples of n held-out captions, read back; of n digits, by the classifier, accuracy and Frechet distance."""
    if data.name == "pairs":
        return quality(model, data.held_labels[:n], guidance)
    labels = torch.arange(n) % data.n_classes
    found = classifier.evaluate(
        sample(model, labels, guidance=guidance, steps=8), labels, data, classifier.load_classifier(data)
    )
    return {"accuracy": round(found.accuracy, 4), "frechet": round(found.frechet, 4)}


def quality(model: nn.Module, words: Tensor, guidance: float = 1.0) -> dict[str, float | None]:
    """Shares of samples in which a factor is right (see `scene_reader.agreement`), and three more shares:

    global    brightness, tone and background are all right
    objects   every colour, shape, size and cell is there, on either object
    bound     each colour is on its own shape, among scenes with two colours and two shapes that were all found
              (a coin gets 1/2, a sum of words about 0.9: training never shows some pairs); None if fewer than 20
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


# the grid


def run(out: Path, seeds: int = 3, jobs: int = 1, settings: Settings | None = None) -> Iterator[tuple[Trial, Any]]:
    """Train the trials that `out` does not hold yet, `jobs` at a time; yield each when its result is written."""
    settings = settings or Settings()
    shared, measure = asdict(settings), partial(train_and_score, settings=settings)
    command = f"python -m adaln_lab compare --out FILE --seeds {seeds} --jobs {jobs}"
    while trials := missing(out, seeds, settings):
        yield from grid.run(trials, measure, out, shared, command, jobs, Result)


def missing(out: Path, seeds: int, settings: Settings | None = None) -> list[Trial]:
    """The trials that can be done now and that the file does not hold: learning rates first, then seed by seed.

    Every way gets `seeds` seeds, and those in RACED MORE_SEEDS more.
    """
    whole("seeds", seeds, 2, 100)  # of one there is no interval
    settings = settings or Settings()
    results = grid.read(out, asdict(settings), Result)["results"]
    tuning, best = [], {}
    for study, names in STUDIES.items():
        for name in names:
            losses = tuning_losses(results, study, name, settings)
            tuning += [Trial(study, "tuning", name, k, TUNING_SEED) for k, loss in losses.items() if loss is None]
            best[study, name] = None if None in losses.values() else min(losses, key=losses.get)
    if tuning:
        return tuning
    final = [
        (study, "final", name, seed)
        for study, names in STUDIES.items()
        for seed in range(seeds + MORE_SEEDS)
        for name in names
        if seed < seeds or name in RACED
    ]
    short = [("captions", "short", REFERENCE, seed) for seed in range(8)]
    trials = [Trial(study, table, name, best[study, name], seed) for study, table, name, seed in short + final]
    return [trial for trial in trials if grid.key(trial) not in results]


def tuning_losses(results: dict[str, Any], study: str, name: str, settings: Settings) -> dict[int, float | None]:
    """Doublings of the learning rates -> held-out loss, as `grid.bracketed` has them."""
    trial = partial(Trial, study, "tuning", name, seed=TUNING_SEED)
    return grid.bracketed(lambda k: results.get(grid.key(trial(k))), settings.most_doublings)


def all_seeds(results: dict[str, Any], study: str, table: str, name: str) -> list[dict[str, Any]]:
    """The results of one way in one table, by seed."""
    if study not in STUDIES or table not in TABLES or name not in STUDIES[study]:
        known = ", ".join([*STUDIES, *TABLES, *WAYS])
        raise ValueError(f"expected one of {known}; got {study!r}, {table!r}, {name!r}")
    found = {key: result for key, result in results.items() if key.startswith(f"{study}/{table}/{name}/")}
    return [found[key] for key in sorted(found, key=lambda key: int(key.split("/")[-1]))]


def interval(values: list[float], level: float = 0.95, prediction: bool = False) -> tuple[float, float]:
    """Mean and half width of the interval for the mean of many runs, or with `prediction` for the next single run.

    Student's t, written out: scipy's ttest_1samp warns where all values are equal, as shares of 1 often are.
    """
    from scipy.stats import t  # scikit-learn brings scipy

    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    return fmean(values), float(t.ppf((1 + level) / 2, n - 1)) * stdev(values) * sqrt(1 / n + prediction)
