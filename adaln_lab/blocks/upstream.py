"""Weights of the original implementations, under their names, into our blocks.

A table says where each of our layers is found: {"attn.out": "attn.proj"}. A tuple of names is one Linear of ours that
upstream keeps in several, rows one after the other: {"attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v")}.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Names = Mapping[str, "str | tuple[str, ...]"]


class Swapped(str):
    """The name of a layer whose two halves of rows stand the other way round: diffusers' (scale, shift)."""


class Flat(str):
    """The name of a convolution over patches, kernel (out, channels, P, P), which is a Linear of ours."""


def inside(ours: str, theirs: str, names: Names) -> dict[str, str | tuple[str, ...]]:
    """The table of a part, as it reads in the whole that contains it."""

    def within(name: str) -> str:
        return type(name)(f"{theirs}.{name}")

    found = {}
    for mine, name in names.items():
        found[f"{ours}.{mine}"] = within(name) if isinstance(name, str) else tuple(map(within, name))
    return found


def from_upstream(names: Names, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's weights -> the same under our names. ValueError, naming it, where a weight has no place or no partner.

    A layer of the table that the weights lack is passed over: blocks have optional parts.
    """
    left, ours = dict(weights), {}
    for mine, name in names.items():
        parts = (name,) if isinstance(name, str) else name
        for suffix in ("", ".weight", ".bias"):
            keys = [part + suffix for part in parts]
            lacking = [key for key in keys if key not in left]
            if len(lacking) == len(keys):
                continue
            if lacking:
                raise ValueError(f"{lacking[0]!r} is missing; {keys[0]!r} needs it beside")
            found = [_turned(part, left.pop(key)) for part, key in zip(parts, keys, strict=True)]
            ours[mine + suffix] = torch.cat(found) if len(found) > 1 else found[0]
    if left:
        known = ", ".join(name if isinstance(name, str) else " + ".join(name) for name in names.values())
        raise ValueError(f"no layer for {next(iter(left))!r}; known: {known}")
    return ours


def _turned(name: str, weight: Tensor) -> Tensor:
    if isinstance(name, Swapped):
        return torch.cat(weight.chunk(2)[::-1])
    return weight.flatten(1) if isinstance(name, Flat) and weight.dim() > 2 else weight


def fitting(block: nn.Module, names: Names, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`from_upstream`, and every parameter of the block is there in its own shape; ValueError with upstream's name."""
    ours = from_upstream(names, weights)
    for name, p in block.named_parameters():
        layer, _, suffix = name.rpartition(".")
        place = names.get(name) or names.get(layer, layer)
        theirs = " + ".join([place] if isinstance(place, str) else place) + ("" if name in names else f".{suffix}")
        if name not in ours:
            raise ValueError(f"{theirs!r} is missing: our {name}, {tuple(p.shape)}")
        if ours[name].shape != p.shape:
            raise ValueError(f"{theirs!r} must be {tuple(p.shape)} for this block, got {tuple(ours[name].shape)}")
    return ours


def load_upstream(block: nn.Module, names: Names, weights: Mapping[str, Tensor]) -> nn.Module:
    """The block with upstream's weights; strict. Buffers that upstream stores beside them are copied, too."""
    ours = fitting(block, names, weights)
    for name, buffer in block.named_buffers():
        if name in ours:
            buffer.copy_(ours.pop(name).reshape(buffer.shape))
    block.load_state_dict(ours, strict=True)
    return block
