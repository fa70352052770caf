"""The architectures of published models: each network's configuration at true size, and the same at a tiny one.

Configurations are those of the published ``config.json`` files, as diffusers and transformers read them. ``parameters``
counts weights without making any (torch's meta device); ``shrunk`` keeps the kind and number of levels, attentions and
conditions, and makes everything narrow, so that a step of it takes milliseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from usd.denoiser.components import PROJECTION, network_class
from usd.denoiser.entries import CARDS
from usd.denoiser.pipeline_architectures import FLOW, PIPELINES
from usd.denoiser.weights import NetworkConfig, empty_network, whole, whole_numbers

UNET: NetworkConfig = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
HEADS_1: NetworkConfig = {"cross_attention_dim": 768, "attention_head_dim": 8}
HEADS_2: NetworkConfig = {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
PIXEL_UNET: NetworkConfig = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 6,
    "layers_per_block": 3,
    "block_out_channels": [704, 1408, 2112, 2816],
    "down_block_types": ["ResnetDownsampleBlock2D"] + ["SimpleCrossAttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
    "act_fn": "gelu",
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
    "cross_attention_dim": 2816,
    "cross_attention_norm": "group_norm",
    "attention_head_dim": 64,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
}
CONTROLNET: NetworkConfig = {
    name: UNET[name]
    for name in (
        "in_channels",
        "layers_per_block",
        "block_out_channels",
        "down_block_types",
        "norm_num_groups",
    )
} | {"conditioning_channels": 3, "conditioning_embedding_out_channels": [16, 32, 96, 256]}
CROSS_DOMAIN: NetworkConfig = {
    "_class_name": "UNetMV2DConditionModel",
    "sample_size": 32,
    "in_channels": 8,
    "down_block_types": ["CrossAttnDownBlockMV2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlockMV2D"] * 3,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
    "num_views": 6,
    "multiview_attention": True,
    "cd_attention_mid": True,
    "cd_attention_last": False,
}
"""Of Wonder3D."""
CAMERAS: NetworkConfig = {
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 16,
}
"""Of UNets that are given the matrix of each camera."""
IMAGE_TOKENS: NetworkConfig = {
    "_class_name": "ImageDreamUNet",
    "image_tokens": 16,
    "image_embedding_dim": 1280,
}
VAE: NetworkConfig = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
TEXT: NetworkConfig = {
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
TEXT_1 = TEXT | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "pad_token_id": 1,
}
TEXT_2 = TEXT | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
T5_XXL: NetworkConfig = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
BERT: NetworkConfig = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
VISION: NetworkConfig = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
LARGE_VISION: NetworkConfig = VISION | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
"""CLIP ViT-H/14 of OpenCLIP."""
SCHEDULER: NetworkConfig = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
COSINE_SCHEDULER: NetworkConfig = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
}


WIDTH = 32  # of every tiny encoder, and of the tokens that tiny UNets attend to
NARROW: dict[str, NetworkConfig] = {
    "text_encoder": {
        "vocab_size": 2048,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "language_model": {
        "vocab_size": 2048,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "t5": {"vocab_size": 2048, "d_model": WIDTH, "d_kv": 8, "d_ff": WIDTH, "num_layers": 1, "num_heads": 2},
    "image_encoder": {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": WIDTH,
    },
}
NARROW["vision_encoder"] = NARROW["image_encoder"]


@dataclass(frozen=True)
class Architecture:
    """The networks of a kind of published model, by component. ``denoiser`` is the kind of denoiser that runs it."""

    denoiser: str
    configs: Mapping[str, NetworkConfig]
    scheduler: NetworkConfig = field(default_factory=lambda: SCHEDULER)

    def parameters(self) -> dict[str, int]:
        """Return the number of weights of each network; none is made."""
        counts = {
            component: count_parameters(component, config) for component, config in self.configs.items()
        }
        return counts | ({PROJECTION: self._projection()} if self.has_projection else {})

    @property
    def has_projection(self) -> bool:
        """Return whether a layer makes tokens of image embedding and pose, as in Zero-1-to-3."""
        return self.denoiser == "zero123"

    def gigabytes(self, bytes_a_weight: int) -> float:
        """Return the size of its weights in GB, in a precision."""
        return bytes_a_weight * sum(self.parameters().values()) / 1e9

    def memory(self) -> dict[str, float]:
        """Return the most GiB of its weights that lie on a card at once, by preset (``entries.CARDS``).

        Encoders of conditions are read, used and freed before the others are needed; with 8gb-models networks visit
        the card one after the other. Half floats, and whole ones for the autoencoder.
        """
        sizes = {
            name: count * (4 if name == "vae" else 2) / 2**30 for name, count in self.parameters().items()
        }
        encoders = sum(size for name, size in sizes.items() if reads_conditions(name))
        kept = [size for name, size in sizes.items() if not reads_conditions(name)]
        together = max(encoders, sum(kept))
        return dict(zip(CARDS, (max(encoders, *kept), together, together)))

    def shrink(self) -> "Architecture":
        """Return the same networks at a size for trying things out: small latents, layers of 8 to 32 channels."""
        configs = {component: shrink_config(component, config) for component, config in self.configs.items()}
        return Architecture(self.denoiser, configs, self.scheduler)

    def _projection(self) -> int:
        """Return the number of weights of Zero-1-to-3's layer from image embedding and pose to a token."""
        inward = whole(self.configs["image_encoder"], "projection_dim") + 4
        return (inward + 1) * whole(self.configs["unet"], "cross_attention_dim")


def reads_conditions(component: str) -> bool:
    """Return whether a network only reads conditions, and is freed when they are read."""
    return component.startswith("text_encoder") or component in (
        "image_encoder",
        "vision_encoder",
        PROJECTION,
    )


def count_parameters(component: str, config: NetworkConfig) -> int:
    """Return the number of weights of a network; none is made."""
    network = empty_network(*network_class(component, config), config)
    return sum(parameter.numel() for parameter in network.parameters())


def shrink_config(component: str, config: NetworkConfig) -> NetworkConfig:
    """Return a network's configuration with narrow layers; its levels and the kinds of its blocks stay."""
    if component in ("unet", "controlnet"):
        return config | _narrow_unet(config)
    if component == "vae":
        levels = len(whole_numbers(config, "block_out_channels"))
        return config | {
            "sample_size": 8 * 2 ** (levels - 1),
            "block_out_channels": _channels(levels),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        }
    return config | NARROW["t5" if config.get("model_type") == "t5" else component]


def _channels(levels: int) -> list[int]:
    return [8, *[16] * (levels - 1)]


def _narrow_unet(config: NetworkConfig) -> NetworkConfig:
    """Return the options that make a UNet or ControlNet narrow."""
    levels, pixels = len(whole_numbers(config, "block_out_channels")), "encoder_hid_dim" in config
    heads: object = [2] * levels if isinstance(config.get("attention_head_dim"), list) else 4
    narrow: NetworkConfig = {
        "block_out_channels": _channels(levels),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": heads,
    }
    if "sample_size" in config:
        narrow["sample_size"] = 16 if pixels else 8
    if pixels:
        narrow |= {"encoder_hid_dim": WIDTH, "addition_embed_type_num_heads": 2}
    if "image_tokens" in config:
        narrow["image_embedding_dim"] = WIDTH
    if "conditioning_channels" in config:
        narrow["conditioning_embedding_out_channels"] = [4, 4, 8, 8]
    return narrow


ARCHITECTURES: dict[str, Architecture] = {
    "stable-diffusion-1": Architecture(
        "stable-diffusion", {"unet": UNET | HEADS_1, "vae": VAE, "text_encoder": TEXT_1}
    ),
    "stable-diffusion-2-base": Architecture(
        "stable-diffusion", {"unet": UNET | HEADS_2, "vae": VAE, "text_encoder": TEXT_2}
    ),
    "stable-diffusion-2": Architecture(
        "stable-diffusion",
        {
            "unet": UNET | HEADS_2 | {"sample_size": 96, "upcast_attention": True},
            "vae": VAE | {"sample_size": 768},
            "text_encoder": TEXT_2,
        },
        SCHEDULER | {"prediction_type": "v_prediction"},
    ),
    "zero123": Architecture(
        "zero123",
        {
            "unet": UNET | HEADS_1 | {"sample_size": 32, "in_channels": 8},
            "vae": VAE | {"sample_size": 256},
            "image_encoder": VISION,
        },
    ),
    "wonder3d": Architecture(
        "wonder3d",
        {
            "unet": UNET | HEADS_1 | CROSS_DOMAIN,
            "vae": VAE | {"sample_size": 256},
            "image_encoder": VISION,
        },
    ),
    "zero123plus": Architecture(
        "zero123plus",
        {"unet": UNET | HEADS_2, "vae": VAE, "text_encoder": TEXT_2, "vision_encoder": LARGE_VISION},
        SCHEDULER | {"beta_schedule": "linear", "prediction_type": "v_prediction"},
    ),
    "mvdream": Architecture(
        "mvdream",
        {
            "unet": UNET | HEADS_2 | CAMERAS | {"sample_size": 32},
            "vae": VAE | {"sample_size": 256},
            "text_encoder": TEXT_2,
        },
    ),
    "imagedream": Architecture(
        "imagedream",
        {
            "unet": UNET | HEADS_2 | CAMERAS | IMAGE_TOKENS | {"sample_size": 32},
            "vae": VAE | {"sample_size": 256},
            "text_encoder": TEXT_2,
            "image_encoder": LARGE_VISION | {"num_hidden_layers": 31},  # the last layer is not read
        },
    ),
    "instruct-pix2pix": Architecture(
        "instruct-pix2pix",
        {"unet": UNET | HEADS_1 | {"in_channels": 8}, "vae": VAE, "text_encoder": TEXT_1},
    ),
    "controlnet-1": Architecture("controlnet", {"controlnet": CONTROLNET | HEADS_1}),
    "bert": Architecture("language-model", {"language_model": BERT}),
    "deep-floyd-xl": Architecture(
        "deep-floyd", {"unet": PIXEL_UNET, "text_encoder": T5_XXL}, COSINE_SCHEDULER
    ),
    **{name: Architecture(denoiser, configs, FLOW) for name, (denoiser, configs) in PIPELINES.items()},
}
"""By the name that ``architecture`` of load/models.yaml gives."""
