"""Change what a condition does, and nothing else.

`model.precompute(t, y)` is all that a TinyDiT takes from a condition. The functions here take one or two functions of
this kind and return another, which `samplers.sample(model, y, precompute=...)` follows. Weights stay as they are.

Each works on every variant that has what it changes, and refuses the others in a sentence: a cross-attention block has
no gate to scale, and an in-context block takes nothing from the condition that could be exchanged block by block.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from adaln_lab.conditioning import BlockCondition, map_tensors
from adaln_lab.dit import Precomputed
from adaln_lab.norms import Modulation
from adaln_lab.samplers import Precompute
from adaln_lab.utils.checks import one_of

BRANCHES = ("attention", "MLP")
PARTS = (*Modulation._fields, "ctx")  # of a block's condition


def scaled(
    base: Precompute, part: str, factor: float, block: int | None = None, branch: str | None = None
) -> Precompute:
    """Every shift, scale or gate times `factor`; in one block or one branch only, where they are named."""
    one_of("part", part, Modulation._fields)
    one_of("branch", branch or BRANCHES[0], BRANCHES)

    def change(pre: BlockCondition) -> BlockCondition:
        _require(part, pre)
        modulations = [
            m._replace(**{part: getattr(m, part) * factor}) if branch in (None, name) else m
            for name, m in zip(BRANCHES, pre.modulations, strict=True)
        ]
        return pre._replace(modulations=tuple(modulations))

    def precompute(t: Tensor, y: Tensor) -> Precomputed:
        pre = base(t, y)
        chosen = _chosen(None if block is None else [block], pre)
        return pre._replace(blocks=tuple(change(b) if i in chosen else b for i, b in enumerate(pre.blocks)))

    return precompute


def patched(
    base: Precompute, donor: Precompute, blocks: Iterable[int] | None = None, parts: Iterable[str] | None = None
) -> Precompute:
    """What `donor` gives to some blocks (None: to all), all of it or the named parts; `base` in the rest of the model.

    Parts are shift, scale, gate, and ctx, the tokens that a block attends to. The final layer stays with `base`.
    """
    parts, blocks = None if parts is None else list(parts), None if blocks is None else list(blocks)
    if unknown := sorted(set(parts or ()) - set(PARTS)):
        raise ValueError(f"parts must be among {', '.join(PARTS)}; got {', '.join(unknown)}")

    def change(own: BlockCondition, its: BlockCondition) -> BlockCondition:
        if own == BlockCondition():
            raise ValueError("these blocks take nothing from the condition: it enters once, as tokens")
        if parts is None:
            return its
        for part in parts:
            _require(part, own)
        vectors = [part for part in parts if part != "ctx"]
        pairs = zip(own.modulations, its.modulations, strict=True)
        modulations = tuple(m._replace(**{part: getattr(d, part) for part in vectors}) for m, d in pairs)
        return BlockCondition(modulations, its.ctx if "ctx" in parts else own.ctx)

    def precompute(t: Tensor, y: Tensor) -> Precomputed:
        one, other = base(t, y), donor(t, y)
        chosen = _chosen(blocks, one)
        pairs = enumerate(zip(one.blocks, other.blocks, strict=True))
        return one._replace(blocks=tuple(change(own, its) if i in chosen else own for i, (own, its) in pairs))

    return precompute


def at_time(base: Precompute, time: float) -> Precompute:
    """The condition of one t, whatever t is asked for: the clock stands still."""
    return lambda t, y: base(torch.full_like(t, time), y)


def for_label(base: Precompute, label: int, other: int) -> Precompute:
    """Wherever `label` is asked for, the condition of `other`; in a caption each token for itself."""
    return lambda t, y: base(t, torch.where(y == label, other, y))


def between(base: Precompute, donor: Precompute, low: float, high: float) -> Precompute:
    """`donor` while low < t <= high, `base` before and after."""

    def precompute(t: Tensor, y: Tensor) -> Precomputed:
        inside = (t > low) & (t <= high)  # (B,)
        pick = lambda own, its: torch.where(inside.reshape(-1, *[1] * (own.dim() - 1)), its, own)  # noqa: E731
        return map_tensors(pick, base(t, y), donor(t, y))

    return precompute


def interpolated(base: Precompute, donor: Precompute, weight: float) -> Precompute:
    """Between two conditions, vector by vector: 0 is `base`, 1 is `donor`, in the final layer too."""
    return lambda t, y: map_tensors(lambda own, its: torch.lerp(own, its, weight), base(t, y), donor(t, y))


def _require(part: str, pre: BlockCondition) -> None:
    has = {name for m in pre.modulations for name in Modulation._fields if getattr(m, name) is not None}
    has |= {"ctx"} if pre.ctx is not None else set()
    if part not in has:
        there = ", ".join(name for name in PARTS if name in has) or "nothing, for it enters once, as tokens"
        raise ValueError(f"this model's blocks have no {part}; from the condition they take {there}")


def _chosen(blocks: list[int] | None, pre: Precomputed) -> set[int]:
    if not isinstance(pre, Precomputed):
        raise ValueError("this model is no TinyDiT: its blocks cannot be changed one by one; interpolated works on it")
    n = len(pre.blocks)
    if blocks is not None and not all(0 <= block < n for block in blocks):
        raise ValueError(f"blocks must lie in 0 .. {n - 1}, got {blocks}")
    return set(range(n) if blocks is None else blocks)
