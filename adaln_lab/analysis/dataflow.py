"""What a block computes: its forward is traced, not run, and its operations are placed along the residual stream.

The residual stream is the path from x to the output with the fewest operations, where adding a branch counts as none.
A vector is named by what it does, not by its name in the code: added, it is a shift; multiplied with the input of a
layer, a scale; multiplied with the output of a branch, a gate.
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
RESHAPES = {  # move numbers and change none; not shown
    "_assert_is_none", "cat", "chunk", "clone", "contiguous", "detach", "expand", "expand_as", "flatten", "float",
    "getitem", "output", "permute", "repeat", "repeat_interleave", "reshape", "split", "squeeze", "stack", "to",
    "transpose", "type_as", "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip
METADATA = {"shape", "size", "dim", "ndim", "dtype", "device", "floordiv"}
ORDERED = {"sub": "-", "truediv": "/", "div": "/"}
SIGNS = {"add": "+", "shift": "+", "mul": "*", "scale": "*", "gate": "*"}  # kinds of arithmetic


@dataclass(eq=False)
class Op:
    """One operation of a block, or one tensor that goes into it."""

    kind: str  # input, weight, norm, box (any other layer or function), or one of SIGNS
    label: str  # of arithmetic: the vector, as in 1 + scale
    inputs: tuple["Op", ...] = ()  # those computed from a stream, once the graph is built
    weights: int = 0  # number of learned tensors
    conditions: tuple["Op", ...] = ()  # the inputs that are not computed from a stream
    lanes: tuple[int, ...] = ()  # streams it belongs to: none for the condition, two for joint attention
    depth: int = 0  # rows away from its stream; for the condition, rows of its own
    x: float = 0.0  # centre, inches; set by the drawing


class Tracer(fx.Tracer):
    """Every layer is one operation, except containers and ToModulation, which are traced into."""

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
        return tuple(proxy[i] for i in range(n))  # a tuple, which code can unpack and slice


class Reader:
    """Reads the operations of a block from its traced graph, in the order of its code."""

    def __init__(self, block: nn.Module):
        self.block, self.name, self.ops = block, type(block).__name__, []
        self.result: dict[fx.Node, tuple[Op, ...]] = {}  # of each node; several operations after a concatenation
        optional = inspect.signature(block.forward).parameters.values()
        try:
            graph = Tracer().trace(block, {p.name: None for p in optional if p.default is None})
        except fx.proxy.TraceError as error:
            raise ValueError(f"the forward of {self.name} depends on values, so it cannot be drawn: {error}") from error
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{self.name} cannot be traced: {error}") from error
        for node in graph.nodes:
            self.result[node] = self.read(node)
        self.outputs = list(self.result[node])  # the last node is the output

    def new(self, *fields: Any) -> tuple[Op]:
        self.ops.append(Op(*fields))
        return (self.ops[-1],)

    def read(self, node: fx.Node) -> tuple[Op, ...]:
        operands = [self.result[n] for n in node.all_input_nodes]
        inputs = tuple(dict.fromkeys(op for operand in operands for op in operand))
        if any(node.kwargs.get(name, 1) != 1 for name in ("alpha", "value")):
            raise ValueError(f"{self.name} has a factor in the arguments {node.kwargs}: write it as a product")
        name = node.target if isinstance(node.target, str) else node.target.__name__
        if node.op in ("placeholder", "get_attr"):
            return self.new("weight" if node.op == "get_attr" else "input", name.split(".")[-1])
        if node.op == "call_module":
            return self.read_layer(self.block.get_submodule(name), inputs)
        if name == "getattr":
            return self.read_attribute(*node.args[:2], inputs)
        return self.read_function(name, node.args, operands, inputs)

    def read_layer(self, layer: nn.Module, inputs: tuple[Op, ...]) -> tuple[Op, ...]:
        name = type(layer).__name__
        if isinstance(layer, nn.Identity):
            return inputs
        return self.new("norm" if "Norm" in name else "box", NAMES.get(name, name), inputs, len([*layer.parameters()]))

    def read_attribute(self, owner: fx.Node, attribute: str, inputs: tuple[Op, ...]) -> tuple[Op, ...]:
        if attribute in METADATA:
            return ()
        if owner.op != "placeholder" or hasattr(torch.Tensor, attribute):
            return inputs
        known = tuple(op for op in self.ops if op.kind == "input" and op.label == attribute)
        return known or self.new("input", attribute)  # cond.c is the input c

    def read_function(self, name: str, args: tuple, operands: list, inputs: tuple[Op, ...]) -> tuple[Op, ...]:
        numbers = [a for a in args if isinstance(a, int | float)]
        if name in METADATA:
            return ()
        if name in RESHAPES:
            return inputs
        if name == "addcmul":
            return self.new("add", "", operands[0] + self.new("mul", "", operands[1] + operands[2]))
        if numbers and name in ORDERED:  # 1 - x is not x - 1
            words = [f"{numbers[0]:g}", ORDERED[name]]
            return self.new("box", " ".join(words if numbers[0] is args[0] else words[::-1]), inputs)
        if name in ("add", "mul"):
            return self.new("box", f"{SIGNS[name]} {numbers[0]:g}", inputs) if numbers else self.new(name, "", inputs)
        tensors = tuple(op for op in inputs if op.kind != "weight")
        kind = "norm" if "norm" in name else "box"
        return self.new(kind, NAMES.get(name, name), tensors, len(inputs) - len(tensors))


class Graph:
    """The operations that reach the output, each assigned to its stream."""

    def __init__(self, block: nn.Module):
        reader = Reader(block)
        self.ops, outputs = reader.ops, reader.outputs
        inputs = [op for op in self.ops if op.kind == "input"]
        self.streams = inputs[:1]  # of one output: the first input; of two: the inputs whose sums they are
        if len(outputs) == 2:
            self.streams = [next((i for i in inputs if i in summands(end)), inputs[0]) for end in outputs]
        self.from_stream = set(self.streams)  # everything but the condition
        for op in self.ops:
            self.from_stream |= {op} if self.from_stream.intersection(op.inputs) else set()
        if len(set(self.streams)) != len(outputs) or not self.from_stream.issuperset(outputs):
            raise ValueError(f"{reader.name} must return one tensor computed from its first, or two sums with two")
        for op in self.ops:
            if op in self.from_stream:
                self._name(op)
        used = set(outputs)
        for op in reversed(self.ops):
            used.update(op.inputs + op.conditions if op in used else ())
        self.ops = [op for op in self.ops if op in used]
        self.paths = [self._path(*ends) for ends in zip(self.streams, outputs, strict=True)]
        for lane, path in enumerate(self.paths):
            for op in path:
                op.lanes = (lane,)
        for op in self.ops:
            if not self.on_stream(op):
                self._assign_row(op)
        if getattr(block, "uses_ctx_as_tokens", False):
            self.streams[0].label = "[ctx, x]"

    def users(self, op: Op) -> list[Op]:
        return [user for user in self.ops if op in user.inputs + user.conditions]

    def on_stream(self, op: Op) -> bool:
        return any(op in path for path in self.paths)

    def is_stub(self, op: Op) -> bool:
        """An input of the block with a single use: it is drawn where it is used."""
        return not (op.lanes or op.inputs) and [bool(user.lanes) for user in self.users(op)] == [True]

    def _name(self, op: Op) -> None:
        """Separate an operation's conditions from its inputs, and name a vector by what it does."""
        op.conditions = tuple(i for i in op.inputs if i not in self.from_stream)
        op.inputs = tuple(i for i in op.inputs if i in self.from_stream)
        if op.kind not in ("add", "mul") or len(op.conditions) != 1:
            return
        users = self.users(op)
        sums = [len(self.from_stream.intersection(user.inputs)) for user in users if user.kind == "add"]  # 1: a shift
        ends_branch = sums and min(sums) > 1 and len(sums) == len(users)
        gates = ends_branch or not (is_normed(op.inputs[0]) or 1 in sums)
        role = "shift" if op.kind == "add" else "gate" if gates else "scale"
        (vector,), form = op.conditions, "{}"
        while vector.kind == "box" and len(vector.inputs) == 1 and not vector.weights:  # as in 1 + tanh(scale)
            form = form.format(_form(vector.label))
            (vector,) = vector.inputs
        is_single = not vector.inputs and len(self.users(vector)) == 1  # an input that is one vector has its own name
        op.kind, op.label, op.conditions = role, form.format(vector.label if is_single else role), (vector,)

    def _path(self, start: Op, end: Op) -> list[Op]:
        """The residual stream from start to end."""
        best = {start: (0, [start])}
        for op in self.ops:
            if paths := [best[i] for i in op.inputs if i in best]:
                cost, path = min(paths, key=lambda p: p[0])
                best[op] = (cost + (op.kind != "add"), [*path, op])
        return best[end][1]

    def _assign_row(self, op: Op) -> None:
        """Set lane and depth: the row of its input, or a new one if another operation stands there."""
        sources = {lane for i in op.inputs for lane in i.lanes}
        op.lanes = tuple(sorted(sources if len(sources) < 2 else self._targets(op)))
        before = [o for o in self.ops[: self.ops.index(op)] if o.lanes == op.lanes and not self.on_stream(o)]
        if op.inputs:
            op.depth = min(max(1, i.depth) + sum(i in o.inputs for o in before) for i in op.inputs)
        else:
            op.depth = 1 + max((o.depth for o in before), default=0)

    def _targets(self, op: Op) -> set[int]:
        """The streams that an operation is added to."""
        return set().union(*({*u.lanes} if self.on_stream(u) else self._targets(u) for u in self.users(op)))


def _form(label: str) -> str:
    """A template for a vector from the label of a box: "1 + {}" from "+ 1", "{} - 1" from "- 1", "tanh({})"."""
    first, *second = label.split()
    if not second:
        return f"{first}({{}})"
    if first in "+*":
        return f"{second[0]} {first} {{}}"
    return f"{{}} {label}" if first in "-/" else f"{label} {{}}"


def summands(op: Op) -> set[Op]:
    return {op}.union(*(summands(i) for i in op.inputs)) if op.kind == "add" else {op}


def is_normed(op: Op) -> bool:
    """Whether an operation is a norm, perhaps followed by scale and shift."""
    return op.kind == "norm" or (op.kind in ("scale", "shift") and is_normed(op.inputs[0]))
