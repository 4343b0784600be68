"""Draw a block and describe it in words, both from what `dataflow` reads in its code; no block has drawing code.

    thick line              the residual stream
    box                     a layer or a function; grey if it holds weights
    circled plus, times     add and multiply, element by element
    coloured arrow          a vector of the condition: shift, scale or gate

B batch, T tokens, S condition tokens, D width, C width of c.
"""

import re
from collections import defaultdict
from functools import cache
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from torch import nn

from adaln_lab.analysis.dataflow import SIGNS, Graph, Op
from adaln_lab.display.plots import COLOURS

SHAPES = {  # the names that the course uses with one shape everywhere
    "x": "(B, T, D)", "c": "(B, C)", "ctx": "(B, S, D)", "[ctx, x]": "(B, S+T, D)", "img": "(B, T, D)",
    "txt": "(B, S, D)",
}  # fmt: skip
RADIUS, GAP, ROW, TEXT, SMALL = 0.13, 0.22, 0.85, 9.5, 8.5  # inches; sizes of letters in points


def describe(block: nn.Module) -> str:
    """The drawing in words, for alt texts. Blocks that compute the same have the same description.

    x -> LN -> * (1 + scale) -> + shift -> SelfAttention -> * gate -> + x; ...; c -> SiLU -> Linear sends scale, ...
    """
    graph, described, sentences = Graph(block), set(), []

    def step(op: Op, others: list[Op]) -> str:
        if op.kind in SIGNS:
            text = f"{SIGNS[op.kind]} {f'({op.label})' if ' ' in op.label else op.label}".strip()
        else:
            inside = ["gamma", "beta"][: op.weights] if op.kind == "norm" else [way(vector) for vector in op.conditions]
            text = op.label + f"({', '.join(inside)})" * bool(inside)
        return text + "".join(dict.fromkeys(f" with ({way(other)})" for other in others))  # q and k come one way

    def way(op: Op) -> str:
        if graph.on_stream(op):
            return graph.streams[op.lanes[0]].label
        if op in described or not op.inputs:
            return op.label
        described.update([op] * (len(op.lanes) > 1))  # what two streams share is described once
        return f"{way(op.inputs[0])} -> {step(op, op.inputs[1:])}"

    for stream, path in zip(graph.streams, graph.paths, strict=True):
        run = []
        for before, op in pairwise(path):
            others = [i for i in op.inputs if i is not before]
            if op.kind == "add":
                sentences += [f"{way(other)} -> + {stream.label}" for other in others]
                continue
            run.append(step(op, others))
            if op is path[-1] or len(graph.users(op)) > 1:
                sentences.append(" -> ".join([stream.label, *run]) + f" = {'out' if op is path[-1] else stream.label}")
                run = []
    for op in graph.ops:
        for lane, stream in enumerate(graph.streams):
            sent = [u.kind for u in graph.users(op) if op in u.conditions and u.kind in SIGNS and lane in u.lanes]
            if sent and not graph.is_stub(op):
                target = f" to {stream.label}" if len(graph.streams) > 1 else ""
                sentences.append(f"{way(op)} sends {', '.join(sent)}{target}")
    return "; ".join(sentences)


def diagram(block: nn.Module, title: str = "", ax: Axes | None = None) -> Figure:
    """Draw what a block does. Without `ax` the figure is as large as the drawing, whose units are inches."""
    picture = Picture(Graph(block))
    width, top = max(picture.width, text_width(title, 12.5) + 0.16), 0.62 if title else 0.35
    if ax is None:
        ax = Figure((width, top - picture.bottom), 100, facecolor="white").add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(picture.bottom, top), aspect="equal")
    ax.set_axis_off()
    ax.text(0.08, top - 0.1, title, size=11, weight="bold", va="top")
    picture.draw(ax)
    return ax.figure


class Picture:
    """The layout. Rows from the top: stream, branches, condition, branches of a second stream, second stream."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.ops = [op for op in graph.ops if not graph.is_stub(op)]
        ordered = sorted({row for op in self.ops for row in rows(op)}, key=self._order)
        self.y = {row: -ROW * i for i, row in enumerate(ordered)}
        self._place()
        self.names = [path[0].label if path[-1].kind in ("add", "input") else "out" for path in graph.paths]
        self.tip = max(op.x + half(op)[0] for op in self.ops) + GAP
        self.width = self.tip + max(map(name_width, self.names))
        with_stub = (op for op in self.ops if op.lanes == (0,) and not {*op.conditions} <= {*self.ops})
        stubs = [self.y[rows(op)[0]] - 0.45 for op in with_stub]
        self.bottom = min([*self.y.values(), *stubs]) - 0.35

    def _order(self, row: tuple[int, int]) -> tuple[float, ...]:
        lane, depth = row
        if lane >= 0:
            return 2 * lane, depth * (1 - 2 * lane)
        pull = [lane for op in self.ops for s in op.conditions if s.depth == depth for lane in op.lanes]
        return 1, sum(pull) / max(1, len(pull)), depth  # near the stream it goes to

    def _place(self) -> None:
        """Columns: each operation as far left as its inputs, its row and the rows crossed by its wires allow."""
        ends, arrows = dict.fromkeys(self.y.values(), 0.05), defaultdict(float)
        for op in self.ops:
            reach = [self.y[row] for o in [op, *(i for i in op.inputs if i.depth > op.depth)] for row in rows(o)]
            if op.conditions:
                reach += [y for (lane, depth), y in self.y.items() if lane in op.lanes and depth > op.depth]
            crossed = [y for y in ends if min(reach) <= y <= max(reach)]
            right = max([ends[y] for y in crossed] + [i.x + half(i)[0] for i in op.inputs])
            op.x = right + GAP * bool(op.inputs) + half(op)[0]
            for vector in op.conditions:  # an arrow is to the right of the previous one and of its own label
                label, is_rail = text_width(op.label, SMALL), vector in self.ops
                rail = vector.x + half(vector)[0] if is_rail else 0
                op.x = max(op.x, rail + 0.12, arrows[op.lanes] + label / (1 if is_rail else 2) + 0.14)
                arrows[op.lanes] = op.x + (0 if is_rail else label / 2)
            if len(op.lanes) > 1:
                arrows[0,] = arrows[1,] = op.x + half(op)[0] + 0.02
            ends.update(dict.fromkeys(crossed, op.x + half(op)[0]))

    def draw(self, ax: Axes) -> None:
        for lane, (path, name) in enumerate(zip(self.graph.paths, self.names, strict=True)):
            y = self.y[lane, 0]
            line(ax, [(path[0].x + half(path[0])[0], y), (self.tip, y)], width=3)
            write_name(ax, self.tip + name_width(name) / 2, y, name)
        for op in self.ops:
            for i in op.inputs:
                if not any((i, op) in pairwise(path) for path in self.graph.paths):
                    line(ax, self._wire(i, op))
            for k, vector in enumerate(op.conditions):
                self._vector(ax, op, vector, op.x + 0.3 * (k - (len(op.conditions) - 1) / 2))
            self._symbol(ax, op)

    def _wire(self, i: Op, op: Op) -> list[tuple[float, float]]:
        """From the right of one operation to the left of the next; from a row further out, to its top or bottom."""
        width, height = half(op)
        lane = ((i if len(op.lanes) > 1 else op).lanes or (-1,))[0]
        start, goal = self.y[lane if len(i.lanes) > 1 else rows(i)[0][0], i.depth], self.y[lane, op.depth]
        out = i.x + half(i)[0]
        fork, side = out + 0.4 * GAP, -1 if lane == 1 else 1
        if any(self.y[rows(o)[0]] == start == goal and i.x < o.x < op.x for o in self.ops):  # around them
            bend = start + side * 0.42
            return [(fork, start), (fork, bend), (op.x, bend), (op.x, goal + side * height)]
        if start == goal:
            return [(out, start), (op.x - width, goal)]
        if i.depth > op.depth or (i.lanes != op.lanes and len(op.lanes + i.lanes) == 2):
            return [(out, start), (op.x, start), (op.x, goal + (height if start > goal else -height))]
        return [(fork, start), (fork, goal), (op.x - width, goal)]

    def _vector(self, ax: Axes, op: Op, vector: Op, x: float) -> None:
        away = 1 if op.lanes == (1,) else -1  # the condition is drawn between two streams
        edge = self.y[rows(op)[0]] + away * half(op)[1]
        colour = COLOURS.get(op.kind, COLOURS["text" if vector.label == "ctx" else "quiet"])
        label = op.label if op.kind in SIGNS else vector.label * (not vector.inputs)
        if vector in self.ops:
            y = self.y[rows(vector)[0]]
            line(ax, [(vector.x + half(vector)[0], y), (x, y)], COLOURS["quiet"], 1.6, "-")
            ax.text(x - 0.06, edge + away * 0.3, label, size=SMALL, ha="right", va="center")
        else:
            y = edge + away * 0.3
            ax.text(x, y + away * 0.1, f"{label} {SHAPES.get(label, '')}".strip(), size=SMALL, ha="center", va="center")
        line(ax, [(x, y), (x, edge)], colour, 1.8)

    def _symbol(self, ax: Axes, op: Op) -> None:
        ys = [self.y[row] for row in rows(op)]
        width, height = half(op)
        if op.kind in SIGNS:
            colour = COLOURS.get(op.kind, COLOURS["data"])
            ax.plot(op.x, ys[0], "o", ms=144 * RADIUS, mfc="white", mec=colour, mew=1.7, zorder=4)
            ax.plot(op.x, ys[0], SIGNS[op.kind].replace("*", "x"), ms=9, mec=colour, mew=1.7, zorder=5)
        elif op.kind == "input":
            write_name(ax, op.x, ys[0], op.label)
        else:
            corner, rounded = (op.x - width, min(ys) - height), "round,pad=0,rounding_size=0.06"
            grey = "#E6E6E6" if op.weights or op.kind == "weight" else "white"
            size = 2 * width, max(ys) - min(ys) + 2 * height
            ax.add_patch(FancyBboxPatch(corner, *size, rounded, fc=grey, lw=1.1, zorder=4))
            ax.text(op.x, sum(ys) / len(ys), text(op), size=TEXT, ha="center", va="center", zorder=5)


def rows(op: Op) -> list[tuple[int, int]]:
    """(lane, depth); the condition has lane -1. Joint attention has two rows and covers all between."""
    return [(lane, op.depth) for lane in op.lanes or (-1,)]


def half(op: Op) -> tuple[float, float]:
    """Half the width and half the height of an operation's symbol."""
    if op.kind in SIGNS:
        return RADIUS, RADIUS
    if op.kind == "input":
        return name_width(op.label) / 2, 0.2
    return max(0.42, text_width(text(op)) + 0.18) / 2, 0.26 if "\n" in text(op) else 0.18


def text(op: Op) -> str:
    """The text in a box."""
    learned = "\n" + ", ".join(["γ", "β"][: op.weights]) if op.kind == "norm" and op.weights else ""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "\n", op.label) + learned


@cache
def text_width(text: str, size: float = TEXT) -> float:
    """Inches."""
    widths = [TextPath((0, 0), line, size=size).get_extents().width for line in text.split("\n") if line]
    return max(widths, default=0) / 72


def name_width(name: str) -> float:
    """The width of a tensor's name or of the shape below it, whichever is wider."""
    return max(text_width(name, 12.5), text_width(SHAPES.get(name, ""), SMALL)) + 0.16


def write_name(ax: Axes, x: float, y: float, name: str) -> None:
    shape = SHAPES.get(name, "")
    ax.text(x, y + 0.02 * bool(shape), name, size=11, weight="bold", ha="center", va="bottom" if shape else "center")
    ax.text(x, y - 0.03, shape, size=SMALL, ha="center", va="top")


def line(ax: Axes, points: list, colour: str = COLOURS["data"], width: float = 1.2, style: str = "-|>") -> None:
    way = FancyArrowPatch(path=Path(points), arrowstyle=style, mutation_scale=5 * width + 4, color=colour, lw=width)
    ax.add_patch(way)
