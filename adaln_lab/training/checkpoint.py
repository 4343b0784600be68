"""Keeping what training made. A run's folder holds

model.safetensors        the averaged weights, ready to sample from      config.json   what shape they are
checkpoint.safetensors   everything needed to go on exactly              run.json      recipe, history, result
checkpoint.previous.safetensors   the one before: at any instant of a save one of the two is whole
"""

import logging
import os
from dataclasses import asdict, astuple
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.training.train import Run, Step, TrainConfig
from adaln_lab.utils.assets import asset
from adaln_lab.utils.files import Damaged, atomic_write, pack, read_json, read_tensors, save_tensors, unpack, write_json

FORMAT = "adaln_lab run 3"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
FILES = (CHECKPOINT, "model.safetensors", "config.json", "run.json")  # what a run writes, in this order
log = logging.getLogger("adaln_lab")
Model = TypeVar("Model", bound=nn.Module)


def save_model(model: TinyDiT, folder: Path | str, **more: Any) -> None:
    """model.safetensors and config.json into the folder; `more` joins the configuration (the data's name, say)."""
    folder = Path(folder)
    write_json(folder / "config.json", {"class": type(model).__name__, "model": asdict(model.config), **more})
    save_tensors(model.state_dict(), folder / "model.safetensors")


def load_model(
    folder: Path | str, device: torch.device | str = "cpu", kind: type[Model] = TinyDiT, config: type = DiTConfig
) -> Model:
    """The model that `save_model` wrote, on the device, in eval mode. ValueError if it is not of this kind."""
    folder = Path(folder)
    about = read_json(folder / "config.json")
    if about.get("class", TinyDiT.__name__) != kind.__name__:
        raise ValueError(f"{folder} holds a {about['class']}, not a {kind.__name__}")
    model = kind(_config(config, about.get("model"), folder / "config.json"))
    _fill(model, read_tensors(folder / "model.safetensors")[0], folder / "model.safetensors")
    return model.to(device).eval()


def shipped_model(data: str = "digits", device: torch.device | str = "cpu") -> TinyDiT:
    """A trained model that comes with the package, to look inside at once; its config.json says how it was made."""
    return load_model(asset(f"dit_{data}"), device)


def shipped_run(data: str = "digits") -> dict[str, Any]:
    """How the shipped model was trained, run.json: recipe, machine, seconds, `loss` one a step, and `gates`.

    gates holds, for each step at which they were read, the root mean square of every gate, a (depth, 2) list.
    """
    return read_json(asset(f"dit_{data}") / "run.json")


def pack_run(run: Run, **facts: Any) -> bytes:
    """All that a run needs to go on: weights, average, optimisers, random state, recipe, history.

    `facts` say where it was trained (`Session.facts`). An update that was stopped half-way is taken back first.
    """
    run.undo()
    tensors = {"generator": run.generator.get_state()}
    tensors |= {f"model.{name}": value for name, value in run.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in run.ema.state_dict().items()}
    for i, optimizer in enumerate(run.optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{name}": value for name, value in state.items()}
    about = {
        "format": FORMAT,
        "device": run.generator.device.type,
        "model": asdict(run.model.config),
        "train": asdict(run.config),
        "number": run.number,
        "seconds": run.seconds,
        "history": [astuple(step) for step in run.history],
    }
    return pack(tensors, about | facts)


def record(run: Run, **facts: Any) -> dict[str, Any]:
    """What run.json holds: recipe, `facts`, date, seconds (saving included), loss and gates."""
    return facts | {
        "model": asdict(run.model.config),
        "train": asdict(run.config),
        "date": str(date.today()),
        "seconds": round(run.seconds, 2),
        "loss": [round(step.loss, 4) for step in run.history],
        "gates": {step.number: step.gate_rms for step in run.history if step.gate_rms is not None},
    }


def unpack_run(content: bytes, source: Path | str, device: torch.device | str = "cpu") -> tuple[Run, dict[str, Any]]:
    """The run that `pack_run` took, and its `about`."""
    tensors, about = unpack(content, source)
    if about.get("format") != FORMAT:
        raise Damaged(
            f"{source} is not a training checkpoint of this version (format {about.get('format')!r}, not {FORMAT!r})"
        )
    if about["device"] != torch.device(device).type:
        raise ValueError(
            f"{source} was trained on {about['device']}, asked for is {device}: random numbers differ there, so "
            f"going on exactly needs --device {about['device']}; or start afresh in another folder"
        )
    run = Run.new(_config(DiTConfig, about["model"], source), _config(TrainConfig, about["train"], source), device)
    _fill(run.model, _under("model.", tensors), source)
    _fill(run.ema, _under("ema.", tensors), source)
    for i, optimizer in enumerate(run.optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(f"optimizer.{i}.", tensors).items():
            j, key = name.split(".", 1)
            state.setdefault(int(j), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    run.generator.set_state(tensors["generator"])
    run.number, run.seconds = about["number"], about["seconds"]
    run.history = [Step(*values) for values in about["history"]]
    return run, about


def save_run(run: Run, path: Path, **facts: Any) -> None:
    """One file that holds a run; the file that was there becomes the previous one."""
    content = pack_run(run, **facts)
    before = path.with_name(PREVIOUS) if path.name == CHECKPOINT else None
    atomic_write(path, lambda file: file.write_bytes(content), before)


def load_run(path: Path, device: torch.device | str = "cpu") -> Run:
    """The run that `save_run` wrote; it goes on as if it had never stopped."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `python -m adaln_lab train --out {path.parent}` makes one")
    return unpack_run(path.read_bytes(), path, device)[0]


def newest_whole(folder: Path) -> bytes | None:
    """The content of the newest whole checkpoint in a run's folder, or None.

    A damaged or foreign file is named in the log and set aside as NAME.damaged, where nobody writes over it.
    """
    for name in (CHECKPOINT, PREVIOUS):
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            try:
                about = unpack(content, path)[1]
                if about.get("format") == FORMAT:
                    return content
                raise Damaged(f"{path} is not a training checkpoint of this version (format {about.get('format')!r})")
            except Damaged as error:
                kept = path.with_name(f"{name}.damaged")
                os.replace(path, kept)
                log.warning("%s. It is kept as %s", error, kept.name)
    return None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _config(kind: type, values: Any, path: Path | str) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{path} holds no {kind.__name__} of this version ({error})") from error


def _fill(model: TinyDiT, tensors: dict[str, Tensor], path: Path | str) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its configuration: {' '.join(str(error).split())[:300]}") from error
