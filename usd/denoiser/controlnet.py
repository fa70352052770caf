"""ControlNet (arXiv 2302.05543): Stable Diffusion that follows a map beside its sentence, such as edges or normals.

A copy of the UNet's first half reads the map; what it finds is added to the UNet's skip connections.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.denoiser import Embedding, ImageTextDenoiser
from usd.denoiser.components import read_network
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import NetworkInput, UNetConfig
from usd.denoiser.networks import ControlNet, UNet
from usd.denoiser.picture import resize_square
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser


@dataclass(frozen=True)
class ControlledInput(NetworkInput):
    """A sentence, and the map to follow, in [0, 1] at the size of the model's pictures."""

    control: Float[Tensor, "B 3 S S"] | None = None


@dataclass(frozen=True)
class ControlNetConfig(UNetConfig):
    """The options of Stable Diffusion, and the ControlNet beside it."""

    control_folder: str = option("", "folder of the ControlNet", path=True)
    control_scale: float = option(1.0, "factor of the ControlNet's residuals", ge=0, le=100)


@register("controlnet")
class ControlNetDenoiser(StableDiffusionDenoiser[ControlNetConfig], ImageTextDenoiser[ControlNetConfig]):
    """Stable Diffusion with a ControlNet."""

    def __init__(self, config: ControlNetConfig, name: str = "") -> None:
        super().__init__(config, name)
        place = Path(config.control_folder)
        self.control: Frozen[ControlNet] = Frozen(
            lambda: read_network("controlnet", place), config.execution.weights, config.execution
        )

    def with_image(self, embedding: Embedding, image: Float[Tensor, "B 3 H W"] | None) -> ControlledInput:
        """Return the sentence with maps to follow, one per row; with None it follows nothing."""
        assert isinstance(embedding, NetworkInput)
        control = None if image is None else resize_square(image.float(), self.latent.image_size)
        return ControlledInput(embedding.tokens, control=control)

    def _run(self, unet: UNet, x: Tensor, t: Tensor, condition: NetworkInput) -> Tensor:
        """Return the UNet's output with the ControlNet's residuals on its skip connections."""
        if not isinstance(condition, ControlledInput) or condition.control is None:
            return super()._run(unet, x, t, condition)
        with self.control.use(x.device) as control:
            residuals = control(
                x,
                t,
                encoder_hidden_states=condition.tokens,
                controlnet_cond=condition.control,
                conditioning_scale=self.config.control_scale,
            )
        return unet(
            x,
            t,
            encoder_hidden_states=condition.tokens,
            down_block_additional_residuals=residuals.down_block_res_samples,
            mid_block_additional_residual=residuals.mid_block_res_sample,
        ).sample
