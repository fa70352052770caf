"""SDS or VSD behind one name, by ``guidance_type``: threestudio's unified guidances, from sentences and pictures."""

from usd.core.module import preset
from usd.guidance.vsd import StableDiffusionVsdGuidance, VsdGuidance

preset(
    "stable-diffusion-unified-guidance",
    StableDiffusionVsdGuidance,
    "``stable-diffusion-vsd-guidance`` that starts as SDS: ``guidance_type`` chooses.",
    guidance_type="sds",
    guidance_scale=100.0,
)
preset(
    "zero123-unified-guidance",
    VsdGuidance,
    "``vsd-guidance`` that starts as SDS: ``guidance_type`` chooses.",
    guidance_type="sds",
    guidance_scale=5.0,
    lora_n_timestamp_samples=1,
    lora_target="prediction",
)
