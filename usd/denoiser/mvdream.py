"""MVDream (arXiv 2308.16512): four views of a sentence at once, given their cameras."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.registry import register
from usd.denoiser import Embedding, EncodedReference, GroupConventions, TextGroupDenoiser
from usd.denoiser.frozen import Frozen
from usd.denoiser.latent import NetworkInput, UNetConfig
from usd.denoiser.networks import UNet
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser
from usd.denoiser.view_attention import attend_across_views, transformer_blocks
from usd.math.camera import Cameras

VIEWS = 4


@register("mvdream")
class MVDreamDenoiser(StableDiffusionDenoiser[UNetConfig], TextGroupDenoiser[UNetConfig]):
    """The published single file (or its parts in a diffusers folder). Rows are (object, view)."""

    group, group_size = "mvdream", VIEWS
    conventions = GroupConventions(steps=50, scale=10.0, noise_share=0.0)

    def __init__(self, config: UNetConfig, name: str = "") -> None:
        super().__init__(config, name)
        files = self.files
        self.unet: Frozen[UNet] = Frozen(
            lambda: joint_attention(files.network("unet"), VIEWS), config.execution.weights, config.execution
        )

    def with_cameras(
        self,
        embedding: Embedding,
        cameras: Cameras,
        reference: EncodedReference | None = None,  # noqa: ARG002 - there is none
    ) -> NetworkInput:
        """Return the condition, of prompts or of none, with the matrix of each row's camera beside the time."""
        assert isinstance(embedding, NetworkInput)
        return dataclasses.replace(embedding, time=camera_numbers(cameras).to(embedding.tokens.device))


def joint_attention(unet: torch.nn.Module, views: int) -> torch.nn.Module:
    """Have every self-attention of a UNet read all views of a group; return the UNet."""
    for blocks, i in transformer_blocks(unet):
        attend_across_views(blocks[i].get_submodule("attn1"), views)
    return unet


def camera_numbers(cameras: Cameras) -> Float[Tensor, "R 16"]:
    """Return camera-to-world matrices, row by row, their cameras at distance 1: +z is up, and axes are OpenGL's."""
    matrix = cameras.c2w.clone()
    matrix[:, :3, 3] = torch.nn.functional.normalize(matrix[:, :3, 3], dim=-1)
    return matrix.flatten(1)
