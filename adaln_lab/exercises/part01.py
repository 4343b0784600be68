"""Exercises of notebook 01: layer norm forward and backward, RMS norm, group norm.

For each exercise: the solution, then common mistakes, one function each, with the docstring that `check` prints.
B batch, T tokens, D width, C channels; eps is large in the cases, so that its place matters.
"""

import torch
from torch import Tensor

from adaln_lab.exercises.core import Exercise, by_name, randn64, register

# normalised: layer norm, forward


def normalised(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """gamma * (x - mean) / sqrt(var + eps) + beta, each token by itself; x (B, T, D), gamma and beta (D,)."""
    centred = x - x.mean(-1, keepdim=True)  # (B, T, D)
    var = centred.square().mean(-1, keepdim=True)  # (B, T, 1)
    return gamma * centred / (var + eps).sqrt() + beta


def variance_with_d_minus_1(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You divide the squares by D - 1, as torch.var does unless told correction=0; a norm divides by D."""
    return gamma * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() + beta


def eps_outside_the_root(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You divide by sqrt(var) + eps; eps goes under the root: sqrt(var + eps) has a finite slope even at var = 0."""
    return gamma * (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True).sqrt() + eps) + beta


def std_plus_eps(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You divide by std + eps: torch's std divides by D - 1 unless told correction=0, and eps goes under the root."""
    return gamma * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) + beta


def eps_left_out(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You divide by sqrt(var) alone: a token whose channels are all equal would become 0 / 0."""
    return normalised(x, gamma, beta, 0.0)


def divided_by_the_variance(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You divide by var + eps without the root: a token twice as large would give a result half as large."""
    return gamma * (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps) + beta


def over_the_tokens(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Your mean and variance run over the tokens, axis 1; they must run over the D channels of one token."""
    return normalised(x.mT, gamma[:, None], beta[:, None], eps).mT


def one_light_for_all_tokens(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You take one mean and one variance for a whole picture, tokens and channels together; every token has its own."""
    centred = x - x.mean((1, 2), keepdim=True)
    return gamma * centred / (centred.square().mean((1, 2), keepdim=True) + eps).sqrt() + beta


def mean_not_subtracted(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You divide by the right number, but x still has its mean: subtract it in the numerator, too."""
    return gamma * x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() + beta


def mean_square_for_variance(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You divide by the root of mean(x^2); the variance is the mean square of x - mean, after centring."""
    return gamma * (x - x.mean(-1, keepdim=True)) / (x.square().mean(-1, keepdim=True) + eps).sqrt() + beta


def beta_inside_gamma(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You multiply beta by gamma, too: first gamma times the normalised token, then plus beta."""
    return gamma * (normalised(x, torch.ones_like(gamma), 0 * beta, eps) + beta)


def one_light_for_the_whole_batch(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Your mean and variance are single numbers for everything, so that one picture changes all others: use dim=."""
    return gamma * (x - x.mean()) / torch.sqrt(x.var(correction=0) + eps) + beta


def one_std_for_the_whole_batch(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Your mean and variance are single numbers for everything, and the variance divides by n - 1: use dim= as well."""
    return gamma * (x - x.mean()) / torch.sqrt(x.var() + eps) + beta


def eps_added_to_the_quotient(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Your eps moves the result instead of guarding the division: it is added after dividing. Look at the brackets."""
    return gamma * ((x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True) + eps) + beta


def divided_by_rsqrt(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Large tokens come out larger still: rsqrt is one over the root already, so it multiplies."""
    return gamma * (x - x.mean(-1, keepdim=True)) * (x.var(-1, correction=0, keepdim=True) + eps).sqrt() + beta


def one_plus_gamma(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """With gamma = 0 your result still depends on x: you multiply by 1 + gamma. A norm's gamma is a plain factor."""
    return normalised(x, 1 + gamma, beta, eps)


def beta_left_out(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Whatever beta is, your result is the same."""
    return normalised(x, gamma, 0 * beta, eps)


def over_the_batch(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Your mean and variance run over the batch, axis 0; they must run over the D channels of one token."""
    centred = x - x.mean(0, keepdim=True)
    return gamma * centred / (centred.square().mean(0, keepdim=True) + eps).sqrt() + beta


def over_batch_and_tokens(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Each channel has its own mean and variance, as in batch norm; here each token has, over its channels."""
    centred = x - x.mean((0, 1), keepdim=True)
    return gamma * centred / (centred.square().mean((0, 1), keepdim=True) + eps).sqrt() + beta


def gamma_left_out(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Whatever gamma is, your result is the same: nothing multiplies by it."""
    return normalised(x, torch.ones_like(gamma), beta, eps)


def sum_for_mean_square(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Wide tokens come out small: you add up the squares, and a variance is their mean."""
    centred = x - x.mean(-1, keepdim=True)
    return gamma * centred / (centred.square().sum(-1, keepdim=True) + eps).sqrt() + beta


def eps_squared(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Your eps has hardly any effect: it is squared. Add it to the variance as it is."""
    return normalised(x, gamma, beta, eps * eps)


def one_light_with_n_minus_1(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """You take one mean and one variance for a whole picture, and divide by n - 1 as well; every token has its own."""
    centred = x - x.mean((1, 2), keepdim=True)
    return gamma * centred / (x.var((1, 2), keepdim=True) + eps).sqrt() + beta


def mean_deviation_for_variance(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Tokens with one large number come out too large: you average sizes. A variance is a mean of squares."""
    centred = x - x.mean(-1, keepdim=True)
    return gamma * centred / (centred.abs().mean(-1, keepdim=True).square() + eps).sqrt() + beta


def normalised_cases() -> list[tuple]:
    """Tokens with a mean, because several mistakes make no difference without one; each token has its own scale."""
    cases = []
    for seed, (b, t, d, eps) in enumerate([(2, 5, 6, 0.3), (4, 3, 7, 0.01), (1, 7, 5, 0.1)]):
        x = 1.5 + randn64(b, t, d, seed=seed) * (1 + randn64(b, t, 1, seed=seed + 10).abs())
        cases.append((x, randn64(d, seed=seed + 20), randn64(d, seed=seed + 30), eps))
    return cases


# norm_backward: layer norm, backward


def norm_backward(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From dL/dy and x_hat (B, T, D), sigma (B, T, 1), gamma (D,): dL/dx (B, T, D), dL/dgamma and dL/dbeta (D,)."""
    g = dy * gamma  # dL/dx_hat
    dx = (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True)) / sigma
    return dx, (dy * x_hat).sum((0, 1)), dy.sum((0, 1))


def mean_term_forgotten(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dx lacks - mean(g): the mean depends on every channel, so no gradient may point along (1, ..., 1)."""
    g = dy * gamma
    return (g - x_hat * (g * x_hat).mean(-1, keepdim=True)) / sigma, *norm_backward(dy, x_hat, sigma, gamma)[1:]


def x_hat_term_forgotten(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dx lacks - x_hat mean(g x_hat): sigma depends on every channel as well, not the mean alone."""
    g = dy * gamma
    return (g - g.mean(-1, keepdim=True)) / sigma, *norm_backward(dy, x_hat, sigma, gamma)[1:]


def statistics_detached(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dx is gamma dy / sigma, as if mean and sigma were constants, or detached: both depend on x."""
    return dy * gamma / sigma, *norm_backward(dy, x_hat, sigma, gamma)[1:]


def sigma_forgotten(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dx is not divided by sigma: a token ten times as large must get a gradient ten times as small."""
    dx, dgamma, dbeta = norm_backward(dy, x_hat, sigma, gamma)
    return dx * sigma, dgamma, dbeta


def gamma_forgotten(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dx starts from dy; going back through gamma * x_hat + beta, the gradient is multiplied by gamma first."""
    return norm_backward(dy, x_hat, sigma, torch.ones_like(gamma))


def gamma_at_the_end(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """You multiply by gamma last, after the two means; gamma comes first, so the means are those of gamma * dy."""
    dx, dgamma, dbeta = norm_backward(dy, x_hat, sigma, torch.ones_like(gamma))
    return dx * gamma, dgamma, dbeta


def sums_for_means(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In dx you sum over the channels instead of averaging: the two corrections are D times too large."""
    g = dy * gamma
    dx = (g - g.sum(-1, keepdim=True) - x_hat * (g * x_hat).sum(-1, keepdim=True)) / sigma
    return dx, *norm_backward(dy, x_hat, sigma, gamma)[1:]


def gamma_in_its_own_gradient(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dgamma sums gamma * dy * x_hat; y is gamma * x_hat + beta, and its derivative by gamma is x_hat alone."""
    dx, dgamma, dbeta = norm_backward(dy, x_hat, sigma, gamma)
    return dx, gamma * dgamma, dbeta


def averaged_over_the_tokens(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """You average dgamma and dbeta over the tokens; every token uses the same gamma, so their gradients add up."""
    return norm_backward(dy, x_hat, sigma, gamma)[0], (dy * x_hat).mean((0, 1)), dy.mean((0, 1))


def summed_over_the_batch_only(
    dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """You sum dgamma and dbeta over the batch only and keep one gradient for each token place; there is one gamma."""
    return norm_backward(dy, x_hat, sigma, gamma)[0], (dy * x_hat).sum(0), dy.sum(0)


def dgamma_and_dbeta_swapped(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dgamma and dbeta are swapped: one of them is a sum of dy alone. The order is dx, dgamma, dbeta."""
    dx, dgamma, dbeta = norm_backward(dy, x_hat, sigma, gamma)
    return dx, dbeta, dgamma


def multiplied_by_sigma(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens that are ten times as large get a gradient ten times as large; it should be ten times as small."""
    dx, dgamma, dbeta = norm_backward(dy, x_hat, sigma, gamma)
    return dx * sigma * sigma, dgamma, dbeta


def means_of_the_whole_batch(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A token's gradient depends on all other tokens: your two means are single numbers, and each token has its own."""
    g = dy * gamma
    dx = (g - g.mean() - x_hat * (g * x_hat).mean()) / sigma
    return dx, *norm_backward(dy, x_hat, sigma, gamma)[1:]


def x_hat_only_in_the_mean(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What you take away for sigma is the same in all channels: it must point along x_hat."""
    g = dy * gamma
    dx = (g - g.mean(-1, keepdim=True) - (g * x_hat).mean(-1, keepdim=True)) / sigma
    return dx, *norm_backward(dy, x_hat, sigma, gamma)[1:]


def sigma_squared(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A token ten times as large gets a gradient a hundred times as small: you divide by sigma twice."""
    dx, dgamma, dbeta = norm_backward(dy, x_hat, sigma, gamma)
    return dx / sigma, dgamma, dbeta


def gamma_in_dbeta(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dbeta depends on gamma: beta is added after gamma has multiplied, so that its gradient is a sum of dy."""
    dx, dgamma, dbeta = norm_backward(dy, x_hat, sigma, gamma)
    return dx, dgamma, gamma * dbeta


def x_hat_term_added(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Your dx still has a part along x_hat, and a larger one: the two corrections are both subtracted."""
    g = dy * gamma
    dx = (g - g.mean(-1, keepdim=True) + x_hat * (g * x_hat).mean(-1, keepdim=True)) / sigma
    return dx, *norm_backward(dy, x_hat, sigma, gamma)[1:]


def norm_backward_cases() -> list[tuple]:
    """x_hat and sigma of random tokens; because of eps, the norm of x_hat is a little below sqrt(D)."""
    cases = []
    for seed, (b, t, d) in enumerate([(2, 5, 6), (3, 4, 7), (1, 3, 5)]):
        x = 0.5 + 2 * randn64(b, t, d, seed=seed)
        sigma = (x.var(-1, correction=0, keepdim=True) + 0.2).sqrt()
        x_hat = (x - x.mean(-1, keepdim=True)) / sigma
        cases.append((randn64(b, t, d, seed=seed + 10), x_hat, sigma, 1 + 0.5 * randn64(d, seed=seed + 20)))
    return cases


# rms_normalised: a norm without a mean


def rms_normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps), each token by itself; x (B, T, D), weight (D,)."""
    mean_square = x.square().mean(-1, keepdim=True)  # (B, T, 1)
    return weight * x / (mean_square + eps).sqrt()


def mean_subtracted(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You subtract the mean first: that is layer norm without beta. RMS norm takes x as it is."""
    return rms_normalised(x - x.mean(-1, keepdim=True), weight, eps)


def variance_for_mean_square(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You divide by the standard deviation; without centring the size of a token is the root of mean(x^2)."""
    return weight * x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()


def sum_for_mean(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You divide by the length sqrt(sum(x^2)): your tokens then have length 1; they should have length sqrt(D)."""
    return weight * x / (x.square().sum(-1, keepdim=True) + eps).sqrt()


def length_for_root_mean_square(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You divide by the length: your tokens then have length 1; it should be sqrt(D). And eps is missing."""
    return weight * x / x.norm(dim=-1, keepdim=True)


def rms_eps_left_out(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You divide by sqrt(mean(x^2)) alone: a token of zeros would become 0 / 0."""
    return rms_normalised(x, weight, 0.0)


def rms_eps_outside_the_root(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You divide by sqrt(mean(x^2)) + eps; eps belongs under the root, together with the mean square."""
    return weight * x / (x.square().mean(-1, keepdim=True).sqrt() + eps)


def root_forgotten(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You divide by the mean square, without a root: a token twice as large would give a result half as large."""
    return weight * x / (x.square().mean(-1, keepdim=True) + eps)


def one_size_for_all_tokens(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You take one mean square for a whole picture, tokens and channels together; every token has its own."""
    return weight * x / (x.square().mean((-2, -1), keepdim=True) + eps).sqrt()


def one_plus_weight(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """You multiply by 1 + weight, as in models whose weight starts at zero; here it is a plain factor."""
    return rms_normalised(x, 1 + weight, eps)


def rms_divided_by_rsqrt(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Large tokens come out larger still: rsqrt is one over the root already, so it multiplies."""
    return weight * x * (x.square().mean(-1, keepdim=True) + eps).sqrt()


def weight_left_out(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Whatever weight is, your result is the same."""
    return rms_normalised(x, torch.ones_like(weight), eps)


def one_size_for_the_whole_batch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Your mean square is a single number, so that one picture changes all others; every token has its own."""
    return weight * x / (x.square().mean() + eps).sqrt()


def mean_square_over_the_tokens(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Your mean square runs over the tokens, axis 1; it must run over the D channels of one token."""
    return weight * x / (x.square().mean(1, keepdim=True) + eps).sqrt()


def mean_square_over_the_batch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Your mean square runs over the batch, axis 0; it must run over the D channels of one token."""
    return weight * x / (x.square().mean(0, keepdim=True) + eps).sqrt()


def std_for_root_mean_square(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """A token whose channels are all equal becomes large: you divide by its deviation, which is 0 there."""
    return weight * x / (x.std(-1, keepdim=True) + eps)


def square_of_the_mean(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """A token whose mean is 0 becomes large: you square the mean, and RMS takes the mean of the squares."""
    return weight * x / (x.mean(-1, keepdim=True).square() + eps).sqrt()


def rms_eps_added_to_the_quotient(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Your eps moves the result instead of guarding the division: it is added after dividing. Look at the brackets."""
    return weight * (rms_normalised(x, torch.ones_like(weight), 0.0) + eps)


def rms_normalised_cases() -> list[tuple]:
    return [(x, gamma, eps) for x, gamma, _, eps in normalised_cases()]


# group_normalised: the same two moves, over other axes


def group_normalised(x: Tensor, groups: int, eps: float) -> Tensor:
    """Mean 0, variance 1 over each group of neighbouring channels and all positions of a picture; x (B, C, H, W)."""
    g = x.reshape(len(x), groups, -1)  # (B, G, C / G * H * W)
    centred = g - g.mean(-1, keepdim=True)
    return (centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()).reshape(x.shape)


def channels_dealt_like_cards(x: Tensor, groups: int, eps: float) -> Tensor:
    """Your groups take every n-th channel; a group is a run of neighbouring channels: 0, 1, 2 and then 3, 4, 5."""
    dealt = x.unflatten(1, (-1, groups)).transpose(1, 2)
    return group_normalised(dealt.flatten(1, 2), groups, eps).view_as(dealt).transpose(1, 2).reshape(x.shape)


def each_channel_alone(x: Tensor, groups: int, eps: float) -> Tensor:
    """You normalise every channel by itself: that is instance norm, group norm with as many groups as channels."""
    return group_normalised(x, x.shape[1], eps)


def all_channels_together(x: Tensor, groups: int, eps: float) -> Tensor:
    """You take one mean and one variance for a whole picture: that is group norm with a single group."""
    return group_normalised(x, 1, eps)


def each_position_alone(x: Tensor, groups: int, eps: float) -> Tensor:
    """You normalise each position by itself; a group's mean and variance run over all positions, H and W, as well."""
    g = x.unflatten(1, (groups, -1)).movedim(2, -1)  # (B, G, H, W, C / G)
    return group_normalised(g.flatten(1, 3), g[0, ..., 0].numel(), eps).view_as(g).movedim(-1, 2).flatten(1, 2)


def groups_of_that_size(x: Tensor, groups: int, eps: float) -> Tensor:
    """You make groups of `groups` channels each; `groups` is how many groups there are."""
    return group_normalised(x, x.shape[1] // groups, eps)


def across_the_batch(x: Tensor, groups: int, eps: float) -> Tensor:
    """Your means run over the batch, too: as in batch norm, the result would depend on the other pictures."""
    b, c, h, w = x.shape
    return group_normalised(x.transpose(0, 1).reshape(1, c, b * h, w), groups, eps).view(c, b, h, w).transpose(0, 1)


def eps_of_the_group_left_out(x: Tensor, groups: int, eps: float) -> Tensor:
    """You divide by sqrt(var) alone: a picture of one colour would become 0 / 0."""
    return group_normalised(x, groups, 0.0)


def eps_of_the_group_outside_the_root(x: Tensor, groups: int, eps: float) -> Tensor:
    """You divide by sqrt(var) + eps; eps belongs under the root, together with the variance."""
    spread = x.reshape(len(x), groups, -1).std(-1, correction=0).repeat_interleave(x.shape[1] // groups, 1)  # (B, C)
    return group_normalised(x, groups, 0.0) * (spread / (spread + eps))[..., None, None]


def variance_of_the_group_with_n_minus_1(x: Tensor, groups: int, eps: float) -> Tensor:
    """You divide the squares by one less than their number, as torch.var does; a norm uses correction=0."""
    g = x.reshape(len(x), groups, -1)
    return ((g - g.mean(-1, keepdim=True)) / (g.var(-1, keepdim=True) + eps).sqrt()).reshape(x.shape)


def group_divided_by_its_variance(x: Tensor, groups: int, eps: float) -> Tensor:
    """Pictures of strong contrast come out weak: you divide by var + eps without the root."""
    g = x.reshape(len(x), groups, -1)
    return ((g - g.mean(-1, keepdim=True)) / (g.var(-1, correction=0, keepdim=True) + eps)).reshape(x.shape)


def group_divided_by_rsqrt(x: Tensor, groups: int, eps: float) -> Tensor:
    """Large numbers come out larger still: rsqrt is one over the root already, so it multiplies."""
    g = x.reshape(len(x), groups, -1)
    return ((g - g.mean(-1, keepdim=True)) * (g.var(-1, correction=0, keepdim=True) + eps).sqrt()).reshape(x.shape)


def mean_of_the_group_left_in(x: Tensor, groups: int, eps: float) -> Tensor:
    """Your groups keep their mean: it must be subtracted before you divide."""
    g = x.reshape(len(x), groups, -1)
    return (g / (g.var(-1, correction=0, keepdim=True) + eps).sqrt()).reshape(x.shape)


def each_position_of_all_channels(x: Tensor, groups: int, eps: float) -> Tensor:
    """You normalise over all channels of each position, as layer norm does for a token; a group is a part of them."""
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()


def whole_batch_alike(x: Tensor, groups: int, eps: float) -> Tensor:
    """Your mean and variance are single numbers for the whole batch: each group of each picture has its own."""
    return (x - x.mean()) / (x.var(correction=0) + eps).sqrt()


def group_normalised_cases() -> list[tuple]:
    """Each channel of each picture has its own mean and scale, so that the choice of groups matters."""
    cases = []
    for seed, (b, c, h, w, groups) in enumerate([(2, 6, 4, 5, 3), (3, 8, 2, 4, 2), (1, 9, 3, 5, 3)]):
        x = randn64(b, c, h, w, seed=seed) * (1 + randn64(b, c, 1, 1, seed=seed + 10).abs()) + randn64(
            b, c, 1, 1, seed=seed + 20
        )
        cases.append((x, groups, 0.1))
    return cases


register(
    Exercise(
        question="Layer norm: normalise each token to mean 0 and variance 1, then multiply by gamma and add beta.",
        solution=normalised,
        returns=("y",),
        cases=normalised_cases,
        hints=(
            "One mean and one variance for each token: over the last axis, and keepdim=True so that they broadcast.",
            "centred = x - x.mean(-1, keepdim=True); the variance is the mean of its squares. Where does eps go?",
            "Divide centred by (var + eps).sqrt(); then gamma * ... + beta.",
        ),
        wrong=by_name(
            variance_with_d_minus_1,
            eps_outside_the_root,
            std_plus_eps,
            eps_left_out,
            divided_by_the_variance,
            over_the_tokens,
            one_light_for_all_tokens,
            mean_not_subtracted,
            mean_square_for_variance,
            beta_inside_gamma,
            one_light_for_the_whole_batch,
            one_std_for_the_whole_batch,
            eps_added_to_the_quotient,
            divided_by_rsqrt,
            one_plus_gamma,
            beta_left_out,
            over_the_batch,
            over_batch_and_tokens,
            gamma_left_out,
            sum_for_mean_square,
            eps_squared,
            one_light_with_n_minus_1,
            mean_deviation_for_variance,
        ),
        gradients=True,
        later=lambda: [(randn64(8, 5), randn64(5, seed=1), randn64(5, seed=2), 1e-6)],
    )
)
register(
    Exercise(
        question="Layer norm backwards: from the gradient of y to those of x, gamma and beta.",
        solution=norm_backward,
        returns=("dx", "dgamma", "dbeta"),
        cases=norm_backward_cases,
        hints=(
            "Walk back: y = gamma * x_hat + beta first, then the Jacobian of x_hat. All tokens share gamma and beta.",
            "g = dy * gamma. The Jacobian takes two things from g, its mean and its part along x_hat, and divides.",
            "dx = (g - mean(g) - x_hat * mean(g * x_hat)) / sigma; dgamma sums dy * x_hat over axes 0 and 1.",
        ),
        wrong=by_name(
            mean_term_forgotten,
            x_hat_term_forgotten,
            statistics_detached,
            sigma_forgotten,
            gamma_forgotten,
            gamma_at_the_end,
            sums_for_means,
            gamma_in_its_own_gradient,
            averaged_over_the_tokens,
            summed_over_the_batch_only,
            dgamma_and_dbeta_swapped,
            multiplied_by_sigma,
            means_of_the_whole_batch,
            x_hat_only_in_the_mean,
            sigma_squared,
            gamma_in_dbeta,
            x_hat_term_added,
        ),
    )
)
register(
    Exercise(
        question="RMS norm: divide each token by its root mean square, then multiply by weight.",
        solution=rms_normalised,
        returns=("y",),
        cases=rms_normalised_cases,
        hints=(
            "Read the name backwards: square, mean, root. Nothing is subtracted.",
            "x.square().mean(-1, keepdim=True) is the mean square of each token; eps is added before the root.",
            "return weight * x / (mean_square + eps).sqrt()",
        ),
        wrong=by_name(
            mean_subtracted,
            variance_for_mean_square,
            sum_for_mean,
            length_for_root_mean_square,
            rms_eps_left_out,
            rms_eps_outside_the_root,
            root_forgotten,
            one_size_for_all_tokens,
            one_plus_weight,
            rms_divided_by_rsqrt,
            weight_left_out,
            one_size_for_the_whole_batch,
            mean_square_over_the_tokens,
            mean_square_over_the_batch,
            std_for_root_mean_square,
            square_of_the_mean,
            rms_eps_added_to_the_quotient,
        ),
        gradients=True,
        later=lambda: [(randn64(8, 5), randn64(5, seed=1), 1e-6)],
    )
)
register(
    Exercise(
        question="Group norm: one mean and one variance for each picture and each group of neighbouring channels.",
        solution=group_normalised,
        returns=("y",),
        cases=group_normalised_cases,
        hints=(
            "Put all that shares a mean on one axis; then it is layer norm over that axis.",
            "x.reshape(len(x), groups, -1) puts each group, channels and positions together, on the last axis.",
            "Normalise that over -1, eps under the root, and reshape back to x.shape.",
        ),
        wrong=by_name(
            channels_dealt_like_cards,
            each_channel_alone,
            all_channels_together,
            each_position_alone,
            groups_of_that_size,
            across_the_batch,
            eps_of_the_group_left_out,
            eps_of_the_group_outside_the_root,
            variance_of_the_group_with_n_minus_1,
            group_divided_by_its_variance,
            group_divided_by_rsqrt,
            mean_of_the_group_left_in,
            each_position_of_all_channels,
            whole_batch_alike,
        ),
        gradients=True,
    )
)
