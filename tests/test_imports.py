"""The package's shape: imports walk one way, and the light half stays light."""

import subprocess
import sys

import architecture
import pytest
from architecture import FLOORS, PACKAGE, imported, room

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


@pytest.mark.slow
def test_a_block_needs_torch_and_nothing_else_of_the_course():
    """The lower half imports no notebook, plotting, data or widget package."""
    code = (
        "import sys, adaln_lab.dit, adaln_lab.samplers, adaln_lab.training.train; "
        "print({'matplotlib', 'sklearn', 'ipywidgets', 'IPython', 'torchvision'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_every_room_is_on_one_floor_of_the_drawing():
    there = sorted(name for rooms in FLOORS.values() for name in rooms)
    assert there == sorted({room(path) for path in FILES} - {"__init__"})


def test_arrows_of_the_drawing_only_lead_down():
    order = list(FLOORS)
    assert [pair for pair in architecture.arrows() if order.index(pair[0]) > order.index(pair[1])] == []


def test_the_drawing_is_what_the_code_says():
    """Where it is not: python tests/architecture.py"""
    assert f"{architecture.START}{architecture.mermaid()}{architecture.END}" in architecture.PAGE.read_text("utf8")


def test_the_drawing_follows_the_code(monkeypatch, tmp_path):
    """An import more is an arrow more; an arrow that others imply is left out."""
    before = architecture.mermaid()
    (tmp_path / "plots.py").write_text("from adaln_lab import scenes")
    (tmp_path / "session.py").write_text("import adaln_lab.layers, adaln_lab.training.train")
    (tmp_path / "train.py").write_text("from adaln_lab.dit import TinyDiT")
    (tmp_path / "dit.py").write_text("from adaln_lab.layers import MLP")
    monkeypatch.setattr(architecture, "PACKAGE", tmp_path)
    assert architecture.arrows() == {
        ("pictures", "drawing"), ("parts", "training"), ("models", "training"), ("parts", "models")
    }  # fmt: skip
    assert ("parts", "training") not in architecture.needed(architecture.arrows())
    assert "pictures --> drawing" in architecture.mermaid() and "pictures --> drawing" not in before
