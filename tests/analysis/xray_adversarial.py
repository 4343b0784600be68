"""Adversarial models for the x-ray: small hand-written models in many styles, each with what is true of it.

    module, run = MODELS["gate_tanh"]()         # a fresh module and its forward pass
    TRUTH["gate_tanh"]["verdict"]               # "adaln"

The first half is modulated by a condition in ways that the real models do not show; the second half only looks so.
A row follows from the formula of the forward pass alone, never from the x-ray, and its `note` says how. In a row

- a field that is left out is a matter of definition or has no name: it is not compared;
- a frozenset, written `either(...)`, holds values that are all right; `unknown` is never wrong;
- `accept_also` are verdicts that can be defended as well;
- `other_conditional_modulation` has no groups: only its verdict is certain.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

B, N, S, D = 2, 5, 7, 24  # items, tokens, text tokens, width: all different, so that no axis can be taken for another

Built = tuple[nn.Module, Callable[[], Any]]
Builder = Callable[[], Built]
MODELS: dict[str, Builder] = {}
TRUTH: dict[str, dict[str, Any]] = {}


# ---------------------------------------------------------------------------------------------------------------- rows


def either(*words: Any) -> frozenset[Any]:
    return frozenset(words)


def adversarial(
    verdict: str,
    note: str,
    *groups: dict[str, Any],
    accept_also: Iterable[str] = (),
    rough: bool = True,
    train: bool = False,
    **fields: Any,
) -> Callable[[Builder], Builder]:
    """Register a builder and its row.

    `rough` adds noise to every parameter: a norm weight of exactly 1 would hide that it is there.
    """

    def register(build: Builder) -> Builder:
        @functools.wraps(build)
        def seeded() -> Built:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module, run = build()
                if rough:
                    roughen(module)
            return module.train(train), run

        row = {"verdict": verdict, "accept_also": list(accept_also), "note": note, **fields}
        if verdict in ("adaln", "none", "additive_only"):
            row = {"final_layer": None, **row, "groups": list(groups)}
        MODELS[build.__name__], TRUTH[build.__name__] = seeded, row
        return seeded

    return register


def case(name: str, verdict: str, note: str, build: Builder, *groups: dict[str, Any], **row: Any) -> None:
    """Register a model built from parts that are there already."""
    build.__name__ = name
    adversarial(verdict, note, *groups, **row)(build)


def model(
    verdict: str,
    note: str,
    *groups: dict[str, Any],
    base: type[nn.Module] = nn.Module,
    args: Callable[[], tuple] = tuple,
    layers: Callable[[], dict[str, Any]] = dict,
    inputs: Callable[[], tuple] = lambda: (tokens(), vector()),
    method: str = "forward",
    stack: Callable[..., nn.Module] = lambda build: build(),
    **row: Any,
) -> Callable[[Callable], Builder]:
    """Register a `base(*args)` with these layers; its forward (or another method) is the decorated function."""

    def register(forward: Callable) -> Builder:
        def init(self: nn.Module) -> None:
            base.__init__(self, *args())
            for name, layer in layers().items():
                setattr(self, name, layer)

        made = type(forward.__name__, (base,), {"__init__": init, method: forward})

        @functools.wraps(forward)
        def build() -> Built:
            return given(stack(made), *inputs())

        return adversarial(verdict, note, *groups, **row)(build)

    return register


def block(*row: Any, stack: Callable[..., nn.Module] | None = None, **options: Any) -> Callable[[Callable], Builder]:
    """The same for a block: two of them stand in a `stack`, by default a Tower."""
    return model(*row, stack=lambda made: (stack or Tower)(made(), made()), **options)


def group(
    blocks: str | None = "blocks.*",
    roles: str | None = "shift scale gate shift scale gate",
    module: str | None = None,
    linears: Iterable[str] = (),
    params: Iterable[str] = (),
    n_blocks: int | None = 2,
    gate: Any = "raw",
    norm: Any = "LayerNorm",
    affine: Any = False,
    post: Any = "none",
    source: Any = "per_block_linear",
    act: Any = "SiLU",
    zero: bool | None = False,
    **fields: Any,
) -> dict[str, Any]:
    """One kind of block. Its DiT-like facts are the defaults; None leaves a field out.

    `roles` are the vectors of one block in order; `module` is the Linear that makes them, as seen from the block
    ("/" for the model's root).
    `linears` and `params` name what modulates; their `*` counts the blocks.
    """
    row = {
        "blocks": blocks,
        "n_blocks": n_blocks,
        "gate_bounding": gate,
        "base_norm": norm,
        "base_norm_affine": affine,
        "post_norm": post,
        "source": source,
        "activation_before_linear": act,
        "all_zero_now": zero,
    }
    if roles is not None:
        words = roles.split()
        row |= {f"has_{role}": role in words for role in ("scale", "shift", "gate")}
        row |= {"n_vectors_per_block": len(words), "gate_bounding": gate if "gate" in words else "none"}
        if module is not None:
            row["chunk_order"] = [{"module": module, "roles": words}]
    patterns = [f"{path}.{kind}" for path in linears for kind in ("weight", "bias")] + list(params)
    if patterns:
        row["modulation_params"] = sorted({p.replace("*", str(i)) for p in patterns for i in range(n_blocks or 1)})
    return {key: value for key, value in (row | fields).items() if value is not None}


# --------------------------------------------------------------------------------------------------------------- parts


@torch.no_grad()
def roughen(module: nn.Module, by: float = 0.1) -> None:
    for p in module.parameters():
        p.add_(by * torch.randn_like(p))


def given(module: nn.Module, *inputs: Any) -> Built:
    return module, lambda: module(*inputs)


def tokens(n: int = N, batch: int = B) -> Tensor:
    return torch.randn(batch, n, D)


def vector(width: int = D, batch: int = B) -> Tensor:
    return torch.randn(batch, width)


def ln(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def ln_by_hand(x: Tensor) -> Tensor:
    mu, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mu) / (var + 1e-6).sqrt()


def rms_by_hand(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rms_by_length(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1) * math.sqrt(x.shape[-1])


def wave(t: Tensor, width: int = D) -> Tensor:
    angles = t[:, None] * torch.exp(torch.linspace(0, 5, width // 2))
    return torch.cat([angles.sin(), angles.cos()], -1)


class Attention(nn.Module):
    """Attention of x to itself, or to `context`."""

    def __init__(self, d: int = D, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        k, v = self.kv(x if context is None else context).chunk(2, -1)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (self.q(x), k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def mlp(d: int = D) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))


class Tower(nn.Module):
    """Blocks of one signature, block(x, c), and a Linear at the end."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(D, 4)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, c)
        return self.head(x)


class Plain(nn.Module):
    """A pre-norm transformer block that no condition reaches; the scaffold of the look-alikes."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn, self.mlp = Attention(), mlp()

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Modulated(nn.Module):
    """DiT's block with one thing varied: the norm, the gate's function, the activation, the roles and their order."""

    def __init__(
        self,
        roles: str = "shift scale gate",
        gate: Callable[[Tensor], Tensor] = lambda g: g,
        act: Callable[[Tensor], Tensor] = F.silu,
        norm: Callable[[], Callable[[Tensor], Tensor]] = lambda: ln,
        post: Callable[[], Callable[[Tensor], Tensor]] = lambda: lambda h: h,
        width: int = D,
        drop: float = 0.0,
    ):
        super().__init__()
        self.roles, self.gate, self.act, self.drop = roles.split(), gate, act, nn.Dropout(drop)
        self.attn, self.mlp = Attention(), mlp()
        self.norm1, self.norm2, self.post1, self.post2 = norm(), norm(), post(), post()
        self.ada = nn.Linear(width, 2 * len(self.roles) * D)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        n = len(self.roles)
        vectors = self.ada(self.act(c)).unsqueeze(1).chunk(2 * n, dim=-1)
        first, second = (dict(zip(self.roles, part, strict=True)) for part in (vectors[:n], vectors[n:]))
        x = self.sublayer(x, first, self.norm1, self.attn, self.post1)
        return self.sublayer(x, second, self.norm2, self.mlp, self.post2)

    def sublayer(self, x: Tensor, m: dict[str, Tensor], norm: Callable, branch: nn.Module, post: Callable) -> Tensor:
        h = norm(x)
        if "scale" in m:
            h = h * (1 + m["scale"])
        if "shift" in m:
            h = h + m["shift"]
        h = self.drop(post(branch(h)))
        return x + self.gate(m["gate"]) * h if "gate" in m else x + h


ADA = {"module": "ada", "linears": ["blocks.*.ada"]}


# a table: as many arguments to a line as it holds
# fmt: off

# ------------------------------------------------------------------------------------- modulated: one thing varied

def variation(name: str, note: str, options: dict[str, Any], **truth: Any) -> None:
    def build() -> Built:
        return given(Tower(Modulated(**options), Modulated(**options)), tokens(), vector())

    case(name, "adaln", note, build, group(**ADA, **truth))

def twice(roles: str) -> str:
    return f"{roles} {roles}"

for _name, _roles in {
    "order_scale_shift_gate": "scale shift gate",
    "order_gate_first": "gate scale shift",
    "order_gate_between": "scale gate shift",
    "only_gate": "gate",
    "only_scale": "scale",
    "only_shift": "shift",
    "scale_and_gate": "scale gate",
    "shift_and_gate": "shift gate",
}.items():
    _note = f"each sub-layer takes ({_roles.replace(' ', ', ')}), in this order, from one Linear of its block"
    variation(_name, _note, {"roles": _roles}, roles=twice(_roles))

for _name, _gate, _word in (
    ("gate_tanh", torch.tanh, "tanh"),
    ("gate_sigmoid", torch.sigmoid, "sigmoid"),
    ("gate_clamp_tanh", lambda g: g.clamp(-2, 2).tanh(), "clamp(+-2) then tanh"),
    ("gate_one_plus", lambda g: 1 + g, "1+g"),
    ("gate_twice_sigmoid", lambda g: 2 * torch.sigmoid(g), either("sigmoid", "2*sigmoid")),
    ("gate_softsign", F.softsign, None),
):
    variation(_name, "six vectors as DiT's; only the function of the gate differs", {"gate": _gate}, gate=_word)
TRUTH["gate_softsign"]["note"] += ": bounded like tanh, but no word of ours"

for _name, _act, _word in (
    ("activation_none", lambda c: c, "none"),
    ("activation_gelu", F.gelu, "GELU"),
    ("activation_mish", F.mish, "Mish"),
    ("activation_silu_by_hand", lambda c: c * torch.sigmoid(c), "SiLU"),
):
    variation(_name, "six vectors as DiT's; only the activation before the Linear differs", {"act": _act}, act=_word)

for _name, _norm, _word, _affine in (
    ("norm_by_hand", lambda: ln_by_hand, "LayerNorm", False),
    ("norm_layernorm_affine", lambda: nn.LayerNorm(D), "LayerNorm", True),
    ("norm_rms_by_hand", lambda: rms_by_hand, "RMSNorm", False),
    ("norm_rms_by_length", lambda: rms_by_length, "RMSNorm", False),
    ("norm_rms_affine", lambda: nn.RMSNorm(D), "RMSNorm", True),
):
    variation(_name, "only the norm under the modulation differs", {"norm": _norm}, norm=_word, affine=_affine)

variation(
    "sandwich_rms_tanh",
    "Lumina's step: tanh(g) * RMS(branch), so there is a norm between branch and gate",
    {"roles": "scale gate", "gate": torch.tanh, "norm": lambda: nn.RMSNorm(D), "post": lambda: nn.RMSNorm(D)},
    roles=twice("scale gate"),
    gate="tanh",
    norm="RMSNorm",
    affine=True,
    post=either("RMSNorm affine", "RMSNorm"),
)
variation(
    "sandwich_layernorm",
    "the branch's output passes an affine LayerNorm before the raw gate",
    {"post": lambda: nn.LayerNorm(D)},
    post=either("LayerNorm affine", "LayerNorm"),
)

case(
    "narrow_condition", "adaln",
    "c is 6 wide and goes straight into each block's Linear: narrow, but a Linear for each block",
    lambda: given(Tower(Modulated(width=6), Modulated(width=6)), tokens(), vector(6)),
    group(**ADA, source=either("per_block_linear", "low_rank")),
)

# ------------------------------------------------------------------- modulated: the same block, in other surroundings

case(
    "batch_of_one", "adaln", "DiT's formula; one item in the batch, so there is nothing to compare it with",
    lambda: given(Tower(Modulated(), Modulated()), tokens(batch=1), vector(batch=1)), group(**ADA),
)

case(
    "one_token", "adaln", "DiT's formula on a single token; per item and per token are the same thing here",
    lambda: given(Tower(Modulated(), Modulated()), tokens(1), vector()), group(**ADA),
    accept_also=["other_conditional_modulation"],
)

case(
    "half_precision", "adaln", "DiT's formula, weights and inputs in bfloat16",
    lambda: given(Tower(Modulated(), Modulated()).bfloat16(), tokens().bfloat16(), vector().bfloat16()), group(**ADA),
)

@adversarial(
    "adaln", "nothing but a wrapper around DiT's formula: each path gains `module.`",
    group("module.blocks.*", module="ada", linears=["module.blocks.*.ada"]),
)
def data_parallel() -> Built:
    wrapped = nn.DataParallel(Tower(Modulated(), Modulated())).cpu()
    wrapped.device_ids = []  # no device to scatter over: it calls the module itself
    return given(wrapped, tokens(), vector())

def zeroed(head: bool, modulation: bool) -> Built:
    """A Tower whose head, or the modulation of its blocks, is all zero."""
    tower = Tower(Modulated(), Modulated())
    for layer in head * [tower.head] + modulation * [block.ada for block in tower.blocks]:
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    return given(tower, tokens(), vector())

case(
    "all_modulation_zero", "adaln", "adaLN-Zero as built: the modulation is there and every parameter of it is 0",
    lambda: zeroed(head=False, modulation=True), group(**ADA, zero=True), rough=False,
)
case(
    "all_modulation_and_head_zero", "adaln", "as DiT is built: modulation and head 0, so no single change shows",
    lambda: zeroed(head=True, modulation=True), group(**ADA, zero=True), rough=False,
)
case(
    "head_zero", "adaln", "only the head is 0: the modulation is random, hidden behind an output that is 0",
    lambda: zeroed(head=True, modulation=False), group(**ADA), rough=False,
)

case(
    "dropout_in_training", "adaln", "DiT's formula with dropout on each branch, in training mode",
    lambda: given(Tower(Modulated(drop=0.2), Modulated(drop=0.2)), tokens(), vector()), group(**ADA), train=True,
)

@model(
    "adaln", "DiT's formula, each block run under torch.utils.checkpoint", group(**ADA), base=Tower,
    args=lambda: (Modulated(), Modulated()),
)
def checkpointed(self, x, c):
    for block in self.blocks:
        x = checkpoint(block, x, c, use_reentrant=False)
    return self.head(x)

@model(
    "adaln", "one block, applied three times: one block's parameters, six vectors",
    group("core", n_blocks=1, module="ada", linears=["core.ada"]),
    layers=lambda: dict(core=Modulated(), head=nn.Linear(D, 4)),
)
def tied_block(self, x, c):
    for _ in range(3):
        x = self.core(x, c)
    return self.head(x)

@model(
    "adaln", "blocks in a ModuleDict, output in a dict; how two names make one pattern is left open",
    group(None, module="ada", linears=["stages.early.ada", "stages.late.ada"]),
    layers=lambda: dict(stages=nn.ModuleDict({"early": Modulated(), "late": Modulated()})),
)
def blocks_in_a_dict(self, sample, emb):
    for stage in self.stages.values():
        sample = stage(sample, emb)
    return {"sample": sample, "emb": emb}

@model(
    "adaln", "blocks as attributes block1 and block2; how two names make one pattern is left open",
    group(None, module="ada", linears=["block1.ada", "block2.ada"]),
    layers=lambda: dict(block1=Modulated(), block2=Modulated(), time=nn.Linear(D, D)),
    inputs=lambda: (tokens(), torch.tensor([0.2, 0.7])),
)
def blocks_as_attributes(self, x, t):
    c = self.time(wave(t))
    return self.block2(self.block1(x, c), c)

@dataclass
class State:
    x: Tensor
    c: Tensor

@adversarial(
    "adaln", "nn.Sequential hands on a dataclass (x, c); each step is DiT's formula",
    group("*.inner", module="ada", linears=["*.inner.ada"]),
)
def sequential_of_states() -> Built:
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Modulated()

        def forward(self, state):
            return replace(state, x=self.inner(state.x, state.c))

    model = nn.Sequential(Step(), Step())
    x, c = tokens(), vector()
    return model, lambda: model(State(x, c)).x

case(
    "frozen", "adaln", "every parameter is frozen: no gradient will tell",
    lambda: given(Tower(Modulated(), Modulated()).requires_grad_(False), tokens(), vector()), group(**ADA),
)

@adversarial("adaln", "the pass runs in inference mode: no graph will tell", group(**ADA))
def inference_mode() -> Built:
    model, x, c = Tower(Modulated(), Modulated()), tokens(), vector()

    @torch.inference_mode()
    def run() -> Tensor:
        return model(x, c)

    return model, run

@adversarial(
    "adaln", "the pass is three Euler steps: every block is seen three times, yet has six vectors", group(**ADA),
)
def sampler_loop() -> Built:
    class Velocity(Tower):
        def __init__(self, *blocks):
            super().__init__(*blocks)
            self.time, self.head = nn.Linear(D, D), nn.Linear(D, D)

        def forward(self, x, t):
            return super().forward(x, self.time(wave(t)))

    model, noise = Velocity(Modulated(), Modulated()), tokens()

    def run() -> Tensor:
        x = noise
        for step in range(3):
            x = x + model(x, torch.full((B,), step / 3)) / 3
        return x

    return model, run

@model(
    "adaln", "guidance inside forward: blocks see twice the batch, with and without the condition",
    group("model.blocks.*", module="ada", linears=["model.blocks.*.ada"]),
    layers=lambda: dict(model=Tower(Modulated(), Modulated()), null=nn.Parameter(torch.randn(D))),
)
def guided(self, x, c):
    with_c, without = self.model(torch.cat([x, x]), torch.cat([c, self.null.expand_as(c)])).chunk(2)
    return without + 2 * (with_c - without)

@model(
    "adaln", "a plain text encoder feeds a modulated denoiser: only the denoiser's blocks count",
    group("denoiser.blocks.*", module="ada", linears=["denoiser.blocks.*.ada"]), unmodulated_blocks=["encoder.*"],
    layers=lambda: dict(encoder=nn.Sequential(Plain(), Plain()), denoiser=Tower(Modulated(), Modulated())),
    inputs=lambda: (tokens(), tokens(S)),
)
def pipeline(self, x, text):
    return self.denoiser(x, self.encoder(text).mean(1))

case(
    "some_blocks_plain", "adaln",
    "the first block of the list is plain, two are modulated; the pattern for two of three is left open",
    lambda: given(Tower(Plain(), Modulated(), Modulated()), tokens(), vector()),
    group(None, module="ada", linears=["blocks.1.ada", "blocks.2.ada"]), unmodulated_blocks=["blocks.0"],
)

case(
    "two_kinds", "adaln", "two kinds in one list: DiT's block, then one without shift and with a tanh gate",
    lambda: given(Tower(Modulated(), Modulated("scale gate", torch.tanh)), tokens(), vector()),
    group("blocks.0", n_blocks=1, module="ada", linears=["blocks.0.ada"]),
    group("blocks.1", twice("scale gate"), n_blocks=1, module="ada", linears=["blocks.1.ada"], gate="tanh"),
)

@adversarial("adaln", "the modulation's Linear is weight-normalised: its weight is no parameter", group(module="ada"))
def weight_normed_modulation() -> Built:
    model = Tower(Modulated(), Modulated())
    for block in model.blocks:
        nn.utils.parametrizations.weight_norm(block.ada)
    return given(model, tokens(), vector())

# ------------------------------------------------------------------------------------------ modulated: other hands

class Unit(nn.Module):
    """DiT's block, as written by someone who names nothing and imports no layer but Linear."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.k = nn.Linear(D, 3 * D), nn.Linear(D, D), nn.Linear(D, 6 * D)
        self.e, self.f = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, u, w):
        p, q, r, s, t, v = self.k(w / (1 + torch.exp(-w))).view(-1, 6, 1, D).unbind(1)
        y = ln_by_hand(u) * (q + 1.0) + p
        i, j, m = self.a(y).chunk(3, -1)
        z = torch.einsum("bnd,bmd->bnm", i, j).div(D**0.5).softmax(-1)
        u = u + r * self.b(torch.einsum("bnm,bmd->bnd", z, m))
        y = ln_by_hand(u) * (t + 1.0) + s
        return u + v * self.f(F.relu(self.e(y)))

@model(
    "adaln", "DiT's formula (shift, scale, gate twice) under one-letter names",
    group("g.*", module="k", linears=["g.*.k"]),
    layers=lambda: dict(g=nn.ModuleList([Unit(), Unit()]), o=nn.Linear(D, D)),
)
def one_letter_names(self, u, w):
    for g in self.g:
        u = g(u, w)
    return self.o(u)

@adversarial("adaln", "DiT's formula; c reaches the block as an attribute set from outside", group(**ADA))
def condition_as_attribute() -> Built:
    class Listening(Modulated):
        def forward(self, x):
            return super().forward(x, self.cond)

    class Conductor(Tower):
        def forward(self, x, c):
            for block in self.blocks:
                block.cond = c
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    return given(Conductor(Listening(), Listening()), tokens(), vector())

@adversarial("adaln", "DiT's formula; x and c travel in a dict that each block rewrites", group(**ADA))
def condition_in_a_dict() -> Built:
    class Step(Modulated):
        def forward(self, batch):
            return {**batch, "x": super().forward(batch["x"], batch["c"])}

    class Model(Tower):
        def forward(self, batch):
            for block in self.blocks:
                batch = block(batch)
            return {"eps": self.head(batch["x"])}

    return given(Model(Step(), Step()), {"x": tokens(), "c": vector()})

class Guest(nn.Module):
    """A block that is handed its six vectors, each (B, 1, D), and makes none itself."""

    def __init__(self):
        super().__init__()
        self.attn, self.mlp = Attention(), mlp()

    def forward(self, x, shift1, scale1, gate1, shift2, scale2, gate2):
        x = torch.addcmul(x, gate1, self.attn(torch.addcmul(shift1, ln(x), 1 + scale1)))
        return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, ln(x), 1 + scale2)))

class Host(nn.Module):
    """Guests, and `vectors(c)`: for each of them six vectors (B, 1, D)."""

    def __init__(self, *guests: nn.Module):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(guests or [Guest(), Guest()]), nn.Linear(D, 4)

    def forward(self, x, c):
        for block, six in zip(self.blocks, self.vectors(c), strict=True):
            x = block(x, *six)
        return self.head(x)

@model(
    "adaln", "one Linear for the whole model; block i takes its six vectors from slice i; addcmul throughout",
    group(linears=["mod"], source="one_linear_sliced_per_block"), base=Host,
    layers=lambda: dict(mod=nn.Linear(D, 2 * 6 * D)), method="vectors",
)
def one_linear_sliced(self, c):
    return [six.chunk(6, -1) for six in self.mod(F.silu(c))[:, None].chunk(2, -1)]

@model(
    "adaln", "one Linear, and every block takes the same six vectors, as Flux.2's",
    group(module="/mod", linears=["mod"], source="fully_shared"), base=Host,
    layers=lambda: dict(mod=nn.Linear(D, 6 * D)), method="vectors",
)
def fully_shared(self, c):
    return [self.mod(F.silu(c))[:, None].chunk(6, -1)] * 2

@model(
    "adaln", "HDM's way: one MLP (Linear, Mish, Linear) makes the six vectors that all blocks share",
    group(source=either("fully_shared", "approximator"), act="Mish"), base=Host,
    layers=lambda: dict(mod=nn.Sequential(nn.Linear(D, 4 * D), nn.Mish(), nn.Linear(4 * D, 6 * D))), method="vectors",
)
def fully_shared_mlp(self, c):
    return [self.mod(c)[:, None].chunk(6, -1)] * 2

class PixArt(Host):
    """Shared Linear plus a table for each block, as PixArt; the table lives in the block."""

    class Block(Guest):
        def __init__(self, table: Tensor):
            super().__init__()
            self.table = nn.Parameter(table)

        def forward(self, x, shared):
            return super().forward(x, *(self.table + shared)[:, :, None].unbind(1))

    def __init__(self, *tables: Tensor):
        super().__init__(*(self.Block(table) for table in tables))
        self.mod = nn.Linear(D, 6 * D)

    def vectors(self, c):
        return [(self.mod(F.silu(c)).unflatten(-1, (6, D)),)] * len(self.blocks)

PIXART = {
    "module": "/mod",
    "linears": ["mod"],
    "params": ["blocks.*.table"],
    "source": "shared_linear_plus_table",
}

case(
    "shared_plus_table", "adaln", "PixArt: shared Linear + a table for each block",
    lambda: given(PixArt(torch.randn(6, D), torch.randn(6, D)), tokens(), vector()), group(**PIXART),
)

case(
    "shared_plus_zero_table", "adaln",
    "PixArt with tables of 0: they still count, and the shared Linear is not 0, so not all is 0",
    lambda: given(PixArt(torch.zeros(6, D), torch.zeros(6, D)), tokens(), vector()), group(**PIXART), rough=False,
)

@adversarial(
    "adaln", "PixArt's final table in every block: table + c itself, the same c for all six; no Linear at all",
    group(params=["blocks.*.table"], source=None, act="none"),
)
def table_plus_raw_condition() -> Built:
    class Model(PixArt):
        def __init__(self, *tables):
            super().__init__(*tables)
            del self.mod

        def vectors(self, c):
            return [(c[:, None],)] * len(self.blocks)

    return given(Model(torch.randn(6, D), torch.randn(6, D)), tokens(), vector())

class Narrow(Guest):
    """Six vectors from two Linears with a waist of 4."""

    def __init__(self, between: Callable[[Tensor], Tensor]):
        super().__init__()
        self.down, self.up, self.between = nn.Linear(D, 4, bias=False), nn.Linear(4, 6 * D), between

    def forward(self, x, c):
        return super().forward(x, *self.up(self.between(self.down(c)))[:, None].chunk(6, -1))

case(
    "low_rank", "adaln", "six vectors = up(down(c)) with a waist of 4 and nothing between: rank 4",
    lambda: given(Tower(Narrow(lambda h: h), Narrow(lambda h: h)), tokens(), vector()),
    group(module="up", linears=["blocks.*.up"], params=["blocks.*.down.weight"], source="low_rank", act="none"),
)

case(
    "low_rank_with_activation", "adaln",
    "six vectors = up(silu(down(c))) with a waist of 4: narrow, though an MLP; how it is called is open",
    lambda: given(Tower(Narrow(F.silu), Narrow(F.silu)), tokens(), vector()),
    group(module="up", source=either("low_rank", "per_block_linear", "approximator")),
)

@model(
    "adaln",
    "Chroma: one MLP maps (c, number of the vector) to that vector, for all blocks; the number is a table's row",
    group(source="approximator", act=None), base=Host,
    layers=lambda: dict(
        index=nn.Parameter(torch.randn(2 * 6, D)),
        approximator=nn.Sequential(nn.Linear(2 * D, D), nn.SiLU(), nn.Linear(D, D)),
    ),
    method="vectors",
)
def approximator(self, c):
    inputs = torch.cat([c[:, None].expand(-1, 12, -1), self.index.expand(B, -1, -1)], -1)  # (B, 12, 2D)
    made = self.approximator(inputs)[:, :, None].unbind(1)
    return [made[:6], made[6:]]

@block(
    "adaln", "six vectors from a wide MLP (Linear, GELU, Linear) in each block; no word for that source",
    group(module="make.2", source=None, act="GELU"), base=Guest,
    layers=lambda: dict(make=nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, 6 * D))),
)
def mlp_per_block(self, x, c):
    return Guest.forward(self, x, *self.make(c)[:, None].chunk(6, -1))

@block(
    "adaln", "Flux's single block: attention and MLP side by side under one (shift, scale, gate)",
    group(roles="shift scale gate", **ADA),
    layers=lambda: dict(ada=nn.Linear(D, 3 * D), qkv_up=nn.Linear(D, 5 * D), down=nn.Linear(3 * D, D)),
)
def parallel_one_gate(self, x, c):
    shift, scale, gate = self.ada(F.silu(c)).unsqueeze(1).chunk(3, -1)
    q, k, v, up = self.qkv_up(ln(x) * (1 + scale) + shift).split((D, D, D, 2 * D), -1)
    return x + gate * self.down(torch.cat([F.scaled_dot_product_attention(q, k, v), F.gelu(up)], -1))

@block(
    "adaln",
    "three Linears for each block, one for its scales, one for its shifts, one for its gates; six vectors in all",
    group(
        linears=["blocks.*.gamma", "blocks.*.beta", "blocks.*.alpha"], roles="scale scale shift shift gate gate",
        chunk_order=[
            {"module": "gamma", "roles": ["scale", "scale"]}, {"module": "beta", "roles": ["shift", "shift"]},
            {"module": "alpha", "roles": ["gate", "gate"]},
        ],
    ),
    base=Guest, layers=lambda: dict(gamma=nn.Linear(D, 2 * D), beta=nn.Linear(D, 2 * D), alpha=nn.Linear(D, 2 * D)),
)
def separate_linears(self, x, c):
    c = F.silu(c)[:, None]
    (s1, s2), (b1, b2), (g1, g2) = (f(c).chunk(2, -1) for f in (self.gamma, self.beta, self.alpha))
    return Guest.forward(self, x, b1, s1, g1, b2, s2, g2)

@block(
    "adaln", "six vectors from silu(c) @ W, with W (D, 6D) a bare parameter", group(params=["blocks.*.W"]), base=Guest,
    layers=lambda: dict(W=nn.Parameter(0.3 * torch.randn(D, 6 * D))),
)
def transposed_parameter(self, x, c):
    return Guest.forward(self, x, *(F.silu(c) @ self.W)[:, None].split(D, -1))

@block(
    "adaln", "six vectors from einsum with W (6, D, D); applied by einsum as well, gates included",
    group(params=["blocks.*.W"]),
    layers=lambda: dict(W=nn.Parameter(0.3 * torch.randn(6, D, D)), attn=Attention(), mlp=mlp()),
)
def einsum_everywhere(self, x, c):
    m = torch.einsum("bi,kij->kbj", F.silu(c), self.W)
    h = torch.einsum("bnd,bd->bnd", ln(x), 1 + m[0]) + m[1, :, None]
    x = x + torch.einsum("bnd,bd->bnd", self.attn(h), m[2])
    h = torch.einsum("bnd,bd->bnd", ln(x), 1 + m[3]) + m[4, :, None]
    return x + torch.einsum("bnd,bd->bnd", self.mlp(h), m[5])

@block(
    "adaln", "six vectors interleaved along the Linear's output: reshape(B, D, 6), so no role is a contiguous chunk",
    group(linears=["blocks.*.ada"]), base=Guest, layers=lambda: dict(ada=nn.Linear(D, 6 * D)),
)
def interleaved_chunks(self, x, c):
    return Guest.forward(self, x, *self.ada(F.silu(c)).reshape(-1, 1, D, 6).unbind(-1))

@block(
    "adaln", "y = gamma * LN(x) + beta without the 1 +, as conditional BatchNorm writes it; no gate",
    group(roles=twice("scale shift"), **ADA), layers=lambda: dict(attn=Attention(), mlp=mlp(), ada=nn.Linear(D, 4 * D)),
)
def scale_without_one(self, x, c):
    a, b, a2, b2 = self.ada(F.silu(c)).unsqueeze(1).chunk(4, -1)
    x = x + self.attn(a * ln(x) + b)
    return x + self.mlp(a2 * ln(x) + b2)

@block(
    "adaln", "branch(gate * LN(x)): what is called a gate multiplies the branch's input, so it is a scale",
    group(roles=twice("scale"), module="to_gate", linears=["blocks.*.to_gate"], norm="RMSNorm"),
    layers=lambda: dict(attn=Attention(), mlp=mlp(), to_gate=nn.Linear(D, 2 * D)),
)
def gate_in_name_only(self, x, c):
    gate1, gate2 = self.to_gate(F.silu(c)).unsqueeze(1).chunk(2, -1)
    x = x + self.attn(gate1 * rms_by_hand(x))
    return x + self.mlp(gate2 * rms_by_hand(x))

@block(
    "adaln", "the modulated norm stands after the sum, on the stream itself: x = LN(x + branch) * (1 + s) + b",
    group(roles=twice("scale shift"), post=None, **ADA),
    layers=lambda: dict(attn=Attention(), mlp=mlp(), ada=nn.Linear(D, 4 * D)),
)
def norm_after_the_sum(self, x, c):
    s1, b1, s2, b2 = self.ada(F.silu(c))[:, None].chunk(4, -1)
    x = ln(x + self.attn(x)) * (1 + s1) + b1
    return ln(x + self.mlp(x)) * (1 + s2) + b2

@block(
    "adaln", "HDM: the skip carries the modulated x (x = AdaLN(x); x = x + (1 + g) * branch(x))",
    group(roles=twice("scale shift gate"), norm="RMSNorm", affine=True, gate="1+g", **ADA),
    layers=lambda: dict(
        attn=Attention(), mlp=mlp(), ada=nn.Linear(D, 6 * D), norms=nn.ModuleList(nn.RMSNorm(D) for _ in range(2)),
    ),
)
def skip_from_the_modulated(self, x, c):
    six = self.ada(F.silu(c)).unsqueeze(1).chunk(6, -1)
    for norm, branch, (s, b, g) in zip(self.norms, (self.attn, self.mlp), (six[:3], six[3:]), strict=True):
        x = norm(x) * (1 + s) + b
        x = x + (1 + g) * branch(x)
    return x

@block(
    "adaln", "AuraFlow: attention reaches the output only through the MLP, the last sum starts from the block's input",
    group(**ADA), layers=lambda: dict(attn=Attention(), mlp=mlp(), ada=nn.Linear(D, 6 * D)),
)
def skip_from_the_input(self, x, c):
    b1, s1, g1, b2, s2, g2 = self.ada(F.silu(c)).unsqueeze(1).chunk(6, -1)
    a = x + g1 * self.attn(ln(x) * (1 + s1) + b1)
    return x + g2 * self.mlp(ln(a) * (1 + s2) + b2)

@block(
    "adaln", "x = lerp(x, branch, sigmoid(g)): the condition blends stream and branch; a gate, nothing else",
    group(roles=twice("gate"), gate="sigmoid", affine=True, **ADA), base=Plain,
    layers=lambda: dict(ada=nn.Linear(D, 2 * D)),
)
def gate_by_lerp(self, x, c):
    g1, g2 = self.ada(F.silu(c)).unsqueeze(1).sigmoid().chunk(2, -1)
    x = torch.lerp(x, self.attn(self.norm1(x)), g1)
    return torch.lerp(x, self.mlp(self.norm2(x)), g2)

@block(
    "adaln", "one number for each item gates a whole branch; whether a number is a vector is left open",
    group(
        roles=None, has_scale=False, has_shift=False, has_gate=True, gate="tanh", affine=True, linears=["blocks.*.ada"],
    ),
    accept_also=["other_conditional_modulation"], base=Plain, layers=lambda: dict(ada=nn.Linear(D, 2)),
)
def scalar_gate(self, x, c):
    g1, g2 = self.ada(F.silu(c)).tanh()[:, :, None, None].unbind(1)
    x = x + g1 * self.attn(self.norm1(x))
    return x + g2 * self.mlp(self.norm2(x))

@block(
    "adaln", "DiT's formula with in-place arithmetic: h.mul_(1 + s).add_(b)", group(**ADA), base=Guest,
    layers=lambda: dict(ada=nn.Linear(D, 6 * D)),
)
def in_place(self, x, c):
    b1, s1, g1, b2, s2, g2 = self.ada(F.silu(c))[:, None].chunk(6, -1)
    x = x.clone()
    x += self.attn(ln(x).mul_(1 + s1).add_(b1)).mul(g1)
    x += self.mlp(ln(x).mul_(1 + s2).add_(b2)).mul(g2)
    return x

@block(
    "adaln", "DiT's formula on (N, B, D), tokens first, with torch's own attention", group(**ADA),
    layers=lambda: dict(attn=nn.MultiheadAttention(D, 2), mlp=mlp(), ada=nn.Linear(D, 6 * D)),
    inputs=lambda: (torch.randn(N, B, D), vector()),
)
def tokens_first(self, x, c):
    b1, s1, g1, b2, s2, g2 = self.ada(F.silu(c)).chunk(6, -1)  # each (B, D): it broadcasts over N by itself
    h = ln(x) * (1 + s1) + b1
    x = x + g1 * self.attn(h, h, h, need_weights=False)[0]
    return x + g2 * self.mlp(ln(x) * (1 + s2) + b2)

@adversarial(
    "adaln", "DiT's formula on (B, D, N), channels first: Conv1d for Linear, the norm over axis 1", group(**ADA),
)
def channels_first() -> Built:
    def norm(x):
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out, self.ada = nn.Conv1d(D, 3 * D, 1), nn.Conv1d(D, D, 1), nn.Linear(D, 6 * D)
            self.mlp = nn.Sequential(nn.Conv1d(D, 2 * D, 1), nn.GELU(), nn.Conv1d(2 * D, D, 1))

        def forward(self, x, c):
            b1, s1, g1, b2, s2, g2 = self.ada(F.silu(c)).unsqueeze(-1).chunk(6, 1)
            q, k, v = self.qkv(norm(x) * (1 + s1) + b1).chunk(3, 1)
            weights = (q.transpose(1, 2) @ k / D**0.5).softmax(-1)
            x = x + g1 * self.out(v @ weights.transpose(1, 2))
            return x + g2 * self.mlp(norm(x) * (1 + s2) + b2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x, c):
            for block in self.blocks:
                x = block(x, c)
            return x

    return given(Model(), torch.randn(B, D, N), vector())

@block(
    "adaln", "DiT's formula on flat (B * N, D) tokens: each vector is repeated for its item's tokens", group(**ADA),
    layers=lambda: dict(attn=Attention(), mlp=mlp(), ada=nn.Linear(D, 6 * D)),
    inputs=lambda: (tokens().flatten(0, 1), vector()),
)
def flat_tokens(self, x, c):
    six = self.ada(F.silu(c)).repeat_interleave(N, dim=0)  # (B * N, 6D)
    b1, s1, g1, b2, s2, g2 = six.chunk(6, -1)
    h = ln(x) * (1 + s1) + b1
    x = x + g1 * self.attn(h.unflatten(0, (B, N))).flatten(0, 1)
    return x + g2 * self.mlp(ln(x) * (1 + s2) + b2)

@adversarial(
    "adaln", "two streams, one joint attention: a Linear of six for the image and one for the text, so twelve",
    group(
        roles=twice(twice("shift scale gate")), linears=["blocks.*.mod_x", "blocks.*.mod_y"],
        chunk_order=[
            {"module": "mod_x", "roles": twice("shift scale gate").split()},
            {"module": "mod_y", "roles": twice("shift scale gate").split()},
        ],
        streams=2,
    ),
)
def two_streams() -> Built:
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mod_x, self.mod_y = nn.Linear(D, 6 * D), nn.Linear(D, 6 * D)
            self.qkv_x, self.qkv_y, self.out_x, self.out_y = (nn.Linear(D, n * D) for n in (3, 3, 1, 1))
            self.mlp_x, self.mlp_y = mlp(), mlp()

        def forward(self, x, y, c):
            bx, sx, gx, bx2, sx2, gx2 = self.mod_x(F.silu(c)).unsqueeze(1).chunk(6, -1)
            by, sy, gy, by2, sy2, gy2 = self.mod_y(F.silu(c)).unsqueeze(1).chunk(6, -1)
            hx, hy = self.qkv_x(ln(x) * (1 + sx) + bx), self.qkv_y(ln(y) * (1 + sy) + by)
            joint = F.scaled_dot_product_attention(*torch.cat([hx, hy], 1).chunk(3, -1))
            ax, ay = joint.split((x.shape[1], y.shape[1]), 1)
            x, y = x + gx * self.out_x(ax), y + gy * self.out_y(ay)
            x = x + gx2 * self.mlp_x(ln(x) * (1 + sx2) + bx2)
            return x, y + gy2 * self.mlp_y(ln(y) * (1 + sy2) + by2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x, y, c):
            for block in self.blocks:
                x, y = block(x, y, c)
            return x, y

    return given(Model(), tokens(), tokens(S), vector())

@adversarial(
    "adaln", "each sub-layer is wrapped with a norm and a Linear of its own; the layer that holds both is the block",
    group(
        "layers.*", linears=["layers.*.attn.to_cond", "layers.*.ff.to_cond"],
        chunk_order=[
            {"module": "attn.to_cond", "roles": ["scale", "shift", "gate"]},
            {"module": "ff.to_cond", "roles": ["scale", "shift", "gate"]},
        ],
    ),
)
def wrapped_sublayers() -> Built:
    class Adapted(nn.Module):
        def __init__(self, fn):
            super().__init__()
            self.fn, self.norm = fn, nn.LayerNorm(D, elementwise_affine=False)
            self.to_cond = nn.Linear(D, 3 * D)

        def forward(self, x, cond):
            gamma, beta, alpha = self.to_cond(F.silu(cond)).unsqueeze(1).chunk(3, -1)
            return x + self.fn(self.norm(x) * (gamma + 1) + beta) * alpha

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.ff = Adapted(Attention()), Adapted(mlp())

        def forward(self, x, cond):
            return self.ff(self.attn(x, cond), cond)

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Layer(), Layer()])

        def forward(self, x, cond):
            for layer in self.layers:
                x = layer(x, cond)
            return x

    return given(Transformer(), tokens(), vector())

@model(
    "adaln", "the whole model is one forward over ParameterLists: DiT's formula, but no module that would be a block",
    group(None, roles=None, n_blocks=None, params=["m.0", "m.1"], has_scale=True, has_shift=True, has_gate=True),
    layers=lambda: dict(
        m=nn.ParameterList(torch.randn(D, 6 * D) / 5 for _ in range(2)),
        qkv=nn.ParameterList(torch.randn(D, 3 * D) / 5 for _ in range(2)),
        up=nn.ParameterList(torch.randn(D, 2 * D) / 5 for _ in range(2)),
        down=nn.ParameterList(torch.randn(2 * D, D) / 5 for _ in range(2)),
    ),
)
def no_blocks_at_all(self, x, c):
    for m, qkv, up, down in zip(self.m, self.qkv, self.up, self.down, strict=True):
        b1, s1, g1, b2, s2, g2 = (F.silu(c) @ m).unsqueeze(1).chunk(6, -1)
        x = x + g1 * F.scaled_dot_product_attention(*((ln(x) * (1 + s1) + b1) @ qkv).chunk(3, -1))
        x = x + g2 * (F.gelu((ln(x) * (1 + s2) + b2) @ up) @ down)
    return x

@block(
    "adaln", "a class picks (gamma, beta) of both norms from a table in each block; a table's row is no Linear",
    group(roles=twice("scale shift"), params=["blocks.*.table.weight"], source=None, act=None),
    layers=lambda: dict(attn=Attention(), mlp=mlp(), table=nn.Embedding(10, 4 * D)),
    inputs=lambda: (tokens(), torch.tensor([3, 7])),
)
def label_tables(self, x, label):
    gamma1, beta1, gamma2, beta2 = self.table(label).unsqueeze(1).chunk(4, -1)
    x = x + self.attn(ln(x) * gamma1 + beta1)
    return x + self.mlp(ln(x) * gamma2 + beta2)

@adversarial(
    "adaln", "c is the text's mean, and the text is attended to as well: modulated, with an ungated cross-attention",
    group(**ADA),
)
def pooled_text() -> Built:
    class Block(Modulated):
        def __init__(self):
            super().__init__()
            self.norm_cross, self.cross = nn.LayerNorm(D), Attention()

        def forward(self, x, c, text):
            return super().forward(x + self.cross(self.norm_cross(x), text), c)

    class Model(Tower):
        def forward(self, x, text):
            for block in self.blocks:
                x = block(x, text.mean(1), text)
            return self.head(x)

    return given(Model(Block(), Block()), tokens(), tokens(S))

@model(
    "adaln", "c = time(t) + pool(mean of x): partly the image itself, but t does decide", group(**ADA), base=Tower,
    args=lambda: (Modulated(), Modulated()), layers=lambda: dict(time=nn.Linear(D, D), pool=nn.Linear(D, D)),
    inputs=lambda: (tokens(), torch.tensor([0.2, 0.7])),
)
def condition_with_own_mean(self, x, t):
    return Tower.forward(self, x, self.time(wave(t)) + self.pool(x.mean(1)))

class Final(nn.Module):
    """The last AdaLN and the head, with the roles of choice."""

    def __init__(self, roles: str = "shift scale"):
        super().__init__()
        self.roles = roles.split()
        self.ada, self.out = nn.Linear(D, len(self.roles) * D), nn.Linear(D, 4)

    def forward(self, x, c):
        m = dict(zip(self.roles, self.ada(F.silu(c)).unsqueeze(1).chunk(len(self.roles), -1), strict=True))
        return self.out(ln(x) * (1 + m["scale"]) + m.get("shift", 0))

FINAL = {"module": "head.ada", "norm": "LayerNorm", "affine": False, "activation": "SiLU"}

class Finished(Tower):
    """A Tower whose head sees c as well."""

    def __init__(self, final: nn.Module, *blocks: nn.Module):
        super().__init__(*blocks)
        self.head = final

    def forward(self, x, c):
        for block in self.blocks:
            x = block(x, c)
        return self.head(x, c)

case(
    "with_final_scale", "adaln", "DiT's blocks and a final AdaLN with a scale only, as Lumina",
    lambda: given(Finished(Final("scale"), Modulated(), Modulated()), tokens(), vector()), group(**ADA),
    final_layer={**FINAL, "roles": ["scale"]},
)

case(
    "with_final_scale_shift", "adaln", "DiT's blocks and a final AdaLN in diffusers' order: scale, shift",
    lambda: given(Finished(Final("scale shift"), Modulated(), Modulated()), tokens(), vector()), group(**ADA),
    final_layer={**FINAL, "roles": ["scale", "shift"]},
)

case(
    "final_layer_only", "final_layer_only", "plain blocks that ignore c; only the last norm is modulated",
    lambda: given(Finished(Final(), Plain(), Plain()), tokens(), vector()),
    final_layer={**FINAL, "roles": ["shift", "scale"]}, groups=[],
)

# --------------------------------------------------------------------------- modulated by a condition, but not AdaLN

@block(
    "other_conditional_modulation",
    "each token has a condition of its own, c is (B, N, D): token-wise, though the formula is DiT's",
    accept_also=["adaln"], base=Guest, layers=lambda: dict(ada=nn.Linear(D, 6 * D)),
    inputs=lambda: (tokens(), tokens()),
)
def per_token_condition(self, x, c):
    return Guest.forward(self, x, *self.ada(F.silu(c)).chunk(6, -1))

class Convs(nn.Module):
    """A stack of residual blocks over images (B, D, 6, 6)."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), nn.Conv2d(D, 3, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, c)
        return self.head(x)

def image() -> Tensor:
    return torch.randn(B, D, 6, 6)

class Res(nn.Module):
    """norm, convolution, and (scale, shift) from c; `affine` is what c does between them."""

    def __init__(self, norm: nn.Module, affine: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.norm, self.affine = norm, affine
        self.emb, self.conv = nn.Linear(D, 2 * D), nn.Conv2d(D, D, 3, padding=1)

    def forward(self, x, c):
        scale, shift = self.emb(F.silu(c))[:, :, None, None].chunk(2, 1)
        return x + self.conv(F.silu(self.affine(self.norm(x), scale, shift)))

for _name, _note, _norm, _affine in (
    ("adagn_conv", "AdaGN of a diffusion U-Net: GroupNorm(x) * (1 + s) + b in a conv block",
     lambda: nn.GroupNorm(4, D), lambda h, s, b: h * (1 + s) + b),
    ("adain_conv", "AdaIN: InstanceNorm(x) * scale + shift, both from a style vector",
     lambda: nn.InstanceNorm2d(D), lambda h, s, b: h * s + b),
    ("conditional_batch_norm", "conditional BatchNorm, in eval mode: BN(x) * (1 + s) + b from a condition",
     lambda: nn.BatchNorm2d(D, affine=False), lambda h, s, b: h * (1 + s) + b),
):
    case(
        _name, "other_conditional_modulation", _note,
        lambda norm=_norm, affine=_affine: given(Convs(*(Res(norm(), affine) for _ in range(2))), image(), vector()),
    )

@block(
    "other_conditional_modulation", "FiLM: gamma * features + beta after a convolution, no norm anywhere", base=Res,
    args=lambda: (nn.Identity(), torch.addcmul), stack=Convs, inputs=lambda: (image(), vector()),
)
def film_conv(self, x, c):
    gamma, beta = self.emb(F.silu(c))[:, :, None, None].chunk(2, 1)
    return x + F.relu(gamma * self.conv(x) + beta)

@block(
    "other_conditional_modulation", "FiLM on tokens: an MLP's residual block, gamma * x + beta, no norm anywhere",
    layers=lambda: dict(film=nn.Linear(D, 2 * D), mlp=mlp()),
)
def film_tokens(self, x, c):
    gamma, beta = self.film(c).unsqueeze(1).chunk(2, -1)
    return x + self.mlp(gamma * x + beta)

@block(
    "other_conditional_modulation",
    "the condition scales the hidden layer of the MLP: FiLM within the branch of a normalised block",
    accept_also=["adaln"],
    layers=lambda: dict(
        norm1=nn.LayerNorm(D), norm2=nn.LayerNorm(D), attn=Attention(), up=nn.Linear(D, 2 * D),
        down=nn.Linear(2 * D, D), film=nn.Linear(D, 2 * D),
    ),
)
def film_on_hidden(self, x, c):
    x = x + self.attn(self.norm1(x))
    return x + self.down(F.gelu(self.up(self.norm2(x))) * self.film(c).unsqueeze(1))

@block(
    "other_conditional_modulation",
    "StyleGAN2: the style scales the convolution's weights, item by item, and they are normalised again",
    accept_also=["none"], layers=lambda: dict(style=nn.Linear(D, D), weight=nn.Parameter(torch.randn(D, D, 3, 3) / 15)),
    stack=Convs, inputs=lambda: (image(), vector()),
)
def modulated_convolution(self, x, w):
    weight = self.weight * (1 + self.style(w))[:, None, :, None, None]  # (B, out, in, 3, 3)
    weight = weight * torch.rsqrt(weight.pow(2).sum((2, 3, 4), keepdim=True) + 1e-8)
    y = F.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), padding=1, groups=x.shape[0])
    return F.leaky_relu(y.view_as(x), 0.2)

@block(
    "other_conditional_modulation",
    "the condition sets only the temperature of attention: one positive number for each item", accept_also=["none"],
    layers=lambda: dict(norm=nn.LayerNorm(D), qkv=nn.Linear(D, 3 * D), out=nn.Linear(D, D), heat=nn.Linear(D, 1)),
)
def attention_temperature(self, x, c):
    q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
    logits = q @ k.mT / D**0.5 * self.heat(c).exp()[:, None]
    return x + self.out(logits.softmax(-1) @ v)

@block(
    "other_conditional_modulation",
    "a hypernetwork writes the matrices of each MLP from c; no vector scales, shifts or gates", accept_also=["none"],
    layers=lambda: dict(norm=nn.LayerNorm(D), write=nn.Linear(D, 2 * D * 8)),
)
def hypernetwork(self, x, c):
    up, down = self.write(c).view(-1, 2, 8, D).div(D**0.5).unbind(1)
    return x + torch.einsum("bnk,bkd->bnd", F.gelu(torch.einsum("bnd,bkd->bnk", self.norm(x), up)), down)

# ----------------------------------------------------------------------------------------- only added, never multiplied

class Added(Tower):
    """A Tower of plain blocks; time is added to the tokens once, at the door."""

    def __init__(self, *blocks: nn.Module):
        super().__init__(*blocks)
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, D))

    def forward(self, x, t):
        return super().forward(x + self.time(wave(t))[:, None], None)

case(
    "time_added_once", "additive_only", "the embedding of t is added to the tokens once, before plain blocks",
    lambda: given(Added(Plain(), Plain()), tokens(), torch.tensor([0.2, 0.7])),
)

@block(
    "additive_only", "each block adds its own Linear(c) to the stream, before any norm: nothing follows a norm",
    base=Plain, layers=lambda: dict(time_proj=nn.Linear(D, D)),
)
def time_added_in_every_block(self, x, c):
    return Plain.forward(self, x + self.time_proj(F.silu(c))[:, None])

@block(
    "additive_only", "Stable Diffusion's resnet: conv(x) + Linear(silu(t)), then GroupNorm",
    layers=lambda: dict(
        norm1=nn.GroupNorm(4, D), norm2=nn.GroupNorm(4, D), emb=nn.Linear(D, D), conv1=nn.Conv2d(D, D, 3, padding=1),
        conv2=nn.Conv2d(D, D, 3, padding=1),
    ),
    stack=Convs, inputs=lambda: (image(), vector()),
)
def time_added_in_resnets(self, x, c):
    h = self.conv1(F.silu(self.norm1(x))) + self.emb(F.silu(c))[:, :, None, None]
    return x + self.conv2(F.silu(self.norm2(h)))

class SqueezeExcite(Plain):
    """The branch is gated by the mean of its own tokens: a gate, but from no condition."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, D), nn.Sigmoid())

    def forward(self, x, c=None):
        x = x + self.attn(self.norm1(x))
        h = self.mlp(self.norm2(x))
        return x + h * self.gate(h.mean(1, keepdim=True))

case(
    "squeeze_excite_with_added_time", "additive_only",
    "t is added at the door; the gates of squeeze-and-excitation come from the tokens, not from t itself",
    lambda: given(Added(SqueezeExcite(), SqueezeExcite()), tokens(), torch.tensor([0.2, 0.7])),
)

@model(
    "additive_only", "the condition adds a bias to the logits after the last layer, and is nowhere else",
    accept_also=["none"], base=Tower, args=lambda: (Plain(), Plain()), layers=lambda: dict(bias=nn.Linear(D, 4)),
)
def condition_in_the_head_bias(self, x, c):
    return Tower.forward(self, x, None) + self.bias(c)[:, None]

@adversarial(
    "additive_only",
    "EDM's preconditioning: fixed numbers of sigma scale input and output; inside, sigma is only added",
    accept_also=["none", "other_conditional_modulation"],
)
def preconditioned() -> Built:
    class Preconditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Added(Plain(), Plain())
            self.net.head = nn.Linear(D, D)

        def forward(self, x, sigma):
            s = sigma[:, None, None]
            c_skip, c_out, c_in = 0.25 / (s**2 + 0.25), 0.5 * s / (s**2 + 0.25).sqrt(), 1 / (s**2 + 0.25).sqrt()
            return c_skip * x + c_out * self.net(c_in * x, sigma.log() / 4)

    return given(Preconditioned(), tokens(), torch.tensor([0.3, 2.0]))

# ----------------------------------------------------------------------------------------------- look-alikes: decoys

class Decoy(Plain):
    """A plain block that owns an adaLN_modulation, and uses it to no effect."""

    def __init__(self):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(D, 6 * D))

case(
    "decoy_never_called", "none", "adaLN_modulation exists and is never called",
    lambda: given(Tower(Decoy(), Decoy()), tokens(), vector()),
)

@block("none", "adaLN_modulation is called, chunked, and its vectors are thrown away", base=Decoy)
def decoy_discarded(self, x, c):
    _shift, _scale, _gate, *_ = self.adaLN_modulation(c).chunk(6, -1)
    return Decoy.forward(self, x)

@block(
    "none", "adaLN_modulation's vectors are multiplied by 0.0: no value of its parameters can move the output",
    base=Decoy,
)
def decoy_times_zero(self, x, c):
    shift, scale, *_ = (0.0 * self.adaLN_modulation(c))[:, None].chunk(6, -1)
    return Decoy.forward(self, x * (1 + scale) + shift)

@adversarial("none", "modulated blocks are registered, plain ones are run")
def decoy_blocks_never_run() -> Built:
    class Model(Tower):
        def __init__(self):
            super().__init__(Plain(), Plain())
            self.transformer_blocks = nn.ModuleList([Modulated(), Modulated()])

    return given(Model(), tokens(), vector())

@block(
    "none", "a learned scale_shift_table (6, D) applied as PixArt's, but no condition is ever added to it", base=Guest,
    layers=lambda: dict(scale_shift_table=nn.Parameter(torch.randn(6, D))),
)
def table_without_condition(self, x, c):
    return Guest.forward(self, x, *self.scale_shift_table.unbind(0))

@block(
    "none", "the six vectors come from a learned constant through a Linear; c is ignored", base=Guest,
    layers=lambda: dict(query=nn.Parameter(torch.randn(1, D)), ada=nn.Linear(D, 6 * D)),
)
def modulated_by_a_constant(self, x, c):
    return Guest.forward(self, x, *self.ada(F.silu(self.query))[:, None].chunk(6, -1))

@adversarial("none", "scale and shift come from the position, a fixed buffer: the same for every input")
def modulated_by_position() -> Built:
    class Block(Plain):
        def __init__(self):
            super().__init__()
            self.register_buffer("positions", wave(torch.arange(N) / N))
            self.ada = nn.Linear(D, 2 * D)

        def forward(self, x, c=None):
            scale, shift = self.ada(F.silu(self.positions)).chunk(2, -1)  # (N, D)
            return x + self.mlp(ln(x) * (1 + scale) + shift)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x):
            return self.blocks(x)

    return given(Model(), tokens())

@adversarial("none", "classes named AdaLayerNormZero and adaln that are an ordinary affine LayerNorm")
def famous_names() -> Built:
    class AdaLayerNormZero(nn.LayerNorm):
        pass

    class DiTBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.adaln1, self.adaln2, self.attn, self.mlp = AdaLayerNormZero(D), AdaLayerNormZero(D), Attention(), mlp()

        def forward(self, x, timestep_embedding):
            x = x + self.attn(self.adaln1(x))
            return x + self.mlp(self.adaln2(x))

    return given(Tower(DiTBlock(), DiTBlock()), tokens(), vector())

# ------------------------------------------------------------------------- look-alikes: honest models without AdaLN

class Stack(nn.Module):
    """Blocks of one argument; nothing but x comes in."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(D, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))

case(
    "squeeze_excite", "none", "squeeze-and-excitation on the branch: its (B, 1, D) gate comes from the branch itself",
    lambda: given(Stack(SqueezeExcite(), SqueezeExcite()), tokens()),
)

class Gated(nn.Module):
    """A Llama-like block: RMSNorm with a weight, and a gated MLP, act(gate(h)) * up(h)."""

    def __init__(self, act: Callable[[Tensor], Tensor]):
        super().__init__()
        self.act, self.attn = act, Attention()
        self.norm1, self.norm2 = nn.RMSNorm(D), nn.RMSNorm(D)
        self.gate_up, self.down = nn.Linear(D, 4 * D), nn.Linear(2 * D, D)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(self.act(gate) * up)

case(
    "swiglu", "none", "Llama: SwiGLU's gate is made of the token itself",
    lambda: given(Stack(Gated(F.silu), Gated(F.silu)), tokens()),
)

case(
    "geglu", "none", "GEGLU's gate is made of the token itself",
    lambda: given(Stack(Gated(F.gelu), Gated(F.gelu)), tokens()),
)

@adversarial("none", "a ViT with LayerScale: the gates are learned constants")
def layer_scale() -> Built:
    class Block(Plain):
        def __init__(self):
            super().__init__()
            self.gamma1, self.gamma2 = nn.Parameter(torch.rand(D)), nn.Parameter(torch.rand(D))

        def forward(self, x):
            x = x + self.gamma1 * self.attn(self.norm1(x))
            return x + self.gamma2 * self.mlp(self.norm2(x))

    class ViT(Stack):
        def __init__(self):
            super().__init__(Block(), Block())
            self.cls, self.pos = nn.Parameter(torch.randn(1, 1, D)), nn.Parameter(torch.randn(1, N + 1, D))

        def forward(self, x):
            return super().forward(torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos)[:, 0]

    return given(ViT(), tokens())

@block(
    "none", "ReZero: one learned number gates each branch",
    layers=lambda: dict(attn=Attention(), mlp=mlp(), alpha=nn.Parameter(torch.tensor(0.5))), stack=Stack,
    inputs=lambda: (tokens(),),
)
def rezero(self, x):
    x = x + self.alpha * self.attn(x)
    return x + self.alpha * self.mlp(x)

@block(
    "none", "gated attention: the output is multiplied by a sigmoid of the token itself", base=Plain,
    layers=lambda: dict(gate=nn.Linear(D, D)), stack=Stack, inputs=lambda: (tokens(),),
)
def gated_attention(self, x):
    h = self.norm1(x)
    x = x + torch.sigmoid(self.gate(h)) * self.attn(h)
    return x + self.mlp(self.norm2(x))

@block(
    "none", "a highway network on vectors (B, D): its gate is made of its own input",
    layers=lambda: dict(transform=nn.Linear(D, D), carry=nn.Linear(D, D)), stack=Stack, inputs=lambda: (vector(),),
)
def highway(self, x):
    return torch.lerp(x, F.relu(self.transform(x)), torch.sigmoid(self.carry(x)))

@adversarial("none", "GPT-2 in small: token and position tables, causal attention, tied head")
def gpt() -> Built:
    class Block(Plain):
        def forward(self, x):
            q, k, v = self.attn.q(h := self.norm1(x)), *self.attn.kv(h).chunk(2, -1)
            x = x + self.attn.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe, self.ln_f = nn.Embedding(50, D), nn.Embedding(16, D), nn.LayerNorm(D)
            self.h = nn.ModuleList([Block(), Block()])

        def forward(self, idx):
            x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
            for block in self.h:
                x = block(x)
            return self.ln_f(x) @ self.wte.weight.T

    return given(GPT(), torch.randint(50, (B, N)))

@adversarial("none", "torch's own TransformerEncoderLayer, whose eval pass may be one fused call")
def torch_encoder() -> Built:
    layers = (nn.TransformerEncoderLayer(D, 2, 2 * D, batch_first=True, norm_first=True) for _ in range(2))
    return given(Stack(*layers), tokens())

@adversarial("none", "a ResNet: BatchNorm's scale and shift are learned constants")
def resnet() -> Built:
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(D, D, 3, padding=1), nn.Conv2d(D, D, 3, padding=1)
            self.bn1, self.bn2 = nn.BatchNorm2d(D), nn.BatchNorm2d(D)

        def forward(self, x):
            return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))

    model = nn.Sequential(Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(D, 4))
    return given(model, image())

@block(
    "none", "MLP-Mixer: Linears over tokens and over channels, in turn",
    layers=lambda: dict(norm1=nn.LayerNorm(D), norm2=nn.LayerNorm(D), tokens=mlp(N), channels=mlp(D)), stack=Stack,
    inputs=lambda: (tokens(),),
)
def mixer(self, x):
    x = x + self.tokens(self.norm1(x).mT).mT
    return x + self.channels(self.norm2(x))

@block(
    "none", "gMLP: half of the channels, mixed over tokens, multiply the other half",
    layers=lambda: dict(
        norm=nn.LayerNorm(D), norm_gate=nn.LayerNorm(D), up=nn.Linear(D, 2 * D), mix=nn.Linear(N, N),
        down=nn.Linear(D, D),
    ),
    stack=Stack, inputs=lambda: (tokens(),),
)
def spatial_gating(self, x):
    u, v = F.gelu(self.up(self.norm(x))).chunk(2, -1)
    return x + self.down(u * self.mix(self.norm_gate(v).mT).mT)

@model(
    "none", "t is one more token among the tokens: in-context, nothing is scaled, shifted or gated", base=Tower,
    args=lambda: (Plain(), Plain()), layers=lambda: dict(time=nn.Linear(D, D)),
    inputs=lambda: (tokens(), torch.tensor([0.2, 0.7])),
)
def time_as_a_token(self, x, t):
    return Tower.forward(self, torch.cat([self.time(wave(t))[:, None], x], 1), None)[:, 1:]

class Crossed(Plain):
    """Self-attention, cross-attention to the text, MLP; each behind an affine LayerNorm."""

    def __init__(self):
        super().__init__()
        self.norm_cross, self.cross = nn.LayerNorm(D), Attention()

    def forward(self, x, text):
        return super().forward(x + self.cross(self.norm_cross(x), text))

case(
    "cross_attention_only", "none", "the condition is text, attended to by cross-attention only",
    lambda: given(Tower(Crossed(), Crossed()), tokens(), tokens(S)),
)

case(
    "cross_attention_to_one_token", "none",
    "cross-attention to a text of one token: softmax of one is 1, so each query receives the same vector",
    lambda: given(Tower(Crossed(), Crossed()), tokens(), tokens(1)), accept_also=["additive_only"],
)

@block(
    "none", "Flamingo: cross-attention to the text behind tanh of a learned number; the gate knows no condition",
    base=Crossed, layers=lambda: dict(alpha=nn.Parameter(torch.tensor(0.7))), inputs=lambda: (tokens(), tokens(S)),
)
def gated_cross_attention(self, x, text):
    x = x + self.alpha.tanh() * self.cross(self.norm_cross(x), text)
    return Plain.forward(self, x)

@model(
    "none", "a learned table of positions multiplies the tokens: the same for every input", base=Stack,
    args=lambda: (Plain(), Plain()), layers=lambda: dict(pos=nn.Parameter(torch.randn(N, D))),
    inputs=lambda: (tokens(),),
)
def positions_multiplied(self, x):
    return Stack.forward(self, x * (1 + self.pos))

@adversarial("none", "padding: a mask (B, N, 1) multiplies the stream after each block; it has no parameters")
def padding_mask() -> Built:
    class Model(Tower):
        def forward(self, x, mask):
            for block in self.blocks:
                x = block(x) * mask
            return self.head(x)

    lengths = torch.tensor([3, 5])
    return given(Model(Plain(), Plain()), tokens(), (torch.arange(N) < lengths[:, None]).float()[..., None])

@adversarial("none", "stochastic depth in training mode: a random number for each item gates the branch", train=True)
def drop_path() -> Built:
    class Block(Plain):
        def drop(self, h):
            return h * (torch.rand(len(h), 1, 1) < 0.7) / 0.7 if self.training else h

        def forward(self, x):
            x = x + self.drop(self.attn(self.norm1(x)))
            return x + self.drop(self.mlp(self.norm2(x)))

    return given(Stack(Block(), Block()), tokens())

@model(
    "none", "torch's LSTM: its gates multiply states, from the sequence itself",
    layers=lambda: dict(rnn=nn.LSTM(D, D, num_layers=2, batch_first=True), head=nn.Linear(D, 4)),
    inputs=lambda: (tokens(),),
)
def lstm(self, x):
    return self.head(self.rnn(x)[0])

@block(
    "none", "a GRU by hand, with LayerNorm: (B, D) gates multiply (B, D) states, from the sequence itself",
    layers=lambda: dict(gates=nn.Linear(2 * D, 2 * D), candidate=nn.Linear(2 * D, D), norm=nn.LayerNorm(D)),
    stack=Stack, inputs=lambda: (tokens(),),
)
def gru_by_hand(self, x):
    h, states = x.new_zeros(len(x), D), []
    for token in x.unbind(1):
        r, z = torch.sigmoid(self.gates(torch.cat([token, h], -1))).chunk(2, -1)
        h = torch.lerp(h, torch.tanh(self.candidate(torch.cat([token, r * self.norm(h)], -1))), z)
        states.append(h)
    return torch.stack(states, 1)

@block(
    "none", "a gated linear recurrence: each token decays the state by a sigmoid of itself",
    layers=lambda: dict(norm=nn.LayerNorm(D), inputs=nn.Linear(D, 3 * D), out=nn.Linear(D, D)), stack=Stack,
    inputs=lambda: (tokens(),),
)
def linear_recurrence(self, x):
    decay, value, gate = self.inputs(self.norm(x)).chunk(3, -1)
    state, states = torch.zeros_like(x[:, 0]), []
    for a, v in zip(torch.sigmoid(decay).unbind(1), value.unbind(1), strict=True):
        state = a * state + (1 - a) * v
        states.append(state)
    return x + self.out(F.silu(gate) * torch.stack(states, 1))

@block(
    "none", "a mixture of experts: the router weighs the experts' outputs by the token itself", base=Plain,
    layers=lambda: dict(router=nn.Linear(D, 3), experts=nn.ModuleList(mlp() for _ in range(3))), stack=Stack,
    inputs=lambda: (tokens(),),
)
def mixture_of_experts(self, x):
    x = x + self.attn(self.norm1(x))
    h = self.norm2(x)
    weights = self.router(h).softmax(-1)  # (B, N, 3)
    return x + sum(weights[..., i, None] * expert(h) for i, expert in enumerate(self.experts))

@model(
    "none", "RevIN: a series leaves with the std and mean (B, 1, D) it came with; both are its own statistics",
    layers=lambda: dict(blocks=nn.Sequential(Plain(), Plain()), gamma=nn.Parameter(torch.ones(D))),
    inputs=lambda: (tokens(),),
)
def reversible_norm(self, x):
    mean, std = x.mean(1, keepdim=True), (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return self.blocks((x - mean) / std * self.gamma) / self.gamma * std + mean

@adversarial("none", "a VAE's latent: mean + std * noise, both from the input; then plain blocks decode it")
def vae() -> Built:
    class VAE(Stack):
        def __init__(self):
            super().__init__(Plain(), Plain())
            self.moments = nn.Linear(D, 2 * D)
            self.register_buffer("noise", torch.randn(N, D))

        def forward(self, x):
            mean, logvar = self.moments(x).chunk(2, -1)
            return super().forward(mean + (0.5 * logvar).exp() * self.noise)

    return given(VAE(), tokens())

@model(
    "none", "two towers compared: an image vector times a text vector, after plain blocks; nothing is modulated",
    layers=lambda: dict(image=nn.Sequential(Plain(), Plain()), text=Plain(), scale=nn.Parameter(torch.tensor(2.0))),
    inputs=lambda: (tokens(), tokens(S)),
)
def two_towers(self, x, y):
    x, y = F.normalize(self.image(x).mean(1), dim=-1), F.normalize(self.text(y).mean(1), dim=-1)
    return self.scale.exp() * x @ y.T

# fmt: on
