"""One start of a training run, for shells and clusters: go on or begin, keep what is done, say what went wrong.

However a start ends (Ctrl-C, SIGTERM, kill -9, a full disk, a loss that is not finite, a lost GPU), the same command
with --resume goes on from the last checkpoint, and on a CPU with the same threads ends bit for bit as if never stopped.
"""

import logging
import signal
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from adaln_lab.data.datasets import Dataset
from adaln_lab.dit import DiTConfig
from adaln_lab.training import checkpoint
from adaln_lab.training.distributed import ALONE, World
from adaln_lab.training.failures import explained
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.environment import machine
from adaln_lab.utils.files import read_json, remove_temporary_files, write_json

SAVE_EVERY = 2.0  # seconds of training between two checkpoints
log = logging.getLogger("adaln_lab")


@dataclass
class Session:
    """Train a model into a folder."""

    folder: Path
    model: DiTConfig
    config: TrainConfig
    device: torch.device
    world: World = ALONE
    resume: bool = False
    inexact: bool = False  # go on although torch, the data's source or the number of processes differ
    save_every: float = SAVE_EVERY

    def train(self, data: Dataset) -> Run | None:
        """Train to the end, keeping checkpoints, the model and run.json; None where the run was finished already."""
        if self.world.share(b"yes" if self.world.rank == 0 and self._finished() else b"no") == b"yes":
            self._say("the run in %s is finished; nothing to do", self.folder)
            return None
        run = self._start(data)
        self._say("%s, on %s; from step %d of %d", data.source, machine(self.device), run.number, self.config.steps)
        if self.world.rank == 0:
            remove_temporary_files(self.folder, checkpoint.FILES)
            write_json(self.folder / "run.json", self.about(run, data) | {"finished": False})
        self._go(run, data)
        if self.world.rank == 0:
            checkpoint.save_model(run.ema, self.folder, data=data.name)
            write_json(self.folder / "run.json", self.about(run, data) | {"finished": True})
        self._say("%d steps in %.1f s; kept in %s", run.number, run.seconds, self.folder)
        return run

    def about(self, run: Run, data: Dataset) -> dict[str, Any]:
        """What run.json holds, but whether the run is finished."""
        return {
            "data": data.source,
            "train": asdict(self.config),
            "machine": machine(self.device),
            "processes": self.world.size,
            "torch": torch.__version__,
            "date": str(date.today()),
            "seconds": round(run.seconds, 2),
            "loss": [round(step.loss, 4) for step in run.history],
            "gates": {step.number: step.gates.tolist() for step in run.history if step.gates is not None},
        }

    def _finished(self) -> bool:
        there = self.folder / "run.json"
        if not self.resume:
            if any((self.folder / name).exists() for name in (checkpoint.CHECKPOINT, "model.safetensors")):
                raise ValueError(
                    f"{self.folder} holds a run already; --resume goes on with it, another --out leaves it alone"
                )
            return False
        try:
            finished = read_json(there).get("finished", False)
            was = read_json(self.folder / "config.json")["model"], read_json(there)["train"]
        except (ValueError, KeyError):
            return False
        if finished:
            _same(was[0], asdict(self.model))
            _same(was[1], asdict(self.config))
        return finished and (self.folder / "model.safetensors").exists()

    def _start(self, data: Dataset) -> Run:
        """The run of the newest whole checkpoint, which rank 0 reads for all; a fresh one where there is none."""
        content = checkpoint.newest_whole(self.folder) if self.world.rank == 0 and self.resume else None
        content = self.world.share(content or b"")
        if not content:
            if self.resume:
                self._say("no whole checkpoint in %s: starting afresh", self.folder)
            return Run.new(self.model, self.config, self.device)
        run, about = checkpoint.unpack_run(content, self.folder / checkpoint.CHECKPOINT, self.device)
        _same(asdict(run.model.config), asdict(self.model))
        _same(asdict(run.config), asdict(self.config))
        for what, now in self._surroundings(data).items():
            if what != "threads" and about[what] != now and not self.inexact:
                raise ValueError(
                    f"the checkpoint was made with {what} {about[what]}, here is {now}: the end would not be bit for "
                    "bit the same. Restore that, or add --inexact to go on all the same"
                )
        if about["threads"] != torch.get_num_threads():
            self._say(
                "the run was started with %d threads, now %d: last bits may differ; OMP_NUM_THREADS sets their number",
                about["threads"],
                torch.get_num_threads(),
            )
        return run

    def _go(self, run: Run, data: Dataset) -> None:
        from tqdm import tqdm

        steps = train(run, data, self.world)
        bar = tqdm(
            steps, total=run.config.steps, initial=run.number, unit="step", file=sys.stderr, disable=self.world.rank > 0
        )
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clusters say so before they kill
        clock = saved = time.perf_counter()
        try:
            for step in bar:
                now = time.perf_counter()
                run.seconds, clock = run.seconds + now - clock, now
                if step.gates is not None:
                    bar.set_postfix(loss=f"{step.loss:.3f}", gate=f"{step.gates.mean():.3f}")
                if now - saved > self.save_every:
                    self._save(run, data)
                    saved = clock = time.perf_counter()
        except (RuntimeError, torch.OutOfMemoryError) as error:
            raise explained(error, run, data, self.folder) from error
        except (KeyboardInterrupt, SystemExit, ValueError):  # stopped by hand, or a loss that is not finite
            self._save(run, data)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        self._save(run, data)

    def _save(self, run: Run, data: Dataset) -> None:
        """A checkpoint of the last whole step."""
        if self.world.rank == 0 and run.number and not run.torn:
            checkpoint.save_run(run, self.folder / checkpoint.CHECKPOINT, **self._surroundings(data))

    def _surroundings(self, data: Dataset) -> dict[str, Any]:
        """What must be the same for an end that is the same bit for bit, beside model and recipe."""
        return {
            "torch": torch.__version__,
            "processes": self.world.size,
            "threads": torch.get_num_threads(),
            "data": data.source,
        }

    def _say(self, text: str, *values: object) -> None:
        if self.world.rank == 0:
            log.info(text, *values)


def _same(was: dict[str, Any], now: dict[str, Any]) -> None:
    for name in now:
        if was.get(name) != now[name]:
            raise ValueError(
                f"the run was made with {name} {was.get(name)}, asked for now is {now[name]}; use another --out"
            )
