"""Prompts for Stable Diffusion, with words for the direction a camera looks from."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import Embedding, TextDenoiser, open_denoiser
from usd.math.camera import Cameras
from usd.prompt_processor import PromptProcessor, Prompts
from usd.prompt_processor.library import full_prompt

DIRECTIONS = ("side", "front", "back", "overhead")  # a later one wins where several apply


@register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor):
    """One embedding per direction, computed at the first call; each camera picks its own.

    Image-to-3D never calls it: its prompt then costs nothing and loads nothing.
    """

    @dataclass(frozen=True)
    class Config:
        pretrained_model_name_or_path: str = option(
            "sd-2.1-base", "text model: an alias of load/models.yaml, a folder or a hub id", path=True
        )
        prompt: str = option("", "what to make, or lib:words_of_a_library_prompt")
        negative_prompt: str = option("", "what the unconditional prediction is told instead of nothing")
        view_dependent_prompting: bool = option(True, "add words such as 'side view' to the prompt")
        front_threshold: float = option(
            45.0, "degrees of azimuth around +x that count as front", ge=0, le=180
        )
        back_threshold: float = option(45.0, "degrees of azimuth around -x that count as back", ge=0, le=180)
        overhead_threshold: float = option(
            60.0, "elevation in degrees from which a view is overhead", ge=-90, le=90
        )
        half_precision_weights: bool = option(True, "fp16 text encoder on CUDA; CPUs always use fp32")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._table: tuple[Embedding, Embedding] | None = None

    def forward(self, cameras: Cameras) -> Prompts:
        directions, nothing = self._embedded(cameras.device)
        config = self.config
        index = direction_index(
            cameras, config.front_threshold, config.back_threshold, config.overhead_threshold
        )
        if not config.view_dependent_prompting:
            index = torch.zeros_like(index)
        return Prompts(directions.select(index), nothing.select(torch.zeros_like(index)))

    def texts(self) -> list[str]:
        """The prompt as told for each of ``DIRECTIONS``. Raises UserError for an empty one."""
        prompt = full_prompt(self.config.prompt)
        if not prompt.strip():
            raise UserError("system.prompt_processor.prompt: is empty; expected what to make")
        if not self.config.view_dependent_prompting:
            return [prompt] * len(DIRECTIONS)
        return [f"{prompt}, {direction} view" for direction in DIRECTIONS]

    def _embedded(self, device: torch.device) -> tuple[Embedding, Embedding]:
        if self._table is None:
            texts = self.texts()
            where = "system.prompt_processor.pretrained_model_name_or_path"
            model = open_denoiser(
                self.config.pretrained_model_name_or_path, "text", where, self.config.half_precision_weights
            ).to(device)
            assert isinstance(model, TextDenoiser)
            self._table = model.embed_text(texts), model.embed_text([self.config.negative_prompt])
            model.release_encoders()
        return self._table


def direction_index(
    cameras: Cameras, front_deg: float, back_deg: float, overhead_deg: float
) -> Int[Tensor, "B"]:
    """Which of ``DIRECTIONS`` each camera looks from. Front is azimuth 0 (+x), back is azimuth 180."""
    place = cameras.spherical
    azimuth, elevation = place.azimuth.rad2deg().abs(), place.elevation.rad2deg()
    index = torch.zeros_like(azimuth, dtype=torch.long)
    for number, applies in enumerate(
        (azimuth < front_deg, azimuth > 180 - back_deg, elevation > overhead_deg), 1
    ):
        index = torch.where(applies, number, index)
    return index
