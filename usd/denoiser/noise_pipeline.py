"""Models of diffusers' pipelines that predict noise or v on a schedule of betas: Stable Diffusion XL and its kind."""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.denoiser.latent import prediction_type, scheduler_alphas
from usd.denoiser.pipeline import P, PipelineDenoiser, PromptTokens, Transformer
from usd.math.diffusion import eps_from_v


class NoiseDenoiser(PipelineDenoiser[P]):
    """A model of diffusers that was trained to predict noise, or v. Subclasses say how its network is asked."""

    def __init__(self, config: P, name: str = "") -> None:
        super().__init__(config, name)
        path = self.folder / "scheduler" / "scheduler_config.json"
        scheduler = self.files.config("scheduler")
        self.predicts = prediction_type(scheduler, path)
        self.register_buffer("alphas_cumprod", scheduler_alphas(scheduler, path), persistent=False)

    def eps_of(
        self,
        network: Transformer,
        xt: Float[Tensor, "B c h w"],
        t: Int[Tensor, "B"],
        embedding: PromptTokens,
        dtype: torch.dtype,
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted in x_t; a variance that the network predicts beside it is dropped."""
        given = embedding.map(lambda _, tensor: tensor.to(xt.device, dtype))
        with torch.autocast(xt.device.type, enabled=False):
            found = self.prediction(network, xt.to(dtype), t.to(xt.device), given)[:, : xt.shape[1]].float()
        return eps_from_v(xt.float(), found, self.alphas_cumprod, t) if self.predicts_v else found

    @property
    def predicts_v(self) -> bool:
        """Return whether the network predicts v instead of noise."""
        return self.predicts == "v_prediction"

    def noise_per_prediction(self, t: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Return how much the noise grows with v, or with itself."""
        alpha = self.alphas_cumprod.to(t.device)[t].sqrt()
        return alpha if self.predicts_v else torch.ones_like(alpha)

    @abstractmethod
    def prediction(
        self, network: Transformer, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], given: PromptTokens
    ) -> Float[Tensor, "B C h w"]:
        """Return the network's own output for x_t at t."""
