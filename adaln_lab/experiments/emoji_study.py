"""Style and noun, each through the vector or as tokens: four models that differ in nothing else, on real pictures.

The time enters all of them by adaLN-Zero. What goes "through the vector" is added to the time, a noun as the sum of
its words; what goes "as tokens" is read by cross-attention; where nothing does, that reads one constant token. All have
the same parameters. Learning rates are chosen for each model by the loss on training pictures, on a seed of its own,
from a grid that grows until the best has a worse neighbour on both sides.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaln_lab.conditioning import Condition
from adaln_lab.data import datasets, emoji
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import emoji_classifier, grid
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.samplers import sample
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.checks import whole

WAYS = {  # name -> do style and noun go through the vector?
    "style vector, noun tokens": (True, False),
    "style vector, noun vector": (True, True),
    "style token, noun tokens": (False, False),
    "style token, noun vector": (False, True),
}
TUNING_SEED = 100
SHOWN = 400  # pictures of training that are asked for, too


@dataclass(frozen=True)
class Settings:
    """What the trials have in common."""

    size: int = 16
    width: int = 96
    depth: int = 4
    steps: int = 2000
    batch: int = 64
    lr: float = 4e-3
    muon_lr: float = 0.02
    tuning_share: float = 0.2
    most_doublings: int = 4
    guidance: float = 2.0
    sampler_steps: int = 12


@dataclass(frozen=True)
class Trial:
    """One training run; both learning rates are those of the settings times 2^doublings."""

    way: str
    table: str  # "tuning" or "final"
    doublings: int
    seed: int


class WaysDiT(TinyDiT):
    """A TinyDiT of variant "both" whose style and noun go through the vector or as tokens."""

    def __init__(self, way: str, config: DiTConfig):
        super().__init__(config)
        self.style_in_c, self.noun_in_c = WAYS[way]

    def condition(self, t: Tensor, y: Tensor) -> Condition:
        style, noun = self.encoder(self.y_embed(y)).split([1, emoji.WORDS], dim=1)  # (B, 1, C), (B, 5, C)
        c, ctx = self.t_embed(t), []
        for part, in_c in ((style, self.style_in_c), (noun, self.noun_in_c)):
            if in_c:
                c = c + part.sum(1)
            else:
                ctx.append(part)
        constant = self.y_embed.place[:1].expand(len(y), 1, -1)  # (B, 1, C)
        return Condition(c, torch.cat(ctx or [constant], dim=1))


def build(way: str, k: Settings) -> WaysDiT:
    """A fresh model, with the global random numbers."""
    words = dict(n_classes=len(emoji.vocabulary()), context_length=1 + emoji.WORDS, style_tokens=1, variant="both")
    return WaysDiT(way, DiTConfig(size=k.size, channels=3, patch=4, width=k.width, depth=k.depth, **words))


@grid.one_thread()
def train_and_score(trial: Trial, k: Settings) -> dict[str, Any]:
    """Train one model; its loss, and of the final ones the quality of samples by split and the footprints."""
    data = datasets.load("emoji", size=k.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        model = build(trial.way, k)
    steps = round(k.steps * (k.tuning_share if trial.table == "tuning" else 1))
    rates = dict(lr=k.lr * 2.0**trial.doublings, muon_lr=k.muon_lr * 2.0**trial.doublings)
    run = Run.new(model, TrainConfig("emoji", steps, k.batch, **rates, t_mean=0.0, ema=0.99, seed=trial.seed))
    try:
        for _ in train(run, data):
            pass
    except ValueError as error:  # the loss is not finite
        return {"failed": str(error)}
    result = {"parameters": sum(p.numel() for p in model.parameters()), "loss": fixed_loss(run.ema, data)}
    if trial.table == "tuning":
        return result
    draw = partial(sample, run.ema, steps=k.sampler_steps, guidance=k.guidance)
    result["quality"] = quality(data, draw)
    seen = [noun for noun in emoji.nouns() if noun.split == "both"][::10]
    a, b = (torch.tensor([emoji.tokens(noun.words, style) for noun in seen]) for style in emoji.STYLES)
    first = draw(a)
    result["style_change"] = shares(draw(b) - first)
    result["noun_change"] = shares(draw(a.roll(1, 0)) - first)
    return result


def quality(data: datasets.Dataset, draw: Callable[[Tensor], Tensor], shown: int = SHOWN) -> dict[str, dict]:
    """Kind of caption -> what the classifier sees in drawings of them, and their number n."""
    found = {}
    for kind, rows in asked_rows(data, shown).items():
        shares_ = emoji_classifier.quality(draw(rows), rows)
        found[kind] = {key: round(value, 4) for key, value in shares_.items()} | {"n": len(rows)}
    return found


def asked_rows(data: datasets.Dataset, shown: int = SHOWN) -> dict[str, Tensor]:
    """Split -> tokens (N, S): pictures of training, and the three kinds that training never shows."""
    split = {noun.words: noun.split for noun in emoji.nouns()}
    kinds = [split[prompt.rsplit(", ", 1)[0]] for prompt in emoji.prompts(data.held_labels)]
    found = {"seen": data.labels[torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))[:shown]]}
    for name, wanted in (("new style", emoji.STYLES), ("new pair", ("new_pair",)), ("new noun", ("new_noun",))):
        found[name] = data.held_labels[torch.tensor([kind in wanted for kind in kinds])]
    return found


def shares(change: Tensor) -> dict[str, float]:
    """How much of a change (N, 3, size, size) is one colour for the whole picture, how much differs from quarter-width
    block to block, and how much is finer: shares of its mean square, which add up to 1; without a change all are 0."""
    blocks = torch.nn.functional.adaptive_avg_pool2d(change, 4)
    mean = blocks.mean((2, 3), keepdim=True)
    total = change.square().mean()
    if not total:
        return dict.fromkeys(("whole", "coarse", "fine", "rms"), 0.0)
    whole_, coarse = mean.square().mean(), (blocks - mean).square().mean()
    parts = {"whole": whole_ / total, "coarse": coarse / total, "fine": 1 - (whole_ + coarse) / total}
    return {name: round(value.item(), 4) for name, value in parts.items()} | {"rms": round(total.sqrt().item(), 4)}


@torch.inference_mode()
def fixed_loss(model: TinyDiT, data: datasets.Dataset) -> float:
    """The loss on every second picture of training, with the same noise and times."""
    generator = torch.Generator().manual_seed(0)
    pair = flow_pair(data.images[::2], data.labels[::2], model.config.n_classes, 0.0, generator)
    return round(flow_loss(model, pair).item(), 6)


def run(out: Path, seeds: int = 3, jobs: int = 1, settings: Settings | None = None) -> Iterator[tuple[Trial, Any]]:
    """Train the trials that `out` does not hold yet, `jobs` at a time; yield each when its result is written."""
    settings = settings or Settings()
    shared, measure = asdict(settings), partial(train_and_score, k=settings)
    command = f"python -m adaln_lab compare --data emoji --out FILE --seeds {seeds} --jobs {jobs}"
    while trials := remaining(grid.read(out, shared, dict)["results"], seeds, settings):
        yield from grid.run(trials, measure, out, shared, command, jobs)


def remaining(results: dict[str, Any], seeds: int, settings: Settings) -> list[Trial]:
    """The trials that can be done now and are not: learning rates first, then the others seed by seed."""
    whole("seeds", seeds, 2, 100)
    tuning, best, most = [], {}, settings.most_doublings
    for way in WAYS:
        losses = grid.bracketed(lambda k, way=way: results.get(grid.key(Trial(way, "tuning", k, TUNING_SEED))), most)
        tuning += [Trial(way, "tuning", k, TUNING_SEED) for k, loss in losses.items() if loss is None]
        best[way] = None if None in losses.values() else min(losses, key=losses.get)
    final = [Trial(way, "final", best[way], seed) for seed in range(seeds) for way in WAYS]
    return tuning or [trial for trial in final if grid.key(trial) not in results]
