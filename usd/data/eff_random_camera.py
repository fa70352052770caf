"""``eff-random-camera-datamodule``: random cameras of which a coarse grid of pixels is rendered, another at each step.

A picture of ``height`` x ``width`` costs as many rays as one of ``sample_height`` x ``sample_width``: every so many
rows and columns are rendered, from a random first pixel on, and what lies between is interpolated.
"""

from dataclasses import dataclass, replace

import torch

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.data.random_camera import CameraBatch, RandomCameraConfig, RandomCameras
from usd.math.camera import Window


@dataclass(frozen=True)
class EffRandomCameraConfig(RandomCameraConfig):
    """Options of random cameras, and how many of their pixels are rendered."""

    sample_height: int = option(64, "rows of pixels rendered of a training picture", ge=1, le=16384)
    sample_width: int = option(64, "columns of pixels rendered of a training picture", ge=1, le=16384)


@register("eff-random-camera-datamodule")
class EffRandomCameras(RandomCameras[EffRandomCameraConfig]):
    """Random views whose batches say which pixels to render (``CameraBatch.window``); evaluation renders all."""

    def __init__(self, config: EffRandomCameraConfig) -> None:
        super().__init__(config)
        for key, sizes in (("height", config.height), ("width", config.width)):
            count = getattr(config, f"sample_{key}")
            for size in (sizes,) if isinstance(sizes, int) else sizes:
                if size % count:
                    raise ConfigError(
                        f"data.sample_{key}: {count} does not divide {key}; expected a divisor of {size}"
                    )

    def batch(self, step: int, generator: torch.Generator) -> CameraBatch:
        """Return the random views of a step and a grid of their pixels with a random first one."""
        batch = super().batch(step, generator)
        height, width = self.config.sample_height, self.config.sample_width
        steps = batch.cameras.height // height, batch.cameras.width // width
        top, left = (int(torch.randint(every, (), generator=generator)) for every in steps)
        return replace(batch, window=Window(top, left, height, width, *steps))
