"""Arguments with which a published model runs, found by trying.

What a class of diffusers wants is read from its signature, docstring and configuration, and mended after each refusal.
"""

import inspect
import re
import sys
import warnings
from typing import Any

import torch
from torch import nn

B, TOKENS, TEXT_TOKENS, SIDE, TRIES = 2, 16, 7, 8, 24
LAYOUTS = (  # of the main argument; C: its channels
    None, (B, TOKENS, "C"), (B, "C", SIDE, SIDE), (B, "C", SIDE, SIDE, SIDE), (B, 1, SIDE, SIDE, "C"), (B, "C"),
)  # fmt: skip
TEXT_WIDTHS = (  # names of the text embedding's width in configurations
    "joint_attention_dim", "cap_feat_dim", "caption_channels", "text_embed_dim", "text_dim", "text_in_dim",
    "context_in_dim", "cross_attention_dim",
)  # fmt: skip
SKIPPED = "kwargs|controlnet|kv_cache|cache|return|ip_|processor|skip|block_samples"
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


def quiet() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore")


def device_of(model: nn.Module) -> str:
    return next((p.device.type for p in model.parameters()), "cpu")


def find_pass(model: nn.Module) -> "Arguments | None":
    """Arguments with which the model runs, found by trying; None if none were."""
    device = device_of(model)
    for layout in LAYOUTS:
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
        if (state := (said, str(self.shapes))) in self.seen:
            return False
        self.seen.add(state)
        if m := re.search(r"shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x\d+\)", said):
            return self.resize(int(m[2]), int(m[3]), rows=int(m[1])) or self.resize(int(m[2]), int(m[3]))
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
