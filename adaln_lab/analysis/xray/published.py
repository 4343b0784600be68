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

from adaln_lab.analysis.xray.arguments import SIDE, Arguments, B, find_pass, mended, quiet, runs
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
        return small, [lambda: small(**found.values(found.device))]
    if found is None:
        found = find_pass(full)
        return full, [lambda: full(**found.values("meta"))] if found else []
    if runs(full, found, "meta"):
        return full, [lambda: full(**found.values("meta"))]
    return small, [lambda: small(**found.values(found.device))]


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


EXAMPLES = {  # classes whose defaults are no model of theirs, or whose arguments nothing says: settings, shapes
    "LatteTransformer3DModel": (
        dict(norm_type="ada_norm_single", norm_elementwise_affine=False, num_attention_heads=2, attention_head_dim=8,
             in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=16, sample_size=8, patch_size=2,
             caption_channels=64, video_length=2),
        dict(hidden_states=(B, 4, 2, SIDE, SIDE), encoder_hidden_states=(B, 7, 64), timestep=(B,)),
    ),
    "HiDreamImageTransformer2DModel": (
        dict(num_attention_heads=2, attention_head_dim=8, patch_size=2, in_channels=4, num_layers=2,
             num_single_layers=2, caption_channels=[24, 20], text_emb_dim=12, axes_dims_rope=(4, 2, 2),
             max_resolution=(8, 8), llama_layers=[0, 1, 2, 3]),
        dict(hidden_states=(B, 4, SIDE, SIDE), timesteps=(B,), encoder_hidden_states_t5=(B, 5, 24),
             encoder_hidden_states_llama3=(4, B, 5, 20), pooled_embeds=(B, 12)),
    ),
    "BriaFiboTransformer2DModel": (
        dict(in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
             joint_attention_dim=24, axes_dims_rope=(4, 4, 8), text_encoder_dim=20),
        dict(hidden_states=(B, 16, 4), encoder_hidden_states=(B, 5, 24), timestep=(B,), img_ids=(16, 3), txt_ids=(5, 3),
             text_encoder_layers=(4, B, 5, 20)),
    ),
    "WanVACETransformer3DModel": (
        dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=20, freq_dim=16,
             ffn_dim=32, num_layers=2, vace_layers=[0, 1], vace_in_channels=6),
        dict(hidden_states=(B, 4, 2, SIDE, SIDE), timestep=(B,), encoder_hidden_states=(B, 5, 20),
             control_hidden_states=(B, 6, 2, SIDE, SIDE)),
    ),
    "HunyuanVideo15Transformer3DModel": (
        dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2,
             num_refiner_layers=2, text_embed_dim=24, text_embed_2_dim=20, image_embed_dim=12, rope_axes_dim=(2, 2, 4)),
        dict(hidden_states=(B, 4, 2, 4, 4), timestep=(B,), encoder_hidden_states=(B, 5, 24),
             encoder_attention_mask=(B, 5), encoder_hidden_states_2=(B, 3, 20), encoder_attention_mask_2=(B, 3),
             image_embeds=(B, 2, 12)),
    ),
    "StableAudio3DiTModel": (
        dict(io_channels=4, embed_dim=16, depth=2, num_heads=2, cond_token_dim=24, global_cond_dim=12,
             local_add_cond_dim=3, timestep_features_dim=16, ff_mult=2.0, num_memory_tokens=2),
        dict(hidden_states=(B, 4, SIDE), timestep=(B,), encoder_hidden_states=(B, 5, 24), global_hidden_states=(B, 12)),
    ),
    "LuminaNextDiT2DModel": (
        dict(sample_size=8, hidden_size=16, num_layers=2, num_attention_heads=2, num_kv_heads=2, multiple_of=8,
             cross_attention_dim=24),
        dict(hidden_states=(B, 4, SIDE, SIDE), timestep=(B,), encoder_hidden_states=(B, 5, 24), encoder_mask=(B, 5),
             image_rotary_emb=lambda: torch.polar(torch.ones(8, 8, 4), torch.rand(8, 8, 4)),
             cross_attention_kwargs=dict),
    ),
    "T5FilmDecoder": (
        dict(input_dims=4, targets_length=8, max_decoder_noise_time=100.0, d_model=16, num_layers=2, num_heads=2,
             d_kv=8, d_ff=24),
        dict(encodings_and_masks=lambda: [(torch.randn(B, 5, 16), torch.ones(B, 5))],
             decoder_input_tokens=(B, 8, 4), decoder_noise_time=(B,)),
    ),
    "OmniGenTransformer2DModel": (
        dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, intermediate_size=24, num_layers=2,
             pad_token_id=0, vocab_size=20, max_position_embeddings=32, original_max_position_embeddings=32,
             rope_scaling={"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}, pos_embed_max_size=8,
             time_step_dim=16),
        dict(hidden_states=(B, 4, SIDE, SIDE), timestep=(B,), input_ids=lambda: torch.randint(1, 20, (B, 5)),
             input_img_latents=list, input_image_sizes=dict, attention_mask=lambda: torch.ones(B, 22, 22),
             position_ids=lambda: torch.arange(22).expand(B, -1)),
    ),
    "TransformerTemporalModel": (
        dict(num_attention_heads=2, attention_head_dim=8, in_channels=32, num_layers=2),
        dict(hidden_states=(B, 32, SIDE, SIDE)),
    ),
    "Kandinsky6Transformer3DModel": (
        dict(in_visual_dim=4, out_visual_dim=4, in_text_dim=24, in_text_dim2=12, time_dim=32, model_dim=32, ff_dim=64,
             num_text_blocks=2, num_visual_blocks=2, axes_dims=(4, 6, 6), visual_cond=False, model_dim_a=32,
             time_dim_a=32, ff_dim_a=64, axes_dims_a=(16,)),
        dict(hidden_states=(1, 2, SIDE, SIDE, 4), encoder_hidden_states=(1, 5, 24), pooled_projections=(1, 12),
             timestep=(1,)),
    ),
}  # fmt: skip
