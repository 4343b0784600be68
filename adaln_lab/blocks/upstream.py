"""Load weights of the original implementations, stored under their own names, into our blocks.

A table maps the name of each of our layers to upstream's: {"attn.out": "attn.proj"}. A tuple is one Linear of ours that
upstream splits into several, whose rows follow one another: {"attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v")}.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Names = Mapping[str, "str | tuple[str, ...]"]


class SwappedHalves(str):
    """The name of a layer whose two halves of rows are swapped: diffusers' (scale, shift)."""


class PatchConv(str):
    """The name of a convolution over patches, kernel (out, channels, P, P), that is a Linear of ours."""


def prefixed(ours: str, theirs: str, names: Names) -> dict[str, str | tuple[str, ...]]:
    """The table of a part with the prefixes that it has inside a larger module."""

    def add(name: str) -> str:
        return type(name)(f"{theirs}.{name}")

    return {
        f"{ours}.{mine}": add(name) if isinstance(name, str) else tuple(add(part) for part in name)
        for mine, name in names.items()
    }


def diffusers_attention(ours: str, theirs: str) -> dict[str, str | tuple[str, ...]]:
    """The table of a `parts.Attention`, as most classes of diffusers name its layers."""
    names = {"qkv": ("to_q", "to_k", "to_v"), "norm_q": "norm_q", "norm_k": "norm_k", "out": "to_out.0"}
    return prefixed(ours, theirs, names)


def from_upstream(names: Names, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's weights under our names. ValueError for a weight that no layer takes, or part of a split layer.

    A layer of the table without weights is skipped: blocks have optional parts.
    """
    rest, ours = dict(weights), {}
    for mine, name in names.items():
        parts = (name,) if isinstance(name, str) else name
        for suffix in ("", ".weight", ".bias"):
            keys = [part + suffix for part in parts]
            missing = [key for key in keys if key not in rest]
            if len(missing) == len(keys):
                continue
            if missing:
                raise ValueError(f"{missing[0]!r} is missing, the other part of {keys[0]!r}")
            found = [_as_ours(part, rest.pop(key)) for part, key in zip(parts, keys, strict=True)]
            ours[mine + suffix] = torch.cat(found) if len(found) > 1 else found[0]
    if rest:
        known = ", ".join(name if isinstance(name, str) else " + ".join(name) for name in names.values())
        raise ValueError(f"no layer for {next(iter(rest))!r}; known: {known}")
    return ours


def _as_ours(name: str, weight: Tensor) -> Tensor:
    if isinstance(name, SwappedHalves):
        return torch.cat(weight.chunk(2)[::-1])
    return weight.flatten(1) if isinstance(name, PatchConv) and weight.dim() > 2 else weight


def weights_for(block: nn.Module, names: Names, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`from_upstream` for this block. ValueError, with upstream's name, for a weight missing or misshapen."""
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
    """Load upstream's weights into the block, strictly."""
    block.load_state_dict(weights_for(block, names, weights))
    return block


def numbered(ours: str, theirs: str, n: int, names: Names) -> Names:
    """The table of n equal blocks in a row: ours.0 is theirs.0, and so on."""
    return {k: v for i in range(n) for k, v in prefixed(f"{ours}.{i}", f"{theirs}.{i}", names).items()}


def inside(ours: str, names: Names) -> Names:
    """The table of a part that has no prefix upstream."""
    return {f"{ours}.{mine}": theirs for mine, theirs in names.items()}
