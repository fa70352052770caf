"""``elevation-system``: trains the reader of elevations on toys (``usd/denoiser/elevation_reader.py``).

The loss is the cross entropy to a bell around the true height. Rendered shards hold few pictures from far below or high
above: some are rendered anew for every step, and the rest are weighted so that no height is the usual one.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from usd.core.config import option
from usd.core.registry import register
from usd.data.toybox import ToyViews
from usd.denoiser.elevation_reader import ElevationReader, ElevationReaderConfig, write_reader
from usd.system.pretraining.model_training import ModelTraining, half
from usd.toybox import TEST_SEED
from usd.toybox.cameras import cameras_at
from usd.toybox.objects import make_toy
from usd.toybox.render import render

LOW, HIGH = -25.0, 75.0  # degrees that the reader is to tell
RIM = ((LOW, -8.0), (52.0, HIGH))  # of which the shards hold few


@register("elevation-system")
class ElevationSystem(ModelTraining["ElevationSystem.Config", ToyViews, ToyViews, ElevationReader]):
    """Training of a network that takes one picture and returns a distribution over heights."""

    @dataclass(frozen=True)
    class Config(ModelTraining.Config):
        """Shape of the network, and its pictures."""

        reader: ElevationReaderConfig = option({}, "shape of the network")
        rim_toys: int = option(
            8, "number of pictures a step that are rendered anew from far below or high above", ge=0
        )
        blur_deg: float = option(4.0, "standard deviation of the bell around the true height", gt=0, le=90)

    def build_network(self) -> ElevationReader:
        """Build the network, untrained."""
        return ElevationReader(self.config.reader)

    @override
    def compute(self, batch: ToyViews, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the cross entropy of heights."""
        assert batch.pictures is not None
        pictures, truth = batch.pictures, batch.cameras.spherical.elevation
        weight = rarity_weights(truth)
        if self.config.rim_toys:
            more, theirs = rim_views(self.config.rim_toys, pictures.shape[-1], generator)
            pictures, truth = torch.cat([pictures, more]), torch.cat([truth, theirs])
            weight = torch.cat([weight, torch.ones_like(theirs)])
        with self.autocast():
            logits = self.network(mirror_and_recolor(pictures, generator))
        target = bell(truth, self.network.heights, math.radians(self.config.blur_deg))
        loss = -(target * torch.log_softmax(logits, -1)).sum(-1)
        return {"heights": (loss * weight).sum() / weight.sum()}

    @override
    @torch.no_grad()
    def validate(self, batch: ToyViews, index: int) -> None:
        """Report the error, and whether the spread is as wide as it."""
        assert batch.pictures is not None
        mean, spread = self.average.read(batch.pictures)
        error = (mean - batch.cameras.spherical.elevation).abs().rad2deg()
        self.log_validation(
            {
                "median_error_deg": float(error.median()),
                "spread_deg": float(spread.rad2deg().median()),
                "within_two_spreads": float((error < 2 * spread.rad2deg()).float().mean()),
            }
        )

    def publish(self, folder: Path) -> None:
        """Write the network in float16."""
        write_reader(half(self.average), folder / "elevation_reader.safetensors")


def bell(truth: Float[Tensor, "B"], heights: Float[Tensor, "K"], width: float) -> Float[Tensor, "B K"]:
    """Return shares of the bins: a normal distribution around each true height."""
    return torch.softmax(-0.5 * ((truth[:, None] - heights) / width).square(), -1)


def rarity_weights(elevation: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Return weights that make the shards' heights about even: the reciprocal of a height's density in them.

    See ``usd.toybox.cameras.training_cameras``.
    """
    degrees = elevation.rad2deg()
    front = torch.exp(-0.5 * ((degrees - 15) / 10).square()) / (10 * math.sqrt(2 * math.pi))
    around = (
        torch.cos(elevation) * math.radians(1) / (math.sin(math.radians(60)) + math.sin(math.radians(15)))
    )
    around = around * ((degrees > -15) & (degrees < 60))
    return 1 / (HIGH - LOW) / (front / 3 + around * 2 / 3).clamp_min(0.5 / (HIGH - LOW))


def rim_views(
    count: int, size: int, generator: torch.Generator
) -> tuple[Float[Tensor, "N 3 S S"], Float[Tensor, "N"]]:
    """Render new pictures of training toys from far below or high above; return them and elevations (radians)."""
    device = generator.device
    chance = torch.rand(count, 3, generator=generator, device=device).cpu().tolist()
    seeds = torch.randint(TEST_SEED, (count,), generator=generator, device=device).tolist()
    elevations = []
    for side, share, _ in chance:
        low, high = RIM[side < 0.6]
        elevations.append(low + (high - low) * share)
    cameras = cameras_at(elevations, [360 * turn for *_, turn in chance], size).to(device)
    toys = [make_toy(seed) for seed in seeds]
    return render(toys, cameras, torch.arange(count)).over_white(), torch.tensor(
        elevations, device=device
    ).deg2rad()


def mirror_and_recolor(
    pictures: Float[Tensor, "B 3 H W"], generator: torch.Generator
) -> Float[Tensor, "B 3 H W"]:
    """Mirror half of them, and exchange the colors of all: neither says how high a picture was taken."""
    chance = torch.rand(len(pictures), generator=generator, device=generator.device).to(pictures.device)
    mirrored = torch.where((chance < 0.5)[:, None, None, None], pictures.flip(-1), pictures)
    order = torch.randperm(3, generator=generator, device=generator.device)
    return mirrored[:, order.to(pictures.device)]
