"""The x-ray: does a condition modulate a module, and how? It records forward passes and needs no known names.

    record    one pass, operation by operation
    sites     where a vector of the condition meets the stream, and in which role; a second pass with perturbed
              parameters confirms them
    blocks    the facts of each block around these sites
    report    blocks grouped by kind, and the verdict

B batch, T tokens, D channels.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from adaln_lab.analysis.xray.blocks import UNKNOWN
from adaln_lab.analysis.xray.record import mark_what_came_from_outside, record
from adaln_lab.analysis.xray.report import Report, build_report, structure
from adaln_lab.analysis.xray.sites import confirm_by_perturbation, find_sites

__all__ = ["Report", "xray"]


def xray(module: nn.Module, run: Callable[[], Any] | None = None) -> Report:
    """Report whether and how a condition modulates `module`. `run()` performs one forward pass.

    The module is left as it was. Without `run` only its structure is known, and the verdict is "unknown". ValueError if
    `module` is no Module, if `run` is not callable or raises, or if it never calls the module.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if run is None:
        why = "no pass was given, and names prove nothing: use xray(model, lambda: model(x, t))"
        return Report(UNKNOWN, structure=structure(module), evidence=[why])
    if not callable(run):
        raise ValueError("run must be callable without arguments, as in xray(model, lambda: model(x, t, y))")
    recorder = record(module, run)
    if not recorder.called:
        raise ValueError("run() never called this module: does it call a copy of it, or a part?")
    mark_what_came_from_outside(recorder, module, run)
    sites, confirmation = confirm_by_perturbation(find_sites(recorder), module, run, recorder)
    evidence = [f"{recorder.n_inputs} tensors came in, and every operation on them was recorded", *confirmation]
    return build_report(module, sites, recorder, evidence)
