"""Change what a condition does, and nothing else: an intervention is another plan.

A planner is a function (t, y) -> Plan, and `model.plan` is one. The functions here take planners and return one, which
`samplers.sample(model, y, plan=...)` follows instead of the model's own. Weights stay as they are.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from adaln_lab.dit import Plan
from adaln_lab.norms import Modulation

Planner = Callable[[Tensor, Tensor], Plan]  # t (B,), y (B,) or (B, S) -> a plan whose first axis is the batch
BRANCHES = ("attention", "MLP")


def scaled(plan: Planner, part: str, factor: float, block: int | None = None, branch: str | None = None) -> Planner:
    """Every shift, scale or gate times `factor`; in one block or one branch only, where they are named."""
    if part not in Modulation._fields:
        raise ValueError(f"part must be one of {', '.join(Modulation._fields)}; got {part!r}")
    if branch not in (None, *BRANCHES):
        raise ValueError(f"branch must be one of {', '.join(BRANCHES)}; got {branch!r}")

    def planner(t: Tensor, y: Tensor) -> Plan:
        before = plan(t, y)
        _check_blocks([] if block is None else [block], before)
        blocks = [list(pair) for pair in before.blocks]
        for i in range(len(blocks)) if block is None else [block]:
            for j, name in enumerate(BRANCHES):
                if branch in (None, name):
                    blocks[i][j] = blocks[i][j]._replace(**{part: _vector(blocks[i][j], part) * factor})
        return before._replace(blocks=blocks)

    return planner


def spliced(
    here: Planner, there: Planner, blocks: Iterable[int] | None = None, parts: Iterable[str] = Modulation._fields
) -> Planner:
    """`there` in some blocks (None: in all) and some parts; `here` in the rest and in the final layer."""
    parts, chosen = list(parts), None if blocks is None else list(blocks)
    if strangers := set(parts) - set(Modulation._fields):
        raise ValueError(f"parts must be among {', '.join(Modulation._fields)}; got {', '.join(sorted(strangers))}")

    def planner(t: Tensor, y: Tensor) -> Plan:
        one, other = here(t, y), there(t, y)
        _check_blocks(chosen or [], one)
        mixed = list(one.blocks)
        for i in range(len(mixed)) if chosen is None else chosen:
            pairs = zip(mixed[i], other.blocks[i], strict=True)
            mixed[i] = [own._replace(**{part: getattr(its, part) for part in parts}) for own, its in pairs]
        return one._replace(blocks=mixed)

    return planner


def at_time(plan: Planner, time: float) -> Planner:
    """The plan for one t, whatever t is asked for: the clock stands still."""
    return lambda t, y: plan(torch.full_like(t, time), y)


def for_label(plan: Planner, label: int, other: int) -> Planner:
    """Wherever `label` is asked for, the plan for `other`; in a row of words each word for itself."""
    return lambda t, y: plan(t, torch.where(y == label, other, y))


def between(here: Planner, there: Planner, low: float, high: float) -> Planner:
    """`there` while low < t <= high, `here` before and after."""

    def planner(t: Tensor, y: Tensor) -> Plan:
        both = _joined(lambda *pair: torch.cat(pair), here(t, y), there(t, y))  # below one another, along the batch
        return both.rows(torch.arange(len(t), device=t.device) + len(t) * ((t > low) & (t <= high)))

    return planner


def blended(here: Planner, there: Planner, weight: float) -> Planner:
    """Between two planners, vector by vector: 0 is `here`, 1 is `there`, in the final layer too."""
    return lambda t, y: _joined(lambda one, other: torch.lerp(one, other, weight), here(t, y), there(t, y))


def _joined(join: Callable[..., Tensor], *plans: Any) -> Any:
    """One plan from several, each tensor joined with its like."""
    if plans[0] is None:
        return None
    if isinstance(plans[0], Tensor):
        return join(*plans)
    inner = [_joined(join, *parts) for parts in zip(*plans, strict=True)]
    return type(plans[0])(*inner) if hasattr(plans[0], "_fields") else inner


def _vector(modulation: object, part: str) -> Tensor:
    vector = getattr(modulation, part, None)
    if vector is None:
        raise ValueError(f"this model's blocks have no {part}; an adaln_zero model has shift, scale and gate")
    return vector


def _check_blocks(chosen: list[int], plan: Plan) -> None:
    if not all(0 <= block < len(plan.blocks) for block in chosen):
        raise ValueError(f"blocks must lie in 0 .. {len(plan.blocks) - 1}, got {chosen}")
