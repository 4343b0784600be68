"""What modulation costs in the published models, counted on the meta device: shapes only, nothing is allocated.

share = parameters that see only the conditioning vector / all parameters of the model
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adaln_lab.blocks.zoo import ZOO
from adaln_lab.utils import assets


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def total(key: str) -> dict[str, int]:
    """Parameters of a whole model as published: all, and those of modulation."""
    spec = ZOO[key]
    with torch.device("meta"):
        model = spec.full()
    modulation = sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in spec.modulation))
    return {"parameters": parameters(model), "modulation": modulation}


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
