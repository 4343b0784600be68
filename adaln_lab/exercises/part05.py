"""Exercises of notebook 05: a training pair and its loss, patches, one modulated branch, a fast recipe, guidance.

t = 0 is data, t = 1 is noise. B batch, T tokens, D width, P patch.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from adaln_lab.data import datasets
from adaln_lab.dit import DiTConfig
from adaln_lab.exercises.core import Exercise, faint, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.experiments import classifier
from adaln_lab.flow import interpolate
from adaln_lab.samplers import sample
from adaln_lab.training.checkpoint import shipped_model
from adaln_lab.training.train import Run, TrainConfig, train


def flow_pair(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t = (1 - t) x_0 + t noise and its velocity v = noise - x_0; images (B, C, H, W), t (B,)."""
    t = t.reshape(-1, 1, 1, 1)  # (B, 1, 1, 1): one time for each image
    return (1 - t) * x_0 + t * noise, noise - x_0


register(
    Exercise,
    question="Mix images and noise for the times t, and give the velocity of the mix.",
    solution=flow_pair,
    returns=("x_t", "v"),
    # in the first the batch is as large as the images are wide, so that a wrong broadcast runs and is wrong
    cases=lambda: [
        (randn64(*s), randn64(*s, seed=1), torch.linspace(0.137, 0.911, s[0], dtype=torch.float64))
        for s in ((4, 3, 5, 4), (2, 5, 4, 6), (5, 1, 2, 3), (1, 4, 3, 7))
    ],
    hints=(
        "x_t is a straight line from the image at t = 0 to the noise at t = 1. v is its derivative by t.",
        "t has shape (B,) and the images (B, C, H, W): give t three more axes of length 1.",
        "t = t.reshape(-1, 1, 1, 1); x_t is (1 - t) * x_0 + t * noise; v does not depend on t.",
    ),
    mistakes="""
time reversed
    Your x_t is the data at t = 1; here t = 0 is data and t = 1 is noise.
    (1 - t) * x_0 + t * noise => t * x_0 + (1 - t) * noise
all reversed
    Your line goes from noise to data, in x_t and in v; here t = 0 is data and t = 1 is noise.
    (1 - t) * x_0 + t * noise, noise - x_0 => t * x_0 + (1 - t) * noise, x_0 - noise
velocity flipped
    Your v points from noise to data, but the derivative of x_t by t is noise - x_0.
    , noise - x_0 => , x_0 - noise
t along the width
    Your t of shape (B,) broadcasts over the last axis: every column of pixels gets its own time.
    t.reshape(-1, 1, 1, 1) => t
variance preserving
    You mix with sqrt(1 - t^2) and t, as older diffusion models do; a straight line has 1 - t and t.
    (1 - t) => (1 - t**2).sqrt()
noise for velocity
    Your v is the noise, which DiT predicts; a velocity is the derivative of x_t by t, noise - x_0.
    , noise - x_0 => , noise
way for velocity
    Your v is x_t - x_0, the distance so far, t v; the velocity is that distance divided by t.
    , noise - x_0 => , t * (noise - x_0)
remaining way for velocity
    Your v shrinks to 0 as t goes to 1: noise - x_t is the way that is still to go, and v is the same at every t.
    , noise - x_0 => , (1 - t) * (noise - x_0)
results exchanged
    Your x_t does not depend on t, and your v does: they are returned in the other order, x_t first.
    return (1 - t) * x_0 + t * noise, noise - x_0 => return noise - x_0, (1 - t) * x_0 + t * noise
time of the first image
    Every image is mixed by the time of the first one: t has a number for each image.
    t.reshape(-1, 1, 1, 1) => t[0]
velocity times t
    Your v depends on t: a straight line has the same velocity at every t.
    , noise - x_0 => , (noise - x_0) / t
noise added in full
    At t = 1 your x_t still contains the image: it must fade as the noise grows.
    (1 - t) * =>
roots of the times
    Your x_t is curved: you mix with the roots of 1 - t and t. A straight line has 1 - t and t.
    (1 - t) * x_0 + t * noise => (1 - t).sqrt() * x_0 + t.sqrt() * noise
mean of the times
    All images are mixed by the same time, the mean of t: t has a number for each image.
    t.reshape(-1, 1, 1, 1) => t.mean()
""",
)


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


register(
    Predict,
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
    if (off := (true_t - t).abs().max()) > 0.05:
        return False, f"the model is told another time than that of the mix (off by up to {off:.1g})"
    if not 0.05 < (dropped := (labels == 10).float().mean().item()) < 0.15:
        return False, f"{dropped:.0%} of the labels are dropped; one in ten is asked for"
    if not torch.equal(labels[labels < 10], y[labels < 10]):
        return False, "labels that are kept belong to other pictures"
    error = loss(knows, torch.zeros(2000, 1, 8, 8), y, generator)
    if error.numel() != 1 or not error < 1e-4:
        return False, f"a model that knows the answer has the loss {error.mean():.2f} instead of 0: what is its target?"
    told = f"each picture has its own t, the model is told it, {dropped:.0%} of the labels are dropped"
    return True, f"{told}, and the right answer has loss {error:.2f}"


register(
    Repair,
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


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, T, C * P * P): patches row by row; inside one channel, row, column, as in a Conv2d weight."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)  # (B, C, rows, P, columns, P)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch**2)


register(
    Exercise,
    question="Cut images into square patches, one token each.",
    solution=patchify,
    returns=("tokens",),
    cases=lambda: [
        (randn64(2, 3, 4, 6), 2),
        (randn64(3, 1, 9, 6), 3),
        (randn64(1, 5, 8, 4), 4),
        (randn64(1, 4, 3, 5), 1),
    ],
    hints=(
        "First separate the patches: split H into rows times P and W into columns times P.",
        "After the reshape the axes are (B, C, rows, P, columns, P); the tokens want rows and columns in front.",
        "permute(0, 2, 4, 1, 3, 5), then join rows with columns, and C with P and P.",
    ),
    mistakes="""
grid column by column
    Your patches are in order from top to bottom, column after column; they must go row by row.
    (0, 2, 4, => (0, 4, 2,
channels last
    Inside a patch your channel varies fastest (row, column, channel); the order here is channel, row, column.
    (0, 2, 4, 1, 3, 5) => (0, 2, 4, 3, 5, 1)
pixels transposed
    Inside a patch your row varies fastest (channel, column, row); the order here is channel, row, column.
    (0, 2, 4, 1, 3, 5) => (0, 2, 4, 1, 5, 3)
reshape without permute
    A reshape alone cuts rows of pixels into pieces: the shape is right, but your tokens are not square patches.
    grid.permute(0, 2, 4, 1, 3, 5) => images
channels apart
    Each of your tokens holds one channel only: the channel axis is still before rows and columns.
    (0, 2, 4, 1, 3, 5) => (0, 1, 2, 4, 3, 5)
every pth pixel
    Your tokens hold pixels that are far apart, not neighbours: of a split axis, the second part counts inside it.
    h // patch, patch, w // patch, patch) => patch, h // patch, patch, w // patch)
    (0, 2, 4, 1, 3, 5) => (0, 3, 5, 1, 2, 4)
tokens last
    Your shape is (B, C * P * P, T): the tokens are on the last axis, as F.unfold gives them. Transpose.
    c * patch**2) => c * patch**2).transpose(1, 2)
""",
)


def modulated_branch(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, branch: Callable) -> Tensor:
    """x + gate * branch(LN(x) * (1 + scale) + shift); x (B, T, D), the three vectors (B, 1, D)."""
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6)  # (B, T, D), no learned gamma and beta
    return x + gate * branch(h * (1 + scale) + shift)


def _branch(d: int) -> Callable:
    mix = randn64(d, d, seed=9) / d**0.5
    return lambda h: torch.tanh(h @ mix)


def modulated_branch_cases() -> Iterator[tuple]:
    """The branch mixes channels and is not linear, so that two mistakes cannot cancel."""
    for seed, (b, t, d) in enumerate([(2, 5, 6), (3, 4, 7), (1, 3, 5)]):
        shift, scale, gate = 0.5 * randn64(3, b, 1, d, seed=10 + seed)
        yield faint(0.7 + 2 * randn64(b, t, d, seed=seed)), shift, scale, gate, _branch(d)


register(
    Exercise,
    question="Write one adaLN-Zero branch: normalise, modulate, branch, gate, add to the stream.",
    solution=modulated_branch,
    returns=("x",),
    cases=modulated_branch_cases,
    hints=(
        "With gate = 0 the result must be x, untouched; with scale = shift = 0 the branch must see LN(x).",
        "Keep x for the end and give the branch's input its own name, h. The norm has no weights; its eps is 1e-6.",
        "h = F.layer_norm(x, x.shape[-1:], eps=1e-6); branch(h * (1 + scale) + shift) is what the gate multiplies.",
    ),
    gradients=True,
    mistakes="""
scale without one plus
    You multiply by scale instead of 1 + scale: at scale 0 the branch would see nothing but shift.
    (1 + scale) => scale
scale and shift swapped
    You multiply by 1 + shift and add scale: the chunks were taken in the wrong order.
    (1 + scale) + shift => (1 + shift) + scale
gate missing
    You add the branch without its gate: a block that starts with gate 0 would not be the identity.
    gate * =>
gate on the sum
    You multiply the whole sum by gate: gate 0 would erase x instead of keeping it.
    x + gate * branch(h * (1 + scale) + shift) => gate * (x + branch(h * (1 + scale) + shift))
stream overwritten
    You add the branch to its own input: x was replaced by the normalised tokens, and the residual stream is lost.
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return x + gate * branch(x)
stream missing
    You return the gated branch alone: it must be added to x, so that gate 0 leaves x as it is.
    x + gate => gate
one plus gate
    You multiply the branch by 1 + gate; only scale has a 1 +. A gate of 0 must switch the branch off.
    gate * => (1 + gate) *
shift before scale
    You add shift first and multiply both by 1 + scale; only the normalised tokens are scaled; shift comes after.
    h * (1 + scale) + shift => (h + shift) * (1 + scale)
sigmoid gate
    You put the gate through a sigmoid: gate 0 would let half of the branch through. It is a plain factor.
    gate * => gate.sigmoid() *
no layer norm
    You modulate x itself: scale and shift would act on tokens of any size.
    h * (1 => x * (1
norm after modulation
    You normalise once more after modulating, which removes much of what scale and shift have changed.
    h * (1 + scale) + shift => F.layer_norm(h * (1 + scale) + shift, x.shape[-1:], eps=1e-6)
default eps
    Your layer norm has eps = 1e-5, torch's default; DiT has 1e-6.
    1e-6 => 1e-5
gate on the input
    At gate 0 your branch still adds something: the gate multiplies what it receives, not what it gives.
    gate * branch(h * (1 + scale) + shift) => branch(gate * (h * (1 + scale) + shift))
tanh gate
    Your update stays small however large the gate is: it goes through a tanh. Here it is a plain factor.
    gate * => gate.tanh() *
shift forgotten
    Whatever shift is, your result is the same.
    + shift =>
modulated after the branch
    Scale and shift do not change what the branch receives: you modulate its output.
    branch(h * (1 + scale) + shift) => (branch(h) * (1 + scale) + shift)
scale and gate swapped
    At scale = 0 your branch adds nothing, and that is what the gate is for: the two are in each other's place.
    gate * branch(h * (1 + scale) => scale * branch(h * (1 + gate)
mean left in
    Your tokens keep their mean: that is an RMS norm, and DiT has a layer norm.
    layer_norm => rms_norm
norm of the whole picture
    If one token grows, all others of its picture shrink: your mean and variance run over the tokens as well.
    x.shape[-1:] => x.shape[1:]
branch left out
    Whatever the branch does, your result is the same: it is never called.
    branch(h => (h
modulated before the norm
    Large shifts have hardly any effect: you modulate first, and the norm takes most of it away.
    layer_norm(x, => layer_norm(x * (1 + scale) + shift,
    h * (1 + scale) + shift => h
shift after the branch
    At gate 0 your stream changes: shift is added to the result. It belongs to what the branch receives.
    + shift) => ) + shift
shift added again
    At gate 0 your stream changes: shift is added once more, to the result.
    + shift) => + shift) + shift
""",
)


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
    Design,
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


def guided(v_label: Tensor, v_null: Tensor, guidance: float) -> Tensor:
    """From the unconditional prediction towards the conditional one, `guidance` times the difference."""
    return v_null + guidance * (v_label - v_null)


register(
    Exercise,
    question="Move the prediction away from the unconditional one, by a factor `guidance`.",
    solution=guided,
    returns=("v",),
    cases=lambda: [
        (randn64(*shape), randn64(*shape, seed=1), guidance)
        for shape, guidance in (((2, 5, 3, 4), 3.0), ((1, 4, 3, 7), 1.5), ((3, 1, 2, 5), 0.0))
    ],
    hints=(
        "guidance 0 gives v_null, guidance 1 gives v_label, and the line goes on beyond.",
        "The direction is v_label - v_null. Where do you start?",
        "Start at v_null and add guidance times the direction.",
    ),
    mistakes="""
swapped
    You go from the conditional to the unconditional prediction, away from the condition.
    return v_label + guidance * (v_null - v_label)
off by one
    You start from v_label, so guidance 0 already follows the condition; start from v_null.
    v_null + => v_label +
average
    You take the mean of the two predictions, whatever the guidance.
    return (v_label + v_null) / 2
base forgotten
    You return the difference alone, so guidance 0 would give 0; add it to v_null.
    v_null + =>
condition ignored
    You return the unconditional prediction; v_label has no influence.
    + guidance * (v_label - v_null) =>
label added
    At guidance 1 your result is about twice as large as each prediction: what is added must be a difference.
    (v_label - v_null) => v_label
three channels guided
    Channels after the third are not guided, as in DiT's own sampling code: here all of them are.
    v = v_null + guidance * (v_label - v_null)
    return torch.cat([v[:, :3], v_label[:, 3:]], dim=1)
three channels guided others null
    Channels after the third ignore the label: guidance acts on all of them.
    v = v_null + guidance * (v_label - v_null)
    return torch.cat([v[:, :3], v_null[:, 3:]], dim=1)
difference reversed
    More guidance leads away from the label: the difference has the wrong sign.
    (v_label - v_null) => (v_null - v_label)
from the label back
    At guidance 1 you are beyond v_label: you start there, and add the difference with one less than you should.
    v_null + guidance => v_label + (guidance + 1)
weights that do not sum to one
    Where both predictions agree, your result is larger than they are: two weights must add up to 1.
    return guidance * v_label + (1 + guidance) * v_null
""",
)
