"""The census: each class costs one row, no row is wrong, and classes whose inputs must be guessed are read."""

import time

import pytest
import xray_classes
from test_xray import ROWS, fits

from adaln_lab.analysis.xray.census import OutOfTime, census, full_size, line, time_limit
from adaln_lab.utils.assets import stored

CENSUS = stored("xray_census")
TRUTH: dict[str, list[dict]] = {}  # a class may have several rows, of other configurations
for _row in (*ROWS.values(), *xray_classes.TRUTH.values()):
    TRUTH.setdefault(_row["cls"], []).append(_row)
TOLD = [row for row in CENSUS["rows"] if row["verdict"] != "unknown"]
NEWEST = (
    "QwenImage21",
    "ErnieImage",
    "Krea2",
    "Ideogram4",
    "Lumina2",
    "ZImage",
    "MiniMaxH3",
    "CogVideoX",
    "HunyuanDiT",
)


def test_most_classes_have_a_verdict_and_the_others_a_reason():
    assert len(CENSUS["rows"]) >= 70 and len(TOLD) >= 0.9 * len(CENSUS["rows"])
    assert all(row["reason"] for row in CENSUS["rows"] if row["verdict"] == "unknown")
    told = " ".join(row["class"] for row in TOLD)
    assert [name for name in NEWEST if name not in told] == []


@pytest.mark.parametrize("row", [r for r in TOLD if r["class"] in TRUTH], ids=lambda row: row["class"])
def test_no_row_is_wrong(row):
    """Default configurations may differ from the tested ones in which blocks there are, not in what a block does."""
    assert any(disagreements(row, truth) == [] for truth in TRUTH[row["class"]])


def disagreements(row, truth):
    wanted = {g["blocks"]: g for g in truth["groups"]}
    wrong = [] if row["verdict"] in (truth["verdict"], *truth["accept_also"]) else ["verdict"]
    for group in row["groups"]:
        want = wanted.get(group["blocks"], {}) if "*" in group["blocks"] else {}  # single blocks differ with the depth
        for name in ("gate_bounding", "base_norm", "source", "n_vectors_per_block", "block_class"):
            wrong += [name] if name in want and not fits(want[name], group[name]) else []
    return wrong


@pytest.mark.usefixtures("diffusers")
def test_a_class_that_fails_costs_one_row():
    import diffusers

    class Broken(diffusers.DiTTransformer2DModel):
        def forward(self, *args, **kwargs):
            raise RuntimeError("no")

    good, bad = census([diffusers.DiTTransformer2DModel, Broken])
    assert good["verdict"] == "adaln" and 0.25 < good["share"] < 0.35  # DiT-like: about a third
    assert bad["verdict"] == "unknown" and bad["reason"] in line(bad)


def test_a_class_that_hangs_is_stopped():
    with pytest.raises(OutOfTime, match="no answer within 1 s"), time_limit(1):
        time.sleep(5)


def test_a_class_without_a_default_size_has_no_share():
    class Sized:
        def __init__(self, width):
            pass

    assert full_size(Sized, None) == {"parameters": None, "share": None}
