"""What formulas on a picture model share: its own unconditional prediction, or another model's in its place.

Every formula with an unconditional prediction can be rectified: ``unconditional: prior`` takes it from Stable Diffusion
(arXiv 2312.06198), ``own`` from the picture model itself, as most formulas were published.
"""

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeVar

from usd.core.config import ConfigError, option
from usd.denoiser import Embedding, TextDenoiser, check_shared_latents, open_text_denoiser
from usd.guidance import Noised, ViewGuidance, untold
from usd.math.diffusion import guided_fn
from usd.prompt_processor import PromptProcessor

R = TypeVar("R", bound="RectifiableConfig", default="RectifiableConfig", covariant=True)


class RectifiableGuidance(ViewGuidance[R]):
    """A picture model, and a text model in its latent space where the formula wants one."""

    @dataclass(frozen=True)
    class Config(ViewGuidance.Config):
        pretrained_model_name_or_path: str = option(
            "sd-2.1-base", "the unconditional model (read when unconditional: prior)", path=True
        )
        guidance_scale: float = option(7.5, "s of the formula", ge=0, le=10000)
        unconditional: Literal["prior", "own"] = option(
            "own", "eps_ref from the picture model itself, or from the other one (unbiased)"
        )

    def __init__(self, config: R, prompts: PromptProcessor | None = None) -> None:
        if config.unconditional == "own" and prompts is not None and prompts.negative:
            raise ConfigError(
                "system.prompt_processor.negative_prompt: a picture model's own unconditional prediction is told no "
                "words; expected none, or system.guidance.unconditional: prior"
            )
        super().__init__(config, prompts)
        self.prompts = prompts
        self.prior = self.open_prior() if config.unconditional == "prior" else None

    def reference_eps(self, noised: Noised) -> Float[Tensor, "B c h w"]:
        """eps_ref: what is predicted when nothing is known about the picture."""
        if self.prior is None:
            return self.own_unconditional_eps(noised)
        return self.prior.eps(noised.xt, noised.t, untold(self.prior, self.prompts, len(noised.xt)))

    def guided_eps(self, noised: Noised, embedding: Embedding, scale: float) -> Float[Tensor, "B c h w"]:
        """eps_ref + scale (eps under ``embedding`` - eps_ref); only what the scale needs is computed."""

        def told(xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"]) -> Float[Tensor, "B c h w"]:
            return self.model.eps(xt, t, embedding)

        def plain(xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"]) -> Float[Tensor, "B c h w"]:
            return self.reference_eps(replace(noised, xt=xt, t=t))

        return guided_fn(told, plain, scale)(noised.xt, noised.t)

    def open_prior(self) -> TextDenoiser:
        """The text model. Raises UserError unless it shares the picture model's latent space."""
        where = "system.guidance.pretrained_model_name_or_path"
        prior = open_text_denoiser(self.config.pretrained_model_name_or_path, where, self.config.running)
        check_shared_latents(self.model, prior, where)
        return prior


RectifiableConfig = RectifiableGuidance.Config
