"""Exercises of notebook 11: prompts that mean the same, dropped captions, a second guidance, copies, a style slider.

A condition is a row of six tokens: the style, then five words of a name.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from adaln_lab.analysis.interventions import for_label, interpolated, patched
from adaln_lab.data import emoji
from adaln_lab.dit import TinyDiT
from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.experiments import emoji_classifier
from adaln_lab.samplers import Precompute, sample
from adaln_lab.training.checkpoint import shipped_model


def copied(x: Tensor, shown: Tensor) -> Tensor:
    """x (N, ...) and shown (M, ...) -> (N,): the distance to the nearest shown picture over that to the second."""
    distances = torch.cdist(x.flatten(1), shown.flatten(1))  # (N, M)
    two = distances.topk(2, largest=False).values
    return two[:, 0] / two[:, 1]


register(
    Exercise,
    question="Measure how much nearer the nearest shown picture is than the runner-up.",
    solution=copied,
    returns=("ratio",),
    cases=lambda: [
        (randn64(5, 3, 4, 6), randn64(9, 3, 4, 6, seed=1)),
        (randn64(2, 1, 2, 2), randn64(3, 1, 2, 2, seed=1)),
    ],
    hints=(
        "Flatten each picture; torch.cdist gives all distances at once.",
        "You need the two smallest in each row.",
        "distances.topk(2, largest=False).values, then the first over the second",
    ),
    mistakes="""
upside down
    You divide the second distance by the first; a copy must give a number near 0.
    two[:, 0] / two[:, 1] => two[:, 1] / two[:, 0]
farthest
    You took the farthest pictures; topk looks for the largest unless it is told otherwise.
    topk(2, largest=False) => topk(2)
only the nearest
    You return the distance itself. A flat picture is near to many; divide by the distance to the runner-up.
    two[:, 0] / two[:, 1] => two[:, 0]
squared
    You compare squared distances; the ratio of distances is its square root.
    return two[:, 0] / two[:, 1] => return (two[:, 0] / two[:, 1]) ** 2
from the shown pictures
    You ask for each shown picture which sample is nearest; it is the other way round.
    .topk(2, largest=False) => .T.topk(2, largest=False)
difference
    You subtract; the ratio does not depend on how large the pictures' numbers are.
    two[:, 0] / two[:, 1] => two[:, 1] - two[:, 0]
mean of all
    You divide by the mean distance to all pictures; the runner-up says more.
    / two[:, 1] => / distances.mean(1)
summed differences
    You add up absolute differences; the distance is the root of the summed squares, as torch.cdist has it.
    shown.flatten(1)) => shown.flatten(1), p=1)
""",
)


def same_drawing() -> dict[str, tuple[str]]:
    """Ask the shipped model for its velocity under both, from one noisy picture."""
    model = shipped_model("emoji").double()
    heart, plural, turned = emoji.parse(["a red heart", "red hearts", "heart red"], "noto").unsqueeze(1)
    none = torch.full_like(heart, model.config.n_classes)
    flat = emoji.parse(["red heart"], "twemoji")
    x, t = randn64(1, 3, model.config.size, model.config.size), torch.full((1,), 0.8, dtype=torch.float64)
    with torch.no_grad():
        v = lambda row: model(x, t, row)  # noqa: E731
        mixed = interpolated(model.precompute, lambda t, _: model.precompute(t, flat), 0.5)
        pairs = {
            "'a red heart' | 'red hearts'": (v(heart), v(plural)),
            "'red heart' | 'heart red'": (v(heart), v(turned)),
            "'red heart' | 'blue book', both with guidance 0": (v(none), v(none)),
            "the fillers behind the words | in front of them": (v(heart), v(heart[:, [0, 3, 4, 5, 1, 2]])),
            "half way between the styles' vectors | between their velocities": (
                model.forward_with(x, mixed(t, heart)),
                (v(heart) + v(flat)) / 2,
            ),
        }
    return {name: ("yes" if (a - b).abs().max() < 1e-9 else "no",) for name, (a, b) in pairs.items()}


register(
    Predict,
    question="Say (yes or no) whether the model predicts the same velocity for both, from one noisy picture.",
    solution=same_drawing,
    columns=("the same velocity",),
    notes={
        "'a red heart' | 'red hearts'": "articles have no token. How does the parser write a plural?",
        "'red heart' | 'heart red'": "the words enter as tokens. Does a token know its place?",
        "'red heart' | 'blue book', both with guidance 0": "guidance 0 is the prediction without a caption.",
        "the fillers behind the words | in front of them": "a filler is a token, too, and has a place.",
        "half way between the styles' vectors | between their velocities": "is the rest of the model linear?",
    },
    hints=(
        "First ask which tokens, in which order, reach the model. Equal input gives equal output.",
        "Articles have no token and plurals become singular; each of the five places adds a vector of its own.",
        "yes for the plural and for guidance 0, no for the three others.",
    ),
)


VECTORS = ("shift", "scale", "gate")


STEPS, GUIDANCE = 8, 2.0


def style_vectors() -> dict[str, list[int]]:
    """For each vector the blocks in which it changes with the style."""
    return {"shift": [1, 3, 4], "scale": [], "gate": [0, 1, 2, 3, 4]}


def restyled(model: TinyDiT, places: dict[str, list[int]], style: str = "noto", other: str = "twemoji") -> Precompute:
    """What the model takes from captions in the style `other`, but at {vector: blocks} what it takes in `style`."""
    ids = emoji.vocabulary().index(other), emoji.vocabulary().index(style)
    changed, donor = model.precompute, for_label(model.precompute, *ids)
    for vector, blocks in places.items():
        changed = patched(changed, donor, blocks, [vector])
    return changed


@cache
def _twemoji() -> tuple[Tensor, Tensor, TinyDiT]:
    """48 nouns that training showed in both styles: their captions in Twemoji, in Noto, and the model."""
    seen = [noun.words for noun in emoji.nouns() if noun.split == "both"][7::25][:48]
    rows = (torch.tensor([emoji.tokens(words, style) for words in seen]) for style in emoji.STYLES)
    return *rows, shipped_model("emoji")


def measure_vectors(places: Any) -> tuple[float, float] | str:
    """(share of 48 drawings that change their style and keep their noun, number of vectors)."""
    ours, theirs, model = _twemoji()
    depth = model.config.depth
    if not isinstance(places, dict) or not set(places) <= set(VECTORS):
        return "give a dict with a list of blocks for shift, scale and gate"
    places = {vector: list(blocks) for vector, blocks in places.items()}
    if not all(set(blocks) <= set(range(depth)) for blocks in places.values()):
        return f"each list holds blocks, 0 to {depth - 1}"
    x = sample(model, ours, STEPS, GUIDANCE, precompute=restyled(model, places))
    style, noun = emoji_classifier.asked(theirs)
    seen = emoji_classifier.look(x)
    right = (seen.style == style) & (seen.nouns == noun[:, None]).any(1)
    return right.float().mean().item(), sum(len(set(blocks)) for blocks in places.values())


register(
    Design,
    question="Find few vectors that change the style of the drawing and leave the thing.",
    solution=style_vectors,
    measure=measure_vectors,
    goal=0.8,
    budget=8,
    unit="vectors",
    is_lower_better=False,
    is_value=True,
    hints=(
        "Try one kind of vector in all blocks: which of shift, scale and gate carries the style?",
        "Then try all three in one block at a time: which blocks matter?",
        "All five gates, and three of the shifts; which three?",
    ),
)


def away_from(v_none: Tensor, v_asked: Tensor, v_other: Tensor, guidance: float, away: float) -> Tensor:
    """The guided velocity, pushed further along the difference between what was asked for and the other style."""
    return v_none + guidance * (v_asked - v_none) + away * (v_asked - v_other)


register(
    Exercise,
    question="Write guidance with a second arrow, away from the other style.",
    solution=away_from,
    returns=("velocity",),
    cases=lambda: [
        (*(randn64(2, 3, 5, 4, seed=i) for i in range(3)), g, a) for g, a in ((2.0, 0.5), (1.0, 0.0), (0.0, 1.5))
    ],
    hints=(
        "Start from the guided velocity that you know: v_none + guidance (v_asked - v_none).",
        "The second arrow leads from the other style to the one that was asked for.",
        "... + away * (v_asked - v_other)",
    ),
    mistakes="""
towards the other style
    You add the difference with the wrong sign: the drawing moves to the other style, and should move away from it.
    (v_asked - v_other) => (v_other - v_asked)
away from nothing
    Your second arrow starts at the prediction without a caption; it starts at that of the other style.
    away * (v_asked - v_other) => away * (v_asked - v_none)
from none to the other
    Your second arrow leads from the other style to the prediction without a caption; it must end at v_asked.
    away * (v_asked - v_other) => away * (v_none - v_other)
from the guided
    Your second arrow ends at the guided velocity, so guidance changes its length; it ends at v_asked.
    away * (v_asked - v_other) => away * (v_none + guidance * (v_asked - v_none) - v_other)
other style in the place of none
    You replaced the prediction without a caption. Some tools do that with a negative prompt; here both arrows act.
    v_none + guidance * (v_asked - v_none) + away * (v_asked - v_other) => v_other + guidance * (v_asked - v_other)
guidance on both
    You multiply the second arrow by the guidance, too: then the two strengths cannot be set apart.
    away * => away * guidance *
starts at the asked
    You start at v_asked: guidance 1 must give the plain model, and yours gives more.
    return v_none + => return v_asked +
starts at zero
    The prediction without a caption is missing: guidance 0 must give it.
    return v_none + => return
second arrow forgotten
    `away` has no effect: the second arrow, from v_other to v_asked, is missing.
    + away * (v_asked - v_other) =>
first arrow forgotten
    `guidance` has no effect: the first arrow, from v_none to v_asked, is missing.
    + guidance * (v_asked - v_none) =>
""",
)


def drop_captions(y: Tensor, share: float, null: int, generator: torch.Generator) -> Tensor:
    """y (B, S) -> the same rows, `share` of them replaced by `null` from end to end."""
    dropped = torch.rand(len(y), 1, generator=generator) < share
    return torch.where(dropped, null, y)


def given_dropping(y, share, null, generator):
    """y (B, S) -> the same rows, `share` of them replaced by `null`."""
    dropped = torch.rand(y.shape, generator=generator) < share
    return torch.where(dropped, null, y)


def examine_dropping(drop: Callable) -> tuple[bool, str]:
    """40,000 random rows: whole or null, in the right number, the others as they were."""
    for share in (0.1, 0.3):
        y = torch.randint(1200, (40_000, 6), generator=torch.Generator().manual_seed(0))
        before, found = y.clone(), drop(y, share, 1202, torch.Generator().manual_seed(1))
        if not torch.equal(y, before):
            return False, "it writes into the batch that it is given; the next epoch would find the words gone"
        if not isinstance(found, Tensor) or found.shape != y.shape or found.dtype != y.dtype:
            return False, f"expected rows like those given, {tuple(y.shape)} of int64"
        null = found == 1202
        dropped, part = null.all(1).float().mean().item(), (null.any(1) & ~null.all(1)).float().mean()
        if part > 0:
            return False, f"{part:.0%} of the rows lost some tokens and kept others; {dropped:.1%} are null"
        if not torch.equal(found[~null], y[~null]):
            return False, "rows that are not dropped must stay as they are"
        if abs(dropped - share) > 0.01:
            return False, f"{dropped:.1%} of the rows are null, asked for were {share:.0%}"
        if torch.equal(found, drop(y, share, 1202, torch.Generator().manual_seed(2))):
            return False, "another generator must drop other rows, or a resumed run is not the same run"
        if not torch.equal(found, drop(y, share, 1202, torch.Generator().manual_seed(1))):
            return False, "the same generator must drop the same rows: draw from `generator`"
    asked = f"asked for were {share:.0%}"
    return True, f"{dropped:.1%} of the rows are null from end to end ({asked}), the others untouched"


register(
    Repair,
    question="Mend the dropping of captions, so that the model learns what to draw without one.",
    solution=drop_captions,
    given=given_dropping,
    examine=examine_dropping,
    hints=(
        "Guidance asks the model about a row that is null from end to end. How often does training show one?",
        "Draw one number a row, and not one a token.",
        "torch.rand(len(y), 1, generator=generator) < share",
    ),
)
