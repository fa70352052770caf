"""Prompts for Stable Diffusion and its kind, with words for the direction a camera looks from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from usd.core.config import ConfigError, option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import Embedding, Execution, TextDenoiser, open_text_denoiser
from usd.math.camera import Cameras
from usd.prompt_processor import PromptProcessor, Prompts
from usd.prompt_processor import directions as views
from usd.prompt_processor.cache import embed_cached
from usd.prompt_processor.directions import DIRECTIONS, Decay, Decays
from usd.prompt_processor.library import full_prompt
from usd.prompt_processor.prompt_checks import check

WHERE = "system.prompt_processor.prompt"
NEGATIVE = "system.prompt_processor.negative_prompt"
POSITIVE = (
    "prompt",
    "prompt_format",
    "prompt_front",
    "prompt_side",
    "prompt_back",
    "prompt_overhead",
    "view_dependent_prompt_front",
    "view_words",
    "use_perp_neg",
)
"""Options about what a view should show."""


@register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor["StableDiffusionPromptProcessor.Config"]):
    """One embedding per direction, computed at the first call; each camera picks its own.

    Image-to-3D asks only for ``unconditional``: a prompt then costs nothing and loads nothing.
    """

    @dataclass(frozen=True)
    class Config:
        pretrained_model_name_or_path: str = option(
            "sd-2.1-base", "text model: an alias of load/models.yaml, a folder or a hub id", path=True
        )
        prompt: str = option("", "what to make, or lib:words_of_a_library_prompt")
        prompt_format: str = option(
            "{prompt}",
            "what the model is told: a text with {prompt} in it, such as 'a DSLR photo of {prompt}'",
        )
        negative_prompt: str = option("", "what the unconditional prediction is told instead of nothing")
        view_dependent_prompting: bool = option(True, "add words such as 'side view' to the prompt")
        view_dependent_prompt_front: bool = option(
            False, "put those words first: 'side view of ...', 'backside view of ...'"
        )
        view_words: Literal["direction", "toybox"] = option(
            "direction",
            "direction: front, side, back, overhead; toybox: 'from the back left and above', as toys are captioned",
        )
        front_azimuth_deg: float = option(
            0.0, "azimuth from which the object's front is seen, in degrees", ge=-360, le=360
        )
        front_threshold: float = option(
            45.0, "degrees of azimuth around the front that count as front", ge=0, le=180
        )
        back_threshold: float = option(45.0, "degrees of azimuth around the back", ge=0, le=180)
        overhead_threshold: float = option(
            60.0, "elevation in degrees from which a view is overhead", ge=-90, le=90
        )
        prompt_front: str | None = option(None, "the whole prompt of front views, instead of added words")
        prompt_side: str | None = option(None, "likewise of side views")
        prompt_back: str | None = option(None, "likewise of back views")
        prompt_overhead: str | None = option(None, "likewise of overhead views")
        use_perp_neg: bool = option(
            False, "mix the words of neighbouring directions and push the others away (arXiv 2304.04968)"
        )
        perp_neg_f_sb: Decay = option(
            (1, 0.5, -0.606), "a, b, c of a exp(-b r) + c: side, towards the back", ge=-1000, le=1000
        )
        perp_neg_f_fsb: Decay = option((1, 0.5, 0.967), "front, between side and back", ge=-1000, le=1000)
        perp_neg_f_fs: Decay = option((4, 0.5, -2.426), "front, between front and side", ge=-1000, le=1000)
        perp_neg_f_sf: Decay = option((4, 0.5, -2.426), "side, between front and side", ge=-1000, le=1000)
        use_cache: bool = option(True, "keep embeddings on disk, so that the text encoder is read once")
        cache_dir: Path = option("outputs/prompt-cache", "where", path="output")
        half_precision_weights: bool = option(True, "fp16 text encoder on CUDA; CPUs always use fp32")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._table: tuple[Embedding, Embedding] | None = None
        self._negatives: dict[TextDenoiser, Embedding] = {}
        _check_words(config)

    def forward(self, cameras: Cameras) -> Prompts:
        """Return the condition of each camera's direction, and the negative prompt's."""
        told, nothing = self._embedded(cameras.device)
        uncond = nothing.select(torch.zeros(len(cameras), dtype=torch.long, device=cameras.device))
        if self.config.use_perp_neg:
            return self._against_other_views(told, uncond, cameras)
        return Prompts(told.select(self.index(cameras)), uncond)

    @property
    def negative(self) -> str:
        """The negative prompt; empty where there is none."""
        return self.config.negative_prompt

    def unused_options(self) -> list[str]:
        """Return the keys of options about what a view should show that are given."""
        silent = type(self.config)()
        return [key for key in POSITIVE if getattr(self.config, key) != getattr(silent, key)]

    def unconditional(self, model: TextDenoiser, batch: int) -> Embedding:
        """Return the embedding of the negative prompt, or else the model's own unconditional one."""
        if not self.negative:
            return model.unconditional(batch)
        if model not in self._negatives:
            check(model, [self.negative], NEGATIVE)
            self._negatives[model] = embed_cached(model, [self.negative], self._folder)
            model.release_encoders()
        return self._negatives[model].select(torch.zeros(batch, dtype=torch.long, device="cpu"))

    @property
    def _folder(self) -> Path | None:
        return self.config.cache_dir if self.config.use_cache else None

    def index(self, cameras: Cameras) -> Int[Tensor, "B"]:
        """Return the number in ``texts()`` of each camera's prompt."""
        c = self.config
        if not c.view_dependent_prompting:
            return torch.zeros(len(cameras), dtype=torch.long, device=cameras.device)
        if c.view_words == "toybox":
            return views.phrase_index(cameras, c.front_azimuth_deg)
        return views.direction_index(
            cameras, c.front_threshold, c.back_threshold, c.overhead_threshold, c.front_azimuth_deg
        )

    def _against_other_views(self, told: Embedding, uncond: Embedding, cameras: Cameras) -> Prompts:
        c = self.config
        decays = Decays(c.perp_neg_f_sb, c.perp_neg_f_fsb, c.perp_neg_f_fs, c.perp_neg_f_sf)
        place = views.azimuth_elevation_deg(cameras, c.front_azimuth_deg)
        mixed = views.mixture(*place, c.overhead_threshold, decays)
        cond = told.select(mixed.first).lerp(told.select(mixed.second), mixed.share)
        return Prompts(cond, uncond, tuple(told.select(row) for row in mixed.negatives), mixed.weights)

    def texts(self) -> list[str]:
        """Return the prompt for each of ``DIRECTIONS``, or of the toybox's phrases. Raises UserError when empty."""
        c = self.config
        plain = full_prompt(c.prompt).strip()
        if not plain:
            raise UserError(f"{WHERE}: is empty; expected what to make")
        prompt = c.prompt_format.replace("{prompt}", plain)
        if not c.view_dependent_prompting:
            return [prompt]
        if c.view_words == "toybox":
            return [f"{prompt}, {phrase}" for phrase in views.phrases()]
        own = {"side": c.prompt_side, "front": c.prompt_front, "back": c.prompt_back}
        own["overhead"] = c.prompt_overhead
        return [own[name] or self._with_view(prompt, name) for name in DIRECTIONS]

    def _with_view(self, prompt: str, direction: str) -> str:
        if self.config.view_dependent_prompt_front:
            side = {"back": "backside"}.get(direction, direction)  # the published words
            return f"{side} view of {prompt}"
        return f"{prompt}, {direction} view"

    def _embedded(self, device: torch.device) -> tuple[Embedding, Embedding]:
        """Return the embeddings of ``texts()``, and of the negative prompt."""
        if self._table is None:
            texts, c = self.texts(), self.config
            where = "system.prompt_processor.pretrained_model_name_or_path"
            model = open_text_denoiser(
                c.pretrained_model_name_or_path, where, Execution().single(c.half_precision_weights)
            )
            check(model, texts, WHERE)
            if c.negative_prompt:
                check(model, [c.negative_prompt], NEGATIVE)
            folder = self._folder
            model = model.to(device)
            self._table = embed_cached(model, texts, folder), embed_cached(model, [c.negative_prompt], folder)
            model.release_encoders()
        return self._table


def _check_words(config: StableDiffusionPromptProcessor.Config) -> None:
    """Raise ConfigError for options that contradict each other."""
    by_direction = config.view_dependent_prompting and config.view_words == "direction"
    given = {
        "prompt_front": config.prompt_front,
        "prompt_side": config.prompt_side,
        "prompt_back": config.prompt_back,
        "prompt_overhead": config.prompt_overhead,
        "use_perp_neg": config.use_perp_neg or None,
    }
    for key, value in given.items():
        if value is not None and not by_direction:
            raise ConfigError(
                f"system.prompt_processor.{key}: speaks of front, side and back, which are not told here; "
                "expected view_dependent_prompting: true and view_words: direction"
            )
    if "{prompt}" not in config.prompt_format:
        raise ConfigError(
            f"system.prompt_processor.prompt_format: '{config.prompt_format}' leaves the prompt out; "
            "expected a text with {prompt} in it"
        )
