"""What is true of further diffusers classes: tiny instances, a pass for each, and the row an x-ray must find.

Every row was established by reading the class and by small experiments, never by the x-ray, so that it can judge it.
The words are those of `golden/xray.json`. Three things are conventions:

- a field that is missing says nothing; a field that is `either(a, b)` accepts any of its values;
- groups and final layers are AdaLN's: they are to be compared where the verdict is `adaln` or `final_layer_only`;
- in `chunk_order` a leading `/` means a path from the model's root (a Linear that blocks share), else from the block.
"""

import warnings
from collections.abc import Callable
from typing import Any

import diffusers
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


def group(blocks: str, block_class: str, n: int, chunks: dict[str, str], bias: bool = True, **fields: Any) -> dict:
    """One kind of modulated block. The roles say how many vectors there are, the chunks' modules own the parameters."""
    paths = [blocks.replace("*", str(i)) for i in range(n)]
    roles = " ".join(chunks.values()).split()
    linears = [module[1:] if module.startswith("/") else f"{path}.{module}" for path in paths for module in chunks]
    params = {f"{linear}.{end}" for linear in linears for end in (("weight", "bias") if bias else ("weight",))}
    if fields.get("source") == "shared_linear_plus_table":
        params |= {f"{path}.scale_shift_table" for path in paths}
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
        "zero_initialised_at_construction": False,
        "modulation_params": sorted(params),
    } | fields


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


def add(name: str, cls: str, config: dict, inputs: Callable[[], dict], verdict: str = "adaln", **row: Any) -> None:
    """Registers a class of diffusers: its arguments, the inputs of a pass (drawn once), and its row."""

    def build() -> tuple[nn.Module, Callable[[], Any]]:
        torch.manual_seed(0)
        model = quietly(getattr(diffusers, cls), **config).eval()
        fixed = inputs()
        return model, lambda: quietly(model, **fixed)

    MODELS[name] = build
    TRUTH[name] = {"verdict": verdict, "groups": [], "final_layer": None, "accept_also": [], "note": ""} | row


def steps() -> torch.Tensor:
    return torch.tensor([3.0, 700.0])


def image(channels: int = 4, *size: int) -> torch.Tensor:
    return randn(B, channels, *(size or (8, 8)))


def text(width: int = 24, length: int = 5) -> torch.Tensor:
    return randn(B, length, width)


HEADS = dict(num_attention_heads=2, attention_head_dim=8)  # 16 channels

# --- one Linear in each block ---------------------------------------------------------------------------------------

add(
    "auraflow",
    "AuraFlowTransformer2DModel",
    HEADS
    | dict(
        sample_size=8,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    ),
    lambda: dict(hidden_states=image(), encoder_hidden_states=text(), timestep=torch.rand(B)),
    groups=[
        group(
            "joint_transformer_blocks.*",
            "AuraFlowJointTransformerBlock",
            2,
            {"norm1.linear": 2 * SSG, "norm1_context.linear": 2 * SSG},
            bias=False,
        ),
        group(
            "single_transformer_blocks.*", "AuraFlowSingleTransformerBlock", 2, {"norm1.linear": 2 * SSG}, bias=False
        ),
    ],
    final_layer=final("norm_out.linear", norm="none"),
    note="The gated attention branch enters the MLP's norm, not the residual; the final layer modulates a stream that "
    "no norm has touched (is it AdaLN? its `affine` says nothing).",
)

add(
    "cogvideox",
    "CogVideoXTransformer3DModel",
    HEADS
    | dict(
        in_channels=4,
        out_channels=4,
        time_embed_dim=20,
        text_embed_dim=24,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=5,
    ),
    lambda: dict(hidden_states=randn(B, 2, 4, 8, 8), encoder_hidden_states=text(), timestep=steps()),
    groups=[
        group(
            "transformer_blocks.*",
            "CogVideoXBlock",
            2,
            {"norm1.linear": 2 * SSG, "norm2.linear": 2 * SSG},
            base_norm_affine=True,
            source=NARROW,
        )
    ],
    final_layer=final("norm_out.linear", "shift scale", affine=True),
    note="One Linear per sub-layer, both streams; the affine LayerNorm is shared by the streams. An affine LayerNorm "
    "(norm_final) without modulation stands before the final one.",
)

add(
    "cogview3plus",
    "CogView3PlusTransformer2DModel",
    HEADS
    | dict(
        in_channels=4,
        num_layers=2,
        out_channels=4,
        text_embed_dim=24,
        time_embed_dim=20,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    ),
    lambda: dict(
        hidden_states=image(),
        encoder_hidden_states=text(),
        timestep=steps(),
        original_size=torch.tensor([[64.0, 64.0], [32.0, 48.0]]),
        target_size=torch.full((B, 2), 64.0),
        crop_coords=torch.zeros(B, 2),
    ),
    groups=[group("transformer_blocks.*", "CogView3PlusTransformerBlock", 2, {"norm1.linear": 4 * SSG}, source=NARROW)],
    final_layer=final("norm_out.linear"),
    note="The first six vectors are the image's, the last six the text's.",
)

add(
    "cogview4",
    "CogView4Transformer2DModel",
    HEADS
    | dict(
        in_channels=4,
        num_layers=2,
        out_channels=4,
        text_embed_dim=24,
        time_embed_dim=20,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
        rope_axes_dim=(8, 8),
    ),
    lambda: dict(
        hidden_states=image(),
        encoder_hidden_states=text(),
        timestep=steps(),
        original_size=torch.tensor([[64.0, 64.0], [32.0, 48.0]]),
        target_size=torch.full((B, 2), 64.0),
        crop_coords=torch.zeros(B, 2),
    ),
    groups=[
        group(
            "transformer_blocks.*",
            "CogView4TransformerBlock",
            2,
            {"norm1.linear": 2 * "shift shift scale scale gate gate "},
            source=NARROW,
        )
    ],
    final_layer=final("norm_out.linear"),
    note="Image and text alternate. SiLU is applied once, in the model's forward, as a function.",
)

# --- a shared Linear and a table in each block -----------------------------------------------------------------------

add(
    "sana",
    "SanaTransformer2DModel",
    HEADS
    | dict(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=24,
        sample_size=8,
    ),
    lambda: dict(hidden_states=image(), encoder_hidden_states=text(), timestep=steps()),
    groups=[
        group(
            "transformer_blocks.*",
            "SanaTransformerBlock",
            2,
            {"/time_embed.linear": 2 * SSG},
            source="shared_linear_plus_table",
        )
    ],
    final_layer=TABLE_FINAL,
    note="GLUMBConv's gate comes from the features, not from the condition.",
)


def wan(name: str, cls: str, block_class: str, frames: int = 2, **config: Any) -> None:
    add(
        name,
        cls,
        dict(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=20,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
        | config,
        lambda: dict(
            hidden_states=image(4, frames, 8, 8), timestep=torch.tensor([3, 700]), encoder_hidden_states=text(20)
        ),
        groups=[
            group(
                "blocks.*",
                block_class,
                2,
                {"/condition_embedder.time_proj": 2 * SSG},
                source="shared_linear_plus_table",
            )
        ],
        final_layer=TABLE_FINAL,
        note="The affine LayerNorm before the cross-attention is not modulated.",
    )


wan("wan", "WanTransformer3DModel", "WanTransformerBlock")
wan("chronoedit", "ChronoEditTransformer3DModel", "WanTransformerBlock", rope_temporal_skip_len=8)
wan("skyreels_v2", "SkyReelsV2Transformer3DModel", "SkyReelsV2TransformerBlock")

add(
    "ltx_video",
    "LTXVideoTransformer3DModel",
    HEADS | dict(in_channels=4, out_channels=4, cross_attention_dim=16, num_layers=2, caption_channels=24),
    lambda: dict(
        hidden_states=randn(B, 8, 4),
        encoder_hidden_states=text(),
        timestep=steps(),
        encoder_attention_mask=torch.ones(B, 5),
        num_frames=2,
        height=2,
        width=2,
    ),
    groups=[
        group(
            "transformer_blocks.*",
            "LTXVideoTransformerBlock",
            2,
            {"/time_embed.linear": 2 * SSG},
            base_norm="RMSNorm",
            source="shared_linear_plus_table",
        )
    ],
    final_layer=TABLE_FINAL,
    note="RMSNorm in the blocks, LayerNorm at the end. The vectors have a token axis (of length 1 here).",
)

add(
    "allegro",
    "AllegroTransformer3DModel",
    HEADS
    | dict(cross_attention_dim=16, num_layers=2, sample_height=8, sample_width=8, sample_frames=2, caption_channels=24),
    lambda: dict(hidden_states=image(4, 2, 8, 8), encoder_hidden_states=text(), timestep=steps()),
    groups=[
        group(
            "transformer_blocks.*",
            "AllegroTransformerBlock",
            2,
            {"/adaln_single.linear": 2 * SSG},
            source="shared_linear_plus_table",
        )
    ],
    final_layer=TABLE_FINAL,
    note="norm3 is never used.",
)

add(
    "latte",
    "LatteTransformer3DModel",
    HEADS
    | dict(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=24,
        video_length=2,
    ),
    lambda: dict(hidden_states=image(4, 2, 8, 8), encoder_hidden_states=text(), timestep=steps()),
    groups=[
        group(
            f"{kind}transformer_blocks.*",
            "BasicTransformerBlock",
            2,
            {"/adaln_single.linear": 2 * SSG},
            source="shared_linear_plus_table",
        )
        for kind in ("", "temporal_")
    ],
    final_layer=TABLE_FINAL,
    note="Spatial blocks see batch x frames, temporal ones batch x patches; both take the same shared Linear.",
)

# --- a shift or a gate alone -----------------------------------------------------------------------------------------

add(
    "hunyuan_dit",
    "HunyuanDiT2DModel",
    HEADS
    | dict(
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=4,
        cross_attention_dim=24,
        cross_attention_dim_t5=32,
        pooled_projection_dim=20,
        text_len=5,
        text_len_t5=6,
        use_style_cond_and_image_meta_size=False,
    ),
    lambda: dict(
        hidden_states=image(),
        timestep=steps(),
        encoder_hidden_states=text(),
        text_embedding_mask=torch.ones(B, 5),
        encoder_hidden_states_t5=text(32, 6),
        text_embedding_mask_t5=torch.ones(B, 6),
    ),
    groups=[group("blocks.*", "HunyuanDiTBlock", 4, {"norm1.linear": "shift"}, base_norm_affine=True)],
    final_layer=final("norm_out.linear"),
    note="Only the self-attention's norm is shifted; block 3 takes a long skip, which changes no field.",
)


def hunyuan(kind: str, config: dict, inputs: Callable[[], dict]) -> None:
    add(
        f"hunyuan_{kind.lower()}",
        f"Hunyuan{kind}Transformer{'3D' if kind == 'Video' else '2D'}Model".replace("Image2D", "ImageTransformer2D"),
        HEADS | dict(in_channels=4, out_channels=4, num_layers=2, num_single_layers=2, num_refiner_layers=2) | config,
        inputs,
        groups=[
            group(
                "transformer_blocks.*",
                f"Hunyuan{kind}TransformerBlock",
                2,
                {"norm1.linear": 2 * SSG, "norm1_context.linear": 2 * SSG},
            ),
            group("single_transformer_blocks.*", f"Hunyuan{kind}SingleTransformerBlock", 2, {"norm.linear": SSG}),
            group(
                "context_embedder.token_refiner.refiner_blocks.*",
                f"Hunyuan{kind}IndividualTokenRefinerBlock",
                2,
                {"norm_out.linear": "gate gate"},
                base_norm_affine=True,
            ),
        ],
        final_layer=final("norm_out.linear"),
        note="The text refiner's blocks have a gate for each sub-layer, no scale and no shift; their condition is the "
        "timestep and the mean of the text, through an embedder of their own.",
    )


hunyuan(
    "Video",
    dict(text_embed_dim=24, pooled_projection_dim=20, rope_axes_dim=(2, 2, 4)),
    lambda: dict(
        hidden_states=image(4, 2, 8, 8),
        timestep=steps(),
        encoder_hidden_states=text(),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool),
        pooled_projections=randn(B, 20),
        guidance=torch.tensor([1000.0, 4000.0]),
    ),
)
hunyuan(
    "Image",
    dict(text_embed_dim=24, patch_size=(2, 2), rope_axes_dim=(4, 4)),
    lambda: dict(
        hidden_states=image(),
        timestep=steps(),
        encoder_hidden_states=text(),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool),
    ),
)

# --- RMSNorm, no shift, bounded gates --------------------------------------------------------------------------------

MOCHI = dict(base_norm="RMSNorm", gate_bounding="tanh", post_norm=either("RMSNorm", "RMSNorm not affine"))
add(
    "mochi",
    "MochiTransformer3DModel",
    HEADS
    | dict(
        num_layers=2,
        pooled_projection_dim=20,
        in_channels=4,
        text_embed_dim=24,
        time_embed_dim=16,
        max_sequence_length=5,
    ),
    lambda: dict(
        hidden_states=image(4, 2, 8, 8),
        encoder_hidden_states=text(),
        timestep=steps(),
        encoder_attention_mask=torch.ones(B, 5, dtype=torch.bool),
    ),
    groups=[
        group(
            "transformer_blocks.0",
            "MochiTransformerBlock",
            1,
            {"norm1.linear": 2 * SG, "norm1_context.linear": 2 * SG},
            **MOCHI,
        ),
        group(
            "transformer_blocks.1",
            "MochiTransformerBlock",
            1,
            {"norm1.linear": 2 * SG, "norm1_context.linear_1": "scale"},
            **MOCHI,
        ),
    ],
    final_layer=final("norm_out.linear"),
    note="The last block's text stream has a scale alone. The streams have different widths.",
)

add(
    "lumina_next",
    "LuminaNextDiT2DModel",
    dict(
        sample_size=8,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=8,
        cross_attention_dim=24,
    ),
    lambda: dict(
        hidden_states=image(),
        timestep=torch.rand(B),
        encoder_hidden_states=text(),
        encoder_mask=torch.ones(B, 5),
        image_rotary_emb=torch.polar(torch.ones(8, 8, 4), randn(8, 8, 4)),
        cross_attention_kwargs={},
    ),
    groups=[
        group(
            "layers.*",
            "LuminaNextDiTBlock",
            2,
            {"norm1.linear": 2 * SG},
            base_norm="RMSNorm",
            base_norm_affine=True,
            gate_bounding="tanh",
            post_norm="RMSNorm affine",
        )
    ],
    final_layer=final("norm_out.linear_1", "scale"),
    note="Each block also has a learned gate per head for the cross-attention (tanh, 0 at construction): no condition "
    "reaches it.",
)

# --- other sources ---------------------------------------------------------------------------------------------------


def lora(n: int) -> list[str]:
    return [f"transformer_blocks.{i}.norm{k}.linear_{j}.weight" for i in range(n) for k in (1, 2, 3) for j in (1, 2)]


add(
    "cosmos",
    "CosmosTransformer3DModel",
    dict(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        text_embed_dim=24,
        adaln_lora_dim=4,
        max_size=(2, 8, 8),
        concat_padding_mask=False,
        extra_pos_embed_type=None,
    ),
    lambda: dict(hidden_states=image(4, 2, 8, 8), timestep=torch.tensor([3, 700]), encoder_hidden_states=text()),
    groups=[
        group(
            "transformer_blocks.*",
            "CosmosTransformerBlock",
            2,
            {f"norm{k}.linear_2": SSG for k in (1, 2, 3)},
            source="low_rank",
            activation_before_linear=either("SiLU", "none"),
            modulation_params=either(
                sorted([*lora(2), "time_embed.t_embedder.linear_2.weight"]),
                sorted(lora(2)),
                sorted(p for p in lora(2) if "linear_2" in p),
                sorted([*(p for p in lora(2) if "linear_2" in p), "time_embed.t_embedder.linear_2.weight"]),
            ),
        )
    ],
    final_layer=final("norm_out.linear_2", "shift scale", activation=either("SiLU", "none")),
    note="SiLU stands before the down-projection, nothing before the up-projection. A 3d vector of the timestep, "
    "time_embed.t_embedder.linear_2, is added to every sub-layer's (and its first 2d to the final one).",
)

add(
    "chroma",
    "ChromaTransformer2DModel",
    dict(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    ),
    lambda: dict(
        hidden_states=randn(B, 6, 4),
        encoder_hidden_states=text(),
        timestep=torch.rand(B),
        img_ids=randn(6, 3),
        txt_ids=randn(5, 3),
    ),
    groups=[
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
    "flux2",
    "Flux2Transformer2DModel",
    dict(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    ),
    lambda: dict(
        hidden_states=randn(B, 6, 4),
        encoder_hidden_states=text(),
        timestep=torch.rand(B),
        img_ids=randn(6, 4),
        txt_ids=randn(5, 4),
        guidance=torch.tensor([1.0, 4.0]),
    ),
    groups=[
        group(
            "transformer_blocks.*",
            "Flux2TransformerBlock",
            2,
            {"/double_stream_modulation_img.linear": 2 * SSG, "/double_stream_modulation_txt.linear": 2 * SSG},
            bias=False,
            source="fully_shared",
        ),
        group(
            "single_transformer_blocks.*",
            "Flux2SingleTransformerBlock",
            2,
            {"/single_stream_modulation.linear": SSG},
            bias=False,
            source="fully_shared",
        ),
    ],
    final_layer=final("norm_out.linear"),
)

# --- not in the blocks, or not at all --------------------------------------------------------------------------------

add(
    "omnigen",
    "OmniGenTransformer2DModel",
    dict(
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        num_layers=2,
        pad_token_id=0,
        vocab_size=20,
        max_position_embeddings=32,
        original_max_position_embeddings=32,
        rope_scaling={"short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
        pos_embed_max_size=8,
        time_step_dim=16,
    ),
    lambda: dict(
        hidden_states=image(),
        timestep=torch.rand(B),
        input_ids=torch.randint(1, 20, (B, 5)),
        input_img_latents=[],
        input_image_sizes={},
        attention_mask=torch.ones(B, 22, 22),
        position_ids=torch.arange(22).expand(B, -1),
    ),
    verdict="final_layer_only",
    final_layer=final("norm_out.linear", "shift scale"),
    note="In the blocks the timestep is a token. An affine RMSNorm without modulation stands before the final norm.",
)

add(
    "stable_audio",
    "StableAudioDiTModel",
    HEADS
    | dict(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        num_key_value_attention_heads=2,
        out_channels=4,
        cross_attention_dim=16,
        time_proj_dim=8,
        global_states_input_dim=12,
        cross_attention_input_dim=24,
    ),
    lambda: dict(
        hidden_states=image(4, 8),
        timestep=torch.rand(B),
        encoder_hidden_states=text(),
        global_hidden_states=randn(B, 1, 12),
        rotary_embedding=(randn(9, 4).cos(), randn(9, 4).sin()),
    ),
    verdict="none",
    note="Timestep and duration are one more token, prepended.",
)

if __name__ == "__main__":
    for name, build in MODELS.items():
        model, run = build()
        with torch.no_grad():
            run()
        print(f"{name:24}{sum(p.numel() for p in model.parameters()):>9,}  {TRUTH[name]['verdict']}")
