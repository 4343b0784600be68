"""Gradient onset: in which backward pass does each part of a fresh model first get a gradient?

    pass k:   L.backward();   record |dL/dW| for every part;   W <- W - lr * dL/dW

Many weights of a fresh adaLN-Zero model are zero. A gradient is a product of weights, so in pass 0 most parts get a
gradient of exactly zero; later updates reach them one after the other. A part is a parameter, or some of its rows
where these do different work: each vector of a modulation's Linear; q, k and v of attention's joint Linear.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adaln_lab.layers import SelfAttention
from adaln_lab.norms import ToModulation

ROLES = {  # text in a part's name -> what the part is in a TinyDiT; the first match counts
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


Part = tuple[nn.Parameter, slice]  # some rows of a parameter


class GradientOnset(NamedTuple):
    """Gradient norms of each part in the first backward passes."""

    names: list[str]  # of the parts, or of their roles
    steps: list[int]  # number of the backward pass, from 0
    norms: Tensor  # (names, steps): exactly 0 where no gradient arrives

    def by_role(self) -> "GradientOnset":
        """One row per role in a TinyDiT: the norm over all parts with that role. Other parts keep their names."""
        roles = [role(name) for name in self.names]
        names = sorted(set(roles), key=[*ROLES.values(), *roles].index)
        rows = [self.norms[[r == name for r in roles]].square().sum(0).sqrt() for name in names]
        return GradientOnset(names, self.steps, torch.stack(rows))


def role(name: str) -> str:
    """The role of a part of a TinyDiT: that of `blocks.0.to_modulation.linear.bias:gate1` is "gate rows"."""
    return next((role for key, role in ROLES.items() if key in name), name)


def named_parts(model: nn.Module) -> dict[str, Part]:
    """Every parameter by its name; where its rows do different work, as `name:gate0` (branch 0), `name:k` and so on."""
    row_groups = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, ToModulation):
            row_groups[f"{prefix}linear"] = [f"{vector}{i}" for i in range(module.branches) for vector in module.order]
        elif isinstance(module, SelfAttention):
            row_groups[f"{prefix}qkv"] = ["q", "k", "v"]
    parts = {}
    for name, p in model.named_parameters():
        groups = row_groups.get(name.rpartition(".")[0])
        if groups is None:
            parts[name] = p, slice(None)
            continue
        n = len(p) // len(groups)
        parts |= {f"{name}:{group}": (p, slice(i * n, (i + 1) * n)) for i, group in enumerate(groups)}
    return parts


def measure_gradient_onset(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int = 4, lr: float = 0.1
) -> GradientOnset:
    """Gradient norms of every part in `steps` backward passes, with an update after each. Works on a copy of `model`.

    loss(model) returns the scalar loss of one pass.
    """
    model = copy.deepcopy(model)
    parts, optimizer = named_parts(model), torch.optim.SGD(model.parameters(), lr=lr)
    norms = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        norms.append([0.0 if p.grad is None else p.grad[rows].norm().item() for p, rows in parts.values()])
        optimizer.step()
    return GradientOnset(list(parts), list(range(steps)), torch.tensor(norms, dtype=torch.float64).T)
