"""The x-ray of every transformer class of the installed diffusers: a row for each, from a small instance."""

import contextlib
import importlib
import pkgutil
import re
import signal
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn

from adaln_lab.analysis.xray import Report, published, xray

KEPT = ("blocks", "block_class", "n_vectors_per_block", "source", "gate_bounding", "base_norm", "all_zero_now")


class OutOfTime(BaseException):
    """No Exception, so that a class which swallows those is stopped as well."""


def classes() -> list[type]:
    """The model classes in diffusers.models.transformers, by name."""
    from diffusers.models import ModelMixin, transformers

    found: set[type] = set()
    for info in pkgutil.iter_modules(transformers.__path__, f"{transformers.__name__}."):
        with contextlib.suppress(ImportError):  # a file that needs another package
            found |= {c for c in vars(importlib.import_module(info.name)).values() if is_own(c, info.name, ModelMixin)}
    return sorted(found, key=lambda c: c.__name__)


def is_own(c: Any, module: str, base: type) -> bool:
    return isinstance(c, type) and issubclass(c, base) and c.__module__ == module


def census(found: list[type], limit: int = 120) -> Iterator[dict[str, Any]]:
    """A row for each class; "unknown" with the reason where it has no pass or takes `limit` seconds."""
    for cls in found:
        start = time.perf_counter()
        try:
            with time_limit(limit):
                row = row_of(cls)
        except (Exception, OutOfTime) as error:  # of any type, from the published class: it costs one row
            row = {"verdict": "unknown", "reason": f"{type(error).__name__}: {published.first_line(error)}"}
        yield {"class": cls.__name__, **row, "seconds": round(time.perf_counter() - start, 1)}


def row_of(cls: type) -> dict[str, Any]:
    small, found = published.small_with_pass(cls, {})
    if small is None or found is None:
        return {"verdict": "unknown", "reason": "no arguments were found with which a small instance runs"}
    report = xray(small, lambda: small(**found.values(found.device)))
    groups = [{name: g[name] for name in KEPT} for g in report.groups]
    reason = {} if report.verdict != "unknown" else {"reason": "; ".join(report.elsewhere)}
    final = report.final_layer and report.final_layer["roles"]
    size = full_size(cls, report)
    if report.elsewhere and groups:  # more modulates than was read, so its share is not known
        size, reason = size | {"share": None}, {"also": report.elsewhere}
    return {"verdict": report.verdict, "groups": groups, "final": final, **size, **reason}


def full_size(cls: type, report: Report) -> dict[str, Any]:
    """Parameters at full size, and the share of those that modulate blocks, matched by their names."""
    try:
        full: nn.Module = published.build(cls, {}, "meta")
    except Exception:  # of any type: a class without a default size
        return {"parameters": None, "share": None}
    names = {re.sub(r"\d+", "*", n) for g in report.groups for n in g["modulation_params"]}
    sizes = {n: p.numel() for n, p in full.named_parameters()}
    total = sum(sizes.values())
    return {"parameters": total, "share": sum(s for n, s in sizes.items() if re.sub(r"\d+", "*", n) in names) / total}


def line(row: dict[str, Any]) -> str:
    """A row as text: a sentence for each kind of block."""
    kinds = [
        f"{g['blocks']}: {g['n_vectors_per_block']} on {g['base_norm']}, gate {g['gate_bounding']}, {g['source']}"
        for g in row.get("groups", [])
    ]
    return f"{row['class']:40}{row['verdict']:18}" + ("; ".join(kinds) or row.get("reason", ""))


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """OutOfTime after so many seconds, where the system has alarms."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"no answer within {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def version() -> str:
    module: ModuleType = importlib.import_module("diffusers")
    return module.__version__
