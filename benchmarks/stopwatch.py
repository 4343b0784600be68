"""Time functions so that the ratio of two times means something.

The candidates take turns, in an order shuffled each round, and a ratio is the median over rounds of paired ratios:
other work that slows the machine for a while slows both.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch

Rounds = dict[str, list[float]]


def wait(device: torch.device) -> None:
    """Return when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(candidates: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> Rounds:
    """Seconds of each candidate in each round, after one warm-up round that is not counted."""
    order, seconds = random.Random(0), {name: [] for name in candidates}
    for i in range(rounds + 1):
        for name in order.sample(list(candidates), len(candidates)):
            wait(device)
            start = time.perf_counter()
            candidates[name]()
            wait(device)
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(seconds: Rounds, ours: str = "ours") -> dict[str, Any]:
    """Median milliseconds of each, and how many times as long as ours it takes: median, quartiles of paired ratios."""
    found: dict[str, Any] = {"ms": {name: 1e3 * median(values) for name, values in seconds.items()}, "ratio": {}}
    for name in seconds.keys() - {ours}:
        ratios = [other / own for other, own in zip(seconds[name], seconds[ours], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        found["ratio"][name] = {"median": median(ratios), "quartiles": [low, high]}
    return found


def limits(device: torch.device, n: int = 1536, rounds: int = 7) -> dict[str, float]:
    """What the machine can do: TFLOP/s of matrix products in each precision, GB/s of a copy; best of `rounds`."""

    def best(function: Callable[[], Any]) -> float:
        return min(interleaved({"": function}, rounds, device)[""])

    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        found[f"matmul {name}, TFLOP/s"] = 2 * n**3 / best(partial(torch.matmul, a, b)) / 1e12
    a = torch.empty(2**26, device=device)  # 256 MB
    found["copy, GB/s"] = 2 * a.nbytes / best(partial(torch.empty_like(a).copy_, a)) / 1e9
    return found
