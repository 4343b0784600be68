"""The wake-up probe: which parts of a model does the loss reach, backward pass by backward pass?

    pass k:   L.backward();   note |dL/dW| for every part;   W <- W - lr * dL/dW  (SGD), or Adam's step

A fresh adaLN-Zero model is full of zeros, and a gradient is a product: most parts get exactly nothing in pass 0 and
wake one after the other. A part is a parameter, cut where its rows do different work: the Linear behind a modulation
into its vectors, attention's joint Linear into q, k and v.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adaln_lab.layers import SelfAttention
from adaln_lab.norms import ToModulation

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
ROLES = {  # what stands in a part's name -> what it is in a TinyDiT; the first that fits
    "final.linear": "final linear",
    "final.to_modulation": "final AdaLN",
    "x_embed": "patch embedding",
    "t_embed": "time embedding",
    "y_embed": "label embedding",
    ":gate": "gate rows",
    ":scale": "scale rows",
    ":shift": "shift rows",
    "qkv.bias:k": "key bias",
    "attn": "attention",
    "mlp": "MLP",
}


class Part(NamedTuple):
    """Some rows of a parameter."""

    parameter: nn.Parameter
    rows: slice

    @property
    def numel(self) -> int:
        return self.parameter[self.rows].numel()


class WakeUp(NamedTuple):
    """What a probe saw."""

    names: list[str]  # of the parts, or of their roles
    steps: list[int]  # number of the backward pass, from 0
    norms: Tensor  # (names, steps): gradient norms, exactly 0 where nothing arrives
    losses: Tensor  # (steps,): before the update

    def by_role(self) -> "WakeUp":
        """One row for each role in a TinyDiT: the norm over all parts that share it. Other parts keep their names."""
        roles = [role(name) for name in self.names]
        names = sorted(set(roles), key=[*ROLES.values(), *roles].index)
        rows = [self.norms[[r == name for r in roles]].square().sum(0).sqrt() for name in names]
        return WakeUp(names, self.steps, torch.stack(rows), self.losses)


def role(name: str) -> str:
    """What a part of a TinyDiT does, in words: `blocks.0.to_modulation.linear.bias:gate1` is among the gate rows."""
    return next((role for key, role in ROLES.items() if key in name), name)


def named_parts(model: nn.Module) -> dict[str, Part]:
    """Every parameter by its name; where rows do different work, `name:gate0` (branch 0), `name:k` and the like."""
    jobs = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, ToModulation):
            jobs[f"{prefix}linear"] = [f"{vector}{i}" for i in range(module.branches) for vector in module.order]
        elif isinstance(module, SelfAttention):
            jobs[f"{prefix}qkv"] = ["q", "k", "v"]
    parts = {}
    for name, p in model.named_parameters():
        pieces = jobs.get(name.rpartition(".")[0])
        if pieces is None:
            parts[name] = Part(p, slice(None))
            continue
        n = len(p) // len(pieces)
        parts |= {f"{name}:{piece}": Part(p, slice(i * n, (i + 1) * n)) for i, piece in enumerate(pieces)}
    return parts


def probe_wakeup(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int = 4, optimizer: str = "sgd", lr: float = 0.1
) -> WakeUp:
    """Gradient norms of every part in `steps` backward passes, an update after each. `model` itself is left as it is.

    loss(model) gives the scalar of one pass; optimizer is "sgd" (plain) or "adam" (torch's other defaults).
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    model = copy.deepcopy(model)
    parts, update = named_parts(model), OPTIMIZERS[optimizer](model.parameters(), lr=lr)
    norms, losses = [], []
    for _ in range(steps):
        update.zero_grad()
        value = loss(model)
        value.backward()
        norms.append([0.0 if p.grad is None else p.grad[rows].norm().item() for p, rows in parts.values()])
        losses.append(value.item())
        update.step()
    norms, losses = torch.tensor(norms, dtype=torch.float64), torch.tensor(losses, dtype=torch.float64)
    return WakeUp(list(parts), list(range(steps)), norms.T, losses)
