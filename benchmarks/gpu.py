"""Everything that a GPU can tell about this course, in eight minutes, from one command:

    make gpu                                    python -m benchmarks.gpu --budget 480 --out runs/gpu

Parts in the order of what they are worth, each with its share of the budget. A part that fails is recorded and the next
one runs; gpu.json is written anew after each measurement, pictures beside it. It needs torch, numpy, scikit-learn,
matplotlib, safetensors and tqdm. `--device cpu` runs the same script at smaller sizes.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from adaln_lab.data import datasets
from adaln_lab.data.scene_reader import scene_accuracy
from adaln_lab.data.scenes import random_scenes
from adaln_lab.display import plots
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import classifier, emoji_classifier
from adaln_lab.flow import flow_loss
from adaln_lab.samplers import sample
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.environment import machine
from adaln_lab.utils.files import read_json, write_json
from benchmarks.baselines import TextbookDiT, TextbookTraining, textbook_sample
from benchmarks.bench import _data, _pair
from benchmarks.cuda_checks import CHECKS, ON_A_CPU_TOO, ROOT
from benchmarks.stopwatch import interleaved, summarise, wait

CHUNK = 20  # updates timed together: a graph is not waited for inside
BATCH = 64
ENGINES: dict[str, dict[str, Any]] = {
    "ours": {},
    "tf32": {"precision": "tf32"},
    "bfloat16": {"precision": "bfloat16"},
    "graph": {"graph": True},
    "graph, tf32": {"graph": True, "precision": "tf32"},
    "graph, bfloat16": {"graph": True, "precision": "bfloat16"},
    "compiled": {"compile": True},
    "compiled, graph, tf32": {"compile": True, "graph": True, "precision": "tf32"},
}


class Bench:
    """The device, the results so far and the time that is left."""

    def __init__(self, device: torch.device, out: Path, budget: float, found: dict[str, Any]):
        self.device, self.out, self.found = device, out, found
        self.start, self.budget = time.monotonic(), budget
        self.until = self.end = self.start + budget
        self.cuda, self._before = device.type == "cuda", 0

    def left(self) -> float:
        """Seconds of the part that runs."""
        return self.until - time.monotonic()

    def keep(self, part: str, **values: Any) -> None:
        """Add results to a part and write the file."""
        self.found["parts"].setdefault(part, {}).update(values)
        write_json(self.out / "gpu.json", self.found)

    def figure(self, name: str, fig: Any) -> None:
        fig.savefig(self.out / name)
        print(f"    {self.out / name}")

    def sizes(self) -> dict[str, DiTConfig]:
        large = DiTConfig(size=32, channels=3, patch=4, width=256, depth=8, heads=8)
        return {"course": DiTConfig(), "32x32": large if self.cuda else replace(large, width=64, depth=2)}

    def peak(self) -> float | None:
        """Most MB of the GPU since the last call, beyond what was in use then."""
        if not self.cuda:
            return None
        most, self._before = torch.cuda.max_memory_allocated() - self._before, torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return round(most / 2**20, 1)


def ceilings(bench: Bench, part: str) -> None:
    """TFLOP/s of one large matrix product in each precision, GB/s of a copy: random numbers, median."""
    n = 8192 if bench.cuda else 512
    before = torch.get_float32_matmul_precision()
    found = {}
    for name, dtype, how in (
        ("float32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bfloat16", torch.bfloat16, "highest"),
    ):
        torch.set_float32_matmul_precision(how)
        a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
        seconds = interleaved({"": lambda a=a, b=b: a @ b}, 10, bench.device)[""]
        found[f"matmul {name}, TFLOP/s"] = 2 * n**3 / median(seconds) / 1e12
    torch.set_float32_matmul_precision(before)
    a = torch.randn(2**28 if bench.cuda else 2**22, device=bench.device)
    target = torch.empty_like(a)
    found["copy, GB/s"] = 2 * a.nbytes / median(interleaved({"": lambda: target.copy_(a)}, 10, bench.device)[""]) / 1e9
    bench.keep(part, **found)
    print("   ", ", ".join(f"{name} {value:.3g}" for name, value in found.items()))


def checks(bench: Bench, part: str) -> None:
    """Is it right there? The same functions as `pytest -m cuda`."""
    for check in CHECKS if bench.cuda else ON_A_CPU_TOO:
        if bench.left() < 0:
            bench.keep(part, **{check.__name__: "no time left"})
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(bench.device, Path(folder))
                result = "ok"
            except Exception as error:
                result = f"{type(error).__name__}: {str(error)[:500]}"
        bench.keep(part, **{check.__name__: result})
        print(f"    {check.__name__}: {result}")


def _stepper(bench: Bench, k: DiTConfig, how: dict[str, Any]) -> Callable[[], None]:
    """A call that takes CHUNK updates."""
    config = TrainConfig(steps=10**6, batch=BATCH, gates_every=CHUNK, **how)
    run = Run.new(k, config, bench.device)
    steps = train(run, _data(k, bench.device))
    next(steps)

    def chunk() -> None:
        goal = run.number - run.number % CHUNK + CHUNK
        while run.number < goal:
            next(steps)

    return chunk


def steps(bench: Bench, part: str) -> None:
    """A training step of the textbook's DiT and of ours, by engine: ms, images a second, launches, memory, speed."""
    for size, k in bench.sizes().items():
        pair = _pair(k, BATCH, bench.device)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it counts no fused attention
            flow_loss(TinyDiT(k).to(bench.device), pair).backward()
        flop = counter.get_total_flops()
        book = TextbookTraining(TextbookDiT(k).to(bench.device))
        candidates = {"textbook": lambda book=book, pair=pair: [book.step(pair) for _ in range(CHUNK)]}
        rows: dict[str, Any] = {"GFLOP": flop / 1e9, "batch": BATCH}
        for name, how in ENGINES.items():
            if (not bench.cuda and name not in ("ours", "bfloat16")) or (size == "course" and "compile" in how):
                continue
            if bench.left() < (60 if "compile" in how else 5):  # compiling takes most of a minute
                rows[name] = "no time left"
                continue
            try:
                bench.peak()
                candidates[name] = _stepper(bench, k, how)
                candidates[name]()
                rows[name] = {"peak MB": bench.peak(), "launches a step": _launches(bench, candidates[name])}
            except Exception as error:  # an engine that this machine lacks must not take the others with it
                rows[name] = f"{type(error).__name__}: {str(error)[:300]}"
                candidates.pop(name, None)
        rounds = 9 if bench.cuda else 3
        summary = summarise(interleaved(candidates, rounds, bench.device), "textbook")
        for name, ms in summary["ms"].items():
            row = rows.setdefault(name, {})
            row |= {"ms": ms / CHUNK, "images a second": 1e3 * BATCH * CHUNK / ms, "TFLOP/s": flop * CHUNK / ms / 1e9}
            if name != "textbook":  # how many times as fast as the textbook's
                ratio = summary["ratio"][name]
                row |= {"speed": 1 / ratio["median"], "quartiles": sorted(1 / q for q in ratio["quartiles"])}
            speed = f", {row['speed']:.2f} times the textbook's speed" if "speed" in row else ""
            print(f"    {size}, {name}: {row['ms']:.3g} ms a step{speed}")
        bench.keep(part, **{size: rows})


def _launches(bench: Bench, chunk: Callable[[], None]) -> float | None:
    """Kernels and copies that the CPU starts in a step; a graph counts once."""
    if not bench.cuda:
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        chunk()
    starts = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
    return sum(event.name.startswith(starts) for event in seen.events()) / CHUNK


def sampling(bench: Bench, part: str) -> None:
    """Guided samples, 20 steps: ours against the textbook's, 16 and 256 pictures."""
    for (size, k), n in itertools.product(bench.sizes().items(), (16, 256)):
        if bench.left() < 3:
            bench.keep(part, **{f"{size}, {n} pictures": "no time left"})
            continue
        y = torch.arange(n, device=bench.device) % k.n_classes
        noise = torch.randn(n, k.channels, k.size, k.size, device=bench.device)
        ours, book = TinyDiT(k).to(bench.device).eval(), TextbookDiT(k).to(bench.device).eval()
        candidates = {
            "ours": lambda ours=ours, y=y: sample(ours, y, 20, guidance=2.0),
            "textbook": lambda book=book, noise=noise, y=y: textbook_sample(book, noise, y, 20, 2.0, batched=True),
        }
        found = summarise(interleaved(candidates, 9 if bench.cuda else 3, bench.device))
        bench.keep(part, **{f"{size}, {n} pictures": found})
        print(
            f"    {size}, {n} pictures: ours {found['ms']['ours']:.3g} ms, x {found['ratio']['textbook']['median']:.2f}"
        )


def presets(bench: Bench) -> Iterator[tuple[str, DiTConfig, TrainConfig, float]]:
    """What is trained to quality, the share of correct samples that counts as reached."""
    engine = {"graph": True, "precision": "tf32"} if bench.cuda else {}
    k, config = recipe("digits", "cpu")
    yield "digits", k, replace(config, **engine), 0.95
    if bench.cuda:
        k, config = recipe("scenes", "cpu")
        yield "scenes", k, replace(config, **engine), 0.95
        k, config = recipe("scenes", "cuda")
        yield "scenes, larger model", k, replace(config, graph=True), 0.95
        k, config = recipe("mnist", "cpu")
        yield "mnist", k, replace(config, **engine), 0.95
        k, config = recipe("emoji", "cuda")
        yield "emoji", k, replace(config, graph=True), 0.5  # of style and noun together; disturbed real pictures: 0.85


def to_quality(bench: Bench, part: str) -> None:
    """Seconds of training, without measuring, until samples are right (guidance 1, emoji 2); curve and pictures."""
    for name, k, config, bar in presets(bench):
        if bench.left() < 10:
            bench.keep(part, **{name: "no time left"})
            continue
        try:
            data = datasets.load(config.data, bench.device, k.size)
        except ValueError as error:
            bench.keep(part, **{name: str(error)[:200]})
            continue
        for seed in (0, 1, 2) if name == "digits" and bench.cuda else (0,):
            _train_to_quality(
                bench, part, f"{name}, seed {seed}", Run.new(k, replace(config, seed=seed), bench.device), data, bar
            )


def _asked(data: datasets.Dataset) -> tuple[torch.Tensor, float, Callable[[torch.Tensor], float]]:
    """500 conditions, the guidance to draw them with, and what tells the share of samples that are right."""
    if data.name == "emoji":
        labels = data.labels[:: len(data.labels) // 500][:500].cpu()
        return labels, 2.0, lambda images: emoji_classifier.quality(images, labels)["both"]
    if data.labels.dim() == 2:
        labels = random_scenes(500, torch.Generator().manual_seed(1))
        return labels, 1.0, lambda images: scene_accuracy(images.cpu(), labels)["all"]
    labels, reader = torch.arange(500) % 10, classifier.load_classifier(data)
    return labels, 1.0, lambda images: classifier.accuracy(reader, images, labels.to(images.device))


def _train_to_quality(bench: Bench, part: str, name: str, run: Run, data: datasets.Dataset, bar: float) -> None:
    labels, guidance, measure = _asked(data)
    every = max(20, run.config.steps // 20 // 20 * 20)
    curve, films, seconds, reached = [], {}, 0.0, None
    bench.peak()
    wait(bench.device)
    start = time.perf_counter()
    for step in train(run, data):
        if step.number % every and step.number != run.config.steps:
            continue
        wait(bench.device)
        seconds += time.perf_counter() - start
        images = sample(run.ema, labels, guidance=guidance)
        accuracy = measure(images)
        curve.append({"step": step.number, "seconds": seconds, "accuracy": accuracy, "loss": step.loss})
        films[f"{seconds:.1f} s: {accuracy:.0%}"] = images[:10].cpu()
        if accuracy >= bar and reached is None:
            reached = seconds
        if bench.left() < 2:
            break
        wait(bench.device)
        start = time.perf_counter()
    result = {"reached": reached, "bar": bar, "seconds": seconds, "steps": run.number, "peak MB": bench.peak()}
    bench.keep(part, **{name: result | {"curve": curve}})
    told = "not reached" if reached is None else f"reached in {reached:.1f} s"
    print(
        f"    {name}: {bar:.0%} {told}; {run.number} steps in {seconds:.1f} s, at the end {curve[-1]['accuracy']:.1%}"
    )
    chosen = list(films)[:: max(1, len(films) // 6)]
    fig, (ax,) = plots.new_figure(9, 0.9 * len(chosen))
    plots.plot_film({title: films[title] for title in chosen}, ax)
    bench.figure(f"{name.replace(', ', '_').replace(' ', '_')}.png", fig)


def largest(bench: Bench, part: str) -> None:
    """The largest batch of the model at 32x32, then the widest model, whose training step fits."""
    base = bench.sizes()["32x32"]
    for what, values in (("batch", (2**i for i in range(8, 18))), ("width", (512, 1024, 2048))):
        for value in values:
            if bench.left() < 3 or (not bench.cuda and value > 512):
                break
            k = base if what == "batch" else replace(base, width=value, heads=8)
            batch = value if what == "batch" else BATCH
            try:
                run = Run.new(k, TrainConfig(steps=10**6, batch=batch, precision="tf32"), bench.device)
                steps, took = train(run, _data(k, bench.device)), []
                for _ in range(4):
                    start = time.perf_counter()
                    next(steps)
                    wait(bench.device)
                    took.append(time.perf_counter() - start)
            except torch.OutOfMemoryError:
                bench.keep(part, **{f"{what} {value}": "out of memory"})
                break
            finally:
                run = steps = None
                if bench.cuda:
                    torch.cuda.empty_cache()
            with torch.device("meta"):
                parameters = sum(p.numel() for p in TinyDiT(k).parameters())
            found = {"ms": 1e3 * median(took[1:]), "images a second": batch / median(took[1:]), "peak MB": bench.peak()}
            bench.keep(part, **{f"{what} {value}": found | {"parameters": parameters}})
            print(f"    {what} {value}: {found['ms']:.3g} ms a step, {found['images a second']:.4g} images a second")


PARTS: dict[str, tuple[Callable[[Bench, str], None], float]] = {  # with the share of the budget
    "ceilings": (ceilings, 0.05),
    "checks": (checks, 0.20),
    "training step": (steps, 0.30),
    "time to quality": (to_quality, 0.30),
    "sampling": (sampling, 0.05),
    "largest": (largest, 0.10),
}


def about(device: torch.device) -> dict[str, Any]:
    found = {"machine": machine(device), "torch": torch.__version__, "date": str(date.today())}
    found |= {"commit": _output("git", "rev-parse", "HEAD")}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"capability": [card.major, card.minor], "GB": round(card.total_memory / 2**30, 1)}
        found |= {"multiprocessors": card.multi_processor_count, "cuda": torch.version.cuda}
        found |= {"driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")}
    return found


def _output(*command: str) -> str | None:
    """What a program prints; None where it is missing or fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def run_all(device: torch.device, out: Path, budget: float, resume: bool) -> dict[str, Any]:
    """All parts that `out` does not hold yet; what they find, also in out/gpu.json."""
    found = {"about": about(device), "parts": {}, "done": [], "errors": {}}
    if resume and (out / "gpu.json").exists():
        before = read_json(out / "gpu.json")
        for name in ("machine", "torch", "commit"):
            if before["about"][name] != found["about"][name]:
                raise ValueError(
                    f"{out} holds results of {name} {before['about'][name]}, here is {found['about'][name]}; "
                    "numbers of both cannot be compared: use another --out"
                )
        found = before | {"errors": {}}
    bench = Bench(device, out, budget, found)
    todo = {name: part for name, part in PARTS.items() if name not in found["done"]}
    for i, (name, (part, share)) in enumerate(todo.items()):
        rest = sum(s for _, s in list(todo.values())[i:])
        bench.until = time.monotonic() + max(0.0, (bench.end - time.monotonic()) * share / rest)
        print(f"{time.monotonic() - bench.start:5.0f} s  {name}, {bench.left():.0f} s", flush=True)
        try:
            part(bench, name)
            found["done"].append(name)
        except Exception as error:  # recorded; what comes after may still work
            found["errors"][name] = "".join(traceback.format_exception(error))[-2000:]
            print(f"    failed: {type(error).__name__}: {error}", flush=True)
        write_json(out / "gpu.json", found)
    failed = ", ".join(found["errors"]) or "nothing"
    print(f"{time.monotonic() - bench.start:5.0f} s  kept in {out / 'gpu.json'}; failed: {failed}")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description="Measure everything on a GPU.")
    parser.add_argument("--budget", type=float, default=480, metavar="S", help="seconds in all (default 480)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder for gpu.json and pictures")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same at smaller sizes")
    parser.add_argument("--resume", action="store_true", help="run the parts that DIR/gpu.json does not hold")
    o = parser.parse_args(arguments)
    if o.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --device cpu runs the same script at smaller sizes")
    if not 30 <= o.budget < 86_400:
        parser.error(f"--budget must be from 30 seconds, or nothing is measured, to a day; got {o.budget:g}")
    if (o.out / "gpu.json").exists() and not o.resume:
        parser.error(f"{o.out} holds a result already; --resume runs what it lacks, another --out leaves it alone")
    if o.device == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        print("This card has no tf32 and no bfloat16 units: those rows will not be faster, or will be missing.")
    o.out.mkdir(parents=True, exist_ok=True)
    try:
        found = run_all(torch.device(o.device), o.out, o.budget, o.resume)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"stopped; what was measured is in {o.out / 'gpu.json'}, --resume goes on", file=sys.stderr)
        return 130
    return 1 if found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
