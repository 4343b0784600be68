"""Small settings and arguments of classes whose defaults are no model of theirs, or whose arguments nothing says.

An argument is the shape of a tensor, or a function that makes it.
"""

from typing import Any

import torch

from adaln_lab.analysis.xray.arguments import SIDE, B

SIZES = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, in_channels=4)
LATENTS, TEXT, VIDEO = (B, 4, SIDE, SIDE), (B, 5, 24), (B, 4, 2, SIDE, SIDE)
TOLD = dict(timestep=(B,), encoder_hidden_states=TEXT)
WAN = SIZES | dict(attention_head_dim=12, out_channels=4, text_dim=24, freq_dim=16, ffn_dim=32)
HUNYUAN = SIZES | dict(out_channels=4, num_refiner_layers=2, text_embed_dim=24, rope_axes_dim=(2, 2, 4))

EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # class: settings, arguments
    "LatteTransformer3DModel": (
        SIZES | dict(norm_type="ada_norm_single", norm_elementwise_affine=False, out_channels=8, cross_attention_dim=16,
                     sample_size=8, patch_size=2, caption_channels=24, video_length=2),
        TOLD | dict(hidden_states=VIDEO),
    ),
    "HiDreamImageTransformer2DModel": (
        SIZES | dict(patch_size=2, num_single_layers=2, caption_channels=[24, 20], text_emb_dim=12,
                     axes_dims_rope=(4, 2, 2), max_resolution=(8, 8), llama_layers=[0, 1, 2, 3]),
        dict(hidden_states=LATENTS, timesteps=(B,), encoder_hidden_states_t5=TEXT,
             encoder_hidden_states_llama3=(4, B, 5, 20), pooled_embeds=(B, 12)),
    ),
    "BriaFiboTransformer2DModel": (
        SIZES | dict(num_single_layers=2, attention_head_dim=16, joint_attention_dim=24, axes_dims_rope=(4, 4, 8),
                     text_encoder_dim=20),
        TOLD | dict(hidden_states=(B, 16, 4), img_ids=(16, 3), txt_ids=(5, 3), text_encoder_layers=(4, B, 5, 20)),
    ),
    "WanVACETransformer3DModel": (
        WAN | dict(vace_layers=[0, 1], vace_in_channels=6),
        TOLD | dict(hidden_states=VIDEO, control_hidden_states=(B, 6, 2, SIDE, SIDE)),
    ),
    "WanAnimateTransformer3DModel": (
        WAN | dict(in_channels=12, latent_channels=4, image_dim=16, motion_encoder_size=16, motion_style_dim=8,
                   motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8}, motion_dim=4, motion_encoder_dim=8,
                   face_encoder_hidden_dim=16, face_encoder_num_heads=2, inject_face_latents_blocks=2),
        TOLD | dict(hidden_states=(B, 12, 5, SIDE, SIDE), encoder_hidden_states_image=(B, 3, 16),
                    pose_hidden_states=(B, 4, 4, SIDE, SIDE), face_pixel_values=(B, 3, 13, 16, 16)),
    ),
    "HunyuanVideo15Transformer3DModel": (
        HUNYUAN | dict(text_embed_2_dim=20, image_embed_dim=12),
        TOLD | dict(hidden_states=(B, 4, 2, 4, 4), encoder_attention_mask=(B, 5), encoder_hidden_states_2=(B, 3, 20),
                    encoder_attention_mask_2=(B, 3), image_embeds=(B, 2, 12)),
    ),
    "HunyuanVideoFramepackTransformer3DModel": (
        HUNYUAN | dict(num_single_layers=2, pooled_projection_dim=12, has_image_proj=True, image_proj_dim=20,
                       has_clean_x_embedder=True),
        TOLD | dict(hidden_states=VIDEO, encoder_attention_mask=(B, 5), pooled_projections=(B, 12),
                    image_embeds=(B, 3, 20), indices_latents=(2,), guidance=(B,), latents_clean=VIDEO,
                    indices_latents_clean=(2,), latents_history_2x=VIDEO, indices_latents_history_2x=(2,),
                    latents_history_4x=(B, 4, 4, SIDE, SIDE), indices_latents_history_4x=(4,)),
    ),
    "JoyImageEditPlusTransformer3DModel": (
        dict(in_channels=4, hidden_size=16, num_attention_heads=2, text_dim=24, num_layers=2, rope_dim_list=[2, 2, 4]),
        TOLD | dict(hidden_states=(B, 8, 4, 1, 2, 2), shape_list=lambda: [[(1, 2, 2), (1, 2, 2)]] * B),
    ),
    "StableAudio3DiTModel": (
        dict(io_channels=4, embed_dim=16, depth=2, num_heads=2, cond_token_dim=24, global_cond_dim=12,
             local_add_cond_dim=3, timestep_features_dim=16, ff_mult=2.0, num_memory_tokens=2),
        TOLD | dict(hidden_states=(B, 4, SIDE), global_hidden_states=(B, 12)),
    ),
    "LuminaNextDiT2DModel": (
        dict(sample_size=8, hidden_size=16, num_layers=2, num_attention_heads=2, num_kv_heads=2, multiple_of=8,
             cross_attention_dim=24),
        TOLD | dict(hidden_states=LATENTS, encoder_mask=(B, 5), cross_attention_kwargs=dict,
                    image_rotary_emb=lambda: torch.polar(torch.ones(8, 8, 4), torch.rand(8, 8, 4))),
    ),
    "T5FilmDecoder": (
        dict(input_dims=4, targets_length=8, max_decoder_noise_time=100.0, d_model=16, num_layers=2, num_heads=2,
             d_kv=8, d_ff=24),
        dict(encodings_and_masks=lambda: [(torch.randn(B, 5, 16), torch.ones(B, 5))], decoder_input_tokens=(B, 8, 4),
             decoder_noise_time=(B,)),
    ),
    "OmniGenTransformer2DModel": (
        dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, intermediate_size=24, num_layers=2,
             pad_token_id=0, vocab_size=20, max_position_embeddings=32, original_max_position_embeddings=32,
             rope_scaling={"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}, pos_embed_max_size=8,
             time_step_dim=16),
        dict(hidden_states=LATENTS, timestep=(B,), input_ids=lambda: torch.randint(1, 20, (B, 5)),
             input_img_latents=list, input_image_sizes=dict, attention_mask=lambda: torch.ones(B, 22, 22),
             position_ids=lambda: torch.arange(22).expand(B, -1)),
    ),
    "TransformerTemporalModel": (SIZES | dict(in_channels=32), dict(hidden_states=(B, 32, SIDE, SIDE))),
    "Kandinsky6Transformer3DModel": (
        dict(in_visual_dim=4, out_visual_dim=4, in_text_dim=24, in_text_dim2=12, time_dim=32, model_dim=32, ff_dim=64,
             num_text_blocks=2, num_visual_blocks=2, axes_dims=(4, 6, 6), visual_cond=False, model_dim_a=32,
             time_dim_a=32, ff_dim_a=64, axes_dims_a=(16,)),
        dict(hidden_states=(1, 2, SIDE, SIDE, 4), encoder_hidden_states=(1, 5, 24), pooled_projections=(1, 12),
             timestep=(1,)),
    ),
}  # fmt: skip
