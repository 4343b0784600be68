"""The package's shape: imports walk one way, and the light half stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import adaln_lab

PACKAGE = Path(adaln_lab.__file__).parent
ORDER = [  # a file may import only from the lines above its own
    {"layers", "environment", "proof", "scenes", "files"},
    {"norms", "residual", "embed", "datasets", "scene_reader", "muon"},
    {"conditioning"},
    {"dit", "flow"},
    {"blocks"},
    {"distributed", "xray", "samplers", "schemes", "interventions", "unet"},
    {"train"},
    {"checkpoint", "recipes", "probes", "wakeup"},
    {"judge", "plots", "sweep", "dataflow", "baselines", "stopwatch", "failures"},
    {"widgets", "diagrams"},
    {"exercises"},
    {"session", "bench", "compare"},
    {"__main__"},
]
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_walk_one_way(path):
    level = {name: i for i, names in enumerate(ORDER) for name in names}
    if room(path) == "__init__":
        assert not imported(path)
        return
    assert room(path) in level, f"{room(path)} has no place in ORDER"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "adaln_lab" and len(parts) > 1 and parts[1] in level and parts[1] != room(path):
            assert level[parts[1]] < level[room(path)], f"{path.name} must not import {parts[1]}"


@pytest.mark.parametrize(
    ("package", "where"),
    [
        ("ipywidgets", {"widgets"}),
        ("torchvision", {"datasets"}),
        ("torch.distributed", {"distributed"}),
        ("pickle", set()),
    ],
)
def test_some_packages_have_one_door(package, where):
    doors = {room(p) for p in FILES if any(name == package or name.startswith(package + ".") for name in imported(p))}
    assert doors <= where


@pytest.mark.parametrize("path", ["plots", "widgets"])
def test_pictures_know_no_model(path):
    assert not any(n.startswith("adaln_lab") and "plots" not in n for n in imported(PACKAGE / f"{path}.py"))


def test_a_block_needs_torch_and_nothing_else_of_the_course():
    """The lower half imports no notebook, plotting, data or widget package."""
    code = (
        "import sys, adaln_lab.dit, adaln_lab.samplers, adaln_lab.train; "
        "print({'matplotlib', 'sklearn', 'ipywidgets', 'IPython', 'torchvision'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
