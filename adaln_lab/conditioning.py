"""Ways for a condition to enter a transformer block, with one signature: block(x, cond).

    in-context        the condition is more tokens; the block is a plain transformer block
    cross-attention   a third branch looks at the condition's tokens
    adaLN             scale and shift of each norm are functions of c
    adaLN-Zero        and so is a gate on each branch; all of them start at 0, so the block starts as the identity
    both              the time by adaLN-Zero, the words by cross-attention

The first four: DiT, Sec. 3.2 and Table 4 (arXiv 2212.09748); the last: PixArt-alpha (2310.00426).
B batch, T image tokens, S condition tokens, D width, C width of c.

Each block does its work in two steps. `prepare` reads the condition alone, `run` sees the picture. What `prepare`
returns does not depend on x, so a sampler computes it once for all its steps.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

from adaln_lab.layers import MLP, CrossAttention, SelfAttention, zero_linear
from adaln_lab.norms import Modulation, ToModulation, layer_norm, modulate
from adaln_lab.residual import gated


class Condition(NamedTuple):
    """A condition in two forms: c (B, C), its parts summed; ctx (B, S, D), its parts side by side."""

    c: Tensor
    ctx: Tensor | None = None


class Block(nn.Module):
    """A pre-norm transformer block. Subclasses say in `run(x, prepared)` where the condition enters."""

    uses_ctx_as_tokens = False  # in-context: the model puts ctx in front of the image tokens, once, at its door
    splits_condition = False  # both: c is the time alone and ctx the words alone; elsewhere each holds time and words

    def prepare(self, cond: Condition) -> Any:
        """Whatever of the condition this block needs: tensors whose first axis is the batch."""
        return ()

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        return self.run(x, self.prepare(cond))


class InContextBlock(Block):
    """x <- x + Attn(LN(x));  x <- x + MLP(LN(x)), where LN has learned gamma, beta, the same for every condition."""

    uses_ctx_as_tokens = True

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm_attn = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, mlp_ratio)

    def run(self, x: Tensor, prepared: Any) -> Tensor:
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

    def prepare(self, cond: Condition) -> Tensor:
        return cond.ctx

    def run(self, x: Tensor, prepared: Tensor) -> Tensor:
        x = x + self.attn(self.norm_attn(x))  # (B, T, D)
        x = x + self.cross(self.norm_cross(x), prepared)
        x = x + self.mlp(self.norm_mlp(x))
        return x


class AdaLNBlock(Block):
    """x <- x + Attn(LN(x) (1 + scale) + shift), the same for the MLP; (shift, scale) x 2 = W SiLU(c) + b."""

    order: tuple[str, ...] = ("shift", "scale")
    zero = False

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.to_modulation = ToModulation(c_width, width, branches=2, order=self.order, zero=self.zero)
        self.attn = SelfAttention(width, heads)
        self.mlp = MLP(width, mlp_ratio)

    def prepare(self, cond: Condition) -> list[Modulation]:
        return self.to_modulation(cond.c)

    def run(self, x: Tensor, prepared: list[Modulation]) -> Tensor:
        attn, mlp = prepared
        x = gated(x, self.attn(modulate(layer_norm(x), attn)), attn.gate)  # (B, T, D)
        x = gated(x, self.mlp(modulate(layer_norm(x), mlp)), mlp.gate)
        return x


class AdaLNZeroBlock(AdaLNBlock):
    """x <- x + gate * Attn(LN(x) (1 + scale) + shift), the same for the MLP; all six vectors start at 0."""

    order = ("shift", "scale", "gate")
    zero = True


class BothBlock(AdaLNZeroBlock):
    """The adaLN-Zero block, told the time, with a branch that looks at the words: x <- x + CrossAttn(LN(x), ctx).

    That branch has no gate; its last Linear starts at zero, so this block, too, starts as the identity. Differs from
    PixArt in: a norm before cross-attention; gates that start at 0; one ToModulation a block.
    """

    splits_condition = True

    def __init__(self, width: int, heads: int, c_width: int, mlp_ratio: float = 4.0):
        super().__init__(width, heads, c_width, mlp_ratio)
        self.cross = CrossAttention(width, heads)
        self.cross.out = zero_linear(width, width)

    def prepare(self, cond: Condition) -> tuple[list[Modulation], Tensor]:
        return self.to_modulation(cond.c), cond.ctx

    def run(self, x: Tensor, prepared: tuple[list[Modulation], Tensor]) -> Tensor:
        (attn, mlp), ctx = prepared
        x = gated(x, self.attn(modulate(layer_norm(x), attn)), attn.gate)  # (B, T, D)
        x = x + self.cross(layer_norm(x), ctx)
        x = gated(x, self.mlp(modulate(layer_norm(x), mlp)), mlp.gate)
        return x


VARIANTS: dict[str, type[Block]] = {
    "in_context": InContextBlock,
    "cross_attention": CrossAttentionBlock,
    "adaln": AdaLNBlock,
    "adaln_zero": AdaLNZeroBlock,
    "both": BothBlock,
}
