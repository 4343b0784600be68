"""Measure two things so that their ratio means something.

Contestants alternate, in an order shuffled each round, and a ratio is the median over rounds of paired ratios: what
slows the machine for a while slows both.
"""

import random
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch

Rounds = dict[str, list[float]]


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def race(contestants: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> Rounds:
    """Seconds of each contestant in each round, after one round to warm up."""
    order, seconds = random.Random(0), {name: [] for name in contestants}
    for i in range(rounds + 1):
        for name in order.sample(list(contestants), len(contestants)):
            wait(device)
            start = time.perf_counter()
            contestants[name]()
            wait(device)
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def verdict(seconds: Rounds, ours: str = "ours") -> dict[str, Any]:
    """Median milliseconds of each, and how many times as long as ours it takes: median, quartiles of paired ratios."""
    found: dict[str, Any] = {"ms": {name: 1e3 * median(values) for name, values in seconds.items()}, "ratio": {}}
    for name in seconds.keys() - {ours}:
        ratios = [other / own for other, own in zip(seconds[name], seconds[ours], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        found["ratio"][name] = {"median": median(ratios), "quartiles": [low, high]}
    return found


def limits(device: torch.device, n: int = 1536, rounds: int = 7) -> dict[str, float]:
    """The machine's: TFLOP/s of matrix products in each precision, GB/s of a copy; the best of some rounds."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        found[f"matmul {name}, TFLOP/s"] = 2 * n**3 / min(race({"": lambda a=a, b=b: a @ b}, rounds, device)[""]) / 1e12
    a = torch.empty(2**26, device=device)  # 256 MB
    b = torch.empty_like(a)
    found["copy, GB/s"] = 2 * a.nbytes / min(race({"": lambda: b.copy_(a)}, rounds, device)[""]) / 1e9
    return found
