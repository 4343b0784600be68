"""The parts every transformer shares: linears with a stated start, attention, MLP.

    attention(q, k, v) = softmax(q k^T / sqrt(D / H)) v                   arXiv 1706.03762, Sec. 3.2

B batch, T tokens, S condition tokens, D width, H heads. An initial value has one owner, the line that builds the layer:
nothing re-initialises a model afterwards, so a zero stays a zero.
"""

from torch import Tensor, nn
from torch.nn import functional as F


def xavier_linear(d_in: int, d_out: int) -> nn.Linear:
    """Linear with Xavier-uniform weights and zero bias, the start DiT gives every ordinary linear."""
    linear = nn.Linear(d_in, d_out)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def normal_linear(d_in: int, d_out: int, std: float) -> nn.Linear:
    """Linear with normal weights and zero bias, the start DiT gives its time embedding."""
    linear = nn.Linear(d_in, d_out)
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear


def zero_linear(d_in: int, d_out: int) -> nn.Linear:
    """Linear that outputs exactly zero at the start: weights and bias 0."""
    linear = nn.Linear(d_in, d_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention of q (B, T, D) on k, v (B, S, D) -> (B, T, D)."""
    q, k, v = (a.unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))  # (B, H, T or S, D/H)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Tokens look at one another, (B, T, D) -> (B, T, D). One Linear makes q | k | v, one mixes the heads."""

    for_muon = True  # its matrices act on features inside the network: what Muon is made for

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = xavier_linear(width, 3 * width)
        self.out = xavier_linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return self.out(attend(*self.qkv(h).chunk(3, dim=-1), self.heads))


class CrossAttention(nn.Module):
    """Image tokens look at condition tokens: q from h (B, T, D), k and v from ctx (B, S, D) -> (B, T, D)."""

    for_muon = True

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = xavier_linear(width, width)
        self.kv = xavier_linear(width, 2 * width)
        self.out = xavier_linear(width, width)

    def forward(self, h: Tensor, ctx: Tensor) -> Tensor:
        return self.out(attend(self.q(h), *self.kv(ctx).chunk(2, dim=-1), self.heads))


class MLP(nn.Module):
    """Linear, GELU (tanh form), Linear, on each token alone: (B, T, D) -> (B, T, D)."""

    for_muon = True

    def __init__(self, width: int, ratio: float = 4.0):
        super().__init__()
        hidden = int(width * ratio)
        self.up = xavier_linear(width, hidden)
        self.down = xavier_linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(h), approximate="tanh"))
