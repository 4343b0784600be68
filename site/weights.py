"""Weights for the model in the page: float16 in base64, in a script, since a page opened as a file may load no data."""

import base64
import json
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adaln_lab.data.datasets import load
from adaln_lab.dit import TinyDiT
from adaln_lab.training.checkpoint import shipped_model
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, train

SNAPSHOTS = (0, 5, 10, 20, 40, 80)  # steps of training; the trained model is the shipped one


def packed(model: TinyDiT) -> dict[str, Any]:
    """Configuration, shapes, and all weights one after the other, with a checksum."""
    tensors: dict[str, Tensor] = model.state_dict()
    data = b"".join(tensor.half().numpy().astype("<f2").tobytes() for tensor in tensors.values())
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    text = base64.b64encode(data).decode()
    return {"config": asdict(model.config), "shapes": shapes, "adler32": zlib.adler32(data), "data": text}


def write(model: TinyDiT, name: str, folder: Path) -> None:
    line = f"(globalThis.adalnWeights ??= {{}}).{name} = {json.dumps(packed(model))};\n"
    (folder / f"weights_{name}.js").write_text(line, encoding="ascii")


def write_all(folder: Path) -> None:
    """The shipped digits model, and its training from the start, done again: about ten seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    write(shipped_model(), "trained", folder)
    shape, config = recipe("digits")
    run = Run.new(shape, replace(config, gates_every=1))
    write(run.ema, "step0", folder)
    for step in train(run, load("digits")):
        if step.number in SNAPSHOTS:
            write(run.ema, f"step{step.number}", folder)
        if step.number == SNAPSHOTS[-1]:
            break
