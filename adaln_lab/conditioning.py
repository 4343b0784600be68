"""Ways for a condition to enter a transformer block, with one signature: block(x, cond).

    in-context        the condition is more tokens; the block is a plain transformer block
    cross-attention   a third branch attends to the condition's tokens
    adaLN             scale and shift of each norm are functions of c
    adaLN-Zero        and so is a gate on each branch; all of them start at 0, so the block starts as the identity
    both              the time by adaLN-Zero, the caption by cross-attention

The first four: DiT, Sec. 3.2 and Table 4 (arXiv 2212.09748); the last: PixArt-alpha (2310.00426).
B batch, T image tokens, S condition tokens, D width, C width of c.

A block works in two steps: `precompute` reads the condition alone, `forward_with` the stream. What `precompute` returns
does not depend on x, so a sampler computes it once for all its steps.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from adaln_lab.layers import MLP, CrossAttention, SelfAttention, zero_linear
from adaln_lab.norms import Modulation, ToModulation, layer_norm, modulate


class Condition(NamedTuple):
    """A condition in two forms: c (B, C), its parts summed; ctx (B, S, D), its parts side by side."""

    c: Tensor
    ctx: Tensor | None = None


class BlockCondition(NamedTuple):
    """What one block takes from a condition: a `Modulation` for each branch, and tokens (B, S, D) to attend to."""

    modulations: tuple[Modulation, ...] = ()
    ctx: Tensor | None = None


Tree = TypeVar("Tree")  # tensors and None in nested tuples: a Condition, a BlockCondition, dit.Precomputed


def map_tensors(f: Callable[..., Tensor], *trees: Tree) -> Tree:
    """One tree from several of one shape: f(tensor of the first, of the second, ...) at each place; None stays None."""
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return f(*trees)
    parts = [map_tensors(f, *branches) for branches in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)  # a named tuple, or a plain one


class Block(nn.Module):
    """A pre-norm transformer block. Subclasses say in `forward_with` where the condition enters."""

    uses_ctx_as_tokens = False  # in-context: the model puts ctx in front of the image tokens, once
    splits_condition = False  # both: c is the time alone and ctx the caption alone; elsewhere each holds both

    def precompute(self, cond: Condition) -> BlockCondition:
        """All that this block takes from the condition."""
        return BlockCondition()

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        return self.forward_with(x, self.precompute(cond))


class InContextBlock(Block):
    """x <- x + Attn(LN(x));  x <- x + MLP(LN(x)), where LN has learned gamma, beta, the same for every condition."""

    uses_ctx_as_tokens = True

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm_attn = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, mlp_ratio)

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        x = x + self.attn(self.norm_attn(x))  # (B, S + T, D)
        x = x + self.mlp(self.norm_mlp(x))
        return x


class CrossAttentionBlock(InContextBlock):
    """The plain block with a branch between attention and MLP: x <- x + CrossAttn(LN(x), ctx)."""

    uses_ctx_as_tokens = False

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__(width, heads, c_width, mlp_ratio)
        self.norm_cross = nn.LayerNorm(width, eps=1e-6)
        self.cross = CrossAttention(width, heads)

    def precompute(self, cond: Condition) -> BlockCondition:
        return BlockCondition(ctx=cond.ctx)

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        x = x + self.attn(self.norm_attn(x))  # (B, T, D)
        x = x + self.cross(self.norm_cross(x), pre.ctx)
        x = x + self.mlp(self.norm_mlp(x))
        return x


class AdaLNBlock(Block):
    """x <- x + Attn(LN(x) (1 + scale) + shift), the same for the MLP; (shift, scale) x 2 = W SiLU(c) + b."""

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.to_modulation = ToModulation(c_width, width, order=("shift", "scale"), zero=False)
        self.attn = SelfAttention(width, heads)
        self.mlp = MLP(width, mlp_ratio)

    def precompute(self, cond: Condition) -> BlockCondition:
        return BlockCondition(self.to_modulation(cond.c))

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = x + self.attn(modulate(layer_norm(x), attn))  # (B, T, D)
        x = x + self.mlp(modulate(layer_norm(x), mlp))
        return x


class AdaLNZeroBlock(Block):
    """x <- x + gate * Attn(LN(x) (1 + scale) + shift), the same for the MLP; all six vectors start at 0."""

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.to_modulation = ToModulation(c_width, width, order=("shift", "scale", "gate"), zero=True)
        self.attn = SelfAttention(width, heads)
        self.mlp = MLP(width, mlp_ratio)

    def precompute(self, cond: Condition) -> BlockCondition:
        return BlockCondition(self.to_modulation(cond.c))

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = x + attn.gate * self.attn(modulate(layer_norm(x), attn))  # (B, T, D)
        x = x + mlp.gate * self.mlp(modulate(layer_norm(x), mlp))
        return x


class BothBlock(AdaLNZeroBlock):
    """The adaLN-Zero block, modulated by the time, and a branch that attends to the caption: x <- x + CrossAttn(LN(x)).

    That branch has no gate; its last Linear starts at zero, so this block, too, starts as the identity. Differs from
    PixArt in: a norm before cross-attention; gates that start at 0; one ToModulation a block.
    """

    splits_condition = True

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__(width, heads, c_width, mlp_ratio)
        self.cross = CrossAttention(width, heads)
        self.cross.out = zero_linear(width, width)

    def precompute(self, cond: Condition) -> BlockCondition:
        return BlockCondition(self.to_modulation(cond.c), cond.ctx)

    def forward_with(self, x: Tensor, pre: BlockCondition) -> Tensor:
        attn, mlp = pre.modulations
        x = x + attn.gate * self.attn(modulate(layer_norm(x), attn))  # (B, T, D)
        x = x + self.cross(layer_norm(x), pre.ctx)
        x = x + mlp.gate * self.mlp(modulate(layer_norm(x), mlp))
        return x


VARIANTS: dict[str, type[Block]] = {
    "in_context": InContextBlock,
    "cross_attention": CrossAttentionBlock,
    "adaln": AdaLNBlock,
    "adaln_zero": AdaLNZeroBlock,
    "both": BothBlock,
}
