"""Reading and writing files, each one complete or absent: safetensors for tensors, JSON for the rest, never pickle.

A file is written under a temporary name, synced and renamed. Tensor files carry a SHA-256 of their content, because
safetensors detects a truncated file, but not a flipped bit.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows, where `hold` holds nothing
    fcntl = None


class Damaged(ValueError):
    """A file that was cut short or changed after it was written, or that is of another kind."""


def atomic_write(path: Path, write: Callable[[Path], object], before: Path | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one.

    `before`: where the old file is kept. ValueError if the folder cannot be written to, the disk is full, or something
    else than a file has the name: a rename would replace a device or a link, too.
    """
    _refuse_other_than_file(path)
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
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def _unwritable(path: Path, error: OSError) -> ValueError:
    return ValueError(
        f"cannot write {path.name:.40} to the folder {path.parent!s:.200} ({_reason(path, error)}); files that were "
        "there are unchanged. Make room there, or choose a folder that you may write to"
    )


def _reason(path: Path, error: OSError) -> str:
    for folder in path.parents:
        if os.path.lexists(folder) and not os.path.isdir(folder):
            return f"{folder} is {_kind(folder)}"
    return _kind(path) if os.path.islink(path) and not os.path.exists(path) else error.strerror


def _refuse_other_than_file(path: Path) -> None:
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is {_kind(path)}, expected a file or a free name; choose another")


def check_writable(path: Path) -> None:
    """ValueError unless `atomic_write` can write the path now: for the start of long work. Makes the folder."""
    _refuse_other_than_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.").close()
    except OSError as error:
        raise _unwritable(path, error) from error


def _kind(path: Path) -> str:
    if not path.exists():
        return "a link to nothing"
    return "a folder" if path.is_dir() else "a file" if path.is_file() else "no regular file"


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock file `path` inside the context; ValueError with the process id where another process holds it.

    The system frees it when the process ends in any way, so a lock file that is left over holds nobody up.
    """
    if fcntl is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    with open(descriptor, "r+", encoding="utf8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # its owner has just deleted it
                raise BlockingIOError
        except OSError as error:
            raise ValueError(
                f"process {file.read(20).strip() or '?'} is at work in {path.parent}; wait for its end, stop it, or "
                "choose another --out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def read_file(path: Path, expected: str) -> bytes:
    """The bytes of a regular file; ValueError if it is missing, or something else than a file."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is {_kind(path)}; expected {expected}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path!s:.200} cannot be read ({_reason(path, error)}); expected {expected}") from error


def remove_temporary_files(folder: Path, names: Iterable[str]) -> None:
    """Delete the temporary files of these names that a killed `atomic_write` left in the folder."""
    for name in names:
        for temporary in folder.glob(f".{name}.*"):
            temporary.unlink(missing_ok=True)


def pack(tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> bytes:
    """Tensors, and `about` as JSON in the header, as the bytes of one safetensors file."""
    tensors, about = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, about or {}
    header = to_json({"about": about, "sha256": _digest(tensors, about)})
    return safetensors.torch.save(tensors, {"adaln_lab": header})  # one key: safetensors keeps no order among several


def unpack(content: bytes, source: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` that `pack` was given; no `about` in files of others. Damaged, naming the source, if the
    content is incomplete or changed."""
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        header = from_json(content[8 : 8 + length]).get("__metadata__", {}).get("adaln_lab")
        if header is None:
            return tensors, {}
        header = from_json(header)
        if not isinstance(header.get("about"), dict) or header.get("sha256") != _digest(tensors, header["about"]):
            raise ValueError("its checksum does not match")
        return tensors, header["about"]
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
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
    """The tensors and `about` of a safetensors file; ValueError if there is none, Damaged if it is incomplete."""
    return unpack(read_file(path, "a .safetensors file"), path)


def to_json(content: Any, indent: int | None = None) -> str:
    """Strict JSON; ValueError where a number is not finite."""
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError as error:
        raise ValueError("a result is not finite, so nothing is written; look for NaN in model and data") from error


def from_json(text: str | bytes) -> dict[str, Any]:
    """The object that strict JSON text holds; ValueError for anything else."""

    def refuse(number: str) -> None:
        raise ValueError(f"{number} is no number of JSON")

    try:
        content = json.loads(text if isinstance(text, str) else text.decode("utf8"), parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, not an object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON, by `atomic_write`."""
    text = to_json(content, 1) + "\n"
    atomic_write(path, lambda file: file.write_text(text, encoding="utf8"))


def read_json(path: Path, expected: str = "a folder that `train --out` made") -> dict[str, Any]:
    """The object in a JSON file; ValueError if the file is missing or holds anything else."""
    content = read_file(path, expected)
    try:
        return from_json(content)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); expected {expected}") from error
