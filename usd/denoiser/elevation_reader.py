"""A small network that reads how high a picture was taken, as a distribution: for toys, where nothing else knows it.

Zero-1-to-3 is given only *relative* cameras, and a model with a view volume takes the reference's own elevation as
given (its views agree with whatever was assumed). So what the picture itself says has to be read by something that was
trained on pictures whose elevation is known.
"""

import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from usd.core.config import option, parse
from usd.core.places import resource
from usd.denoiser.weights import readable

WEIGHTS = resource("load/toybox/elevation_reader.safetensors")


@dataclass(frozen=True)
class ElevationReaderConfig:
    """Shape of the network, and the heights it tells apart."""

    picture: int = option(64, "side in pixels at which pictures are read", ge=16, le=4096)
    width: int = option(
        24, "channels after the first layer; later ones have up to six times as many", ge=8, le=8192
    )
    lowest_deg: float = option(-35.0, "middle of the lowest bin of elevations, in degrees", ge=-90, le=90)
    highest_deg: float = option(85.0, "middle of the highest bin of elevations, in degrees", ge=-90, le=90)
    bins: int = option(25, "number of heights that are distinguished, evenly spaced", ge=2, le=1000)


class ElevationReader(nn.Module):
    """Pictures over white in [0, 1] to logits over the bins."""

    def __init__(self, config: ElevationReaderConfig) -> None:
        super().__init__()
        self.config = config
        w, side = config.width, config.picture // 16
        widths = [3, w, 2 * w, 4 * w, 6 * w]
        stages = [_half_size(a, b) for a, b in itertools.pairwise(widths)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * side * side, 6 * w), nn.SiLU(), nn.Linear(6 * w, config.bins)
        )

    @property
    def heights(self) -> Float[Tensor, "K"]:
        """Middles of the bins, radians."""
        c = self.config
        middles = torch.linspace(math.radians(c.lowest_deg), math.radians(c.highest_deg), c.bins)
        return middles.to(next(self.parameters()))

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Return the scores of the bins for pictures of any size."""
        size = (self.config.picture, self.config.picture)
        small = interpolate(pictures, size, mode="bilinear", antialias=True)
        return self.head(self.stages(small * 2 - 1)).float()

    @torch.no_grad()
    def read(self, pictures: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Return elevation and its standard deviation, radians, by pictures and their mirror images."""
        both = [torch.softmax(self(side), -1) for side in (pictures, pictures.flip(-1))]
        shares, heights = (both[0] + both[1]) / 2, self.heights
        mean = shares @ heights
        return mean, (shares @ heights.square() - mean.square()).clamp_min(0).sqrt()


def _half_size(inward: int, outward: int) -> nn.Module:
    """Return layers that halve the size: a convolution, and one more at the same size."""
    return nn.Sequential(
        nn.Conv2d(inward, outward, 4, 2, 1),
        nn.GroupNorm(outward // 8, outward),
        nn.SiLU(),
        nn.Conv2d(outward, outward, 3, padding=1, groups=8),
        nn.SiLU(),
    )


def write_reader(reader: ElevationReader, file: Path) -> None:
    """Store a reader with its configuration in one file."""
    from safetensors.torch import save_file

    config = {key: str(value) for key, value in asdict(reader.config).items()}
    save_file({key: value.contiguous() for key, value in reader.state_dict().items()}, file, config)


def load_reader(file: Path = WEIGHTS) -> ElevationReader:
    """Return the reader stored in a file. Raises UserError."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with readable(file, "an elevation reader"):
        tensors = load_file(file)
        with safe_open(file, "pt") as stored:
            numbers = {key: float(value) for key, value in stored.metadata().items() if key != "format"}
        options = {key: int(value) if value == int(value) else value for key, value in numbers.items()}
        reader = ElevationReader(parse(ElevationReaderConfig, options, str(file)))
        reader.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return reader.eval()
