"""Build a model from a name on the command line, `package.module:factory` or `diffusers:Class`, and a pass for it.

Arguments are tried on a small instance of the class; then it is run on the meta device, at full size, with shapes but
without values or memory.
"""

import contextlib
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adaln_lab.analysis.xray.arguments import SIDE, Arguments, find_pass, mended, quiet, runs
from adaln_lab.analysis.xray.examples import EXAMPLES
from adaln_lab.utils.files import read_json

Run = Callable[[], Any]
NEEDED = {  # for arguments of a class whose default is None
    "in_channels": 32, "out_channels": 32, "patch_size": 2, "num_embeds_ada_norm": 10, "sample_size": SIDE,
    "cross_attention_dim": None, "caption_channels": 64,
}  # fmt: skip
WIDTHS = ("hidden_size", "dim", "model_dim", "embed_dim", "d_model", "dit_dim", "inner_dim")
SMALL = 2  # heads and layers of a small instance


def load(spec: str, config: Path | None = None) -> tuple[nn.Module, list[Run]]:
    """The module, and a pass of it if one could be found. ValueError if the module cannot be built."""
    place, _, name = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"expected package.module:factory or diffusers:Class, got {spec!r}: {error}") from error
    if not callable(factory):
        raise ValueError(f"{spec} is no factory: expected a function or a class, got {type(factory).__name__}")
    if place == "diffusers":
        if not (isinstance(factory, type) and issubclass(factory, nn.Module)):
            raise ValueError(f"{spec} is no model: expected a class of modules, as diffusers:FluxTransformer2DModel")
        return published(factory, {} if config is None else read_settings(config))
    if config is not None:
        raise ValueError("--config is for classes of diffusers; a factory takes no arguments")
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec} must need no arguments ({error}); write a function around it") from error
    try:
        made = factory()
    except Exception as error:  # of any type, from the reader's code
        raise ValueError(f"{spec} raised {type(error).__name__}: {first_line(error)}") from error
    module, *run = made if isinstance(made, tuple) else (made,)
    return module, run


def small(spec: str, config: Path | None) -> tuple[nn.Module | None, Run | None]:
    """A small instance of a class of diffusers, and its pass."""
    cls = getattr(importlib.import_module("diffusers"), spec.partition(":")[2])
    module, found = small_with_pass(cls, {} if config is None else read_settings(config))
    return (module, lambda: module(**found.values(found.device))) if module and found else (module, None)


def read_settings(config: Path) -> dict[str, Any]:
    settings = read_json(config, "a configuration of diffusers, an object")
    if not isinstance(settings, dict):
        raise ValueError(f"{config} must hold a configuration of diffusers, an object, and holds {settings!r:.60}")
    return settings


def published(cls: type, settings: dict[str, Any]) -> tuple[nn.Module, list[Run]]:
    """The class at full size on meta with a pass; a small instance where no pass runs on meta."""
    small, found = small_with_pass(cls, settings)
    try:
        full = build(cls, settings, "meta")
    except Exception as error:
        if not found:
            raise ValueError(f"{cls.__name__} cannot be built: {first_line(error)}") from error
        full = None
    if found and (full is None or not runs(full, found, "meta")):
        return small, [lambda: small(**found.values(found.device))]
    found = found or find_pass(full)
    return full, [lambda: full(**found.values("meta"))] if found else []


def small_with_pass(cls: type, settings: dict[str, Any]) -> "tuple[nn.Module | None, Arguments | None]":
    """A small instance and arguments with which it runs."""
    if cls.__name__ in EXAMPLES and not settings:
        example, shapes = EXAMPLES[cls.__name__]
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(0)
            small = cls(**example).eval()
        found = Arguments(small, None)
        found.shapes = shapes
        found.types |= {n: "bool" if "mask" in n else "float" for n in shapes}
        return (small, found) if mended(small, found, "cpu") else (None, None)
    for is_wide in (False, True):
        small = small_instance(cls, settings, is_wide)
        if small and (found := find_pass(small)):
            return small, found
    return None, None


def build(cls: type, settings: dict[str, Any], device: str) -> nn.Module:
    with torch.device(device), quiet():
        return (cls.from_config(settings) if settings else cls()).to(device).eval()


def small_instance(cls: type, settings: dict[str, Any], is_wide: bool = False) -> nn.Module | None:
    """An instance with two layers of each kind and, if not `is_wide`, two heads; None where that cannot be built."""
    whole = {n: p.default for n, p in inspect.signature(cls.__init__).parameters.items() if n != "self"} | settings
    heads = next((v for n, v in whole.items() if re.search(r"(^|_)(n|num)?_?(attention_)?heads$", n) and v), 1)
    head = next((v for n, v in whole.items() if n.endswith("head_dim") and isinstance(v, int)), 0)
    width = next((whole[n] for n in WIDTHS if isinstance(whole.get(n), int)), 0) or (heads or 1) * head
    narrow, changed = SMALL * head or width * SMALL // (heads or 1), {}
    for name, value in whole.items():
        if name in NEEDED and value in (None, inspect.Parameter.empty):
            changed[name] = NEEDED[name] or narrow or 64
        elif value is None and name.endswith("heads"):
            changed[name] = SMALL
        elif value and isinstance(value, list | tuple) and re.search(r"_layers$", name):  # numbers of layers
            changed[name] = [v for v in value if v < SMALL] or [0]
        elif not isinstance(value, int) or isinstance(value, bool) or not isinstance(heads, int):
            continue
        elif re.search(r"(layers|blocks|depth)$", name):
            changed[name] = min(value, SMALL)
        elif re.search(r"heads$", name):
            changed[name] = SMALL if value > 1 else value
        elif re.search(r"lora|rank", name):
            changed[name] = 4 * SMALL
        elif name in WIDTHS or (value == width and value > 16):
            changed[name] = narrow
        elif (
            name.endswith("hidden_dim") and (own := whole.get(f"{name[:-10]}num_attention_heads")) and value % own == 0
        ):
            changed[name] = SMALL * value // own
        elif re.search(r"intermediate_size$|^(ffn_hidden_size|ffn_dim|ff_dim|d_ff)$", name):
            changed[name] = 64
    generated = {n: c for n, c in changed.items() if n not in NEEDED or whole[n] is not None}
    fewer = {n: v for n, v in changed.items() if re.search(r"(layers|blocks|depth)$", n)}
    basic = {n: v for n, v in changed.items() if n in ("in_channels", "out_channels")}
    for attempt in (generated, generated | basic, changed, fewer)[3 * is_wide :]:
        with contextlib.suppress(Exception), quiet():  # of any type, from the published class: the next attempt
            with torch.device("meta"):
                size = sum(p.numel() for p in cls(**(settings | attempt)).parameters())
            if size < 3e8 or is_wide:
                device = "cpu" if size < 3e8 else "meta"
                with torch.random.fork_rng(devices=[]), torch.device(device):
                    torch.manual_seed(0)
                    return cls(**(settings | attempt)).to(device).eval()
    return None


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
