"""What a block does, read from the block itself: its forward is traced, not run, and sorted along its residual stream.

The residual stream is the way from x to the output that passes the fewest operations, where adding a branch counts as
none. A vector is named by what it does, whatever the code calls it: added, it is a shift; multiplied on the way into a
layer, a scale; multiplied to a finished branch, a gate.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from adaln_lab.norms import ToModulation

NAMES = {
    "layer_norm": "LN", "LayerNorm": "LN", "rms_norm": "RMS", "RMSNorm": "RMS", "silu": "SiLU", "gelu": "GELU",
    "relu": "ReLU", "scaled_dot_product_attention": "attention", "sub": "subtract", "truediv": "divide",
}  # fmt: skip
PLUMBING = {  # moves numbers about and changes none
    "cat", "chunk", "clone", "contiguous", "detach", "expand", "expand_as", "flatten", "float", "getattr", "getitem",
    "permute", "repeat", "repeat_interleave", "reshape", "split", "squeeze", "stack", "to", "transpose", "type_as",
    "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip
ORDERED = {"sub": "-", "truediv": "/", "div": "/"}
SIGNS = {"add": "+", "shift": "+", "mul": "*", "scale": "*", "gate": "*"}  # kinds of arithmetic


@dataclass(eq=False)
class Op:
    """One operation of a block, or one tensor that goes into it."""

    kind: str  # input, weight, norm, box (any other layer or function), or one of SIGNS
    label: str  # of arithmetic: the vector, as in 1 + scale
    inputs: tuple["Op", ...] = ()  # what it works on
    weights: int = 0  # how many tensors it has learned
    senders: tuple["Op", ...] = ()  # what the condition sends into it
    lanes: tuple[int, ...] = ()  # the streams it hangs on: none for the condition, two for joint attention
    depth: int = 0  # rows away from its stream; for the condition, rows among its own
    x: float = 0.0  # its middle, inches, for whoever draws it


class Tracer(fx.Tracer):
    """Every layer is one operation, but containers, and the map from c to its vectors, are looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, nn.Sequential | ToModulation)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if target in ("chunk", torch.chunk):
            n = args[1] if len(args) > 1 else kwargs["chunks"]
        elif target == "split" and isinstance(args[1], list | tuple):
            n = len(args[1])
        else:
            return proxy
        return tuple(proxy[i] for i in range(n))  # so it can be sliced


def read(block: nn.Module) -> tuple[list[Op], list[Op]]:
    """All operations of a block in the order of its code, and those that it returns."""
    ops: list[Op] = []
    meaning: dict[fx.Node, tuple[Op, ...]] = {}  # of each node: one operation; several behind a concatenation

    def new(*parts: Any) -> tuple[Op]:
        ops.append(Op(*parts))
        return (ops[-1],)

    optional = inspect.signature(block.forward).parameters.values()
    try:
        graph = Tracer().trace(block, {p.name: None for p in optional if p.default is None})  # drawn without
    except fx.proxy.TraceError as error:
        raise ValueError(f"{type(block).__name__} takes a way that depends on numbers: {error}") from error
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{type(block).__name__} cannot be traced: {error}") from error
    for node in graph.nodes:
        operands = [meaning[n] for n in node.all_input_nodes]
        inputs = tuple(dict.fromkeys(op for operand in operands for op in operand))
        if any(node.kwargs.get(name, 1) != 1 for name in ("alpha", "value")):
            raise ValueError(f"{type(block).__name__} hides a factor in {node.kwargs}: write it as a product")
        numbers = [a for a in node.args if isinstance(a, int | float)]
        name = node.target if isinstance(node.target, str) else node.target.__name__
        attribute = node.args[1] if name == "getattr" else name
        is_module = node.op == "call_module"
        if name == "_assert_is_none" or (is_module and isinstance(block.get_submodule(name), nn.Identity)):
            meaning[node] = inputs
        elif node.op in ("placeholder", "get_attr"):
            meaning[node] = new("weight" if node.op == "get_attr" else "input", name.split(".")[-1])
        elif node.op == "call_module":
            layer = block.get_submodule(name)
            name = type(layer).__name__
            weights = len(list(layer.parameters()))
            meaning[node] = new("norm" if "Norm" in name else "box", NAMES.get(name, name), inputs, weights)
        elif attribute in ("shape", "size", "dim", "ndim", "dtype", "device") or name == "floordiv":
            meaning[node] = ()
        elif name == "getattr" and node.args[0].op == "placeholder" and not hasattr(torch.Tensor, attribute):
            known = tuple(op for op in ops if op.kind == "input" and op.label == attribute)
            meaning[node] = known or new("input", attribute)  # cond.c is the input c
        elif name in PLUMBING or node.op == "output":
            meaning[node] = inputs
        elif name == "addcmul":
            meaning[node] = new("add", "", operands[0] + new("mul", "", operands[1] + operands[2]))
        elif numbers and name in ORDERED:
            words = [f"{numbers[0]:g}", ORDERED[name]]  # 1 - x is another thing than x - 1
            meaning[node] = new("box", " ".join(words if numbers[0] is node.args[0] else words[::-1]), inputs)
        elif name in ("add", "mul"):
            meaning[node] = new("box", f"{SIGNS[name]} {numbers[0]:g}", inputs) if numbers else new(name, "", inputs)
        else:
            tensors = tuple(op for op in inputs if op.kind != "weight")
            kind = "norm" if "norm" in name else "box"
            meaning[node] = new(kind, NAMES.get(name, name), tensors, len(inputs) - len(tensors))
    return ops, list(meaning[node])  # the last node is the output


class Graph:
    """The operations that reach the output, each hung on the stream it belongs to."""

    def __init__(self, block: nn.Module):
        self.ops, outputs = read(block)
        inputs = [op for op in self.ops if op.kind == "input"]
        self.streams = inputs[:1]  # one tensor returned: the first that came in; two: those they are sums with
        if len(outputs) == 2:
            self.streams = [next((i for i in inputs if i in summands(end)), inputs[0]) for end in outputs]
        self.moved = set(self.streams)  # what is made from a stream: all but the condition
        for op in self.ops:
            self.moved |= {op} if self.moved.intersection(op.inputs) else set()
        if len(set(self.streams)) != len(outputs) or not self.moved.issuperset(outputs):
            raise ValueError(f"{type(block).__name__} must return one tensor made from its first, or two sums with two")
        for op in self.ops:
            if op in self.moved:
                self._name(op)
        live = set(outputs)
        for op in reversed(self.ops):
            live.update(op.inputs + op.senders if op in live else ())
        self.ops = [op for op in self.ops if op in live]
        self.paths = [self._path(*ends) for ends in zip(self.streams, outputs, strict=True)]
        for lane, path in enumerate(self.paths):
            for op in path:
                op.lanes = (lane,)
        for op in self.ops:
            if not self.on_stream(op):
                self._hang(op)
        if getattr(block, "uses_ctx_as_tokens", False):
            self.streams[0].label = "[ctx, x]"

    def users(self, op: Op) -> list[Op]:
        return [user for user in self.ops if op in user.inputs + user.senders]

    def on_stream(self, op: Op) -> bool:
        return any(op in path for path in self.paths)

    def is_stub(self, op: Op) -> bool:
        """A tensor from outside with a single use: it stands where it is used."""
        return not (op.lanes or op.inputs) and [bool(user.lanes) for user in self.users(op)] == [True]

    def _name(self, op: Op) -> None:
        """Tell what is worked on from what is sent in, and name a vector by what it does."""
        op.senders = tuple(i for i in op.inputs if i not in self.moved)
        op.inputs = tuple(i for i in op.inputs if i in self.moved)
        if op.kind not in ("add", "mul") or len(op.senders) != 1:
            return
        users = self.users(op)
        sums = [len(self.moved.intersection(user.inputs)) for user in users if user.kind == "add"]  # 1: a shift
        ends_branch = sums and min(sums) > 1 and len(sums) == len(users)
        gates = ends_branch or not (is_normed(op.inputs[0]) or 1 in sums)
        role = "shift" if op.kind == "add" else "gate" if gates else "scale"
        (sender,), form = op.senders, "{}"
        while sender.kind == "box" and len(sender.inputs) == 1 and not sender.weights:  # as in 1 + tanh(scale)
            form = form.format(_form(sender.label))
            (sender,) = sender.inputs
        op.kind, op.label, op.senders = role, form.format(role if sender.inputs else sender.label), (sender,)

    def _path(self, start: Op, end: Op) -> list[Op]:
        """The way of a stream."""
        best = {start: (0, [start])}
        for op in self.ops:
            if ways := [best[i] for i in op.inputs if i in best]:
                cost, way = min(ways, key=lambda w: w[0])
                best[op] = (cost + (op.kind != "add"), [*way, op])
        return best[end][1]

    def _hang(self, op: Op) -> None:
        """Choose the lane of an operation, and its row: that of its input, or a new one where another has taken it."""
        sources = {lane for i in op.inputs for lane in i.lanes}
        op.lanes = tuple(sorted(sources if len(sources) < 2 else self._goals(op)))
        before = [o for o in self.ops[: self.ops.index(op)] if o.lanes == op.lanes and not self.on_stream(o)]
        if op.inputs:
            op.depth = min(max(1, i.depth) + sum(i in o.inputs for o in before) for i in op.inputs)
        else:
            op.depth = 1 + max((o.depth for o in before), default=0)

    def _goals(self, op: Op) -> set[int]:
        """The streams that an operation ends in."""
        return set().union(*({*u.lanes} if self.on_stream(u) else self._goals(u) for u in self.users(op)))


def _form(label: str) -> str:
    """How a box is said of a vector: "+ 1" as in 1 + scale, "- 1" as in scale - 1, "tanh" as in tanh(scale)."""
    first, *second = label.split()
    if not second:
        return f"{first}({{}})"
    if first in "+*":
        return f"{second[0]} {first} {{}}"
    return f"{{}} {label}" if first in "-/" else f"{label} {{}}"


def summands(op: Op) -> set[Op]:
    return {op}.union(*(summands(i) for i in op.inputs)) if op.kind == "add" else {op}


def is_normed(op: Op) -> bool:
    """A norm's output, perhaps scaled and shifted."""
    return op.kind == "norm" or (op.kind in ("scale", "shift") and is_normed(op.inputs[0]))
