"""Reading and writing files, each one complete or absent: safetensors for tensors, JSON for the rest, never pickle.

A file is written under a temporary name, synced and renamed. Tensor files carry a SHA-256 of their content, because
safetensors detects a truncated file, but not a flipped bit.
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
    """A file that was cut short or changed after it was written, or that is of another kind."""


def atomic_write(path: Path, write: Callable[[Path], object], before: Path | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one.

    `before`: where the old file is kept. ValueError if the folder cannot be written to or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "r+b") as file:  # Windows syncs only files that are open for writing
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(temporary, path)
        if os.name == "posix":  # a rename survives a power cut only after the folder is synced, too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ValueError(
                f"cannot write {path.name} to the folder {path.parent} ({error.strerror}); files that were there are "
                "unchanged. Make room there, or choose another folder"
            ) from error
        raise


def remove_temporary_files(folder: Path, names: Iterable[str]) -> None:
    """Delete the temporary files of these names that a killed `atomic_write` left in the folder."""
    for name in names:
        for temporary in folder.glob(f".{name}.*"):
            temporary.unlink(missing_ok=True)


def pack(tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> bytes:
    """Tensors, and `about` as JSON in the header, as the bytes of one safetensors file."""
    tensors, about = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, about or {}
    header = json.dumps({"about": about, "sha256": _digest(tensors, about)})
    return safetensors.torch.save(tensors, {"adaln_lab": header})  # one key: safetensors keeps no order among several


def unpack(content: bytes, source: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` that `pack` was given; no `about` in files of others. Damaged, naming the source, if the
    content is incomplete or changed."""
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("adaln_lab")
        if header is None:
            return tensors, {}
        header = json.loads(header)
        if header["sha256"] != _digest(tensors, header["about"]):
            raise ValueError("its checksum does not match")
        return tensors, header["about"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(
            f"{source} is not a complete safetensors file ({error}); it was cut short, changed, or is of another kind. "
            "Delete it and train again, or copy it again"
        ) from error


def _digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, Any] | None = None) -> None:
    """`pack` into a file, by `atomic_write`."""
    content = pack(tensors, about)
    atomic_write(path, lambda file: file.write_bytes(content))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` of a safetensors file; ValueError if it is missing, Damaged if it is incomplete."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `python -m adaln_lab train --out {path.parent}` makes one")
    return unpack(path.read_bytes(), path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON, by `atomic_write`."""
    text = json.dumps(content, indent=1) + "\n"
    atomic_write(path, lambda file: file.write_text(text, encoding="utf8"))


def read_json(path: Path, expected: str = "a folder that `train --out` made") -> dict[str, Any]:
    """The content of a JSON file; ValueError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); expected {expected}") from error
