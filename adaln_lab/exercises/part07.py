"""Exercises of notebook 07: cross-attention, its one-word case, equal bags of words, a better pooling, maps.

Captions have 11 words: 3 for the light and the background, then size, colour, shape and cell of each of two objects.
For each exercise: the solution, its common mistakes (a table for `core.mutants`), and the arguments of the check.
"""

from torch import Tensor
from torch.nn import functional as F

from adaln_lab.exercises.core import Exercise, randn64, register

# cross_attention: queries from the image, keys and values from the words


def cross_attention(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """h (B, T, D) looks at ctx (B, S, D), one head; each weight (D, D), used as a @ w -> (B, T, D)."""
    q, k, v = h @ w_q, ctx @ w_k, ctx @ w_v
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (B, T, S)
    return scores.softmax(-1) @ v


CROSS_ATTENTION_MISTAKES = """
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
"""


def cross_attention_cases() -> list[tuple]:
    sizes = ((2, 5, 3, 4), (1, 6, 2, 7))
    return [
        (randn64(b, t, d), randn64(b, s, d, seed=1), *(randn64(d, d, seed=i) / d**0.25 for i in (2, 3, 4)))
        for b, t, s, d in sizes
    ]


# one_word: attention to a single word


def one_word(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """What attention to a single word ctx (B, 1, D) adds to every image token: (B, 1, D). w_v, then w_o, as a @ w."""
    return ctx @ w_v @ w_o


ONE_WORD_MISTAKES = """
output forgotten
    You stop at the value; the output projection w_o still follows.
    @ w_o =>
other order
    You multiply by w_o before w_v; a matrix product does not commute.
    w_v @ w_o => w_o @ w_v
word itself added
    You add the word itself as well; the residual is that of the image tokens, not of the word.
    return ctx => return ctx + ctx
weight halved
    You give the word weight 1/2; the softmax of one score is 1, whatever the score.
    w_o => w_o / 2
values softened
    You take a softmax of the value; a softmax is taken of scores, and here it gives 1.
    ctx @ w_v => (ctx @ w_v).softmax(-1)
weights transposed here
    For a weight that is not symmetric your result is off: F.linear multiplies by its transpose; here it is a @ w.
    w_v @ w_o => w_v.T @ w_o.T
output transposed
    Your value is right, and the output projection is transposed: both weights are used as a @ w.
    w_o => w_o.T
"""


def one_word_cases() -> list[tuple]:
    return [(randn64(b, 1, d), randn64(d, d, seed=1), randn64(d, d, seed=2)) for b, d in ((3, 5), (1, 4))]


# same_bag: another scene with the same words


def same_bag(tokens: Tensor) -> Tensor:
    """tokens (B, 11) -> the caption in which the two objects have exchanged their colours."""
    tokens = tokens.clone()
    tokens[:, [4, 8]] = tokens[:, [8, 4]]
    return tokens


SAME_BAG_MISTAKES = """
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
"""


def same_bag_cases() -> list[tuple]:
    return [(randn64(4, 11),), (randn64(1, 11, seed=1),)]


# pool_objects: a vector that says which colour belongs to which shape


def pool_objects(e: Tensor) -> Tensor:
    """e (B, 11, C) -> (B, C): the first three words, plus GELU of the sum of each object's four words."""
    things = e[:, 3:].unflatten(1, (2, 4)).sum(2)  # (B, 2, C)
    return e[:, :3].sum(1) + F.gelu(things).sum(1)


POOL_OBJECTS_MISTAKES = """
bent too late
    You sum both objects before the GELU, which gives a bag of words again. Apply it to each object first.
    F.gelu(things).sum(1) => F.gelu(things.sum(1))
bent too early
    You apply GELU to each word and then sum: that is still a bag of words. Sum an object's four words first.
    return e[:, :3].sum(1) + F.gelu(e[:, 3:]).sum(1)
nothing bent
    You only sum: a sum of sums is a bag of words. A nonlinearity must come in between.
    F.gelu(things) => things
light forgotten
    You left out the first three words: light and background belong to the scene, too.
    e[:, :3].sum(1) + =>
words interleaved
    Your objects take every second word; an object's four words are neighbours.
    (2, 4)).sum(2) => (4, 2)).sum(1)
words averaged
    What GELU receives is four times too small: you take the mean of an object's words, not their sum.
    .sum(2) => .mean(2)
gelu approximated
    Your numbers are off in the fourth digit: you use the tanh approximation of GELU, and not the exact one.
    things) => things, approximate="tanh")
light bent too
    The first three words go through a GELU as well: they belong to no object, and are added as they are.
    e[:, :3].sum(1) => F.gelu(e[:, :3].sum(1))
objects averaged
    Each object counts half: you take the mean of the two, and their sum is asked for.
    things).sum(1) => things).mean(1)
silu for gelu
    Your nonlinearity is SiLU: GELU is asked for, which is closer to 0 for negative numbers.
    gelu => silu
relu for gelu
    Negative sums have no influence at all: that is a ReLU, and GELU is asked for.
    gelu => relu
first object bent only
    The second object's words are added as they are: both objects go through a GELU, each by itself.
    F.gelu(things).sum(1) => F.gelu(things[:, 0]) + things[:, 1]
light in the first object
    The first three words go into the GELU of the first object: they belong to none, and are added as they are.
    return F.gelu(e[:, :7].sum(1)) + F.gelu(e[:, 7:].sum(1))
"""


def pool_objects_cases() -> list[tuple]:
    return [(randn64(3, 11, 5),), (randn64(1, 11, 4, seed=1),)]


# read_maps: from attention weights to one map for each word


def read_maps(weights: Tensor, side: int) -> Tensor:
    """weights (B, H, T, S), T = side * side image tokens by rows -> mean over pictures and heads, (S, side, side)."""
    return weights.mean((0, 1)).T.unflatten(1, (side, side))


READ_MAPS_MISTAKES = """
reshaped not transposed
    You reshaped (T, S) to (S, side, side): that shuffles words and tokens. Transpose first.
    .T.unflatten(1, (side, side)) => .reshape(-1, side, side)
rows and columns exchanged
    Your maps are transposed: tokens are in row order, so the first axis of a map is the row.
    (side, side)) => (side, side)).mT
heads summed
    You sum over heads; take their mean, so that the weights of one token still sum to 1.
    mean((0, 1)) => mean(0).sum(0)
strongest head
    You keep the strongest head at each place; the mean over heads is asked for.
    mean((0, 1)) => amax(1).mean(0)
words made to sum to one
    You made each word's map sum to 1; do not: that a word gets little attention is a result.
    maps = weights.mean((0, 1)).T.unflatten(1, (side, side))
    return maps / maps.sum((1, 2), keepdim=True)
first picture only
    All pictures but the first have no influence: take the mean over the batch.
    weights => weights[:1]
first head only
    All heads but the first have no influence: take the mean over them.
    weights => weights[:, :1]
"""


def read_maps_cases() -> list[tuple]:
    sizes = ((2, 3, 9, 4, 3), (1, 2, 25, 7, 5))
    return [(randn64(b, heads, t, s).softmax(-1), side) for b, heads, t, s, side in sizes]


register(
    Exercise(
        question="Write cross-attention with one head: from image tokens h to the words ctx.",
        solution=cross_attention,
        returns=("update",),
        cases=cross_attention_cases,
        hints=(
            "Three products first: queries from the image, keys and values from the words.",
            "Scores are (B, T, S): one for each image token and each word, divided by sqrt(D).",
            "softmax over the last axis of q @ k.transpose(1, 2) / D ** 0.5, then @ v",
        ),
        mistakes=CROSS_ATTENTION_MISTAKES,
        gradients=True,
    )
)
register(
    Exercise(
        question="Give what attention to a single word adds to every image token, without using the image.",
        solution=one_word,
        returns=("update",),
        cases=one_word_cases,
        hints=(
            "What is the softmax of a single score?",
            "It is 1, so queries and keys drop out; the value and the output projection remain.",
            "ctx @ w_v, then @ w_o",
        ),
        mistakes=ONE_WORD_MISTAKES,
        gradients=True,
    )
)
register(
    Exercise(
        question="Make another scene from the same bag of words: let the two objects exchange their colours.",
        solution=same_bag,
        returns=("tokens",),
        cases=same_bag_cases,
        hints=(
            "Three words for the scene, then size, colour, shape, cell of the first object, and of the second.",
            "The colours stand at places 4 and 8. Work on a copy.",
            "tokens[:, [4, 8]] = tokens[:, [8, 4]]",
        ),
        mistakes=SAME_BAG_MISTAKES,
    )
)
register(
    Exercise(
        question="Pool the words so that the vector says which colour has which shape: GELU of each object first.",
        solution=pool_objects,
        returns=("c",),
        cases=pool_objects_cases,
        hints=(
            "A sum loses which words belong together. Apply a nonlinearity to each object first.",
            "e[:, 3:].unflatten(1, (2, 4)) is (B, 2 objects, 4 words, C).",
            "Sum each object's words, F.gelu, sum over objects, and add the first three words.",
        ),
        mistakes=POOL_OBJECTS_MISTAKES,
        gradients=True,
    )
)
register(
    Exercise(
        question="Turn attention weights into one map of the picture for each word.",
        solution=read_maps,
        returns=("maps",),
        cases=read_maps_cases,
        hints=(
            "First average over pictures and heads.",
            "What is left is (T, S). A map of a word is a column of it.",
            "weights.mean((0, 1)).T is (S, T); unflatten T into rows and columns.",
        ),
        mistakes=READ_MAPS_MISTAKES,
    )
)
