"""What the tests of the blocks share: the stored runs, random weights, and the replicas that only tests replay."""

from pathlib import Path

import stacks
import torch

from adaln_lab.blocks import (
    dit,
    ernie,
    flux,
    flux2,
    flux3,
    golden,
    hdm,
    krea2,
    minimax_h3,
    qwenimage21,
)
from adaln_lab.blocks.golden import Replica, Stored, beside_shared, rope_of
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
    stack = stacks.PixArtStack(*sizes)

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
    return Replica(stack, stacks.hdm_stack_names(stack), call, parts)


def _hdm(config, weights):
    ends = config["input_dim"], config["patch_size"], config["ctx_dim"], config.get("addon_info_embs_dim")
    model = stacks.HDM(*_hdm_sizes(config), *ends)

    def call(model, x, t, ctx, addon_info=None):
        info = addon_info[:, None] if addon_info is not None and addon_info.dim() == 1 else addon_info
        return {"x": model(x, t, ctx, info)}

    return Replica(model, model.upstream(), call)


def _flux2_double(config, weights):
    width, *sizes = golden.sizes_of(config)
    block = flux2.DoubleBlock(width, *sizes)

    def call(parts, x, ctx, c, cos=None, sin=None):
        img, txt = (parts[name](c).unsqueeze(1) for name in ("img", "txt"))
        return dict(zip(("x", "ctx"), parts["block"](x, ctx, img, txt, rope_of(cos, sin)), strict=True))

    linears = {a: (flux2.shared_modulation(width, 6), f"double_stream_modulation_{a}.linear") for a in ("img", "txt")}
    return Replica(*beside_shared(block, flux2.DoubleBlock.UPSTREAM, **linears), call, {"img": "img", "txt": "txt"})


def _one_shared(block, names, shared):
    """A block alone, with the Linear whose vectors it reads."""
    return Replica(*beside_shared(block, names, shared=shared), golden.with_shared, {"block": "shared"})


def _flux2_single(config, weights):
    shared = flux2.shared_modulation(config["dim"], 3), "single_stream_modulation.linear"
    return _one_shared(flux2.SingleBlock(*golden.sizes_of(config)), flux2.SingleBlock.UPSTREAM, shared)


def _flux3_mode(config, weights):
    mode = next(key for key in weights if key.startswith("early_stream_modulations")).removesuffix(".weight")
    shared = flux2.shared_modulation(config["dim"], 3), mode
    return _one_shared(flux3.Block(*golden.sizes_of(config)), flux3.Block.UPSTREAM, shared)


def _flux3_stack(config, weights):
    depths, out = (config["num_layers"], config["num_single_layers"]), len(weights["proj_out.weight"])
    stack = flux3.Stack(*golden.sizes_of(config), *depths, out)

    def call(stack, ctx, x, ref, c, c_zero, cos, sin):
        return {"x": stack(ctx, x, ref, c, c_zero, (cos, sin))}

    parts = {f"early_{mode}": f"to_early.{mode}" for mode in flux3.MODES}
    parts |= {f"single_{mode}": f"to_joint.{mode}" for mode in flux3.MODES}
    return Replica(stack, stack.upstream(), call, parts | {"final": "output.to_modulation"})


def _output(output, names):
    """An output layer alone."""

    def call(output, x, c):
        return {"x": output(x, c.unsqueeze(1))}

    return Replica(output, names, call, {"final": "to_modulation"})


def _flux2_output(config, weights):
    rows, width = weights["proj_out.weight"].shape
    return _output(flux2.Output(width, rows), flux2.Output.UPSTREAM)


def _ernie_output(config, weights):
    output = ernie.Output(config["hidden_size"], len(weights["final_linear.weight"]))
    return _output(output, ernie.Output.UPSTREAM)


def _ernie_stack(config, weights):
    width, heads, hidden = config["hidden_size"], config["num_attention_heads"], config["ffn_hidden_size"]
    depth, out, images = config["num_layers"], len(weights["final_linear.weight"]), config["tokens_out"]
    stack = ernie.Stack(width, heads, hidden, depth, out, config["eps"])

    def call(stack, x, c, angle=None):
        return {"x": stack(x[:, :images], x[:, images:], c, angle)}

    return Replica(stack, stack.upstream(), call, {"block": "to_modulation", "final": "output.to_modulation"})


def _krea2_output(config, weights):
    output = krea2.Output(config["hidden_size"], len(weights["linear.weight"]), config["eps"])
    return _output(output, krea2.Output.UPSTREAM)


def _krea2_text(config, weights):
    sizes = config["dim"], config["num_heads"], config["num_kv_heads"], config["intermediate_size"], config["eps"]
    block = stacks.Krea2TextBlock(*sizes)
    return Replica(block, block.UPSTREAM, lambda block, x: {"x": block(x)})


def _krea2_stack(config, weights):
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width, out = heads * config["attention_head_dim"], len(weights["final_layer.linear.weight"])
    sizes = width, heads, kv_heads, config["intermediate_size"], config["num_layers"], out, config["norm_eps"]
    stack, images = krea2.Stack(*sizes), config["tokens_out"]

    def call(stack, x, c, cos=None, sin=None):
        return {"x": stack(x[:, -images:], x[:, :-images], c, rope_of(cos, sin))}

    parts = {"shared": "to_modulation", "final": "output.to_modulation"}
    parts |= {f"block{i}": f"blocks.{i}.to_modulation" for i in range(config["num_layers"])}
    return Replica(stack, stack.upstream(), call, parts)


def _qwenimage21_output(config, weights):
    rows, width = weights["proj_out.weight"].shape

    def call(output, x, c, image_ids):
        return {"x": output(x, c, image_ids)}

    output = qwenimage21.Output(width, rows)
    return Replica(output, qwenimage21.Output.UPSTREAM, call, {"final": "to_modulation"})


def _qwenimage21_stack(config, weights):
    sizes = *golden.sizes_of(config), config["num_layers"], len(weights["proj_out.weight"])

    def call(stack, x, c, image_ids, cos=None, sin=None):
        return {"x": stack(x, c, image_ids, rope_of(cos, sin))}

    stack = qwenimage21.Stack(*sizes)
    return Replica(
        stack, stacks.qwenimage21_names(stack), call, {"block": "to_modulation", "final": "output.to_modulation"}
    )


def _minimax_h3_output(config, weights):
    outs = len(weights["proj_out.weight"]), len(weights["audio_proj_out.weight"])
    output = minimax_h3.Output(config["hidden_size"], config["time_embed_dim"], *outs, config["eps"])

    def call(output, x, c, t_index):
        return dict(zip(("x", "audio"), output(x, c, t_index), strict=True))

    return Replica(output, output.UPSTREAM, call, {"final": "to_modulation"})


def _minimax_h3_refiner(config, weights):
    eps = config["norm_eps"], config["qk_norm_eps"]
    block = stacks.MiniMaxH3Refiner(*golden.minimax_sizes(config), *eps)
    return Replica(block, block.UPSTREAM, lambda block, x: {"x": block(x)})


def _ideogram4_output(config, weights):
    out, (rows, c_width) = len(weights["linear.weight"]), weights["adaln_modulation.weight"].shape
    output = FinalLayer(rows, c_width, out, order=("scale",))
    names = {"to_modulation.linear": "adaln_modulation", "linear": "linear"}
    return Replica(output, names, golden.with_condition, {"final": "to_modulation"})


BUILDERS = golden.BUILDERS | {
    "DiT": _dit,
    "t_block": _pixart_stack,
    "DoubleStreamBlock": _flux_double,
    "XUDiT.shared_adaln_": _hdm_stack,
    "XUDiT": _hdm,
    "Flux2TransformerBlock": _flux2_double,
    "Flux2SingleTransformerBlock": _flux2_single,
    "AdaLayerNormContinuous": _flux2_output,
    "Flux3ModeTransformerBlock": _flux3_mode,
    "Flux3Transformer2DModel": _flux3_stack,
    "Flux3AdaLayerNorm": _flux2_output,
    "ErnieImageAdaLNContinuous": _ernie_output,
    "ErnieImageTransformer2DModel": _ernie_stack,
    "Krea2FinalLayer": _krea2_output,
    "Krea2TextFusionBlock": _krea2_text,
    "Krea2Transformer2DModel": _krea2_stack,
    "QwenImage21AdaLayerNormContinuous": _qwenimage21_output,
    "QwenImage21Transformer2DModel": _qwenimage21_stack,
    "MiniMaxH3AdaLayerNormOut": _minimax_h3_output,
    "MiniMaxH3TokenRefinerBlock": _minimax_h3_refiner,
    "Ideogram4FinalLayer": _ideogram4_output,
}
