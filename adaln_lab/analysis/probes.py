"""The size of a residual stream and of its gradient at each depth, what each block adds, and where words act.

    r_l = |x_l - x_{l-1}| / |x_{l-1}|       relative update: what block l adds, relative to its input

L blocks, B batch, T tokens, D width.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from adaln_lab.conditioning import Condition
from adaln_lab.dit import TinyDiT
from adaln_lab.layers import CrossAttention


def stream(blocks: Sequence[nn.Module], x: Tensor, cond: Condition) -> list[Tensor]:
    """x_0, ..., x_L: the residual stream (B, T, D) before the first block and after each."""
    xs = [x]
    for block in blocks:
        xs.append(block(xs[-1], cond))
    return xs


def model_stream(model: TinyDiT, x: Tensor, t: Tensor, y: Tensor) -> list[Tensor]:
    """The residual stream of a whole model for images x (B, channels, size, size)."""
    cond = model.condition(t, y)
    return stream(model.blocks, model.enter(x, model.precompute(t, y)), cond)


def rms(x: Tensor) -> Tensor:
    """Root mean square of all entries."""
    return x.square().mean().sqrt()


def depth_profile(blocks: Sequence[nn.Module], x: Tensor, cond: Condition, g: Tensor) -> tuple[Tensor, Tensor]:
    """RMS (L + 1,) of the stream and of its gradient at each depth, given the gradient g (B, T, D) at the end."""
    xs = stream(blocks, x.detach().requires_grad_(), cond)
    gradients = torch.autograd.grad(xs[-1], xs, g)
    return torch.stack([rms(x) for x in xs]).detach(), torch.stack([rms(g) for g in gradients])


def relative_update(xs: Sequence[Tensor]) -> Tensor:
    """r (L,): the size of what each block adds, relative to its input."""
    return torch.stack([rms(after - before) / rms(before) for before, after in pairwise(xs)])


@contextlib.contextmanager
def hooked(handles: list[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the `with` block, also after an error."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def word_attention(model: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Attention weights of image tokens over condition tokens, (L, B, H, T, S): one entry per cross-attention layer."""
    found = []

    def record(module: CrossAttention, given: tuple[Tensor, Tensor], _out: Tensor) -> None:
        h, ctx = given
        q, k = module.q(h), module.kv(ctx).chunk(2, dim=-1)[0]
        q, k = (a.unflatten(-1, (module.heads, -1)).transpose(1, 2) for a in (q, k))  # (B, H, T or S, D/H)
        found.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))

    parts = [module for module in model.modules() if isinstance(module, CrossAttention)]
    if not parts:
        raise ValueError("expected a model with CrossAttention layers, got one without cross-attention")
    with hooked([part.register_forward_hook(record) for part in parts]):
        model(x, t, y)
    return torch.stack(found)


@torch.no_grad()
def footprint(model: nn.Module, x: Tensor, t: Tensor, y: Tensor, change: Tensor, step: float = 1e-3) -> Tensor:
    """Where the prediction v changes when the word embeddings change: |dv/ds| at embeddings + s * change, s = 0.

    `change` (S, C) is a direction in the embedding of the words y (B, S). Returns the mean over images x (B, channels,
    N, N) and channels, (N, N), from a central difference; use float64.
    """
    moved = []
    for s in (step, -step):
        hook = model.y_embed.register_forward_hook(lambda _module, _given, out, s=s: out + s * change)
        with hooked([hook]):
            moved.append(model(x, t, y))
    return ((moved[0] - moved[1]) / (2 * step)).abs().mean((0, 1))


def word_change(model: nn.Module, y: Tensor, place: int, word: int) -> Tensor:
    """The change (S, C) of the embedding when the word at position `place` of y (S,) becomes `word`."""
    table = model.y_embed.table.weight
    change = torch.zeros(len(y), table.shape[1], dtype=table.dtype, device=table.device)
    change[place] = (table[word] - table[y[place]]).detach()
    return change


def cell_shares(picture: Tensor) -> Tensor:
    """The share of a map (N, N) in each of nine equal cells, (3, 3); N is a multiple of 3."""
    n = picture.shape[-1] // 3
    cells = picture.reshape(3, n, 3, n).sum((1, 3))
    return cells / cells.sum()


class Operations(TorchDispatchMode):
    """The schemas of torch's operations that run inside the context, in their order."""

    def __init__(self):
        super().__init__()
        self.seen: list[torch.FunctionSchema] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen.append(operation._schema)
        return operation(*args, **(kwargs or {}))


def launches(run: Callable[[], object]) -> tuple[int, int]:
    """(operations, views) of one call of `run`, counted on any device, but for those that only reserve memory.

    On a GPU a view starts no kernel and most operations one; one on a long list of tensors, or a fused one, a few.
    """
    with Operations() as operations:
        run()
    aliases = [[result.alias_info for result in schema.returns] for schema in operations.seen]
    is_view = [any(alias is not None and not alias.is_write for alias in found) for found in aliases]
    works = [not view and "empty" not in schema.name for schema, view in zip(operations.seen, is_view, strict=True)]
    return sum(works), sum(is_view)


def kept_bytes(run: Callable[[], object], but: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps during `run` for its backward pass, without the memory of the tensors in `but`."""
    kept, others = {}, {tensor.untyped_storage()._cdata for tensor in but}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # kept alive, so that two memories have two keys
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # noqa: F841 (alive until all is counted)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in others)
