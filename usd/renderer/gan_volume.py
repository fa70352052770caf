"""Pictures that a generator makes of features rendered at low resolution (Control4D, arXiv 2305.20082)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from usd.core.config import ConfigError, Spec, component, option
from usd.core.registry import build, register
from usd.core.types import Render
from usd.math.camera import Cameras
from usd.network.picture_gan import Generator, GlobalEncoder, LocalEncoder, PictureCodes
from usd.renderer import Renderer, RenderRequest


@register("gan-volume-renderer")
class GanVolumeRenderer(Renderer["GanVolumeRenderer.Config"]):
    """A base renderer's picture of colors and latent channels, made into a larger one by a generator.

    Depth, normals and opacity are the base's, enlarged; samples are those of its rays.
    """

    @dataclass(frozen=True)
    class Config:
        base_renderer: Spec = component("renderer", "nerf-volume-renderer", "renderer of the features")
        upscale: int = option(
            4, "factor between the sides of pictures and features, a power of two", ge=1, le=16
        )
        hidden_channels: int = option(64, "channels inside the generator and the encoders", ge=1, le=1024)
        local_codes: int = option(
            4, "numbers that the local encoder has for each pixel of the features", ge=1, le=64
        )
        global_codes: int = option(64, "numbers that the global encoder has for a picture", ge=1, le=4096)

    def configure(self) -> None:
        """Make the base renderer and the networks. Raises ``ConfigError`` for channels that are no colors."""
        config, scene = self.config, self.scene
        channels = (scene.material.n_channels, scene.background.n_channels)
        if channels[0] != channels[1]:
            raise ConfigError(
                f"system.background.n_output_dims: is {channels[1]}; expected {channels[0]}, as the material's"
            )
        if config.upscale & (config.upscale - 1):
            raise ConfigError(f"system.renderer.upscale: is {config.upscale}; expected a power of two")
        components = {name: getattr(scene, name) for name in ("geometry", "material", "background")}
        self.base = build(config.base_renderer, Renderer, **components)
        self.outputs = self.base.outputs
        n, factor = config.hidden_channels, config.upscale
        self.generator = Generator(channels[0], config.local_codes, config.global_codes, n, factor)
        self.local_encoder = LocalEncoder(config.local_codes, n, factor)
        self.global_encoder = GlobalEncoder(config.global_codes, n, factor)

    def draw(self, request: RenderRequest) -> Render:
        """Render without knowing any picture."""
        low = self.features(request.cameras, request.needs, request.generator)
        return self.picture(low, self.no_codes(low), request)

    def features(
        self, cameras: Cameras, needs: frozenset[str] = frozenset(), generator: torch.Generator | None = None
    ) -> Render:
        """Render the features of whole pictures at their low resolution."""
        small = cameras.resize(*(-(-side // self.config.upscale) for side in (cameras.height, cameras.width)))
        return self.base.render(small, needs, generator)

    def no_codes(self, low: Render) -> PictureCodes:
        """Return the codes of no picture."""
        count, _, height, width = low.rgb.shape
        local = low.rgb.new_zeros(count, self.config.local_codes, height, width)
        return PictureCodes(local, low.rgb.new_zeros(count, self.config.global_codes))

    def picture(self, low: Render, codes: PictureCodes, request: RenderRequest) -> Render:
        """Return the pictures that the generator makes of rendered features, as they were asked for."""
        cameras, at = request.cameras, request.at

        def window(picture: Tensor) -> Tensor:
            rows = slice(at.top, at.top + at.height * at.step_y, at.step_y)
            columns = slice(at.left, at.left + at.width * at.step_x, at.step_x)
            return picture[..., : cameras.height, : cameras.width][..., rows, columns]

        def enlarged(picture: Tensor | None) -> Tensor | None:
            if picture is None:
                return None
            return window(interpolate(picture, scale_factor=float(self.config.upscale), mode="bilinear"))

        rgb, opacity = window(self.generator(low.rgb, codes)), enlarged(low.opacity)
        assert opacity is not None
        return replace(
            low,
            rgb=rgb,
            opacity=opacity,
            # What is behind the object is part of the generated picture, so this is all that is known of it.
            foreground=None if low.foreground is None else rgb * opacity,
            depth=enlarged(low.depth),
            normal=enlarged(low.normal),
        )
