"""Keeping what training made: safetensors for tensors, JSON for the rest, and never half a file.

A run's folder holds
    model.safetensors        the averaged weights, ready to sample from      config.json   what shape they are
    checkpoint.safetensors   everything needed to go on exactly              run.json      recipe, history, result
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.train import Run, Step, TrainConfig


def write_whole(path: Path, write: Callable[[str], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it: readers see the old file or the new one, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise ValueError(f"cannot write to the folder {path.parent} ({error.strerror}); choose another one") from error
    try:
        write(aside)
        with open(aside, "r+b") as file:  # Windows syncs only what it may write to
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the name is safe only when the folder is, too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def save_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, Any] | None = None) -> None:
    """Tensors, and `about` as JSON in the header, as one safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda aside: save_file(tensors, aside, {"about": json.dumps(about or {})}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` of a safetensors file; ValueError where it is missing, cut short or something else."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `python -m adaln_lab train --out {path.parent}` makes one")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}); it was cut short or is something else. "
            "Delete it and train again, or copy it anew"
        ) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Readable JSON, written whole."""
    write_whole(path, lambda aside: Path(aside).write_text(json.dumps(content, indent=1) + "\n", encoding="utf8"))


def read_json(path: Path, expected: str = "a folder that `train --out` made") -> dict[str, Any]:
    """A JSON file; ValueError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); expected {expected}") from error


def save_model(model: TinyDiT, folder: Path | str, **more: Any) -> None:
    """model.safetensors and config.json into the folder; `more` joins the configuration (the data's name, say)."""
    folder = Path(folder)
    write_json(folder / "config.json", {"model": asdict(model.config), **more})
    save_tensors(model.state_dict(), folder / "model.safetensors")


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> TinyDiT:
    """The model that `save_model` wrote, on the device, in eval mode."""
    folder = Path(folder)
    config = read_json(folder / "config.json").get("model")
    model = TinyDiT(_config(DiTConfig, config, folder / "config.json"))
    _fill(model, read_tensors(folder / "model.safetensors")[0], folder / "model.safetensors")
    return model.to(device).eval()


def shipped_model(data: str = "digits", device: torch.device | str = "cpu") -> TinyDiT:
    """A trained model that comes with the package, to look inside at once; its config.json says how it was made."""
    assets = resources.files("adaln_lab") / "assets"
    with resources.as_file(assets) as folder:
        here = sorted(path.name.removeprefix("dit_") for path in folder.glob("dit_*"))
        if data not in here:
            raise ValueError(f"models are shipped for {', '.join(here)}; got {data!r}. `train --out` makes others")
        return load_model(folder / f"dit_{data}", device)


def save_run(run: Run, path: Path) -> None:
    """One file that holds a run: weights, average, optimisers, random state, recipe and history."""
    tensors = {"generator": run.generator.get_state()}
    tensors |= {f"model.{name}": value for name, value in run.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in run.ema.state_dict().items()}
    for i, optimizer in enumerate(run.optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{name}": value for name, value in state.items()}
    tensors |= {f"gates.{step.number}": step.gates for step in run.history if step.gates is not None}
    about = {
        "format": "adaln_lab run 1",
        "device": run.generator.device.type,
        "model": asdict(run.model.config),
        "train": asdict(run.config),
        "number": run.number,
        "history": [[step.number, step.loss, step.lr, step.grad_norm] for step in run.history],
    }
    save_tensors(tensors, path, about)


def load_run(path: Path, device: torch.device | str = "cpu") -> Run:
    """The run that `save_run` wrote; it goes on as if it had never stopped."""
    tensors, about = read_tensors(path)
    if about.get("format") != "adaln_lab run 1":
        raise ValueError(f"{path} is not a training checkpoint of this package (format {about.get('format')!r})")
    if about["device"] != torch.device(device).type:
        raise ValueError(
            f"{path} was trained on {about['device']}, asked for is {device}: random numbers differ there, so "
            f"going on exactly needs --device {about['device']}; or start afresh in another folder"
        )
    run = Run.new(_config(DiTConfig, about["model"], path), _config(TrainConfig, about["train"], path), device)
    _fill(run.model, _under("model.", tensors), path)
    _fill(run.ema, _under("ema.", tensors), path)
    for i, optimizer in enumerate(run.optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(f"optimizer.{i}.", tensors).items():
            j, key = name.split(".", 1)
            state.setdefault(int(j), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    run.generator.set_state(tensors["generator"])
    run.number = about["number"]
    run.history = [Step(n, *rest, tensors.get(f"gates.{n}")) for n, *rest in about["history"]]
    return run


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _config(kind: type, values: Any, path: Path) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{path} holds no {kind.__name__} of this version ({error})") from error


def _fill(model: TinyDiT, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its configuration: {' '.join(str(error).split())[:300]}") from error
