"""Files that are whole or not there: safetensors for tensors, JSON for the rest, never pickle.

A file is written aside, synced and renamed. Tensor files carry a SHA-256 of their content, because safetensors notices
a cut file, but not a flipped bit.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor


class Damaged(ValueError):
    """A file that is cut short, changed since it was written, or something else."""


def write_whole(path: Path, write: Callable[[str], None], before: Path | None = None) -> None:
    """Let `write` fill a file beside `path`, then rename it: readers see the old file or the new one, never a part.

    The old file moves to `before`, where that is given. ValueError where there is no place for it or no room.
    """
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        write(aside)
        with open(aside, "r+b") as file:  # Windows syncs only what it may write to
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(aside, path)
        if os.name == "posix":  # the name is safe only when the folder is, too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException as error:
        if aside is not None:
            Path(aside).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ValueError(
                f"cannot write {path.name} to the folder {path.parent} ({error.strerror}); what was there is still "
                "whole. Make room there, or choose another folder"
            ) from error
        raise


def sweep_asides(folder: Path, names: Iterable[str]) -> None:
    """Delete what a killed `write_whole` left beside these files."""
    for name in names:
        for aside in folder.glob(f".{name}.*"):
            aside.unlink(missing_ok=True)


def pack(tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> bytes:
    """Tensors, and `about` as JSON in the header, as the content of one safetensors file."""
    tensors, about = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, about or {}
    header = json.dumps({"about": about, "sha256": _digest(tensors, about)})
    return safetensors.torch.save(tensors, {"adaln_lab": header})  # one key: several would come in any order


def unpack(content: bytes, source: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `pack` took, or any safetensors content; Damaged, naming the source, where it is not whole."""
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("adaln_lab")
        if header is None:
            return tensors, {}
        header = json.loads(header)
        if header["sha256"] != _digest(tensors, header["about"]):
            raise ValueError("its checksum is another one")
        return tensors, header["about"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(
            f"{source} is not a complete safetensors file ({error}); it was cut short, changed, or is something else. "
            "Delete it and train again, or copy it anew"
        ) from error


def _digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, Any] | None = None) -> None:
    """`pack` into a file, written whole."""
    content = pack(tensors, about)
    write_whole(path, lambda aside: Path(aside).write_bytes(content))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` of a safetensors file; ValueError where it is missing, Damaged where it is not whole."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `python -m adaln_lab train --out {path.parent}` makes one")
    return unpack(path.read_bytes(), path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Readable JSON, written whole."""
    write_whole(path, lambda aside: Path(aside).write_text(json.dumps(content, indent=1) + "\n", encoding="utf8"))


def read_json(path: Path, expected: str = "a folder that `train --out` made") -> dict[str, Any]:
    """A JSON file; ValueError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); expected {expected}") from error
