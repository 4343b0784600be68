"""One start of a training run, for shells and clusters: begin or go on, keep what is done, report what went wrong.

However a start ends (Ctrl-C, SIGTERM, kill -9, a full disk, a loss that is not finite, a lost GPU), the same command
with --resume goes on from the last checkpoint, and on a CPU with the same threads ends bit for bit as if never stopped.
"""

import logging
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from adaln_lab.data.datasets import Dataset
from adaln_lab.dit import DiTConfig
from adaln_lab.training import checkpoint
from adaln_lab.training.distributed import SINGLE_PROCESS, World
from adaln_lab.training.failures import explain
from adaln_lab.training.train import Run, TrainConfig, train
from adaln_lab.utils.checks import construct, finite
from adaln_lab.utils.environment import machine
from adaln_lab.utils.files import check_writable, hold, read_json, remove_temporary_files, write_json

SAVE_EVERY = 2.0  # seconds of training between two checkpoints, at the least
SAVE_SHARE = 0.05  # of the time that saving may take: where a save is slow, checkpoints are rarer
log = logging.getLogger("adaln_lab")


@dataclass
class Session:
    """Train a model into a folder."""

    folder: Path
    model: DiTConfig
    config: TrainConfig
    device: torch.device
    world: World = SINGLE_PROCESS
    resume: bool = False
    inexact: bool = False  # go on although torch, the data's source or the number of processes differ
    save_every: float = SAVE_EVERY  # 0: after every step, whatever it costs

    def train(self, data: Dataset) -> Run | None:
        """Train to the end, keeping checkpoints, the model and run.json; None where the run was finished already."""
        finite("save_every", self.save_every, 0, 10**6)
        if self.world.rank > 0:
            return self._train(data)
        check_writable(self.folder / "run.json")
        with hold(self.folder / ".lock"):
            return self._train(data)

    def _train(self, data: Dataset) -> Run | None:
        if self.world.broadcast(b"yes" if self.world.rank == 0 and self._finished() else b"no") == b"yes":
            self._say("the run in %s is finished; nothing to do", self.folder)
            return None
        run = self._start(data)
        self._say("%s, on %s; from step %d of %d", data.source, machine(self.device), run.number, self.config.steps)
        if self.world.rank == 0:
            remove_temporary_files(self.folder, checkpoint.FILES)
            self._write_record(run, data, finished=False)
        self._go(run, data)
        if self.world.rank == 0:
            checkpoint.save_model(run.ema, self.folder, data=data.name)
            self._write_record(run, data, finished=True)
        self._say("%d steps in %.1f s; kept in %s", run.number, run.seconds, self.folder)
        return run

    def facts(self, data: Dataset) -> dict[str, Any]:
        """Where a run is trained; all but the machine decide whether its end is the same bit for bit."""
        return {
            "data": data.source,
            "machine": machine(self.device),
            "processes": self.world.size,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _write_record(self, run: Run, data: Dataset, finished: bool) -> None:
        write_json(self.folder / "run.json", checkpoint.record(run, **self.facts(data)) | {"finished": finished})

    def _finished(self) -> bool:
        if not self.resume:
            if any((self.folder / name).exists() for name in (checkpoint.CHECKPOINT, "model.safetensors")):
                raise ValueError(
                    f"{self.folder} holds a run already; --resume goes on with it, another --out leaves it alone"
                )
            return False
        try:
            record = read_json(self.folder / "run.json")
            model, config = construct(DiTConfig, record["model"], ""), construct(TrainConfig, record["train"], "")
            checkpoint.load_model(self.folder)
        except (ValueError, KeyError):  # damaged or not there yet: the checkpoint decides
            return False
        self._check_same(model, config)
        return record.get("finished") is True

    def _start(self, data: Dataset) -> Run:
        """The run of the newest whole checkpoint, which rank 0 reads for all; a fresh one where there is none."""
        content = checkpoint.newest_whole(self.folder, self.device) if self.world.rank == 0 and self.resume else None
        content = self.world.broadcast(content or b"")
        if not content:
            if self.resume:
                self._say("no whole checkpoint in %s: starting afresh", self.folder)
            return Run.new(self.model, self.config, self.device)
        run, was = checkpoint.unpack_run(content, self.folder / checkpoint.CHECKPOINT, self.device)
        self._check_same(was.model, was.train)
        now = self.facts(data)
        for fact in ("data", "processes", "torch"):
            if (old := getattr(was, fact)) != now[fact] and not self.inexact:
                raise ValueError(
                    f"the checkpoint was made with {fact} {old}, here is {now[fact]}: the end would not be bit "
                    "for bit the same. Restore that, or add --inexact to go on all the same"
                )
        if was.threads != now["threads"]:
            self._say(
                "the run was started with %s threads, now %d: last bits may differ; OMP_NUM_THREADS sets their number",
                was.threads,
                now["threads"],
            )
        return run

    def _check_same(self, model: DiTConfig, config: TrainConfig) -> None:
        """ValueError where model or recipe are not those of the run in the folder."""
        for then, now in ((model, self.model), (config, self.config)):
            for name, value in asdict(now).items():
                if (old := getattr(then, name)) != value:
                    raise ValueError(f"the run was made with {name} {old}, asked for now is {value}; use another --out")

    def _go(self, run: Run, data: Dataset) -> None:
        steps = train(run, data, self.world)
        bar = tqdm(
            steps, total=run.config.steps, initial=run.number, unit="step", file=sys.stderr, disable=self.world.rank > 0
        )
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clusters send it before they kill
        clock, pause = time.perf_counter(), self.save_every
        due = clock + pause
        try:
            for step in bar:
                now = time.perf_counter()
                run.seconds, clock = run.seconds + now - clock, now
                if step.gates is not None:
                    bar.set_postfix(loss=f"{step.loss:.3f}", gate=f"{step.gates.mean():.3f}")
                if now >= due:
                    self._save(run, data)
                    saved = time.perf_counter()
                    if self.save_every:
                        pause = max(self.save_every, (saved - now) / SAVE_SHARE)
                    due = saved + pause
        except RuntimeError as error:
            if sentence := explain(error, run, self.folder):
                raise ValueError(sentence) from error
            raise
        except (KeyboardInterrupt, SystemExit, ValueError):  # stopped by hand, or a loss that is not finite
            self._save(run, data)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        self._save(run, data)
        run.seconds += time.perf_counter() - clock

    def _save(self, run: Run, data: Dataset) -> None:
        """A checkpoint of the last whole step."""
        if self.world.rank == 0 and run.number:
            checkpoint.save_run(run, self.folder / checkpoint.CHECKPOINT, **self.facts(data))

    def _say(self, text: str, *values: object) -> None:
        if self.world.rank == 0:
            log.info(text, *values)
