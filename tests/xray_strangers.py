"""Models the x-ray has never met: small, hand-written in many hands, each beside what is true of it.

    module, run = STRANGERS["gate_tanh"]()      # a fresh module, and the pass to watch
    TRUTH["gate_tanh"]["verdict"]               # "adaln"

The first half is modulated by a condition in ways the real models do not show; the second half only looks so.
Nothing here knows how the x-ray works: a row follows from the formula of the forward pass alone, and its `note` says
how. Read a row so:

- a field that is left out is a matter of definition, or has no word: it is not to be compared;
- a frozenset, written `either(...)`, holds the words that are all right; `unknown` is never wrong, only less;
- `accept_also` are verdicts that a reasonable reader could defend as well;
- the groups of `other_conditional_modulation` are left out: only the verdict is certain.
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
STRANGERS: dict[str, Callable[[], Built]] = {}
TRUTH: dict[str, dict[str, Any]] = {}


# ---------------------------------------------------------------------------------------------------------------- rows


def either(*words: Any) -> frozenset[Any]:
    return frozenset(words)


def stranger(
    verdict: str,
    note: str,
    *groups: dict[str, Any],
    accept_also: Iterable[str] = (),
    rough: bool = True,
    train: bool = False,
    **fields: Any,
) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Register a builder and its row.

    `rough` moves every parameter off its round value: norm weights of exactly 1 hide that they are there.
    """

    def register(build: Callable[[], Built]) -> Callable[[], Built]:
        @functools.wraps(build)
        def seeded() -> Built:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                module, run = build()
                if rough:
                    roughen(module)
            return module.train(train), run

        row = {"verdict": verdict, "accept_also": list(accept_also), "note": note, **fields}
        if verdict == "adaln":
            row = {"final_layer": None, **row, "groups": list(groups)}
        elif verdict in ("none", "additive_only"):
            row = {"final_layer": None, **row, "groups": []}
        STRANGERS[build.__name__], TRUTH[build.__name__] = seeded, row
        return seeded

    return register


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
        "zero_initialised_at_construction": zero,
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


# ------------------------------------------------------------------------------------- modulated: one thing varied


def variation(name: str, note: str, options: dict[str, Any], **truth: Any) -> None:
    def build() -> Built:
        return given(Tower(Modulated(**options), Modulated(**options)), tokens(), vector())

    build.__name__ = name
    stranger("adaln", note, group(**ADA, **truth))(build)


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


@stranger(
    "adaln",
    "c is 6 wide and goes straight into each block's Linear: narrow, but a Linear for each block",
    group(**ADA, source=either("per_block_linear", "low_rank")),
)
def narrow_condition() -> Built:
    return given(Tower(Modulated(width=6), Modulated(width=6)), tokens(), vector(6))


# ------------------------------------------------------------------- modulated: the same block, in other surroundings


@stranger("adaln", "DiT's formula; one item in the batch, so there is nothing to compare it with", group(**ADA))
def batch_of_one() -> Built:
    return given(Tower(Modulated(), Modulated()), tokens(batch=1), vector(batch=1))


@stranger(
    "adaln",
    "DiT's formula on a single token; per item and per token are the same thing here",
    group(**ADA),
    accept_also=["other_conditional_modulation"],
)
def one_token() -> Built:
    return given(Tower(Modulated(), Modulated()), tokens(1), vector())


@stranger("adaln", "DiT's formula, weights and inputs in bfloat16", group(**ADA))
def half_precision() -> Built:
    return given(Tower(Modulated(), Modulated()).bfloat16(), tokens().bfloat16(), vector().bfloat16())


@stranger(
    "adaln",
    "nothing but a wrapper around DiT's formula: each path gains `module.`",
    group("module.blocks.*", module="ada", linears=["module.blocks.*.ada"]),
)
def data_parallel() -> Built:
    wrapped = nn.DataParallel(Tower(Modulated(), Modulated())).cpu()
    wrapped.device_ids = []  # no device to scatter over: it calls the module itself
    return given(wrapped, tokens(), vector())


@stranger(
    "adaln",
    "adaLN-Zero as built: the modulation is there and every parameter of it is 0",
    group(**ADA, zero=True),
    rough=False,
)
def all_modulation_zero() -> Built:
    model = Tower(Modulated(), Modulated())
    for block in model.blocks:
        nn.init.zeros_(block.ada.weight), nn.init.zeros_(block.ada.bias)
    return given(model, tokens(), vector())


@stranger(
    "adaln",
    "as DiT is built: modulation 0 and head 0, so no single nudge moves the output",
    group(**ADA, zero=True),
    rough=False,
)
def all_modulation_and_head_zero() -> Built:
    model = Tower(Modulated(), Modulated())
    for layer in (model.head, *(block.ada for block in model.blocks)):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    return given(model, tokens(), vector())


@stranger(
    "adaln",
    "only the head is 0: the modulation is random, hidden behind an output that is 0",
    group(**ADA),
    rough=False,
)
def head_zero() -> Built:
    model = Tower(Modulated(), Modulated())
    nn.init.zeros_(model.head.weight), nn.init.zeros_(model.head.bias)
    return given(model, tokens(), vector())


@stranger("adaln", "DiT's formula with dropout on each branch, in training mode", group(**ADA), train=True)
def dropout_in_training() -> Built:
    return given(Tower(Modulated(drop=0.2), Modulated(drop=0.2)), tokens(), vector())


@stranger("adaln", "DiT's formula, each block run under torch.utils.checkpoint", group(**ADA))
def checkpointed() -> Built:
    class Checkpointed(Tower):
        def forward(self, x, c):
            for block in self.blocks:
                x = checkpoint(block, x, c, use_reentrant=False)
            return self.head(x)

    return given(Checkpointed(Modulated(), Modulated()), tokens(), vector())


@stranger(
    "adaln",
    "one block, applied three times: one block's parameters, six vectors",
    group("core", n_blocks=1, module="ada", linears=["core.ada"]),
)
def tied_block() -> Built:
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.core, self.head = Modulated(), nn.Linear(D, 4)

        def forward(self, x, c):
            for _ in range(3):
                x = self.core(x, c)
            return self.head(x)

    return given(Recurrent(), tokens(), vector())


@stranger(
    "adaln",
    "blocks in a ModuleDict, output in a dict; how two names make one pattern is left open",
    group(None, module="ada", linears=["stages.early.ada", "stages.late.ada"]),
)
def blocks_in_a_dict() -> Built:
    class Staged(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleDict({"early": Modulated(), "late": Modulated()})

        def forward(self, sample, emb):
            for stage in self.stages.values():
                sample = stage(sample, emb)
            return {"sample": sample, "emb": emb}

    return given(Staged(), tokens(), vector())


@stranger(
    "adaln",
    "blocks as attributes block1 and block2; how two names make one pattern is left open",
    group(None, module="ada", linears=["block1.ada", "block2.ada"]),
)
def blocks_as_attributes() -> Built:
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.block1, self.block2, self.time = Modulated(), Modulated(), nn.Linear(D, D)

        def forward(self, x, t):
            c = self.time(wave(t))
            return self.block2(self.block1(x, c), c)

    return given(Pair(), tokens(), torch.tensor([0.2, 0.7]))


@dataclass
class State:
    x: Tensor
    c: Tensor


@stranger(
    "adaln",
    "nn.Sequential hands on a dataclass (x, c); each step is DiT's formula",
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
