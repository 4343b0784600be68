"""The command line, as a shell sees it."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tqdm import tqdm

from adaln_lab.__main__ import main
from adaln_lab.data import datasets, emoji
from adaln_lab.dit import TinyDiT
from adaln_lab.experiments import grid, sweep
from adaln_lab.training.checkpoint import load_run, save_model
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import train
from adaln_lab.utils.assets import asset


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", "--out", str(folder), "--steps", "3", "--batch", "8", "--device", "cpu"]) == 0
    return folder


def test_train_leaves_a_model_a_checkpoint_and_a_record(run):
    assert {f.name for f in run.iterdir()} == {"model.safetensors", "config.json", "checkpoint.safetensors", "run.json"}
    record = json.loads((run / "run.json").read_text())
    assert record["finished"]
    assert len(record["loss"]) == 3


def test_resume_goes_on_and_refuses_another_recipe(run, capsys, caplog):
    caplog.set_level("INFO", logger="adaln_lab")
    assert main(["train", "--out", str(run), "--steps", "3", "--batch", "8", "--resume", "--device", "cpu"]) == 0
    assert "is finished; nothing to do" in caplog.text
    assert main(["train", "--out", str(run), "--steps", "3", "--batch", "9", "--resume", "--device", "cpu"]) == 2
    assert "made with batch 8, asked for now is 9" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_in_one_line_and_leaves_nothing_that_looks_finished(
    tmp_path, capsys, monkeypatch
):
    spoilt = datasets.load("digits")
    spoilt = replace(spoilt, images=spoilt.images * float("nan"))
    monkeypatch.setattr(datasets, "load", lambda *_: spoilt)
    assert main(["train", "--out", str(tmp_path), "--steps", "3", "--device", "cpu"]) == 2
    assert "non-finite at step 1" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["run.json"]  # nothing that looks finished, nothing to go on from
    assert not json.loads((tmp_path / "run.json").read_text())["finished"]


def test_an_interrupted_run_is_kept_and_resumes(tmp_path, capsys, monkeypatch):
    def interrupted(run, data, world):
        for step in train(run, data, world):
            yield step
            if step.number == 2:
                raise KeyboardInterrupt

    arguments = ["train", "--out", str(tmp_path), "--steps", "4", "--batch", "8", "--resume", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("adaln_lab.training.session.train", interrupted)
        assert main(arguments) == 130
    assert load_run(tmp_path / "checkpoint.safetensors").number == 2
    assert main(arguments) == 0
    assert len(json.loads((tmp_path / "run.json").read_text())["loss"]) == 4


def test_sample_writes_arrays_with_labels_cycled(run, tmp_path):
    out = tmp_path / "samples.npz"
    assert main(["sample", "--run", str(run), "--labels", "3,1", "--n", "5", "--out", str(out), "--device", "cpu"]) == 0
    with np.load(out) as file:
        assert file["images"].shape == (5, 1, 8, 8)
        assert file["images"].dtype == np.float32
        assert np.abs(file["images"]).max() <= 1
        assert file["labels"].tolist() == [3, 1, 3, 1, 3]


def test_sample_writes_a_picture(run, tmp_path):
    out = tmp_path / "samples.png"
    assert main(["sample", "--run", str(run), "--n", "20", "--out", str(out), "--device", "cpu"]) == 0
    assert imread(out).shape[:2] == (4 * (2 * 9 - 1), 4 * (10 * 9 - 1))


def test_evaluate_prints_one_line_of_json(run, capsys):
    assert main(["evaluate", "--run", str(run), "--n", "50", "--device", "cpu"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert {"accuracy", "frechet", "frechet_real", "nearest", "seconds"} <= json.loads(line).keys()


@pytest.fixture(scope="module")
def emoji_run(tmp_path_factory):
    """A tiny untrained model with the vocabulary of emoji."""
    folder = tmp_path_factory.mktemp("emoji")
    save_model(TinyDiT(replace(recipe("emoji")[0], width=4, depth=1, heads=1)), folder, "emoji")
    return folder


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        (["--prompt", "a red book"], ["red book, twemoji"] * 3),
        (["--prompt", "cats", "--style", "noto"], ["cat, noto"] * 3),
        (["--prompt", "red book; people hugging", "--style", "noto"], ["red book, noto", "person hugging, noto"]),
        ([], None),
    ],
)
def test_a_prompt_becomes_the_tokens_that_are_drawn(emoji_run, tmp_path, options, prompts):
    """Prompts are cycled; without one, captions of training are drawn, of both styles."""
    command = ["sample", "--run", str(emoji_run), *options, "--steps", "1", "--device", "cpu", "--n"]
    assert main([*command, "3", "--out", str(tmp_path / "a.npz")]) == 0
    assert main([*command, "2", "--out", str(tmp_path / "a.png")]) == 0
    assert imread(tmp_path / "a.png").shape[2] == 4
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (3, 3, 24, 24)
        drawn = emoji.prompts(torch.from_numpy(file["labels"]))
    if prompts:
        assert drawn == (prompts * 2)[:3]
    else:
        assert len(set(drawn)) == 3 and {prompt.rsplit(", ")[-1] for prompt in drawn} == set(emoji.STYLES)


def test_a_shipped_model_is_found_by_its_name_unless_a_folder_has_it(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["sample", "--run", "digits", "--n", "4", "--steps", "2", "--device", "cpu", "--out"]
    assert main([*command, "a.npz"]) == 0
    os.symlink(run, "digits")
    assert main([*command, "b.npz"]) == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert not np.array_equal(a["images"], b["images"])


def test_evaluate_of_emoji_says_what_the_classifier_sees(emoji_run, capsys):
    assert main(["evaluate", "--run", str(emoji_run), "--n", "5", "--steps", "1", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = {"seen": 5, "new style": 127, "new pair": 18, "new noun": 54}
    assert {*kinds, "seconds", "n"} == found.keys()
    for kind, n in kinds.items():
        assert found[kind].keys() == {"style", "category", "noun", "noun_in_5", "both", "n"} and found[kind]["n"] == n


def test_training_on_emoji_leaves_a_run_that_can_be_sampled(tmp_path, monkeypatch):
    model, config = recipe("emoji", "cpu")
    small = replace(model, width=4, depth=1, heads=1), config
    monkeypatch.setattr("adaln_lab.__main__.recipe", lambda data, device: small)
    arguments = ["train", "--data", "emoji", "--steps", "2", "--batch", "4", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert main(["sample", "--run", str(tmp_path / "run"), "--prompt", "cat", "--out", str(tmp_path / "a.png")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "in_context"), "--variant", "in_context"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sample --run {run} --out a.jpg", "must end in .png or .npz"),
        ("sample --run {run} --out {run}/a.npz --labels 3,x", "integers with commas"),
        ("sample --run {run} --out {run}/a.npz --labels 10", "labels must be a whole number in 0 .. 9, got 10"),
        ("sample --run {run} --out {run}/a.npz --n 0", "n must be a whole number in 1 .. 100000, got 0"),
        ("sample --run {run} --out {run}/a.npz --guidance -1", "guidance must be a finite number in 0 .. 100"),
        ("evaluate --run {run}/nowhere", "expected a folder that `train --out` made"),
        ("train --out {run}/run.json/x", "cannot write run.json to the folder"),
        ("train --out {run}/new --steps 0", "steps must be a whole number in 1 .. "),
        ("train --out {run}/new --device tpu", "device must be one of"),
        ("schemes --out {run}/sweep.json --seeds 0", "seeds must be a whole number in 1 .. 5"),
        ("schemes --out {run}/sweep.json --seeds 9", "seeds must be a whole number in 1 .. 5"),
        ("schemes --out {run}/config.json", "holds no results of the settings"),
    ],
)
def test_bad_requests_end_in_one_line_and_exit_code_2(run, capsys, arguments, message):
    assert main(arguments.format(run=run).split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("adaln_lab: ") and error.count("\n") == 1


@pytest.mark.parametrize("arguments", ["train --data imagenet --out x", "train --variant film --out x", "fly"])
def test_unknown_words_are_refused_with_the_valid_ones(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())
    assert "choose from" in capsys.readouterr().err


def test_help_shows_every_default_but_none_and_false(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: digits)" in text and "None" not in text and "False" not in text
    assert text.count("(default: 0)") == 2, "of --seed and of --encoder"


@pytest.mark.skipif(os.name != "posix", reason="bash and /dev/full")
@pytest.mark.parametrize(("command", "unbuffered"), [("progress", ""), ("progress", "1"), ("--help", "")])
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("| true", 141, ""),  # has gone before the command prints
        ("> /dev/full", 2, "adaln_lab: cannot write the output (No space left on device)\n"),
    ],
)
def test_an_output_that_cannot_be_written_ends_without_a_traceback(command, unbuffered, end, code, said):
    line = f"set -o pipefail; {sys.executable} -m adaln_lab {command} {end}"
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


def test_progress_loads_neither_the_zoo_nor_a_data_set():
    code = """import sys
from adaln_lab.__main__ import main
main(["progress"])
print(*sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"adaln_lab.blocks.zoo", "diffusers", "torchvision", "sklearn"} & set(loaded)


def test_evaluate_needs_no_home_folder(run, no_home, capsys):
    """The classifier of digits is shipped, so nothing is kept."""
    assert main(["evaluate", "--run", str(run), "--n", "20", "--device", "cpu"]) == 0


# Long work shows a bar with the time left, and can be stopped


@pytest.fixture
def bars(monkeypatch):
    """Every bar that the command line makes."""
    made = []

    class Watched(tqdm):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(self)

    monkeypatch.setattr("adaln_lab.__main__.tqdm", Watched)
    return made


def is_full(bar):
    return bar.n == bar.total > 0 and bar.fp is not None and bar.delay <= 2


def test_sampling_and_evaluating_count_their_steps(run, bars, tmp_path):
    model = ["--run", str(run), "--device", "cpu", "--steps", "3"]
    assert main(["sample", *model, "--n", "501", "--out", str(tmp_path / "a.npz")]) == 0
    assert main(["evaluate", *model, "--n", "20", "--method", "heun"]) == 0
    assert [bar.total for bar in bars] == [6, 3] and all(map(is_full, bars))


def test_a_sweep_that_goes_on_counts_what_is_left(bars, tmp_path, monkeypatch):
    trials = [sweep.Trial("adaLN", 2, 1e-3, seed) for seed in (0, 1)]
    monkeypatch.setattr(sweep, "all_trials", lambda seeds: trials[:seeds])
    monkeypatch.setattr(sweep, "train_and_score", lambda trial, data: 0.25)
    command = ["schemes", "--out", str(tmp_path / "s.json"), "--seeds"]
    for seeds in ("1", "2"):
        assert main([*command, seeds]) == 0
    assert [bar.total for bar in bars] == [1, 1] and all(map(is_full, bars))


def test_a_stopped_sweep_keeps_what_it_has(bars, tmp_path, monkeypatch, capsys):
    trials = [sweep.Trial("adaLN", 2, 1e-3, seed) for seed in (0, 1)]

    def train_and_score(trial, data):
        if trial.seed:
            raise KeyboardInterrupt
        return 0.25

    monkeypatch.setattr(sweep, "all_trials", lambda seeds: trials[:seeds])
    monkeypatch.setattr(sweep, "train_and_score", train_and_score)
    assert main(["schemes", "--out", str(tmp_path / "s.json")]) == 130
    assert json.loads((tmp_path / "s.json").read_text())["results"] == {grid.key(trials[0]): 0.25}
    assert capsys.readouterr().err.endswith("adaln_lab: stopped\n")


def test_a_stopped_sampling_leaves_no_file(run, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("adaln_lab.__main__.sample", stop)
    assert main(["sample", "--run", str(run), "--out", str(tmp_path / "a.npz"), "--device", "cpu"]) == 130
    assert not list(tmp_path.iterdir())


def test_pairs_are_read_back(capsys):
    folder = asset("dit_pairs_both")
    assert main(["evaluate", "--run", str(folder), "--n", "12", "--device", "cpu"]) == 0
    assert {"colour", "cell", "all"} <= json.loads(capsys.readouterr().out).keys()
