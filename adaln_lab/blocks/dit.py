"""DiT: the course's own blocks, under the names of the original.

    u = x + g1 * Attn(LN(x) (1 + s1) + b1);   out = u + g2 * MLP(LN(u) (1 + s2) + b2)
    [b1, s1, g1, b2, s2, g2] = W SiLU(c) + bias,   c = t_emb + y_emb,   all zero at the start

DiT (arXiv 2212.09748), Fig. 3; facebookresearch/DiT. Differs from upstream in: nothing that changes a number.
"""

from adaln_lab.blocks.spec import Facts, Spec
from adaln_lab.conditioning import AdaLNZeroBlock
from adaln_lab.dit import DiTConfig, FinalLayer, TinyDiT

BLOCK = {
    "to_modulation.linear": "adaLN_modulation.1",
    "attn.qkv": "attn.qkv",
    "attn.out": "attn.proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
FINAL = {"to_modulation.linear": "adaLN_modulation.1", "linear": "linear"}


def full_model() -> TinyDiT:
    """DiT-XL/2, whose final layer also predicts variances: twice the channels."""
    model = TinyDiT(DiTConfig(size=32, channels=4, width=1152, depth=28, heads=16, n_classes=1000))
    model.final = FinalLayer(1152, 1152, 2 * 4 * 2**2)
    return model


SPEC = Spec(
    title="DiT-XL/2",
    repository="facebookresearch/DiT, models.py",
    facts=Facts(c="time + label", zero="modulation, the last Linear"),
    build=lambda width=16, heads=2: AdaLNZeroBlock(width, heads, width),
    inputs=("x", "cond"),
    width=1152,
    heads=16,
    full=full_model,
    modulation=("to_modulation",),
)
