"""Training as a generator: it yields a `Step` after every update, and whoever iterates owns the display.

    run = Run.new(DiTConfig(), TrainConfig())
    for step in train(run, data):
        ...                                    # look at step.loss, step.gates; sample from run.ema; stop when you like

Flow matching with Muon on the matrices inside the blocks and AdamW on everything else (embeddings, modulation, biases,
the final layer), gradient clipping and an exponential moving average of the weights.
"""

import contextlib
import copy
import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import Tensor, nn

from adaln_lab.blocks import sd15
from adaln_lab.data.datasets import Dataset
from adaln_lab.dit import DiTConfig, Precomputed, TinyDiT
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.layers import MLP, CrossAttention, SelfAttention
from adaln_lab.training.distributed import ALONE, World
from adaln_lab.training.muon import Muon

WITH_MATRICES = (SelfAttention, CrossAttention, MLP, sd15.Attention, sd15.GEGLU)  # what Muon is made for
MOST_LABELS = 64  # at which the gates are read
PRECISIONS = {
    "float32": "as written",
    "tf32": "inputs of products rounded to 10 bits, on NVIDIA GPUs from Ampere on; no change elsewhere",
    "bfloat16": "autocast: products and what follows them in 8 bits, sums and weights in float32",
}


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe. The defaults are the digits recipe."""

    data: str = "digits"
    steps: int = 220
    batch: int = 64
    lr: float = 5e-3  # AdamW: embeddings, modulation, biases, final layer
    muon_lr: float = 0.03  # Muon: the matrices of attention and MLP
    weight_decay: float = 0.0
    warmup: int = 10  # steps until the learning rate is full
    decay: float = 0.7  # share of the steps, at the end, over which it falls to zero
    label_drop: float = 0.1  # share of labels replaced by "no label", for guidance
    t_mean: float = 0.4  # of logit(t): a little towards noise, where the label is decided
    ema: float = 0.98
    clip: float = 1.0  # largest gradient norm
    seed: int = 0
    gates_every: int = 10  # steps between two readings of the gates
    precision: str = "float32"  # of the matrix products in forward and backward, see PRECISIONS
    compile: bool = False  # torch.compile the loss; on CUDA with CUDA graphs

    def __post_init__(self):
        for name in ("steps", "batch", "gates_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("label_drop", "ema", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("lr", "muon_lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")


@dataclass(frozen=True)
class Step:
    """What one update did."""

    number: int  # 1 after the first update
    loss: float
    lr: float  # AdamW's, after the schedule
    grad_norm: float  # before clipping
    gates: Tensor | None = None  # (depth, 2): root mean square gate of attention and MLP, every `gates_every` steps


@dataclass
class Run:
    """A training run in flight: everything that must be kept to go on exactly."""

    model: TinyDiT
    ema: TinyDiT  # the averaged weights; sample from these
    config: TrainConfig
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator  # draws batches, times, noise and dropped labels
    number: int = 0  # updates done
    history: list[Step] = field(default_factory=list)
    seconds: float = 0.0  # of training, over all starts, where somebody measures them
    torn: bool = False  # an update failed half-way: the weights are neither the old nor the new ones

    @classmethod
    def new(cls, model: DiTConfig | TinyDiT, config: TrainConfig, device: torch.device | str = "cpu") -> "Run":
        """A fresh run. The model's start and the draws of training both follow from config.seed."""
        if isinstance(model, DiTConfig):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                model = TinyDiT(model)
        model = model.to(device).train()
        generator = torch.Generator(device).manual_seed(config.seed)
        return cls(
            model, copy.deepcopy(model).eval().requires_grad_(False), config, make_optimizers(model, config), generator
        )


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices of attention and MLP, AdamW for all other parameters."""
    parts = [m for m in model.modules() if isinstance(m, WITH_MATRICES)]
    matrices = [p for part in parts for p in part.parameters() if p.dim() == 2]
    chosen = set(matrices)
    rest = [p for p in model.parameters() if p not in chosen]
    return [
        torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True),
        Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
    ]


def lr_factor(number: int, config: TrainConfig) -> float:
    """What multiplies the learning rates at update `number` (from 0): warm-up, flat, then a straight fall to 0."""
    warm = min(1.0, (number + 1) / max(1, config.warmup))
    left = (config.steps - number) / max(1, round(config.decay * config.steps))
    return min(warm, 1.0, left)


def train(run: Run, data: Dataset, world: World = ALONE) -> Iterator[Step]:
    """Update until config.steps are done, yielding a `Step` each time. ValueError where the loss is not finite.

    Interrupted or failed, a step has happened or it has not; whoever calls `train` again goes on exactly.
    """
    k, draw = run.config, data.batches(run.config.batch, run.generator)
    null = run.model.config.n_classes
    averaged, live = list(run.ema.parameters()), list(run.model.parameters())
    model, loss_of = world.spread(run.model), flow_loss
    if k.compile:
        loss_of = torch.compile(flow_loss, mode="reduce-overhead" if run.generator.device.type == "cuda" else None)
    while run.number < k.steps:
        with _whole_step(run):
            factor = lr_factor(run.number, k)
            for optimizer, lr in zip(run.optimizers, (k.lr, k.muon_lr), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = lr * factor
                optimizer.zero_grad()  # here, so that whatever stopped an earlier step leaves nothing behind
            pair = world.rows(flow_pair(*next(draw), null, k.label_drop, run.generator, k.t_mean))
            with _precision(k.precision, run.generator.device):
                loss = loss_of(model, pair)
                loss.backward()
            norm = nn.utils.clip_grad_norm_(live, k.clip)
            loss, grad_norm = torch.stack([world.mean(loss.detach()), norm]).tolist()  # a GPU is waited for once a step
            if not math.isfinite(grad_norm):  # a loss that is not finite gives such a norm, too
                raise ValueError(
                    f"training became non-finite at step {run.number + 1} (loss {loss:.4g}, gradient norm "
                    f"{grad_norm:.4g}); nothing was updated. Lower lr (now {k.lr}) or muon_lr (now {k.muon_lr}), "
                    "or look for NaN in the data"
                )
            run.torn = True
            for optimizer in run.optimizers:
                optimizer.step()
            with torch.no_grad():  # early averages forget faster, or they would remember the start
                torch._foreach_lerp_(averaged, live, 1 - min(k.ema, (run.number + 1) / (run.number + 11)))
            run.number += 1
            gates = gate_sizes(run.model) if run.number % k.gates_every == 0 or run.number == 1 else None
            run.history.append(Step(run.number, loss, k.lr * factor, grad_norm, gates))
            run.torn = False
        yield run.history[-1]


@contextlib.contextmanager
def _whole_step(run: Run) -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the step, a second one does not; after an error the random state is the
    one before it."""
    state, caught, held = run.generator.get_state(), [], {}

    def hold(number: int, frame: FrameType | None) -> None:
        if number in caught:
            signal.default_int_handler(number, frame)  # raises KeyboardInterrupt, for a step that hangs
        caught.append(number)

    if threading.current_thread() is threading.main_thread():  # others get no signals
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not None:  # None: somebody's handler that Python cannot put back
                held[number] = signal.signal(number, hold)
    try:
        yield
    except BaseException:
        run.generator.set_state(state)
        raise
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    for number in caught:
        signal.raise_signal(number)


@contextlib.contextmanager
def _precision(name: str, device: torch.device) -> Iterator[None]:
    """The arithmetic of PRECISIONS, as long as it is asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else before)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def gate_sizes(model: TinyDiT, times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)) -> Tensor | None:
    """(depth, 2): root mean square of attention and MLP gates over channels, classes, times; None without gates."""
    gates = read_gates(model, torch.tensor(times))
    return None if gates is None else gates.square().mean((2, 3, 4)).sqrt().cpu()


@torch.no_grad()
def read_gates(model: TinyDiT, times: Tensor) -> Tensor | None:
    """Every gate of the model, (depth, 2, times, K, D), for each label at the given times; None without gates.

    Where a condition has several tokens, the label stands in every place. Of more than MOST_LABELS labels, as many,
    evenly spaced: the cost of a reading must not grow with the vocabulary.
    """
    k, device = model.config, next(model.parameters()).device
    n = min(k.n_classes, MOST_LABELS)
    labels = torch.linspace(0, k.n_classes - 1, n).round().long().to(device)
    y = labels.repeat(len(times)).unsqueeze(1).expand(-1, k.context_length)
    t = times.to(device).repeat_interleave(n)
    pre = model.precompute(t, y)
    blocks = [block.modulations for block in pre.blocks] if isinstance(pre, Precomputed) else [()]  # a U-Net has none
    if not blocks[0] or blocks[0][0].gate is None:
        return None
    gates = torch.stack([torch.stack([branch.gate.squeeze(1) for branch in block]) for block in blocks])
    return gates.unflatten(2, (len(times), n))
