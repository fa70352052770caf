"""Scores from a sentence: a text model, with words for the direction of each view.

The unconditional prediction is the model's own (under the negative prompt, where there is one) or that of another text
model of the same latent space. Where the prompts come with negatives (``use_perp_neg``), the conditional prediction is
what ``usd.math.distill.perp_neg`` says.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.errors import UserError
from usd.denoiser import TextDenoiser, check_shared_latents, open_text_denoiser
from usd.guidance import GuidanceConfig, ReferenceOptions
from usd.guidance.scores import Pictures, Scores, ScoreSource, predictor, unconditional
from usd.math.camera import Cameras
from usd.math.diffusion import EpsFn
from usd.math.distill import perp_neg
from usd.prompt_processor import PromptProcessor, Prompts

WHERE = "system.guidance.pretrained_model_name_or_path"


@dataclass(frozen=True)
class TextOptions(GuidanceConfig):
    """Options of every formula on a text model."""

    pretrained_model_name_or_path: str = option(
        "sd-2.1-base", "text model: an alias of load/models.yaml, a folder or a hub id", path=True
    )
    unconditional_model_name_or_path: str | None = option(
        None, "another text model for the unconditional prediction; null: the same", path=True
    )
    guidance_scale: float = option(7.5, "guidance scale: s of the formula", ge=0, le=10000)

    @property
    def wants_prompts(self) -> bool:
        """Return True: the prompt reaches the model."""
        return True

    def open_source(self, prompts: PromptProcessor | None) -> "TextScores":
        """Open the models. Raises ``UserError``."""
        return TextScores(self, prompts)


@dataclass(frozen=True)
class TextPairOptions(TextOptions, ReferenceOptions):
    """Options of a formula on a text model that also wants a picture with a sentence that describes it."""

    source_prompt: str = option("", "sentence that describes the reference picture as it is")

    def open_source(self, prompts: PromptProcessor | None) -> "TextScores":
        """Open the models. Raises ``UserError``."""
        return TextScores(self, prompts, self.source_prompt)


class TextScores(ScoreSource):
    """A text model with a prompt processor."""

    model: TextDenoiser

    def __init__(
        self, options: TextOptions, prompts: PromptProcessor | None, source_prompt: str = ""
    ) -> None:
        super().__init__()
        if prompts is None:
            raise UserError("system.prompt_processor_type: required by a guidance that reads a prompt")
        self.prompts, self.source_prompt, where = prompts, source_prompt, WHERE
        self.model = open_text_denoiser(options.pretrained_model_name_or_path, where, options.execution)
        if options.unconditional_model_name_or_path is not None:
            where = "system.guidance.unconditional_model_name_or_path"
            self.prior = open_text_denoiser(
                options.unconditional_model_name_or_path, where, options.execution
            )
            check_shared_latents(self.model, self.prior, where)

    @override
    def at(self, cameras: Cameras, pictures: Pictures | None) -> Scores:
        """Return the scores of the prompt, with words for these cameras."""
        prompts = self._prompts_of(cameras)
        uncond = predictor(self.model, prompts.uncond, "unconditional")
        cond = predictor(self.model, prompts.cond, "conditional")
        if prompts.weights is not None:
            cond = self._against_negatives(cond, uncond, prompts, prompts.weights)
        if self.prior is not None:
            embedding = partial(unconditional, self.prior, self.prompts, len(cameras))
            uncond = predictor(self.prior, embedding, "unconditional")
        return Scores(cond, uncond, lambda: prompts.cond, cameras)

    def biased_at(self, cameras: Cameras, pictures: Pictures | None) -> Scores | None:
        """Return the scores with the prompt's model's own unconditional prediction in place of another model's."""
        if self.prior is None:
            return None
        own = predictor(self.model, self._prompts_of(cameras).uncond, "unconditional")
        return replace(self.at(cameras, pictures), uncond=own)

    def _prompts_of(self, cameras: Cameras) -> Prompts:
        """Return the prompts for these cameras, and with them where the model sees cameras."""
        prompts, seen = self.prompts(cameras), partial(self.model.with_cameras, cameras=cameras)
        negatives = tuple(map(seen, prompts.negatives))
        return replace(prompts, cond=seen(prompts.cond), uncond=seen(prompts.uncond), negatives=negatives)

    def at_reference(self, count: int) -> Scores:
        """Return the scores of the sentence that describes the reference picture."""
        cameras = self.given_reference()[1][[0] * count]
        embedding = partial(self.model.embed_text, [self.source_prompt] * count)
        cond = predictor(self.model, embedding, "reference's")
        return Scores(cond, self.at(cameras, None).uncond, embedding, cameras)

    def text_model(self) -> TextDenoiser:
        """Return the model itself."""
        return self.model

    def _against_negatives(
        self, cond: EpsFn, uncond: EpsFn, prompts: Prompts, weights: Float[Tensor, "K B"]
    ) -> EpsFn:
        """Return the prediction from the prompt with its negatives, by Perp-Neg."""
        others = [predictor(self.model, row, "negative") for row in prompts.negatives]

        def eps(xt: Float[Tensor, "B c h w"], t: Tensor) -> Float[Tensor, "B c h w"]:
            negatives = torch.stack([other(xt, t) for other in others])
            return perp_neg(cond(xt, t), uncond(xt, t), negatives, weights.to(negatives))

        return eps
