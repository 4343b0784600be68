"""The x-ray follows a vector to the next update of the stream, whatever stands between; else it says unknown, and why.

Each kind is told both ways: a model where the vector is there, and a decoy where nothing must be said.
"""

import re

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.analysis.xray import xray

D = 16
L = nn.Linear


class Block(nn.Module):
    """x + end(g * f(LN(x) * (1 + a) + b)); the variants change one method."""

    learned = False  # vectors from a parameter in place of the condition: the decoy

    def __init__(self):
        super().__init__()
        self.f, self.mod = nn.Sequential(L(D, D), nn.GELU(), L(D, D)), nn.Sequential(nn.SiLU(), L(D, 3 * D))
        self.layer_scale, self.constant = nn.Parameter(torch.rand(D) + 0.1), nn.Parameter(torch.randn(1, 3 * D))
        self.weighted = nn.RMSNorm(D)
        nn.init.normal_(self.weighted.weight)

    def vectors(self, x: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        made = self.constant.expand(len(x), -1) if self.learned else self.mod(c)
        return (made[:, None] if made.dim() < x.dim() else made).chunk(3, -1)

    def norm(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return F.layer_norm(x, (D,)) * (1 + a) + b

    def branch(self, h: Tensor, c: Tensor) -> Tensor:
        return self.f(h)

    def join(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
        return x + self.end(g * h)

    def end(self, y: Tensor) -> Tensor:
        return y

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        a, b, g = self.vectors(x, c)
        return self.join(x, g, self.branch(self.norm(x, a, b), c))


class Net(nn.Module):
    def __init__(self, kind: type[Block], n: int = 4):
        super().__init__()
        self.x, self.c, self.out = L(3, D), L(1, D), L(D, 3)
        self.blocks = nn.ModuleList(kind() for _ in range(n))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x, c = self.x(x), self.c(t[..., None])
        for block in self.blocks:
            x = block(x, c)
        return self.out(x)


def look(model: nn.Module, x: Tensor | None = None, t: Tensor | tuple | None = None):
    torch.manual_seed(1)
    x, t = torch.randn(2, 5, 3) if x is None else x, torch.rand(2) if t is None else t
    return xray(model, lambda: model(x, t))


def kind(**methods):
    return type("Varied", (Block,), methods)


def facts(report, *names: str):
    (group,) = report.groups
    return tuple(group[name] for name in ("n_vectors_per_block", *names))


# ------------------------------------------------------------------------------- what stands between gate and sum

KEPT = torch.tensor([[True, True, False, True, False]]).expand(2, 5)
ENDS = {
    "layer scale": lambda s, y: s.layer_scale * y,
    "stochastic depth, drawn in place": lambda s, y: y * y.new_empty(len(y), 1, 1).bernoulli_(0.7),
    "stochastic depth, rescaled": lambda s, y: y.div(0.7) * torch.empty(len(y), 1, 1).bernoulli_(0.7),
    "masked_fill": lambda s, y: y.masked_fill(torch.arange(5)[:, None] > 3, 0.0),
    "where": lambda s, y: torch.where(torch.arange(5)[:, None] > 3, torch.zeros(()), y),
    "a mask": lambda s, y: y * (torch.arange(5)[:, None] < 3),
    "a learned norm": lambda s, y: s.weighted(y),
    "a norm by hand": lambda s, y: y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6),
    "dropout": lambda s, y: F.dropout(y, 0.2),
    "casts": lambda s, y: y.double().float(),
    "tokens sorted and back": lambda s, y: y[:, [4, 3, 2, 1, 0]][:, [4, 3, 2, 1, 0]],
    "padding": lambda s, y: F.pad(y, (0, 0, 0, 1))[:, :-1],
    "heads": lambda s, y: (y.unflatten(-1, (4, 4)) * torch.rand(4, 1)).flatten(-2),
    "minus": lambda s, y: y.neg().neg(),
    "several": lambda s, y: s.weighted(s.layer_scale * y.double().float()).masked_fill(torch.arange(5)[:, None] > 3, 0),
}
JOINS = {
    "folded into the layer scale": lambda s, x, g, h: x + (s.layer_scale * g) * h,
    "difference": lambda s, x, g, h: x - g * h,
    "in place": lambda s, x, g, h: x.clone().add_(g * h),
    "a slice of the stream": lambda s, x, g, h: torch.cat([x[:, :1], x[:, 1:] + (g * h)[:, 1:]], 1),
    "index_add": lambda s, x, g, h: x.index_add(1, torch.arange(5), g * h),
    "stacked and summed": lambda s, x, g, h: torch.stack([x, g * h]).sum(0),
    "two branches first": lambda s, x, g, h: x + (g * h + s.f(F.layer_norm(x, (D,)))),
    "both scaled": lambda s, x, g, h: 0.7 * x + 0.7 * (g * h),
    "a learned skip": lambda s, x, g, h: s.layer_scale * x + g * h,
    "some tokens alone": lambda s, x, g, h: x.index_put((KEPT,), x[KEPT] + (g * h)[KEPT]),
    "a second branch of the same x": lambda s, x, g, h: (x + s.f(F.layer_norm(x, (D,)))) + g * h,
    "a norm folded into the gate": lambda s, x, g, h: x + (g * torch.rsqrt(h.square().mean(-1, keepdim=True))) * h,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_gate_is_found_behind_whatever_is_linear(end):
    assert facts(look(Net(kind(end=end))), "has_gate", "gate_bounding") == (3, True, "raw")
    assert look(Net(kind(end=end, learned=True))).verdict == "none"


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_a_gate_is_found_however_it_joins_the_stream(join):
    assert facts(look(Net(kind(join=join))), "has_gate", "gate_bounding") == (3, True, "raw")
    assert look(Net(kind(join=join, learned=True))).verdict == "none"


@pytest.mark.parametrize("bend", [F.silu, torch.sin, lambda y: y.cumsum(1), lambda y: y.clamp(-9, 9)])
def test_what_is_not_linear_is_not_called_a_gate_nor_its_absence(bend):
    """The vector has some use there: neither "gate" nor "no gate" is witnessed."""
    report = look(Net(kind(end=lambda s, y: bend(y))))
    assert facts(report, "has_gate", "gate_bounding", "chunk_order") == ("unknown",) * 4
    assert any("unknown: " in line for line in report.reasons())


@pytest.mark.parametrize(
    ("factor", "word"),
    [
        (lambda g: 0.5 + g, "unknown"),
        (lambda g: 1 + g.tanh(), "unknown"),
        (lambda g: g * g.sigmoid(), "unknown"),
        (lambda g: 1 + g, "1+g"),
        (lambda g: 2 * g.tanh(), "tanh"),
    ],
)
def test_the_word_for_a_gates_function_is_right_or_unknown(factor, word):
    report = look(Net(kind(join=lambda s, x, g, h: x + factor(g) * h)))
    assert facts(report, "has_gate", "gate_bounding") == (3, True, word)


def test_where_the_stream_is_updated_in_an_unknown_way_nothing_is_claimed():
    report = look(Net(kind(join=lambda s, x, g, h: torch.maximum(x, g * h))))
    assert report.verdict == "unknown" and report.final_layer is None


def test_a_statistic_over_tokens_is_no_layer_norm():
    def over_tokens(s, x, a, b):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) * (1 + a) + b

    report = look(Net(kind(norm=over_tokens)))
    assert report.verdict == "other_conditional_modulation" and "InstanceNorm" in report.sentence()


# ---------------------------------------------------------------------------------------- the vector inside the norm


def rms(x: Tensor) -> Tensor:
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


NORMS = {
    "scale meets 1/rms": (lambda s, x, a, b: x * ((1 + a) * rms(x)) + b, "RMSNorm"),
    "cast between": (lambda s, x, a, b: x * ((1 + a) * rms(x)).double().float() + b, "RMSNorm"),
    "scale first": (lambda s, x, a, b: (x * (1 + a)) * rms(x) + b, "RMSNorm"),
    "division": (lambda s, x, a, b: x * (1 + a) / x.square().mean(-1, keepdim=True).sqrt() + b, "RMSNorm"),
    "centred": (
        lambda s, x, a, b: (x - x.mean(-1, keepdim=True)) * ((1 + a) / x.std(-1, keepdim=True)) + b, "LayerNorm",
    ),
    "as the norm's own weight": (lambda s, x, a, b: torch.stack(
        [F.layer_norm(row, (D,), 1 + u[0], v[0]) for row, u, v in zip(x, a, b, strict=True)]), "LayerNorm"),
}  # fmt: skip


@pytest.mark.parametrize(("norm", "name"), NORMS.values(), ids=NORMS)
def test_a_scale_that_meets_the_statistic_first_is_a_scale_on_that_norm(norm, name):
    (group,) = look(Net(kind(norm=norm))).groups
    assert (group["has_scale"], group["has_shift"], group["base_norm"]) == (True, True, name)
    assert look(Net(kind(norm=norm, learned=True))).verdict == "none"


def test_a_norm_whose_operations_are_unknown_is_read_from_its_numbers():
    def unusual(s, x, a, b):
        return x * torch.exp(-0.5 * x.square().mean(-1, keepdim=True).log()) * (1 + a) + b

    assert facts(look(Net(kind(norm=unusual))), "base_norm") == (3, "RMSNorm")
    report = look(Net(kind(norm=lambda s, x, a, b: torch.exp(-x.abs()) * (1 + a) + b)))
    assert report.verdict == "other_conditional_modulation" and "what no norm precedes" in report.sentence()


def test_statistics_over_other_numbers_are_no_norm():
    """x over the size of something else has no norm under its scale."""
    report = look(Net(kind(norm=lambda s, x, a, b: x * rms(s.f(x)) * (1 + a) + b)))
    assert report.verdict == "other_conditional_modulation" and not report.groups


# ---------------------------------------------------------------------------------------- places of blocks


class Norm(nn.Module):
    def __init__(self, learned: bool):
        super().__init__()
        self.w, self.learned = L(D, D), learned

    def forward(self, x, c):
        return F.layer_norm(x, (D,)) * (1 + (0 if self.learned else self.w(c)[:, None]))


class Gated(nn.Module):
    def __init__(self, learned: bool):
        super().__init__()
        self.f, self.g, self.learned = L(D, D), L(D, D), learned

    def forward(self, x, c):
        return self.f(x) * (1 if self.learned else self.g(c)[:, None].sigmoid())


class Add(nn.Module):
    def forward(self, x, r):
        return x + r


class Parts(nn.Module):
    """A layer is a list of norm, gated branch and residual sum; the forward of all layers is the model's."""

    def __init__(self, learned: bool = False):
        super().__init__()
        self.x, self.c, self.out, self.last = L(3, D), L(1, D), L(D, 3), Norm(learned)
        layers = [nn.ModuleList([Norm(learned), Gated(learned), Add()]) for _ in range(3)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x, t):
        x, c = self.x(x), self.c(t[:, None])
        for norm, branch, add in self.layers:
            x = add(branch(norm(x, c), c), x)
        return self.out(self.last(x, c))


def test_a_layer_that_is_a_list_of_parts_is_one_block():
    report = look(Parts())
    assert facts(report, "blocks", "n_blocks", "gate_bounding") == (2, "layers.*", 3, "sigmoid")
    assert report.final_layer["module"] == "last.w" and not report.unmodulated_blocks
    decoy = look(Parts(learned=True))
    assert decoy.verdict == "none" and decoy.final_layer is None


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.mod, self.out = L(D, 2 * D), L(D, 3)

    def forward(self, x, c):
        a, b = self.mod(F.silu(c))[:, None].chunk(2, -1)
        return self.out(F.layer_norm(x, (D,)) * (1 + a) + b)


class Headed(Net):
    def __init__(self, head, n=1):
        super().__init__(Block)
        self.heads = nn.ModuleList(head() for _ in range(n))

    def forward(self, x, t):
        x, c = self.x(x), self.c(t[:, None])
        for block in self.blocks:
            x = block(x, c)
        return [head(x, c) if isinstance(head, Head) else head(x) for head in self.heads]


@pytest.mark.parametrize(
    ("head", "n", "module"), [(Head, 1, "heads.0.mod"), (Head, 2, "heads.1.mod"), (lambda: L(D, 3), 1, None)]
)
def test_a_final_layer_in_a_list_is_no_block(head, n, module):
    report = look(Headed(head, n))
    assert facts(report, "blocks") == (3, "blocks.*") and not report.unmodulated_blocks
    assert (report.final_layer and report.final_layer["module"]) == module


class SomePlain(Net):
    def __init__(self):
        super().__init__(Block)
        self.blocks[2].learned = True


def test_a_pattern_covers_only_the_blocks_it_names():
    report = look(SomePlain())
    assert facts(report, "blocks", "n_blocks") == (3, "blocks.0-1,3", 3)
    assert report.unmodulated_blocks == ["blocks.2"]


# ------------------------------------------------------------------------------------- conditions made from the stream


class FromTokens(Net):
    """Blocks 2 and 3 are conditioned by what blocks 0 and 1 made of the same tokens."""

    def forward(self, x, t):
        z, c = self.x(x), self.c(t[:, None])
        for block in self.blocks[:2]:
            z = block(z, c)
        y, z = self.x(x), F.silu(z + c[:, None])
        for block in self.blocks[2:]:
            y = block(y, z)
        return self.out(y)


class FromMean(Net):
    """The condition is the mean of the stream as it came in."""

    def forward(self, x, t):
        x = self.x(x)
        c = x.mean(1)
        for block in self.blocks:
            x = block(x, c)
        return self.out(x)


class Squeeze(Block):
    """Its gate comes from the branch itself: no condition."""

    def forward(self, x, c):
        h = self.f(F.layer_norm(x, (D,)))
        return x + self.mod(h.mean(1, keepdim=True))[..., :D].sigmoid() * h


def test_blocks_that_are_conditioned_by_the_stream_are_not_claimed():
    report = look(Net(Block)), look(FromTokens(Block))
    assert report[1].groups[0]["blocks"] == "blocks.0-1" and report[1].groups[0]["n_blocks"] == 2
    assert any(
        re.match(r"blocks\.2-3 \(Block\): a factor for each token .*stream", line) for line in report[1].elsewhere
    )
    assert look(FromMean(Block)).verdict == "unknown" and "stream itself" in str(look(FromMean(Block)))
    assert look(Net(Squeeze)).verdict == "none"


# ---------------------------------------------------------------------------------------- rotary positions


class Rotary(Block):
    def __init__(self):
        super().__init__()
        self.freq, self.q, self.n = nn.Parameter(torch.randn(1, D // 2)), L(D, D), nn.RMSNorm(D)

    def branch(self, h, c):
        angle = self.pos @ self.freq
        even, odd = self.n(self.q(h)).chunk(2, -1)
        q = torch.cat([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1)
        return F.scaled_dot_product_attention(q, q, h)


class Positioned(Net):
    def forward(self, x, given):
        t, pos = given if isinstance(given, tuple) else (given, WARM)
        for block in self.blocks:
            block.pos = pos
        return super().forward(x, t)


WARM = torch.arange(5.0)[:, None]  # a cache from an earlier pass


@pytest.mark.parametrize(
    "pos", [torch.arange(5.0)[:, None], torch.rand(2, 5, 1), None], ids=["argument", "per item", "warm"]
)
def test_learned_rotary_positions_are_no_vectors(pos):
    given = torch.rand(2) if pos is None else (torch.rand(2), pos)
    assert facts(look(Positioned(Rotary), t=given), "base_norm", "gate_bounding") == (3, "LayerNorm", "raw")
    plain = type("Plain", (Rotary,), {"learned": True})
    assert look(Positioned(plain), t=given).verdict == "none"


# ---------------------------------------------------------------------------------------- opaque kernels


@torch.library.custom_op("xraytest::modulate", mutates_args=())
def fused_modulate(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, (D,)) * (1 + a) + b


@torch.library.custom_op("xraytest::gated_sum", mutates_args=())
def fused_gate(x: Tensor, g: Tensor, h: Tensor) -> Tensor:
    return x + g * h


@torch.library.custom_op("xraytest::into", mutates_args={"out"})
def fused_into(x: Tensor, a: Tensor, b: Tensor, out: Tensor) -> None:
    out.copy_(F.layer_norm(x, (D,)) * (1 + a) + b)


@torch.library.custom_op("xraytest::gelu", mutates_args=())
def fused_gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


def into(s, x, a, b):
    out = torch.empty_like(x)
    fused_into(x, a, b, out)
    return out


def by_numpy(s, x, a, b):
    x, a, b = (v.numpy() for v in (x, a, b))
    h = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    return torch.from_numpy((h * (1 + a) + b).astype(numpy.float32))


def unseen_write(s, x, a, b):
    """As a Triton kernel does: it fills a tensor that torch only made room for."""
    out = torch.empty_like(x)
    numpy.copyto(out.numpy(), by_numpy(s, x, a, b).numpy())
    return out


HIDDEN = {
    "custom op": lambda s, x, a, b: fused_modulate(x, a, b),
    "out argument": into,
    "numpy": by_numpy,
    "unseen": unseen_write,
}


@pytest.mark.parametrize("norm", HIDDEN.values(), ids=HIDDEN)
def test_a_kernel_that_cannot_be_seen_makes_its_block_unknown(norm):
    alone = kind(norm=norm, join=lambda s, x, g, h: x + h)
    assert look(Net(alone)).verdict == "unknown" and "blocks.*" in str(look(Net(alone)))
    assert look(Net(kind(norm=norm))).verdict == "unknown"  # a gate is seen, but not on which norm
    half = kind(norm=lambda s, x, a, b: norm(s, F.layer_norm(x, (D,)) * (1 + a), a, b))  # a scale is, too
    assert facts(look(Net(half)), "has_gate", "has_scale", "chunk_order") == ("unknown", True, True, "unknown")


def test_a_hidden_gate_is_unknown_and_a_kernel_of_the_stream_alone_hides_nothing():
    report = look(Net(kind(join=lambda s, x, g, h: fused_gate(x, g, h))))
    assert facts(report, "has_scale", "has_gate", "gate_bounding") == ("unknown", True, "unknown", "unknown")
    harmless = kind(branch=lambda s, h, c: s.f[2](fused_gelu(s.f[0](h))))
    assert facts(look(Net(harmless)), "has_gate") == (3, True)
    assert look(Net(type("Plain", (harmless,), {"learned": True}))).verdict == "none"


# ---------------------------------------------------------------------------------------- LoRA


class Lora(nn.Module):
    def __init__(self, base: bool = True, factor: float = 1.0, n: int = 1):
        super().__init__()
        self.base = L(D, 3 * D) if base else None
        self.down, self.up = nn.ModuleList(L(D, 4) for _ in range(n)), nn.ModuleList(L(4, 3 * D) for _ in range(n))
        self.factor = factor

    def forward(self, c):
        low = sum(self.factor * up(F.dropout(down(c), 0.0)) for down, up in zip(self.down, self.up, strict=True))
        return low if self.base is None else self.base(c) + low


@pytest.mark.parametrize(
    ("options", "source", "activation"),
    [
        (dict(), "per_block_linear", "SiLU"),
        (dict(factor=0.5), "per_block_linear", "SiLU"),
        (dict(n=2), "per_block_linear", "SiLU"),
        (dict(base=False), "low_rank", None),
    ],
)
def test_an_adapter_beside_a_full_linear_is_not_its_source(options, source, activation):
    def init(self):
        Block.__init__(self)
        self.mod = nn.Sequential(nn.SiLU(), Lora(**options))

    (group,) = look(Net(kind(__init__=init))).groups
    assert group["n_vectors_per_block"] == 3 and group["source"] in (source, "unknown")
    assert activation is None or group["activation_before_linear"] in (activation, "unknown")


# ---------------------------------------------------------------------------------------- vectors that no Linear makes


def test_vectors_that_no_linear_makes_are_seen_and_not_counted():
    """A bilinear form, a norm behind the Linear: shift, scale and gate are there, and no outputs tell them apart."""

    class Form(nn.Bilinear):
        def forward(self, c):
            return super().forward(c, c)

    def bilinear(self):
        Block.__init__(self)
        self.mod = Form(D, D, 3 * D)

    def normalised(self):
        Block.__init__(self)
        self.mod = nn.Sequential(L(D, 3 * D), nn.LayerNorm(3 * D))

    for init in (bilinear, normalised):
        (group,) = look(Net(kind(__init__=init))).groups
        assert group["has_scale"] and group["has_shift"] and group["has_gate"]
        assert group["n_vectors_per_block"] == "unknown"


# ---------------------------------------------------------------------------------------- tokens without a batch axis


def test_tokens_without_a_batch_axis():
    report = look(Net(Block), torch.randn(6, 3), torch.rand(6))
    assert report.verdict == "unknown" and "nothing tells tokens from items" in report.sentence()
    assert facts(look(Net(Block), torch.randn(6, 3), torch.rand(1)), "has_gate") == (3, True)


# ---------------------------------------------------------------------------------------- sentences


def test_other_modulation_is_described_by_module_norm_and_place():
    class PerToken(Net):
        def forward(self, x, t):
            x, c = self.x(x), self.c(t[..., None])
            for block in self.blocks:
                x = block(x, c)
            return self.out(x)

    report = look(PerToken(Block), t=torch.rand(2, 5))
    assert report.verdict == "other_conditional_modulation"
    assert re.search(r"blocks\.0 \(Block\): a condition for each token scales a LayerNorm", report.sentence())
