"""python -m adaln_lab train | sample | evaluate | compare | schemes | zoo | xray | progress."""

import _thread
import os
import signal
import sys
import threading
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while modules load: there is nothing to undo, and no library in between that could swallow it."""
    os.write(2, b"adaln_lab: stopped\n")
    os._exit(130)


def _again(ignored: "sys.UnraisableHookArgs") -> None:
    """Python ignores a Ctrl-C inside a callback, of an import's lock say: here it comes again a little later."""
    if not issubclass(ignored.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
    else:
        threading.Timer(0.05, _thread.interrupt_main).start()


if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _stop)

import argparse
import atexit
import errno
import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from adaln_lab.conditioning import VARIANTS
from adaln_lab.data import datasets, emoji, scene_reader, scenes
from adaln_lab.dit import TinyDiT
from adaln_lab.experiments import classifier, sweep
from adaln_lab.samplers import BATCH, MOST_PICTURES, SAMPLERS, STEPS, sample
from adaln_lab.training import checkpoint, distributed
from adaln_lab.training.recipes import recipe
from adaln_lab.training.session import SAVE_EVERY, Session
from adaln_lab.training.train import PRECISIONS
from adaln_lab.utils.assets import ASSETS
from adaln_lab.utils.checks import whole
from adaln_lab.utils.environment import pick_device
from adaln_lab.utils.files import atomic_write, check_writable, to_json, write_json

DATA = ["digits", "scenes", "pairs", "emoji", *datasets.TORCHVISION]
log = logging.getLogger("adaln_lab")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        try:
            return _run(parser().parse_args(arguments))
        finally:
            print(end="", flush=True)  # so that an output that cannot be written is noticed here
    except KeyboardInterrupt:
        print("adaln_lab: stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
        if error.errno == errno.EPIPE:  # the reader has gone, as in `| head`
            return 141  # what shells report for a program that SIGPIPE ended
        print(f"adaln_lab: cannot write the output ({error.strerror})", file=sys.stderr)
        return 2
    except ImportError as error:  # compiled modules turn a Ctrl-C during their start into one
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        print("adaln_lab: stopped", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # some code pages lack the dots of `progress`
    try:
        options.command(options)
    except ValueError as error:  # the package refuses with ValueError: what was expected, what came, what to do
        print(f"adaln_lab: {error}", file=sys.stderr)
        return 2
    return 0


def _path(text: str) -> Path:
    if not text.strip() or len(text) > 1000:
        raise argparse.ArgumentTypeError(f"expected a path of 1 to 1000 letters, got {text!r:.60}; . is this folder")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("python -m adaln_lab", description=__doc__)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], None], text: str) -> Callable[..., argparse.Action]:
        """Add the command `command_NAME`; returns what adds its options."""
        add = commands.add_parser(run.__name__.removeprefix("command_"), help=text, formatter_class=_Help)
        add.set_defaults(command=run)
        return add.add_argument

    add = command(command_train, "train a TinyDiT and keep it in a folder")
    add("--data", choices=DATA, default="digits", help="what to learn")
    add("--out", type=_path, required=True, metavar="DIR", help="the folder of the run")
    add("--variant", choices=list(VARIANTS), help="how the condition enters (default: the recipe's)")
    add("--encoder", type=int, default=0, metavar="N", help="blocks that the caption passes before pooling")
    add("--steps", type=int, help="updates (default: the recipe's)")
    add("--batch", type=int, help="pictures an update (default: the recipe's)")
    add("--seed", type=int, default=0, help="start of the model and draws of training")
    add("--precision", choices=list(PRECISIONS), help="of matrix products (default: the recipe's)")
    add("--compile", action="store_true", default=None, help="torch.compile the loss")
    add("--graph", action="store_true", default=None, help="on CUDA: each update as one CUDA graph")
    add("--resume", action="store_true", help="go on from the checkpoint in DIR, if there is one")
    add("--inexact", action="store_true", help="resume also where torch, data or number of processes differ")
    add("--save-every", type=float, default=SAVE_EVERY, metavar="S", help="seconds between checkpoints")
    _device(add)

    add = command(command_sample, "draw pictures from a trained run")
    add("--run", type=_path, required=True, metavar="DIR", help="a folder that train made, or a shipped model: emoji")
    add("--labels", default=None, metavar="0,1,2", help="labels, cycled; for scenes sentences with ; between")
    add("--prompt", metavar="WORDS", help="for emoji: what to draw, such as 'red book'; several with ; between")
    add("--style", choices=emoji.STYLES, help=f"for emoji: whose drawing (default: {emoji.STYLES[0]})")
    add("--n", type=int, default=100, help="pictures in all")
    add("--out", type=_path, required=True, metavar="FILE", help=".png for a grid, .npz for arrays")
    _sampling(add)

    add = command(command_evaluate, "measure a trained run; one line of JSON")
    add("--run", type=_path, required=True, metavar="DIR", help="a folder that train made, or a shipped model: emoji")
    add("--n", type=int, default=1000, help="samples to measure, labels cycled; of emoji, captions of training")
    _sampling(add)

    add = command(command_schemes, "compare residual schemes over depth and learning rate")
    add("--out", type=_path, required=True, metavar="FILE", help="a .json file; what it holds is not rerun")
    add("--seeds", type=int, default=len(sweep.SEEDS), help="runs of each kind")

    add = command(command_compare, "compare the ways in which a condition enters")
    add("--out", type=_path, required=True, metavar="FILE", help="a .json file; what it holds is not rerun")
    add("--seeds", type=int, default=3, help="runs of each kind; of pairs, two more where the question is how fast")
    add("--jobs", type=int, default=1, help="runs at a time, one thread each")
    add("--data", choices=["pairs", "emoji"], default="pairs", help="scenes of two objects, or style and noun of emoji")

    add = command(command_zoo, "count modulation in published models (needs diffusers)")
    add("--out", type=_path, metavar="FILE", help="keep the numbers as JSON")

    add = command(command_xray, "say whether and how a model is modulated")
    add("model", nargs="?", help="package.module:factory (gives a module, or module and run) or diffusers:Class")
    add("--config", type=_path, metavar="FILE", help="configuration of a class of diffusers (default: its own)")
    add("--census", action="store_true", help="read every transformer class of the installed diffusers")
    add("--out", type=_path, metavar="FILE", help="keep the census as JSON")

    add = command(command_progress, "say what is solved and what comes next")
    add("--reset", action="store_true", help="forget it; the file is kept beside, as progress.json.bak")
    add("--own", type=_path, metavar="DIR", help="copy the notebooks into your own folder, with a page to start from")
    return top


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, but not "None" or "False"."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def _device(add: Callable[..., argparse.Action]) -> None:
    add("--device", help="cpu, cuda or mps (default: $ADALN_LAB_DEVICE, else the best there is)")


def _sampling(add: Callable[..., argparse.Action]) -> None:
    add("--guidance", type=float, default=1.0, help="1 is the plain model, 0 ignores the label")
    add("--steps", type=int, default=STEPS, help="sampler steps")
    add("--method", choices=list(SAMPLERS), default="euler", help="sampler")
    add("--seed", type=int, default=0, help="starting noise")
    _device(add)


def command_train(o: argparse.Namespace) -> None:
    with distributed.join(pick_device(o.device)) as (world, device):
        model, config = recipe(o.data, device)
        options = ("steps", "batch", "seed", "precision", "compile", "graph")
        changed = {name: getattr(o, name) for name in options if getattr(o, name) is not None}
        model = replace(model, variant=o.variant or model.variant, encoder=o.encoder)
        config = replace(config, **changed)
        session = Session(o.out, model, config, device, world, o.resume, o.inexact, o.save_every)
        session.train(datasets.load(o.data, device, model.size))


def _load(o: argparse.Namespace) -> tuple[TinyDiT, str]:
    shipped = ASSETS / f"dit_{o.run}"
    folder = shipped if not os.path.lexists(o.run) and os.path.isdir(shipped) else o.run
    return checkpoint.load_model(folder, pick_device(o.device)), checkpoint.read_about(folder).data


def _labels(text: str | None, n: int, model: TinyDiT, data: str) -> torch.Tensor:
    """n labels or captions: those named in `text`, cycled; without text all labels in turn, or random captions."""
    k = model.config
    whole("n", n, 1, MOST_PICTURES)
    if data == "emoji":
        labels = datasets.load("emoji", size=16).labels
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    elif k.context_length > 1:
        objects = (k.context_length - len(scenes.GLOBAL)) // len(scenes.LOCAL)
        if text is None:
            return scenes.random_scenes(n, torch.Generator().manual_seed(1), objects)
        labels = scenes.parse(text.split(";"), objects)
    else:
        try:
            asked = range(k.n_classes) if text is None else [int(part) for part in text.split(",")]
        except ValueError:
            raise ValueError(f"labels must be integers with commas between, like 0,1,2; got {text!r:.60}") from None
        labels = torch.tensor([whole("labels", label, 0, k.n_classes - 1) for label in asked])
    return labels[torch.arange(n) % len(labels)]


def _bar(total: int | None, unit: str) -> tqdm:
    """A progress bar on stderr, with the time left; it is not shown if the work takes less than a second."""
    return tqdm(total=total, unit=unit, file=sys.stderr, delay=1)


def _draw(model: TinyDiT, labels: torch.Tensor, steps: int = STEPS, **how: Any) -> torch.Tensor:
    with _bar(-(-len(labels) // BATCH) * steps, "step") as bar:
        return sample(model, labels, steps, **how, each=bar.update)


def _how(o: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(o, name) for name in ("steps", "guidance", "method", "seed")}


def command_sample(o: argparse.Namespace) -> None:
    if o.out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {o.out.name!r:.60}")
    check_writable(o.out)
    model, data = _load(o)
    is_emoji = data == "emoji"
    if o.labels if is_emoji else o.prompt is not None or o.style:
        raise ValueError("--prompt and --style are for models of emoji, and --labels for all others; see sample --help")
    if o.style and o.prompt is None:
        raise ValueError("--style is for what --prompt asks for; without a prompt both styles are drawn")
    if is_emoji and o.prompt is not None:
        rows = emoji.parse(o.prompt.split(";"), o.style or emoji.STYLES[0])
        labels = rows[torch.arange(whole("n", o.n, 1, MOST_PICTURES)) % len(rows)]
    else:
        labels = _labels(o.labels, o.n, model, data)
    images = _draw(model, labels, **_how(o)).cpu()
    if o.out.suffix == ".npz":
        import numpy as np

        def write(file: Path) -> None:
            with file.open("wb") as stream:  # a path would get the ending .npz
                np.savez(stream, images=images.numpy(), labels=labels.numpy())

    else:
        from matplotlib.image import imsave

        from adaln_lab.display.plots import picture_grid

        def write(file: Path) -> None:
            grid = picture_grid(images, columns=min(10, o.n)).repeat(4, 0).repeat(4, 1)
            imsave(file, grid, cmap="gray", vmin=0, vmax=1, format="png")

    atomic_write(o.out, write)


def command_evaluate(o: argparse.Namespace) -> None:
    from adaln_lab.experiments import emoji_study

    model, name = _load(o)
    data = datasets.load(name, next(model.parameters()).device, model.config.size if name == "emoji" else None)
    start = time.perf_counter()
    if name == "emoji":
        whole("n", o.n, 1, MOST_PICTURES)
        quality = emoji_study.quality(data, lambda rows: _draw(model, rows, **_how(o)), o.n)
        seconds = time.perf_counter() - start  # the classifier's among them
    else:
        labels = _labels(None, o.n, model, name)
        images = _draw(model, labels, **_how(o))
        seconds = time.perf_counter() - start
        labels = labels.to(images.device)
        if labels.dim() == 2:  # scenes are read back, factor by factor
            quality = scene_reader.scene_accuracy(images, labels)
        else:
            quality = asdict(classifier.evaluate(images, labels, data, classifier.load_classifier(data)))
        quality = {key: round(value, 4) for key, value in quality.items()}
    print(to_json(quality | {"seconds": round(seconds, 3), "n": o.n}))


def _log_trials(total: int | None, results: Iterator[tuple[Any, Any]]) -> None:
    with _bar(total, "trial") as bar, logging_redirect_tqdm():
        for trial, result in results:
            log.info("%s: %s", trial, result)
            bar.update()


def command_schemes(o: argparse.Namespace) -> None:
    _log_trials(sweep.missing(o.out, o.seeds), sweep.run(o.out, o.seeds))


def command_compare(o: argparse.Namespace) -> None:
    from adaln_lab.experiments import comparison, emoji_study

    study = emoji_study if o.data == "emoji" else comparison
    trials = study.run(o.out, o.seeds, o.jobs)
    losses = ((trial, result.get("failed") or f"loss {result['loss']:.4f}") for trial, result in trials)
    _log_trials(None, losses)  # how many rates have to be tried shows on the way


def command_zoo(o: argparse.Namespace) -> None:
    from adaln_lab.blocks import budget
    from adaln_lab.blocks.zoo import ZOO

    if o.out:
        check_writable(o.out)
    found = {key: budget.total(key) for key in tqdm(ZOO, unit="model", file=sys.stderr, delay=1)}
    for key, n in found.items():
        share = 100 * n["modulation"] / n["parameters"]
        print(f"{ZOO[key].title:28}{n['parameters']:16,}{n['modulation']:15,}{share:7.2f} %")
    if o.out:
        write_json(o.out, {"command": "python -m adaln_lab zoo --out FILE", "date": str(date.today()), "models": found})


def command_xray(o: argparse.Namespace) -> None:
    from adaln_lab.analysis.xray import published, xray

    if o.census:
        command_census(o)
        return
    if o.model is None:
        raise ValueError("which model? Give package.module:factory, diffusers:Class, or --census")
    module, runs = published.load(o.model, o.config)
    report = xray(module, *runs[:1])
    if report.verdict == "unknown" and o.model.startswith("diffusers:") and next(module.parameters()).is_meta:
        small, run = published.small(o.model, o.config)  # with values, which tell more
        module, report = (small, xray(small, run)) if run else (module, report)
    print(report)
    if o.model.startswith("diffusers:") and not next(module.parameters()).is_meta:
        print("because this is a small instance, with two layers of each kind and values")
    if not runs and o.model.startswith("diffusers:"):
        print("because no arguments were found with which it runs: call xray(model, run) in Python")


def command_census(o: argparse.Namespace) -> None:
    from adaln_lab.analysis.xray import census

    if o.out:
        check_writable(o.out)
    found, rows = census.classes(), []
    for row in tqdm(census.census(found), total=len(found), unit="class", file=sys.stderr, delay=1):
        rows.append(row)
        print(census.line(row))
    told = sum(row["verdict"] != "unknown" for row in rows)
    print(f"{told} of {len(rows)} classes have a verdict")
    if o.out:
        made = {"command": "python -m adaln_lab xray --census --out FILE", "date": str(date.today())}
        write_json(o.out, made | {"diffusers": census.version(), "rows": rows})


def command_progress(o: argparse.Namespace) -> None:
    from adaln_lab.exercises import own_copy, progress, reset_progress
    from adaln_lab.exercises.welcome import write_welcome

    if o.reset:
        print(f"forgotten: {reset_progress()} solved")
    if o.own:
        notes = own_copy.update(Path("notebooks"), o.own)
        write_welcome(o.own / "welcome.ipynb", o.own, notes)
        print("\n".join([*notes, f"your own copy of the course is in {o.own}: start with welcome.ipynb"]))
    else:
        progress()


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = _again
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done, or told about
    if code == 130:  # where Ctrl-C has come inside an exec(), Python would end itself by SIGINT, with another code
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)
