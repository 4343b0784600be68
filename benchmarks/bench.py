"""How fast is this machine, and against what? Ratios to plain baselines, measured in the same run.

    python -m benchmarks.bench --quick          from the root of the repository

`baselines` holds the models that ours is measured against, `stopwatch` the way of measuring.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import classifier
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.samplers import sample
from adaln_lab.training.optimizers import make_state
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.environment import machine, pick_device
from adaln_lab.utils.files import write_json
from benchmarks.baselines import TextbookDiT, TextbookTraining, textbook_sample
from benchmarks.stopwatch import interleaved, limits, summarise, wait

ROOT = Path(__file__).parents[1]
TUNED = Path(__file__).with_name("adamw.json")  # learning rates of the baseline optimiser

SIZES = {"digits": DiTConfig(), "32x32": DiTConfig(size=32, channels=3, patch=4, width=192, depth=6)}
ROUNDS_AND_SEEDS = {True: (5, 1), False: (11, 5)}  # quick or not
KINDS = {  # of operations, by a part of the profiler's name for them
    "matrix products": ("mm", "linear", "addmm"),
    "attention": ("attention", "softmax"),
    "norms": ("layer_norm",),
    "GELU, SiLU": ("gelu", "silu"),
    "copies": ("copy", "cat", "clone", "contiguous", "col2im", "im2col", "index", "fill", "zero"),
    "elementwise": ("add", "mul", "sub", "div", "sum", "mean", "lerp", "pow", "square"),
}


def _pair(k: DiTConfig, batch: int, device: torch.device) -> Any:
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(batch, k.channels, k.size, k.size, device=device, generator=generator)
    y = torch.randint(k.n_classes, (batch,), device=device, generator=generator)
    return flow_pair(x, y, k.n_classes, 0.1, generator)


def _data(k: DiTConfig, device: torch.device) -> datasets.Dataset:
    pair = _pair(k, 256, device)
    return datasets.Dataset("noise", "noise", pair.x_t, pair.y.clamp(max=k.n_classes - 1), pair.x_t, pair.y)


def training(k: DiTConfig, batch: int, rounds: int, device: torch.device, **how: Any) -> dict[str, Any]:
    """A step as shipped, and forward + backward + AdamW alone, against the textbook's."""
    pair, config = _pair(k, batch, device), TrainConfig(steps=10_000, batch=batch, gates_every=10_000, **how)
    steps = train(Run.new(k, config, device), _data(k, device))
    book = TextbookTraining(TextbookDiT(k).to(device))
    shipped = interleaved({"ours": lambda: next(steps), "textbook": lambda: book.step(pair)}, rounds, device)
    models = {"ours": TinyDiT(k).to(device), "textbook": TextbookDiT(k).to(device)}
    optimizers = {name: torch.optim.AdamW(m.parameters(), fused=True) for name, m in models.items()}

    def same_work(name: str) -> None:
        flow_loss(models[name], pair).backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    neutral = interleaved({name: partial(same_work, name) for name in models}, rounds, device)
    return {"as shipped": summarise(shipped), "the same work": summarise(neutral)}


def sampling(k: DiTConfig, rounds: int, device: torch.device, n: int = 16, steps: int = 20) -> dict[str, Any]:
    """Guided samples: ours (all modulation planned at once) against a condition at each step, and two calls a step."""
    y, noise = torch.arange(n, device=device) % k.n_classes, torch.randn(n, k.channels, k.size, k.size, device=device)
    ours, book = TinyDiT(k).to(device).eval(), TextbookDiT(k).to(device).eval()
    candidates = {
        "ours": lambda: sample(ours, y, steps, guidance=2.0),
        "modulation at each step": lambda: textbook_sample(book, noise, y, steps, 2.0, batched=True),
        "two calls a step": lambda: textbook_sample(book, noise, y, steps, 2.0, batched=False),
    }
    return summarise(interleaved(candidates, rounds, device))


@torch.no_grad()
def modulation(k: DiTConfig, rounds: int, device: torch.device) -> dict[str, Any]:
    """All blocks' vectors: one Linear a block against one product with the stacked weights, for several rows of c."""
    layers = [block.to_modulation for block in TinyDiT(k).to(device).blocks]
    linears = [next(m for m in layer.modules() if isinstance(m, torch.nn.Linear)) for layer in layers]
    weight, bias = torch.cat([m.weight for m in linears]), torch.cat([m.bias for m in linears])
    found = {}
    for rows in (1, 16, 64):
        c = torch.nn.functional.silu(torch.randn(rows, k.width, device=device))
        candidates = {
            "ours": lambda c=c: [m(c) for m in linears],
            "one product": lambda c=c: torch.nn.functional.linear(c, weight, bias),
        }
        found[f"{rows} rows"] = summarise(interleaved(candidates, 10 * rounds, device))
    return found


def work(k: DiTConfig, batch: int, device: torch.device) -> dict[str, Any]:
    """FLOPs of one training step, and the share of time by kind of operation."""
    pair, run = _pair(k, batch, device), Run.new(k, TrainConfig(batch=batch, gates_every=10_000), device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it counts no fused attention
        flow_loss(run.model, pair).backward()
    steps = train(run, _data(k, device))
    next(steps)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler greets on stderr
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=kinds) as seen:
        for _ in range(3):
            next(steps)
    shares = dict.fromkeys((*KINDS, "optimiser", "the rest"), 0.0)
    for event in seen.events():
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        shares[_kind(event)] += own
    total = sum(shares.values())
    return {"GFLOP a step": counter.get_total_flops() / 1e9, "shares": {name: s / total for name, s in shares.items()}}


def _kind(event: Any) -> str:
    """What an event of the profiler is; all that an optimiser calls is the optimiser."""
    caller = event
    while caller is not None:
        if caller.name.startswith("Optimizer.step"):
            return "optimiser"
        caller = caller.cpu_parent
    return next((kind for kind, parts in KINDS.items() if any(part in event.name for part in parts)), "the rest")


BAR = 0.95  # share of samples, drawn without guidance, that the classifier reads as their label
TUNING_SEEDS = (100, 101)  # AdamW's rate is chosen on these, and reported on others
RATES = tuple(2e-3 * 2 ** (i / 2) for i in range(8))  # 2e-3 .. 2.3e-2


def adamw_in_place_of_muon(run: Run) -> None:
    """The baseline optimiser: AdamW for the matrices of attention and MLP, too, with the same rate and schedule."""
    matrices = run.optimizers[1].param_groups[0]["params"]
    run.optimizers[1] = torch.optim.AdamW(matrices, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    make_state(run.optimizers[1])


def reach(run: Run, data: datasets.Dataset, bar: float = BAR, every: int = 10) -> dict[str, Any]:
    """Train until the average's samples are right; seconds of training without measuring, steps, accuracy."""
    device, seconds, accuracy = run.generator.device, 0.0, 0.0
    reader, labels = classifier.load_classifier(data), torch.arange(500, device=device) % 10
    start = time.perf_counter()
    for step in train(run, data):
        if (step.number % every == 0 and step.number >= 60) or step.number == run.config.steps:
            wait(device)
            seconds += time.perf_counter() - start
            accuracy = classifier.accuracy(reader, sample(run.ema, labels), labels)
            if accuracy >= bar:
                break
            start = time.perf_counter()
    return {"seconds": seconds, "steps": run.number, "accuracy": accuracy, "reached": accuracy >= bar}


def tune_adamw(device: torch.device, label_std: float, steps: int) -> dict[str, Any]:
    """The rate of RATES that reaches BAR in the fewest steps on TUNING_SEEDS, and the steps of each rate.

    A run that never reaches it counts twice its steps. ValueError where the best rate lies at an end of RATES.
    """
    data, (k, config) = datasets.load("digits", device), recipe("digits", "cpu")
    k, found = replace(k, label_std=label_std), {}
    for rate in RATES:
        took = []
        for seed in TUNING_SEEDS:
            run = Run.new(k, replace(config, seed=seed, lr=rate, muon_lr=rate, steps=steps), device)
            adamw_in_place_of_muon(run)
            try:
                result = reach(run, data)
            except ValueError:  # not finite: too large a rate is a result, too
                result = {"reached": False}
            took.append(result["steps"] if result["reached"] else 2 * steps)
        found[rate] = sum(took) / len(took)
    best = min(found, key=found.get)
    if best in (RATES[0], RATES[-1]):
        raise ValueError(f"the best rate {best:.2g} lies at the end of {RATES[0]:.2g} .. {RATES[-1]:.2g}: widen RATES")
    return {"rate": best, "steps of each rate": {f"{rate:.2g}": steps for rate, steps in found.items()}}


def tuned_adamw(device: torch.device) -> dict[str, Any]:
    """For both label tables, as --tune has stored it: it takes minutes, and counts steps, which no clock changes."""
    k, config = recipe("digits", "cpu")
    tables = {"our label table": k.label_std, "DiT's label table": 0.02}
    return {name: {"label_std": std} | tune_adamw(device, std, 2 * config.steps) for name, std in tables.items()}


def to_quality(device: torch.device, seeds: int, each: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Seconds and steps until BAR on digits: our recipe, and AdamW with a tuned rate and its own length of schedule."""
    data, (k, config) = datasets.load("digits", device), recipe("digits", "cpu")
    found: dict[str, Any] = {"ours": [reach(Run.new(k, replace(config, seed=s), device), data) for s in range(seeds)]}
    each()
    for name, tuned in json.loads(TUNED.read_text())["tables"].items():
        found[f"AdamW, {name}"] = []
        for seed in range(seeds):
            how = replace(config, seed=seed, lr=tuned["rate"], muon_lr=tuned["rate"], steps=2 * config.steps)
            run = Run.new(replace(k, label_std=tuned["label_std"]), how, device)
            adamw_in_place_of_muon(run)
            found[f"AdamW, {name}"].append(reach(run, data))
        each()
    return found


def memory(size: str, device: torch.device) -> dict[str, float]:
    """Peak MB of a process that imports torch and takes three training steps; on a GPU, of its memory."""
    code = "from benchmarks.bench import _peak; _peak({!r}, {!r}, {!r})"
    found = {}
    for name in ("ours", "textbook"):
        command = [sys.executable, "-c", code.format(name, size, str(device))]
        found[name] = float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    return found


def _peak(name: str, size: str, device_name: str) -> None:
    k, device, batch = SIZES[size], torch.device(device_name), 64
    if name == "ours":
        steps = train(Run.new(k, TrainConfig(batch=batch), device), _data(k, device))
        step = lambda: next(steps)  # noqa: E731
    else:
        book, pair = TextbookTraining(TextbookDiT(k).to(device)), _pair(k, batch, device)
        step = lambda: book.step(pair)  # noqa: E731
    for _ in range(3):
        step()
    used = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0
    print(used or _resident())


def _resident() -> float:
    """The most MB that this process ever held."""
    try:  # Linux: getrusage would count what the parent held before it became this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except OSError:
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def engines(k: DiTConfig, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """A step in other arithmetic and compiled, against float32 as written. Compiling itself is not counted."""
    hows = {
        "ours": {},
        "tf32": {"precision": "tf32"},
        "bfloat16": {"precision": "bfloat16"},
        "compiled": {"compile": True},
        "compiled, bfloat16": {"compile": True, "precision": "bfloat16"},
    }
    data = _data(k, device)
    runs = {
        name: train(Run.new(k, TrainConfig(steps=10_000, batch=batch, gates_every=10_000, **how), device), data)
        for name, how in hows.items()
    }
    seconds = interleaved({name: partial(next, steps) for name, steps in runs.items()}, rounds + 3, device)
    return summarise({name: values[3:] for name, values in seconds.items()})


def parts(device: torch.device, quick: bool, engine: bool) -> int:
    """How many measurements `bench` takes, those of one kind as one."""
    of_a_size = 5 + (engine or device.type == "cuda")
    return 1 + len(SIZES) * of_a_size + 3


def bench(
    device: torch.device,
    quick: bool = False,
    engine: bool = False,
    say: Callable[[str], None] = print,
    each: Callable[[], object] = lambda: None,
) -> dict:
    """Everything, said as it is measured, `each` called after each of the `parts`; the document that --json keeps."""
    rounds, seeds = ROUNDS_AND_SEEDS[quick]
    about = {"machine": machine(device), "torch": torch.__version__, "date": str(date.today()), "batch": 64}
    say(f"{about['machine']}, torch {about['torch']}; ratio: how many times as long as ours, median (quartiles)")
    found: dict[str, Any] = about | {"limits": limits(device)}
    each()
    for name, value in found["limits"].items():
        say(f"{name:34} {value:8.3g}")
    for size, k in SIZES.items():
        found[size] = training(k, 64, rounds, device)
        each()
        found[size]["sampling"] = sampling(k, rounds, device)
        each()
        for what, result in found[size].items():
            _say_summary(say, f"{size}: {what}", result)
        found[size]["modulation"] = modulation(k, rounds, device)
        each()
        found[size]["work"] = work(k, 64, device)
        each()
        for rows, result in found[size]["modulation"].items():
            _say_summary(say, f"{size}: modulation of {rows}", result)
        reached = found[size]["work"]["GFLOP a step"] / found[size]["as shipped"]["ms"]["ours"]
        found[size]["work"]["TFLOP/s"] = reached
        found[size]["memory, MB"] = memory(size, device)
        each()
        say(f"{size}: {reached:.3g} TFLOP/s of {found['limits']['matmul float32, TFLOP/s']:.3g}; time goes to:")
        for kind, share in sorted(found[size]["work"]["shares"].items(), key=lambda item: -item[1]):
            say(f"    {kind:30} {share:6.1%}")
        say(f"{size}: peak memory, MB: " + ", ".join(f"{n} {mb:.0f}" for n, mb in found[size]["memory, MB"].items()))
        if engine or device.type == "cuda":
            found[size]["engines"] = engines(k, 64, rounds, device)
            each()
            _say_summary(say, f"{size}: engines", found[size]["engines"])
    found["to 95 % on digits"] = to_quality(device, seeds, each=each)
    for name, runs in found["to 95 % on digits"].items():
        told = ", ".join(f"{r['seconds']:.1f} s ({r['steps']} steps, {r['accuracy']:.3f})" for r in runs)
        say(f"to 95 % on digits, {name}: {told}")
    return json.loads(json.dumps(found))


def _say_summary(say: Callable[[str], None], title: str, result: dict[str, Any]) -> None:
    say(f"{title}: ours {result['ms']['ours']:.4g} ms")
    for name, ratio in result["ratio"].items():
        low, high = ratio["quartiles"]
        say(f"    {name:30} {result['ms'][name]:8.4g} ms   x {ratio['median']:.2f} ({low:.2f} .. {high:.2f})")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.bench", description="Measure speed against plain baselines.")
    parser.add_argument("--quick", action="store_true", help="few rounds, one seed")
    parser.add_argument("--engine", action="store_true", help="also precisions and torch.compile (always on CUDA)")
    parser.add_argument("--tune", action="store_true", help="only choose AdamW's learning rates anew, and keep them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the numbers")
    parser.add_argument("--device", help="cpu, cuda or mps (default: $ADALN_LAB_DEVICE, else the best there is)")
    o = parser.parse_args(arguments)
    try:
        device = pick_device(o.device)
    except ValueError as error:
        parser.error(str(error))
    if o.tune:
        about = {"command": "python -m benchmarks.bench --tune", "date": str(date.today()), "torch": torch.__version__}
        write_json(TUNED, about | {"seeds": TUNING_SEEDS, "tables": tuned_adamw(device)})
        return
    with tqdm(total=parts(device, o.quick, o.engine), unit="part", file=sys.stderr, delay=1) as bar:
        found = bench(device, o.quick, o.engine, say=partial(tqdm.write, file=sys.stdout), each=bar.update)
    if o.json:
        write_json(o.json, {"command": f"python -m benchmarks.bench {shlex.join(sys.argv[1:])}"} | found)


if __name__ == "__main__":
    main()
