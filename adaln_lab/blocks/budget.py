"""What modulation costs at full size, counted on the meta device: shapes without memory, nothing is allocated.

share = parameters that see only the condition's vector / all parameters of the model
"""

import importlib
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adaln_lab.blocks import hdm
from adaln_lab.blocks.zoo import ZOO, Spec
from adaln_lab.dit import DiTConfig, FinalLayer, TinyDiT
from adaln_lab.utils import assets


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def modulation(spec: Spec, model: nn.Module) -> int:
    """Parameters of a whole model whose names say that they make modulation."""
    return sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in spec.modulation))


def whole(key: str) -> nn.Module:
    """The whole model as published, on the meta device. DiT and HDM are ours; the others come from diffusers."""
    spec = ZOO[key]
    with torch.device("meta"):
        if key == "dit":
            config = DiTConfig(**spec.config)
            model = TinyDiT(config)
            model.final = FinalLayer(config.width, config.width, 2 * config.channels * config.patch**2)  # + variances
            return model
        if key == "hdm":
            extra = [hdm.Block(*_hdm_sizes(spec.config), False) for _ in range(1 + 3)]  # before and after TREAD
            return nn.ModuleList([hdm.Model(**spec.config), *extra])
        try:
            diffusers = importlib.import_module("diffusers")
        except ImportError as error:
            raise ValueError(f"{spec.model} comes from diffusers: pip install diffusers") from error
        return getattr(diffusers, spec.model)(**spec.config)


def _hdm_sizes(config: Any) -> tuple[int, ...]:
    return config["width"], config["heads"], config["head_width"], config["hidden"]


def total(key: str) -> dict[str, int]:
    """Of a whole model, all parameters and those of modulation."""
    model = whole(key)
    return {"parameters": parameters(model), "modulation": modulation(ZOO[key], model)}


def stored() -> dict[str, dict[str, int]]:
    """The totals that come with the package, made by `python -m adaln_lab zoo`: a learner needs no diffusers."""
    return assets.stored("zoo")["models"]


def flops(key: str, tokens: int = 4096, words: int = 154) -> tuple[int, int]:
    """FLOPs of one block at its published width for one picture, and of these, what its modulation takes."""
    spec = ZOO[key]
    width, heads, _ = spec.size
    with torch.device("meta"), torch.no_grad():
        block = spec.build(width, heads)
        inputs = spec.example(width, 1, tokens, words)
        with FlopCounterMode(display=False) as counter:
            block(*inputs)
    counts = counter.get_flop_counts()
    name = type(block).__name__
    parts = [k for k in counts if k.startswith(f"{name}.") and k.rpartition(".")[2].startswith("to_")]
    return counter.get_total_flops(), sum(sum(counts[k].values()) for k in parts)
