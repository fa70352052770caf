"""Scores from a reference picture: Zero-1-to-3, given the picture and where the camera stands.

The unconditional prediction is the model's own, as most formulas were published, that of a text model of the same
latent space (``unconditional: prior``; arXiv 2312.06198), or a mixture of both that changes with the noise level
(``unconditional: mixed``; usd/math/rectification.py). With ``prompt_scale`` a sentence counts, too: what it changes
in the text model's prediction is added to the conditional one (conjunction of conditions, arXiv 2206.01714).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from usd.core.config import ConfigError, option
from usd.core.schedule import Schedule
from usd.core.unread import ReadWith
from usd.denoiser import (
    Denoiser,
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
from usd.math.rectification import mixed_fn
from usd.prompt_processor import PromptProcessor

WHERE = "system.guidance.pretrained_model_name_or_path"
WHERE_VIEWS = "system.guidance.zero123_model_name_or_path"


@dataclass(frozen=True)
class PictureOptions(ReferenceOptions):
    """Options of every formula on a picture model."""

    read_with: ClassVar[ReadWith] = {"own_share": ("unconditional", ("mixed",))}

    zero123_model_name_or_path: str = option(
        "zero123-xl", "picture model: an alias of load/models.yaml, a folder or a hub id", path=True
    )
    pretrained_model_name_or_path: str = option(
        "sd-2.1-base",
        "text model of the same latent space (read where unconditional: prior, mixed)",
        path=True,
    )
    guidance_scale: float = option(7.5, "guidance scale: s of the formula", ge=0, le=10000)
    unconditional: Literal["prior", "own", "mixed"] = option(
        "own",
        "the unconditional prediction: own, the picture model's; prior, the text model's (unbiased); mixed, of both",
    )
    own_share: Schedule = option(
        1.0,
        "share of the picture model's own prediction in unconditional: mixed, a schedule over the noise level in "
        "thousandths instead of steps",
        ge=0,
        le=1,
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
        with_prior = options.unconditional != "own" or options.prompt_scale > 0
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
        rows = cameras[list(range(len(cameras))) * len(self.model.domains)]
        uncond = self._unconditional(rows)
        condition = partial(self._condition, cameras)
        cond = predictor(self.model, condition, "conditional")
        if self.options.prompt_scale > 0:
            cond = self._with_prompt(cond, rows)
        return Scores(cond, uncond, condition, rows)

    def biased_at(self, cameras: Cameras, pictures: Pictures | None) -> Scores | None:
        """Return the scores with the picture model's own unconditional prediction alone; None where it is that."""
        if self.prior is None or self.options.unconditional == "own":
            return None
        scores = self.at(cameras, pictures)
        return replace(scores, uncond=self._own(scores.cameras))

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

    def _unconditional(self, rows: Cameras) -> EpsFn:
        """Return the unconditional prediction that the options ask for."""
        prior = self.prior
        if prior is None or self.options.unconditional == "own":
            return self._own(rows)
        embedding = partial(_at, prior, partial(unconditional, prior, self.prompts), rows)
        base = predictor(prior, embedding, "unconditional")
        if self.options.unconditional == "prior":
            return base
        return mixed_fn(self._own(rows), base, self._own_shares)

    def _own(self, rows: Cameras) -> EpsFn:
        """Return the picture model's own unconditional prediction."""
        embedding = partial(_at, self.model, self.model.unconditional, rows, self._encoded)
        return predictor(self.model, embedding, "unconditional")

    def _own_shares(self, t: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return ``own_share`` at these times."""
        count = len(self.model.alphas_cumprod)
        levels = [round(1000 * time / count) for time in t.tolist()]
        return torch.tensor([self.options.own_share(level) for level in levels], device=t.device)

    def _with_prompt(self, cond: EpsFn, cameras: Cameras) -> EpsFn:
        """Return ``cond`` plus what the prompt changes in the text model's prediction."""
        prior, prompts, scale = self.prior, self.prompts, self.options.prompt_scale
        assert prior is not None and prompts is not None
        embedded = prompts(cameras)
        given = predictor(prior, embedded.cond, "prompt's")
        without = predictor(prior, embedded.uncond, "promptless")
        return lambda xt, t: cond(xt, t) + scale * (given(xt, t) - without(xt, t))


def _at(
    model: Denoiser,
    unconditional_of: Callable[[int], Embedding],
    rows: Cameras,
    reference: EncodedReference | None = None,
) -> Embedding:
    """Return a model's unconditional embedding, with cameras where the model keeps them."""
    return model.with_cameras(unconditional_of(len(rows)), rows, reference)


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
