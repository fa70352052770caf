"""Environment light: a panorama (see ``usd.kernels.rasterize_texture``), prefiltered for rough surfaces.

``prefilter`` averages a panorama of linear light over the lobe that a surface of some roughness reflects into when
seen straight on (the split sum of Karis, "Real Shading in Unreal Engine 4", 2013), and over the cosine for what is
matt.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from usd.core.errors import UserError
from usd.core.places import resource
from usd.kernels.rasterize_texture import panorama_color, panorama_directions
from usd.math.color import linear_from_srgb

log = logging.getLogger(__name__)

ROUGHNESS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
BLURRED = (32, 64)  # pixels of the panoramas of rough surfaces
SHARP = (128, 256)
PUBLISHED_SKY, OWN_SKY = "mud_road_puresky_1k.hdr", "load/lights/sky.hdr"
STUDIO_LIGHT = 0.35  # mean over all directions


@dataclass(frozen=True)
class Environment:
    """A panorama blurred for each value of ``ROUGHNESS``, and for matt surfaces."""

    glossy: Float[Tensor, "L H W 3"]
    matt: Float[Tensor, "h w 3"]

    def diffuse(self, directions: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return what a white diffuse surface with these normals sends back."""
        return panorama_color(self.matt, directions)

    def specular(
        self, directions: Float[Tensor, "N 3"], roughness: Float[Tensor, "N"]
    ) -> Float[Tensor, "N 3"]:
        """Return light from around these directions, as wide as the roughness says; differentiable by both."""
        steps = torch.tensor(ROUGHNESS).to(roughness)
        value = roughness.clamp(ROUGHNESS[0], ROUGHNESS[-1])
        upper = torch.searchsorted(steps, value.detach().contiguous()).clamp(1, len(ROUGHNESS) - 1)
        share = (value - steps[upper - 1]) / (steps[upper] - steps[upper - 1])
        levels = torch.stack([panorama_color(level, directions) for level in self.glossy])
        rows = torch.arange(len(value), device=value.device)
        low, high = levels[upper - 1, rows], levels[upper, rows]
        return low + share[:, None] * (high - low)


def prefilter(panorama: Float[Tensor, "h w 3"]) -> Environment:
    """Return what surfaces of each roughness, and diffuse ones, reflect."""
    source = resize_panorama(panorama, *SHARP)
    small = resize_panorama(panorama, *BLURRED)
    toward = panorama_directions(*BLURRED, small)
    area = (1 - toward[:, 2].square()).clamp_min(0).sqrt()
    cosine = (toward @ toward.T).clamp(0, 1)
    light = small.reshape(-1, 3)

    def blurred(lobe: Float[Tensor, "N N"]) -> Float[Tensor, "h w 3"]:
        weight = lobe * cosine * area
        return (weight @ light / weight.sum(1, keepdim=True)).view_as(small)

    levels = [blurred(_half_way_lobe(cosine, roughness)) for roughness in ROUGHNESS[1:]]
    sharp = [source, *(resize_panorama(level, *SHARP) for level in levels)]
    return Environment(torch.stack(sharp), blurred(torch.ones_like(cosine)))


def _half_way_lobe(cosine: Float[Tensor, "N N"], roughness: float) -> Float[Tensor, "N N"]:
    """Return GGX's density at the half vector between the axis and directions at these cosines from it."""
    square = 0.5 * (1 + cosine)  # of the cosine of half the angle
    width = roughness**4
    return width / (square * (width - 1) + 1).square()


def resize_panorama(panorama: Float[Tensor, "h w 3"], height: int, width: int) -> Float[Tensor, "H W 3"]:
    """Return the panorama at another size."""
    batch = panorama.permute(2, 0, 1)[None]
    shrink = height < panorama.shape[0]
    return torch.nn.functional.interpolate(batch, (height, width), mode="bilinear", antialias=shrink)[
        0
    ].permute(1, 2, 0)


def studio_panorama() -> Float[Tensor, "h w 3"]:
    """Return a gray room with a bright ceiling light and two soft boxes: light where no panorama is given."""
    d = panorama_directions(*SHARP, torch.zeros(()))
    level = (1 - d[:, 2].square()).clamp_min(0).sqrt()  # the share of the sphere that a pixel covers
    light = 0.35 + 0.25 * d[:, 2]
    for toward, width, strength in (
        ((0.3, 0.2, 1.0), 0.5, 3.0),
        ((1.0, 0.8, 0.4), 0.35, 2.0),
        ((0.6, -1.0, 0.2), 0.35, 1.2),
    ):
        axis = torch.nn.functional.normalize(torch.tensor(toward), dim=0)
        light = light + strength * torch.sigmoid(((d @ axis) - math.cos(width)) * 40)
    light = STUDIO_LIGHT * light / (light * level).sum() * level.sum()
    return light[:, None].expand(-1, 3).reshape(*SHARP, 3).contiguous()


def read_panorama(path: Path) -> Float[Tensor, "h w 3"]:
    """Return linear light of a Radiance file (.hdr), or of any picture as displayed. Raises ``UserError``."""
    where = f"system.material.environment_texture: {path}"
    if not path.is_file() and path.name == PUBLISHED_SKY:
        log.warning("note: %s is not here; this project's own sky, %s, stands in", path, OWN_SKY)
        path = resource(OWN_SKY)
    if not path.is_file():
        raise UserError(f"{where}: no such file; expected a panorama (.hdr, .png, .jpg)")
    try:
        if path.suffix.lower() == ".hdr":
            return decode_radiance(path.read_bytes())
        with Image.open(path) as picture:
            pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)
            return linear_from_srgb(pixels)
    except (OSError, ValueError, IndexError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: cannot be read as a panorama ({error})") from error


def decode_radiance(content: bytes) -> Float[Tensor, "h w 3"]:
    """Return a Radiance picture (RGBE, rows from the top), flat or run-length coded. Raises ``ValueError``."""
    head, _, body = content.partition(b"\n\n")
    if b"FORMAT=32-bit_rle_xyze" in head:
        raise ValueError("its colors are CIE XYZ; expected 32-bit_rle_rgbe")
    size, _, data = body.partition(b"\n")
    words = size.split()
    if not head.startswith(b"#?") or len(words) != 4 or (words[0], words[2]) != (b"-Y", b"+X"):
        raise ValueError("not a Radiance picture whose rows run from the top left")
    height, width = int(words[1]), int(words[3])
    pixels = _decode_rgbe(np.frombuffer(data, dtype=np.uint8), height, width).astype(np.float32)
    scale = np.where(pixels[..., 3:] > 0, np.exp2(pixels[..., 3:] - 136), 0) / _exposure(head)
    return torch.from_numpy((pixels[..., :3] * scale).astype(np.float32))


def _exposure(head: bytes) -> float:
    """Return the product of a header's exposures, which pixels are already multiplied by."""
    lines = [line.removeprefix(b"EXPOSURE=") for line in head.splitlines() if line.startswith(b"EXPOSURE=")]
    exposure = math.prod((float(line) for line in lines), start=1.0)
    if not 0 < exposure < math.inf:
        raise ValueError(f"its EXPOSURE is {exposure:g}; expected a positive number")
    return exposure


def _decode_rgbe(data: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the four bytes of each pixel."""
    if not (8 <= width < 32768) or data[0] != 2 or data[1] != 2 or data[2] >= 128:
        return _decode_old_runs(data, height * width).reshape(height, width, 4)
    rows, at = np.empty((height, 4, width), np.uint8), 0
    for row in rows:
        at += 4
        for channel in row:
            at = _decode_run_lengths(data, at, channel)
    return rows.transpose(0, 2, 1)


def _decode_old_runs(data: np.ndarray, n: int) -> np.ndarray:
    """Return n pixels; those of three ones repeat the pixel before, as often as their exponents say together."""
    pixels = data[: len(data) // 4 * 4].reshape(-1, 4)
    is_run = (pixels[:, :3] == 1).all(1)
    if is_run.any():
        # Further run marks in a row are higher bytes of one count.
        count, shift, counts = 1, 0, []
        for run, value in zip(is_run.tolist(), pixels[:, 3].tolist()):
            shift = shift + 8 if run else 0
            count = value << (shift - 8) if run else 1
            counts.append(count)
        if sum(counts) > n:
            raise ValueError("a run of pixels goes beyond the picture")
        source = np.maximum.accumulate(np.where(is_run, 0, np.arange(len(pixels))))
        pixels = pixels[np.repeat(source, counts)]
    if len(pixels) < n:
        raise ValueError(f"it ends after {len(pixels)} of {n} pixels")
    return pixels[:n]


def _decode_run_lengths(data: np.ndarray, at: int, out: np.ndarray) -> int:
    """Fill ``out`` from the coded bytes that start at ``at``; return where they end."""
    done = 0
    while done < len(out):
        count = int(data[at])
        run = count > 128
        count = count - 128 if run else count
        if count == 0 or done + count > len(out):
            raise ValueError("a row of the picture is damaged")
        out[done : done + count] = data[at + 1] if run else data[at + 1 : at + 1 + count]
        done, at = done + count, at + 2 if run else at + 1 + count
    return at
