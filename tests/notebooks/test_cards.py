"""The cards of what is shipped (adaln_lab/assets/README.md): one for each file and data set, with its figures."""

import json
import re

import pytest

from adaln_lab.__main__ import DATA
from adaln_lab.training import checkpoint
from adaln_lab.utils.assets import ASSETS

CARDS = (ASSETS / "README.md").read_text(encoding="utf8")
ROWS = dict(re.findall(r"^\| (`[^|]*`) \|(.*)$", CARDS, re.M))
MODELS = [path.name.removeprefix("dit_") for path in sorted(ASSETS.glob("dit_*"))]


def test_everything_shipped_has_a_card() -> None:
    named = {name for key in ROWS for name in re.findall(r"`([\w.]+)/?`", key)}
    files = {path.name for path in ASSETS.iterdir() if not re.match(r"dit_|classifier_|README", path.name)}
    assert files | set(MODELS) | set(DATA) <= named


@pytest.mark.parametrize("name", MODELS)
def test_a_models_card_has_the_figures_of_its_files(name: str) -> None:
    made = json.loads((ASSETS / f"dit_{name}" / "config.json").read_text(encoding="utf8"))["made"]
    run = json.loads((ASSETS / f"dit_{name}" / "run.json").read_text(encoding="utf8"))
    size = sum(p.numel() for p in checkpoint.shipped_model(name).parameters()) / 1e6
    said = [f"{size:.2f} M", f"{run['train']['steps']:,} steps", made["machine"], f"{made['seconds']:.0f}"]
    for guidance in ("guidance 1", "guidance 2"):
        said += [f"{made[guidance][key]:.3f}" for key in ("all", "accuracy") if key in made[guidance]]
    assert [figure for figure in said if figure not in ROWS[f"`{name}`"]] == []
