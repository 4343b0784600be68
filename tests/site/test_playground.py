"""The model in the page equals torch's: the same float16 weights, velocities, modulations, gates and pictures."""

import gzip
from pathlib import Path

import parity
import pytest
import torch
import weights
from torch import nn

from adaln_lab.training.checkpoint import shipped_model

needs_node = pytest.mark.skipif(parity.node() is None, reason=f"no Node of version {parity.NODE} or newer")


@needs_node
def test_javascript_equals_torch() -> None:
    """All labels, 110 pictures and times, 40 drawn digits with every intervention that the page offers."""
    found = parity.differences(shipped_model())
    assert set(found) == {"velocity", "modulation", "gates", "samples", "noise", "times"}
    assert max(found.values()) < parity.TOLERANCE, found


@needs_node
def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that differ in the fourth digit, on the page alone, are further apart than the tolerance."""
    packed = weights.packed

    def spoiled(model: nn.Module) -> dict:
        model = shipped_model()
        with torch.no_grad():
            model.blocks[1].to_modulation.linear.weight *= 1.001
        return packed(model)

    monkeypatch.setattr(parity, "packed", spoiled)
    found = parity.differences(shipped_model(), forwards=11, pictures=4)
    assert min(found[name] for name in ("velocity", "modulation", "gates", "samples")) > parity.TOLERANCE, found


def test_weights_are_small(tmp_path: Path) -> None:
    weights.write(shipped_model(), "trained", tmp_path)
    travels = len(gzip.compress((tmp_path / "weights_trained.js").read_bytes()))
    assert travels < 700_000
