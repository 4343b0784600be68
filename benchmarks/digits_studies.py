"""Small measurements on the digits for notebooks 05 and 06, which would take too long inside a notebook.

    python -m benchmarks.digits_studies                    the trials that are missing in digits_studies.json
    python -m benchmarks.digits_studies --studies swaps    one study: swaps, time, rates, tricks

    swaps    some blocks, or some steps, receive the modulation of another digit: all 90 ordered pairs, three models
    time     training without the time, for a model that predicts the velocity and one that predicts the noise
    rates    held-out loss of plain AdamW over its learning rate, on a seed that no other study uses
    tricks   plain AdamW with one trick added, and the recipe with one trick removed

Each finished trial is stored, so a stopped run goes on. Seconds are of one thread beside other work.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from adaln_lab.analysis.interventions import between, patched
from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import classifier
from adaln_lab.flow import logit_normal
from adaln_lab.samplers import Precompute, sample, time_grid
from adaln_lab.training.checkpoint import shipped_model
from adaln_lab.training.optimizers import make_optimizers
from adaln_lab.utils.assets import ASSETS, stored
from adaln_lab.utils.files import write_json

NAME = "digits_studies"
SEEDS, RATE_SEED, SAMPLES, PER_PAIR = (0, 1, 2), 7, 1000, 40
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are plain: AdamW at a constant rate, as notebook 05 writes it in fifteen lines."""

    steps: int = 100
    batch: int = 64
    lr: float = 4e-3  # the best of RATES on RATE_SEED
    muon: float = 0.0  # its rate for the matrices inside the blocks; 0: AdamW there, too
    schedule: bool = False  # 10 steps of warm-up, and a straight fall to 0 over the last 70 %
    t_mean: float | None = None  # of logit(t) + normal; None: uniform
    ema: float = 0.0
    clip: float = 0.0
    label_std: float = 0.02  # DiT's
    predict: str = "velocity"
    told: float | None = None  # the time that the model is always told; None: the true one


PLAIN = Recipe()
TRICKS = {
    "Muon": {"muon": 0.03},
    "schedule": {"schedule": True},
    "t near the middle": {"t_mean": 0.4},
    "average of weights": {"ema": 0.98},
    "clipping": {"clip": 1.0},
    "larger label table": {"label_std": 0.2},
}
FULL = replace(PLAIN, lr=5e-3, **{key: value for trick in TRICKS.values() for key, value in trick.items()})


def fit(recipe: Recipe, seed: int, data: datasets.Dataset) -> TinyDiT:
    """The model, or its moving average, after training."""
    torch.manual_seed(seed)
    model, k = TinyDiT(DiTConfig(label_std=recipe.label_std)), recipe
    average = copy.deepcopy(model)
    if k.muon:
        optimizers, rates = make_optimizers(model, k.lr, k.muon), (k.lr, k.muon)
    else:
        optimizers, rates = [torch.optim.AdamW(model.parameters(), k.lr, (0.9, 0.95), weight_decay=0.0)], (k.lr,)
    generator = torch.Generator().manual_seed(seed)
    for n in range(k.steps):
        factor = min(1.0, (n + 1) / 10, (k.steps - n) / (0.7 * k.steps)) if k.schedule else 1.0
        for optimizer, lr in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = lr * factor
        rows = torch.randint(len(data.images), (k.batch,), generator=generator)
        uniform = torch.rand(k.batch, generator=generator)
        t = uniform if k.t_mean is None else logit_normal(k.batch, generator, k.t_mean)
        y = torch.where(torch.rand(k.batch, generator=generator) < 0.1, 10, data.labels[rows])
        loss_of(model, k, data.images[rows], t, y, generator).backward()
        if k.clip:
            nn.utils.clip_grad_norm_(model.parameters(), k.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(k.ema, (n + 1) / (n + 11)))
    return average.eval().requires_grad_(False)


def loss_of(model: TinyDiT, k: Recipe, x_0: Tensor, t: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x_0.shape, generator=generator)
    target = noise - x_0 if k.predict == "velocity" else noise
    told = t if k.told is None else torch.full_like(t, k.told)
    return (model(torch.lerp(x_0, noise, t.reshape(-1, 1, 1, 1)), told, y) - target).square().mean()


@torch.no_grad()
def held_loss(model: TinyDiT, k: Recipe, data: datasets.Dataset) -> float:
    """Loss on the held-out pictures, five fixed draws of noise and uniform t each."""
    generator = torch.Generator().manual_seed(12345)
    x_0, y = data.held_images.repeat(5, 1, 1, 1), data.held_labels.repeat(5)
    return loss_of(model, k, x_0, torch.rand(len(y), generator=generator), y, generator).item()


@torch.no_grad()
def drawn(model: TinyDiT, k: Recipe, y: Tensor, steps: int, start: float = 0.97) -> Tensor:
    """Samples from t = `start`, where v = (noise - x_t) / (1 - t) is finite for a model that predicts the noise."""
    x = torch.randn(len(y), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    grid = (start * time_grid(steps)).tolist()
    for t, s in pairwise(grid):
        answer = model(x, torch.full((len(y),), t if k.told is None else k.told), y)
        x = x + (s - t) * (answer if k.predict == "velocity" else (answer - x) / (1 - t))
    return x.clamp(-1, 1)


class Lab:
    """The digits, their classifier, and models that several studies share."""

    def __init__(self) -> None:
        self.data = datasets.load("digits")
        self.reader = classifier.load_classifier(self.data)
        self.models: dict[int, TinyDiT] = {}

    def full(self, seed: int) -> TinyDiT:
        if seed not in self.models:
            self.models[seed] = fit(replace(FULL, steps=220), seed, self.data)  # as long as the shipped one
        return self.models[seed]

    def quality(self, images: Tensor) -> dict[str, float]:
        found = classifier.evaluate(images, torch.arange(SAMPLES) % 10, self.data, self.reader)
        return {"accuracy": found.accuracy, "frechet": found.frechet}


def swaps(lab: Lab, name: str, where: str) -> dict[str, list[list[int]]]:
    """Of 40 samples a pair: read as the digit asked for, and as the other one; rows: asked for, columns: the other."""
    model = shipped_model("digits") if name == "shipped" else lab.full(int(name))
    asked = torch.arange(10).repeat(PER_PAIR)
    own, other = torch.zeros(10, 10, dtype=torch.long), torch.zeros(10, 10, dtype=torch.long)
    for shift in range(1, 10):
        seen = lab.reader(sample(model, asked, precompute=swapped(model.precompute, shift, where))).argmax(1)
        for digit in range(10):
            mine, theirs = seen[asked == digit], (digit + shift) % 10
            own[digit, theirs], other[digit, theirs] = (mine == digit).sum(), (mine == theirs).sum()
    return {"own": own.tolist(), "other": other.tolist()}


def swapped(base: Precompute, shift: int, where: str) -> Precompute:
    """`where`: "blocks 0 1" or "steps 0 1 2" (0 is the first, all blocks), which are told the digit `shift` further."""
    donor = lambda t, y: base(t, torch.where(y < 10, (y + shift) % 10, y))  # noqa: E731
    kind, *numbers = where.split()
    if kind == "blocks":
        return patched(base, donor, map(int, numbers))
    grid = time_grid(6).tolist()
    return between(base, donor, grid[int(numbers[-1]) + 1] + 1e-3, grid[int(numbers[0])] + 1e-3)


def trials(lab: Lab) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """(study, name of the trial, how to run it)."""
    places = ["blocks 0 1", "blocks 2 3", "steps 0 1 2", "steps 3 4 5", "steps 0 1", "steps 0"]
    for name, where in product(("shipped", *map(str, SEEDS[:2])), places):
        yield "swaps", f"{name}/{where}", lambda name=name, where=where: swaps(lab, name, where)
    for seed, predict, told in product(SEEDS, ("velocity", "noise"), (None, 0.5)):
        k = replace(FULL, steps=220, predict=predict, told=told)
        name = f"{predict}/{'with' if told is None else 'without'} time/{seed}"
        yield "time", name, lambda k=k, seed=seed: without_time(lab, k, seed)
    for lr in RATES:
        k = replace(PLAIN, lr=lr)
        yield "rates", f"{lr:g}", lambda k=k: {"held_loss": held_loss(fit(k, RATE_SEED, lab.data), k, lab.data)}
    recipes = {"plain": PLAIN, "recipe": FULL}
    for trick, change in TRICKS.items():
        recipes[f"plain + {trick}"] = replace(PLAIN, **change)
        recipes[f"recipe - {trick}"] = replace(FULL, **{key: getattr(PLAIN, key) for key in change})
    for seed, (name, k) in product(SEEDS, recipes.items()):
        yield "tricks", f"{name}/{seed}", lambda k=k, seed=seed: one_trick(lab, k, seed)


def without_time(lab: Lab, k: Recipe, seed: int) -> dict:
    model = fit(k, seed, lab.data)
    y = torch.arange(SAMPLES) % 10
    found = {str(steps): lab.quality(drawn(model, k, y, steps)) for steps in (6, 24)}
    return {"held_loss": held_loss(model, k, lab.data), "steps": found}


def one_trick(lab: Lab, k: Recipe, seed: int) -> dict:
    model = fit(k, seed, lab.data)
    return {"held_loss": held_loss(model, k, lab.data)} | lab.quality(sample(model, torch.arange(SAMPLES) % 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="*", default=["swaps", "time", "rates", "tricks"])
    chosen = parser.parse_args().studies
    torch.set_num_threads(1)
    lab, found = Lab(), stored(NAME) or {}
    found["about"] = {
        "command": "python -m benchmarks.digits_studies",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()} cpu, 1 thread beside other work, torch {torch.__version__}",
        "seeds": list(SEEDS),
        "rate_seed": RATE_SEED,
        "samples": SAMPLES,
        "samples_per_pair": PER_PAIR,
    }
    for study, name, run in trials(lab):
        if study in chosen and name not in found.setdefault(study, {}):
            begun = time.monotonic()
            result = run()
            found[study][name] = result | {"seconds": round(time.monotonic() - begun, 1)}
            write_json(ASSETS / f"{NAME}.json", found)
            print(study, name, {k: v for k, v in found[study][name].items() if k not in ("own", "other")}, flush=True)


if __name__ == "__main__":
    main()
