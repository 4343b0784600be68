"""What is true of further diffusers classes: tiny instances, a pass for each, and the row an x-ray must find.

Every row was established by reading the class (diffusers 0.42) and by experiments (`test_xray_classes.py`), never by
the x-ray, so that it can judge it. The words are those of `golden/xray.json`. Four things are conventions:

- a field that is missing says nothing; a field that is `either(a, b)` accepts any of its values;
- groups and final layers are AdaLN's: they are to be compared where the verdict is `adaln` or `final_layer_only`;
- `also_allowed` lists blocks that a tool may report or leave out;
- in `chunk_order` a leading `/` means a path from the model's root (a Linear that blocks share), else from the block.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn, randn

Build = Callable[[], tuple[nn.Module, Callable[[], Any]]]
MODELS: dict[str, Build] = {}
TRUTH: dict[str, dict] = {}

B = 2  # two different items, each with its own timestep where the class permits
SSG, SG = "shift scale gate ", "scale gate "


class either(tuple):
    """Any of these values is right: what is a matter of definition, or reads two ways."""

    def __new__(cls, *values: Any) -> "either":
        return super().__new__(cls, values)


def group(
    blocks: str,
    block_class: str,
    n: int,
    chunks: dict[str, str],
    bias: bool = True,
    table: str | tuple[str, ...] = "scale_shift_table",
    **fields: Any,
) -> dict:
    """One kind of modulated block: the roles say how many vectors it has, the chunks' modules own the parameters.

    `table` names the parameters of a block that are added to a shared Linear's output.
    """
    paths = [blocks.replace("*", str(i)) for i in range(n)]
    roles = " ".join(chunks.values()).split()
    linears = [module[1:] if module.startswith("/") else f"{path}.{module}" for path in paths for module in chunks]
    params = {f"{linear}.{end}" for linear in linears for end in (("weight", "bias") if bias else ("weight",))}
    if fields.get("source") == "shared_linear_plus_table":
        params |= {f"{path}.{own}" for path in paths for own in ((table,) if isinstance(table, str) else table)}
    return {
        "blocks": blocks,
        "block_class": block_class,
        "n_blocks": n,
        "n_vectors_per_block": len(roles),
        "has_scale": "scale" in roles,
        "has_shift": "shift" in roles,
        "has_gate": "gate" in roles,
        "gate_bounding": "raw" if "gate" in roles else "none",
        "chunk_order": [{"module": module, "roles": order.split()} for module, order in chunks.items()],
        "base_norm": "LayerNorm",
        "base_norm_affine": False,
        "post_norm": "none",
        "source": "per_block_linear",
        "activation_before_linear": "SiLU",
        "all_zero_now": False,
        "modulation_params": sorted(params),
    } | fields


def table_group(*place: Any, **fields: Any) -> dict:
    """A group whose vectors are a shared Linear's output plus a table in each block."""
    return group(*place, source="shared_linear_plus_table", **fields)


def final(
    module: str, roles: str = "scale shift", norm: str = "LayerNorm", affine: bool = False, activation: Any = "SiLU"
) -> dict:
    """The modulated last layer; diffusers' own `AdaLayerNormContinuous` chunks scale first."""
    return {"module": module, "roles": roles.split(), "norm": norm, "affine": affine, "activation": activation}


TABLE_FINAL = final("TABLE scale_shift_table + raw t_emb", "shift scale", activation="none")  # as PixArt
NARROW = either("per_block_linear", "low_rank")  # its own Linear, on a condition of another width than the stream


def quietly(call: Callable, **arguments: Any) -> Any:
    """Calls without what diffusers says of its own deprecations, and Mochi of float32 autocast on a CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="In CPU autocast")
        return call(**arguments)


def add(
    name: str,
    cls: str,
    config: dict,
    inputs: Callable[[], dict],
    *groups: dict,
    verdict: str = "adaln",
    empty: tuple[str, ...] = (),
    **row: Any,
) -> None:
    """Registers a class of diffusers: its arguments, the inputs of a pass (drawn once), and its row.

    `empty` names the endings of parameters that the class leaves as the memory it found: they are drawn, too.
    """

    def build() -> tuple[nn.Module, Callable[[], Any]]:
        import diffusers  # here, so that the table can be read where it is not to be had

        torch.manual_seed(0)
        model = quietly(getattr(diffusers, cls), **config).eval()
        for parameter, values in model.named_parameters():
            if parameter.endswith(empty):
                nn.init.normal_(values, std=0.1)
        fixed = inputs()
        return model, lambda: quietly(model, **fixed)

    MODELS[name] = build
    TRUTH[name] = {
        "cls": cls,
        "verdict": verdict,
        "groups": list(groups),
        "final_layer": None,
        "accept_also": [],
        "note": "",
    } | row


def steps() -> torch.Tensor:
    return torch.tensor([3.0, 700.0])


def image(channels: int = 4, *size: int) -> torch.Tensor:
    return randn(B, channels, *(size or (8, 8)))


def text(width: int = 24, length: int = 5) -> torch.Tensor:
    return randn(B, length, width)


HEADS = dict(num_attention_heads=2, attention_head_dim=8)  # 16 channels

# a table: as many arguments to a line as it holds
# fmt: off

# --- one Linear in each block ---------------------------------------------------------------------------------------

add(
    "auraflow", "AuraFlowTransformer2DModel",
    HEADS | dict(
        sample_size=8, num_mmdit_layers=2, num_single_dit_layers=2, joint_attention_dim=24, caption_projection_dim=16,
        pos_embed_max_size=64,
    ),
    lambda: dict(hidden_states=image(), encoder_hidden_states=text(), timestep=torch.rand(B)),
    group(
        "joint_transformer_blocks.*", "AuraFlowJointTransformerBlock", 2,
        {"norm1.linear": 2 * SSG, "norm1_context.linear": 2 * SSG}, bias=False,
    ),
    group("single_transformer_blocks.*", "AuraFlowSingleTransformerBlock", 2, {"norm1.linear": 2 * SSG}, bias=False),
    final_layer=final("norm_out.linear", norm="none"),
    note="The gated attention branch enters the MLP's norm, not the residual; the final layer modulates a stream that "
    "no norm has touched, so that its `affine` says nothing.",
)

add(
    "cogvideox", "CogVideoXTransformer3DModel",
    HEADS | dict(
        in_channels=4, out_channels=4, time_embed_dim=20, text_embed_dim=24, num_layers=2, sample_width=8,
        sample_height=8, sample_frames=5, max_text_seq_length=5,
    ),
    lambda: dict(hidden_states=randn(B, 2, 4, 8, 8), encoder_hidden_states=text(), timestep=steps()),
    group(
        "transformer_blocks.*", "CogVideoXBlock", 2, {"norm1.linear": 2 * SSG, "norm2.linear": 2 * SSG},
        base_norm_affine=True, source=NARROW,
    ),
    final_layer=final("norm_out.linear", "shift scale", affine=True),
    note="One Linear per sub-layer, both streams; the affine LayerNorm is shared by the streams. An affine LayerNorm "
    "(norm_final) without modulation stands before the final one.",
)

add(
    "cogview3plus", "CogView3PlusTransformer2DModel",
    HEADS | dict(
        in_channels=4, num_layers=2, out_channels=4, text_embed_dim=24, time_embed_dim=20, condition_dim=2,
        pos_embed_max_size=8, sample_size=8,
    ),
    lambda: dict(
        hidden_states=image(), encoder_hidden_states=text(), timestep=steps(),
        original_size=torch.tensor([[64.0, 64.0], [32.0, 48.0]]), target_size=torch.full((B, 2), 64.0),
        crop_coords=torch.zeros(B, 2),
    ),
    group("transformer_blocks.*", "CogView3PlusTransformerBlock", 2, {"norm1.linear": 4 * SSG}, source=NARROW),
    final_layer=final("norm_out.linear"),
    note="The first six vectors are the image's, the last six the text's.",
)

add(
    "cogview4", "CogView4Transformer2DModel",
    HEADS | dict(
        in_channels=4, num_layers=2, out_channels=4, text_embed_dim=24, time_embed_dim=20, condition_dim=2,
        pos_embed_max_size=8, sample_size=8, rope_axes_dim=(8, 8),
    ),
    lambda: dict(
        hidden_states=image(), encoder_hidden_states=text(), timestep=steps(),
        original_size=torch.tensor([[64.0, 64.0], [32.0, 48.0]]), target_size=torch.full((B, 2), 64.0),
        crop_coords=torch.zeros(B, 2),
    ),
    group(
        "transformer_blocks.*", "CogView4TransformerBlock", 2,
        {"norm1.linear": 2 * "shift shift scale scale gate gate "}, source=NARROW,
    ),
    final_layer=final("norm_out.linear"),
    note="Image and text alternate. SiLU is applied once, in the model's forward, as a function.",
)

# --- a shared Linear and a table in each block -----------------------------------------------------------------------

add(
    "sana", "SanaTransformer2DModel",
    HEADS | dict(
        in_channels=4, out_channels=4, num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=8,
        cross_attention_dim=16, caption_channels=24, sample_size=8,
    ),
    lambda: dict(hidden_states=image(), encoder_hidden_states=text(), timestep=steps()),
    table_group("transformer_blocks.*", "SanaTransformerBlock", 2, {"/time_embed.linear": 2 * SSG}),
    final_layer=TABLE_FINAL,
    note="GLUMBConv's gate comes from the features, not from the condition.",
)


def wan(name: str, cls: str, block_class: str, frames: int = 2, **config: Any) -> None:
    add(
        name, cls,
        dict(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=20, freq_dim=16,
            ffn_dim=32, num_layers=2, rope_max_seq_len=32,
        )
        | config,
        lambda: dict(
            hidden_states=image(4, frames, 8, 8), timestep=torch.tensor([3, 700]), encoder_hidden_states=text(20)
        ),
        table_group("blocks.*", block_class, 2, {"/condition_embedder.time_proj": 2 * SSG}),
        final_layer=TABLE_FINAL,
        note="The affine LayerNorm before the cross-attention is not modulated.",
    )


wan("wan", "WanTransformer3DModel", "WanTransformerBlock")
wan("chronoedit", "ChronoEditTransformer3DModel", "WanTransformerBlock", rope_temporal_skip_len=8)
wan("skyreels_v2", "SkyReelsV2Transformer3DModel", "SkyReelsV2TransformerBlock")

add(
    "ltx_video", "LTXVideoTransformer3DModel",
    HEADS | dict(in_channels=4, out_channels=4, cross_attention_dim=16, num_layers=2, caption_channels=24),
    lambda: dict(
        hidden_states=randn(B, 8, 4), encoder_hidden_states=text(), timestep=steps(),
        encoder_attention_mask=torch.ones(B, 5), num_frames=2, height=2, width=2,
    ),
    table_group(
        "transformer_blocks.*", "LTXVideoTransformerBlock", 2, {"/time_embed.linear": 2 * SSG},
        base_norm="RMSNorm",
    ),
    final_layer=TABLE_FINAL,
    note="RMSNorm in the blocks, LayerNorm at the end. The vectors have a token axis (of length 1 here).",
)

add(
    "allegro", "AllegroTransformer3DModel",
    HEADS | dict(
        cross_attention_dim=16, num_layers=2, sample_height=8, sample_width=8, sample_frames=2, caption_channels=24,
    ),
    lambda: dict(hidden_states=image(4, 2, 8, 8), encoder_hidden_states=text(), timestep=steps()),
    table_group("transformer_blocks.*", "AllegroTransformerBlock", 2, {"/adaln_single.linear": 2 * SSG}),
    final_layer=TABLE_FINAL,
    note="norm3 is never used.",
)

add(
    "latte", "LatteTransformer3DModel",
    HEADS | dict(
        in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=16, attention_bias=True, sample_size=8,
        patch_size=2, activation_fn="gelu-approximate", norm_type="ada_norm_single", norm_elementwise_affine=False,
        norm_eps=1e-6, caption_channels=24, video_length=2,
    ),
    lambda: dict(hidden_states=image(4, 2, 8, 8), encoder_hidden_states=text(), timestep=steps()),
    *[
        table_group(f"{kind}transformer_blocks.*", "BasicTransformerBlock", 2, {"/adaln_single.linear": 2 * SSG})
        for kind in ("", "temporal_")
    ],
    final_layer=TABLE_FINAL,
    note="Spatial blocks see batch x frames, temporal ones batch x patches; both take the same shared Linear.",
)

# --- a shift or a gate alone -----------------------------------------------------------------------------------------

add(
    "hunyuan_dit", "HunyuanDiT2DModel",
    HEADS | dict(
        in_channels=4, patch_size=2, sample_size=8, hidden_size=16, num_layers=4, cross_attention_dim=24,
        cross_attention_dim_t5=32, pooled_projection_dim=20, text_len=5, text_len_t5=6,
        use_style_cond_and_image_meta_size=False,
    ),
    lambda: dict(
        hidden_states=image(), timestep=steps(), encoder_hidden_states=text(), text_embedding_mask=torch.ones(B, 5),
        encoder_hidden_states_t5=text(32, 6), text_embedding_mask_t5=torch.ones(B, 6),
    ),
    group("blocks.*", "HunyuanDiTBlock", 4, {"norm1.linear": "shift"}, base_norm_affine=True),
    final_layer=final("norm_out.linear"),
    note="Only the self-attention's norm is shifted; block 3 takes a long skip, which changes no field.",
)


def hunyuan(kind: str, config: dict, inputs: Callable[[], dict]) -> None:
    add(
        f"hunyuan_{kind.lower()}",
        f"Hunyuan{kind}Transformer{'3D' if kind == 'Video' else '2D'}Model".replace("Image2D", "ImageTransformer2D"),
        HEADS | dict(in_channels=4, out_channels=4, num_layers=2, num_single_layers=2, num_refiner_layers=2) | config,
        inputs,
        group(
            "transformer_blocks.*", f"Hunyuan{kind}TransformerBlock", 2,
            {"norm1.linear": 2 * SSG, "norm1_context.linear": 2 * SSG},
        ),
        group("single_transformer_blocks.*", f"Hunyuan{kind}SingleTransformerBlock", 2, {"norm.linear": SSG}),
        group(
            "context_embedder.token_refiner.refiner_blocks.*", f"Hunyuan{kind}IndividualTokenRefinerBlock", 2,
            {"norm_out.linear": "gate gate"}, base_norm_affine=True,
        ),
        final_layer=final("norm_out.linear"),
        note="The text refiner's blocks have a gate for each sub-layer, no scale and no shift; their condition is the "
        "timestep and the mean of the text, through an embedder of their own.",
    )


hunyuan(
    "Video", dict(text_embed_dim=24, pooled_projection_dim=20, rope_axes_dim=(2, 2, 4)),
    lambda: dict(
        hidden_states=image(4, 2, 8, 8), timestep=steps(), encoder_hidden_states=text(),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool), pooled_projections=randn(B, 20),
        guidance=torch.tensor([1000.0, 4000.0]),
    ),
)
hunyuan(
    "Image", dict(text_embed_dim=24, patch_size=(2, 2), rope_axes_dim=(4, 4)),
    lambda: dict(
        hidden_states=image(), timestep=steps(), encoder_hidden_states=text(),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool),
    ),
)

# --- RMSNorm, no shift, bounded gates --------------------------------------------------------------------------------

MOCHI = dict(base_norm="RMSNorm", gate_bounding="tanh", post_norm=either("RMSNorm", "RMSNorm not affine"))
add(
    "mochi", "MochiTransformer3DModel",
    HEADS | dict(
        num_layers=2, pooled_projection_dim=20, in_channels=4, text_embed_dim=24, time_embed_dim=16,
        max_sequence_length=5,
    ),
    lambda: dict(
        hidden_states=image(4, 2, 8, 8), encoder_hidden_states=text(), timestep=steps(),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool),
    ),
    group(
        "transformer_blocks.0", "MochiTransformerBlock", 1,
        {"norm1.linear": 2 * SG, "norm1_context.linear": 2 * SG}, **MOCHI,
    ),
    group(
        "transformer_blocks.1", "MochiTransformerBlock", 1,
        {"norm1.linear": 2 * SG, "norm1_context.linear_1": "scale"}, **MOCHI,
    ),
    final_layer=final("norm_out.linear"),
    note="The last block's text stream has a scale alone. The streams have different widths.",
)

add(
    "lumina_next", "LuminaNextDiT2DModel",
    dict(
        sample_size=8, hidden_size=16, num_layers=2, num_attention_heads=2, num_kv_heads=2, multiple_of=8,
        cross_attention_dim=24,
    ),
    lambda: dict(
        hidden_states=image(), timestep=torch.rand(B), encoder_hidden_states=text(), encoder_mask=torch.ones(B, 5),
        image_rotary_emb=torch.polar(torch.ones(8, 8, 4), randn(8, 8, 4)), cross_attention_kwargs={},
    ),
    group(
        "layers.*", "LuminaNextDiTBlock", 2, {"norm1.linear": 2 * SG}, base_norm="RMSNorm", base_norm_affine=True,
        gate_bounding="tanh", post_norm="RMSNorm affine",
    ),
    empty=("pad_token",),
    final_layer=final("norm_out.linear_1", "scale"),
    note="Each block also has a learned gate per head for the cross-attention (tanh, 0 at construction): no condition "
    "reaches it.",
)

# --- other sources ---------------------------------------------------------------------------------------------------


def lora(n: int) -> list[str]:
    return [f"transformer_blocks.{i}.norm{k}.linear_{j}.weight" for i in range(n) for k in (1, 2, 3) for j in (1, 2)]


add(
    "cosmos", "CosmosTransformer3DModel",
    dict(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=2, text_embed_dim=24,
        adaln_lora_dim=4, max_size=(2, 8, 8), concat_padding_mask=False, extra_pos_embed_type=None,
    ),
    lambda: dict(hidden_states=image(4, 2, 8, 8), timestep=torch.tensor([3, 700]), encoder_hidden_states=text()),
    group(
        "transformer_blocks.*", "CosmosTransformerBlock", 2, {f"norm{k}.linear_2": SSG for k in (1, 2, 3)},
        source="low_rank", activation_before_linear=either("SiLU", "none"),
        modulation_params=either(
            sorted([*lora(2), "time_embed.t_embedder.linear_2.weight"]), sorted(lora(2)),
            sorted(p for p in lora(2) if "linear_2" in p),
            sorted([*(p for p in lora(2) if "linear_2" in p), "time_embed.t_embedder.linear_2.weight"]),
        ),
    ),
    final_layer=final("norm_out.linear_2", "shift scale", activation=either("SiLU", "none")),
    note="SiLU stands before the down-projection, nothing before the up-projection. A 3d vector of the timestep, "
    "time_embed.t_embedder.linear_2, is added to every sub-layer's (and its first 2d to the final one).",
)

add(
    "chroma", "ChromaTransformer2DModel",
    dict(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    ),
    lambda: dict(
        hidden_states=randn(B, 6, 4), encoder_hidden_states=text(), timestep=torch.rand(B), img_ids=randn(6, 3),
        txt_ids=randn(5, 3),
    ),
    *[
        {
            key: value
            for key, value in group(blocks, block_class, 2, {"": roles}, source="approximator").items()
            if key not in ("chunk_order", "modulation_params", "activation_before_linear")
        }
        for blocks, block_class, roles in (
            ("transformer_blocks.*", "ChromaTransformerBlock", 4 * SSG),
            ("single_transformer_blocks.*", "ChromaSingleTransformerBlock", SSG),
        )
    ],
    final_layer={"roles": ["shift", "scale"], "norm": "LayerNorm", "affine": False},
    note="One network (distilled_guidance_layer) is asked once for every vector of every block: which of its "
    "parameters are modulation is a matter of definition.",
)

add(
    "flux2", "Flux2Transformer2DModel",
    dict(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
    ),
    lambda: dict(
        hidden_states=randn(B, 6, 4), encoder_hidden_states=text(), timestep=torch.rand(B), img_ids=randn(6, 4),
        txt_ids=randn(5, 4), guidance=torch.tensor([1.0, 4.0]),
    ),
    group(
        "transformer_blocks.*", "Flux2TransformerBlock", 2,
        {"/double_stream_modulation_img.linear": 2 * SSG, "/double_stream_modulation_txt.linear": 2 * SSG},
        bias=False, source="fully_shared",
    ),
    group(
        "single_transformer_blocks.*", "Flux2SingleTransformerBlock", 2,
        {"/single_stream_modulation.linear": SSG}, bias=False, source="fully_shared",
    ),
    final_layer=final("norm_out.linear"),
)

# --- not in the blocks, or not at all --------------------------------------------------------------------------------

add(
    "omnigen", "OmniGenTransformer2DModel",
    dict(
        hidden_size=16, num_attention_heads=2, num_key_value_heads=2, intermediate_size=24, num_layers=2,
        pad_token_id=0, vocab_size=20, max_position_embeddings=32, original_max_position_embeddings=32,
        rope_scaling={"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}, pos_embed_max_size=8, time_step_dim=16,
    ),
    lambda: dict(
        hidden_states=image(), timestep=torch.rand(B), input_ids=torch.randint(1, 20, (B, 5)), input_img_latents=[],
        input_image_sizes={}, attention_mask=torch.ones(B, 22, 22), position_ids=torch.arange(22).expand(B, -1),
    ),
    verdict="final_layer_only", final_layer=final("norm_out.linear", "shift scale"),
    note="In the blocks the timestep is a token. An affine RMSNorm without modulation stands before the final norm.",
)

add(
    "stable_audio", "StableAudioDiTModel",
    HEADS | dict(
        sample_size=8, in_channels=4, num_layers=2, num_key_value_attention_heads=2, out_channels=4,
        cross_attention_dim=16, time_proj_dim=8, global_states_input_dim=12, cross_attention_input_dim=24,
    ),
    lambda: dict(
        hidden_states=image(4, 8), timestep=torch.rand(B), encoder_hidden_states=text(),
        global_hidden_states=randn(B, 1, 12), rotary_embedding=(randn(9, 4).cos(), randn(9, 4).sin()),
    ),
    verdict="none",
    note="Timestep and duration are one more token, prepended.",
)

# --- more of each kind ------------------------------------------------------------------------------------------------


def flux_like(name: str, prefix: str, cls: str, config: dict, inputs: Callable[[], dict] = dict) -> None:
    add(
        name, cls,
        dict(
            in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, axes_dims_rope=(4, 4, 8),
        )
        | config,
        lambda: (
            dict(
                hidden_states=randn(B, 6, 4), encoder_hidden_states=text(), timestep=torch.rand(B),
                img_ids=randn(6, 3), txt_ids=randn(5, 3),
            )
            | inputs()
        ),
        group(
            "transformer_blocks.*", f"{prefix}TransformerBlock", 2,
            {"norm1.linear": 2 * SSG, "norm1_context.linear": 2 * SSG},
        ),
        group("single_transformer_blocks.*", f"{prefix}SingleTransformerBlock", 2, {"norm.linear": SSG}),
        final_layer=final("norm_out.linear"),
        note="The family of Flux.1.",
    )


flux_like("bria", "Bria", "BriaTransformer2DModel", {}, lambda: dict(timestep=steps()))
flux_like(
    "bria_fibo", "BriaFibo", "BriaFiboTransformer2DModel", dict(text_encoder_dim=20),
    lambda: dict(timestep=steps(), text_encoder_layers=[text(20) for _ in range(4)]),
)
flux_like("longcat_image", "LongCatImage", "LongCatImageTransformer2DModel", {})
flux_like("ovis_image", "OvisImage", "OvisImageTransformer2DModel", dict(out_channels=4))

add(
    "hidream_image", "HiDreamImageTransformer2DModel",
    HEADS | dict(
        patch_size=2, in_channels=4, num_layers=2, num_single_layers=2, caption_channels=[24, 20], text_emb_dim=12,
        axes_dims_rope=(4, 2, 2), max_resolution=(8, 8), llama_layers=[0, 1, 2, 3],
    ),
    lambda: dict(
        hidden_states=image(), timesteps=steps(), encoder_hidden_states_t5=text(),
        encoder_hidden_states_llama3=randn(4, B, 5, 20), pooled_embeds=randn(B, 12),
    ),
    group("double_stream_blocks.*.block", "HiDreamImageTransformerBlock", 2, {"adaLN_modulation.1": 4 * SSG}),
    group("single_stream_blocks.*.block", "HiDreamImageSingleTransformerBlock", 2, {"adaLN_modulation.1": 2 * SSG}),
    final_layer=final("final_layer.adaLN_modulation.1", "shift scale"),
    note="Each block stands in a wrapper that only calls it. The image's MLP is a mixture of experts, whose router "
    "sees the modulated tokens.",
)

add(
    "consisid", "ConsisIDTransformer3DModel",
    HEADS | dict(
        in_channels=4, out_channels=4, time_embed_dim=20, text_embed_dim=24, num_layers=2, sample_width=8,
        sample_height=8, sample_frames=5, max_text_seq_length=5,
    ),
    lambda: dict(hidden_states=randn(B, 2, 4, 8, 8), encoder_hidden_states=text(), timestep=steps()),
    group(
        "transformer_blocks.*", "ConsisIDBlock", 2, {"norm1.linear": 2 * SSG, "norm2.linear": 2 * SSG},
        base_norm_affine=True, source=NARROW,
    ),
    final_layer=final("norm_out.linear", "shift scale", affine=True),
)

add(
    "easyanimate", "EasyAnimateTransformer3DModel",
    HEADS | dict(
        attention_head_dim=16, in_channels=4, out_channels=4, patch_size=2, sample_width=8, sample_height=8,
        num_layers=2, mmdit_layers=1, time_embed_dim=20, text_embed_dim=24,
    ),
    lambda: dict(hidden_states=image(4, 2, 8, 8), timestep=steps(), encoder_hidden_states=text()),
    group(
        "transformer_blocks.*", "EasyAnimateTransformerBlock", 2,
        {"norm1.linear": 2 * SSG, "norm2.linear": 2 * SSG}, base_norm_affine=True, source=NARROW,
    ),
    final_layer=final("norm_out.linear", "shift scale", affine=True),
    note="Block 0 has attention and MLP weights of its own for the text, block 1 shares the image's: no field differs.",
)

add(
    "glm_image", "GlmImageTransformer2DModel",
    HEADS | dict(
        in_channels=4, out_channels=4, num_layers=2, text_embed_dim=24, time_embed_dim=20, condition_dim=2,
        prior_vq_quantizer_codebook_size=10,
    ),
    lambda: dict(
        hidden_states=image(), encoder_hidden_states=text(), prior_token_id=torch.randint(0, 10, (B, 16)),
        prior_token_drop=torch.zeros(B, 16, dtype=torch.bool), timestep=steps(),
        target_size=torch.tensor([[64.0, 64.0], [32.0, 48.0]]), crop_coords=torch.zeros(B, 2),
    ),
    group(
        "transformer_blocks.*", "GlmImageTransformerBlock", 2,
        {"norm1.linear": 2 * "shift shift scale scale gate gate "}, source=NARROW,
    ),
    final_layer=final("norm_out.linear"),
    note="Image and text alternate. SiLU is applied once, as a function, by the condition's embedder.",
)

add(
    "sana_video", "SanaVideoTransformer3DModel",
    dict(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=20,
        sample_size=8, rope_max_seq_len=32,
    ),
    lambda: dict(hidden_states=image(4, 2, 8, 8), encoder_hidden_states=text(20), timestep=steps()),
    table_group("transformer_blocks.*", "SanaVideoTransformerBlock", 2, {"/time_embed.linear": 2 * SSG}),
    final_layer=TABLE_FINAL,
    note="The vectors have a token axis (of length 1 here).",
)

add(
    "kandinsky5", "Kandinsky5Transformer3DModel",
    dict(
        in_visual_dim=4, in_text_dim=24, in_text_dim2=12, time_dim=20, out_visual_dim=4, model_dim=16, ff_dim=24,
        num_text_blocks=2, num_visual_blocks=2, axes_dims=(4, 2, 2),
    ),
    lambda: dict(
        hidden_states=randn(B, 2, 4, 4, 4), encoder_hidden_states=text(), timestep=steps(),
        pooled_projections=randn(B, 12), visual_rope_pos=[torch.arange(2), torch.arange(2), torch.arange(2)],
        text_rope_pos=torch.arange(5),
    ),
    *[
        group(
            f"{kind}_transformer_blocks.*", f"Kandinsky5Transformer{coder}Block", 2,
            {f"{kind}_modulation.out_layer": sublayers * SSG}, source=NARROW, all_zero_now=True,
        )
        for kind, coder, sublayers in (("text", "Encoder", 2), ("visual", "Decoder", 3))
    ],
    final_layer=final("out_layer.modulation.out_layer", "shift scale"),
    note="All zero at construction, the final layer's modulation too: as handed over no condition moves anything.",
)

add(
    "prx", "PRXTransformer2DModel",
    dict(
        in_channels=4, patch_size=2, context_in_dim=24, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=2,
        axes_dim=[4, 4],
    ),
    lambda: dict(hidden_states=image(), timestep=torch.rand(B), encoder_hidden_states=text()),
    group("blocks.*", "PRXBlock", 2, {"modulation.lin": 2 * SSG}, all_zero_now=True),
    final_layer=final("final_layer.adaLN_modulation.1", "shift scale"),
    note="The blocks' Linears are zero at construction, the final one's is not.",
)

add(
    "ernie_image", "ErnieImageTransformer2DModel",
    dict(
        hidden_size=16, num_attention_heads=2, num_layers=2, ffn_hidden_size=24, in_channels=4, out_channels=4,
        text_in_dim=24, rope_axes_dim=(4, 2, 2),
    ),
    lambda: dict(hidden_states=image(), timestep=steps(), text_bth=text(), text_lens=torch.tensor([5, 3])),
    group(
        "layers.*", "ErnieImageSharedAdaLNBlock", 2, {"/adaLN_modulation.1": 2 * SSG}, base_norm="RMSNorm",
        base_norm_affine=True, source="fully_shared", all_zero_now=True,
    ),
    final_layer=final("final_norm.linear", activation="none"),
    note="The stream is [tokens, batch, width]. The last Linear is zero too: the output at construction is 0.",
)

add(
    "krea2", "Krea2Transformer2DModel",
    dict(
        in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, timestep_embed_dim=16, text_hidden_dim=12, num_text_layers=3,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=16,
        num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2),
    ),
    lambda: dict(
        hidden_states=randn(B, 6, 4), encoder_hidden_states=randn(B, 5, 3, 12), timestep=torch.rand(B),
        position_ids=randn(11, 3),
    ),
    table_group(
        "transformer_blocks.*", "Krea2TransformerBlock", 2, {"/time_mod_proj": 2 * "scale shift gate "},
        base_norm="RMSNorm", base_norm_affine=True,
        activation_before_linear=either("GELU", "GELU-like", "other"),
    ),
    final_layer={"roles": ["scale", "shift"], "norm": "RMSNorm", "affine": True, "activation": "none"},
    unmodulated_blocks=["text_fusion.layerwise_blocks.*", "text_fusion.refiner_blocks.*"],
    note="GELU (tanh) before the shared Linear; the tables are zero at construction, the Linear is not. The norm's "
    "weight is 1 + w. The final layer is a table plus the raw t_emb. The attention has a gate of its own that comes "
    "from the tokens.",
)

add(
    "nucleus_moe", "NucleusMoEImageTransformer2DModel",
    dict(
        in_channels=4, out_channels=1, num_layers=2, attention_head_dim=24, num_attention_heads=2,
        joint_attention_dim=20, axes_dims_rope=(8, 8, 8), dense_moe_strategy="leave_first_block_dense", num_experts=2,
        moe_intermediate_dim=16, capacity_factors=1.0,
    ),
    lambda: dict(
        hidden_states=randn(B, 16, 4), img_shapes=[(1, 4, 4)] * B, encoder_hidden_states=text(20),
        encoder_hidden_states_mask=torch.ones(B, 5, dtype=torch.bool), timestep=torch.rand(B),
    ),
    group(
        "transformer_blocks.*", "NucleusMoEImageTransformerBlock", 2, {"img_mod.1": 2 * SG},
        gate_bounding="clamp(+-2) then tanh",
    ),
    empty=("experts.gate_up_proj", "experts.down_proj"),
    final_layer=final("norm_out.linear"),
    note="Block 0 has a dense MLP, block 1 a mixture of experts whose router also reads the timestep (concatenated): "
    "no field differs.",
)

add(
    "ideogram4", "Ideogram4Transformer2DModel",
    dict(
        in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, intermediate_size=24, adaln_dim=12,
        llm_features_dim=20, mrope_section=(2, 1, 1),
    ),
    lambda: dict(
        hidden_states=randn(B, 11, 4), timestep=torch.rand(B), encoder_hidden_states=randn(B, 11, 20),
        position_ids=torch.arange(11)[None, :, None].expand(B, -1, 3),
        segment_ids=torch.zeros(B, 11, dtype=torch.long),
        indicator=torch.tensor([3] * 5 + [2] * 6).expand(B, -1),  # text, then image
    ),
    group(
        "layers.*", "Ideogram4TransformerBlock", 2, {"adaln_modulation": 2 * SG}, base_norm="RMSNorm",
        base_norm_affine=True, gate_bounding="tanh", post_norm="RMSNorm affine", source=NARROW,
    ),
    final_layer=final("final_layer.adaln_modulation", "scale"),
    note="SiLU once, as a function, in the model's forward (and a second time before the final Linear).",
)

add(
    "qwenimage21", "QwenImage21Transformer2DModel",
    dict(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, context_in_dim=24,
        axes_dims_rope=(4, 4, 8),
    ),
    lambda: dict(
        hidden_states=randn(B, 16, 4), encoder_hidden_states=text(), timestep=torch.rand(B),
        img_shapes=[[(1, 4, 4)]] * B, img_mask=torch.tensor([False] * 5 + [True] * 4).expand(B, -1),
    ),
    group(
        "transformer_blocks.*", "QwenImage21TransformerBlock", 2, {"/modulation.1": 2 * SG}, bias=False,
        gate_bounding="tanh", source="fully_shared",
    ),
    final_layer=final("norm_out.linear", "scale"),
    note="Image tokens are modulated by their timestep, text tokens by t = 0: chosen token by token.",
)

add(
    "bria_fibo2", "BriaFibo2Transformer2DModel",
    dict(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, cap_feat_dim=20, injection_layer_ids=(1,),
        perceiver_num_layers=1, min_num_gist_tokens=2, max_num_gist_tokens=4, gist_step=2, gist_min_text_len=2,
        gist_max_text_len=8, axes_dims=(8, 4, 4), axes_lens=(32, 16, 16),
    ),
    lambda: dict(hidden_states=image(), timestep=torch.rand(B), encoder_hidden_states=randn(B, 2, 5, 20)),
    *[
        group(
            blocks, "BriaFibo2TransformerBlock", n, {"adaLN_modulation.0": 2 * SG}, base_norm="RMSNorm",
            base_norm_affine=True, gate_bounding="tanh", post_norm="RMSNorm affine", activation_before_linear="none",
            source=NARROW,
        )
        for blocks, n in (("layers.*", 2), ("noise_refiner.*", 1))
    ],
    final_layer=final("final_layer.adaLN_modulation.1", "scale"), unmodulated_blocks=["perceiver.layers.*"],
    note="In `layers` the image's tokens are modulated by the timestep, the others by t = 0: chosen token by token. "
    "layers.1 has a cross-attention behind a learned gate (0 at construction), which is no field.",
)

add(
    "hunyuan_video15", "HunyuanVideo15Transformer3DModel",
    HEADS | dict(
        in_channels=4, out_channels=4, num_layers=2, num_refiner_layers=2, text_embed_dim=24, text_embed_2_dim=20,
        image_embed_dim=12, rope_axes_dim=(2, 2, 4),
    ),
    lambda: dict(
        hidden_states=image(4, 2, 4, 4), timestep=steps(), encoder_hidden_states=text(),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool), encoder_hidden_states_2=text(20, 3),
        encoder_attention_mask_2=torch.ones(B, 3, dtype=torch.bool), image_embeds=text(12, 2),
    ),
    group(
        "transformer_blocks.*", "HunyuanVideo15TransformerBlock", 2,
        {"norm1.linear": 2 * SSG, "norm1_context.linear": 2 * SSG},
    ),
    group(
        "context_embedder.token_refiner.refiner_blocks.*", "HunyuanVideo15IndividualTokenRefinerBlock", 2,
        {"norm_out.linear": "gate gate"}, base_norm_affine=True,
    ),
    final_layer=final("norm_out.linear"),
)

add(
    "hunyuan_video_framepack", "HunyuanVideoFramepackTransformer3DModel",
    HEADS | dict(
        in_channels=4, out_channels=4, num_layers=2, num_single_layers=2, num_refiner_layers=2, text_embed_dim=24,
        pooled_projection_dim=12, rope_axes_dim=(2, 2, 4), has_image_proj=True, image_proj_dim=20,
        has_clean_x_embedder=True,
    ),
    lambda: dict(
        hidden_states=image(4, 2, 8, 8), timestep=steps(), encoder_hidden_states=text(), image_embeds=text(20, 3),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool), pooled_projections=randn(B, 12),
        guidance=torch.rand(B), indices_latents=torch.arange(11, 13), latents_clean=image(4, 2, 8, 8),
        indices_latents_clean=torch.tensor([0, 10]), latents_history_2x=image(4, 2, 8, 8),
        indices_latents_history_2x=torch.arange(8, 10), latents_history_4x=image(4, 4, 8, 8),
        indices_latents_history_4x=torch.arange(4, 8),
    ),
    group(
        "transformer_blocks.*", "HunyuanVideoTransformerBlock", 2,
        {"norm1.linear": 2 * SSG, "norm1_context.linear": 2 * SSG},
    ),
    group("single_transformer_blocks.*", "HunyuanVideoSingleTransformerBlock", 2, {"norm.linear": SSG}),
    group(
        "context_embedder.token_refiner.refiner_blocks.*", "HunyuanVideoIndividualTokenRefinerBlock", 2,
        {"norm_out.linear": "gate gate"}, base_norm_affine=True,
    ),
    final_layer=final("norm_out.linear"),
    note="Earlier frames are tokens of the same stream, embedded more coarsely the older they are.",
)

add(
    "stable_audio3", "StableAudio3DiTModel",
    dict(
        io_channels=4, embed_dim=16, depth=2, num_heads=2, cond_token_dim=24, global_cond_dim=12,
        local_add_cond_dim=3, timestep_features_dim=16, ff_mult=2.0, num_memory_tokens=2,
    ),
    lambda: dict(
        hidden_states=image(4, 8), timestep=torch.rand(B), encoder_hidden_states=text(),
        global_hidden_states=randn(B, 12),
    ),
    table_group(
        "transformer_blocks.*", "StableAudio3DiTBlock", 2, {"/global_cond_embedder.2": 2 * "scale shift gate "},
        table="to_scale_shift_gate", base_norm="RMSNorm", base_norm_affine=True,
        gate_bounding=either("sigmoid", "sigmoid(1-g)"),
    ),
    note="The gate is sigmoid(1 - g): 0.73 where g is 0. The table is one vector of 6d. There is no modulated final "
    "layer, nor a norm.",
)


def longcat_audio(kind: str, **fields: Any) -> None:
    add(
        f"longcat_audio_{kind}", "LongCatAudioDiTTransformer",
        dict(
            dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=24, latent_dim=4, adaln_type=kind,
            cross_attn_norm=True, use_latent_condition=False, ff_mult=2.0,
        ),
        lambda: dict(
            hidden_states=randn(B, 8, 4), encoder_hidden_states=text(),
            encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool), timestep=torch.rand(B),
        ),
        group("blocks.*", "AudioDiTBlock", 2, **fields),
        final_layer=final("norm_out.linear"),
        note="LayerNorm as a function. The final modulation and the last Linear are zero: the output at construction "
        "is 0. The cross-attention's LayerNorms are affine and not modulated.",
    )


longcat_audio(
    "global", chunks={"/adaln_global_mlp.mlp.1": 2 * "gate scale shift "}, table="adaln_scale_shift",
    source="shared_linear_plus_table",
)
longcat_audio("local", chunks={"adaln_mlp.mlp.1": 2 * "gate scale shift "}, all_zero_now=True)

add(
    "ace_step", "AceStepTransformer1DModel",
    dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, in_channels=12, audio_acoustic_hidden_dim=4, sliding_window=4, encoder_hidden_size=24,
    ),
    lambda: dict(
        hidden_states=randn(B, 8, 4), timestep=torch.tensor([0.3, 0.9]), timestep_r=torch.tensor([0.1, 0.2]),
        encoder_hidden_states=text(), context_latents=randn(B, 8, 8),
    ),
    table_group(
        "layers.*", "AceStepTransformerBlock", 2,
        {"/time_embed.time_proj": 2 * SSG, "/time_embed_r.time_proj": 2 * SSG}, n_vectors_per_block=6,
        base_norm="RMSNorm", base_norm_affine=True,
    ),
    final_layer=final("TABLE scale_shift_table + raw t_emb", "shift scale", "RMSNorm", True, "none"),
    note="Two shared Linears, of t and of t - r, are added before the table.",
)

add(
    "joyimage_edit", "JoyImageEditTransformer3DModel",
    dict(in_channels=4, hidden_size=16, num_attention_heads=2, text_dim=24, num_layers=2, rope_dim_list=[4, 2, 2]),
    lambda: dict(hidden_states=image(4, 1, 8, 8), timestep=steps(), encoder_hidden_states=text()),
    table_group(
        "double_blocks.*", "JoyImageTransformerBlock", 2, {"/condition_embedder.time_proj": 2 * SSG},
        table=("img_mod.modulate_table", "txt_mod.modulate_table"), n_vectors_per_block=either(12, 6),
    ),
    note="Six vectors from the shared Linear, to which each stream adds a table of its own: twelve. The tables are "
    "zero at construction, the Linear is not. The final norm is not modulated.",
)

add(
    "joyimage_edit_plus", "JoyImageEditPlusTransformer3DModel",
    dict(in_channels=4, hidden_size=16, num_attention_heads=2, text_dim=24, num_layers=2, rope_dim_list=[4, 2, 2]),
    lambda: dict(
        hidden_states=randn(B, 8, 4, 1, 2, 2), timestep=steps(), encoder_hidden_states=text(),
        shape_list=B * [[(1, 2, 2), (1, 2, 2)]],
    ),
    table_group(
        "double_blocks.*", "JoyImageEditPlusTransformerBlock", 2, {"/condition_embedder.time_proj": 2 * SSG},
        table=("img_mod.modulate_table", "txt_mod.modulate_table"), n_vectors_per_block=either(12, 6),
    ),
    note="As joyimage_edit; patches of several images come as one list.",
)

add(
    "wan_vace", "WanVACETransformer3DModel",
    dict(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=20, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=32, vace_layers=[0, 1], vace_in_channels=6,
    ),
    lambda: dict(
        hidden_states=image(4, 2, 8, 8), timestep=torch.tensor([3, 700]), encoder_hidden_states=text(20),
        control_hidden_states=image(6, 2, 8, 8),
    ),
    *[
        table_group(blocks, block_class, 2, {"/condition_embedder.time_proj": 2 * SSG})
        for blocks, block_class in (("blocks.*", "WanTransformerBlock"), ("vace_blocks.*", "WanVACETransformerBlock"))
    ],
    final_layer=TABLE_FINAL,
    note="The control's blocks stand beside the main ones and hand them hints.",
)

add(
    "wan_animate", "WanAnimateTransformer3DModel",
    dict(
        num_attention_heads=2, attention_head_dim=12, in_channels=12, latent_channels=4, out_channels=4, text_dim=20,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32, image_dim=16, motion_encoder_size=16,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8}, motion_style_dim=8, motion_dim=4, motion_encoder_dim=8,
        face_encoder_hidden_dim=16, face_encoder_num_heads=2, inject_face_latents_blocks=2,
    ),
    lambda: dict(
        hidden_states=image(12, 5, 8, 8), timestep=torch.tensor([3, 700]), encoder_hidden_states=text(20),
        encoder_hidden_states_image=text(16, 3), pose_hidden_states=image(4, 4, 8, 8),
        face_pixel_values=image(3, 13, 16, 16),
    ),
    table_group("blocks.*", "WanTransformerBlock", 2, {"/condition_embedder.time_proj": 2 * SSG}),
    final_layer=TABLE_FINAL,
    note="Wan's blocks. Pose is added to the tokens, the face comes by cross-attention after a block: no vectors.",
)

SINGLE = [f"single_stream_modulations.{stream}.linear" for stream in ("image", "txt")]
add(
    "flux3", "Flux3Transformer2DModel",
    dict(
        in_channels=4, cond_in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=24, timestep_channels=16, axes_dims_rope=(4, 4, 4, 4),
    ),
    lambda: dict(
        hidden_states=randn(B, 6, 4), encoder_hidden_states=text(), timestep=torch.rand(B), img_ids=randn(6, 4),
        txt_ids=randn(5, 4),
    ),
    *[
        group(
            "mode_blocks.image.*", "Flux3ModeTransformerBlock", 2, {"/early_stream_modulations.image.linear": SSG},
            bias=False, source="fully_shared",
        ),
        group(
            "single_transformer_blocks.*", "Flux3SingleTransformerBlock", 2, {f"/{SINGLE[0]}": SSG}, bias=False,
            source="fully_shared", n_vectors_per_block=either(3, 6),
            chunk_order=either(
                *(
                    [{"module": f"/{linear}", "roles": SSG.split()} for linear in linears]
                    for linears in (SINGLE[:1], SINGLE)
                )
            ),
            modulation_params=either(*([f"{linear}.weight" for linear in ls] for ls in (SINGLE[:1], SINGLE))),
        ),
    ],
    final_layer=final("norm_out.linear"), also_allowed=["txt_mode_blocks.*"],
    note="The text is always modulated by t = 0: its vectors are there, but no condition moves them. Attention and "
    "MLP are parallel. The blocks for a conditioning image (mode_blocks.image_cond) are not used in this pass.",
)

# --- scale and shift without a gate ----------------------------------------------------------------------------------

add(
    "transformer2d_ada_norm", "Transformer2DModel",
    HEADS | dict(
        in_channels=16, num_layers=2, norm_num_groups=4, cross_attention_dim=24, num_embeds_ada_norm=10,
        norm_type="ada_norm",
    ),
    lambda: dict(hidden_states=image(16), encoder_hidden_states=text(), timestep=torch.tensor(3)),
    group(
        "transformer_blocks.*", "BasicTransformerBlock", 2,
        {"norm1.linear": "scale shift", "norm2.linear": "scale shift"},
    ),
    note="One timestep (a number) for the whole batch: the class permits no other, it splits the vectors at their "
    "first axis. Each norm has a timestep table of its own. The MLP's norm is affine and not modulated.",
)

add(
    "uvit", "UVit2DModel",
    dict(
        hidden_size=16, cond_embed_dim=12, micro_cond_encode_dim=4, micro_cond_embed_dim=20, encoder_hidden_size=24,
        vocab_size=12, codebook_size=10, in_channels=8, block_out_channels=8, num_res_blocks=1, block_num_heads=2,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    ),
    lambda: dict(
        input_ids=torch.randint(0, 10, (B, 4, 4)), encoder_hidden_states=text(), pooled_text_emb=randn(B, 12),
        micro_conds=torch.rand(B, 5) * 100,
    ),
    group(
        "transformer_layers.*", "BasicTransformerBlock", 2, {f"norm{k}.linear": "scale shift" for k in (1, 2, 3)},
        bias=False, base_norm=either("RMSNorm", "LayerNorm", "mixed"), base_norm_affine=True,
    ),
    also_allowed=["down_block.res_blocks.*", "up_block.res_blocks.*"],
    unmodulated_blocks=["down_block.attention_blocks.*", "up_block.attention_blocks.*"],
    note="norm1 and norm2 are RMSNorms, norm3 is a LayerNorm. The ConvNeXt blocks around end in FiLM (scale, shift of "
    "a stream that no norm precedes): not AdaLN, but a tool may list them.",
)

add(
    "t5_film_decoder", "T5FilmDecoder",
    dict(
        input_dims=4, targets_length=8, max_decoder_noise_time=100.0, d_model=16, num_layers=2, num_heads=2, d_kv=8,
        d_ff=24,
    ),
    lambda: dict(
        encodings_and_masks=[(text(16), torch.ones(B, 5))], decoder_input_tokens=randn(B, 8, 4),
        decoder_noise_time=torch.rand(B),
    ),
    group(
        "decoders.*", "DecoderLayer", 2,
        {"layer.0.FiLMLayer.scale_bias": "scale shift", "layer.2.film.scale_bias": "scale shift"}, bias=False,
        base_norm="RMSNorm", base_norm_affine=True, source=NARROW,
    ),
    accept_also=["other_conditional_modulation"],
    note="Called FiLM, but it stands directly behind each RMSNorm, as AdaLN does. SiLU ends the shared condition MLP.",
)

# --- modulation that is not AdaLN, addition, nothing -----------------------------------------------------------------

UNET = dict(
    sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
    attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)

add(
    "unet2d", "UNet2DModel", UNET, lambda: dict(sample=image(), timestep=steps()), verdict="additive_only",
    note="Each ResNet block adds Linear(SiLU(t_emb)) before its second GroupNorm.",
)
add(
    "unet2d_scale_shift", "UNet2DModel", UNET | dict(resnet_time_scale_shift="scale_shift"),
    lambda: dict(sample=image(), timestep=steps()), verdict="other_conditional_modulation",
    note="AdaGN: the second GroupNorm (affine) of each ResNet block is followed by (1 + scale) and shift.",
)
add(
    "stable_cascade", "StableCascadeUNet",
    dict(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=16, conditioning_dim=24,
        block_out_channels=(16, 16), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), clip_text_pooled_in_channels=12, clip_seq=2,
    ),
    lambda: dict(sample=image(), timestep_ratio=torch.rand(B), clip_text_pooled=randn(B, 1, 12)),
    verdict="other_conditional_modulation",
    note="FiLM between the blocks: (1 + a) x + b on a stream that no norm precedes.",
)
add(
    "i2vgen_xl", "I2VGenXLUNet",
    dict(
        sample_size=8, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=24, attention_head_dim=8, num_attention_heads=2,
    ),
    lambda: dict(
        sample=image(4, 2, 8, 8), timestep=steps(), fps=torch.tensor([8, 16]), image_latents=image(4, 2, 8, 8),
        image_embeddings=randn(B, 24), encoder_hidden_states=text(),
    ),
    verdict="additive_only",
)
add(
    "unet_motion", "UNetMotionModel",
    dict(
        sample_size=8, down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=24, num_attention_heads=2, motion_num_attention_heads=2,
    ),
    lambda: dict(sample=image(4, 2, 8, 8), timestep=steps(), encoder_hidden_states=randn(B * 2, 5, 24)),
    verdict="additive_only",
    note="Two frames to an item: the text is given for each.",
)
add(
    "prior", "PriorTransformer",
    HEADS | dict(num_layers=2, embedding_dim=12, num_embeddings=5, additional_embeddings=4),
    lambda: dict(
        hidden_states=randn(B, 12), timestep=steps(), proj_embedding=randn(B, 12), encoder_hidden_states=text(12)
    ),
    verdict="none",
    note="Timestep, image embedding and text are tokens.",
)
add(
    "transformer2d_cross_attention", "Transformer2DModel",
    HEADS | dict(in_channels=16, num_layers=2, norm_num_groups=4, cross_attention_dim=24),
    lambda: dict(hidden_states=image(16), encoder_hidden_states=text()), verdict="none",
    note="Text comes in through cross-attention alone.",
)

VAE = dict(
    in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
)
for name, cls, config in (
    ("autoencoder_kl", "AutoencoderKL", VAE | dict(block_out_channels=(8, 16), norm_num_groups=4)),
    (
        "autoencoder_kl_asymmetric", "AsymmetricAutoencoderKL",
        VAE | dict(
            down_block_out_channels=(8, 16), up_block_out_channels=(8, 16), layers_per_down_block=1,
            layers_per_up_block=1, norm_num_groups=4,
        ),
    ),
    ("vq", "VQModel", VAE | dict(block_out_channels=(8, 16), norm_num_groups=4, num_vq_embeddings=16)),
):
    add(name, cls, config, lambda: dict(sample=image(3, 16, 16)), verdict="none", note="No condition at all.")


def encoder() -> tuple[nn.Module, Callable[[], Any]]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = text(16)
    return model, lambda: model(x)


def resnet18() -> tuple[nn.Module, Callable[[], Any]]:
    import torchvision

    torch.manual_seed(0)
    model, x = torchvision.models.resnet18(num_classes=4).eval(), image(3, 32, 32)
    return model, lambda: model(x)


MODELS |= {"torch_encoder": encoder, "resnet18": resnet18}
NOTHING = {"verdict": "none", "groups": [], "final_layer": None, "accept_also": [], "note": "No condition at all."}
TRUTH |= {"torch_encoder": NOTHING | {"cls": "TransformerEncoder"}, "resnet18": NOTHING | {"cls": "ResNet"}}

# fmt: on

if __name__ == "__main__":
    for name, build in MODELS.items():
        model, run = build()
        with torch.no_grad():
            run()
        print(f"{name:24}{sum(p.numel() for p in model.parameters()):>9,}  {TRUTH[name]['verdict']}")
