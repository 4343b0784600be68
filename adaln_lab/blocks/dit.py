"""DiT: the course's own blocks, under the names of the original.

    u = x + g1 * Attn(LN(x) (1 + s1) + b1);   out = u + g2 * MLP(LN(u) (1 + s2) + b2)
    [b1, s1, g1, b2, s2, g2] = W SiLU(c) + bias,   c = t_emb + y_emb,   all zero at the start

DiT (arXiv 2212.09748), Fig. 3; facebookresearch/DiT. Differs from upstream in: nothing that changes a number.
"""

from adaln_lab.blocks.upstream import PatchConv, prefixed
from adaln_lab.dit import TinyDiT

BLOCK = {
    "to_modulation.linear": "adaLN_modulation.1",
    "attn.qkv": "attn.qkv",
    "attn.out": "attn.proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
FINAL = {"to_modulation.linear": "adaLN_modulation.1", "linear": "linear"}
DIFFUSERS = {  # BasicTransformerBlock(norm_type="ada_norm_zero"), without its copy of the embedders, norm1.emb
    "to_modulation.linear": "norm1.linear",
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.out": "attn1.to_out.0",
    "mlp.up": "ff.net.0.proj",
    "mlp.down": "ff.net.2",
}


def model_names(model: TinyDiT) -> dict[str, str | tuple[str, ...]]:
    """The names of a whole model."""
    names = {
        "x_embed.linear": PatchConv("x_embedder.proj"),
        "t_embed.mlp.0": "t_embedder.mlp.0",
        "t_embed.mlp.2": "t_embedder.mlp.2",
        "y_embed.table": "y_embedder.embedding_table",
        "positions": "pos_embed",
        **prefixed("final", "final_layer", FINAL),
    }
    for i in range(len(model.blocks)):
        names |= prefixed(f"blocks.{i}", f"blocks.{i}", BLOCK)
    return names
