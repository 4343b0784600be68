"""What modulation costs in the published models, counted on the meta device: shapes only, nothing is allocated.

share = parameters that see only the conditioning vector / all parameters of the model
"""

import re

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adaln_lab.blocks.zoo import ZOO
from adaln_lab.utils import assets


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def total(key: str) -> dict[str, int]:
    """Parameters of a whole model as published: all, and those of modulation.

    Of the latter, also how many there would be if no block shared its Linear with another ("own"), and if all blocks of
    a kind did ("shared").
    """
    spec = ZOO[key]
    with torch.device("meta"):
        model = spec.full()
    sizes = {name: p.numel() for name, p in model.named_parameters() if any(part in name for part in spec.modulation)}
    own = sum(n * next((k for part, k in spec.readers.items() if part in name), 1) for name, n in sizes.items())
    kinds = {(re.sub(r"\d+", "*", name), n): n for name, n in sizes.items()}  # blocks.0.x and blocks.1.x are one kind
    found = sum(sizes.values())
    shared = found if spec.readers else sum(kinds.values())
    return {"parameters": parameters(model), "modulation": found, "own": own, "shared": shared}


def stored_totals() -> dict[str, dict[str, int]]:
    """`total` of every model, as shipped: made by `python -m adaln_lab zoo`, so that reading it needs no diffusers."""
    return assets.stored("zoo")["models"]


def flops(key: str, tokens: int = 4096, text_tokens: int = 154) -> tuple[int, int]:
    """FLOPs of one block at its published width for one picture: all, and those of modulation."""
    spec = ZOO[key]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        block = spec.build(spec.width, spec.heads)
        block(*spec.example(spec.width, 1, tokens, text_tokens))
    counts = counter.get_flop_counts()
    prefix = f"{type(block).__name__}."
    modulation = [k for k in counts if k.startswith(prefix) and k.rpartition(".")[2].startswith("to_")]
    return counter.get_total_flops(), sum(sum(counts[k].values()) for k in modulation)
