"""The architectures of published models that diffusers runs as pipelines, at their true size.

What is left out of a configuration is as the class of diffusers or transformers has it by itself.
"""

from usd.denoiser.weights import NetworkConfig

CLIP: NetworkConfig = {"vocab_size": 49408, "max_position_embeddings": 77}
CLIP_L: NetworkConfig = CLIP | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_G: NetworkConfig = CLIP | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
T5_XXL: NetworkConfig = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
QWEN_3: NetworkConfig = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
GEMMA_2: NetworkConfig = {
    "architectures": ["Gemma2Model"],
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}
QWEN_2_5_VL: NetworkConfig = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "vision_config": {"depth": 32, "hidden_size": 1280, "out_hidden_size": 3584, "intermediate_size": 3420},
    "tie_word_embeddings": False,
}
CHAT_GLM: NetworkConfig = {
    "architectures": ["ChatGLMModel"],
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "original_rope": True,
    "seq_length": 32768,
}
COARSE_VAE: NetworkConfig = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
FINE_VAE: NetworkConfig = COARSE_VAE | {
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
}
UNET_XL: NetworkConfig = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD_3_MEDIUM: NetworkConfig = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}
KLEIN: NetworkConfig = {
    "_class_name": "Flux2Transformer2DModel",
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
SANA_600M: NetworkConfig = {
    "_class_name": "SanaTransformer2DModel",
    "sample_size": 16,
    "num_layers": 28,
    "num_attention_heads": 36,
    "attention_head_dim": 32,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}
DEEP_VAE: NetworkConfig = {
    "_class_name": "AutoencoderDC",
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
}
PIXART: NetworkConfig = {
    "_class_name": "PixArtTransformer2DModel",
    "sample_size": 128,
    "interpolation_scale": 2,
    "use_additional_conditions": False,
}
FLOW: NetworkConfig = {"_class_name": "FlowMatchEulerDiscreteScheduler"}

PIPELINES: dict[str, tuple[str, dict[str, NetworkConfig]]] = {
    "stable-diffusion-3.5-medium": (
        "stable-diffusion-3",
        {
            "transformer": SD_3_MEDIUM,
            "vae": FINE_VAE,
            "text_encoder": CLIP_L,
            "text_encoder_2": CLIP_G,
            "text_encoder_3": T5_XXL,
        },
    ),
    "flux-1": (
        "flux-1",
        {
            "transformer": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
            "vae": FINE_VAE | {"scaling_factor": 0.3611, "shift_factor": 0.1159},
            "text_encoder": CLIP_L | {"architectures": ["CLIPTextModel"]},
            "text_encoder_2": T5_XXL,
        },
    ),
    "flux-2-klein": (
        "flux-2",
        {"transformer": KLEIN, "vae": {"_class_name": "AutoencoderKLFlux2"}, "text_encoder": QWEN_3},
    ),
    "z-image": (
        "z-image",
        {
            "transformer": {"_class_name": "ZImageTransformer2DModel"},
            "vae": FINE_VAE | {"scaling_factor": 0.3611, "shift_factor": 0.1159},
            "text_encoder": QWEN_3,
        },
    ),
    "sana-600m": ("sana", {"transformer": SANA_600M, "vae": DEEP_VAE, "text_encoder": GEMMA_2}),
    "qwen-image": (
        "qwen-image",
        {
            "transformer": {"_class_name": "QwenImageTransformer2DModel"},
            "vae": {"_class_name": "AutoencoderKLQwenImage"},
            "text_encoder": QWEN_2_5_VL,
        },
    ),
    "qwen-image-edit": (
        "qwen-image-edit",
        {
            "transformer": {"_class_name": "QwenImageTransformer2DModel", "zero_cond_t": True},
            "vae": {"_class_name": "AutoencoderKLQwenImage"},
            "text_encoder": QWEN_2_5_VL,
        },
    ),
    "stable-diffusion-xl": (
        "stable-diffusion-xl",
        {
            "unet": UNET_XL,
            "vae": COARSE_VAE,
            "text_encoder": CLIP_L | {"architectures": ["CLIPTextModel"]},
            "text_encoder_2": CLIP_G,
        },
    ),
    "kolors": (
        "kolors",
        {
            "unet": UNET_XL
            | {
                "encoder_hid_dim": 4096,
                "encoder_hid_dim_type": "text_proj",
                "projection_class_embeddings_input_dim": 5632,
            },
            "vae": COARSE_VAE,
            "text_encoder": CHAT_GLM,
        },
    ),
    "pixart-sigma": ("pixart", {"transformer": PIXART, "vae": COARSE_VAE, "text_encoder": T5_XXL}),
}
"""Denoiser and networks by the name that ``architecture`` of load/models.yaml gives."""
