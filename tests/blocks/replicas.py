"""What the tests of the blocks share: the stored runs, random weights, and the replicas that only tests replay."""

from pathlib import Path

import torch

from adaln_lab.blocks import dit, flux, golden, hdm, pixart
from adaln_lab.blocks.golden import Replica, Stored
from adaln_lab.blocks.upstream import PatchConv, prefixed
from adaln_lab.conditioning import Condition
from adaln_lab.dit import DiTConfig, FinalLayer, TinyDiT
from adaln_lab.embed import unpatchify
from adaln_lab.utils.assets import ASSETS

GOLDEN = (Path(__file__).parents[1] / "golden", ASSETS / "golden")  # the second is shipped, for notebook 08


def stored_path(name: str) -> Path:
    return next(path for folder in GOLDEN if (path := folder / f"{name}.safetensors").exists())


def stored_run(name: str) -> Stored:
    return golden.read(stored_path(name))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """In float64, with all parameters random: one that starts at zero or one would hide a difference."""
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return module


def _dit(config, weights):
    width, patch, out = config["hidden_size"], config["patch_size"], 1 + config.get("learn_sigma", True)
    model = TinyDiT(
        DiTConfig(
            size=config["input_size"],
            channels=config["in_channels"],
            patch=patch,
            width=width,
            depth=config["depth"],
            heads=config["num_heads"],
            n_classes=len(weights["y_embedder.embedding_table.weight"]) - 1,
            mlp_ratio=config.get("mlp_ratio", 4.0),
        )
    )
    model.final = FinalLayer(width, width, out * config["in_channels"] * patch**2)

    def call(model, x, t, y, t_freq=None):
        t_emb = model.t_embed(t.double() / 1000) if t_freq is None else model.t_embed.mlp(t_freq)
        c = t_emb + model.y_embed(y).sum(1)
        tokens, outputs = model.x_embed(x) + model.positions, {"c": c[:, None]}
        for i, block in enumerate(model.blocks):
            tokens = outputs[f"after_block{i}"] = block(tokens, Condition(c))
        outputs["x"] = unpatchify(model.final(tokens, Condition(c)), patch, config["input_size"] // patch)
        return outputs

    names = {
        "x_embed.linear": PatchConv("x_embedder.proj"),
        "t_embed.mlp.0": "t_embedder.mlp.0",
        "t_embed.mlp.2": "t_embedder.mlp.2",
        "y_embed.table": "y_embedder.embedding_table",
        "positions": "pos_embed",
        **prefixed("final", "final_layer", dit.FINAL),
    }
    for i in range(len(model.blocks)):
        names |= prefixed(f"blocks.{i}", f"blocks.{i}", dit.BLOCK)
    return Replica(model, names, call)


def _pixart_stack(config, weights):
    out = len(weights["final_layer.linear.weight"])
    sizes = config["hidden_size"], config["num_heads"], config["depth"], out, config.get("mlp_ratio", 4.0)
    stack = pixart.Stack(*sizes)

    def call(stack, x, text, t_emb):
        return dict(zip(("tokens", "x"), stack(x, text, t_emb), strict=True))

    return Replica(stack, stack.upstream(), call)


def _flux_double(config, weights):
    sizes = config["hidden_size"], config["num_heads"], config.get("mlp_ratio", 4.0), config.get("qkv_bias", True)
    return Replica(flux.DoubleBlock(*sizes), flux.DoubleBlock.UPSTREAM, golden.two_streams, golden.STREAMS)


def _hdm_sizes(config):
    groups = [[n] * config["depth"] if isinstance(n, int) else n for n in (config["enc_blocks"], config["dec_blocks"])]
    return config["dim"], config["heads"], config["dim_head"], config["mlp_dim"], *groups


def _hdm_stack(config, weights):
    stack = hdm.Stack(*_hdm_sizes(config))

    def call(stack, x, y, pos_map=None):
        return dict(zip(("x", "enc_out"), stack(x, y[:, 0], pos_map), strict=True))

    parts = {"attn": "shared.attn", "xattn": "shared.cross", "ffw": "shared.mlp"}
    return Replica(stack, stack.upstream(), call, parts)


def _hdm(config, weights):
    ends = config["input_dim"], config["patch_size"], config["ctx_dim"], config.get("addon_info_embs_dim")
    model = hdm.Model(*_hdm_sizes(config), *ends)

    def call(model, x, t, ctx, addon_info=None):
        info = addon_info[:, None] if addon_info is not None and addon_info.dim() == 1 else addon_info
        return {"x": model(x, t, ctx, info)}

    return Replica(model, model.upstream(), call)


BUILDERS = golden.BUILDERS | {
    "DiT": _dit,
    "t_block": _pixart_stack,
    "DoubleStreamBlock": _flux_double,
    "XUDiT.shared_adaln_": _hdm_stack,
    "XUDiT": _hdm,
}
