"""The drawing follows the code: what a block does is what is drawn and told, and nothing in a picture collides."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.transforms import Bbox
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.analysis.diagrams import SHAPES, describe, diagram
from adaln_lab.conditioning import (
    AdaLNBlock,
    AdaLNZeroBlock,
    BlockCondition,
    Condition,
    CrossAttentionBlock,
    InContextBlock,
)
from adaln_lab.display.plots import COLOURS, new_figure
from adaln_lab.dit import FinalLayer
from adaln_lab.layers import MLP, SelfAttention, attend
from adaln_lab.norms import Modulation, ToModulation, gated, layer_norm, modulate

ADALN = "LN -> * (1 + scale) -> + shift"
ZERO = (
    f"x -> {ADALN} -> SelfAttention -> * gate -> + x; x -> {ADALN} -> MLP -> * gate -> + x; "
    "c -> SiLU -> Linear sends scale, shift, gate, scale, shift, gate"
)


class ByHand(nn.Module):
    """adaLN-Zero in plain operators, as a notebook writes it."""

    def __init__(self):
        super().__init__()
        self.linear, self.attn, self.mlp = nn.Linear(8, 48), SelfAttention(8, 2), MLP(8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.linear(F.silu(c))[:, None].chunk(6, dim=-1)
        x = x + gate * self.attn(F.layer_norm(x, (8,)) * (1 + scale) + shift)
        return x + self.mlp(shift2 + (scale2 + 1) * F.layer_norm(x, (8,))) * gate2


class NoSecondGate(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = x + attn.gate * self.attn(modulate(layer_norm(x), attn))
        return x + self.mlp(modulate(layer_norm(x), mlp))


class TwoAttentions(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        for m in pre.modulations:
            x = x + m.gate * self.attn(modulate(layer_norm(x), m))
        return x


class ReboundStream(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = modulate(layer_norm(x), attn)
        x = x + attn.gate * self.attn(x)
        return x + mlp.gate * self.mlp(modulate(layer_norm(x), mlp))


class LostResidual(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = attn.gate * self.attn(modulate(layer_norm(x), attn))
        return x + mlp.gate * self.mlp(modulate(layer_norm(x), mlp))


class OtherGates(AdaLNZeroBlock):
    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = gated(x, self.attn(layer_norm(x) * attn.scale), attn.gate, "tanh")
        return gated(x, self.mlp(layer_norm(x)), mlp.gate, "one_plus")


class Tiny(nn.Module):
    """Tensors handed in by name, a learned vector, a norm written out."""

    def __init__(self):
        super().__init__()
        self.gamma, self.mlp = nn.Parameter(torch.ones(8)), MLP(8)

    def forward(self, x: Tensor, m: Modulation) -> Tensor:
        x = x + self.gamma * self.mlp(modulate(layer_norm(x), m))
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)


class JointAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.img, self.txt = nn.Linear(8, 24), nn.Linear(8, 24)

    def forward(self, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        out = attend(*torch.cat([self.img(img), self.txt(txt)], dim=1).chunk(3, dim=-1), 2)
        return out[:, : img.shape[1]], out[:, img.shape[1] :]


class TwoStreams(nn.Module):
    """SD3's form: images and text, each with its own weights, meet in one attention."""

    def __init__(self):
        super().__init__()
        self.to_txt, self.to_img = ToModulation(8, 8), ToModulation(8, 8)
        self.attn, self.mlp_img, self.mlp_txt = JointAttention(), MLP(8), MLP(8)

    def forward(self, img: Tensor, txt: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        (txt1, txt2), (img1, img2) = self.to_txt(c), self.to_img(c)
        a, b = self.attn(modulate(layer_norm(img), img1), modulate(layer_norm(txt), txt1))
        img, txt = gated(img, a, img1.gate), gated(txt, b, txt1.gate)
        img = gated(img, self.mlp_img(modulate(layer_norm(img), img2)), img2.gate)
        return img, gated(txt, self.mlp_txt(modulate(layer_norm(txt), txt2)), txt2.gate)


class TwoStreamsOpen(TwoStreams):
    """The same with attention's own Linears in sight."""

    def forward(self, img: Tensor, txt: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        (img1, _), (txt1, _) = self.to_img(c), self.to_txt(c)
        q = self.attn.img(modulate(layer_norm(img), img1))
        k = self.attn.txt(modulate(layer_norm(txt), txt1))
        out = attend(*torch.cat([q, k], dim=1).chunk(3, dim=-1), 2)
        return gated(img, out[:, : img.shape[1]], img1.gate), gated(txt, out[:, img.shape[1] :], txt1.gate)


class Parallel(nn.Module):
    """Flux's single block: attention and MLP side by side, one gate for both."""

    def __init__(self):
        super().__init__()
        self.to_modulation = ToModulation(8, 8, branches=1)
        self.attn, self.up, self.down = SelfAttention(8, 2), nn.Linear(8, 16), nn.Linear(24, 8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (m,) = self.to_modulation(c)
        h = modulate(layer_norm(x), m)
        return x + m.gate * self.down(torch.cat([self.attn(h), F.gelu(self.up(h))], dim=-1))


BLOCKS = {
    "LayerNorm": (nn.LayerNorm(8), "input -> LN(gamma, beta) = out"),
    "in-context": (
        InContextBlock(8, 2, 8),
        "[ctx, x] -> LN(gamma, beta) -> SelfAttention -> + [ctx, x]; [ctx, x] -> LN(gamma, beta) -> MLP -> + [ctx, x]",
    ),
    "cross-attention": (
        CrossAttentionBlock(8, 2, 8),
        "x -> LN(gamma, beta) -> SelfAttention -> + x; x -> LN(gamma, beta) -> CrossAttention(ctx) -> + x; "
        "x -> LN(gamma, beta) -> MLP -> + x",
    ),
    "adaLN": (
        AdaLNBlock(8, 2, 8),
        f"x -> {ADALN} -> SelfAttention -> + x; x -> {ADALN} -> MLP -> + x; "
        "c -> SiLU -> Linear sends scale, shift, scale, shift",
    ),
    "adaLN-Zero": (AdaLNZeroBlock(8, 2, 8), ZERO),
    "final": (FinalLayer(8, 8, 4), f"x -> {ADALN} -> Linear = out; c -> SiLU -> Linear sends scale, shift"),
    "final, plain": (FinalLayer(8, 8, 4, adaptive=False), "x -> LN -> Linear = out"),
    "by hand": (ByHand(), ZERO),
    "no second gate": (NoSecondGate(8, 2, 8), ZERO.replace("MLP -> * gate", "MLP").removesuffix(", gate")),
    "two attentions": (TwoAttentions(8, 2, 8), ZERO.replace("MLP", "SelfAttention")),
    "rebound stream": (ReboundStream(8, 2, 8), ZERO.replace("shift -> Self", "shift = x; x -> Self", 1)),
    "lost residual": (LostResidual(8, 2, 8), ZERO.replace("gate -> + x", "gate = x", 1)),
    "other gates": (
        OtherGates(8, 2, 8),
        "x -> LN -> * scale -> SelfAttention -> * tanh(gate) -> + x; x -> LN -> MLP -> * (1 + gate) -> + x; "
        "c -> SiLU -> Linear sends scale, gate, gate",
    ),
    "tiny": (
        Tiny(),
        f"x -> {ADALN} -> MLP -> * gamma -> + x; x -> subtract with (x -> mean) -> divide with (x -> std) = out",
    ),
    "two streams": (
        TwoStreams(),
        f"img -> {ADALN} -> JointAttention with (txt -> {ADALN}) -> * gate -> + img; "
        f"img -> {ADALN} -> MLP -> * gate -> + img; JointAttention -> * gate -> + txt; "
        f"txt -> {ADALN} -> MLP -> * gate -> + txt; "
        "c -> SiLU -> Linear sends scale, shift, gate, scale, shift, gate to txt; "
        "c -> SiLU -> Linear sends scale, shift, gate, scale, shift, gate to img",
    ),
    "two streams, open": (
        TwoStreamsOpen(),
        f"img -> {ADALN} -> Linear -> attention with (txt -> {ADALN} -> Linear) -> * gate -> + img; "
        "attention -> * gate -> + txt; c -> SiLU -> Linear sends scale, shift, gate to img; "
        "c -> SiLU -> Linear sends scale, shift, gate to txt",
    ),
    "parallel": (
        Parallel(),
        f"x -> {ADALN} -> SelfAttention -> Linear with (x -> {ADALN} -> Linear -> GELU) -> * gate -> + x; "
        "c -> SiLU -> Linear sends scale, shift, gate",
    ),
}


def patches(fig: Figure, kind: type) -> list:
    return [patch for patch in fig.axes[0].patches if isinstance(patch, kind)]


def words(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.axes[0].texts if text.get_text()]


@pytest.fixture(scope="module")
def pictures() -> dict[str, Figure]:
    figures = {name: diagram(block, "What this block does with its inputs") for name, (block, _) in BLOCKS.items()}
    for fig in figures.values():
        FigureCanvasAgg(fig).draw()
    return figures


@pytest.mark.parametrize("name", BLOCKS)
def test_words_say_what_the_code_does(name):
    """Each mutant differs from adaLN-Zero in one line, and its description in the same place."""
    block, expected = BLOCKS[name]
    assert describe(block) == expected


@pytest.mark.parametrize("name", [name for name, (_, told) in BLOCKS.items() if " sends " in told])
def test_every_vector_has_its_arrow_its_circle_and_its_name(name, pictures):
    """In the colour of its quantity, and in words beside it: colour alone says nothing to some readers."""
    fig, sent = pictures[name], " ".join(BLOCKS[name][1].split(" sends ")[1:])
    for role in ("shift", "scale", "gate"):
        arrows = [p for p in patches(fig, FancyArrowPatch) if same_color(p.get_edgecolor(), COLOURS[role])]
        signs = [p for p in fig.axes[0].lines if same_color(p.get_markeredgecolor(), COLOURS[role])]
        labels = [word for word in words(fig) if role in word]
        assert len(arrows) == len(labels) == len(signs) / 2 == sent.count(role)  # a circle is a ring and a sign


@pytest.mark.parametrize("name", ["two streams", "two streams, open"])
def test_two_streams_share_one_attention(name, pictures):
    fig = pictures[name]
    streams = [arrow for arrow in patches(fig, FancyArrowPatch) if arrow.get_linewidth() == 3]
    assert len(streams) == 2
    assert sum("ttention" in word for word in words(fig)) == 1
    shared = max(patches(fig, FancyBboxPatch), key=FancyBboxPatch.get_height)
    lines = [p.get_ydata()[0] for p in fig.axes[0].lines if same_color(p.get_markeredgecolor(), COLOURS["shift"])]
    assert shared.get_y() < min(lines) < max(lines) < shared.get_y() + shared.get_height()


def test_boxes_with_weights_are_grey(pictures):
    """LN without gamma and beta is white, with them it is grey and names them."""

    def fills(name: str) -> set[str]:
        return {to_hex(box.get_facecolor()) for box in patches(pictures[name], FancyBboxPatch)}

    assert len(fills("in-context")) == 1 and fills("final, plain") == fills("in-context") | {"#ffffff"}
    assert "LN\nγ, β" in words(pictures["in-context"]) and "LN" in words(pictures["adaLN"])


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_collides_and_letters_stay_legible(name, pictures):
    """No text on another, on a foreign box, or over the edge; a page 9 inches wide shows letters of 8 points."""
    fig = pictures[name]
    renderer = FigureCanvasAgg(fig).get_renderer()
    texts = [text for text in fig.axes[0].texts if text.get_text()]
    extents = [text.get_window_extent(renderer) for text in texts]
    boxes = [box.get_window_extent(renderer) for box in patches(fig, FancyBboxPatch)]
    width, height = fig.canvas.get_width_height()
    for text, extent in zip(texts, extents, strict=True):
        assert extent.x0 >= 0 and extent.x1 <= width and extent.y0 >= 0 and extent.y1 <= height, text
        assert sum(overlap(extent, other) for other in extents) == 1, text  # itself
        for box in boxes:
            inside = box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1
            assert inside or not overlap(extent, box), text
        assert text.get_fontsize() * min(1, 900 / width) >= 8


def overlap(a: Bbox, b: Bbox) -> bool:
    return Bbox.intersection(a, b) is not None


def test_shapes_of_what_enters_are_named(pictures):
    for name in ("adaLN", "two streams"):
        assert {SHAPES["c"]} < set(words(pictures[name]))
    assert "ctx (B, S, D)" in words(pictures["cross-attention"])


def test_drawing_leaves_the_block_as_it_was_and_is_always_the_same():
    block, x, c = AdaLNZeroBlock(8, 2, 8), torch.randn(1, 3, 8), torch.randn(1, 8)
    before = block(x, Condition(c))
    first, second = (np.asarray(canvas.buffer_rgba()) for canvas in map(drawn, (block, block)))
    assert np.array_equal(first, second)
    assert torch.equal(block(x, Condition(c)), before)


def drawn(block: nn.Module) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(diagram(block, "adaLN-Zero"))
    canvas.draw()
    return canvas


def test_a_drawing_fits_into_a_larger_figure():
    fig, axes = new_figure(9, 6, columns=2)
    for ax, name in zip(axes, ("adaLN", "adaLN-Zero"), strict=True):
        assert diagram(BLOCKS[name][0], name, ax) is fig
    FigureCanvasAgg(fig).draw()


class Hesitant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Forgetful(nn.Module):
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return c


class Arithmetic(nn.Module):
    """One branch, joined by whatever `join` says."""

    def __init__(self, join: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.mlp, self.join = MLP(8), join

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.join(x, c, self.mlp(x))


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (lambda x, c, out: x + c * out, "* c"),
        (lambda x, c, out: x + (c - 1) * out, "* (c - 1)"),
        (lambda x, c, out: x + (1 - c) * out, "* (1 - c)"),
        (lambda x, c, out: x + out / 2, "/ 2"),
    ],
)
def test_numbers_and_their_order_are_told(join, words):
    """Blocks that do different things must not read alike."""
    assert describe(Arithmetic(join)) == f"x -> MLP -> {words} -> + x"


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (Arithmetic(lambda x, c, out: torch.add(x, out, alpha=0.5)), "has a factor in the arguments"),
        (Arithmetic(lambda x, c, out: x[:, : len(x)] + out), "cannot be traced"),
        (Hesitant(), "the forward of Hesitant depends on values"),
        (Forgetful(), "Forgetful must return one tensor computed from its first"),
        (ToModulation(8, 8), "ToModulation must return one tensor"),
    ],
)
def test_what_cannot_be_drawn_is_said(block, complaint):
    with pytest.raises(ValueError, match=complaint):
        diagram(block)
