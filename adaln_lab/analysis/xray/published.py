"""Build a model from a name on the command line, `package.module:factory` or `diffusers:Class`, and a pass for it.

What a class of diffusers wants for a pass is read from its signature, docstring and configuration, and mended after
each refusal. This is tried on a small instance of the class; then it is run on the meta device, at full size, with
shapes but without values or memory.
"""

import contextlib
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adaln_lab.utils.files import read_json

B, TOKENS, TEXT_TOKENS, SIDE, TRIES = 2, 16, 7, 8, 24
Run = Callable[[], Any]
TEXT_WIDTHS = (  # names of the text embedding's width in configurations
    "joint_attention_dim", "cap_feat_dim", "caption_channels", "text_embed_dim", "text_dim", "text_in_dim",
    "context_in_dim", "cross_attention_dim",
)  # fmt: skip
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


def quiet() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore")


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def device_of(model: nn.Module) -> str:
    return next((p.device.type for p in model.parameters()), "cpu")


def find_pass(model: nn.Module) -> "Arguments | None":
    """Arguments with which the model runs, found by trying; None if none were."""
    device = device_of(model)
    for layout in (None, (B, TOKENS, "C"), (B, "C", SIDE, SIDE), (B, "C", SIDE, SIDE, SIDE), (B, SIDE, "C", SIDE, SIDE),
                   (1, "C", SIDE, SIDE, SIDE), (B, 1, SIDE, SIDE, "C"), (B, "C")):  # fmt: skip
        arguments = Arguments(model, layout)
        if mended(model, arguments, device):
            return arguments
    return None


def mended(model: nn.Module, arguments: "Arguments", device: str) -> bool:
    """Whether the model runs with these arguments, after some were mended."""
    for _ in range(TRIES):
        if runs(model, arguments, device):
            return True
        if not arguments.mend():
            return False
    return False


def runs(model: nn.Module, arguments: "Arguments", device: str) -> bool:
    try:
        with torch.no_grad(), quiet(), torch.random.fork_rng(devices=[]):
            model(**arguments.values(device))
        return True
    except Exception as error:  # of any type, from the published class
        arguments.refusal = f"{type(error).__name__}: {error}"
        return False


class Arguments:
    """The arguments of a pass: their shapes and types, which each refusal can mend."""

    def __init__(self, model: nn.Module, layout: tuple | None):
        self.device = device_of(model)
        self.config = dict(getattr(model, "config", {}))
        self.module = sys.modules[type(model).__module__]
        self.parameters = {n: p for n, p in inspect.signature(model.forward).parameters.items() if n != "return_dict"}
        self.doc = inspect.getdoc(type(model).forward) or ""
        self.main = next(iter(self.parameters))
        self.refusal, self.seen, self.dropped, self.n_resized = "", set(), set(), 0
        self.channels = self.config.get("in_channels") or 4
        self.rows = [n for n in self.parameters if n.endswith("_indices") and f"num_{n[:-8]}_tokens" in self.doc]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        for name, p in self.parameters.items():
            if p.default is p.empty or name in USUAL:
                self.add(name)
        if layout:
            self.shapes[self.main] = tuple(self.channels if n == "C" else n for n in layout)

    def add(self, name: str) -> None:
        """An argument of the shape that the docstring says, else of a usual one."""
        annotation = str(self.parameters[name].annotation)
        shape = re.search(r"\(([\w +*,()]*?,[\w +*,()]*?)\)`", self.section(name))
        if name == "guidance" and not self.config.get("guidance_embeds"):
            return
        fixed = next((s(self) for key, s in FIXED.items() if re.search(key, name)), None)
        if fixed:
            self.shapes[name] = fixed
        elif shape and (name != self.main or shape[1].count(",") > 1):
            self.shapes[name] = tuple(self.size(s, name) for s in re.split(r",(?![^(]*\))", shape[1]) if s.strip())
        elif name == self.main:
            self.shapes[name] = (B, TOKENS, self.channels)
        else:
            self.shapes[name] = next((s(self) for key, s in SHAPES.items() if re.search(key, name)), (B,))
        if name == "global_hidden_states":  # a token
            self.shapes[name] = (B, 1, *self.shapes[name][2:])
        self.types[name] = (
            "list" if re.match(r"(typing\.)?(list|List)\[torch", annotation) or "list[torch" in annotation
            else "int" if re.fullmatch(r"(<class 'int'>|int)( \| None)?|typing.Optional\[int\]", annotation)
            else "bool" if "mask" in name or "drop" in name
            else "long" if name == "style" or (re.search(r"ids?$|indi|index|labels|lens|tags|token_id", name)
            and not re.search("img_ids|txt_ids", name))
            else "float"
        )  # fmt: skip

    def size(self, symbol: str, name: str) -> int:
        """What a symbol in a docstring's shape is, such as `text_seq_len`."""
        symbol = symbol.strip().lower().replace("batch size", "batch")
        if "+" in symbol:
            return sum(self.size(part, name) for part in symbol.split("+"))
        if symbol.isdigit():
            return int(symbol)
        if isinstance(value := self.config.get(symbol), int):
            return value
        if "prod(patch_size)" in symbol:
            patch = self.config["patch_size"]
            channels = self.config.get(symbol.split("*")[0].strip()) or self.channels
            return channels * int(torch.tensor(patch).prod())
        if symbol == "seq_len" and self.rows:
            return len(self.rows) * TOKENS
        for key, size in (
            ("batch|^b$", B), ("^c$", self.channels), ("frame", 1 if "num" in symbol else SIDE),
            ("height|width|^[hw]$", SIDE),
            ("channel", self.channels), ("num_timesteps", B), ("vlm", TEXT_TOKENS + TOKENS // 4),
            ("text|txt|cap|key|prompt", self.text_tokens(name)),
            ("dim|embed", self.channels if name == self.main else self.text_width(name)),
        ):  # fmt: skip
            if re.search(key, symbol) and not (key.startswith("text") and ("dim" in symbol or self.rows)):
                return size
        joint = re.search(rf"\b{re.escape(symbol)}\b", self.section(self.main))
        return TOKENS if joint or name == self.main or self.rows else self.text_tokens(name)

    def text_tokens(self, name: str) -> int:
        """How many: some models have a table of positions of one length."""
        return (
            self.config.get("max_text_seq_length")
            or self.config.get(f"text_len{'_t5' * ('t5' in name)}")
            or TEXT_TOKENS
        )

    def text_width(self, name: str = "") -> int:
        if "t5" in name and "cross_attention_dim_t5" in self.config:
            return self.config["cross_attention_dim_t5"]
        return next((w for key in TEXT_WIDTHS if isinstance(w := self.config.get(key), int)), 64)

    def values(self, device: str) -> dict[str, Any]:
        return {name: self.value(name, device) for name in self.shapes}

    def value(self, name: str, device: str) -> Any:
        shape, kind = self.shapes[name], self.types[name]
        if callable(shape):
            return shape()
        if name in ("img_shapes", "image_shapes"):
            return [[(1, 4, 4)]] * B
        if name == "visual_rope_pos":
            return [torch.arange(n, device=device) for n in (1, SIDE // 2, SIDE // 2)]
        if name == "text_rope_pos":
            return torch.arange(TEXT_TOKENS, device=device)
        if name == "added_cond_kwargs":
            return {"resolution": torch.ones(B, 2, device=device), "aspect_ratio": torch.ones(B, 1, device=device)}
        if kind == "int":
            return 1 if "frame" in name else 4
        if kind == "list":
            return [self.tensor(name, shape[1:], "float", device) for _ in range(B)]
        return self.tensor(name, shape, kind, device)

    def tensor(self, name: str, shape: tuple[int, ...], kind: str, device: str) -> torch.Tensor:
        if kind == "float":
            if device == "meta":
                return torch.empty(shape, device="meta")
            return torch.rand(shape) if len(shape) < 2 else torch.randn(shape)
        if kind == "bool":
            mask = torch.ones(shape, dtype=torch.bool, device=device)
            if name == "img_mask":  # of image slots: each stands for 2 x 2 tokens
                mask[:, : -(TOKENS // 4)] = False
            return mask
        values = torch.zeros(shape, dtype=torch.long)
        constants = [getattr(self.module, c) for c in re.findall(r"`([A-Z_]{6,})`", self.section(name))]
        tags = re.findall(r"`(\d)` (\w+)", self.section(name))
        if name in self.rows:
            values = torch.arange(TOKENS) + TOKENS * self.rows.index(name)
        elif constants and all(isinstance(c, int) for c in constants):
            values = (
                torch.tensor(constants).repeat_interleave(-(-shape[-1] // len(constants)))[: shape[-1]].expand(shape)
            )
        elif tags and self.rows:
            number = {modality: int(n) for n, modality in tags}
            values = torch.tensor([number.get(n[:-8], 0) for n in self.rows]).repeat_interleave(TOKENS)
        elif "lens" in name:
            values = torch.full(shape, TEXT_TOKENS)
        elif name.endswith("indices"):
            values = torch.arange(shape[-1]).remainder(B).expand(shape)
        return values.to(device)

    def section(self, name: str) -> str:
        """What the docstring says of an argument."""
        found = re.search(rf"^ *`?{name}`? ?[(:].*(\n(?! *`?\w+`? ?(\(|: )| *[A-Z]\w+:$).+)*", self.doc, re.M)
        return found[0] if found else ""

    def mend(self) -> bool:
        """Change what the last refusal complains of. False if that is not known, or was tried."""
        said = self.refusal
        state = (said, str(self.shapes), str(self.types))
        if state in self.seen:
            return False
        self.seen.add(state)
        if m := re.search(r"shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x\d+\)", said):
            return self.resize(int(m[2]), int(m[3]), rows=int(m[1])) or self.resize(int(m[2]), int(m[3]))
        if m := re.search(r"normalized_shape=\[(\d+)\].*size ?\[.*?(\d+)\]", said):
            return self.resize(int(m[2]), int(m[1]))
        if m := re.search(r"to have (\d+) channels, but got (\d+) channels", said):
            right, wrong = int(m[1]), int(m[2])
            main = self.shapes[self.main][-1]  # with the channels of another argument
            return self.resize(wrong, right, anywhere=True) or (
                0 < right - (wrong - main) != main and self.resize(main, right - (wrong - main))
            )
        if m := re.search(r"tensor a \((\d+)\) must match the size of tensor b \((\d+)\)", said):
            a, b = int(m[1]), int(m[2])
            if masks := [n for n in self.shapes if "mask" in n and self.shapes[n] == (B, b - a)]:
                self.shapes |= dict.fromkeys(masks, (B, a))  # padded where it was too short
                return True
            if masks := [n for n in self.shapes if "mask" in n and self.parameters[n].default is None]:
                self.dropped |= set(masks)
                self.shapes = {n: s for n, s in self.shapes.items() if n not in masks}
                return True
            self.n_resized += 1
            return self.n_resized < 5 and (self.resize(b, a, anywhere=True) or self.resize(a, b, anywhere=True))
        if "expected 2, got 1" in said and (
            times := [n for n in self.shapes if "time" in n and len(self.shapes[n]) == 1]
        ):
            self.shapes |= dict.fromkeys(times, (B, self.shapes[self.main][1]))
            return True
        if "not callable" in said and (last := [n for n in self.shapes if self.parameters[n].default is None]):
            self.dropped.add(last[-1])  # for a part that this instance has not
            del self.shapes[last[-1]]
            return True
        if (m := re.search(r"input of size: \[([\d, ]+)\]", said)) and (
            names := [n for n, s in self.shapes.items() if str(list(s)) == f"[{m[1]}]" and n != self.main]
        ):
            self.shapes[names[-1]] = self.shapes[self.main]  # what was added last
            return True
        if re.search(r"indices.*(Long|Int)|must be long|indices must be|expected.*(scalar|dtype).*Long", said):
            names = [
                n for n in self.shapes if n != self.main and self.types[n] == "float" and re.search("id|label|time", n)
            ]
            self.types |= dict.fromkeys(names[:1], "long")
            return bool(names)
        if re.search(r"bool|Boolean|Subtraction, the `-` operator", said):
            names = [n for n in self.shapes if self.types[n] == "bool"]
            self.types |= dict.fromkeys(names, "float")
            return bool(names)
        optional = [
            n for n in self.parameters if n not in self.shapes and n not in self.dropped and not re.search(SKIPPED, n)
        ]
        named = [n for n in optional if re.search(rf"\b{n}\b", said)] or optional
        if re.search(r"None|must be|required|missing|provide", said) and named:
            self.add(named[0])
            return True
        return False

    def resize(self, wrong: int, right: int, anywhere: bool = False, rows: int = 0) -> bool:
        """Give the arguments whose last axis (or any axis) has the wrong size the right one."""
        names = [n for n, s in self.shapes.items() if (wrong in s[1:] if anywhere else s and s[-1] == wrong)]
        names = [n for n in names if not rows or torch.Size(self.shapes[n][:-1]).numel() == rows]
        names = [n for n in names if n != self.main] or names
        for name in names:
            shape = list(self.shapes[name])
            last = len(shape) - 1 - shape[::-1].index(wrong)
            shape[last] = right
            self.shapes[name] = tuple(shape)
        return bool(names)


SKIPPED = "kwargs|controlnet|kv_cache|cache|return|ip_|processor|skip|block_samples"
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
USUAL = {  # optional arguments that a pass usually has
    "timestep", "timesteps", "t", "class_labels", "encoder_hidden_states", "pooled_projections", "img_ids", "txt_ids",
    "encoder_attention_mask", "encoder_hidden_states_mask", "img_shapes", "added_cond_kwargs", "num_frames", "height",
    "width", "guidance", "padding_mask",
}  # fmt: skip
FIXED = {
    "global_hidden_states": lambda a: (B, 1, a.text_width()),
    "class_labels|^style": lambda a: (B,),
    "image_meta_size": lambda a: (B, 6),
}  # whatever a docstring says
SHAPES = {  # of arguments whose docstring says none: by their names in diffusers
    "padding_mask": lambda a: (1, 1, SIDE, SIDE),
    "prior_token": lambda a: (B, TOKENS),
    "mask_t5": lambda a: (B, a.text_tokens("t5")),
    "mask": lambda a: (B, a.text_tokens("")),
    "_lens$": lambda a: (B,),
    "^img_ids|^position_ids": lambda a: (TOKENS, len(a.config.get("axes_dims_rope") or (1, 1, 1))),
    "^txt_ids": lambda a: (TEXT_TOKENS, len(a.config.get("axes_dims_rope") or (1, 1, 1))),
    "pooled": lambda a: (B, a.config.get("pooled_projection_dim") or 64),
    "original_size|target_size|crop_coords": lambda a: (B, 2),
    "rope_pos|rotary": lambda a: (TOKENS,),
    "cap_feats": lambda a: (B, TEXT_TOKENS, a.text_width()),
    "states_t5": lambda a: (B, a.text_tokens("t5"), a.text_width("t5")),
    "image_embeds|hidden_states|text|embed|encod|context": lambda a: (B, a.text_tokens(""), a.text_width()),
}
