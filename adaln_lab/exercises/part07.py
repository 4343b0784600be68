"""Exercises of notebook 07: equal bags of words, a better pooling, cross-attention, what one token does, a budget.

Captions have 11 words: 3 for the light and the background, then size, colour, shape and cell of each of two objects."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.data.scenes import VOCABULARY, random_scenes
from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.layers import CrossAttention


def same_bag(tokens: Tensor) -> Tensor:
    """tokens (B, 11) -> the caption in which the two objects have exchanged their colours."""
    tokens = tokens.clone()
    tokens[:, [4, 8]] = tokens[:, [8, 4]]
    return tokens


register(
    Exercise,
    question="Make another scene from the same bag of words: let the two objects exchange their colours.",
    solution=same_bag,
    returns=("tokens",),
    cases=lambda: [(randn64(4, 11),), (randn64(1, 11, seed=1),)],
    hints=(
        "Three words for the scene, then size, colour, shape, cell of the first object, and of the second.",
        "The colours stand at places 4 and 8. Work on a copy.",
        "tokens[:, [4, 8]] = tokens[:, [8, 4]]",
    ),
    mistakes="""
objects exchanged
    You exchanged whole objects: the scene is the same, only told in another order.
    [4, 8] => 3:
    [8, 4] => [7, 8, 9, 10, 3, 4, 5, 6]
looks exchanged
    You exchanged colours and shapes together: each colour stays on its shape. Colours alone.
    [4, 8] => [4, 5, 8, 9]
    [8, 4] => [8, 9, 4, 5]
sizes exchanged
    You exchanged the sizes, the first word of each object; its colour is the second.
    [4, 8] => [3, 7]
    [8, 4] => [7, 3]
colour copied
    You overwrote one colour with the other, so a word is lost and the bag is another one: exchange them.
    [:, [4, 8]] = tokens[:, [8, 4]] => [:, 8] = tokens[:, 4]
swapped through views
    Your right-hand sides are views: the first colour is gone before the second line reads it. Clone, or index.
    tokens[:, [4, 8]] = tokens[:, [8, 4]] => tokens[:, 4], tokens[:, 8] = tokens[:, 8], tokens[:, 4]
light counted as object
    You counted from the first word; three words for light and background come before the objects.
    [4, 8] => [1, 5]
    [8, 4] => [5, 1]
shapes exchanged
    You exchanged the shapes, the third word of each object; its colour is the second.
    [4, 8] => [5, 9]
    [8, 4] => [9, 5]
cells exchanged
    You exchanged the cells, the last word of each object; its colour is the second.
    [4, 8] => [6, 10]
    [8, 4] => [10, 6]
""",
)


def pool_objects(e: Tensor) -> Tensor:
    """e (B, 11, C), embedded words without places: 3 for the light, 4 for each object -> (B, C)."""
    light, first, second = e[:, :3], e[:, 3:7], e[:, 7:]
    return light.sum(1) + F.gelu(first.sum(1)) + F.gelu(second.sum(1))


def given_pooling(e):
    """e (B, 11, C), embedded words without places: 3 for the light, 4 for each object -> (B, C)."""
    light, first, second = e[:, :3], e[:, 3:7], e[:, 7:]
    return light.sum(1) + first.sum(1) + second.sum(1)


def examine_pooling(pool: Callable) -> tuple[bool, str]:
    """Random captions with random embeddings; differences relative to those between any two captions."""
    tokens = random_scenes(500, torch.Generator().manual_seed(0), objects=2)
    tokens = tokens[tokens[:, 4] != tokens[:, 8]]  # two colours
    table = randn64(len(VOCABULARY), 16)
    change_places = tokens[:, [0, 1, 2, 7, 8, 9, 10, 3, 4, 5, 6]]
    told, bound, turned = (pool(table[words]) for words in (tokens, same_bag(tokens), change_places))
    if told.shape != (len(tokens), 16):
        return False, f"expected a vector a caption, {(len(tokens), 16)}; got {tuple(told.shape)}"
    usual = (told - told.roll(1, 0)).norm(dim=1).mean()
    apart, moved = (told - bound).norm(dim=1).min() / usual, (told - turned).norm(dim=1).max() / usual
    for place in range(11):
        other = table[tokens]
        other[:, place] += randn64(16, seed=1)
        if (told - pool(other)).norm(dim=1).min() / usual < 1e-3:
            return False, f"word {place} of the caption (from 0) has no influence on the vector"
    text = f"colours exchanged: {apart:.2g} (expected > 0.001), objects in another order: {moved:.1g} (< 1e-9)"
    return bool(apart > 1e-3 and moved < 1e-9), text


register(
    Repair,
    question="Mend the pooling: other pairs, another vector; the same objects in another order, the same vector.",
    solution=pool_objects,
    given=given_pooling,
    examine=examine_pooling,
    hints=(
        "A sum loses which words belong together. What has to happen to each object before the sum?",
        "Something that is not linear, and the same for both objects.",
        "F.gelu(first.sum(1)) + F.gelu(second.sum(1)), with the light added as it is.",
    ),
)


def cross_attention(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """h (B, T, D) looks at ctx (B, S, D), one head; each weight (D, D), used as a @ w -> (B, T, D)."""
    q, k, v = h @ w_q, ctx @ w_k, ctx @ w_v
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (B, T, S)
    return scores.softmax(-1) @ v


register(
    Exercise,
    question="Write cross-attention with one head: from image tokens h to the words ctx.",
    solution=cross_attention,
    returns=("update",),
    cases=lambda: [
        (randn64(b, t, d), randn64(b, s, d, seed=1), *(randn64(d, d, seed=i) / d**0.25 for i in (2, 3, 4)))
        for b, t, s, d in ((2, 5, 3, 4), (1, 6, 2, 7))
    ],
    hints=(
        "Three products first: queries from the image, keys and values from the words.",
        "Scores are (B, T, S): one for each image token and each word, divided by sqrt(D).",
        "softmax over the last axis of q @ k.transpose(1, 2) / D ** 0.5, then @ v",
    ),
    gradients=True,
    mistakes="""
image looks at itself
    Your keys and values come from h: that is self-attention. They come from ctx.
    every ctx @ => h @
not scaled
    You do not divide the scores by sqrt(D); without that, the softmax puts nearly all weight on one word.
    / q.shape[-1] ** 0.5 =>
scaled by width
    You divide the scores by D; it is its square root.
    ** 0.5 =>
softmax over the image
    Your softmax runs over image tokens; for each image token it must run over the words, the last axis.
    softmax(-1) => softmax(1)
keys returned
    You average the keys; keys only serve for the scores, the average is of values.
    @ v => @ k
words unprojected
    You average the words themselves; the average is of their values, ctx @ w_v.
    @ v => @ ctx
weights transposed
    You multiply by transposed weights, as F.linear does; here each is used as a @ w.
    h @ w_q, ctx @ w_k, ctx @ w_v => h @ w_q.T, ctx @ w_k.T, ctx @ w_v.T
residual added
    You add h; the block adds the residual, attention only gives the update.
    return scores => return h + scores
root of the tokens
    Your scores depend on how many tokens there are: the root is of the width, h.shape[-1].
    q.shape[-1] => q.shape[1]
root of the words
    Your scores depend on how many words there are: the root is of the width, h.shape[-1].
    q.shape[-1] => k.shape[1]
keys and values exchanged
    The scores come from w_v and the average from w_k: keys and values are in each other's place.
    q, k, v => q, v, k
softmax forgotten
    The weights of a token do not add up to 1, and some are negative: the scores go straight to the values.
    .softmax(-1) =>
scaled after the softmax
    The weights of a token add up to 1 / sqrt(D): you divide after the softmax, and it should see smaller scores.
    / q.shape[-1] ** 0.5 =>
    softmax(-1) => softmax(-1) / q.shape[-1] ** 0.5
softmax over the batch
    One picture changes the attention of the others: your softmax runs over the batch, and not over the words.
    softmax(-1) => softmax(0)
all words alike
    Each image token gets the same update: queries and keys have no influence on your weights.
    scores.softmax(-1) @ v => v.mean(1, keepdim=True).expand_as(h)
""",
)


def same_for_all() -> dict[str, tuple[str]]:
    """Run cross-attention on two pictures of six random tokens."""
    torch.manual_seed(0)
    one, two = randn64(1, 1, 8), randn64(1, 2, 8, seed=1)
    contexts = {
        "1 token, 1 head": (1, one, None),
        "1 token, 4 heads": (4, one, None),
        "2 equal tokens": (1, one.repeat(1, 2, 1), None),
        "2 different tokens": (1, two, None),
        "1 token and a learned null token": (1, torch.cat([one, randn64(1, 1, 8, seed=2)], 1), None),
        "2 tokens with equal values, different keys": (1, two, "equal values"),
    }
    table = {}
    for name, (heads, ctx, change) in contexts.items():
        layer = CrossAttention(8, heads).double()
        if change:
            layer.kv.weight.data[8:] = 0
            layer.kv.bias.data[8:] = torch.arange(8)  # values that do not depend on the token
        with torch.no_grad():
            out = torch.cat([layer(randn64(1, 6, 8, seed=seed), ctx) for seed in (3, 4)], 1)
        table[name] = ("yes" if (out - out[:, :1]).abs().max() < 1e-9 else "no",)
    return table


register(
    Predict,
    question="Say whether every image token gets the same vector from cross-attention, whatever the picture is.",
    solution=same_for_all,
    columns=("the same vector",),
    notes={
        "1 token, 1 head": "what is the softmax of a single score?",
        "1 token, 4 heads": "each head has a softmax of its own. Of how many scores?",
        "2 equal tokens": "their values are equal. What is any mean of two equal vectors?",
        "2 different tokens": "the two weights depend on the query.",
        "1 token and a learned null token": "how many scores has the softmax now?",
        "2 tokens with equal values, different keys": "the weights differ from token to token. Does the mean?",
    },
    hints=(
        "The result is a weighted mean of the values. Weights depend on the query; does the mean?",
        "With one value, or equal values, every mean is the same.",
        "no only for two different tokens, and for a token beside a null token.",
    ),
)


WIDTH, BLOCKS, IMAGE, WORDS = 1536, 24, 4096, 512


ENTER = ("adaln", "cross_attention", "in_context")


def ways_in() -> dict[str, str]:
    """A choice for each condition, and whether blocks have their own Linear for modulation."""
    return {"time": "adaln", "style": "adaln", "words": "in_context", "modulation": "shared"}


def measure_ways(answer: dict[str, str]) -> tuple[float, float] | str:
    """(parameters, operations) that the conditions add, in per cent of a model without them."""
    if not isinstance(answer, dict) or set(answer) != {"time", "style", "words", "modulation"}:
        return "give a dict with time, style, words and modulation"
    *ways, modulation = (answer[key] for key in ("time", "style", "words", "modulation"))
    if any(way not in ENTER for way in ways) or modulation not in ("a Linear a block", "shared"):
        return f"time, style and words enter by one of {', '.join(ENTER)}; modulation is 'a Linear a block' or 'shared'"
    if answer["words"] == "adaln":
        return "512 words added up are a bag: which object has which colour is lost (section 2)"
    tokens = {way: sum(n for w, n in zip(ways, (1, 1, WORDS), strict=True) if w == way) for way in ENTER}
    d, t, s = WIDTH, IMAGE, tokens["in_context"]
    parameters = operations = 0.0
    if tokens["adaln"]:
        parameters += 6 * d**2 / (BLOCKS if modulation == "shared" else 1)
        operations += 12 * d**2
    if n := tokens["cross_attention"]:
        parameters += 4 * d**2
        operations += 4 * t * d**2 + 4 * n * d**2 + 4 * t * n * d
    operations += 24 * s * d**2 + 4 * d * (2 * t * s + s**2)
    return 100 * parameters / (12 * d**2), 100 * operations / (24 * t * d**2 + 4 * t**2 * d)


register(
    Design,
    question="Let time, style and 512 words enter with at most 3 % more parameters and 20 % more operations.",
    solution=ways_in,
    measure=measure_ways,
    goal=3,
    budget=20,
    unit="% operations",
    is_value=True,
    hints=(
        "Which way has no parameters of its own? Which has parameters only?",
        "A modulation Linear in each block is half of the block. Can blocks share it?",
        "Time and style by adaLN with shared modulation, words in context.",
    ),
)
