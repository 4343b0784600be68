"""The x-ray on the command line: models by name, at full size without memory, and what it says where it cannot."""

import json
import sys

import pytest

from adaln_lab.__main__ import main
from adaln_lab.analysis.xray import published, xray
from adaln_lab.blocks import budget

FACTORY = """
import torch
from torch import nn

def silent():
    return nn.TransformerEncoderLayer(8, 2, 16)

def with_a_pass():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    return model, lambda: model(torch.randn(3, 2, 8))
"""


FACTORY += """
def broken():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "my_factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_factory"
    sys.modules.pop("my_factory", None)


def test_a_factory_gives_a_module_or_also_its_pass(factory, capsys):
    assert main(["xray", f"{factory}:with_a_pass"]) == 0
    assert "verdict: none" in capsys.readouterr().out
    assert main(["xray", f"{factory}:silent"]) == 0
    assert "verdict: unknown" in capsys.readouterr().out


def test_a_factory_that_raises_is_one_sentence(factory, capsys):
    assert main(["xray", f"{factory}:broken"]) == 2
    said = capsys.readouterr().err
    assert f"{factory}:broken raised RuntimeError: no weights here" in said and said.count("\n") == 1


def test_without_a_model_it_asks_for_one(capsys):
    assert main(["xray"]) == 2
    assert "or --census" in capsys.readouterr().err


@pytest.mark.usefixtures("diffusers")
def test_a_configuration_that_is_no_object_is_refused(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text('"some/name"')
    assert main(["xray", "diffusers:DiTTransformer2DModel", "--config", str(config)]) == 2
    assert "object" in capsys.readouterr().err


@pytest.mark.usefixtures("diffusers")
def test_a_published_class_is_read_on_meta_from_its_configuration(tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}))
    assert main(["xray", "diffusers:DiTTransformer2DModel", "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "2 x BasicTransformerBlock (transformer_blocks.*): 6 vectors on LayerNorm, gate raw" in said
    assert "weights have no values" in said


@pytest.mark.slow
@pytest.mark.usefixtures("diffusers")
def test_at_full_size_the_share_is_what_the_zoo_counts():
    """Two ways to count: the x-ray's names of parameters, and the course's own replica of Flux."""
    module, runs = published.load("diffusers:FluxTransformer2DModel")
    found = [report for run in runs if (report := quietly(module, run))]
    assert all(p.is_meta for p in module.parameters())
    counted = budget.stored_totals()["flux"]
    assert found[0].share_blocks_plus_final == pytest.approx(counted["modulation"] / counted["parameters"], abs=2e-3)


def quietly(module, run):
    try:
        return xray(module, run)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("nonsense", "expected package.module:factory"),
        ("math:pi", "is no factory"),
        ("diffusers:NoSuchModel", "has no attribute"),
        ("diffusers:DiffusionPipeline", "is no model"),
    ],
)
@pytest.mark.usefixtures("diffusers")
def test_a_name_that_leads_nowhere_is_refused_in_a_line(spec, why, capsys):
    assert main(["xray", spec]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1
