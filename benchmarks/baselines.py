"""What `bench` measures against: DiT the way it is usually written.

The same function as TinyDiT with the same number of parameters (tests/test_bench.py copies the weights over). Each
block makes its own six vectors with Sequential(SiLU, Linear), AdamW updates every parameter, the weight average is a
Python loop, and the sampler runs the whole model, modulation included, at each step.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaln_lab.dit import DiTConfig
from adaln_lab.embed import positions_2d, sinusoidal
from adaln_lab.flow import FlowPair


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class TextbookBlock(nn.Module):
    """An adaLN-Zero block: x (B, T, D), c (B, D)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        b, n, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        h = _modulate(self.norm1(x), shift1, scale1)
        q, k, v = (f(h).view(b, n, self.heads, d // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + gate1.unsqueeze(1) * self.out(h)
        return x + gate2.unsqueeze(1) * self.mlp(_modulate(self.norm2(x), shift2, scale2))


class TextbookDiT(nn.Module):
    """v = model(x, t, y), as TinyDiT with one label a picture."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config, k, d = config, config, config.width
        self.t_mlp = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        self.y_table = nn.Embedding(k.n_classes + 1, d)
        self.patches = nn.Conv2d(k.channels, d, k.patch, stride=k.patch)
        self.register_buffer("positions", positions_2d(k.size // k.patch, k.size // k.patch, d), persistent=False)
        self.blocks = nn.ModuleList(TextbookBlock(d, k.heads, k.mlp_ratio) for _ in range(k.depth))
        self.norm = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))
        self.linear = nn.Linear(d, k.channels * k.patch**2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        k, side = self.config, self.config.size // self.config.patch
        c = self.t_mlp(sinusoidal(1000 * t, 256)) + self.y_table(y)
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        x = self.linear(_modulate(self.norm(x), shift, scale))
        x = x.reshape(len(x), side, side, k.patch, k.patch, k.channels)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), k.channels, k.size, k.size)


class TextbookTraining:
    """AdamW on everything and an average kept by a Python loop: step(pair) -> loss."""

    def __init__(self, model: nn.Module, lr: float = 1e-3):
        self.model, self.average = model, copy.deepcopy(model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def step(self, pair: FlowPair) -> float:
        loss = ((self.model(pair.x_t, pair.t, pair.y) - pair.v) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
                slow.mul_(0.999).add_(fast, alpha=0.001)
        return loss.item()


@torch.no_grad()
def textbook_sample(model: nn.Module, noise: Tensor, y: Tensor, steps: int, guidance: float, batched: bool) -> Tensor:
    """Euler with guidance; the condition is computed anew at each step, in one batch of both halves or in two calls."""
    x, null = noise, torch.full_like(y, model.config.n_classes)
    for i in range(steps):
        t = torch.full((len(x),), 1 - i / steps, device=x.device)
        if batched:
            v, v_null = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null])).chunk(2)
        else:
            v, v_null = model(x, t, y), model(x, t, null)
        x = x - (v_null + guidance * (v - v_null)) / steps
    return x.clamp(-1, 1)
