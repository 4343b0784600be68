"""Every door: bad input from the command line, a file or a caller is refused in one sentence, before any harm is done.

Each sentence says what was expected and what came. Nothing here may hang, end in a traceback of others, or give a
result; the tables hold more than 600 inputs. Doors that need a second process are in tests/test_stopping.py.
"""

import copy
import json
import os
import re
import shlex
import struct
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import safetensors.torch
import torch

from adaln_lab import flow, samplers
from adaln_lab.__main__ import main
from adaln_lab.analysis.xray import published
from adaln_lab.data import datasets, scene_reader, scenes
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.embed import LabelEmbed, patchify, sinusoidal, unpatchify
from adaln_lab.experiments import classifier, comparison, grid, sweep
from adaln_lab.experiments.unet import TinyUNet, UNetConfig
from adaln_lab.training import checkpoint
from adaln_lab.training.checkpoint import CHECKPOINT, PREVIOUS, newest_whole, pack_run, unpack_run
from adaln_lab.training.recipes import recipe
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.checks import Seed
from adaln_lab.utils.environment import pick_device
from adaln_lab.utils.files import Damaged, pack, read_json, unpack, write_json
from adaln_lab.utils.proof import prove

TINY = DiTConfig(width=4, depth=1, heads=1)
SHORT = TrainConfig(steps=3, batch=4, gates_every=2)
SEEDS = get_args(Seed)[1]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="module")
def run(digits: datasets.Dataset) -> Run:
    made = Run.new(TINY, SHORT)
    list(zip(range(2), train(made, digits), strict=False))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("doors") / "run"
    assert main(["train", "--out", str(out), "--steps", "2", "--batch", "8", "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def emoji_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model with the vocabulary of emoji."""
    out = tmp_path_factory.mktemp("doors") / "emoji"
    model = replace(recipe("emoji")[0], width=4, depth=1, heads=1)
    checkpoint.save_model(TinyDiT(model), out, "emoji")
    return out


# Configurations: each field, with values of a wrong type or out of range


def wrong_values(hint: Any) -> list[Any]:
    """What a field of this type must refuse."""
    plain, allowed = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)
    wrong = {
        int: [2.5, 8.0, "8", True, None, NAN, INF, -(10**12), 10**12, 2**70, [8], torch.tensor(8)],
        float: ["1", True, None, NAN, INF, -INF, -1e30, 1e30, 10**400, [1.0]],
        str: [3, None, True, ["digits"], "x" * 2000],
        bool: [1, 0, "yes", None, NAN],
    }[plain]
    return [value for value in wrong if not (allowed == SEEDS and value == 10**12)]


FIELDS = [
    pytest.param(kind, f.name, value, id=f"{kind.__name__}.{f.name}={value!r:.20}")
    for kind in (DiTConfig, TrainConfig, UNetConfig)
    for f in fields(kind)
    for value in wrong_values(get_type_hints(kind, include_extras=True)[f.name])
]


@pytest.mark.parametrize(("kind", "name", "value"), FIELDS)
def test_a_configuration_refuses(kind: type, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be (a |one of |true |text).*got .") as error:
        kind(**{name: value})
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DiTConfig(patch=3), "size 8 is not a multiple of patch 3; valid patches: 1, 2, 4, 8"),
        (lambda: DiTConfig(heads=3), "width 64 is not a multiple of 3 heads; try width 63"),
        (lambda: DiTConfig(width=6, heads=1), "multiple of 4 .*got 6"),
        (lambda: DiTConfig(size=4096, patch=1), "65536 patches, got 16777216; try a larger patch"),
        (lambda: DiTConfig(mlp_ratio=0.01), "mlp_ratio must be a finite number in 0.25 .. 64, got 0.01"),
        (lambda: UNetConfig(size=10), "multiple of 4"),
        (lambda: TrainConfig(precision="fp8"), "one of float32, tf32, bfloat16; got 'fp8'"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(make: Callable, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# The command line

OPTIONS = [
    # --out and other places
    ("train --out {new}/file/run", "file is a file"),
    ("train --out {new}/file", "file is a file"),
    ("train --out {new}/dangling", "dangling is a link to nothing"),
    ("train --out {new}/dangling/run", "dangling is a link to nothing"),
    ("train --out {new}/{long}", "File name too long"),
    ("train --out {new}/{long}/run", "File name too long"),
    ("train --out {run}", "holds a run already; --resume goes on"),
    ("sample --run {run} --out {new}/a.jpg", "must end in .png or .npz, got 'a.jpg'"),
    ("sample --run {run} --out {new}/folder.png", "folder.png is a folder"),
    ("sample --run {run} --out {new}/dangling.png", "dangling.png is a link to nothing"),
    ("sample --run {run} --out {new}/file/a.png", "file is a file"),
    ("sample --run {run} --out {new}/{long}.png", "File name too long"),
    ("zoo --out {new}/folder", "folder is a folder"),
    ("zoo --out {new}/file/zoo.json", "file is a file"),
    ("schemes --out {new}/folder", "folder is a folder; expected a table of results"),
    ("schemes --out {new}/fifo", "fifo is no regular file; expected a table of results"),
    ("schemes --out {new}/dangling", "a link to nothing"),
    ("schemes --out {new}/file/a.json", "file is a file"),
    ("compare --out {new}/file/a.json", "file is a file"),
    ("compare --out {new}/folder", "folder is a folder; expected a table of results"),
    ("progress --own {new}/file/a", "file is a file"),
    ("progress --own {new}/fifo", "fifo is no regular file"),
    ("progress --own {new}/dangling", "dangling is a link to nothing"),
    ("progress --own {new}/file", "file is a file"),
    ("sample --run {run} --out {new}/fifo.npz", "fifo.npz is no regular file"),
    # tables of other commands
    ("schemes --out {new}/compare.json", "holds no results of the settings"),
    ("compare --out {new}/schemes.json", "holds no results of the settings"),
    ("schemes --out {run}/run.json", "holds no results of the settings"),
    ("compare --out {run}/config.json", "holds no results of the settings"),
    # numbers
    ("train --out {new}/a --steps 0", "steps must be a whole number in 1 .. 10000000, got 0"),
    ("train --out {new}/a --steps -3", "steps must be a whole number in 1 .. 10000000, got -3"),
    ("train --out {new}/a --steps 10000000000", "in 1 .. 10000000, got 10000000000"),
    ("train --out {new}/a --batch 0", "batch must be a whole number in 1 .. 1000000, got 0"),
    ("train --out {new}/a --batch 9223372036854775808", "in 1 .. 1000000, got 9223372036854775808"),
    ("train --out {new}/a --batch 10000000000", "in 1 .. 1000000, got 10000000000"),
    ("train --out {new}/a --seed -1", "seed must be a whole number in 0 .. 9223372036854775807, got -1"),
    ("train --out {new}/a --seed 99999999999999999999", "got 99999999999999999999"),
    ("train --out {new}/a --encoder -1", "encoder must be a whole number in 0 .. 100, got -1"),
    ("train --out {new}/a --encoder 100000", "encoder must be a whole number in 0 .. 100, got 100000"),
    ("train --out {new}/a --save-every nan", "save_every must be a finite number in 0 .. 1000000, got nan"),
    ("train --out {new}/a --save-every inf", "got inf"),
    ("train --out {new}/a --save-every -1", "got -1.0"),
    ("sample --run {run} --out {new}/a.png --n 0", "n must be a whole number in 1 .. 100000, got 0"),
    ("sample --run {run} --out {new}/a.png --n 1000000000000", "got 1000000000000"),
    ("sample --run {run} --out {new}/a.png --guidance inf", "guidance must be a finite number in 0 .. 100, got inf"),
    ("sample --run {run} --out {new}/a.png --guidance nan", "got nan"),
    ("sample --run {run} --out {new}/a.png --guidance -1", "got -1.0"),
    ("sample --run {run} --out {new}/a.png --guidance 1e30", "got 1e[+]30"),
    ("sample --run {run} --out {new}/a.png --steps 0", "steps must be a whole number in 1 .. 10000, got 0"),
    ("sample --run {run} --out {new}/a.png --steps 100000000", "got 100000000"),
    ("sample --run {run} --out {new}/a.png --seed -1", "seed must be a whole number"),
    ("sample --run {run} --out {new}/a.png --seed 18446744073709551616", "got 18446744073709551616"),
    ("evaluate --run {run} --n 1", "samples must be .* with n >= 2"),
    ("evaluate --run {run} --n 0", "n must be a whole number in 1 .. 100000, got 0"),
    ("evaluate --run {run} --n 1000000000000", "got 1000000000000"),
    ("evaluate --run {run} --guidance inf", "got inf"),
    ("evaluate --run {run} --steps -5", "got -5"),
    ("schemes --out {new}/a.json --seeds 0", "seeds must be a whole number in 1 .. 5, got 0"),
    ("schemes --out {new}/a.json --seeds 6", "seeds must be a whole number in 1 .. 5, got 6"),
    ("compare --out {new}/a.json --seeds 1", "seeds must be a whole number in 2 .. 100, got 1"),
    ("compare --out {new}/a.json --seeds 1000000", "got 1000000"),
    ("compare --out {new}/a.json --jobs 0", "jobs must be a whole number in 1 .. 61, got 0"),
    ("compare --out {new}/a.json --jobs -2", "got -2"),
    ("compare --out {new}/a.json --jobs 100000", "got 100000"),
    # labels
    ("sample --run {run} --out {new}/a.png --labels 10", "labels must be a whole number in 0 .. 9, got 10"),
    ("sample --run {run} --out {new}/a.png --labels=-1", "got -1"),
    ("sample --run {run} --out {new}/a.png --labels 3,x", "integers with commas between, like 0,1,2; got '3,x'"),
    ("sample --run {run} --out {new}/a.png --labels 1.5", "got '1.5'"),
    ("sample --run {run} --out {new}/a.png --labels 1,,2", "got '1,,2'"),
    ("sample --run {run} --out {new}/a.png --labels 99999999999999999999", "got 99999999999999999999"),
    # emoji
    ("sample --run {emoji} --out {new}/a.png --prompt xyzzy", "no emoji's name has the word 'xyzzy'; try dizzy"),
    ("sample --run {emoji} --out {new}/a.png --prompt cat;boook", "has the word 'boook'; try book"),
    ("sample --run {emoji} --out {new}/a.png --prompt ;", "a prompt needs a word .* such as red book; got ''"),
    ("sample --run {emoji} --out {new}/a.png --prompt cat;", "a prompt needs a word"),
    ("sample --run {emoji} --out {new}/a.png --prompt the", "a prompt needs a word .* got 'the'"),
    ("sample --run {emoji} --out {new}/a.png --prompt cat-dog-book-red-blue-heart", "has room for 5 words, got 6"),
    ("sample --run {emoji} --out {new}/a.png --prompt nothing", "has the word 'nothing'"),
    ("sample --run {emoji} --out {new}/a.png --prompt {long}", "no emoji's name has the word 'xxx"),
    ("sample --run {emoji} --out {new}/a.png --prompt cat,noto", "names the style noto, asked for is twemoji"),
    ("sample --run {emoji} --out {new}/a.png --prompt cat,twemoji --style noto", "names the style twemoji"),
    ("sample --run {emoji} --out {new}/a.png --prompt cat --n 0", "n must be a whole number in 1 .. 100000, got 0"),
    ("sample --run {emoji} --out {new}/a.png --labels 3", "--labels for all others"),
    ("sample --run {emoji} --out {new}/a.png --labels 3 --prompt cat", "--labels for all others"),
    ("sample --run {emoji} --out {new}/a.png --style noto", "without a prompt both styles are drawn"),
    ("sample --run {run} --out {new}/a.png --prompt cat", "--prompt and --style are for models of emoji"),
    ("sample --run {run} --out {new}/a.png --style noto", "--prompt and --style are for models of emoji"),
    ("sample --run scenes --out {new}/a.png --prompt cat", "--prompt and --style are for models of emoji"),
    (
        "sample --run {new}/digits --out {new}/a.png",
        "digits/config.json cannot be read",
    ),  # shipped under that name alone
    ("evaluate --run {emoji} --n 0", "n must be a whole number in 1 .. 100000, got 0"),
    ("compare --data emoji --out {new}/a.json --seeds 1", "seeds must be a whole number in 2 .. 100, got 1"),
    ("compare --data emoji --out {new}/a.json --jobs 0", "jobs must be a whole number in 1 .. 61, got 0"),
    ("compare --data emoji --out {new}/compare.json", "holds no results of the settings"),
    ("compare --data emoji --out {new}/folder", "folder is a folder; expected a table of results"),
    # devices
    ("train --out {new}/a --device tpu", "device must be one of cpu.* got 'tpu'"),
    ("train --out {new}/a --device cpu:abc", "got 'cpu:abc'"),
    ("train --out {new}/a --device cpu:7", "got 'cpu:7'"),
    ("train --out {new}/a --device cuda:99", "got 'cuda:99'"),
    ("train --out {new}/a --device cpu:", "got 'cpu:'"),
    ("sample --run {run} --out {new}/a.png --device {long}", "got 'x"),
    # runs
    ("sample --run {new}/nowhere --out {new}/a.png", "No such file or directory.; expected a folder that `train"),
    ("sample --run {new}/file --out {new}/a.png", "file is a file.; expected a folder that `train"),
    ("sample --run {new}/dangling --out {new}/a.png", "a link to nothing"),
    ("sample --run {new}/{long} --out {new}/a.png", "File name too long"),
    ("sample --run {new}/folder --out {new}/a.png", "No such file"),
    ("evaluate --run {new}/nowhere", "expected a folder that `train --out` made"),
    # the x-ray
    ("xray torch", "expected package.module:factory or diffusers:Class, got 'torch'"),
    ("xray ../x:y", "expected package.module:factory"),
    ("xray .x:y", "expected package.module:factory"),
    ("xray :", "expected package.module:factory"),
    ("xray {long}:y", "expected package.module:factory"),
    ("xray torch.nn:Nowhere", "has no attribute 'Nowhere'"),
    ("xray torch.nn:Linear", "must need no arguments .missing a required argument"),
    ("xray torch:pi", "is no factory: expected a function or a class, got float"),
    ("xray torch.nn:Identity --config {new}/file", "--config is for classes of diffusers"),
    ("xray doors_syntax:make", "invalid syntax"),
    ("xray diffusers:DiTTransformer2DModel --config {new}/folder", "folder is a folder; expected a configuration"),
    ("xray diffusers:DiTTransformer2DModel --config {new}/string.json", "it holds str, not an object"),
    ("xray diffusers:DiTTransformer2DModel --config {new}/file", "cannot be read as JSON"),
    ("xray diffusers:DiTTransformer2DModel --config {new}/fifo", "is no regular file"),
]
USAGE = [  # what argparse refuses, with its usage and the valid words
    ("train --out ''", "expected a path of 1 to 1000 letters, got ''"),
    ("train --out ' '", "expected a path of 1 to 1000 letters, got ' '"),
    ("train --out {deep}", "expected a path of 1 to 1000 letters, got 'a/a/a/"),
    ("sample --run '' --out a.png", "expected a path"),
    ("sample --run {run} --out ''", "expected a path"),
    ("evaluate --run ''", "expected a path"),
    ("compare --out ''", "expected a path"),
    ("schemes --out ''", "expected a path"),
    ("zoo --out ''", "expected a path"),
    ("progress --own ''", "expected a path"),
    ("train --out a --steps 2.5", "invalid int value: '2.5'"),
    ("train --out a --steps nan", "invalid int value: 'nan'"),
    ("train --out a --save-every x", "invalid float value: 'x'"),
    ("train --out a --data imagenet", "choose from"),
    ("train --out a --variant film", "choose from"),
    ("train --out a --precision fp8", "choose from"),
    ("sample --run {run} --out a.png --method rk4", "choose from"),
    ("sample --run {run} --out a.png --style apple", "choose from"),
    ("compare --out a.json --data digits", "choose from"),
    ("sample --run {run} --out a.png --n 1e3", "invalid int value: '1e3'"),
    ("sample --run {run}", "required: --out"),
    ("fly", "choose from"),
    ("", "required: COMMAND"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, folder: Path, emoji_folder: Path) -> dict[str, str]:
    """A folder with things where a file should be."""
    new = tmp_path_factory.mktemp("places")
    (new / "file").write_text("not JSON")
    (new / "string.json").write_text('"a name on the hub"')
    (new / "doors_syntax.py").write_text("def make(:")
    for name in ("dangling", "dangling.png"):
        (new / name).symlink_to(new / "nothing")
    for name in ("folder", "folder.png"):
        (new / name).mkdir()
    for name in ("fifo", "fifo.npz"):
        os.mkfifo(new / name)
    for name, settings in (("compare", comparison.asdict(comparison.Settings())), ("schemes", sweep.SETTINGS)):
        write_json(new / f"{name}.json", {"settings": settings, "made": {}, "results": {}})
    return {
        "new": str(new),
        "run": str(folder),
        "emoji": str(emoji_folder),
        "long": "x" * 300,
        "deep": "a/" * 2000 + "a",
    }


def contents(*folders: str) -> dict[str, Any]:
    files = [path for folder in folders for path in Path(folder).rglob("*")]
    return {str(path): path.read_bytes() if path.is_file() else None for path in files if path.name != "__pycache__"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
@pytest.mark.parametrize(("command", "said"), OPTIONS, ids=[command for command, _ in OPTIONS])
def test_a_bad_request_is_one_sentence_and_changes_nothing(
    command: str, said: str, places: dict[str, str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(places["new"])
    before = contents(places["new"], places["run"])
    assert main(command.format(**places).split()) == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert error.startswith("adaln_lab: ") and re.search(said, error), captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    after = contents(places["new"], places["run"])
    assert {k: v for k, v in after.items() if v is not None or k in before} == before  # an empty folder may be left


@pytest.mark.parametrize(("command", "said"), USAGE)
def test_argparse_refuses(command: str, said: str, places: dict[str, str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(shlex.split(command.format(**places)))
    assert said in capsys.readouterr().err


# Files: what lies where JSON or tensors should be

JUNK: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "a string": b'"runs"',
    "cut short": b'{"model": {"size": 8,',
    "nested 20,000 deep": b"[" * 20_000,
    "nested objects": b'{"a":' * 20_000,
    "NaN": b'{"model": NaN}',
    "infinity": b'{"model": -Infinity}',
    "digits without end": b'{"model": ' + b"9" * 10_000 + b"}",
    "other bytes": bytes(range(256)),
    "half a surrogate": b'{"\xed\xa0\x80": 1}',
    "a pickle": b"\x80\x04a pickle, say",
    "another object": b'{"hello": "world"}',
    "an empty object": b"{}",
}
PLACES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a fifo": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: None,
}
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "config.json": ("config.json", lambda run: checkpoint.load_model(run)),
    "weights": ("model.safetensors", lambda run: checkpoint.load_model(run)),
    "checkpoint": (CHECKPOINT, lambda run: checkpoint.load_run(run / CHECKPOINT)),
    "table of schemes": ("table.json", lambda run: sweep.missing(run / "table.json", 1)),
    "table of compare": ("table.json", lambda run: comparison.missing(run / "table.json", 2)),
    "configuration of diffusers": (
        "any.json",
        lambda run: published.load("diffusers:DiTTransformer2DModel", run / "any.json"),
    ),
}


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_a_file_is_refused_by_name(own: Path, reader: str, junk: str) -> None:
    name, read = READERS[reader]
    if reader == "configuration of diffusers" and "object" in junk:
        pytest.skip("diffusers says what its configurations hold")
    (own / name).write_bytes(JUNK[junk])
    with pytest.raises(ValueError, match=name) as error:
        read(own)
    assert len(str(error.value)) < 700 and not isinstance(error.value, UnicodeError)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused_by_name(own: Path, reader: str, place: str) -> None:
    name, read = READERS[reader]
    if "table" in reader and place == "nothing":
        pytest.skip("a new table is made")
    (own / name).unlink(missing_ok=True)
    PLACES[place](own / name)
    with pytest.raises(ValueError, match=rf"{name} (is|cannot be read).*expected"):
        read(own)


HEADERS: dict[str, Any] = {  # of a safetensors file: what stands before the tensors
    "a list": b"[]",
    "null": b"null",
    "nested": b"[" * 20_000,
    "metadata that is no text": b'{"__metadata__": {"adaln_lab": 3}}',
    "metadata that is a list": b'{"__metadata__": []}',
    "our key holds a list": json.dumps({"__metadata__": {"adaln_lab": "[]"}}).encode(),
    "our key is nested": json.dumps({"__metadata__": {"adaln_lab": "[" * 20_000}}).encode(),
    "about is a list": json.dumps({"__metadata__": {"adaln_lab": '{"about": [], "sha256": ""}'}}).encode(),
    "no checksum": json.dumps({"__metadata__": {"adaln_lab": '{"about": {}}'}}).encode(),
    "an offset beyond the end": b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
    "a shape beyond the data": b'{"w": {"dtype": "F32", "shape": [99999999999], "data_offsets": [0, 0]}}',
    "a type that does not exist": b'{"w": {"dtype": "F99", "shape": [0], "data_offsets": [0, 0]}}',
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_safetensors_header_that_is_none_falls_back_to_the_checkpoint_before(
    own: Path, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt = struct.pack("<Q", len(HEADERS[header])) + HEADERS[header]
    with pytest.raises(Damaged, match="is not a (complete safetensors file|training checkpoint)"):
        unpack_run(spoilt, "here")
    (own / CHECKPOINT).rename(own / PREVIOUS)
    (own / CHECKPOINT).write_bytes(spoilt)
    assert newest_whole(own) == (own / PREVIOUS).read_bytes()
    assert f"It is kept as {CHECKPOINT}.damaged" in caplog.text


def test_a_length_that_lies_is_no_safetensors_file() -> None:
    for content in (b"\xff" * 8, struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 100) + b"{}"):
        with pytest.raises(Damaged, match="is not a complete safetensors file"):
            unpack(content, "here")


def test_a_damaged_file_that_cannot_be_set_aside_is_one_sentence(own: Path) -> None:
    (own / CHECKPOINT).write_bytes(b"junk")
    (own / f"{CHECKPOINT}.damaged").mkdir()
    with pytest.raises(ValueError, match=r"cannot be kept as checkpoint.safetensors.damaged, a folder; move that away"):
        newest_whole(own)


# A checkpoint, with each tensor and each field changed in turn. The checksum is made anew: this is what a file does
# that somebody has made, and not what a disk does.


def spoil(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor | None]]:
    yield "missing", None
    yield "shape", torch.zeros(3).to(tensor.dtype)
    yield "one more axis", tensor[None]
    yield "empty", tensor.flatten()[:0]
    for dtype in (torch.float64, torch.bool, torch.int64, torch.complex64):
        yield str(dtype), tensor.to(dtype)
    if tensor.is_floating_point():
        yield "NaN", tensor * NAN
        yield "infinite", torch.full_like(tensor, INF)


def test_each_tensor_of_a_checkpoint_is_held_to_what_the_run_needs(run: Run) -> None:
    tensors, about = unpack(pack_run(run), "here")
    assert unpack_run(pack(tensors, about), "here")[0].number == 2
    tried = 0
    for name, tensor in tensors.items():
        for what, changed in spoil(tensor):
            spoilt = {n: t for n, t in (tensors | {name: changed}).items() if t is not None}
            with pytest.raises(Damaged, match="is not a training checkpoint"):
                pytest.fail(f"{name}: {what} was believed: {unpack_run(pack(spoilt, about), 'here')[0].number}")
            tried += 1
    with pytest.raises(Damaged, match=r"'one too many'"):
        unpack_run(pack(tensors | {"one too many": torch.zeros(1)}, about), "here")
    for end, value in ((".step", 3.0), (".step", -1.0), (".exp_avg_sq", -1.0)):
        name = next(name for name in tensors if name.endswith(end))
        with pytest.raises(Damaged, match=f"{name} holds what no update leaves there"):
            unpack_run(pack(tensors | {name: torch.full_like(tensors[name], value)}, about), "here")
    with pytest.raises(Damaged, match="mt19937"):
        unpack_run(pack(tensors | {"generator": torch.zeros_like(tensors["generator"])}, about), "here")
    assert tried > 900


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of each field, in dictionaries and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def changed(value: Any, path: tuple, new: Any) -> Any:
    """A copy in which the field at the path is new, or is missing where new is Ellipsis."""
    value = copy.deepcopy(value)
    place = value
    for key in path[:-1]:
        place = place[key]
    if new is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return value


OTHERS = (..., None, "x", -100, 10**9, 10**30, 2.5, NAN, [], {}, [[1]], True)


def is_another_truth(path: tuple, new: Any) -> bool:
    """Another number of the same range, as in the checkpoint of another run: no look at one file can refuse that."""
    optional = {"data", "machine", "processes", "threads", "torch"}
    if path[0] in optional and (new is None or new is ...):
        return True
    if path[0] in ("data", "machine", "torch") or path == ("train", "data"):
        return isinstance(new, str)
    if path[0] in ("processes", "threads"):
        return type(new) is int
    if path[0] == "history" and len(path) == 3:  # number, loss, lr, gradient norm, gates
        return (path[2] in (1, 2, 3) and type(new) in (int, float) and new == new) or (path[2] == 4 and new is None)
    if path[0] == "history" and len(path) > 3:
        return len(path) == 5 and type(new) in (int, float) and new == new
    if path == ("seconds",):
        return new in (10**9, 2.5)
    if path == ("train", "seed") or (path == ("train", "clip") and new != 2.5):
        return new == 10**9
    if path[-1] in ("weight_decay", "clip", "t_mean", "lr", "muon_lr"):
        return new == 2.5
    return (path[:2] == ("model", "label_std") and new == 2.5) or (
        path in (("train", "compile"), ("train", "graph")) and new is True
    )


def test_each_field_of_a_checkpoint_is_held_to_its_type_and_range(run: Run) -> None:
    tensors, about = unpack(pack_run(run, data="d", machine="m", processes=1, threads=1, torch="t"), "here")
    tried = 0
    for path in list(leaves(about))[1:]:
        for new in OTHERS:
            spoilt = changed(about, path, new)
            if spoilt == about or is_another_truth(path, new):
                continue
            with pytest.raises(ValueError, match="is not a training checkpoint|not finite, so nothing is written"):
                unpack_run(pack(tensors, spoilt), "here")
                pytest.fail(f"{path} = {new!r} was believed")
            tried += 1
    with pytest.raises(Damaged, match="holds flavour"):
        unpack_run(pack(tensors, about | {"flavour": 1}), "here")
    assert tried > 300


@pytest.mark.parametrize("number", [-100, 0, 1, 3, 10**9])
def test_a_number_of_steps_that_the_history_does_not_tell_is_refused(run: Run, number: int) -> None:
    tensors, about = unpack(pack_run(run), "here")
    with pytest.raises(Damaged, match="number|steps"):
        unpack_run(pack(tensors, about | {"number": number}), "here")


def test_a_moment_of_three_elements_never_reaches_the_fused_optimiser(run: Run, digits: datasets.Dataset) -> None:
    """AdamW would write past its end."""
    tensors, about = unpack(pack_run(run), "here")
    name = next(name for name in tensors if name.endswith("exp_avg") and tensors[name].numel() > 3)
    with pytest.raises(Damaged, match=rf"{name} must be torch.float32 .*got torch.float32 \(3,\)"):
        unpack_run(pack(tensors | {name: torch.zeros(3)}, about), "here")


# A model: config.json and its weights belong together


@pytest.mark.parametrize("name", [f.name for f in fields(DiTConfig)])
@pytest.mark.parametrize("new", [..., None, "x", -1, 0, 2.5, NAN, 10**9, True, [1], 2, 4])
def test_each_field_of_config_json_is_covered(own: Path, name: str, new: Any) -> None:
    about = read_json(own / "config.json")
    spoilt = changed(about, ("model", name), new)
    if spoilt == about:
        return
    (own / "config.json").write_text(json.dumps(spoilt))
    with pytest.raises(ValueError, match="config.json|does not fit its configuration"):
        checkpoint.load_model(own)


@pytest.mark.parametrize("path", [("kind",), ("data",), ("sha256",), ("model",), ("made",), ("more",)])
@pytest.mark.parametrize("new", [..., 3, "x", [], True])
def test_the_rest_of_config_json_is_covered(own: Path, path: tuple, new: Any) -> None:
    about = read_json(own / "config.json") | ({"made": {}} if path == ("made",) else {})
    if (new is ... and path[0] not in about) or (path == ("made",) and new is ...):
        return
    (own / "config.json").write_text(json.dumps(changed(about, path, new)))
    with pytest.raises(ValueError, match=r"config.json|holds a x|do not belong together"):
        checkpoint.load_model(own)


def test_each_tensor_of_a_model_is_held_to_its_configuration(tmp_path: Path) -> None:
    """Also where the checksum is made anew, and where another program wrote the file."""
    model = TinyDiT(TINY)
    checkpoint.save_model(model, tmp_path)
    about = read_json(tmp_path / "config.json")
    for name, tensor in model.state_dict().items():
        for what, new in spoil(tensor):
            spoilt = {n: t for n, t in (model.state_dict() | {name: new}).items() if t is not None}
            for content in (pack(spoilt), safetensors.torch.save(spoilt)):
                (tmp_path / "model.safetensors").write_bytes(content)
                seal = checkpoint.seal(about["kind"], about["model"], about["data"], content)
                (tmp_path / "config.json").write_text(json.dumps(about | {"sha256": seal}))
                with pytest.raises(ValueError, match=r"does not fit its configuration|not finite"):
                    checkpoint.load_model(tmp_path)
                    pytest.fail(f"{name}: {what} was believed")


def test_weights_of_another_run_of_the_same_shape_are_refused(own: Path) -> None:
    checkpoint.save_model(TinyDiT(DiTConfig()), own / "other", data="digits")
    (own / "model.safetensors").write_bytes((own / "other" / "model.safetensors").read_bytes())
    with pytest.raises(Damaged, match="do not belong together.*copy both again"):
        checkpoint.load_model(own)


def test_a_configuration_larger_than_its_file_allocates_nothing(tmp_path: Path) -> None:
    """16,384 channels in 1,000 blocks would be 13 TB."""
    checkpoint.save_model(TinyDiT(TINY), tmp_path)
    about = read_json(tmp_path / "config.json")
    about["model"] |= {"width": 16384, "depth": 3}
    write_json(tmp_path / "config.json", about)
    with pytest.raises(ValueError, match="does not fit its configuration"):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "run.json"])
@pytest.mark.parametrize("junk", ["junk", "gone", "NaN weights"])
def test_a_finished_run_with_a_damaged_file_is_finished_again_from_its_checkpoint(
    own: Path, name: str, junk: str, capsys: pytest.CaptureFixture
) -> None:
    whole = {path.name: path.read_bytes() for path in own.iterdir()}
    if junk == "gone":
        (own / name).unlink()
    elif junk == "junk":
        (own / name).write_bytes(b"{}")
    else:
        model = checkpoint.load_model(own)
        model.final.linear.bias.data.fill_(NAN)
        checkpoint.save_model(model, own, data="digits")
    assert main(["train", "--out", str(own), "--steps", "2", "--batch", "8", "--resume", "--device", "cpu"]) == 0
    for other in ("model.safetensors", "config.json"):
        assert (own / other).read_bytes() == whole[other]
    assert read_json(own / "run.json")["finished"]


def test_a_classifier_that_is_none_is_refused(
    digits: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"classifier_digits_{len(digits.images)}.safetensors"
    monkeypatch.setattr(classifier, "ASSETS", tmp_path)
    fitted = classifier.Classifier(1, 10).state_dict()
    for spoilt in (fitted | {"unit": torch.ones(3)}, fitted | {"head.bias": torch.full((10,), NAN)}, {}):
        path.write_bytes(pack(spoilt))
        with pytest.raises(ValueError, match=r"classifier_digits.*(does not fit|not finite)"):
            classifier.load_classifier(digits)


TABLES = [
    {"settings": sweep.SETTINGS, "made": {}, "results": []},
    {"settings": sweep.SETTINGS, "made": [], "results": {}},
    {"settings": sweep.SETTINGS, "made": {}, "results": {}, "more": 1},
    {"settings": sweep.SETTINGS, "made": {}},
    {"settings": sweep.SETTINGS, "results": {}},
    {"settings": [], "made": {}, "results": {}},
    *({"settings": sweep.SETTINGS, "made": {}, "results": {"adaLN/4/0.001/0": v}} for v in ("x", [1], {}, True, -1.0)),
]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_another_form_is_refused(table: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match=r"t.json"):
        sweep.missing(tmp_path / "t.json", 1)


@pytest.mark.parametrize("result", [{}, {"loss": "x"}, {"loss": 1.0, "failed": "y"}, {"failed": 3}, {"mood": 1}, 3, []])
def test_a_result_of_another_form_is_refused(result: Any, tmp_path: Path) -> None:
    table = {
        "settings": comparison.asdict(comparison.Settings()),
        "made": {},
        "results": {"captions/short/adaln_sum/0/0": result},
    }
    write_json(tmp_path / "t.json", table)
    with pytest.raises(ValueError, match=r"short/adaln_sum|a result must hold"):
        comparison.missing(tmp_path / "t.json", 2)


@pytest.mark.parametrize("seconds", ["x", -1, None, []])
def test_the_seconds_of_a_table_are_a_number(tmp_path: Path, seconds: Any) -> None:
    write_json(tmp_path / "t.json", {"settings": {}, "made": {"seconds": seconds}, "results": {}})
    with pytest.raises(ValueError, match="seconds must be a finite number"):
        list(grid.run([], lambda trial: 1, tmp_path / "t.json", {}, "me"))


@pytest.mark.parametrize("place", [place for place in PLACES if place != "nothing"])
def test_writing_replaces_nothing_but_a_file(tmp_path: Path, place: str) -> None:
    """A rename would put a file in the place of a device, for good."""
    path = tmp_path / "x.json"
    PLACES[place](path)
    before = path.lstat()
    with pytest.raises(ValueError, match="x.json is .*expected a file or a free name"):
        write_json(path, {})
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_result_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    trials = [sweep.Trial("adaLN", 4, 1e-3, 0)]
    with pytest.raises(ValueError, match="not finite, so nothing is written"):
        list(grid.run(trials, lambda trial: NAN, tmp_path / "t.json", {}, "me"))
    assert list(tmp_path.iterdir()) == []


# What a caller passes

X, T, Y = torch.zeros(4, 1, 8, 8), torch.full((4,), 0.5), torch.arange(4)
WORDS = scenes.random_scenes(4, torch.Generator().manual_seed(0))
PAIR = flow.FlowPair(X, T, Y, X)
CALLS: list[tuple[str, Callable[[], object], str]] = [
    # one label for each picture, in one way everywhere
    *(
        (f"{name}, y {what}", lambda call=call, y=y: call(y), said)
        for name, call in {
            "TinyDiT": lambda y: TinyDiT(TINY)(X, T, y),
            "TinyUNet": lambda y: TinyUNet(UNetConfig(size=8, channels=1, width=8))(X, T, y),
            "accuracy": lambda y: classifier.accuracy(classifier.Classifier(1, 10), X, y),
        }.items()
        for what, y, said in [
            ("one for all", torch.tensor([3]), r"each of 4 pictures, \(4,\); got \(1,\)"),
            ("without axis", torch.tensor(3), r"each of 4 pictures, \(4,\); got \(\)"),
            ("two each", torch.zeros(4, 2, dtype=torch.long), r"got \(4, 2\)"),
            ("a row", Y[None], r"got \(1, 4\)"),
            ("too few", Y[:3], r"got \(3,\)"),
            ("floats", Y.float(), r"integers in 0 .. \d+, got torch.float32"),
            ("bools", Y > 1, r"integers in 0 .. \d+, got torch.bool"),
            ("too large", Y + 10, r"integers in 0 .. \d+, got 10 .. 13"),
            ("negative", Y - 2, r"integers in 0 .. \d+, got -2 .. 1"),
        ]
    ),
    ("embedding, floats", lambda: LabelEmbed(10, 8)(Y.float()), "integers in 0 .. 10, got torch.float32"),
    ("embedding, two labels", lambda: LabelEmbed(10, 8)(torch.zeros(4, 2, dtype=torch.long)), r"got \(4, 2\)"),
    ("embedding, one word of two", lambda: LabelEmbed(10, 8, 2)(Y), r"\(4, 2\); got \(4,\)"),
    ("no picture", lambda: TinyDiT(TINY)(X[:0], T[:0], Y[:0]), "B >= 1"),
    ("another size", lambda: TinyDiT(TINY)(X[..., :4], T, Y), r"x must be \(B, 1, 8, 8\)"),
    ("float64 pictures", lambda: TinyDiT(TINY)(X.double(), T, Y), "torch.float32, as the model is; got torch.float64"),
    ("float64 times", lambda: TinyDiT(TINY)(X, T.double(), Y), "got torch.float32 and torch.float64"),
    ("whole times", lambda: TinyDiT(TINY)(X, Y, Y), "got torch.float32 and torch.int64"),
    ("one time for all", lambda: TinyDiT(TINY)(X, T[:1], Y), r"one time for each image, \(4,\), got \(1,\)"),
    ("times beyond 1", lambda: TinyDiT(TINY)(X, T * 1000, Y), r"t must lie in \[0, 1\]"),
    ("times that are NaN", lambda: TinyDiT(TINY)(X, T * NAN, Y), r"t must lie in \[0, 1\]"),
    # features and patches
    ("7 features", lambda: sinusoidal(T, 7), "features must be even.*got 7"),
    ("0 features", lambda: sinusoidal(T, 0), "features must be even.*got 0"),
    ("-2 features", lambda: sinusoidal(T, -2), "features must be even.*got -2"),
    ("a patch too large by one", lambda: patchify(X, 3), r"\(8, 8\) pixels are no multiple of 3"),
    ("a patch that drops a row", lambda: patchify(torch.zeros(1, 1, 9, 8), 2), r"\(9, 8\) pixels are no multiple of 2"),
    ("rows that do not divide", lambda: unpatchify(torch.zeros(1, 16, 4), 2, 3), "16 tokens of 4 make no 3 rows"),
    ("channels that do not divide", lambda: unpatchify(torch.zeros(1, 16, 5), 2, 4), "16 tokens of 5 make no 4 rows"),
    # flow matching
    ("one noise for all", lambda: flow.interpolate(X, X[:1], T), r"one shape .*got \(4, 1, 8, 8\), \(1, 1, 8, 8\)"),
    ("one t for all", lambda: flow.interpolate(X, X, T[:1]), r"got .*\(1,\)"),
    ("t as a column", lambda: flow.interpolate(X, X, T[:, None]), r"got .*\(4, 1\)"),
    (
        "a label for all in a pair",
        lambda: flow.flow_pair(X, Y[:1], 10, 0.0, torch.Generator()),
        "each of 4 images, got 1",
    ),
    ("a velocity for all", lambda: flow.flow_loss(TinyDiT(TINY), PAIR._replace(v=X[:1])), "shaped like x_t"),
    # sampling
    *(
        (f"sample, {name}={value!r:.9}", lambda n=name, v=value: samplers.sample(TinyDiT(TINY), Y, **{n: v}), said)
        for name, values, said in [
            ("steps", (0, -1, 2.5, True, None, NAN, "6", 10**6), "steps must be a whole number in 1 .. 10000, got"),
            ("guidance", (-1, NAN, INF, "2", None, True, 1e9), "guidance must be a finite number in 0 .. 100, got"),
            ("seed", (-1, 0.5, NAN, None, 2**64, True), "seed must be a whole number in 0 .. "),
            ("batch", (0, -5, 2.5, None), "batch must be a whole number in 1 .. "),
            ("method", ("rk4", None, 3), "method must be one of euler, heun"),
        ]
        for value in values
    ),
    ("sample, no label", lambda: samplers.sample(TinyDiT(TINY), Y[:0]), "at least one label"),
    ("sample, floats", lambda: samplers.sample(TinyDiT(TINY), Y.float()), "integers in 0 .. 10, got torch.float32"),
    ("sample, two each", lambda: samplers.sample(TinyDiT(TINY), torch.zeros(4, 2).long()), r"got \(4, 2\)"),
    ("sample, a label too large", lambda: samplers.sample(TinyDiT(TINY), Y + 10), "got 10 .. 13"),
    ("time grid of half a step", lambda: samplers.time_grid(0.5), "steps must be a whole number"),
    # quality
    ("features of one picture", lambda: classifier.frechet(X[:1].flatten(1), X.flatten(1)), "N, M >= 2"),
    ("other features", lambda: classifier.frechet(X.flatten(1), T[:, None]), r"got \(4, 64\), \(4, 1\)"),
    # scenes
    ("half an object", lambda: scenes.render(half(WORDS)), "'nothing' 4 times; got a part of one"),
    ("two objects in one cell", lambda: scenes.render(torch.cat([WORDS, WORDS[:, 3:]], 1)), "two objects stand in one"),
    ("tokens out of order", lambda: scenes.captions(WORDS.flip(1)), "a token for the"),
    ("tokens that are floats", lambda: scenes.captions(WORDS.float()), "got torch.float32"),
    ("half a row", lambda: scenes.captions(WORDS[:, :6]), r"of shape \(4, 6\)"),
    ("no scene", lambda: scenes.captions(WORDS[:0]), r"of shape \(0, 7\)"),
    ("a picture too small", lambda: scenes.render(WORDS, 8), "size must be a whole number in 16 .. 1024, got 8"),
    ("a picture of no pixels", lambda: scenes.render(WORDS, 16.5), "got 16.5"),
    ("ten objects", lambda: scenes.random_scenes(1, torch.Generator(), 10), "in 1 .. 9, got 10"),
    ("scenes without number", lambda: scenes.random_scenes(-1, torch.Generator()), "n must be a whole number"),
    (
        "one scene for all",
        lambda: scene_reader.scene_accuracy(scenes.render(WORDS), WORDS[:1]),
        "each of 4 scenes, got 1",
    ),
    ("grey scenes", lambda: scene_reader.read(torch.zeros(2, 1, 32, 32)), r"must be \(B, 3, N, N\)"),
    ("no pictures", lambda: scene_reader.read(torch.zeros(0, 3, 32, 32)), r"must be \(B, 3, N, N\)"),
    # proofs
    *(
        (
            f"prove, tol={tol!r}",
            lambda tol=tol: prove("p", 1.0, 1.0, tol),
            "tol must be a finite number in 0 .. 0.1, got",
        )
        for tol in (NAN, INF, -1e-9, 1.0, "1e-9", None, True)
    ),
    ("prove, complex", lambda: prove("p", 1j, 1j), "real numbers, got complex"),
    ("prove, text", lambda: prove("p", "a", "a"), "real numbers"),
    ("prove, nothing", lambda: prove("p", [], []), "empty"),
    ("prove, ragged", lambda: prove("p", [[1], [1, 2]], [[1], [1, 2]]), "real numbers"),
    ("prove, broadcast", lambda: prove("p", [1.0, 1.0], 1.0), "shapes"),
    # devices
    *(
        (f"device {name!r:.12}", lambda name=name: pick_device(name), "device must be one of cpu.*got")
        for name in ("tpu", "cpu:abc", "cpu:-1", "cuda:99", "cpu:0:0", ":", "CPU", "x" * 300)
    ),
]


def half(words: torch.Tensor) -> torch.Tensor:
    return torch.cat([words[:, :-1], torch.full_like(words[:, :1], scenes.NOTHING)], 1)


@pytest.mark.parametrize(("call", "said"), [pytest.param(call, said, id=name) for name, call, said in CALLS])
def test_a_call_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (2**53, 2**53 + 1),
        ([2**63, -1], [2**63, -2]),
        (torch.tensor([2**62]), torch.tensor([2**62 + 1])),
        (10**500, 10**500 + 1),
        (10**12, 10**12 + 1),
        ([1, 2**60 + 1], [1, 2**60]),
    ],
)
def test_integers_are_compared_as_integers(left: Any, right: Any) -> None:
    with pytest.raises(AssertionError, match="not proved: .*difference. 1, allowed 0"):
        prove("off by one", left, right)


@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)"])
def test_labels_as_a_row_or_as_a_column_mean_the_same(shape: str, digits: datasets.Dataset) -> None:
    y = Y if shape == "(n,)" else Y[:, None]
    model = TinyDiT(TINY)
    torch.nn.init.normal_(model.final.linear.weight, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(X, T, y), model(X, T, Y))
    assert torch.equal(samplers.sample(model, y), samplers.sample(model, Y))
    reader = classifier.load_classifier(digits)
    n = len(digits.held_labels)
    assert classifier.accuracy(reader, digits.held_images, digits.held_labels.reshape(n, *y.shape[1:])) > 0.98


def test_numbers_of_numpy_are_numbers() -> None:
    assert torch.equal(samplers.time_grid(np.int64(4)), samplers.time_grid(4))
    samplers.sample(TinyDiT(TINY), Y, steps=np.int32(2), guidance=np.float32(2.0), batch=np.int64(2))
    with pytest.raises(ValueError, match="guidance must be a finite number in 0 .. 100, got nan"):
        samplers.sample(TinyDiT(TINY), Y, guidance=np.float32(NAN))


def test_pictures_that_are_not_finite_are_an_error(run: Run) -> None:
    spoilt = copy.deepcopy(run.ema)
    spoilt.final.linear.bias.data.fill_(INF)  # clipping would make it a white picture
    for method in samplers.SAMPLERS:
        with pytest.raises(ValueError, match="the pictures are not finite: lower the guidance, or look for NaN"):
            samplers.sample(spoilt, Y, method=method)


@pytest.mark.parametrize(("labels", "said"), [(Y.repeat(9) + 10, "0 .. 9, got 10"), (Y.float(), "got torch.float32")])
def test_training_refuses_labels_before_the_first_step(
    digits: datasets.Dataset, labels: torch.Tensor, said: str
) -> None:
    n = len(labels)
    spoilt = datasets.Dataset("d", "s", digits.images[:n], labels, digits.held_images, digits.held_labels)
    with pytest.raises(ValueError, match=said):
        next(train(Run.new(TINY, SHORT), spoilt))
