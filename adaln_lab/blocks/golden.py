"""Replay of stored runs of the original implementations: is our block the same function, forward and backward?

A file holds weights under upstream's names, inputs, cotangents, and what came out in float64: outputs, gradients of the
inputs, norms of all weights' gradients, modulation vectors. What block it is stands in its metadata, "upstream_class"
and "config", and nowhere else.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from adaln_lab.blocks import dit, flux, hdm, lumina2, pixart, qwenimage, sd3, sd15, zimage
from adaln_lab.blocks.upstream import Names, weights_for
from adaln_lab.conditioning import AdaLNZeroBlock, Condition
from adaln_lab.dit import DiTConfig, FinalLayer, TinyDiT
from adaln_lab.embed import unpatchify
from adaln_lab.utils.assets import asset

GROUPS = (  # what a key may begin with
    "weights",
    "inputs",
    "cotangents",
    "outputs",
    "grads",
    "outputs_exact",
    "grads_exact",
    "modulation",
    "weight_grad_l2",
)
TOLERANCE = {"atol": 1e-10, "rtol": 1e-9}


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
    modulation: Mapping[str, str] = MappingProxyType({})  # stored name -> the part whose vectors these are


def read(path: Path) -> Stored:
    """A file of stored numbers. ValueError that names the file, and the key where one is at fault."""
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    try:
        with safe_open(path, "pt") as f:
            meta = f.metadata() or {}
            for key in f.keys():  # noqa: SIM118
                group, _, name = key.partition(".")
                if group not in tensors:
                    raise ValueError(f"{path}: no group for key {key!r}; a key begins with {', '.join(GROUPS)}")
                tensors[group][name] = f.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); copy it again") from error
    for need in ("upstream_class", "config", "weight_grad_order"):
        if need not in meta:
            raise ValueError(f"{path}: its metadata lacks {need!r}")
    for group in ("weights", "inputs", "cotangents", "outputs_exact", "grads_exact", "weight_grad_l2"):
        if not tensors[group]:
            raise ValueError(f"{path}: no key of {group!r}")
    order, given = json.loads(meta["weight_grad_order"]), tensors["weights"]
    for name in order:
        if name not in given:
            raise ValueError(f"{path}: 'weights.{name}' is missing, but the norm of its gradient is stored")
    return Stored(meta, json.loads(meta["config"]), tensors)


def shipped(name: str) -> Stored:
    """A stored run that comes with the package, as "lumina2_block"; ValueError with those there are."""
    return read(asset(f"golden/{name}.safetensors"))


def build(stored: Stored) -> Replica:
    """The block of ours that a stored run belongs to, float64. ValueError for a class that the zoo does not have."""
    upstream = stored.meta["upstream_class"]
    for pattern, make in BUILDERS.items():
        if re.match(pattern, upstream):
            try:
                replica = make(stored.config, stored.tensors["weights"])
            except KeyError as error:
                raise ValueError(f"{upstream}: neither config nor weights have {error}") from error
            return replica._replace(block=replica.block.double())
    raise ValueError(f"no block for class {upstream!r}; known: {', '.join(BUILDERS)}")


@torch.enable_grad()
def replay(stored: Stored, replica: Replica | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """Everything that is stored, beside what our block gives: {"outputs.x": (ours, stored), ...}."""
    block, names, call, modulation = replica or build(stored)
    weights = {k: v.clone().requires_grad_() for k, v in stored.tensors["weights"].items()}
    inputs = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in stored.tensors["inputs"].items()}
    _check_inputs(call, inputs)
    ours = {f"block.{k}": v for k, v in weights_for(block, names, weights).items()}
    with _vectors(block, modulation) as vectors:
        outputs = torch.func.functional_call(_Call(block, call), ours, kwargs=inputs)
    for name in stored.tensors["outputs_exact"]:
        if name not in outputs:
            raise ValueError(f"'outputs_exact.{name}' is stored, but our block gives {', '.join(outputs)}")
    loss = sum((outputs[name] * g).sum() for name, g in stored.tensors["cotangents"].items())
    leaves = {**{f"grads.{k}": inputs[k] for k in stored.tensors["grads_exact"]}, **weights}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(leaves, found, strict=True))
    result = {f"outputs.{k}": (outputs[k], v) for k, v in stored.tensors["outputs_exact"].items()}
    result |= {f"grads.{k}": (gradients[f"grads.{k}"], v) for k, v in stored.tensors["grads_exact"].items()}
    norms = torch.stack([gradients[k].norm() for k in json.loads(stored.meta["weight_grad_order"])])
    result["weight_grad_l2"] = norms, stored.tensors["weight_grad_l2"][""]
    for name, v in stored.tensors["modulation"].items():
        result[f"modulation.{name}"] = outputs[name] if name in outputs else vectors[name], v
    return {k: (a.detach(), b) for k, (a, b) in result.items()}


def agrees(stored: Stored, replica: Replica | None = None) -> bool:
    """Is every number of the replay within 1e-10 (and 1e-9 of its size) of the stored one?"""
    return all(torch.allclose(a, b, **TOLERANCE) for a, b in replay(stored, replica).values())


class _Call(nn.Module):
    def __init__(self, block: nn.Module, call: Callable[..., dict[str, Tensor]]):
        super().__init__()
        self.block, self.call = block, call

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return self.call(self.block, **inputs)


class _vectors(dict):
    """While it is open, the vectors (B, n, D) that the named parts of a block give, in their order."""

    def __init__(self, block: nn.Module, parts: Mapping[str, str]):
        super().__init__()
        self.block, self.parts = block, parts

    def __enter__(self) -> "_vectors":
        self.hooks = [
            self.block.get_submodule(path).register_forward_hook(
                lambda part, _given, out, name=name: self.update(
                    {name: torch.cat([getattr(m, vector) for m in out for vector in part.order], dim=1)}
                )
            )
            for name, path in self.parts.items()
        ]
        return self

    def __exit__(self, *_error: object) -> None:
        for hook in self.hooks:
            hook.remove()


def _check_inputs(call: Callable, inputs: dict[str, Tensor]) -> None:
    known = dict(list(inspect.signature(call).parameters.items())[1:])
    for name in inputs:
        if name not in known:
            raise ValueError(f"'inputs.{name}' has no place in this block; it takes {', '.join(known)}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in inputs:
            raise ValueError(f"'inputs.{name}' is missing; this block takes {', '.join(known)}")


def _rope(cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if cos is None else (cos, sin)


def _of_c(block, x, c):
    return {"x": block(x, Condition(c))}


def _turned(block, x, c=None, cos=None, sin=None):
    return {"x": block(x, c, _rope(cos, sin))}


def _joint(block, x, ctx, c, cos=None, sin=None):
    x, ctx = block(x, ctx, c, _rope(cos, sin))
    return {"x": x} if ctx is None else {"x": x, "ctx": ctx}


def _dit_block(k, w):
    block = AdaLNZeroBlock(k["hidden_size"], k["num_heads"], k["hidden_size"], k.get("mlp_ratio", 4.0))
    return Replica(block, dit.BLOCK, _of_c, {"block": "to_modulation"})


def _final(k, w):
    """DiT's, Flux's, Lumina 2's and Z-Image's last layers: their modulation tells which vectors there are."""
    width, (out, _) = k["hidden_size"], w["linear.weight"].shape
    rows, c_width = w["adaLN_modulation.1.weight"].shape
    order = ("shift", "scale") if rows == 2 * width else ("scale",)
    return Replica(FinalLayer(width, c_width, out, order=order), dit.FINAL, _of_c, {"final": "to_modulation"})


def _dit(k, w):
    shape = dict(size=k["input_size"], channels=k["in_channels"], patch=k["patch_size"], width=k["hidden_size"])
    classes = len(w["y_embedder.embedding_table.weight"]) - 1
    ratio = k.get("mlp_ratio", 4.0)
    config = DiTConfig(**shape, depth=k["depth"], heads=k["num_heads"], n_classes=classes, mlp_ratio=ratio)
    model = TinyDiT(config)
    out = k["in_channels"] * (2 if k.get("learn_sigma", True) else 1) * k["patch_size"] ** 2
    model.final = FinalLayer(k["hidden_size"], k["hidden_size"], out)

    def call(model, x, t, y, t_freq=None):
        t_emb = model.t_embed(t.double() / 1000) if t_freq is None else model.t_embed.mlp(t_freq)
        c = t_emb + model.y_embed(y).sum(1)
        tokens, outputs = model.x_embed(x) + model.positions, {"c": c[:, None]}
        for i, block in enumerate(model.blocks):
            tokens = outputs[f"after_block{i}"] = block(tokens, Condition(c))
        outputs["x"] = unpatchify(
            model.final(tokens, Condition(c)), k["patch_size"], k["input_size"] // k["patch_size"]
        )
        return outputs

    return Replica(model, dit.model_names(model), call)


def _pixart_block(k, w):
    block = pixart.Block(k["hidden_size"], k["num_heads"], k.get("mlp_ratio", 4.0))
    call = lambda block, x, text, t6: {"x": block(x, text, t6)}  # noqa: E731
    return Replica(block, pixart.Block.UPSTREAM, call, {"block": "to_modulation"})


def _pixart_stack(k, w):
    out = len(w["final_layer.linear.weight"])
    stack = pixart.Stack(k["hidden_size"], k["num_heads"], k["depth"], out, k.get("mlp_ratio", 4.0))

    def call(stack, x, text, t_emb):
        tokens, x = stack(x, text, t_emb)
        return {"tokens": tokens, "x": x}

    return Replica(stack, stack.upstream(), call)


def _sd3(k, w):
    if k.get("qk_norm") not in (None, "rms"):
        raise ValueError(f"qk_norm must be null or 'rms', got {k['qk_norm']!r}")
    block = sd3.JointBlock(
        k["hidden_size"],
        k["num_heads"],
        k.get("mlp_ratio", 4.0),
        k.get("qkv_bias", True),
        qk_norm=k.get("qk_norm") == "rms",
        ctx_pre_only=k.get("pre_only", False),
        dual=k.get("x_block_self_attn", False),
    )
    parts = {"x_block": "x.to_modulation", "context_block": "ctx.to_modulation"}
    return Replica(block, sd3.JointBlock.UPSTREAM, _joint, parts)


STREAMS = {"img": "x.to_modulation", "txt": "ctx.to_modulation"}


def _flux_double(k, w):
    block = flux.DoubleBlock(k["hidden_size"], k["num_heads"], k.get("mlp_ratio", 4.0), k.get("qkv_bias", True))
    return Replica(block, flux.DoubleBlock.UPSTREAM, _joint, STREAMS)


def _flux_single(k, w):
    block = flux.SingleBlock(k["hidden_size"], k["num_heads"], k.get("mlp_ratio", 4.0))
    return Replica(block, flux.SingleBlock.UPSTREAM, _turned, {"block": "to_modulation"})


def _qwen(k, w):
    return Replica(qwenimage.Block(k["dim"], k["num_attention_heads"]), qwenimage.Block.UPSTREAM, _joint, STREAMS)


def _sandwich(block, hidden):
    def make(k, w):
        modulated = k.get("modulation", True)
        key = f"{block.UPSTREAM['to_modulation.linear']}.weight"
        shape = k["dim"], k["n_heads"], k.get("n_kv_heads") or k["n_heads"], hidden(k)
        made = block(*shape, w[key].shape[1] if modulated else None, k.get("norm_eps", 1e-5), k.get("qk_norm", True))
        return Replica(made, block.UPSTREAM, _turned, {"block": "to_modulation"} if modulated else {})

    return make


def _sizes(k):
    return k["dim"], k["heads"], k["dim_head"], k["mlp_dim"]


def _hdm_block(k, w):
    block = hdm.Block(*_sizes(k), ctx_width=k.get("ctx_dim"), axes=k.get("pos_dim", 2))

    def call(block, x, y, ctx=None, pos_map=None, ctx_pos_map=None):
        ctx_pos = pos_map if ctx_pos_map is None and k.get("ctx_from_self") else ctx_pos_map
        return {"x": block(x, y[:, 0], ctx, pos=pos_map, ctx_pos=ctx_pos)}

    parts = {"attn": "to_attn", "mlp": "to_mlp"} | ({} if block.cross is None else {"xattn": "to_cross"})
    return Replica(block, hdm.Block.UPSTREAM, call, parts)


def _groups(k):
    return [[n] * k["depth"] if isinstance(n, int) else n for n in (k["enc_blocks"], k["dec_blocks"])]


def _hdm_stack(k, w):
    stack = hdm.Stack(*_sizes(k), *_groups(k))

    def call(stack, x, y, pos_map=None):
        x, enc_out = stack(x, y[:, 0], pos_map)
        return {"x": x, "enc_out": enc_out}

    parts = {"attn": "shared.attn", "xattn": "shared.cross", "ffw": "shared.mlp"}
    return Replica(stack, stack.upstream(), call, parts)


def _hdm(k, w):
    model = hdm.Model(
        *_sizes(k), *_groups(k), k["input_dim"], k["patch_size"], k["ctx_dim"], k.get("addon_info_embs_dim")
    )

    def call(model, x, t, ctx, addon_info=None):
        info = addon_info[:, None] if addon_info is not None and addon_info.dim() == 1 else addon_info
        return {"x": model(x, t, ctx, info)}

    return Replica(model, model.upstream(), call)


def _sd15(k, w):
    heads = k["num_attention_heads"], k["cross_attention_dim"], k.get("attention_head_dim")
    block = sd15.TransformerBlock(k["dim"], *heads)
    call = lambda block, x, text: {"x": block(x, text)}  # noqa: E731
    return Replica(block, sd15.TransformerBlock.UPSTREAM, call)


BUILDERS: dict[str, Callable[[dict, dict], Replica]] = {  # how the name of upstream's class begins -> our block
    r"DiTBlock\b": _dit_block,
    r"DiT\b": _dit,
    r"FinalLayer\b|LastLayer\b": _final,
    r"PixArtBlock\b": _pixart_block,
    r"t_block \+ PixArtBlock\b": _pixart_stack,
    r"JointBlock\b": _sd3,
    r"DoubleStreamBlock\b": _flux_double,
    r"SingleStreamBlock\b": _flux_single,
    r"QwenImageTransformerBlock\b": _qwen,
    r"JointTransformerBlock\b": _sandwich(
        lumina2.Block,
        lambda k: lumina2.hidden_width(k["dim"], k["multiple_of"], k.get("ffn_dim_multiplier")),
    ),
    r"ZImageTransformerBlock\b": _sandwich(zimage.Block, lambda k: zimage.hidden_width(k["dim"])),
    r"TransformerBlock\b": _hdm_block,
    r"XUDiT\.shared_adaln": _hdm_stack,
    r"XUDiT\b": _hdm,
    r"BasicTransformerBlock\b": _sd15,
}
