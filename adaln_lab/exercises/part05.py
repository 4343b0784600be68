"""Exercises of notebook 05: a training pair and its loss, patches, one modulated branch, a fast recipe, guidance.

For each exercise: the solution, then common mistakes, one function each, with the docstring that `check` prints.
t = 0 is data, t = 1 is noise. B batch, T tokens, D width, P patch.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig
from adaln_lab.exercises.core import Exercise, by_name, faint, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.experiments import classifier
from adaln_lab.flow import interpolate
from adaln_lab.samplers import sample
from adaln_lab.training.checkpoint import shipped_model
from adaln_lab.training.train import Run, TrainConfig, train

# flow_pair: where a training example comes from


def flow_pair(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = (1 - t) x_0 + t noise and its velocity v = noise - x_0; images (B, C, H, W), t (B,)."""
    t = t.reshape(-1, 1, 1, 1)  # (B, 1, 1, 1): one time for each image
    return (1 - t) * x_0 + t * noise, noise - x_0


def time_reversed(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your x_t is the data at t = 1; here t = 0 is data and t = 1 is noise."""
    return flow_pair(noise, x_0, t)[0], noise - x_0


def all_reversed(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your line goes from noise to data, in x_t and in v; here t = 0 is data and t = 1 is noise."""
    return flow_pair(noise, x_0, t)


def velocity_flipped(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your v points from noise to data, but the derivative of x_t by t is noise - x_0."""
    return flow_pair(x_0, noise, t)[0], x_0 - noise


def t_along_the_width(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your t of shape (B,) broadcasts over the last axis: every column of pixels gets its own time."""
    return (1 - t) * x_0 + t * noise, noise - x_0


def variance_preserving(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """You mix with sqrt(1 - t^2) and t, as older diffusion models do; a straight line has 1 - t and t."""
    t = t.reshape(-1, 1, 1, 1)
    return (1 - t**2).sqrt() * x_0 + t * noise, noise - x_0


def noise_for_velocity(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your v is the noise, which DiT predicts; a velocity is the derivative of x_t by t, noise - x_0."""
    return flow_pair(x_0, noise, t)[0], noise


def way_for_velocity(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your v is x_t - x_0, the distance so far, t v; the velocity is that distance divided by t."""
    x_t = flow_pair(x_0, noise, t)[0]
    return x_t, x_t - x_0


def remaining_way_for_velocity(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your v shrinks to 0 as t goes to 1: noise - x_t is the way that is still to go, and v is the same at every t."""
    x_t = flow_pair(x_0, noise, t)[0]
    return x_t, noise - x_t


def results_exchanged(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your x_t does not depend on t, and your v does: they are returned in the other order, x_t first."""
    return flow_pair(x_0, noise, t)[::-1]


def time_of_the_first_image(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Every image is mixed by the time of the first one: t has a number for each image."""
    return flow_pair(x_0, noise, t[:1].expand_as(t))


def velocity_times_t(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your v depends on t: a straight line has the same velocity at every t."""
    return flow_pair(x_0, noise, t)[0], (noise - x_0) / t.reshape(-1, 1, 1, 1)


def noise_added_in_full(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """At t = 1 your x_t still contains the image: it must fade as the noise grows."""
    return x_0 + t.reshape(-1, 1, 1, 1) * noise, noise - x_0


def roots_of_the_times(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Your x_t is curved: you mix with the roots of 1 - t and t. A straight line has 1 - t and t."""
    t = t.reshape(-1, 1, 1, 1)
    return (1 - t).sqrt() * x_0 + t.sqrt() * noise, noise - x_0


def mean_of_the_times(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """All images are mixed by the same time, the mean of t: t has a number for each image."""
    return flow_pair(x_0, noise, t.mean().expand_as(t))


def flow_pair_cases() -> list[tuple]:
    """In the first the batch is as large as the images are wide, so that a wrong broadcast runs and is wrong."""
    shapes = [(4, 3, 5, 4), (2, 5, 4, 6), (5, 1, 2, 3), (1, 4, 3, 7)]
    return [(randn64(*s), randn64(*s, seed=1), torch.linspace(0.137, 0.911, s[0], dtype=torch.float64)) for s in shapes]


# guided: classifier-free guidance


def guided(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """From the unconditional prediction towards the conditional one, `guidance` times the difference."""
    return v_null + guidance * (v_label - v_null)


def swapped(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """You go from the conditional to the unconditional prediction, away from the condition."""
    return v_label + guidance * (v_null - v_label)


def off_by_one(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """You start from v_label, so guidance 0 already follows the condition; start from v_null."""
    return v_label + guidance * (v_label - v_null)


def average(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """You take the mean of the two predictions, whatever the guidance."""
    return (v_label + v_null) / 2


def base_forgotten(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """You return the difference alone, so guidance 0 would give 0; add it to v_null."""
    return guidance * (v_label - v_null)


def condition_ignored(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """You return the unconditional prediction; v_label has no influence."""
    return v_null


def label_added(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """At guidance 1 your result is about twice as large as each prediction: what is added must be a difference."""
    return v_null + guidance * v_label


def three_channels_guided(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """Channels after the third are not guided, as in DiT's own sampling code: here all of them are."""
    v = guided(v_label, v_null, guidance)
    return torch.cat([v[:, :3], v_label[:, 3:]], dim=1)


def three_channels_guided_others_null(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """Channels after the third ignore the label: guidance acts on all of them."""
    v = guided(v_label, v_null, guidance)
    return torch.cat([v[:, :3], v_null[:, 3:]], dim=1)


def difference_reversed(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """More guidance leads away from the label: the difference has the wrong sign."""
    return v_null + guidance * (v_null - v_label)


def from_the_label_back(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """At guidance 1 you are beyond v_label: you start there, and add the difference with one less than you should."""
    return v_label + (guidance + 1) * (v_label - v_null)


def weights_that_do_not_sum_to_one(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """Where both predictions agree, your result is larger than they are: two weights must add up to 1."""
    return guidance * v_label + (1 + guidance) * v_null


def guided_cases() -> list[tuple]:
    shapes = ((2, 5, 3, 4), (1, 4, 3, 7), (3, 1, 2, 5))
    return [(randn64(*s), randn64(*s, seed=1), guidance) for s, guidance in zip(shapes, (3.0, 1.5, 0.0), strict=True)]


# modulated_branch: half of a DiT block, and its common bugs


def modulated_branch(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """x + gate * branch(LN(x) * (1 + scale) + shift); x (B, T, D), the three vectors (B, 1, D)."""
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6)  # (B, T, D), no learned gamma and beta
    return x + gate * branch(h * (1 + scale) + shift)


def scale_without_one_plus(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You multiply by scale instead of 1 + scale: at scale 0 the branch would see nothing but shift."""
    return modulated_branch(x, shift, scale - 1, gate, branch)


def scale_and_shift_swapped(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You multiply by 1 + shift and add scale: the chunks were taken in the wrong order."""
    return modulated_branch(x, scale, shift, gate, branch)


def gate_missing(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You add the branch without its gate: a block that starts with gate 0 would not be the identity."""
    return modulated_branch(x, shift, scale, torch.ones_like(gate), branch)


def gate_on_the_sum(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You multiply the whole sum by gate: gate 0 would erase x instead of keeping it."""
    return gate * modulated_branch(x, shift, scale, torch.ones_like(gate), branch)


def stream_overwritten(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You add the branch to its own input: x was replaced by the normalised tokens, and the residual stream is lost."""
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return x + gate * branch(x)


def stream_missing(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You return the gated branch alone: it must be added to x, so that gate 0 leaves x as it is."""
    return modulated_branch(x, shift, scale, gate, branch) - x


def one_plus_gate(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You multiply the branch by 1 + gate; only scale has a 1 +. A gate of 0 must switch the branch off."""
    return modulated_branch(x, shift, scale, 1 + gate, branch)


def shift_before_scale(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You add shift first and multiply both by 1 + scale; only the normalised tokens are scaled; shift comes after."""
    return modulated_branch(x, shift * (1 + scale), scale, gate, branch)


def sigmoid_gate(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You put the gate through a sigmoid: gate 0 would let half of the branch through. It is a plain factor."""
    return modulated_branch(x, shift, scale, gate.sigmoid(), branch)


def no_layer_norm(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You modulate x itself: scale and shift would act on tokens of any size."""
    return x + gate * branch(x * (1 + scale) + shift)


def norm_after_modulation(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """You normalise once more after modulating, which removes much of what scale and shift have changed."""
    return modulated_branch(x, shift, scale, gate, lambda h: branch(F.layer_norm(h, h.shape[-1:], eps=1e-6)))


def default_eps(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Your layer norm has eps = 1e-5, torch's default; DiT has 1e-6."""
    h = F.layer_norm(x, x.shape[-1:], eps=1e-5)
    return x + gate * branch(h * (1 + scale) + shift)


def gate_on_the_input(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your branch still adds something: the gate multiplies what it receives, not what it gives."""
    return x + branch(gate * (F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift))


def tanh_gate(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Your update stays small however large the gate is: it goes through a tanh. Here it is a plain factor."""
    return modulated_branch(x, shift, scale, gate.tanh(), branch)


def shift_forgotten(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Whatever shift is, your result is the same."""
    return modulated_branch(x, 0 * shift, scale, gate, branch)


def modulated_after_the_branch(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Scale and shift do not change what the branch receives: you modulate its output."""
    return x + gate * (branch(F.layer_norm(x, x.shape[-1:], eps=1e-6)) * (1 + scale) + shift)


def modulated_before_the_norm(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Large shifts have hardly any effect: you modulate first, and the norm takes most of it away."""
    return x + gate * branch(F.layer_norm(x * (1 + scale) + shift, x.shape[-1:], eps=1e-6))


def shift_after_the_branch(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your stream changes: shift is added to the result. It belongs to what the branch receives."""
    return modulated_branch(x, 0 * shift, scale, gate, branch) + shift


def shift_added_again(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At gate 0 your stream changes: shift is added once more, to the result."""
    return modulated_branch(x, shift, scale, gate, branch) + shift


def _branch(d: int) -> Callable:
    mix = randn64(d, d, seed=9) / d**0.5
    return lambda h: torch.tanh(h @ mix)


def scale_and_gate_swapped(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """At scale = 0 your branch adds nothing, and that is what the gate is for: the two are in each other's place."""
    return modulated_branch(x, shift, gate, scale, branch)


def mean_left_in(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Your tokens keep their mean: that is an RMS norm, and DiT has a layer norm."""
    return x + gate * branch(F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


def norm_of_the_whole_picture(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """If one token grows, all others of its picture shrink: your mean and variance run over the tokens as well."""
    return x + gate * branch(F.layer_norm(x, x.shape[1:], eps=1e-6) * (1 + scale) + shift)


def branch_left_out(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """Whatever the branch does, your result is the same: it is never called."""
    return modulated_branch(x, shift, scale, gate, lambda h: h)


def modulated_branch_cases() -> list[tuple]:
    """The branch mixes channels and is not linear, so that two mistakes cannot cancel."""
    cases = []
    for seed, (b, t, d) in enumerate([(2, 5, 6), (3, 4, 7), (1, 3, 5)]):
        shift, scale, gate = 0.5 * randn64(3, b, 1, d, seed=10 + seed)
        cases.append((faint(0.7 + 2 * randn64(b, t, d, seed=seed)), shift, scale, gate, _branch(d)))
    return cases


# patchify: images become tokens


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, T, C * P * P): patches row by row; inside one channel, row, column, as in a Conv2d weight."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)  # (B, C, rows, P, columns, P)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch**2)


def grid_column_by_column(images: Tensor, patch: int) -> Tensor:
    """Your patches are in order from top to bottom, column after column; they must go row by row."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 4, 2, 1, 3, 5).reshape(b, -1, c * patch**2)


def channels_last(images: Tensor, patch: int) -> Tensor:
    """Inside a patch your channel varies fastest (row, column, channel); the order here is channel, row, column."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, c * patch**2)


def pixels_transposed(images: Tensor, patch: int) -> Tensor:
    """Inside a patch your row varies fastest (channel, column, row); the order here is channel, row, column."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 1, 5, 3).reshape(b, -1, c * patch**2)


def reshape_without_permute(images: Tensor, patch: int) -> Tensor:
    """A reshape alone cuts rows of pixels into pieces: the shape is right, but your tokens are not square patches."""
    return images.reshape(len(images), -1, images.shape[1] * patch**2)


def channels_apart(images: Tensor, patch: int) -> Tensor:
    """Each of your tokens holds one channel only: the channel axis is still before rows and columns."""
    patches = images.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, C, rows, columns, P, P)
    return patches.reshape(len(images), -1, images.shape[1] * patch**2)


def every_pth_pixel(images: Tensor, patch: int) -> Tensor:
    """Your tokens hold pixels that are far apart, not neighbours: of a split axis, the second part counts inside it."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, patch, h // patch, patch, w // patch)
    return grid.permute(0, 3, 5, 1, 2, 4).reshape(b, -1, c * patch**2)


def tokens_last(images: Tensor, patch: int) -> Tensor:
    """Your shape is (B, C * P * P, T): the tokens are on the last axis, as F.unfold gives them. Transpose."""
    return patchify(images, patch).transpose(1, 2)


def patchify_cases() -> list[tuple]:
    return [(randn64(2, 3, 4, 6), 2), (randn64(3, 1, 9, 6), 3), (randn64(1, 5, 8, 4), 4), (randn64(1, 4, 3, 5), 1)]


# best_guess: what x_t - t v of a trained model is, at both ends


@torch.no_grad()
def best_guess() -> dict[str, tuple[str, str]]:
    """Which of three pictures the shipped model's x_t - t v is closest to, on held-out digits."""
    model, data = shipped_model("digits"), datasets.load("digits")
    x_0, y = data.held_images, data.held_labels
    means = torch.stack([data.images[data.labels == k].mean(0) for k in range(10)])
    pictures = {"average digit": data.images.mean(0), "average of the class": means[y], "the picture": x_0}
    found: dict[str, tuple[str, str]] = {}
    for row, time in (("t = 1", 1.0), ("t = 0.02", 0.02)):
        t = torch.full((len(y),), time)
        x_t = interpolate(x_0, randn64(*x_0.shape).float(), t)
        cells = []
        for label in (torch.full_like(y, 10), y):
            guess = x_t - time * model(x_t, t, label)
            distance = {name: (guess - picture).square().mean().item() for name, picture in pictures.items()}
            cells.append(min(distance, key=distance.__getitem__))
        found[row] = tuple(cells)
    return found


# training_loss: four bugs that people have shipped


def training_loss(model: Callable, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Flow matching: the squared error of the velocity, with one label in ten replaced by 10, "no label"."""
    noise = torch.randn(x_0.shape, generator=generator)
    t = torch.rand(len(x_0), generator=generator)
    x_t = torch.lerp(x_0, noise, t.reshape(-1, 1, 1, 1))
    y = torch.where(torch.rand(len(y), generator=generator) < 0.1, 10, y)
    v = noise - x_0
    return (model(x_t, t, y) - v).square().mean()


def given_loss(model: Callable, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Four lines are wrong."""
    noise = torch.randn(x_0.shape, generator=generator)
    t = torch.rand(1, generator=generator).expand(len(x_0))
    x_t = torch.lerp(x_0, noise, t.reshape(-1, 1, 1, 1))
    y = torch.where(torch.rand(len(y), generator=generator) > 0.1, 10, y)
    v = torch.randn(x_0.shape, generator=generator) - x_0
    return (model(x_t, 1 - t, y) - v).square().mean()


def examine_loss(loss: Callable) -> tuple[bool, str]:
    """Ask for the loss with a model that knows the answer: pictures of one grey value show t, black ones the noise."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def knows(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append((x_t, t, y))
        return x_t / t.reshape(-1, 1, 1, 1).clamp(min=1e-6)  # noise - 0, where all pictures are 0

    generator, y = torch.Generator().manual_seed(0), torch.arange(2000) % 10
    loss(knows, torch.full((2000, 1, 8, 8), 100.0), y, generator)
    x_t, t, labels = seen[-1]
    true_t = 1 - x_t.mean((1, 2, 3)) / 100  # up to the mean of the noise, about 0.001
    if true_t.std() < 0.1:
        return False, "all pictures of a batch are mixed at one and the same time, so its gradient is of one t only"
    if (true_t - t).abs().max() > 0.05:
        return (
            False,
            f"the model is told another time than that of the mix (off by up to {(true_t - t).abs().max():.1g})",
        )
    if not 0.05 < (dropped := (labels == 10).float().mean().item()) < 0.15:
        return False, f"{dropped:.0%} of the labels are dropped; one in ten is asked for"
    if not torch.equal(labels[labels < 10], y[labels < 10]):
        return False, "labels that are kept belong to other pictures"
    error = loss(knows, torch.zeros(2000, 1, 8, 8), y, generator)
    if error.numel() != 1 or not error < 1e-4:
        return False, f"a model that knows the answer has the loss {error.mean():.2f} instead of 0: what is its target?"
    told = f"each picture has its own t, the model is told it, {dropped:.0%} of the labels are dropped"
    return True, f"{told}, and the right answer has loss {error:.2f}"


# fast_recipe: digits in 60 steps


def fast_recipe() -> dict[str, float]:
    """Rates of AdamW and Muon, where t is drawn, how different labels start, and how long the rate falls."""
    return {"steps": 60, "lr": 5e-3, "muon_lr": 0.05, "t_mean": 1.0, "label_std": 1.0, "decay": 0.0, "ema": 0.95}


def measure_recipe(k: dict[str, float]) -> tuple[float, float] | str:
    """Accuracy of 500 samples, and the steps."""
    if not isinstance(k, dict) or set(k) != set(fast_recipe()):
        return f"give a dict with {', '.join(fast_recipe())}"
    if k["steps"] > 60:
        return "at most 60 steps"
    shape = DiTConfig(label_std=k["label_std"])
    config = TrainConfig(**{name: value for name, value in k.items() if name != "label_std"})
    data = datasets.load("digits")
    run, y = Run.new(shape, config), torch.arange(500) % 10
    list(itertools.islice(train(run, data), 60))
    images = sample(run.ema, y)
    return classifier.accuracy(classifier.load_classifier(data), images, y), k["steps"]


register(
    Exercise(
        question="Mix images and noise for the times t, and give the velocity of the mix.",
        solution=flow_pair,
        returns=("x_t", "v"),
        cases=flow_pair_cases,
        hints=(
            "x_t is a straight line from the image at t = 0 to the noise at t = 1. v is its derivative by t.",
            "t has shape (B,) and the images (B, C, H, W): give t three more axes of length 1.",
            "t = t.reshape(-1, 1, 1, 1); x_t is (1 - t) * x_0 + t * noise; v does not depend on t.",
        ),
        mistakes=by_name(
            time_reversed,
            all_reversed,
            velocity_flipped,
            t_along_the_width,
            variance_preserving,
            noise_for_velocity,
            way_for_velocity,
            remaining_way_for_velocity,
            results_exchanged,
            time_of_the_first_image,
            velocity_times_t,
            noise_added_in_full,
            roots_of_the_times,
            mean_of_the_times,
        ),
    )
)
register(
    Predict(
        question="Say which picture the trained model's x_t - t v is closest to.",
        solution=best_guess,
        columns=("without a label", "with the label"),
        notes={
            "t = 1": "the input is noise alone. What is known about the picture, without and with a label?",
            "t = 0.02": "98 % of the input is the picture. Does the label add anything?",
        },
        hints=(
            "A squared error is smallest at the mean of what is still possible.",
            "At t = 1 every picture of the data, or of the class, is possible. At t = 0.02 only one is.",
            "Row t = 1 has two averages, row t = 0.02 has the picture twice.",
        ),
    )
)
register(
    Repair(
        question="Mend the four wrong lines of this loss; each is a bug that has been shipped.",
        solution=training_loss,
        given=given_loss,
        examine=examine_loss,
        hints=(
            "Go through it line by line: for whom is t drawn, who is told which t, which labels go, what is v?",
            "Each picture needs its own t. The noise in v is the noise in x_t.",
            "torch.rand(len(x_0)); < 0.1; v = noise - x_0; model(x_t, t, y).",
        ),
    )
)
register(
    Exercise(
        question="Cut images into square patches, one token each.",
        solution=patchify,
        returns=("tokens",),
        cases=patchify_cases,
        hints=(
            "First separate the patches: split H into rows times P and W into columns times P.",
            "After the reshape the axes are (B, C, rows, P, columns, P); the tokens want rows and columns in front.",
            "permute(0, 2, 4, 1, 3, 5), then join rows with columns, and C with P and P.",
        ),
        mistakes=by_name(
            grid_column_by_column,
            channels_last,
            pixels_transposed,
            reshape_without_permute,
            channels_apart,
            every_pth_pixel,
            tokens_last,
        ),
    )
)
register(
    Exercise(
        question="Write one adaLN-Zero branch: normalise, modulate, branch, gate, add to the stream.",
        solution=modulated_branch,
        returns=("x",),
        cases=modulated_branch_cases,
        hints=(
            "With gate = 0 the result must be x, untouched; with scale = shift = 0 the branch must see LN(x).",
            "Keep x for the end and give the branch's input its own name, h. The norm has no weights; its eps is 1e-6.",
            "h = F.layer_norm(x, x.shape[-1:], eps=1e-6); branch(h * (1 + scale) + shift) is what the gate multiplies.",
        ),
        mistakes=by_name(
            scale_without_one_plus,
            scale_and_shift_swapped,
            gate_missing,
            gate_on_the_sum,
            stream_overwritten,
            stream_missing,
            one_plus_gate,
            shift_before_scale,
            sigmoid_gate,
            no_layer_norm,
            norm_after_modulation,
            default_eps,
            gate_on_the_input,
            tanh_gate,
            shift_forgotten,
            modulated_after_the_branch,
            scale_and_gate_swapped,
            mean_left_in,
            norm_of_the_whole_picture,
            branch_left_out,
            modulated_before_the_norm,
            shift_after_the_branch,
            shift_added_again,
        ),
        gradients=True,
    )
)
register(
    Design(
        question="Reach 80 % of 500 samples read right after at most 60 steps of 64 pictures.",
        solution=fast_recipe,
        measure=measure_recipe,
        goal=0.8,
        budget=60,
        is_lower_better=False,
        is_value=True,
        hints=(
            "Look at the table of tricks: which two buy most, and which one costs at so few steps?",
            "A falling rate wastes a short run. Let labels differ from the start. Which t decide the digit?",
            "decay 0, label_std about 1, muon_lr .05, and t_mean 1 (more noise, where the label decides).",
        ),
    )
)
register(
    Exercise(
        question="Move the prediction away from the unconditional one, by a factor `guidance`.",
        solution=guided,
        returns=("v",),
        cases=guided_cases,
        hints=(
            "guidance 0 gives v_null, guidance 1 gives v_label, and the line goes on beyond.",
            "The direction is v_label - v_null. Where do you start?",
            "Start at v_null and add guidance times the direction.",
        ),
        mistakes=by_name(
            swapped,
            off_by_one,
            average,
            base_forgotten,
            condition_ignored,
            label_added,
            three_channels_guided,
            three_channels_guided_others_null,
            difference_reversed,
            from_the_label_back,
            weights_that_do_not_sum_to_one,
        ),
    )
)
