"""Where the course runs: device, folder, and whether the installed packages are recent enough."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch


def pick_device(name: str | None = None) -> torch.device:
    """The device to compute on: `name`, else $ADALN_LAB_DEVICE, else cuda, mps, cpu, in this order."""
    name = name or os.environ.get("ADALN_LAB_DEVICE") or None
    has_mps = torch.backends.mps.is_available()
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": has_mps}
    kind = name.split(":")[0]
    n = torch.cuda.device_count() if kind == "cuda" else 1
    if not here.get(kind) or name not in (kind, *(f"{kind}:{i}" for i in range(n))):
        own = ", ".join(k for k in here if here[k])
        raise ValueError(f"device must be one of {own} on this machine (cuda:0 names the first GPU), got {name!r:.60}")
    return torch.device(name)


def home() -> Path:
    """The folder for downloads, fitted classifiers and progress: $ADALN_LAB_HOME, else ~/.cache/adaln_lab."""
    try:
        return Path(os.environ.get("ADALN_LAB_HOME") or Path.home() / ".cache" / "adaln_lab")
    except RuntimeError as error:  # no $HOME, and no account with this user id, as in some containers
        raise ValueError("this account has no home folder: set ADALN_LAB_HOME to a folder for downloads") from error


def problems() -> list[str]:
    """One sentence with its remedy for each required package that is missing or too old; empty when all is well."""
    from packaging.requirements import Requirement  # comes with matplotlib and jupyterlab

    try:
        requirements = [Requirement(line) for line in metadata.requires("adaln-lab") or []]
    except metadata.PackageNotFoundError:
        return ["adaln-lab is only on Python's path, so its requirements are unknown: pip install -e . in its folder"]
    found = []
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(f"{requirement.name} is not installed: pip install '{wanted}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version} does not satisfy {wanted}: pip install -U '{wanted}'")
    return found


def machine(device: torch.device) -> str:
    """The name of the GPU, or the CPU and its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.processor() or platform.machine()} {device.type}, {threads} thread{'s' if threads > 1 else ''}"


def describe() -> str:
    """One line about this machine: Python, torch, device."""
    device = pick_device()
    return f"Python {platform.python_version()}, torch {torch.__version__}, computing on {device} ({machine(device)})"
