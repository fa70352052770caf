"""The panorama that lights objects out of doors, ``load/lights/sky.hdr``: ``python -m benchmarks.sky_panorama FILE``.

A clear sky, computed and so free of anybody's rights: blue above, pale at the horizon, a sun with its glow, and
a ground that sends light back.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.files import write_atomically
from usd.kernels.rasterize_texture import panorama_directions

HEIGHT, WIDTH = 128, 256
ZENITH, HORIZON, GROUND = (0.12, 0.25, 0.60), (0.75, 0.82, 0.90), (0.16, 0.13, 0.10)
SUN_COLOR, SUN_ELEVATION, SUN_AZIMUTH = (1.0, 0.93, 0.80), math.radians(42), math.radians(-40)
SUN_STRENGTH, SUN_RADIUS = 400.0, math.radians(1.5)
GLOW_STRENGTH, GLOW_WIDTH = 1.2, math.radians(14)
MEAN_LIGHT = 0.35  # mean over the sphere and over colors, as that of the studio


def sky_panorama(height: int = HEIGHT, width: int = WIDTH) -> Float[Tensor, "h w 3"]:
    """Return linear light from all directions, zenith in the first row."""
    toward = panorama_directions(height, width, torch.zeros((), dtype=torch.float64))
    up = toward[:, 2:]
    ground = 1 / (1 + torch.exp(up * 60))  # a horizon a degree or two wide, so that nothing aliases
    sky = torch.lerp(_rgb(HORIZON), _rgb(ZENITH), up.clamp(0, 1).sqrt())
    light = sky * (1 - ground) + _rgb(GROUND) * ground + _sun(toward) * (1 - ground)
    # A pixel's share of the sphere falls with the cosine of its elevation.
    area = (1 - up.square()).clamp_min(0).sqrt()
    mean = (light * area).sum() / (3 * area.sum())
    return (light * MEAN_LIGHT / mean).float().view(height, width, 3)


def _rgb(color: tuple[float, float, float]) -> Float[Tensor, "3"]:
    return torch.tensor(color, dtype=torch.float64)


def _sun(toward: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Return the sun's disk with a soft rim, and its glow."""
    flat = math.cos(SUN_ELEVATION)
    place = (flat * math.cos(SUN_AZIMUTH), flat * math.sin(SUN_AZIMUTH), math.sin(SUN_ELEVATION))
    angle = torch.acos((toward @ _rgb(place)).clamp(-1, 1))[:, None]
    disk = SUN_STRENGTH * torch.sigmoid((SUN_RADIUS - angle) / math.radians(0.5))
    return (disk + GLOW_STRENGTH * torch.exp(-angle / GLOW_WIDTH)) * _rgb(SUN_COLOR)


def radiance_bytes(light: Float[Tensor, "h w 3"]) -> bytes:
    """Return a Radiance file: three mantissas and a common exponent a pixel, not compressed."""
    pixels = light.numpy().astype(np.float64)
    largest = pixels.max(2, keepdims=True)
    mantissa, exponent = np.frexp(largest)
    scale = np.where(largest > 1e-32, mantissa * 256 / np.maximum(largest, 1e-32), 0)
    rgbe = np.concatenate([pixels * scale, np.where(largest > 1e-32, exponent + 128, 0)], 2).astype(np.uint8)
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {light.shape[0]} +X {light.shape[1]}\n"
    return head.encode() + rgbe.tobytes()


def main() -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="file to write, load/lights/sky.hdr")
    print(write_atomically(parser.parse_args().file, radiance_bytes(sky_panorama())))


if __name__ == "__main__":
    main()
