"""Exercises of notebook 03: the adaLN-Zero block, its gates' gradient, its Jacobian, its rows, Adam's first step.

B batch, T tokens, D width, C width of the condition.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.analysis.gradient_onset import measure_gradient_onset
from adaln_lab.dit import DiTConfig, TinyDiT
from adaln_lab.exercises.core import Exercise, faint, randn64, register
from adaln_lab.exercises.kinds import Design, Predict, Repair
from adaln_lab.layers import zero_linear
from adaln_lab.norms import layer_norm


def adaln_zero_block(x: Tensor, c: Tensor, linear: Callable, attn: Callable, mlp: Callable) -> Tensor:
    """x (B, T, D), c (B, C) -> (B, T, D); linear makes shift, scale, gate for attn, then for mlp: (B, 6D)."""
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = linear(F.silu(c))[:, None].chunk(6, dim=-1)
    x = x + gate_1 * attn(layer_norm(x) * (1 + scale_1) + shift_1)
    return x + gate_2 * mlp(layer_norm(x) * (1 + scale_2) + shift_2)


def adaln_zero_block_cases() -> Iterator[tuple]:
    """In the first B = T, so that a wrong broadcast runs and is wrong. attn mixes tokens, mlp channels."""
    for seed, (b, t, d) in enumerate([(3, 3, 6), (2, 5, 7), (1, 4, 5)]):
        make, mix = 0.4 * randn64(4, 6 * d, seed=20 + seed), randn64(d, d, seed=30 + seed) / d**0.5
        weights = randn64(t, t, seed=40 + seed).softmax(-1)
        functions = (lambda c, m=make: c @ m + 0.1, lambda h, w=weights: w @ h.tanh(), lambda h, m=mix: (h @ m).tanh())
        yield faint(0.7 + 2 * randn64(b, t, d, seed=seed)), randn64(b, 4, seed=10 + seed), *functions


register(
    Exercise,
    question="Write the whole adaLN-Zero block: six vectors from SiLU(c), then attention and MLP, each gated.",
    solution=adaln_zero_block,
    returns=("x",),
    cases=adaln_zero_block_cases,
    hints=(
        "Two gated branches in a row: what attention adds is already in x when the MLP reads it.",
        "linear(F.silu(c)) is (B, 6D). Give it an axis for tokens, then cut it: [:, None].chunk(6, dim=-1).",
        "x = x + gate_1 * attn(layer_norm(x) * (1 + scale_1) + shift_1), then mlp with the other three vectors.",
    ),
    gradients=True,
    mistakes="""
mlp branch calls attention
    Your second branch calls attn again: a line was copied, its call was not changed, and mlp never runs.
    gate_2 * mlp => gate_2 * attn
gate on the mlp branch only
    Your attention branch has no gate: with all vectors at zero the block would not be the identity.
    gate_1 * attn => attn
stream rebound
    You add each branch to its own input: x was replaced by the modulated tokens, and the residual stream is lost.
    for branch, vectors in zip((attn, mlp), linear(F.silu(c))[:, None].chunk(2, dim=-1)):
        shift, scale, gate = vectors.chunk(3, dim=-1)
        x = layer_norm(x) * (1 + scale) + shift
        x = x + gate * branch(x)
    return x
skip forgotten
    You return the branches' outputs without x: at gate 0 the result would be zero.
    every x + gate => gate
both branches read the same x
    Your mlp reads the x that came in; it must read the x to which attention has already been added.
    x = x + gate_1 => h = x + gate_1
    return x => return h
silu forgotten
    You give c itself to the Linear: DiT puts a SiLU in front, F.silu(c).
    F.silu(c) => c
silu applied twice
    Your condition goes through SiLU twice: once before the block or in a helper, and once inside.
    F.silu(c) => F.silu(F.silu(c))
scale and shift swapped
    You take the chunks as scale, shift, gate; here shift comes first, as in DiT.
    shift_1, scale_1, => scale_1, shift_1,
    shift_2, scale_2, => scale_2, shift_2,
shifts before scales before gates
    You take the chunks as two shifts, two scales, two gates; all three of attn come first, then those of mlp.
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 => shift_1, shift_2, scale_1, scale_2, gate_1, gate_2
second norm after modulating
    You normalise once more after modulating, which removes much of what scale and shift have changed.
    attn( => attn(layer_norm(
    + shift_1) => + shift_1))
    mlp( => mlp(layer_norm(
    + shift_2) => + shift_2))
batch broadcast over tokens
    Your vectors lack an axis for tokens, so (B, D) broadcasts over (T, D): token i gets the vectors of picture i.
    [:, None] =>
scale without one plus
    At scale = shift = 0 your branches receive nothing: scale comes without its 1 +.
    (1 + scale_1) => scale_1
    (1 + scale_2) => scale_2
sigmoid gates
    At gate = 0 half of each branch still passes: your gates go through a sigmoid. DiT uses them as they are.
    gate_1 * => gate_1.sigmoid() *
    gate_2 * => gate_2.sigmoid() *
tanh gates
    Your updates stay small however large a gate is: it goes through a tanh, as in Lumina 2. DiT uses it as it is.
    gate_1 * => gate_1.tanh() *
    gate_2 * => gate_2.tanh() *
one plus gates
    At gate = 0 your branches are fully on: only scale has a 1 +.
    gate_1 * => (1 + gate_1) *
    gate_2 * => (1 + gate_2) *
gates missing
    Whatever the two gates are, your result is the same: nothing multiplies the output of a branch.
    gate_1 * =>
    gate_2 * =>
gate on the attention branch only
    Your MLP branch has no gate: with all vectors at zero the block would not be the identity.
    gate_2 * =>
gate of attention twice
    Whatever the MLP's gate is, your result is the same: a line was copied, and with it the gate of attention.
    gate_2 * => gate_1 *
gates exchanged
    The gate of attention acts on the MLP, and the other way round: look at the order of the six vectors.
    x = x + gate_1 => x = x + gate_2
    return x + gate_2 => return x + gate_1
mlp told the vectors of attention
    Half of the six vectors have no influence: your MLP gets shift, scale and gate of attention.
    gate_2 * mlp(layer_norm(x) * (1 + scale_2) + shift_2) => gate_1 * mlp(layer_norm(x) * (1 + scale_1) + shift_1)
mlp modulated like attention
    The MLP's shift and scale have no influence: it is modulated with those of attention.
    (1 + scale_2) + shift_2 => (1 + scale_1) + shift_1
branches told each others vectors
    All vectors reach the wrong branch: the first three of the six belong to attention.
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 => shift_2, scale_2, gate_2, shift_1, scale_1, gate_1
shift scaled too
    Where shift is large, your result also depends on scale: shift is multiplied, too. It moves what is scaled.
    layer_norm(x) * (1 + scale_1) + shift_1 => (layer_norm(x) + shift_1) * (1 + scale_1)
    layer_norm(x) * (1 + scale_2) + shift_2 => (layer_norm(x) + shift_2) * (1 + scale_2)
norm missing
    Tokens that are twice as large give branch inputs that are twice as large: x is modulated without a norm.
    every layer_norm(x) => x
another eps
    Only faint tokens come out wrong: your norm has eps = 1e-5, torch's default. Here, as in DiT, it is 1e-6.
    every layer_norm(x) => F.layer_norm(x, x.shape[-1:])
gate on the sum
    At gate = 0 your stream is erased instead of kept: the gate multiplies x as well as the branch.
    x + gate_1 * => gate_1 * (x +
    + shift_1) => + shift_1))
    x + gate_2 * => gate_2 * (x +
    + shift_2) => + shift_2))
gate on the input
    At gate = 0 your branches still add something: the gate multiplies what they receive, not what they give.
    gate_1 * attn( => attn(gate_1 * (
    + shift_1) => + shift_1))
    gate_2 * mlp( => mlp(gate_2 * (
    + shift_2) => + shift_2))
attention lost
    What attention gave is read by the MLP and then lost: the second sum starts again from the x that came in.
    x = x + gate_1 => h = x + gate_1
    mlp(layer_norm(x) => mlp(layer_norm(h)
mlp before attention
    Your MLP runs before attention: the order is attention, then MLP, each with its own three vectors.
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 => shift_2, scale_2, gate_2, shift_1, scale_1, gate_1
    attn(layer_norm => mlp(layer_norm
    gate_2 * mlp(layer_norm => gate_2 * attn(layer_norm
scale and gate swapped
    At scale = 0 your branches add nothing, and that is what a gate is for: the order is shift, scale, gate.
    scale_1, gate_1 => gate_1, scale_1
    scale_2, gate_2 => gate_2, scale_2
gates before shifts
    You take the chunks as gate, shift, scale; here the order is shift, scale, gate.
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 => gate_1, shift_1, scale_1, gate_2, shift_2, scale_2
mean left in
    Your tokens keep their mean: that is an RMS norm, and DiT has a layer norm.
    every layer_norm(x) => F.rms_norm(x, x.shape[-1:], eps=1e-6)
norm on the mlp branch only
    Your attention receives x without a norm: each branch starts with one.
    attn(layer_norm(x) => attn(x
norm on the attention branch only
    Your MLP receives x without a norm: each branch starts with one.
    mlp(layer_norm(x) => mlp(x
sum gated once
    Half of the gates act on a whole sum: at gate = 0 the x that came in is erased as well.
    x + gate_2 * => gate_2 * (x +
    + shift_2) => + shift_2))
one branch after another
    Your MLP reads what attention gave, without x: each branch reads the stream and adds to it.
    x = x + gate_1 => h = gate_1
    mlp(layer_norm(x) => mlp(layer_norm(h)
modulated before the norm
    Large shifts have hardly any effect: you modulate first, and the norm takes most of it away.
    layer_norm(x) * (1 + scale_1) + shift_1 => layer_norm(x * (1 + scale_1) + shift_1)
    layer_norm(x) * (1 + scale_2) + shift_2 => layer_norm(x * (1 + scale_2) + shift_2)
stream added twice
    With all gates at 0 your result is 2 x: the x that came in is added again after the first sum has it already.
    x = x + gate_1 => h = x + gate_1
    return x => return x + h
    mlp(layer_norm(x) => mlp(layer_norm(h)
one plus on the attention branch only
    At scale = shift = 0 your MLP receives nothing: its scale comes without 1 +.
    (1 + scale_2) => scale_2
one plus on the mlp branch only
    At scale = shift = 0 your attention receives nothing: its scale comes without 1 +.
    (1 + scale_1) => scale_1
every sixth number
    You take every sixth output for each vector; the six vectors follow one another, D numbers each.
    [:, None].chunk(6, dim=-1) => [:, None].unflatten(-1, (-1, 6)).unbind(-1)
silu after the linear
    Your vectors are hardly ever negative: SiLU comes after the Linear. It stands before it.
    linear(F.silu(c)) => F.silu(linear(c))
gelu for silu
    Your numbers are near the right ones, and closest for large c: that is a GELU. DiT has a SiLU there.
    silu => gelu
""",
)


def gate_gradient(grad_out: Tensor, branch: Tensor) -> Tensor:
    """dL/dgate (B, 1, D) of x_out = x + gate * branch; grad_out = dL/dx_out and branch = F(h), both (B, T, D)."""
    return (grad_out * branch).sum(dim=1, keepdim=True)  # a sum over tokens


register(
    Exercise,
    question="Give the gradient of a gate from dL/dx_out and the output of its branch.",
    solution=gate_gradient,
    returns=("grad",),
    cases=lambda: [(randn64(b, t, d), randn64(b, t, d, seed=1)) for b, t, d in ((2, 5, 6), (3, 2, 4), (1, 3, 7))],
    hints=(
        "In x_out = x + gate * F(h), what multiplies the gate in one token and one channel?",
        "One gate number is used by every token of its picture; the chain rule adds over all uses.",
        "Multiply the two, then sum over axis 1, and keep that axis: a gate is (B, 1, D).",
    ),
    mistakes="""
not summed over tokens
    You return one number per token, but one gate multiplies all tokens of a picture: sum over the tokens.
    .sum(dim=1, keepdim=True) =>
mean over tokens
    You take the mean over tokens; the chain rule sums: you are off by a factor of T.
    .sum( => .mean(
summed over the batch too
    You add up the pictures of the batch as well, but every picture has its own condition, and so its own gate.
    dim=1 => dim=(0, 1)
summed over channels
    You sum over channels and keep the tokens: a gate has a number for each channel, none for each token.
    dim=1 => dim=2
branch forgotten
    You sum dL/dx_out alone, which is the gradient of a shift: the factor F(h) is missing.
    (grad_out * branch) => grad_out
summed before multiplying
    You sum both over tokens and multiply the sums; each token's gradient is multiplied by the same token's F(h).
    return grad_out.sum(dim=1, keepdim=True) * branch.sum(dim=1, keepdim=True)
token axis lost
    Your numbers are right but come as (B, D); a gradient has the shape of its gate, (B, 1, D): keepdim=True.
    , keepdim=True =>
sign flipped
    Your gates would move uphill: the gradient has the wrong sign. The minus comes later, in the optimiser.
    (grad_out => -(grad_out
""",
)


def gate_rows(weight: Tensor) -> Tensor:
    """weight (6D, C) of DiT's modulation Linear -> the rows that make gates, (2, D, C): attention's, the MLP's."""
    return weight.unflatten(0, (2, 3, -1))[:, 2]  # (branch, shift | scale | gate, D, C)


register(
    Exercise,
    question="Select the rows of a modulation Linear's weight that produce the gates.",
    solution=gate_rows,
    returns=("rows",),
    # In the first c is narrower than the tokens, so that a cut by its width runs and is wrong.
    cases=lambda: [(randn64(6 * d, c),) for d, c in ((5, 3), (4, 5), (2, 3), (1, 7))],
    hints=(
        "The 6D rows are six blocks of D: shift, scale, gate of attention, then shift, scale, gate of the MLP.",
        "Give each of them an axis: weight.unflatten(0, (2, 3, -1)) is (branch, vector, D, C).",
        "Of the axis of length 3, the gate is number 2: [:, 2].",
    ),
    mistakes="""
last third
    You take the last 2D rows: those are scale and gate of the MLP. A gate is the third vector of its branch.
    (2, 3, -1))[:, 2] => (3, 2, -1))[2]
gate first
    You take the first of each three, which are the shifts: DiT's order is shift, scale, gate.
    [:, 2] => [:, 0]
scale rows
    You take the second of each three, which are the scales: DiT's order is shift, scale, gate.
    [:, 2] => [:, 1]
every third row
    You take every third row, as if shift, scale and gate alternated; each is a block of D consecutive rows.
    return weight[2::3].unflatten(0, (2, -1))
branches in the wrong order
    Your rows are right, but the MLP's come first; in the Linear, attention's come first.
    [:, 2] => [:, 2].flip(0)
cut by the width of c
    Your cuts are right only where c is as wide as the tokens: weight.shape[1] is the width of c, not D.
    d = weight.shape[1]
    return torch.stack([weight[2 * d : 3 * d], weight[5 * d : 6 * d]])
two in the middle
    Your second D rows make the MLP's shift: you go on where attention's gate ends.
    (2, 3, -1))[:, 2] => (6, -1))[2:4]
rows not apart
    Your rows are right but come as one block (2D, C): give each branch its own, (2, D, C).
    [:, 2] => [:, 2].flatten(0, 1)
""",
)


def block_jacobian(gate: Tensor, jacobian: Tensor) -> Tensor:
    """d x_out / d x of x_out = x + gate * F(x): gate (N,), jacobian J[i, j] = dF_i / dx_j (N, N) -> (N, N)."""
    return torch.eye(len(gate), dtype=gate.dtype) + gate[:, None] * jacobian  # gate i scales row i


register(
    Exercise,
    question="Give the Jacobian of x + gate * F(x) from the gate and the Jacobian of F.",
    solution=block_jacobian,
    returns=("jacobian",),
    cases=lambda: [(randn64(n), randn64(n, n, seed=1)) for n in (6, 3, 1)],
    hints=(
        "Derive output i by input j: the residual gives 1 where i = j, the branch gives gate_i dF_i / dx_j.",
        "gate i multiplies output i, a whole row of the branch's Jacobian: gate[:, None] is a column.",
        "torch.eye(len(gate), dtype=gate.dtype) + gate[:, None] * ...",
    ),
    mistakes="""
one plus everywhere
    You add 1 to every entry, as in the formula for one number; for vectors the 1 is the identity matrix.
    torch.eye(len(gate), dtype=gate.dtype) => 1
columns scaled
    Your gate j scales column j, an input; a gate comes after the branch and scales its outputs, the rows.
    gate[:, None] => gate
identity forgotten
    You return the branch's part alone: the residual x contributes the identity.
    torch.eye(len(gate), dtype=gate.dtype) + =>
diagonal only
    You keep only the derivative of each number by itself; attention and MLP make it depend on the others too.
    return torch.diag(1 + gate * jacobian.diagonal())
everything gated
    You gate the residual x, too: with gate 0 nothing would pass, neither forwards nor backwards.
    return gate[:, None] * (torch.eye(len(gate), dtype=gate.dtype) + jacobian)
jacobian transposed
    You swapped rows and columns: entry [i, j] is the derivative of output i by input j.
    return block_jacobian(gate, jacobian).T
one vector in every row
    Every row of your branch's part is the same: gate @ J is a vector. Each row of J has a gate of its own.
    gate[:, None] * => gate @
gate on the identity
    At gate 0 your matrix is J, as if the branch were on and x gone: the gate belongs to the branch.
    return torch.diag(gate) + jacobian
""",
)


def regression(seed: int) -> tuple[Tensor, Tensor]:
    """256 vectors x of width 8 and what a branch is to make of them: x plus a random network of two layers."""
    x = randn64(256, 8, seed=seed)
    return x, x + (x @ randn64(8, 16, seed=seed + 50) / 8**0.5).relu() @ randn64(16, 8, seed=seed + 60) / 4


def fit(branch: nn.Module, seed: int, steps: int) -> tuple[float, float]:
    """The squared error before and after `steps` updates of Adam."""
    x, target = regression(seed)
    optimizer, losses = torch.optim.Adam(branch.parameters(), 0.03), []
    for _ in range(steps + 1):
        losses.append((branch(x) - target).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return losses[0].item(), losses[-1].item()


def first_gradient() -> dict[str, tuple]:
    """In which step of SGD, from 1, V, W and the gate first get a gradient; None for never in the first ten."""
    (x, target), table = regression(1), {}
    starts = {"gate 0": "g", "W 0": "W", "gate 0 and W 0": "gW", "gate 0 and V 0": "gV"}
    for name, zeros in starts.items():
        p = {"V": randn64(8, 16, seed=2) / 3, "W": randn64(16, 8, seed=3) / 4, "g": randn64(8, seed=4)}
        p = {key: (0 * value if key in zeros else value).requires_grad_() for key, value in p.items()}
        first: dict[str, int | None] = dict.fromkeys(p)
        for step in range(1, 11):
            loss = (x + p["g"] * ((x @ p["V"]).relu() @ p["W"]) - target).square().mean()
            for (key, value), grad in zip(p.items(), torch.autograd.grad(loss, [*p.values()]), strict=True):
                first[key] = first[key] or (step if grad.any() else None)
                value.data -= 0.1 * grad
        table[name] = tuple(first.values())
    return table


class Stuck(nn.Module):
    """What the notebook gives: gate and last Linear both start at zero."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), zero_linear(4 * width, width)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x + self.gate * self.down(F.relu(self.up(x)))


class GatedBranch(nn.Module):
    """x + gate * down(relu(up(x)))"""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x + self.gate * self.down(F.relu(self.up(x)))


def examine_branch(kind: Callable) -> tuple[bool, str]:
    x, branch = regression(1)[0], kind(8).double()
    change = ((branch(x) - x).norm() / x.norm()).item()
    is_linear = hasattr(branch, "down") and not branch.down.weight.any()
    before, after = fit(branch, 1, 60)
    if change > 1e-12:
        return False, f"it does not start as the identity: it changes its input by {100 * change:.2g} %"
    if after > 0.98 * before:
        return False, f"it starts as the identity, and after 60 steps its loss is still {after:.3f}"
    if after > 0.3 * before:
        return False, f"it starts as the identity and learns a part: loss {before:.2f} -> {after:.2f} in 60 steps"
    way = "the Linear keeps its zero" if is_linear else "the gate keeps its zero, as in DiT"
    return True, f"identity at the start, loss {before:.2f} -> {after:.3f} in 60 steps; {way}"


def half_zero(width: int) -> tuple[Tensor, Tensor]:
    """Which gates and which rows of W start at zero: each channel has one of the two zeros."""
    first = torch.arange(width) < width // 2
    return first, ~first


def measure_halves(answer: Callable) -> tuple[float, float] | str:
    gates, rows = (torch.as_tensor(mask, dtype=torch.bool) for mask in answer(8))
    if gates.shape != (8,) or rows.shape != (8,) or gates.sum() != 4 or rows.sum() != 4:
        return "return two masks of `width` booleans, each True in exactly half of its places"
    branch = GatedBranch(8).double()
    with torch.no_grad():
        branch.gate.copy_(~gates)
        branch.down.weight[rows], branch.down.bias[rows] = 0.0, 0.0
    before, after = fit(branch, 2, 60)
    return after / before, 60


register(
    Predict,
    question="Fill in the step in which each parameter first gets a gradient, or None for never.",
    solution=first_gradient,
    columns=("V", "W", "gate"),
    notes={
        "V": "write dL/dV. Which of its factors is 0 in step 1, and in which step does that factor change?",
        "W": "write dL/dW. Which of its factors is 0 in step 1, and in which step does that factor change?",
        "gate": "write dL/dgate. Which of its factors is 0 in step 1, and in which step does that factor change?",
        "gate 0 and V 0": "what is relu(0), and what reaches W and V then?",
    },
    hints=(
        "Write the three gradients next to each other, as products.",
        "A gradient is 0 as long as one of its factors is 0. Ask for each factor when it changes.",
        "With one zero in the product, that parameter moves in step 1 and the two others in step 2.",
    ),
)


register(
    Repair,
    question="Change one line so that the block still starts as the identity and learns.",
    solution=GatedBranch,
    given=Stuck,
    examine=examine_branch,
    hints=(
        "Which two zeros are multiplied with each other?",
        "Each of the two learns from the other one, so one of them has to differ from 0.",
        "Either the gate starts at 1, or `down` is an ordinary nn.Linear.",
    ),
)


register(
    Design,
    question="Choose which half of the gates and which half of W's rows start at zero, so that all of it learns.",
    solution=half_zero,
    measure=measure_halves,
    goal=0.1,
    budget=60,
    hints=(
        "Channel i of the branch is gate[i] times row i of W times the hidden units.",
        "A channel with both zeros never learns. How can you avoid one in all eight channels?",
        "Give each channel exactly one zero: the masks are each other's opposite.",
    ),
)


def first_pass() -> dict[str, tuple]:
    """In which backward pass, from 1, each part of a DiT first gets a gradient, for three starts."""
    parts = {
        "output layer": ("final linear",),
        "rows that make gates": ("gate rows",),
        "attention and MLP": ("attention", "MLP"),
        "rows that make shift and scale": ("shift rows", "scale rows"),
        "time and label embedding": ("time embedding", "label embedding"),
    }
    columns = []
    x, v = randn64(4, 1, 8, 8), randn64(4, 1, 8, 8, seed=1)
    t, y = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64), torch.tensor([0, 3, 7, 9])
    for zero_modulation, zero_output in ((True, True), (True, False), (False, True)):
        model = TinyDiT(DiTConfig(width=16, depth=2))
        linears = [] if zero_modulation else [part.to_modulation.linear for part in (*model.blocks, model.final)]
        for linear in linears + ([] if zero_output else [model.final.linear]):
            nn.init.xavier_uniform_(linear.weight)
        onset = measure_gradient_onset(model.double(), lambda m: (m(x, t, y) - v).square().mean()).by_role()
        first = {}
        for name, norms in zip(onset.names, onset.norms, strict=True):
            first[name] = next((k for k, norm in enumerate(norms, 1) if norm > 1e-15), None)
        columns.append([min(first[role] for role in roles) for roles in parts.values()])
    return dict(zip(parts, zip(*columns, strict=True), strict=True))


register(
    Predict,
    question="Fill in the backward pass, from 1, in which each part first gets a gradient.",
    solution=first_pass,
    columns=("DiT's start", "only the modulation zero", "only the output layer zero"),
    notes={
        "output layer": "what does the output layer's gradient contain besides the error: is it 0 at the start?",
        "rows that make gates": "follow the loss backwards to a gate: which weight does it pass first?",
        "attention and MLP": "the gradient passes the output layer and a gate. When is each no longer 0?",
        "rows that make shift and scale": "shift and scale act inside the branch: what does their gradient pass?",
        "time and label embedding": "the gradient reaches c through the modulation's Linear, whose weight is ...",
    },
    hints=(
        "Go backwards from the loss and note each weight that the gradient is multiplied with.",
        "A zero on the way costs one pass; zero gates and the zero weight behind them open in the same pass.",
        "DiT's start: output layer 1, then the rows that make gates 2, then everything else 3.",
    ),
)


def adam_first_step(grad: Tensor, lr: float, eps: float) -> Tensor:
    """What Adam's very first step adds to the weight: -lr * m / (sqrt(v) + eps), after bias correction."""
    return -lr * grad / (grad.abs() + eps)  # m = grad and v = grad^2: the betas have cancelled


register(
    Exercise,
    question="Say how far Adam's very first step moves each weight.",
    solution=adam_first_step,
    returns=("step",),
    cases=lambda: [
        (randn64(2, 3), 0.5, 0.1),
        (1e-3 * randn64(4, 5, seed=1), 2.0, 1e-3),
        (randn64(1, 7, 3, seed=2), 0.25, 0.5),
    ],
    hints=(
        "Adam keeps averages m of g and v of g^2 and corrects their start. After one step, what are they?",
        "Bias correction leaves m = g and v = g^2, whatever the betas; the step is -lr * m / (sqrt(v) + eps).",
        "sqrt(g^2) is grad.abs().",
    ),
    mistakes="""
like sgd
    You step by lr times the gradient, which is SGD: Adam divides by the gradient's absolute value.
    / (grad.abs() + eps) =>
uphill
    Your step has the sign of the gradient, so the loss would rise: a step goes against it.
    -lr => lr
sign alone
    You step by lr whatever the gradient: eps is missing, and matters for gradients as small as eps.
    + eps =>
no bias correction
    Your averages are biased towards their start at zero: in the first step divide m by 1 - beta1, v by 1 - beta2.
    grad / (grad.abs() => 0.1 * grad / (0.001**0.5 * grad.abs()
eps inside the root
    You add eps to v under the root; Adam adds it after the root, so that eps has the unit of a gradient.
    grad.abs() + eps) => grad.square() + eps).sqrt()
one size for all
    You divide by the norm of the whole gradient; Adam divides every number by its own absolute value.
    abs() => norm()
absolute value forgotten
    Negative gradients step the same way as positive ones: the root of a square has no sign.
    .abs() =>
divided by the square
    Your steps grow as gradients shrink: v is a square, and its root is missing.
    abs => square
learning rate left out
    Whatever lr is, your step is the same, about 1 where a gradient is large.
    -lr * => -
first average not corrected
    Your step is a tenth of what it should be: m starts at zero, too, and is corrected by 1 - beta1.
    -lr * => -lr * 0.1 *
second average not corrected
    Your step is about thirty times too large: v starts at zero, too, and is corrected by 1 - beta2.
    grad.abs() => 0.001**0.5 * grad.abs()
eps added to the step
    Your steps all lie a little too high: eps is added after dividing. Look at the brackets.
    return -lr * grad.sign() + eps
eps squared in the root
    At |g| = eps your step is .7 of lr, and should be half of it: eps is added after the root.
    grad.abs() + eps) => grad.square() + eps * eps).sqrt()
""",
)


def undo_zeros(model):
    """What the notebook gives: every Linear gets Xavier weights, whatever it had."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def initialise(model):
    """Xavier weights for every Linear, then the zeros of adaLN-Zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for layer in (*model.blocks, model.final):
        nn.init.zeros_(layer.to_modulation.linear.weight)
    nn.init.zeros_(model.final.linear.weight)


def examine_initialise(function: Callable) -> tuple[bool, str]:
    """On a model whose parameters are all random, so that doing nothing is no answer."""
    model = TinyDiT(DiTConfig(width=16, depth=2)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.3 * randn64(*p.shape, seed=i))
    function(model)
    x, cond = randn64(3, 16, 16), model.condition(torch.tensor([0.1, 0.5, 0.9]).double(), torch.tensor([3, 7, 10]))
    change = max(((block(x, cond) - x).norm() / x.norm()).item() for block in model.blocks)
    if change > 0:
        return False, f"a block of a model with random weights still changes its input by {100 * change:.3g} %"
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "to_modulation" not in name and name != "final.linear":
            expected = (2 / sum(layer.weight.shape)) ** 0.5  # of Xavier's start; q, k and v may count as one or three
            if not 0.5 * expected < layer.weight.std() < 2 * expected:
                std = f"{layer.weight.std():.3g}, Xavier's is {expected:.3g}"
                return False, f"the blocks are the identity, but the weights of {name} have a spread of {std}"
    pictures, v, t = randn64(8, 1, 8, 8), randn64(8, 1, 8, 8, seed=1), torch.linspace(0, 1, 8).double()
    if model(pictures, t, torch.arange(8)).any():
        return False, "the blocks are the identity, but the untrained model does not predict v = 0: see model.final"
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        (model(pictures, t, torch.arange(8)) - v).square().mean().backward()
        optimizer.step()
    if not model.blocks[0].precompute(cond).modulations[0].gate.any():
        return False, "identity and Xavier, but after 40 steps the gates are still exactly 0"
    return True, "every block is the identity, the model predicts 0, ordinary Linears are Xavier, and the gates open"


register(
    Repair,
    question="Mend the function: ordinary Linears get Xavier weights, and every block is the identity afterwards.",
    solution=initialise,
    given=undo_zeros,
    examine=examine_initialise,
    hints=(
        "Which Linears were zero on purpose? Print the blocks of a fresh TinyDiT.",
        "They are block.to_modulation.linear, model.final.to_modulation.linear and model.final.linear.",
        "Initialise everything first and set those to zero last, so that nothing comes after it.",
    ),
)
