"""``deep-floyd-prompt-processor``: prompts for DeepFloyd IF, which reads them with T5."""

from usd.core.module import preset
from usd.prompt_processor.stable_diffusion import StableDiffusionPromptProcessor

preset(
    "deep-floyd-prompt-processor",
    StableDiffusionPromptProcessor,
    "``stable-diffusion-prompt-processor`` for DeepFloyd IF: only the default model differs.",
    pretrained_model_name_or_path="deep-floyd-if",
)
