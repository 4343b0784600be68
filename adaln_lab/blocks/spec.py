"""What `zoo.ZOO` says about one architecture. Each file of this folder ends with its own `SPEC`."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from adaln_lab.conditioning import Condition


@dataclass(frozen=True)
class Facts:
    """How a block modulates its image stream. The defaults are DiT's, so that an entry names what differs from it."""

    norm: str = "LayerNorm"  # what is modulated
    affine: bool = False  # whether that norm has learned weights
    c: str = "time"  # what the conditioning vector is made from
    act: str = "SiLU"  # between c and the modulation Linear
    order: tuple[str, ...] = 2 * ("shift", "scale", "gate")  # the vectors, in chunk order
    gate: str = "raw"  # raw, tanh, 1 + g, or none
    post_norm: bool = False  # whether a branch ends in a norm
    qk_norm: str = "none"  # the norm of Q and K
    shared: str = "no"  # which part of the modulation all blocks have in common
    rows: str = "one for each sample"  # of vectors, from which a token takes its own
    text: str = "none"  # how the text tokens enter
    zero: str = "not published"  # what the original code initialises to zero


@dataclass(frozen=True)
class Spec:
    """One architecture: its facts, its block at any size, and the whole model as published."""

    title: str
    repository: str  # where the original block is
    facts: Facts
    build: Callable[..., nn.Module]  # (width, heads) -> a block
    inputs: tuple[str, ...]  # of the block's forward, by name
    width: int  # of the published model
    heads: int
    full: Callable[[], nn.Module]  # the whole model as published
    modulation: tuple[str, ...]  # parts of the names of its modulation parameters
    c_width: int | None = None  # upper limit of the width of c, which else is the block's
    readers: Mapping[str, int] = field(default_factory=dict)  # of a shared Linear, by part of its name

    def example(self, width: int = 16, batch: int = 2, tokens: int = 6, text_tokens: int = 5) -> tuple[Any, ...]:
        """Random inputs for a block of this width, float32, in the order of its forward."""
        c_width = min(width, self.c_width or width)
        shapes = {
            "x": (batch, tokens, width),
            "ctx": (batch, text_tokens, width),
            "text": (batch, text_tokens, width),
            "c": (batch, c_width),
            "shared": (batch, 1, len(self.facts.order) * width),
            "cond": (batch, c_width),
        }
        values = {
            name: torch.randint(3 * batch, (tokens,)) if name == "row" else torch.randn(shapes[name])
            for name in self.inputs
        }
        return tuple(Condition(value) if name == "cond" else value for name, value in values.items())


def from_diffusers(name: str, **config: Any) -> Callable[[], nn.Module]:
    """A function that builds this model of diffusers; its ValueError says how to install diffusers."""

    def full() -> nn.Module:
        try:
            diffusers = importlib.import_module("diffusers")
        except ImportError as error:
            raise ValueError(f"{name} comes from diffusers: pip install diffusers") from error
        return getattr(diffusers, name)(**config)

    return full
