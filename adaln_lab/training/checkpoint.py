"""Keeping what training made. A run's folder holds

model.safetensors        the averaged weights, ready to sample from      config.json   what shape they are
checkpoint.safetensors   everything needed to go on exactly              run.json      recipe, history, result
checkpoint.previous.safetensors   the one before: at any instant of a save one of the two is whole
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.training.optimizers import make_optimizers
from adaln_lab.training.train import Run, Step, TrainConfig
from adaln_lab.utils.assets import asset
from adaln_lab.utils.checks import Range, Text, check_tensors, construct
from adaln_lab.utils.files import MOST_TENSORS, Damaged, atomic_write, pack, read_file, read_json, unpack, write_json

FORMAT = "adaln_lab run 3"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
FILES = (CHECKPOINT, "model.safetensors", "config.json", "run.json")  # what a run writes, in this order
log = logging.getLogger("adaln_lab")


@dataclass(frozen=True)
class About:
    """What config.json says about the weights beside it."""

    kind: Text  # the model's class
    model: dict  # its configuration
    data: Text  # the name of what it was trained on
    sha256: Text  # see `seal`
    made: dict | None = None  # how, and how good it is; for readers


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a checkpoint holds beside its tensors."""

    format: Text
    device: Annotated[str, ("cpu", "cuda", "mps")]
    model: DiTConfig
    train: TrainConfig
    number: Annotated[int, Range(0, 10**7)]
    seconds: Annotated[float, Range(0, 10**10)]
    history: list[list]  # the fields of each `Step`
    # where it is trained; all but the machine decide whether its end is the same bit for bit
    data: Text | None = None
    machine: Text | None = None
    processes: int | None = None
    threads: int | None = None
    torch: Text | None = None


def seal(kind: str, model: dict[str, Any], data: str, weights: bytes) -> str:
    """The checksum that ties config.json to model.safetensors: neither can change, or be another run's, unnoticed."""
    about = json.dumps([kind, model, data], sort_keys=True).encode()
    return hashlib.sha256(about + hashlib.sha256(weights).digest()).hexdigest()


def save_model(model: TinyDiT, folder: Path | str, data: str = "") -> None:
    """model.safetensors and config.json into the folder; `data` is the name of what it was trained on."""
    content = pack(model.state_dict())
    about = {"kind": type(model).__name__, "model": asdict(model.config), "data": data}
    write_json(Path(folder) / "config.json", about | {"sha256": seal(*about.values(), content)})
    atomic_write(Path(folder) / "model.safetensors", lambda file: file.write_bytes(content))


def read_about(folder: Path | str) -> About:
    """The config.json of a finished run's folder."""
    file = Path(folder) / "config.json"
    found = [os.path.lexists(file.with_name(name)) for name in (CHECKPOINT, file.name, "model.safetensors")]
    if found == [True, False, False]:
        raise ValueError(f"{folder} holds a run that has not ended; the same `train` with --resume goes on with it")
    return construct(About, read_json(file), str(file))


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> TinyDiT:
    """The model that `save_model` wrote, on the device, in eval mode. ValueError if it is not the one that
    config.json was written for."""
    about, file = read_about(folder), Path(folder) / "model.safetensors"
    if about.kind != TinyDiT.__name__:
        raise ValueError(f"{folder} holds a {about.kind}, not a {TinyDiT.__name__}")
    shape = construct(DiTConfig, about.model, f"{folder}/config.json, model")
    content = read_file(file, "a folder that `train --out` made", MOST_TENSORS)
    tensors = unpack(content, file)[0]
    with torch.device("meta"):  # nothing is allocated before the file is known to fit
        check_tensors(tensors, TinyDiT(shape).state_dict(), file)
    if seal(about.kind, about.model, about.data, content) != about.sha256:
        raise Damaged(
            f"{folder}: config.json and model.safetensors do not belong together, one was changed or is another run's; "
            "copy both again, or train again"
        )
    model = TinyDiT(shape)
    model.load_state_dict(tensors)
    return model.to(device).eval()


def shipped_model(data: str = "digits", device: torch.device | str = "cpu") -> TinyDiT:
    """A trained model that comes with the package, to look inside at once; its config.json says how it was made."""
    return load_model(asset(f"dit_{data}"), device)


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


def unpack_run(content: bytes, source: Path | str, device: torch.device | str = "cpu") -> tuple[Run, Progress]:
    """The run that `pack_run` took. Damaged if the content is not exactly what a run of its configuration holds."""
    tensors, about = unpack(content, source)
    with _damaged(source):
        if about.get("format") != FORMAT:
            raise ValueError(f"format {about.get('format')!r}, not {FORMAT!r}")
        progress = construct(Progress, about, "its header")
        columns = [f.name for f in fields(Step)]
        history = [construct(Step, dict(zip(columns, row, strict=True)), "a step") for row in progress.history]
        if [step.number for step in history] != list(range(1, progress.number + 1)):
            raise ValueError(f"it has done {progress.number} steps and tells of {len(history)}")
        if any(step.gate_rms is not None and len(step.gate_rms) != progress.model.depth for step in history):
            raise ValueError(f"it tells of the gates of other than {progress.model.depth} blocks")
        if progress.number > progress.train.steps:
            raise ValueError(f"it has done {progress.number} of {progress.train.steps} steps")
    if progress.device != torch.device(device).type:
        raise ValueError(
            f"{source} was trained on {progress.device}, asked for is {device}: random numbers differ there, so going "
            f"on exactly needs --device {progress.device}; or start afresh in another folder"
        )
    with _damaged(source):
        with torch.device("meta"):  # nothing is allocated before the tensors are known to fit
            needed = _needed(TinyDiT(progress.model), progress.number)
        generator = torch.Generator(device)
        check_tensors(tensors, needed | {"generator": generator.get_state()}, "it")
        generator.set_state(tensors["generator"])
        for name, tensor in _under("optimizer.0.", tensors).items():
            if tensor.min() < 0 if name.endswith("exp_avg_sq") else name.endswith("step") and tensor != progress.number:
                raise ValueError(f"optimizer.0.{name} holds what no update leaves there")
    run = Run.new(progress.model, progress.train, device)
    run.model.load_state_dict(_under("model.", tensors))
    run.ema.load_state_dict(_under("ema.", tensors))
    for i, optimizer in enumerate(run.optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(f"optimizer.{i}.", tensors).items():
            j, key = name.split(".", 1)
            state.setdefault(int(j), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    run.generator, run.number, run.seconds, run.history = generator, progress.number, progress.seconds, history
    return run, progress


@contextmanager
def _damaged(source: Path | str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:  # RuntimeError: what a generator says of a state that is none
        raise Damaged(
            f"{source} is not a training checkpoint of this version ({error}). Train afresh in another folder, or copy "
            "the file again"
        ) from error


def _needed(model: TinyDiT, number: int) -> dict[str, Tensor]:
    """A tensor of the shape and dtype of each that a checkpoint after `number` steps holds, but for the generator."""
    needed = {f"{part}.{name}": value for part in ("model", "ema") for name, value in model.state_dict().items()}
    kept = (("exp_avg", "exp_avg_sq"), ("momentum_buffer",))  # by AdamW and by Muon, shaped like the parameter
    for i, optimizer in enumerate(make_optimizers(model, 1.0, 1.0) if number else ()):
        for j, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            needed |= {f"optimizer.{i}.{j}.{name}": parameter for name in kept[i]}
            if i == 0:
                needed[f"optimizer.0.{j}.step"] = torch.empty(())
    return needed


def save_run(run: Run, path: Path, **facts: Any) -> None:
    """One file that holds a run; the file that was there becomes the previous one."""
    content = pack_run(run, **facts)
    before = path.with_name(PREVIOUS) if path.name == CHECKPOINT else None
    atomic_write(path, lambda file: file.write_bytes(content), before)


def load_run(path: Path, device: torch.device | str = "cpu") -> Run:
    """The run that `save_run` wrote; it goes on as if it had never stopped."""
    expected = f"a checkpoint; `python -m adaln_lab train --out {path.parent}` makes one"
    return unpack_run(read_file(path, expected, MOST_TENSORS), path, device)[0]


def newest_whole(folder: Path, device: torch.device | str = "cpu") -> bytes | None:
    """The content of the newest whole checkpoint in a run's folder, or None.

    A damaged or foreign file is named in the log and set aside as NAME.damaged, where nobody writes over it.
    """
    for name in (CHECKPOINT, PREVIOUS):
        path = folder / name
        if os.path.lexists(path):
            content = read_file(path, "a checkpoint", MOST_TENSORS)
            try:
                unpack_run(content, path, device)
                return content
            except Damaged as error:
                kept = path.with_name(f"{name}.damaged")
                if kept.is_dir():
                    raise ValueError(f"{error}. It cannot be kept as {kept.name}, a folder; move that away") from error
                os.replace(path, kept)
                log.warning("%s. It is kept as %s", error, kept.name)
    return None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
