"""Where the course runs: which device, which folder, and whether the installed packages fit together."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import torch

NEEDED = {
    "torch": (2, 11),
    "torchvision": (0, 26),
    "jupyterlab": (4, 0),
    "matplotlib": (3, 8),
    "ipywidgets": (8, 1),
    "scikit-learn": (1, 4),
    "safetensors": (0, 4),
    "tqdm": (4, 60),
}


def pick_device(name: str | None = None) -> torch.device:
    """The device to compute on: `name`, else $ADALN_LAB_DEVICE, else cuda, mps, cpu, in this order."""
    name = name or os.environ.get("ADALN_LAB_DEVICE") or None
    has_mps = torch.backends.mps.is_available()
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": has_mps}
    kind = name.split(":")[0]
    if not here.get(kind):
        raise ValueError(f"device must be one of {', '.join(k for k in here if here[k])} on this machine, got {name!r}")
    return torch.device(name)


def home() -> Path:
    """The folder for downloads and fitted classifiers: $ADALN_LAB_HOME, else ~/.cache/adaln_lab."""
    return Path(os.environ.get("ADALN_LAB_HOME") or Path.home() / ".cache" / "adaln_lab")


def problems() -> list[str]:
    """One sentence with its remedy for each thing that would stop the course here; empty when all is well."""
    found = []
    for package, least in NEEDED.items():
        wanted = ".".join(map(str, least))
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            found.append(f"{package} is not installed: pip install '{package}>={wanted}'")
            continue
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and tuple(map(int, numbers.groups())) < least:
            found.append(f"{package} {version} is older than {wanted}: pip install -U '{package}>={wanted}'")
    return found


def machine(device: torch.device) -> str:
    """The chip that computes, by name where there is one."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.processor() or platform.machine()} {device.type}, {threads} thread{'s' if threads > 1 else ''}"


def describe() -> str:
    """One line about this machine: Python, torch, device."""
    device = pick_device()
    return f"Python {platform.python_version()}, torch {torch.__version__}, computing on {device} ({machine(device)})"
