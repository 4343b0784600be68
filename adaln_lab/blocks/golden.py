"""Stored runs of the original implementations, and their replay by our blocks: the same function, forward and backward?

A file holds weights under upstream's names, inputs and cotangents, and what came out in float64: outputs, gradients of
the inputs, norms of all weights' gradients, modulation vectors. The metadata "upstream_class" and "config" say which
block it is.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from adaln_lab.blocks import (
    dit,
    ernie,
    flux,
    flux2,
    flux3,
    hdm,
    ideogram4,
    krea2,
    lumina2,
    minimax_h3,
    pixart,
    qwenimage,
    qwenimage21,
    sd3,
    sd15,
    zimage,
)
from adaln_lab.blocks.upstream import Names, weights_for
from adaln_lab.conditioning import AdaLNZeroBlock, Condition
from adaln_lab.dit import FinalLayer
from adaln_lab.utils.assets import asset

GROUPS = ["weights", "inputs", "cotangents", "outputs", "grads", "modulation", "weight_grad_l2"]  # a key is GROUP.NAME
GROUPS += ["outputs_exact", "grads_exact"]  # with upstream's internal float32 steps in float64


class Stored(NamedTuple):
    """One file: its metadata, and its tensors by group and name."""

    meta: dict[str, str]
    config: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


class Replica(NamedTuple):
    """Our block for a stored run: `call(block, **inputs)` gives the outputs by name."""

    block: nn.Module
    names: Names
    call: Callable[..., dict[str, Tensor]]
    modulation: Mapping[str, str] = MappingProxyType({})  # stored name -> submodule that gives these vectors


Builder = Callable[[dict[str, Any], dict[str, Tensor]], Replica]  # from the config and the weights of a stored run


def read(path: Path) -> Stored:
    """A file of stored numbers; KeyError for a key of an unknown group and for missing metadata."""
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    with safe_open(path, "pt") as f:
        for key in f.keys():  # noqa: SIM118
            group, _, name = key.partition(".")
            tensors[group][name] = f.get_tensor(key)
        meta = f.metadata()
    return Stored(meta, json.loads(meta["config"]), tensors)


def shipped(name: str) -> Stored:
    """A stored run that comes with the package, for example "lumina2_block"; ValueError if there is none."""
    return read(asset(f"golden/{name}.safetensors"))


def build(stored: Stored, builders: Mapping[str, Builder] | None = None) -> Replica:
    """Our block for a stored run, in float64. ValueError for a class that is not among the builders."""
    builders = builders or BUILDERS
    upstream = stored.meta["upstream_class"]
    name = re.match(r"[\w.]*", upstream).group()
    if name not in builders:
        raise ValueError(f"no block for class {upstream!r}; known: {', '.join(builders)}")
    # of a sequence of text and image, only the image's tokens may come out
    config = stored.config | {"tokens_out": next(iter(stored.tensors["cotangents"].values())).shape[1]}
    replica = builders[name](config, stored.tensors["weights"])
    return replica._replace(block=replica.block.double())


@torch.enable_grad()
def replay(stored: Stored, replica: Replica | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """All stored results next to those of our block: {"outputs.x": (ours, stored), ...}."""
    block, names, call, modulation = replica or build(stored)
    weights = {k: v.clone().requires_grad_() for k, v in stored.tensors["weights"].items()}
    inputs = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in stored.tensors["inputs"].items()}
    ours = {f"block.{k}": v for k, v in weights_for(block, names, weights).items()}
    with _record_vectors(block, modulation) as vectors:
        outputs = torch.func.functional_call(_Call(block, call), ours, kwargs=inputs)
    loss = sum((outputs[name] * g).sum() for name, g in stored.tensors["cotangents"].items())
    leaves = {**{f"grads.{k}": inputs[k] for k in stored.tensors["grads_exact"]}, **weights}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(leaves, found, strict=True))
    norms = torch.stack([gradients[k].norm() for k in json.loads(stored.meta["weight_grad_order"])])
    vectors |= outputs  # of a whole model, the vectors are among its outputs
    result = {f"outputs.{k}": (outputs[k], v) for k, v in stored.tensors["outputs_exact"].items()}
    result |= {f"grads.{k}": (gradients[f"grads.{k}"], v) for k, v in stored.tensors["grads_exact"].items()}
    result |= {f"modulation.{k}": (vectors[k].view_as(v), v) for k, v in stored.tensors["modulation"].items()}
    result["weight_grad_l2"] = norms, stored.tensors["weight_grad_l2"][""]
    return {k: (a.detach(), b) for k, (a, b) in result.items()}


class _Call(nn.Module):
    """`call` as the forward of a module, so that `functional_call` can exchange the block's weights."""

    def __init__(self, block: nn.Module, call: Callable[..., dict[str, Tensor]]):
        super().__init__()
        self.block, self.call = block, call

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return self.call(self.block, **inputs)


@contextmanager
def _record_vectors(block: nn.Module, parts: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """The vectors (B, n, D) or (B, n D), in chunk order, that the named submodules give while the context is open."""
    vectors: dict[str, Tensor] = {}

    def hook(name: str) -> Callable:
        def record(part: nn.Module, _inputs: Any, found: Any) -> None:
            named = not isinstance(found, Tensor)
            vectors[name] = torch.cat([getattr(m, v) for m in found for v in part.order], dim=1) if named else found

        return record

    handles = [block.get_submodule(path).register_forward_hook(hook(name)) for name, path in parts.items()]
    try:
        yield vectors
    finally:
        for handle in handles:
            handle.remove()


def rope_of(cos, sin):
    return None if cos is None else (cos, sin)


def with_condition(block, x, c):
    return {"x": block(x, Condition(c))}


def with_rope(block, x, c=None, cos=None, sin=None):
    return {"x": block(x, c, rope_of(cos, sin))}


def two_streams(block, x, ctx, c, cos=None, sin=None):
    x, ctx = block(x, ctx, c, rope_of(cos, sin))
    return {"x": x} if ctx is None else {"x": x, "ctx": ctx}


STREAMS = {"img": "x.to_modulation", "txt": "ctx.to_modulation"}


def _dit(config, weights):
    width = config["hidden_size"]
    block = AdaLNZeroBlock(width, config["num_heads"], width, config.get("mlp_ratio", 4.0))
    return Replica(block, dit.BLOCK, with_condition, {"block": "to_modulation"})


def _final(config, weights):
    """The final layer of DiT, Flux, Lumina 2 and Z-Image: shift and scale, or the scale alone."""
    width, out = config["hidden_size"], len(weights["linear.weight"])
    rows, c_width = weights["adaLN_modulation.1.weight"].shape
    order = ("shift", "scale") if rows == 2 * width else ("scale",)
    return Replica(FinalLayer(width, c_width, out, order=order), dit.FINAL, with_condition, {"final": "to_modulation"})


def _pixart(config, weights):
    block = pixart.Block(config["hidden_size"], config["num_heads"], config.get("mlp_ratio", 4.0))

    def call(block, x, text, t6):
        return {"x": block(x, text, t6.unsqueeze(1))}

    return Replica(block, pixart.Block.UPSTREAM, call, {"block": "to_modulation"})


def _sd3(config, weights):
    block = sd3.JointBlock(
        config["hidden_size"],
        config["num_heads"],
        config.get("mlp_ratio", 4.0),
        config.get("qkv_bias", True),
        qk_norm=config.get("qk_norm") == "rms",
        ctx_pre_only=config.get("pre_only", False),
        dual=config.get("x_block_self_attn", False),
    )
    parts = {"x_block": "x.to_modulation", "context_block": "ctx.to_modulation"}
    return Replica(block, sd3.JointBlock.UPSTREAM, two_streams, parts)


def _flux(config, weights):
    block = flux.SingleBlock(config["hidden_size"], config["num_heads"], config.get("mlp_ratio", 4.0))
    return Replica(block, flux.SingleBlock.UPSTREAM, with_rope, {"block": "to_modulation"})


def _qwenimage(config, weights):
    block = qwenimage.Block(config["dim"], config["num_attention_heads"])
    return Replica(block, qwenimage.Block.UPSTREAM, two_streams, STREAMS)


def _lumina2(config, weights):
    hidden = lumina2.hidden_width(config["dim"], config["multiple_of"], config.get("ffn_dim_multiplier"))
    return _sandwich(lumina2.Block, hidden, config, weights)


def _zimage(config, weights):
    return _sandwich(zimage.Block, zimage.hidden_width(config["dim"]), config, weights)


def _sandwich(block, hidden, config, weights):
    """Lumina 2's block or Z-Image's; without modulation, a refiner."""
    names, modulated = block.UPSTREAM, config.get("modulation", True)
    c_width = weights[f"{names['to_modulation.linear']}.weight"].shape[1] if modulated else None
    sizes = config["dim"], config["n_heads"], config.get("n_kv_heads") or config["n_heads"], hidden, c_width
    made = block(*sizes, config.get("norm_eps", 1e-5), config.get("qk_norm", True))
    return Replica(made, names, with_rope, {"block": "to_modulation"} if modulated else {})


def _hdm(config, weights):
    sizes = config["dim"], config["heads"], config["dim_head"], config["mlp_dim"]
    block = hdm.Block(*sizes, ctx_width=config.get("ctx_dim"), axes=config.get("pos_dim", 2))

    def call(block, x, y, ctx=None, pos_map=None, ctx_pos_map=None):
        ctx_pos = pos_map if ctx_pos_map is None and config.get("ctx_from_self") else ctx_pos_map
        return {"x": block(x, y[:, 0], ctx, pos=pos_map, ctx_pos=ctx_pos)}

    parts = {"attn": "to_attn", "mlp": "to_mlp"} | ({} if block.cross is None else {"xattn": "to_cross"})
    return Replica(block, hdm.Block.UPSTREAM, call, parts)


def _sd15(config, weights):
    heads, text_width = config["num_attention_heads"], config["cross_attention_dim"]
    block = sd15.TransformerBlock(config["dim"], heads, text_width, config.get("attention_head_dim"))
    return Replica(block, sd15.TransformerBlock.UPSTREAM, lambda block, x, text: {"x": block(x, text)})


def beside_shared(block: nn.Module, names: Names, **shared: tuple[nn.Module, str]) -> tuple[nn.ModuleDict, Names]:
    """A block and the modulation that its model shares between blocks, each with the name of its Linear upstream."""
    parts = nn.ModuleDict({"block": block} | {name: part for name, (part, _) in shared.items()})
    table = {f"block.{mine}": theirs for mine, theirs in names.items()}
    return parts, table | {f"{name}.1": theirs for name, (_, theirs) in shared.items()}


def with_shared(parts, x, c, cos=None, sin=None):
    return {"x": parts["block"](x, parts["shared"](c).unsqueeze(1), rope_of(cos, sin))}


def sizes_of(config):
    """Of FLUX.2, FLUX.3 and Qwen-Image-2.1: width, heads, width of a head, hidden channels."""
    heads, head_width = config["num_attention_heads"], config["attention_head_dim"]
    width = config.get("dim", heads * head_width)
    return width, heads, head_width, int(width * config["mlp_ratio"])


def _flux2_stack(config, weights):
    depths, out = (config["num_layers"], config["num_single_layers"]), len(weights["proj_out.weight"])
    stack = flux2.Stack(*sizes_of(config), *depths, out)

    def call(stack, x, ctx, c, cos=None, sin=None):
        return {"x": stack(x, ctx, c, rope_of(cos, sin))}

    parts = {"img": "to_img", "txt": "to_txt", "single": "to_single", "final": "output.to_modulation"}
    return Replica(stack, stack.upstream(), call, parts)


def _ernie(config, weights):
    width = config["hidden_size"]
    block = ernie.Block(width, config["num_heads"], config["ffn_hidden_size"], config["eps"])
    shared = ernie.shared_modulation(width), "adaLN_modulation.1"

    def call(parts, x, c, angle=None):
        return {"x": parts["block"](x, parts["shared"](c).unsqueeze(1), angle)}

    return Replica(*beside_shared(block, ernie.Block.UPSTREAM, shared=shared), call, {"block": "shared"})


def _qwenimage21(config, weights):
    block = qwenimage21.Block(*sizes_of(config))
    shared = flux2.shared_modulation(config["dim"], 4), "modulation.1"

    def call(parts, x, c, image_ids, cos=None, sin=None):
        vectors = qwenimage21.read_rows(parts["shared"](c), image_ids, len(x))
        return {"x": parts["block"](x, vectors, rope_of(cos, sin), qwenimage21.block_causal(image_ids))}

    return Replica(*beside_shared(block, qwenimage21.Block.UPSTREAM, shared=shared), call, {"block": "shared"})


def _krea2(config, weights):
    width, heads, kv_heads = config["hidden_size"], config["num_heads"], config["num_kv_heads"]
    block = krea2.Block(width, heads, kv_heads, config["intermediate_size"], config["norm_eps"])
    shared = krea2.shared_modulation(width), "time_mod_proj"

    vectors = {"shared": "shared", "block": "block.to_modulation"}
    return Replica(*beside_shared(block, krea2.Block.UPSTREAM, shared=shared), with_shared, vectors)


def minimax_sizes(config):
    return config["hidden_size"], config["num_attention_heads"], config["attention_head_dim"], config["ffn_dim"]


def _minimax_h3(config, weights):
    eps = config["norm_eps"], config["qk_norm_eps"]
    block = minimax_h3.Block(*minimax_sizes(config), config["time_embed_dim"], *eps)

    def call(block, x, c, t_index, tag, cos=None, sin=None):
        return {"x": block(x, c, minimax_h3.rows(t_index, tag), rope_of(cos, sin))}

    return Replica(block, minimax_h3.Block.UPSTREAM, call, {"block": "to_modulation"})


def _flux3(config, weights):
    block, modulation = flux3.Block(*sizes_of(config)), flux3.Modulation(config["dim"])
    parts = nn.ModuleDict({"block": block, "shared": modulation})
    names = {f"block.{mine}": theirs for mine, theirs in flux3.Block.UPSTREAM.items()}
    names |= {f"shared.{mode}.1": f"single_stream_modulations.{mode}.linear" for mode in flux3.MODES}

    def call(parts, ctx, x, ref, c, c_zero, cos=None, sin=None):
        streams = [ctx, x, ref]
        shared = flux3.per_token(parts["shared"](c, c_zero), streams)
        tokens = parts["block"](torch.cat(streams, dim=1), shared, rope_of(cos, sin))
        return dict(zip(("ctx", "x", "ref"), tokens.split([s.shape[1] for s in streams], dim=1), strict=True))

    return Replica(parts, names, call, {mode: f"shared.{mode}" for mode in flux3.MODES})


def _ideogram4(config, weights):
    width, heads = config["hidden_size"], config["num_heads"]
    sizes = width, heads, heads, config["intermediate_size"], config["adaln_dim"]
    block = ideogram4.Block(*sizes, config["norm_eps"])
    return Replica(block, ideogram4.Block.UPSTREAM, with_rope, {"block": "to_modulation"})


BUILDERS: dict[str, Builder] = {  # by the first word of "upstream_class"
    "DiTBlock": _dit,
    "FinalLayer": _final,
    "LastLayer": _final,
    "PixArtBlock": _pixart,
    "JointBlock": _sd3,
    "SingleStreamBlock": _flux,
    "QwenImageTransformerBlock": _qwenimage,
    "JointTransformerBlock": _lumina2,
    "ZImageTransformerBlock": _zimage,
    "TransformerBlock": _hdm,
    "BasicTransformerBlock": _sd15,
    "Flux2Transformer2DModel": _flux2_stack,
    "ErnieImageSharedAdaLNBlock": _ernie,
    "QwenImage21TransformerBlock": _qwenimage21,
    "Krea2TransformerBlock": _krea2,
    "MiniMaxH3TransformerBlock": _minimax_h3,
    "Flux3SingleTransformerBlock": _flux3,
    "Ideogram4TransformerBlock": _ideogram4,
}
