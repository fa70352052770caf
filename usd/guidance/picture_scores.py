"""Scores from a reference picture: Zero-1-to-3, given the picture and where the camera stands.

The unconditional prediction is the model's own, as most formulas were published, or that of a text model of the same
latent space (``unconditional: prior``; arXiv 2312.06198). With ``prompt_scale`` a sentence counts, too: what it changes
in the text model's prediction is added to the conditional one (conjunction of conditions, arXiv 2206.01714).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, option
from usd.denoiser import (
    Embedding,
    EncodedReference,
    Execution,
    TextDenoiser,
    ViewDenoiser,
    check_shared_latents,
    open_text_denoiser,
    open_view_denoiser,
)
from usd.guidance import ReferenceOptions
from usd.guidance.scores import Pictures, Scores, ScoreSource, predictor, unconditional
from usd.math.camera import Cameras
from usd.math.diffusion import EpsFn
from usd.prompt_processor import PromptProcessor

WHERE = "system.guidance.pretrained_model_name_or_path"
WHERE_VIEWS = "system.guidance.zero123_model_name_or_path"


@dataclass(frozen=True)
class PictureOptions(ReferenceOptions):
    """Options of every formula on a picture model."""

    zero123_model_name_or_path: str = option(
        "zero123-xl", "picture model: an alias of load/models.yaml, a folder or a hub id", path=True
    )
    pretrained_model_name_or_path: str = option(
        "sd-2.1-base", "text model of the same latent space (read where unconditional: prior)", path=True
    )
    guidance_scale: float = option(7.5, "guidance scale: s of the formula", ge=0, le=10000)
    unconditional: Literal["prior", "own"] = option(
        "own", "the unconditional prediction: the picture model's own, or the text model's (unbiased)"
    )
    prompt_scale: float = option(
        0.0, "how much of what the prompt changes in the text model's prediction is added", ge=0, le=10000
    )

    @property
    def wants_prompts(self) -> bool:
        """Return whether the prompt itself, and not only the negative one, reaches a model."""
        return self.prompt_scale > 0

    @property
    def unread_models(self) -> frozenset[str]:
        """Return the options of models that are not opened: the text model's, where nothing asks for it."""
        with_prior = self.unconditional != "own" or self.prompt_scale > 0
        return frozenset() if with_prior else frozenset({"pretrained_model_name_or_path"})

    def open_source(self, prompts: PromptProcessor | None) -> "PictureScores":
        """Open the models. Raises ``UserError``."""
        return PictureScores(self, prompts)


class PictureScores(ScoreSource):
    """A picture model, and a text model in its latent space where the options want one."""

    model: ViewDenoiser

    def __init__(self, options: PictureOptions, prompts: PromptProcessor | None) -> None:
        super().__init__()
        self.options, self.prompts = options, prompts
        with_prior = options.unconditional == "prior" or options.prompt_scale > 0
        if not with_prior and prompts is not None and prompts.negative:
            raise ConfigError(
                "system.prompt_processor.negative_prompt: a picture model's own unconditional prediction has no "
                "prompt; expected none, or system.guidance.unconditional: prior"
            )
        if options.prompt_scale > 0 and prompts is None:
            raise ConfigError("system.guidance.prompt_scale: needs a prompt; expected a prompt processor")
        self.model = open_view_denoiser(options.zero123_model_name_or_path, WHERE_VIEWS, options.execution)
        self.prior = self.text_model() if with_prior else None
        self._encoded: EncodedReference | None = None

    def set_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> None:
        """Keep the picture, and what the model reads from it."""
        super().set_reference(rgb, cameras)
        self._encoded = self.model.encode_reference(rgb, cameras)
        self.model.release_encoders()

    @override
    def at(self, cameras: Cameras, pictures: Pictures | None) -> Scores:
        """Return the scores of these cameras, given the reference picture (and the prompt)."""
        count = len(cameras)
        uncond = predictor(*self._unconditional(count), "unconditional")
        condition = partial(self._condition, cameras)
        cond = predictor(self.model, condition, "conditional")
        if self.options.prompt_scale > 0:
            cond = self._with_prompt(cond, cameras)
        return Scores(cond, uncond, condition, cameras)

    def biased_at(self, cameras: Cameras, pictures: Pictures | None) -> Scores | None:
        """Return the scores with the picture model's own unconditional prediction in place of the text model's."""
        if self.prior is None or self.options.unconditional == "own":
            return None
        own = predictor(self.model, partial(self.model.unconditional, len(cameras)), "unconditional")
        return replace(self.at(cameras, pictures), uncond=own)

    def change_options(self, options: object) -> None:
        """Take other numbers."""
        assert isinstance(options, PictureOptions)
        self.options = options

    def at_reference(self, count: int) -> Scores:
        """Return the scores of the reference picture's own camera."""
        return self.at(self.given_reference()[1][[0] * count], None)

    def text_model(self) -> TextDenoiser:
        """Return the text model. Raises ``UserError`` unless it shares the picture model's latent space."""
        if self.prior is not None:
            return self.prior
        prior = open_text_denoiser(self.options.pretrained_model_name_or_path, WHERE, self.options.execution)
        check_shared_latents(self.model, prior, WHERE)
        return prior

    def _condition(self, cameras: Cameras) -> Embedding:
        if self._encoded is None:
            raise RuntimeError("PictureScores: set_reference has not been called")
        return self.model.embed_view(self._encoded, cameras)

    def _unconditional(self, count: int) -> tuple[ViewDenoiser | TextDenoiser, partial[Embedding]]:
        """Return the model of the unconditional prediction, and the maker of its embedding."""
        if self.prior is None or self.options.unconditional == "own":
            return self.model, partial(self.model.unconditional, count)
        return self.prior, partial(unconditional, self.prior, self.prompts, count)

    def _with_prompt(self, cond: EpsFn, cameras: Cameras) -> EpsFn:
        """Return ``cond`` plus what the prompt changes in the text model's prediction."""
        prior, prompts, scale = self.prior, self.prompts, self.options.prompt_scale
        assert prior is not None and prompts is not None
        embedded = prompts(cameras)
        given = predictor(prior, embedded.cond, "prompt's")
        without = predictor(prior, embedded.uncond, "promptless")
        return lambda xt, t: cond(xt, t) + scale * (given(xt, t) - without(xt, t))


class PriorScores(ScoreSource):
    """A text model without a prompt, on the latents of its own autoencoder or of a picture model's."""

    def __init__(
        self, name: str, encoder: str | None, execution: Execution, prompts: PromptProcessor | None
    ) -> None:
        super().__init__()
        self.prior = self.model = prior = open_text_denoiser(name, WHERE, execution)
        self.prompts = prompts
        if encoder is not None:
            self.model = open_view_denoiser(encoder, WHERE_VIEWS, execution)
            check_shared_latents(self.model, prior, WHERE)

    @override
    def at(self, cameras: Cameras, pictures: Pictures | None) -> Scores:
        """Return the unconditional prediction, twice."""
        embedding = partial(unconditional, self.text_model(), self.prompts, len(cameras))
        eps = predictor(self.text_model(), embedding, "unconditional")
        return Scores(eps, eps, embedding, cameras)

    def at_reference(self, count: int) -> Scores:
        """Return the same."""
        return self.at(self.given_reference()[1][[0] * count], None)

    def text_model(self) -> TextDenoiser:
        """Return the text model."""
        assert self.prior is not None
        return self.prior
