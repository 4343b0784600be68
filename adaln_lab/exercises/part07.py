"""Exercises of notebook 07: cross-attention, its one-word case, equal bags of words, a better pooling, maps.

Captions have 11 words: 3 for the light and the background, then size, colour, shape and cell of each of two objects.
For each exercise: the solution, then common mistakes, one function each, with the docstring that `check` prints.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.exercises.core import Exercise, by_name, randn64, register

# cross_attention: queries from the image, keys and values from the words


def cross_attention(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """h (B, T, D) looks at ctx (B, S, D), one head; each weight (D, D), used as a @ w -> (B, T, D)."""
    q, k, v = h @ w_q, ctx @ w_k, ctx @ w_v
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (B, T, S)
    return scores.softmax(-1) @ v


def image_looks_at_itself(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Your keys and values come from h: that is self-attention. They come from ctx."""
    return cross_attention(h, h, w_q, w_k, w_v)


def not_scaled(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """You do not divide the scores by sqrt(D); without that, the softmax puts nearly all weight on one word."""
    return cross_attention(h, ctx, w_q * h.shape[-1] ** 0.5, w_k, w_v)


def scaled_by_width(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """You divide the scores by D; it is its square root."""
    return cross_attention(h, ctx, w_q / h.shape[-1] ** 0.5, w_k, w_v)


def softmax_over_the_image(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Your softmax runs over image tokens; for each image token it must run over the words, the last axis."""
    scores = (h @ w_q) @ (ctx @ w_k).transpose(1, 2) / h.shape[-1] ** 0.5
    return scores.softmax(1) @ (ctx @ w_v)


def keys_returned(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """You average the keys; keys only serve for the scores, the average is of values."""
    return cross_attention(h, ctx, w_q, w_k, w_k)


def words_unprojected(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """You average the words themselves; the average is of their values, ctx @ w_v."""
    return cross_attention(h, ctx, w_q, w_k, torch.eye(len(w_v)).to(w_v))


def weights_transposed(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """You multiply by transposed weights, as F.linear does; here each is used as a @ w."""
    return cross_attention(h, ctx, w_q.T, w_k.T, w_v.T)


def residual_added(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """You add h; the block adds the residual, attention only gives the update."""
    return h + cross_attention(h, ctx, w_q, w_k, w_v)


def root_of_the_tokens(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Your scores depend on how many tokens there are: the root is of the width, h.shape[-1]."""
    return cross_attention(h, ctx, w_q * (h.shape[-1] / h.shape[1]) ** 0.5, w_k, w_v)


def root_of_the_words(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Your scores depend on how many words there are: the root is of the width, h.shape[-1]."""
    return cross_attention(h, ctx, w_q * (h.shape[-1] / ctx.shape[1]) ** 0.5, w_k, w_v)


def keys_and_values_exchanged(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """The scores come from w_v and the average from w_k: keys and values are in each other's place."""
    return cross_attention(h, ctx, w_q, w_v, w_k)


def softmax_forgotten(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """The weights of a token do not add up to 1, and some are negative: the scores go straight to the values."""
    return (h @ w_q) @ (ctx @ w_k).transpose(1, 2) / h.shape[-1] ** 0.5 @ (ctx @ w_v)


def scaled_after_the_softmax(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """The weights of a token add up to 1 / sqrt(D): you divide after the softmax, and it should see smaller scores."""
    return ((h @ w_q) @ (ctx @ w_k).transpose(1, 2)).softmax(-1) / h.shape[-1] ** 0.5 @ (ctx @ w_v)


def softmax_over_the_batch(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """One picture changes the attention of the others: your softmax runs over the batch, and not over the words."""
    scores = (h @ w_q) @ (ctx @ w_k).transpose(1, 2) / h.shape[-1] ** 0.5
    return scores.softmax(0) @ (ctx @ w_v)


def all_words_alike(h: Tensor, ctx: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """Each image token gets the same update: queries and keys have no influence on your weights."""
    return (ctx @ w_v).mean(1, keepdim=True).expand_as(h)


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


def output_forgotten(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """You stop at the value; the output projection w_o still follows."""
    return ctx @ w_v


def other_order(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """You multiply by w_o before w_v; a matrix product does not commute."""
    return ctx @ w_o @ w_v


def word_itself_added(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """You add the word itself as well; the residual is that of the image tokens, not of the word."""
    return ctx + ctx @ w_v @ w_o


def weight_halved(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """You give the word weight 1/2; the softmax of one score is 1, whatever the score."""
    return ctx @ w_v @ w_o / 2


def values_softened(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """You take a softmax of the value; a softmax is taken of scores, and here it gives 1."""
    return (ctx @ w_v).softmax(-1) @ w_o


def weights_transposed_here(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """For a weight that is not symmetric your result is off: F.linear multiplies by its transpose; here it is a @ w."""
    return ctx @ w_v.T @ w_o.T


def output_transposed(ctx: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """Your value is right, and the output projection is transposed: both weights are used as a @ w."""
    return ctx @ w_v @ w_o.T


def one_word_cases() -> list[tuple]:
    return [(randn64(b, 1, d), randn64(d, d, seed=1), randn64(d, d, seed=2)) for b, d in ((3, 5), (1, 4))]


# same_bag: another scene with the same words


def same_bag(tokens: Tensor) -> Tensor:
    """tokens (B, 11) -> the caption in which the two objects have exchanged their colours."""
    tokens = tokens.clone()
    tokens[:, [4, 8]] = tokens[:, [8, 4]]
    return tokens


def objects_exchanged(tokens: Tensor) -> Tensor:
    """You exchanged whole objects: the scene is the same, only told in another order."""
    return torch.cat([tokens[:, :3], tokens[:, 7:], tokens[:, 3:7]], 1)


def looks_exchanged(tokens: Tensor) -> Tensor:
    """You exchanged colours and shapes together: each colour stays on its shape. Colours alone."""
    tokens = tokens.clone()
    tokens[:, [4, 5, 8, 9]] = tokens[:, [8, 9, 4, 5]]
    return tokens


def sizes_exchanged(tokens: Tensor) -> Tensor:
    """You exchanged the sizes, the first word of each object; its colour is the second."""
    tokens = tokens.clone()
    tokens[:, [3, 7]] = tokens[:, [7, 3]]
    return tokens


def colour_copied(tokens: Tensor) -> Tensor:
    """You overwrote one colour with the other, so a word is lost and the bag is another one: exchange them."""
    tokens = tokens.clone()
    tokens[:, 8] = tokens[:, 4]
    return tokens


def swapped_through_views(tokens: Tensor) -> Tensor:
    """Your right-hand sides are views: the first colour is gone before the second line reads it. Clone, or index."""
    tokens = tokens.clone()
    tokens[:, 4], tokens[:, 8] = tokens[:, 8], tokens[:, 4]
    return tokens


def light_counted_as_object(tokens: Tensor) -> Tensor:
    """You counted from the first word; three words for light and background come before the objects."""
    tokens = tokens.clone()
    tokens[:, [1, 5]] = tokens[:, [5, 1]]
    return tokens


def shapes_exchanged(tokens: Tensor) -> Tensor:
    """You exchanged the shapes, the third word of each object; its colour is the second."""
    tokens = tokens.clone()
    tokens[:, [5, 9]] = tokens[:, [9, 5]]
    return tokens


def cells_exchanged(tokens: Tensor) -> Tensor:
    """You exchanged the cells, the last word of each object; its colour is the second."""
    tokens = tokens.clone()
    tokens[:, [6, 10]] = tokens[:, [10, 6]]
    return tokens


def same_bag_cases() -> list[tuple]:
    return [(randn64(4, 11),), (randn64(1, 11, seed=1),)]


# pool_objects: a vector that says which colour belongs to which shape


def pool_objects(e: Tensor) -> Tensor:
    """e (B, 11, C) -> (B, C): the first three words, plus GELU of the sum of each object's four words."""
    things = e[:, 3:].unflatten(1, (2, 4)).sum(2)  # (B, 2, C)
    return e[:, :3].sum(1) + F.gelu(things).sum(1)


def bent_too_late(e: Tensor) -> Tensor:
    """You sum both objects before the GELU, which gives a bag of words again. Apply it to each object first."""
    return e[:, :3].sum(1) + F.gelu(e[:, 3:].sum(1))


def bent_too_early(e: Tensor) -> Tensor:
    """You apply GELU to each word and then sum: that is still a bag of words. Sum an object's four words first."""
    return e[:, :3].sum(1) + F.gelu(e[:, 3:]).sum(1)


def nothing_bent(e: Tensor) -> Tensor:
    """You only sum: a sum of sums is a bag of words. A nonlinearity must come in between."""
    return e.sum(1)


def light_forgotten(e: Tensor) -> Tensor:
    """You left out the first three words: light and background belong to the scene, too."""
    return F.gelu(e[:, 3:].unflatten(1, (2, 4)).sum(2)).sum(1)


def words_interleaved(e: Tensor) -> Tensor:
    """Your objects take every second word; an object's four words are neighbours."""
    return e[:, :3].sum(1) + F.gelu(e[:, 3:].unflatten(1, (4, 2)).sum(1)).sum(1)


def words_averaged(e: Tensor) -> Tensor:
    """What GELU receives is four times too small: you take the mean of an object's words, not their sum."""
    return e[:, :3].sum(1) + F.gelu(e[:, 3:].unflatten(1, (2, 4)).mean(2)).sum(1)


def gelu_approximated(e: Tensor) -> Tensor:
    """Your numbers are off in the fourth digit: you use the tanh approximation of GELU, and not the exact one."""
    return e[:, :3].sum(1) + F.gelu(e[:, 3:].unflatten(1, (2, 4)).sum(2), approximate="tanh").sum(1)


def light_bent_too(e: Tensor) -> Tensor:
    """The first three words go through a GELU as well: they belong to no object, and are added as they are."""
    return F.gelu(e[:, :3].sum(1)) + F.gelu(e[:, 3:].unflatten(1, (2, 4)).sum(2)).sum(1)


def objects_averaged(e: Tensor) -> Tensor:
    """Each object counts half: you take the mean of the two, and their sum is asked for."""
    return e[:, :3].sum(1) + F.gelu(e[:, 3:].unflatten(1, (2, 4)).sum(2)).mean(1)


def silu_for_gelu(e: Tensor) -> Tensor:
    """Your nonlinearity is SiLU: GELU is asked for, which is closer to 0 for negative numbers."""
    return e[:, :3].sum(1) + F.silu(e[:, 3:].unflatten(1, (2, 4)).sum(2)).sum(1)


def relu_for_gelu(e: Tensor) -> Tensor:
    """Negative sums have no influence at all: that is a ReLU, and GELU is asked for."""
    return e[:, :3].sum(1) + F.relu(e[:, 3:].unflatten(1, (2, 4)).sum(2)).sum(1)


def first_object_bent_only(e: Tensor) -> Tensor:
    """The second object's words are added as they are: both objects go through a GELU, each by itself."""
    return e[:, :3].sum(1) + F.gelu(e[:, 3:7].sum(1)) + e[:, 7:].sum(1)


def light_in_the_first_object(e: Tensor) -> Tensor:
    """The first three words go into the GELU of the first object: they belong to none, and are added as they are."""
    return F.gelu(e[:, :7].sum(1)) + F.gelu(e[:, 7:].sum(1))


def pool_objects_cases() -> list[tuple]:
    return [(randn64(3, 11, 5),), (randn64(1, 11, 4, seed=1),)]


# read_maps: from attention weights to one map for each word


def read_maps(weights: Tensor, side: int) -> Tensor:
    """weights (B, H, T, S), T = side * side image tokens by rows -> mean over pictures and heads, (S, side, side)."""
    return weights.mean((0, 1)).T.unflatten(1, (side, side))


def reshaped_not_transposed(weights: Tensor, side: int) -> Tensor:
    """You reshaped (T, S) to (S, side, side): that shuffles words and tokens. Transpose first."""
    return weights.mean((0, 1)).reshape(-1, side, side)


def rows_and_columns_exchanged(weights: Tensor, side: int) -> Tensor:
    """Your maps are transposed: tokens are in row order, so the first axis of a map is the row."""
    return read_maps(weights, side).transpose(1, 2)


def heads_summed(weights: Tensor, side: int) -> Tensor:
    """You sum over heads; take their mean, so that the weights of one token still sum to 1."""
    return weights.sum(1).mean(0).T.unflatten(1, (side, side))


def strongest_head(weights: Tensor, side: int) -> Tensor:
    """You keep the strongest head at each place; the mean over heads is asked for."""
    return weights.amax(1).mean(0).T.unflatten(1, (side, side))


def words_made_to_sum_to_one(weights: Tensor, side: int) -> Tensor:
    """You made each word's map sum to 1; do not: that a word gets little attention is a result."""
    maps = read_maps(weights, side)
    return maps / maps.sum((1, 2), keepdim=True)


def first_picture_only(weights: Tensor, side: int) -> Tensor:
    """All pictures but the first have no influence: take the mean over the batch."""
    return read_maps(weights[:1], side)


def first_head_only(weights: Tensor, side: int) -> Tensor:
    """All heads but the first have no influence: take the mean over them."""
    return read_maps(weights[:, :1], side)


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
        mistakes=by_name(
            image_looks_at_itself,
            not_scaled,
            scaled_by_width,
            softmax_over_the_image,
            keys_returned,
            words_unprojected,
            weights_transposed,
            residual_added,
            root_of_the_tokens,
            root_of_the_words,
            keys_and_values_exchanged,
            softmax_forgotten,
            scaled_after_the_softmax,
            softmax_over_the_batch,
            all_words_alike,
        ),
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
        mistakes=by_name(
            output_forgotten,
            other_order,
            word_itself_added,
            weight_halved,
            values_softened,
            weights_transposed_here,
            output_transposed,
        ),
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
        mistakes=by_name(
            objects_exchanged,
            looks_exchanged,
            sizes_exchanged,
            colour_copied,
            swapped_through_views,
            light_counted_as_object,
            shapes_exchanged,
            cells_exchanged,
        ),
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
        mistakes=by_name(
            bent_too_late,
            bent_too_early,
            nothing_bent,
            light_forgotten,
            words_interleaved,
            words_averaged,
            gelu_approximated,
            light_bent_too,
            objects_averaged,
            silu_for_gelu,
            relu_for_gelu,
            first_object_bent_only,
            light_in_the_first_object,
        ),
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
        mistakes=by_name(
            reshaped_not_transposed,
            rows_and_columns_exchanged,
            heads_summed,
            strongest_head,
            words_made_to_sum_to_one,
            first_picture_only,
            first_head_only,
        ),
    )
)
