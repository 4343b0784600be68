"""The GPU benchmark loses nothing and says what is wrong; how fast a GPU is, no test asserts."""

import json
from dataclasses import replace

import pytest
import torch

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run
from benchmarks import gpu

CPU = torch.device("cpu")


@pytest.fixture
def parts(monkeypatch):
    """Three parts: the first measures, the second fails half-way, the third measures."""

    def first(bench, part):
        bench.keep(part, value=1)

    def second(bench, part):
        bench.keep(part, half=2)
        raise RuntimeError("this card cannot")

    table = {"first": (first, 0.5), "second": (second, 0.3), "third": (first, 0.2)}
    monkeypatch.setattr(gpu, "PARTS", table)
    return table


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(parts, tmp_path):
    assert gpu.main(["--device", "cpu", "--budget", "30", "--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["parts"] == {"first": {"value": 1}, "second": {"half": 2}, "third": {"value": 1}}
    assert found["done"] == ["first", "third"]
    assert "this card cannot" in found["errors"]["second"]
    assert found["about"]["torch"] == torch.__version__


def test_resume_runs_only_what_is_lacking_and_an_interrupt_loses_nothing(parts, tmp_path, capsys):
    out, tried = ["--device", "cpu", "--budget", "30", "--out", str(tmp_path)], []

    def interrupted(bench, part):
        bench.keep(part, half=3)
        raise KeyboardInterrupt

    second = parts["second"]
    parts["second"] = (interrupted, 0.3)
    assert gpu.main(out) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["second"] == {"half": 3}
    parts["second"] = second
    parts["first"] = (lambda bench, part: tried.append(part), 0.5)
    gpu.main([*out, "--resume"])
    assert tried == []
    assert json.loads((tmp_path / "gpu.json").read_text())["done"] == ["first", "third"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "3"], "--budget must be from 30 seconds"),
        (["--budget", "nan"], "--budget must be from 30 seconds"),
        ([], "holds a result already; --resume"),
        (["--device", "cuda"], "no CUDA device here; --device cpu"),
        (["--resume"], "holds results of torch 0.1"),
    ],
)
def test_bad_input_is_one_sentence(parts, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    about = gpu.about(CPU) | {"torch": "0.1"}
    (tmp_path / "gpu.json").write_text(json.dumps({"about": about, "parts": {}, "done": [], "errors": {}}))
    with pytest.raises(SystemExit) as exit:
        gpu.main(["--device", "cpu", "--out", str(tmp_path), *options])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digits", "scenes", "emoji"])
def test_training_to_quality_keeps_curve_and_pictures(name, tmp_path):
    bench = gpu.Bench(CPU, tmp_path, 60, {"parts": {}})
    k, config = recipe(name, "cpu")
    run = Run.new(replace(k, width=16, depth=1), replace(config, steps=20, batch=4))
    gpu._train_to_quality(bench, "quality", name, run, datasets.load(name, size=k.size), 0.95)
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]["quality"][name]
    assert found["reached"] is None
    assert [point["step"] for point in found["curve"]] == [20]
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_what_is_asked_of_emoji_was_shown_and_real_pictures_pass():
    """The bar must be in reach of the pictures themselves, and one picture for all must fail it."""
    data = datasets.load("emoji", size=32)
    labels, guidance, measure = gpu._asked(data)
    real = data.images[:: len(data.images) // 500][:500]
    assert labels.shape == (500, 6) and guidance == 2
    assert measure(real) >= 0.9 and measure(real[:1].expand(500, -1, -1, -1)) <= 0.01


def test_a_stepper_takes_whole_chunks(monkeypatch):
    monkeypatch.setattr(gpu, "CHUNK", 3)
    bench = gpu.Bench(CPU, None, 60, {"parts": {}})
    chunk = gpu._stepper(bench, DiTConfig(width=16, depth=1), {})
    run = chunk.__closure__[[c for c in chunk.__code__.co_freevars].index("run")].cell_contents
    for done in (3, 6):
        chunk()
        assert run.number == done
