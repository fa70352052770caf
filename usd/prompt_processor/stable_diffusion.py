"""Prompts for Stable Diffusion and its kind, with words for the direction a camera looks from."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import Embedding, Execution, TextDenoiser, is_local_folder, open_text_denoiser
from usd.math.camera import Cameras
from usd.prompt_processor import PromptProcessor, Prompts
from usd.prompt_processor import directions as views
from usd.prompt_processor.cache import embed_with_cache
from usd.prompt_processor.debiasing import check_word_numbers, debias_prompt, language_model_shares
from usd.prompt_processor.directions import DIRECTIONS, Decay, Decays
from usd.prompt_processor.library import full_prompt
from usd.prompt_processor.prompt_checks import check, refuse_unreadable

OPTIONS = "system.prompt_processor"
WHERE = f"{OPTIONS}.prompt"
MODEL = f"{OPTIONS}.pretrained_model_name_or_path"
NEGATIVE = f"{OPTIONS}.negative_prompt"
LOG = logging.getLogger(__name__)
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
    "use_prompt_debiasing",
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
        prompt: str = option("", "sentence that says what to make, or lib:words_of_a_library_prompt")
        prompt_format: str = option(
            "{prompt}",
            "the sentence that the model is given: a text with {prompt} in it, such as 'a DSLR photo of {prompt}'",
        )
        negative_prompt: str = option("", "prompt of the unconditional prediction, instead of the empty one")
        view_dependent_prompting: bool = option(
            True, "add words for the direction of each view to the prompt, such as 'side view'"
        )
        view_dependent_prompt_front: bool = option(
            False, "put the words for a view first: 'side view of ...', 'backside view of ...'"
        )
        view_words: Literal["direction", "toybox"] = option(
            "direction",
            "words for views: front, side, back, overhead (direction), or 'from the back left and above' (toybox)",
        )
        front_azimuth_deg: float = option(
            0.0, "azimuth from which the object's front is seen, in degrees", ge=-360, le=360
        )
        front_threshold: float = option(
            45.0, "degrees of azimuth to either side of the front that count as front", ge=0, le=180
        )
        back_threshold: float = option(
            45.0, "degrees of azimuth to either side of the back that count as back", ge=0, le=180
        )
        overhead_threshold: float = option(
            60.0, "elevation in degrees from which a view is overhead", ge=-90, le=90
        )
        prompt_front: str | None = option(None, "the whole prompt of front views, instead of added words")
        prompt_side: str | None = option(None, "the whole prompt of side views, instead of added words")
        prompt_back: str | None = option(None, "the whole prompt of back views, instead of added words")
        prompt_overhead: str | None = option(
            None, "the whole prompt of overhead views, instead of added words"
        )
        use_perp_neg: bool = option(
            False,
            "mix the prompts of neighboring directions and push the others away (Perp-Neg, arXiv 2304.04968)",
        )
        perp_neg_f_sb: Decay = option(
            (1, 0.5, -0.606),
            "Perp-Neg's weight against the side between side and back: a, b, c of a exp(-b r) + c",
            ge=-1000,
            le=1000,
        )
        perp_neg_f_fsb: Decay = option(
            (1, 0.5, 0.967),
            "Perp-Neg's weight against the front between side and back: a, b, c of a exp(-b r) + c",
            ge=-1000,
            le=1000,
        )
        perp_neg_f_fs: Decay = option(
            (4, 0.5, -2.426),
            "Perp-Neg's weight against the front between front and side: a, b, c of a exp(-b r) + c",
            ge=-1000,
            le=1000,
        )
        perp_neg_f_sf: Decay = option(
            (4, 0.5, -2.426),
            "Perp-Neg's weight against the side between front and side: a, b, c of a exp(-b r) + c",
            ge=-1000,
            le=1000,
        )
        use_prompt_debiasing: bool = option(
            False, "leave out of each view's prompt the words that speak against the view (arXiv 2303.15413)"
        )
        pretrained_model_name_or_path_prompt_debiasing: str = option(
            "bert-base-uncased",
            "masked language model of the debiasing: an alias, a folder or a hub id",
            path=True,
        )
        prompt_debiasing_mask_ids: tuple[int, ...] | None = option(
            None,
            "numbers of the prompt's words, from 0, that the debiasing may leave out; null: all of them",
            ge=0,
        )
        use_cache: bool = option(True, "keep embeddings on disk, so that the text encoder is read once")
        cache_dir: Path = option(
            "outputs/prompt-cache", "folder of the embeddings kept on disk", path="output"
        )
        half_precision_weights: bool = option(True, "fp16 text encoder on CUDA; CPUs always use fp32")

        @property
        def unread_models(self) -> frozenset[str]:
            """Return the options of models that are not opened: the language model's, without debiasing."""
            unread = () if self.use_prompt_debiasing else ("pretrained_model_name_or_path_prompt_debiasing",)
            return frozenset(unread)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._table: tuple[Embedding, Embedding] | None = None
        self._negatives: dict[TextDenoiser, Embedding] = {}
        _check_views(config)

    def forward(self, cameras: Cameras) -> Prompts:
        """Return the condition of each camera's direction, and the negative prompt's."""
        each, negative = self._embeddings(cameras.device)
        uncond = negative.select(torch.zeros(len(cameras), dtype=torch.long, device=cameras.device))
        if self.config.use_perp_neg:
            return self._against_other_views(each, uncond, cameras)
        return Prompts(each.select(self.index(cameras)), uncond)

    @property
    def negative(self) -> str:
        """The negative prompt; empty where there is none."""
        return self.config.negative_prompt

    @override
    def check_prompt(self) -> None:
        name, texts = self.config.pretrained_model_name_or_path, [full_prompt(self.config.prompt)]
        if not self.config.use_prompt_debiasing:  # which asks a language model
            texts += self.texts()
        if is_local_folder(name):  # a single file has its words elsewhere
            refuse_unreadable(open_text_denoiser(name, MODEL), texts, WHERE)

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
            self._negatives[model] = embed_with_cache(model, [self.negative], self._folder)
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

    def _against_other_views(self, each: Embedding, uncond: Embedding, cameras: Cameras) -> Prompts:
        c = self.config
        decays = Decays(c.perp_neg_f_sb, c.perp_neg_f_fsb, c.perp_neg_f_fs, c.perp_neg_f_sf)
        place = views.azimuth_elevation_deg(cameras, c.front_azimuth_deg)
        mixed = views.mixture(*place, c.overhead_threshold, decays)
        cond = each.select(mixed.first).lerp(each.select(mixed.second), mixed.share)
        return Prompts(cond, uncond, tuple(each.select(row) for row in mixed.negatives), mixed.weights)

    def texts(self) -> list[str]:
        """Return the prompt for each of ``DIRECTIONS``, or of the toybox's phrases. Raises UserError when empty."""
        c = self.config
        plain = full_prompt(c.prompt).strip()
        if not plain:
            raise UserError(f"{WHERE}: is empty; expected what to make")
        prompt = self._sentence(plain)
        if not c.view_dependent_prompting:
            return [prompt]
        if c.view_words == "toybox":
            return [f"{prompt}, {phrase}" for phrase in views.phrases()]
        own = {"side": c.prompt_side, "front": c.prompt_front, "back": c.prompt_back}
        own["overhead"] = c.prompt_overhead
        prompts = [self._sentence(each) for each in self._debiased(plain)]
        return [
            own[name] or self._with_view(prompt, name)
            for name, prompt in zip(DIRECTIONS, prompts, strict=True)
        ]

    def _sentence(self, prompt: str) -> str:
        return self.config.prompt_format.replace("{prompt}", prompt)

    def _debiased(self, prompt: str) -> list[str]:
        """Return the prompt for each of ``DIRECTIONS``, without the words that speak against it where asked for."""
        c = self.config
        if not c.use_prompt_debiasing:
            return [prompt] * len(DIRECTIONS)
        check_word_numbers(prompt, c.prompt_debiasing_mask_ids, f"{OPTIONS}.prompt_debiasing_mask_ids")
        where = f"{OPTIONS}.pretrained_model_name_or_path_prompt_debiasing"
        shares = language_model_shares(c.pretrained_model_name_or_path_prompt_debiasing, DIRECTIONS, where)
        prompts = debias_prompt(prompt, shares, DIRECTIONS, c.prompt_debiasing_mask_ids)
        LOG.info("prompts without the words against a view: %s", dict(zip(DIRECTIONS, prompts, strict=True)))
        return prompts

    def _with_view(self, prompt: str, direction: str) -> str:
        if self.config.view_dependent_prompt_front:
            side = {"back": "backside"}.get(direction, direction)  # the published words
            return f"{side} view of {prompt}"
        return f"{prompt}, {direction} view"

    def _embeddings(self, device: torch.device) -> tuple[Embedding, Embedding]:
        """Return the embeddings of ``texts()``, and of the negative prompt."""
        if self._table is None:
            texts, c = self.texts(), self.config
            model = open_text_denoiser(
                c.pretrained_model_name_or_path, MODEL, Execution().single(c.half_precision_weights)
            )
            refuse_unreadable(model, [full_prompt(c.prompt)], WHERE)
            check(model, texts, WHERE)
            if c.negative_prompt:
                check(model, [c.negative_prompt], NEGATIVE)
            folder = self._folder
            model = model.to(device)
            self._table = (
                embed_with_cache(model, texts, folder),
                embed_with_cache(model, [c.negative_prompt], folder),
            )
            model.release_encoders()
        return self._table


def _check_views(config: StableDiffusionPromptProcessor.Config) -> None:
    """Raise ConfigError for options that contradict each other."""
    by_direction = config.view_dependent_prompting and config.view_words == "direction"
    given: dict[str, object] = {
        "prompt_front": config.prompt_front,
        "prompt_side": config.prompt_side,
        "prompt_back": config.prompt_back,
        "prompt_overhead": config.prompt_overhead,
        "use_perp_neg": config.use_perp_neg or None,
        "use_prompt_debiasing": config.use_prompt_debiasing or None,
    }
    for key, value in given.items():
        if value is not None and not by_direction:
            raise ConfigError(
                f"system.prompt_processor.{key}: speaks of front, side and back, which no prompt says here; "
                "expected view_dependent_prompting: true and view_words: direction"
            )
    if "{prompt}" not in config.prompt_format:
        raise ConfigError(
            f"system.prompt_processor.prompt_format: '{config.prompt_format}' leaves the prompt out; "
            "expected a text with {prompt} in it"
        )
