"""Exercises of notebook 01: layer norm forward and backward, what it removes, and three things to mend or design.

B batch, T tokens, D width, C channels; eps is large in the cases, so that its place matters.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from adaln_lab.exercises.core import Exercise, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.norms import layer_norm, rms_norm


def normalised(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """gamma * (x - mean) / sqrt(var + eps) + beta, each token by itself; x (B, T, D), gamma and beta (D,)."""
    centred = x - x.mean(-1, keepdim=True)  # (B, T, D)
    var = centred.square().mean(-1, keepdim=True)  # (B, T, 1)
    return gamma * centred / (var + eps).sqrt() + beta


def normalised_cases() -> Iterator[tuple]:
    """Tokens with a mean, because several mistakes make no difference without one; each token has its own scale."""
    for seed, (b, t, d, eps) in enumerate([(2, 5, 6, 0.3), (4, 3, 7, 0.01), (1, 7, 5, 0.1)]):
        x = 1.5 + randn64(b, t, d, seed=seed) * (1 + randn64(b, t, 1, seed=seed + 10).abs())
        yield x, randn64(d, seed=seed + 20), randn64(d, seed=seed + 30), eps


register(
    Exercise,
    question="Layer norm: normalise each token to mean 0 and variance 1, then multiply by gamma and add beta.",
    solution=normalised,
    returns=("y",),
    cases=normalised_cases,
    hints=(
        "One mean and one variance for each token: over the last axis, and keepdim=True so that they broadcast.",
        "centred = x - x.mean(-1, keepdim=True); the variance is the mean of its squares. Where does eps go?",
        "Divide centred by (var + eps).sqrt(); then gamma * ... + beta.",
    ),
    gradients=True,
    later=lambda: [(randn64(8, 5), randn64(5, seed=1), randn64(5, seed=2), 1e-6)],
    mistakes="""
variance with d minus 1
    You divide the squares by D - 1, as torch.var does unless told correction=0; a norm divides by D.
    centred.square().mean(-1, keepdim=True) => x.var(-1, keepdim=True)
eps outside the root
    You divide by sqrt(var) + eps; eps goes under the root: sqrt(var + eps) has a finite slope even at var = 0.
    (var + eps).sqrt() => (var.sqrt() + eps)
std plus eps
    You divide by std + eps: torch's std divides by D - 1 unless told correction=0, and eps goes under the root.
    (var + eps).sqrt() => (x.std(-1, keepdim=True) + eps)
eps left out
    You divide by sqrt(var) alone: a token whose channels are all equal would become 0 / 0.
    + eps =>
divided by the variance
    You divide by var + eps without the root: a token twice as large would give a result half as large.
    .sqrt() =>
over the tokens
    Your mean and variance run over the tokens, axis 1; they must run over the D channels of one token.
    every -1 => 1
one light for all tokens
    You take one mean and one variance for a whole picture, tokens and channels together; every token has its own.
    every -1 => (1, 2)
mean not subtracted
    You divide by the right number, but x still has its mean: subtract it in the numerator, too.
    gamma * centred => gamma * x
mean square for variance
    You divide by the root of mean(x^2); the variance is the mean square of x - mean, after centring.
    centred.square() => x.square()
beta inside gamma
    You multiply beta by gamma, too: first gamma times the normalised token, then plus beta.
    centred / (var + eps).sqrt() + beta => (centred / (var + eps).sqrt() + beta)
one light for the whole batch
    Your mean and variance are single numbers for everything, so that one picture changes all others: use dim=.
    every mean(-1, keepdim=True) => mean()
one std for the whole batch
    Your mean and variance are single numbers for everything, and the variance divides by n - 1: use dim= as well.
    x.mean(-1, keepdim=True) => x.mean()
    centred.square().mean(-1, keepdim=True) => x.var()
eps added to the quotient
    Your eps moves the result instead of guarding the division: it is added after dividing. Look at the brackets.
    centred / (var + eps).sqrt() => (centred / var.sqrt() + eps)
divided by rsqrt
    Large tokens come out larger still: rsqrt is one over the root already, so it multiplies.
    / (var => * (var
one plus gamma
    With gamma = 0 your result still depends on x: you multiply by 1 + gamma. A norm's gamma is a plain factor.
    gamma * => (1 + gamma) *
beta left out
    Whatever beta is, your result is the same.
    + beta =>
over the batch
    Your mean and variance run over the batch, axis 0; they must run over the D channels of one token.
    every -1 => 0
over batch and tokens
    Each channel has its own mean and variance, as in batch norm; here each token has, over its channels.
    every -1 => (0, 1)
gamma left out
    Whatever gamma is, your result is the same: nothing multiplies by it.
    gamma * =>
sum for mean square
    Wide tokens come out small: you add up the squares, and a variance is their mean.
    square().mean => square().sum
eps squared
    Your eps has hardly any effect: it is squared. Add it to the variance as it is.
    + eps => + eps * eps
one light with n minus 1
    You take one mean and one variance for a whole picture, and divide by n - 1 as well; every token has its own.
    x.mean(-1 => x.mean((1, 2)
    centred.square().mean(-1 => x.var((1, 2)
mean deviation for variance
    Tokens with one large number come out too large: you average sizes. A variance is a mean of squares.
    square().mean(-1, keepdim=True) => abs().mean(-1, keepdim=True).square()
""",
)


def survives() -> dict[str, tuple[str, str]]:
    """For each change of x: what the norm of the first token does."""
    x = 1 + 2 * randn64(3, 6)  # three tokens
    changed = {
        "x + 5": x + 5,
        "3 x": 3 * x,
        "-x": -x,
        "5 - 3 x": 5 - 3 * x,
        "5 added to channel 1 only": x + 5 * torch.eye(6)[0],
        "5 added to the other tokens": x + 5 * (torch.arange(3) > 0)[:, None],
    }
    norms = (lambda x: layer_norm(x, 0.0)[0], lambda x: rms_norm(x, eps=0.0)[0])
    return {name: tuple(_fate(norm(new), norm(x)) for norm in norms) for name, new in changed.items()}


def _fate(new: Tensor, old: Tensor) -> str:
    return "same" if torch.allclose(new, old) else "mirrored" if torch.allclose(new, -old) else "changed"


register(
    Predict,
    question="For each change of x, say what happens to the norm of the first token: same, mirrored or changed.",
    solution=survives,
    columns=("layer norm", "RMS norm"),
    notes={
        ("x + 5", "RMS norm"): "write it for x = (1, -1) and for x = (6, 4), without eps",
        ("5 - 3 x", "RMS norm"): "first -3 x, then + 5: is the sum still a multiple of x?",
        "x + 5": "by how much does the mean move, and by how much each channel?",
        "3 x": "the divisor is a length: how does it change?",
        "-x": "the divisor is a root of squares, so it has no sign. What about the numerator?",
        "5 - 3 x": "what does the factor -3 do to the numerator, and what to the divisor?",
        "5 added to channel 1 only": "do all channels move by the same amount?",
        "5 added to the other tokens": "over which axis do mean and divisor run?",
    },
    hints=(
        "Each row is one of three: the same output, its negative, or something else. eps is 0.",
        "Write numerator and divisor separately: x - mean(x) over std(x), and x over the root of mean(x^2).",
        "Try it: layer_norm(5 - 3 * x, 0.0) beside layer_norm(x, 0.0) for a token x of three numbers.",
    ),
)


def carry_size(x: Tensor) -> Tensor:
    """x (N, D) -> (N, D + 1). The new channel does not grow with x, so its share of the token tells how large x is."""
    return torch.cat([x, torch.ones_like(x[:, :1])], -1)


def size_error(carry: Callable[[Tensor], Tensor]) -> tuple[float, float] | str:
    """Median error of log10(spread), read off the new channel of LN(carry(x)) by a table of known tokens; channels."""
    table = torch.logspace(-1, 1, 400, dtype=torch.float64)
    spreads = torch.logspace(-0.99, 0.99, 400, dtype=torch.float64)
    known, asked = (s[:, None] * layer_norm(randn64(400, 64, seed=i), 0.0) for i, s in ((30, table), (31, spreads)))
    outputs = [carry(tokens.clone()) for tokens in (known, asked)]
    if any(not isinstance(y, Tensor) or y.ndim != 2 or len(y) != 400 or y.shape[1] < 64 for y in outputs):
        return "give back a tensor (N, D + 1) for x (N, D)"
    if not all(torch.equal(y[:, :64], x) for y, x in zip(outputs, (known, asked), strict=True)):
        return "the first D channels must still be x: the branch behind the norm needs them"
    kept, wanted = (layer_norm(y.double(), 0.0)[:, 64:] for y in outputs)
    if not kept.shape[1]:
        return "every token comes back as it was, and the norm removes its size: add a channel"
    nearest = (wanted[:, None] - kept).square().sum(-1).argmin(1)
    return (table[nearest] / spreads).log10().abs().median().item(), float(kept.shape[1])


register(
    Design,
    question="Add one channel to x, so that the token's size can be read behind a layer norm.",
    solution=carry_size,
    measure=size_error,
    goal=0.02,
    budget=1,
    unit="extra channel",
    hints=(
        "The norm divides all channels of a token by one number. What is left of a ratio of two channels?",
        "Let the new channel not grow with x. Then dividing makes it small where x is large.",
        "return torch.cat([x, something of shape (N, 1) that is the same for all tokens], -1)",
    ),
)


def detached_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    values = x.detach()
    mean = values.mean(-1, keepdim=True)
    var = values.var(-1, correction=0, keepdim=True)
    return (x - mean) / (var + eps).sqrt()


def trainable_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    var = x.var(-1, correction=0, keepdim=True)
    return (x - mean) / (var + eps).sqrt()


def examine_gradient(norm: Callable[[Tensor], Tensor]) -> tuple[bool, str]:
    """Output and gradient beside torch's layer norm, for tokens with a mean and a size of their own."""
    x = 1 + 2 * randn64(4, 5, 8, seed=40)
    y, back = _run(norm, x), randn64(4, 5, 8, seed=41)
    if isinstance(y, str):
        return False, y
    (got,), (want,) = (torch.autograd.grad(f(x.requires_grad_()), x, back) for f in (norm, layer_norm))
    if (off := (y - layer_norm(x)).abs().max().item()) > 1e-3:
        return False, f"the output itself is now off by up to {off:.2g}; only the gradient was wrong"
    x_hat = layer_norm(x).detach()
    shares = [(got * part).sum(-1).norm() / (got.norm() * 8**0.5) for part in (torch.ones_like(x_hat), x_hat)]
    text = f"its gradient's share along (1, ..., 1) is {shares[0]:.2g} and along x_hat {shares[1]:.2g}; both must be 0"
    return torch.allclose(got, want, rtol=1e-3, atol=1e-3), text


register(
    Repair,
    question="Mend the gradient of this norm; its output is right already.",
    solution=trainable_norm,
    given=detached_norm,
    examine=examine_gradient,
    hints=(
        "Compare its gradient with that of F.layer_norm. What does autograd know about mean and var here?",
        "In the backward pass mean and var are constants. In truth both change with every channel of x.",
        "Compute mean and var from x itself, not from x.detach().",
    ),
)


def norm_backward(dy: Tensor, x_hat: Tensor, sigma: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From dL/dy and x_hat (B, T, D), sigma (B, T, 1), gamma (D,): dL/dx (B, T, D), dL/dgamma and dL/dbeta (D,)."""
    g = dy * gamma  # dL/dx_hat
    dx = (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True)) / sigma
    return dx, (dy * x_hat).sum((0, 1)), dy.sum((0, 1))


def norm_backward_cases() -> Iterator[tuple]:
    """x_hat and sigma of random tokens; because of eps, the norm of x_hat is a little below sqrt(D)."""
    for seed, (b, t, d) in enumerate([(2, 5, 6), (3, 4, 7), (1, 3, 5)]):
        x = 0.5 + 2 * randn64(b, t, d, seed=seed)
        sigma = (x.var(-1, correction=0, keepdim=True) + 0.2).sqrt()
        x_hat = (x - x.mean(-1, keepdim=True)) / sigma
        yield randn64(b, t, d, seed=seed + 10), x_hat, sigma, 1 + 0.5 * randn64(d, seed=seed + 20)


register(
    Exercise,
    question="Layer norm backwards: from the gradient of y to those of x, gamma and beta.",
    solution=norm_backward,
    returns=("dx", "dgamma", "dbeta"),
    cases=norm_backward_cases,
    hints=(
        "Walk back: y = gamma * x_hat + beta first, then the Jacobian of x_hat. All tokens share gamma and beta.",
        "g = dy * gamma. The Jacobian takes two things from g, its mean and its part along x_hat, and divides.",
        "dx = (g - mean(g) - x_hat * mean(g * x_hat)) / sigma; dgamma sums dy * x_hat over axes 0 and 1.",
    ),
    mistakes="""
mean term forgotten
    Your dx lacks - mean(g): the mean depends on every channel, so no gradient may point along (1, ..., 1).
    - g.mean(-1, keepdim=True) =>
x hat term forgotten
    Your dx lacks - x_hat mean(g x_hat): sigma depends on every channel as well, not the mean alone.
    - x_hat * (g * x_hat).mean(-1, keepdim=True) =>
statistics detached
    Your dx is gamma dy / sigma, as if mean and sigma were constants, or detached: both depend on x.
    (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True)) => g
sigma forgotten
    Your dx is not divided by sigma: a token ten times as large must get a gradient ten times as small.
    / sigma =>
gamma forgotten
    Your dx starts from dy; going back through gamma * x_hat + beta, the gradient is multiplied by gamma first.
    dy * gamma => dy
gamma at the end
    You multiply by gamma last, after the two means; gamma comes first, so the means are those of gamma * dy.
    dy * gamma => dy
    / sigma => / sigma * gamma
sums for means
    In dx you sum over the channels instead of averaging: the two corrections are D times too large.
    every mean => sum
gamma in its own gradient
    Your dgamma sums gamma * dy * x_hat; y is gamma * x_hat + beta, and its derivative by gamma is x_hat alone.
    (dy * x_hat) => (g * x_hat)
averaged over the tokens
    You average dgamma and dbeta over the tokens; every token uses the same gamma, so their gradients add up.
    every sum => mean
summed over the batch only
    You sum dgamma and dbeta over the batch only and keep one gradient for each token place; there is one gamma.
    every (0, 1) => 0
dgamma and dbeta swapped
    Your dgamma and dbeta are swapped: one of them is a sum of dy alone. The order is dx, dgamma, dbeta.
    (dy * x_hat).sum((0, 1)), dy.sum((0, 1)) => dy.sum((0, 1)), (dy * x_hat).sum((0, 1))
multiplied by sigma
    Tokens that are ten times as large get a gradient ten times as large; it should be ten times as small.
    / sigma => * sigma
means of the whole batch
    A token's gradient depends on all other tokens: your two means are single numbers, and each token has its own.
    every mean(-1, keepdim=True) => mean()
x hat only in the mean
    What you take away for sigma is the same in all channels: it must point along x_hat.
    - x_hat * => -
sigma squared
    A token ten times as large gets a gradient a hundred times as small: you divide by sigma twice.
    / sigma => / sigma**2
gamma in dbeta
    Your dbeta depends on gamma: beta is added after gamma has multiplied, so that its gradient is a sum of dy.
    dy.sum => g.sum
x hat term added
    Your dx still has a part along x_hat, and a larger one: the two corrections are both subtracted.
    - x_hat => + x_hat
""",
)


def nan_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    std = centred.square().mean(-1, keepdim=True).sqrt()
    return centred / (std + eps)


def safe_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    std = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / std


def examine_blank(norm: Callable[[Tensor], Tensor]) -> tuple[bool, str]:
    """The gradient at blank tokens, and the output for ordinary ones."""
    x = 1 + 2 * randn64(2, 5, 8, seed=42)
    y = _run(norm, x)
    if isinstance(y, str):
        return False, y
    if (off := (y - layer_norm(x)).abs().max().item()) > 1e-3:
        return False, f"ordinary tokens are now off by up to {off:.2g}; they must come out as before"
    blank = torch.full((1, 1, 8), 3.0, dtype=torch.float64, requires_grad=True)
    largest = torch.autograd.grad(norm(blank)[0, 0, 0], blank)[0].abs().max().item()
    text = f"the largest gradient at a blank token is {largest:.3g}"
    if not largest <= 1e4:
        return False, f"{text}; it must be below 1e+04. Which function is steep at 0, and how steep?"
    return True, f"{text}, about 1 / sqrt(eps), and ordinary tokens come out as before"


def _run(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | str:
    """What a norm makes of x, or why it cannot be examined."""
    y = norm(x.clone().requires_grad_())
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return "give back a tensor of the shape of x"
    return y if y.requires_grad else "no gradient reaches x at all: the whole norm is cut off from the graph"


register(
    Repair,
    question="Change one line, so that the gradient at a blank token stays below 10,000 and others come out as before.",
    solution=safe_norm,
    given=nan_norm,
    examine=examine_blank,
    hints=(
        "A blank token comes out as 0, which is fine. Follow its gradient back: which line makes it infinite?",
        "d sqrt(u) / du = 1 / (2 sqrt(u)): infinite at u = 0. Then infinity times 0 is nan.",
        "Keep the number under the root away from 0. eps can do that.",
    ),
)
