"""Nothing is lost, nothing is half written, and a foreign file is told from one's own."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from adaln_lab.data import datasets, scenes
from adaln_lab.data.scene_reader import scene_accuracy
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.experiments import classifier
from adaln_lab.samplers import sample
from adaln_lab.training import checkpoint
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.assets import asset
from adaln_lab.utils.files import atomic_write, read_json, read_tensors, write_json

SMALL = DiTConfig(width=24, depth=2, heads=2)
SHORT = TrainConfig(steps=8, batch=16, gates_every=3)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_a_model_comes_back_with_its_shape_and_its_numbers(tmp_path):
    model = TinyDiT(replace(SMALL, variant="adaln"))
    checkpoint.save_model(model, tmp_path / "new" / "folder", data="digits")
    back = checkpoint.load_model(tmp_path / "new" / "folder")
    assert back.config == model.config
    assert not back.training
    for name, p in model.state_dict().items():
        assert torch.equal(p, back.state_dict()[name])
    assert {f.name for f in (tmp_path / "new" / "folder").iterdir()} == {"config.json", "model.safetensors"}


def test_a_trained_model_comes_with_the_package():
    """It has learnt: with its label it does better on held-out digits than with a wrong one."""
    model, data = checkpoint.shipped_model("digits"), datasets.load("digits")
    assert not model.training and model.config == DiTConfig()
    t = torch.full((len(data.held_images),), 0.7)
    noise = torch.randn(data.held_images.shape, generator=torch.Generator().manual_seed(0))
    x_t, v = torch.lerp(data.held_images, noise, 0.7), noise - data.held_images
    with torch.no_grad():
        right, wrong = ((model(x_t, t, y) - v).square().mean() for y in (data.held_labels, (data.held_labels + 1) % 10))
    assert right < 0.9 * wrong
    with pytest.raises(
        ValueError,
        match="no asset is called 'dit_cats'; there are dit_digits, dit_emoji, dit_mnist, dit_pairs_.*, dit_scenes",
    ):
        checkpoint.shipped_model("cats")


def test_a_resumed_run_ends_bit_for_bit_where_the_straight_one_does(digits, tmp_path):
    straight = Run.new(SMALL, SHORT)
    list(train(straight, digits))
    halted = Run.new(SMALL, SHORT)
    for step in train(halted, digits):
        if step.number == 5:
            break
    checkpoint.save_run(halted, tmp_path / "run.safetensors")
    resumed = checkpoint.load_run(tmp_path / "run.safetensors")
    assert resumed.number == 5
    assert not any(
        torch.equal(a, b)
        for a, b in zip(resumed.model.blocks.parameters(), straight.model.blocks.parameters(), strict=True)
    )
    list(train(resumed, digits))
    for ours, theirs in ((resumed.model, straight.model), (resumed.ema, straight.ema)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert [s.loss for s in resumed.history] == [s.loss for s in straight.history]
    assert [s.number for s in resumed.history if s.gates is not None] == [1, 3, 6]


def test_a_failed_save_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "kept.json"
    write_json(path, {"a": 1})

    def full_disk(temporary) -> None:
        with open(temporary, "w") as file:
            file.write("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="No space left on device.*files that were there are unchanged. Make room"):
        atomic_write(path, full_disk)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.parametrize("spoil", ["missing", "cut", "foreign", "empty"])
def test_files_that_are_no_checkpoint_are_recognised(tmp_path, spoil):
    path = tmp_path / "run.safetensors"
    checkpoint.save_run(Run.new(SMALL, SHORT), path)
    whole = path.read_bytes()
    {
        "missing": path.unlink,
        "cut": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "foreign": lambda: path.write_bytes(b"\x80\x04a pickle, say"),
        "empty": lambda: path.write_bytes(b""),
    }[spoil]()
    with pytest.raises(
        ValueError,
        match="No such file.*train --out .* makes one" if spoil == "missing" else "not a complete safetensors file",
    ):
        checkpoint.load_run(path)


def test_a_run_from_another_kind_of_device_is_refused(tmp_path):
    """Its random numbers cannot go on exactly elsewhere."""
    path = tmp_path / "run.safetensors"
    checkpoint.save_run(Run.new(SMALL, SHORT), path)
    with pytest.raises(ValueError, match="was trained on cpu, asked for is meta.*needs --device cpu"):
        checkpoint.load_run(path, "meta")


def test_a_safetensors_file_of_something_else_is_recognised(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a training checkpoint of this version"):
        checkpoint.load_run(tmp_path / "other.safetensors")


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path):
    checkpoint.save_model(TinyDiT(SMALL), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["depth"] = 3
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match="does not fit its configuration"):
        checkpoint.load_model(tmp_path)
    config["model"]["depth"], config["model"]["heads"] = 2, 4
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match="do not belong together"):
        checkpoint.load_model(tmp_path)
    config["model"]["flavour"] = "strange"
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match="holds flavour; a DiTConfig has only size, .*"):
        checkpoint.load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        checkpoint.load_model(tmp_path)


def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path):
    (tmp_path / checkpoint.CHECKPOINT).touch()
    with pytest.raises(ValueError, match="has not ended; the same `train` with --resume"):
        checkpoint.load_model(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match="cannot write run.json to the folder .*choose a folder that you may write to"):
        write_json(tmp_path / "file" / "run.json", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "mnist", "scenes"])
def test_shipped_models_still_draw_as_well_as_they_say(name):
    """200 samples against the figure in config.json, within four standard deviations of such a count."""
    model = checkpoint.shipped_model(name)
    made = json.loads((asset(f"dit_{name}") / "config.json").read_text())["made"]
    assert {"command", "machine", "torch", "date", "seed", "seconds"} <= made.keys()
    if name == "scenes":
        tokens, figure = scenes.random_scenes(200, torch.Generator().manual_seed(2)), made["guidance 2"]["all"]
        found = scene_accuracy(sample(model, tokens, guidance=2.0), tokens)["all"]
    else:
        labels, figure = torch.arange(200) % 10, made["guidance 2"]["accuracy"]
        reader = classifier.Classifier(1, 10)
        size = {"digits": 1437, "mnist": 4000}[name]
        reader.load_state_dict(read_tensors(asset(f"classifier_{name}_{size}.safetensors"))[0])
        found = classifier.accuracy(reader.eval(), sample(model, labels, guidance=2.0), labels)
    assert figure > 0.95
    assert found > figure - 4 * max(0.05, figure * (1 - figure)) ** 0.5 / 200**0.5


@pytest.mark.parametrize("name", ["digits", "mnist", "scenes"])
def test_shipped_models_tell_how_their_gates_opened(name):
    history, model = read_json(asset(f"dit_{name}") / "run.json"), checkpoint.shipped_model(name)
    assert history["finished"] and len(history["loss"]) == history["train"]["steps"]
    gates = torch.tensor(list(history["gates"].values()))
    assert gates.shape[1:] == (model.config.depth, 2)
    assert not gates[0].any() and (gates[-1] > 0.01).all()  # shut after update 1, open at the end
