"""Training as a generator: it yields a `Step` after every update, and the caller's loop does the display.

    run = Run.new(DiTConfig(), TrainConfig())
    for step in train(run, data):
        ...                                    # look at step.loss, step.gates; sample from run.ema; stop when you like

Flow matching with Muon on the matrices inside the blocks and AdamW on everything else (embeddings, modulation, biases,
the final layer), gradient clipping and an exponential moving average of the weights.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from adaln_lab.data.datasets import Dataset
from adaln_lab.dit import DiTConfig, Precomputed, TinyDiT
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.training.distributed import SINGLE_PROCESS, World
from adaln_lab.training.graph import captured
from adaln_lab.training.optimizers import make_optimizers, make_state
from adaln_lab.utils.checks import Count, Range, Seed, Share, Text, check_fields, check_labels

MOST_LABELS = 64  # at which the gates are read
PRECISIONS = {
    "float32": "as written",
    "tf32": "inputs of products rounded to 10 bits, on NVIDIA GPUs from Ampere on; no change elsewhere",
    "bfloat16": "autocast: products and what follows them in 8 bits, sums and weights in float32",
}
Rate = Annotated[float, Range(1e-12, 1000)]


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe. The defaults are the digits recipe."""

    data: Text = "digits"
    steps: Annotated[int, Range(1, 10**7)] = 220
    batch: Count = 64
    lr: Rate = 5e-3  # AdamW: embeddings, modulation, biases, final layer
    muon_lr: Rate = 0.03  # Muon: the matrices of attention and MLP
    weight_decay: Annotated[float, Range(0, 100)] = 0.0
    warmup: Annotated[int, Range(0, 10**7)] = 10  # steps until the learning rate is full
    decay: Share = 0.7  # share of the steps, at the end, over which it falls to zero
    label_drop: Share = 0.1  # share of labels replaced by "no label", for guidance
    t_mean: Annotated[float, Range(-10, 10)] = 0.4  # of logit(t): a little towards noise, where the label is decided
    ema: Share = 0.98
    clip: Annotated[float, Range(1e-9, 10**9)] = 1.0  # largest gradient norm
    seed: Seed = 0
    gates_every: Annotated[int, Range(1, 10**7)] = 10  # steps between two readings of the gates
    precision: Annotated[str, PRECISIONS] = "float32"  # of the matrix products in forward and backward
    compile: bool = False  # torch.compile the loss
    graph: bool = False  # on CUDA: replay the whole update as one CUDA graph, and stop only where the gates are read

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Step:
    """What one update did."""

    number: Annotated[int, Range(1, 10**7)]  # 1 after the first update
    loss: float
    lr: float  # AdamW's, after the schedule
    grad_norm: float  # before clipping
    # Every `gates_every` steps, for each block the root mean square gate of attention and of MLP. Numbers, because a
    # history of small tensors, each made among large temporary ones, keeps the allocator from using their memory again.
    gate_rms: list[Annotated[list[float], Range(2, 2)]] | None = None

    @property
    def gates(self) -> Tensor | None:
        """`gate_rms` as a tensor (depth, 2)."""
        return None if self.gate_rms is None else torch.tensor(self.gate_rms)


@dataclass
class Run:
    """The state of a training run: everything that must be kept to go on exactly.

    An update changes it as a whole or not at all: `begin` copies what an update changes, and `undo` takes back an
    update that was stopped half-way, whether by Ctrl-C, lack of memory or any other exception.
    """

    model: TinyDiT
    ema: TinyDiT  # the averaged weights; sample from these
    config: TrainConfig
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator  # draws batches, times, noise and dropped labels
    number: int = 0  # updates done
    history: list[Step] = field(default_factory=list)
    seconds: float = 0.0  # wall-clock time of all starts, saving included; `Session` measures it
    _begun: int = field(default=0, init=False, repr=False)  # the latest update that was begun: number, or number + 1
    _copies: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _random: Tensor | None = field(default=None, init=False, repr=False)

    @classmethod
    def new(cls, model: DiTConfig | TinyDiT, config: TrainConfig, device: torch.device | str = "cpu") -> "Run":
        """A fresh run. The model's start and the draws of training both follow from config.seed."""
        if isinstance(model, DiTConfig):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                model = TinyDiT(model)
        model = model.to(device).train()
        ema = copy.deepcopy(model).eval().requires_grad_(False)
        optimizers = make_optimizers(model, config.lr, config.muon_lr, config.weight_decay)
        for optimizer in optimizers:
            make_state(optimizer)
        return cls(model, ema, config, optimizers, torch.Generator(device).manual_seed(config.seed))

    @torch.no_grad()
    def begin(self) -> None:
        """Copy the state before an update. Takes about 1 % of a step; the copy is as large as a checkpoint."""
        self.undo()
        tensors = self._tensors()
        if not self._copies:
            self._copies = [torch.empty_like(t) for t in tensors]
        torch._foreach_copy_(self._copies, tensors)
        self._random = self.generator.get_state()
        self._begun = self.number + 1

    @torch.no_grad()
    def undo(self) -> None:
        """Take back the update that was begun and is not done, if there is one; can be interrupted and repeated."""
        if self._begun <= self.number:
            return
        torch._foreach_copy_(self._tensors(), self._copies)
        self.generator.set_state(self._random)
        while self.history and self.history[-1].number > self.number:
            self.history.pop()
        self._begun = self.number

    def _tensors(self) -> list[Tensor]:
        """All tensors that an update changes."""
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        return [*self.model.parameters(), *self.ema.parameters(), *(t for state in states for t in state.values())]


def lr_factor(number: int, config: TrainConfig) -> float:
    """What multiplies the learning rates at update `number` (from 0): warm-up, flat, then a straight fall to 0."""
    warm = min(1.0, (number + 1) / max(1, config.warmup))
    left = (config.steps - number) / max(1, round(config.decay * config.steps))
    return min(warm, 1.0, left)


def train(run: Run, data: Dataset, world: World = SINGLE_PROCESS) -> Iterator[Step]:
    """Update until config.steps are done, yielding a `Step` each time.

    An exception at any point, Ctrl-C included, leaves the run as the last yielded step left it: call `train` again to
    go on exactly. ValueError where the loss is not finite or a label does not fit the model.
    """
    k, model = run.config, run.model.config
    check_labels(data.labels, len(data.images), model.n_classes - 1, model.context_length)  # n_classes means "no label"
    update, with_grad = _Update(run, data, world), torch.is_grad_enabled()
    while run.number < k.steps:
        try:
            run.begin()
            # one update; of a graph all updates up to the next reading, as looking at a number waits for the GPU
            numbers = range(run.number, min(_next_reading(run.number, k) if k.graph else run.number + 1, k.steps))
            values = torch.stack([update(n) for n in numbers]).tolist()
            steps = [
                Step(n + 1, loss, k.lr * lr_factor(n, k), norm) for n, (loss, norm) in zip(numbers, values, strict=True)
            ]
            # a loss that is not finite has such a norm, too
            if bad := next((step for step in steps if not math.isfinite(step.grad_norm)), None):
                raise ValueError(
                    f"training became non-finite at step {bad.number} (loss {bad.loss:.4g}, gradient norm "
                    f"{bad.grad_norm:.4g}); the run is left as after step {run.number}. Lower lr (now {k.lr}) or "
                    f"muon_lr (now {k.muon_lr}), or look for NaN in the data"
                )
            if steps[-1].number in (1, _next_reading(run.number, k)):
                gates = gate_sizes(run.model)
                steps[-1] = replace(steps[-1], gate_rms=None if gates is None else gates.tolist())
            run.history += steps
            run.number = steps[-1].number  # done; no interrupt can come before the yield: Python takes them at calls
        except BaseException:
            run.undo()
            torch.set_grad_enabled(with_grad)  # an interrupt inside `no_grad` can leave gradients switched off
            raise
        yield steps[-1]


def _next_reading(number: int, config: TrainConfig) -> int:
    """The next update, after `number`, at whose end the gates are read."""
    return 1 if number == 0 else number - number % config.gates_every + config.gates_every


class _Update:
    """update(number) -> (loss, gradient norm) of one update, `number` of them done before; it never waits for a GPU."""

    def __init__(self, run: Run, data: Dataset, world: World):
        self.run, self.world, k = run, world, run.config
        self.draw = data.batches(k.batch, run.generator)
        self.live, self.averaged = list(run.model.parameters()), list(run.ema.parameters())
        self.model = world.wrap_ddp(run.model)
        self.loss_of = torch.compile(flow_loss) if k.compile else flow_loss
        self.compute = self._compute
        if k.graph:
            for group in self._groups():  # a graph reads its numbers from the device's memory
                group.update(lr=torch.zeros((), device=run.generator.device), capturable=True)
            self.compute = captured(run, self._compute, world)

    def __call__(self, number: int) -> Tensor:
        k = self.run.config
        for group, lr in zip(self._groups(), (k.lr, k.muon_lr), strict=True):
            lr *= lr_factor(number, k)
            if k.graph:
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        found = self.compute()
        with torch.no_grad():  # early averages forget faster, or they would remember the start
            torch._foreach_lerp_(self.averaged, self.live, 1 - min(k.ema, (number + 1) / (number + 11)))
        return found

    def _groups(self) -> list[dict]:
        return [group for optimizer in self.run.optimizers for group in optimizer.param_groups]

    def _compute(self) -> Tensor:
        """All but the average: one batch, the gradient, both optimisers."""
        run, k = self.run, self.run.config
        for optimizer in run.optimizers:
            optimizer.zero_grad()  # here, so that a step that was stopped leaves no gradients behind
        null = run.model.config.n_classes
        pair = self.world.shard(flow_pair(*next(self.draw), null, k.label_drop, run.generator, k.t_mean))
        with _precision(k.precision, run.generator.device):
            loss = self.loss_of(self.model, pair)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.live, k.clip)
        for optimizer in run.optimizers:
            optimizer.step()
        return torch.stack([self.world.mean(loss.detach()), norm])


@contextlib.contextmanager
def _precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute in one of PRECISIONS inside the context."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else before)
    try:
        # without a cache, as an interrupt could leave old weights in it
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16", cache_enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def gate_sizes(model: TinyDiT) -> Tensor | None:
    """(depth, 2): root mean square of attention and MLP gates over channels, classes, times; None without gates."""
    gates = read_gates(model, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    return None if gates is None else gates.square().mean((2, 3, 4)).sqrt().cpu()


@torch.no_grad()
def read_gates(model: TinyDiT, times: Tensor) -> Tensor | None:
    """Every gate of the model, (depth, 2, times, K, D), for each label at the given times; None without gates.

    Where a condition has several tokens, the label stands in every place. Of more than MOST_LABELS labels, as many,
    evenly spaced: the cost of a reading must not grow with the vocabulary.
    """
    k, like = model.config, next(model.parameters())
    n = min(k.n_classes, MOST_LABELS)
    labels = torch.linspace(0, k.n_classes - 1, n).round().long().to(like.device)
    y = labels.repeat(len(times)).unsqueeze(1).expand(-1, k.context_length)
    t = times.to(like).repeat_interleave(n)
    pre = model.precompute(t, y)
    blocks = [block.modulations for block in pre.blocks] if isinstance(pre, Precomputed) else [()]  # a U-Net has none
    if not blocks[0] or blocks[0][0].gate is None:
        return None
    gates = torch.stack([torch.stack([branch.gate.squeeze(1) for branch in block]) for block in blocks])
    return gates.unflatten(2, (len(times), n))
