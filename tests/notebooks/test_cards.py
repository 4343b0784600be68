"""The cards of what is shipped say what is shipped: the same models, the same figures as in their files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import adaln_lab
from adaln_lab.__main__ import DATA
from adaln_lab.data import datasets
from adaln_lab.training import checkpoint
from adaln_lab.utils.files import read_tensors

ASSETS = Path(adaln_lab.__file__).parent / "assets"
CARDS = (ASSETS / "README.md").read_text(encoding="utf8")
MODELS = [path.name.removeprefix("dit_") for path in sorted(ASSETS.glob("dit_*"))]


def files(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = ASSETS / f"dit_{name}"
    return tuple(json.loads((folder / file).read_text(encoding="utf8")) for file in ("config.json", "run.json"))


def quality(found: dict[str, float]) -> str:
    if "all" in found:
        return f"{found['all']:.3f}"
    return f"{found['accuracy']:.3f}; {found['frechet']:.2f} ({found['frechet_real']:.2f})"


def row(name: str, config: dict[str, Any], run: dict[str, Any]) -> str:
    """The row of the table of models that these files ask for."""
    size = sum(p.numel() for p in checkpoint.shipped_model(name).parameters()) / 1e6
    made, steps = config["made"], run["train"]["steps"]
    cells = [f"`{name}`", config["model"]["variant"], f"{size:.2f} M", f"{steps:,} steps, {made['machine']}"]
    cells += [f"{made['seconds']:.0f}", quality(made["guidance 1"]), quality(made["guidance 2"])]
    return f"| {' | '.join(cells)} |\n"


@pytest.mark.parametrize("name", MODELS)
def test_a_models_card_has_the_figures_of_its_files(name: str) -> None:
    config, run = files(name)
    assert row(name, config, run) in CARDS
    assert config["made"]["seconds"] == run["seconds"] and config["made"]["seed"] == run["train"]["seed"]
    assert config["made"]["guidance 1"]["n"] == config["made"]["guidance 2"]["n"] == 1000
    config["made"]["seconds"] += 1
    assert row(name, config, run) not in CARDS, "another figure would pass"


def test_every_card_is_of_something_that_is_there() -> None:
    table = CARDS.partition("## Models")[2].partition("## Classifiers")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.M) == MODELS
    files = re.findall(r"^\| `([\w.]+/?)`", CARDS.partition("## Tables")[2], re.M)
    there = {path.name + "/" * path.is_dir() for path in ASSETS.iterdir()}
    assert set(files) == {name for name in there if not re.match(r"dit_|classifier_|README", name)}


def test_every_data_set_has_a_card_with_origin_licence_cost_and_limits() -> None:
    rows = re.findall(r"^\| (`.*)\|$", CARDS.partition("## Data sets")[2].partition("\n## ")[0], re.M)
    assert {name for line in rows for name in re.findall(r"`(\w+)`", line.partition("|")[0])} == set(DATA)
    assert all(len([cell for cell in line.split("|") if cell.strip()]) == 6 for line in rows)


def test_counts_of_the_data_cards_are_those_of_the_data() -> None:
    digits, scenes, pairs = map(datasets.load, ("digits", "scenes", "pairs"))
    assert f"{len(digits.images) + len(digits.held_images):,} scans" in CARDS
    assert f"a model sees {len(digits.images):,} pictures" in CARDS
    assert f"| for training | {len(scenes.images):,} |" in CARDS
    assert f"| held out | {len(scenes.held_images):,} | {len(pairs.held_images) // 2:,} of seen," in CARDS


@pytest.mark.parametrize(("name", "n"), [("digits", 1437), ("mnist", 4000)])
def test_a_classifiers_card_has_its_accuracy_and_size(name: str, n: int) -> None:
    card = CARDS.partition("## Classifiers")[2].partition("\n## ")[0]
    weights = read_tensors(ASSETS / f"classifier_{name}_{n}.safetensors")[0]
    size = sum(value.numel() for key, value in weights.items() if key != "unit")
    assert f"({round(size, -3):,} parameters)" in card
    assert str(files(name)[0]["made"]["guidance 1"]["classifier_accuracy"]) in card


def test_the_tables_card_has_their_lengths() -> None:
    for file in ("schemes.json", "compare.json"):
        n = len(json.loads((ASSETS / file).read_text(encoding="utf8"))["results"])
        assert re.search(rf"^\| `{file}` .*\b{n} runs", CARDS, re.M)
