"""Build a model from a name on the command line, `package.module:factory` or `diffusers:Class`, and passes for it.

Classes of diffusers are built on the meta device: at full size, with shapes but without values or memory.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adaln_lab.utils.files import read_json

B, TOKENS, TEXT_TOKENS, SIDE = 2, 16, 7, 4
TEXT_WIDTHS = (  # names of the text embedding's width in configurations
    "joint_attention_dim", "cap_feat_dim", "caption_channels", "text_embed_dim", "text_dim", "cross_attention_dim",
)  # fmt: skip


def load(spec: str, config: Path | None = None) -> tuple[nn.Module, list[Callable[[], Any]]]:
    """The module, and passes to try one after the other. ValueError if the module cannot be built."""
    place, _, name = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"expected package.module:factory or diffusers:Class, got {spec!r}: {error}") from error
    if not callable(factory):
        raise ValueError(f"{spec} is no factory: expected a function or a class, got {type(factory).__name__}")
    if place != "diffusers":
        if config is not None:
            raise ValueError("--config is for classes of diffusers; a factory takes no arguments")
        try:
            inspect.signature(factory).bind()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{spec} must need no arguments ({error}); write a function around it") from error
        made = factory()
        module, *run = made if isinstance(made, tuple) else (made,)
        return module, run
    settings = {} if config is None else read_json(config, "a configuration of diffusers, an object")
    try:
        with torch.device("meta"):
            module = factory.from_config(settings) if settings else factory()
        module = module.to("meta").eval()
    except Exception as error:  # of any type, from the published class
        raise ValueError(f"{spec} cannot be built from {config or 'its defaults'}: {error}") from error
    return module, list(passes(module))


def passes(model: nn.Module) -> Iterator[Callable[[], Any]]:
    """Forward calls with arguments by their names in diffusers; the input as tokens, as an image and as a video."""
    config, names = model.config, list(inspect.signature(model.forward).parameters)
    channels, side = config.get("in_channels") or 4, config.get("sample_size") or SIDE
    side = min(side, 64) if isinstance(side, int) else SIDE
    text = next((w for key in TEXT_WIDTHS if isinstance(w := config.get(key), int)), 64)
    axes = len(config.get("axes_dims_rope") or (1, 1, 1))
    one, mask = empty(B), torch.ones(B, TEXT_TOKENS, dtype=torch.bool, device="meta")
    given = {
        "timestep": one, "t": one, "guidance": one, "timestep_r": one,
        "class_labels": torch.zeros(B, dtype=torch.long, device="meta"),
        "encoder_hidden_states": empty(B, TEXT_TOKENS, text),
        "pooled_projections": empty(B, config.get("pooled_projection_dim")),
        "encoder_attention_mask": mask, "encoder_hidden_states_mask": mask,
        "img_ids": empty(TOKENS, axes), "txt_ids": empty(TEXT_TOKENS, axes), "img_shapes": [[(1, 4, 4)]] * B,
        "added_cond_kwargs": {"resolution": empty(B, 2), "aspect_ratio": empty(B, 1)},
        "num_frames": 1, "height": 4, "width": 4,
    }  # fmt: skip
    if not config.get("guidance_embeds"):
        given.pop("guidance")
    known = {name: value for name, value in given.items() if name in names}
    for shape in (
        (B, TOKENS, channels),
        (B, channels, side, side),
        (B, channels, SIDE, side, side),
        (B, SIDE, channels, side, side),
    ):
        yield lambda shape=shape: model(**known, **{names[0]: empty(*shape)})


def empty(*shape: int | None) -> torch.Tensor:
    return torch.empty([size or 1 for size in shape], device="meta")
