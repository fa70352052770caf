"""Encodings of positions and directions as modules: the multi-resolution hash grid, and spherical harmonics."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.unread import ReadWith
from usd.kernels.hash_grid import HashGridSpec, hash_grid


@dataclass(frozen=True)
class HashGridConfig:
    """``pos_encoding_config``."""

    read_with: ClassVar[ReadWith] = {
        **dict.fromkeys(
            ("start_level", "start_step", "update_steps"), ("otype", ("ProgressiveBandHashGrid",))
        ),
        **dict.fromkeys(("n_frequencies", "n_masking_step"), ("otype", ("ProgressiveBandFrequency",))),
        **dict.fromkeys(
            ("n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution", "per_level_scale"),
            ("otype", ("HashGrid", "ProgressiveBandHashGrid")),
        ),
    }

    otype: Literal["HashGrid", "ProgressiveBandHashGrid", "ProgressiveBandFrequency"] = option(
        "HashGrid",
        "HashGrid, ProgressiveBandHashGrid (levels switched on one by one) or ProgressiveBandFrequency (waves)",
    )
    n_levels: int = option(16, "number of grids", ge=1, le=32)
    n_features_per_level: int = option(2, "features per grid point", ge=1, le=8)
    log2_hashmap_size: int = option(19, "at most 2^this many rows per level", ge=1, le=24)
    base_resolution: int = option(16, "cells per axis of the coarsest level", ge=1, le=65536)
    per_level_scale: float = option(1.447269237440378, "ratio of successive resolutions", ge=1, le=16)
    vertices: Literal["corners", "tinycudann"] = option(
        "corners", "where grid points lie: corners of the cells, or as in tables trained by tinycudann"
    )
    start_level: int = option(4, "progressive: levels that are on from the beginning", ge=1, le=32)
    start_step: int = option(0, "progressive: step at which the next level is switched on", ge=0)
    update_steps: int = option(500, "progressive: steps between two levels", ge=1)
    n_frequencies: int = option(12, "ProgressiveBandFrequency: octaves of waves", ge=1, le=32)
    n_masking_step: int = option(
        0, "ProgressiveBandFrequency: step at which all octaves are on; 0: from the beginning", ge=0
    )
    include_xyz: bool = option(
        False, "put the position itself, in [-1, 1], before the features of a hash grid"
    )


class HashGrid(torch.nn.Module):
    """Features of points in [0, 1]^3. ``n_output`` numbers a point; levels that are off give zeros."""

    mask: Tensor | None

    def __init__(self, config: HashGridConfig) -> None:
        super().__init__()
        self.config = config
        self.spec = HashGridSpec(
            config.n_levels,
            config.n_features_per_level,
            config.log2_hashmap_size,
            config.base_resolution,
            config.per_level_scale,
            config.vertices,
        )
        self.table = torch.nn.Parameter(self.spec.init_table())
        progressive = config.otype == "ProgressiveBandHashGrid"
        self.register_buffer("mask", torch.ones(self.spec.n_output) if progressive else None)
        self.update(0)

    @property
    def n_output(self) -> int:
        """Numbers that the encoding of a point has."""
        return self.spec.n_output + 3 * self.config.include_xyz

    def active_levels(self, step: int) -> int:
        """Return how many levels are on at a step."""
        if self.config.otype == "HashGrid":
            return self.config.n_levels
        later = max(0, step - self.config.start_step) // self.config.update_steps
        return min(self.config.start_level + later, self.config.n_levels)

    def update(self, step: int) -> None:
        """Switch levels on."""
        if self.mask is not None:
            on = self.active_levels(step) * self.config.n_features_per_level
            self.mask.zero_()[:on] = 1

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N E"]:
        """Encode points; see ``usd.kernels.hash_grid``."""
        features = hash_grid(x, self.table, self.spec)
        features = features if self.mask is None else features * self.mask
        return torch.cat([2 * x - 1, features], -1) if self.config.include_xyz else features


class FrequencyBands(torch.nn.Module):
    """sin and cos of 2^k x for k = 0 ... n - 1; octaves fade in one after the other (Nerfies, arXiv 2011.12948).

    ``n_output`` = 2 n numbers for each of x; octaves that are off give zeros.
    """

    scales: Tensor
    window: Tensor

    def __init__(self, n_input: int, n_frequencies: int, n_masking_step: int) -> None:
        super().__init__()
        self.n_output = 2 * n_input * n_frequencies
        self.n_masking_step = n_masking_step
        self.register_buffer("scales", 2.0 ** torch.arange(n_frequencies), persistent=False)
        self.register_buffer("window", torch.ones(n_frequencies), persistent=n_masking_step > 0)
        self.update(0)

    def update(self, step: int) -> None:
        """Fade octaves in: octave k along half a cosine, while n step / n_masking_step goes from k to k + 1."""
        if self.n_masking_step > 0:
            n = len(self.window)
            progress = n * step / self.n_masking_step - torch.arange(n).to(self.window)
            self.window.copy_(0.5 * (1 - torch.cos(torch.pi * progress.clamp(0, 1))))

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """Return the waves, octave by octave, sines before cosines."""
        angle = x[:, None] * self.scales[:, None]
        waves = torch.stack([angle.sin(), angle.cos()], 2) * self.window[:, None, None]
        return waves.flatten(1)


def position_encoding(config: HashGridConfig) -> HashGrid | FrequencyBands:
    """Return the encoding of positions in [0, 1]^3 that a configuration names."""
    if config.otype == "ProgressiveBandFrequency":
        return FrequencyBands(3, config.n_frequencies, config.n_masking_step)
    return HashGrid(config)


@dataclass(frozen=True)
class DirectionEncodingConfig:
    """``dir_encoding_config``."""

    read_with: ClassVar[ReadWith] = {
        "degree": ("otype", ("SphericalHarmonics",)),
        **dict.fromkeys(("n_frequencies", "n_masking_step"), ("otype", ("ProgressiveBandFrequency",))),
    }

    otype: Literal["SphericalHarmonics", "ProgressiveBandFrequency"] = option(
        "SphericalHarmonics", "kind of encoding: SphericalHarmonics, or ProgressiveBandFrequency (waves)"
    )
    degree: int = option(3, "SphericalHarmonics: number of bands, degree^2 numbers a direction", ge=1, le=4)
    n_frequencies: int = option(6, "ProgressiveBandFrequency: octaves of waves", ge=1, le=32)
    n_masking_step: int = option(
        0, "ProgressiveBandFrequency: step at which all octaves are on; 0: from the beginning", ge=0
    )


class DirectionEncoding(torch.nn.Module):
    """Spherical harmonics of unit directions, or waves of (direction + 1) / 2."""

    def __init__(self, config: DirectionEncodingConfig) -> None:
        super().__init__()
        self.degree = config.degree
        waves = config.otype == "ProgressiveBandFrequency"
        self.bands = FrequencyBands(3, config.n_frequencies, config.n_masking_step) if waves else None
        self.n_output = config.degree**2 if self.bands is None else self.bands.n_output

    def update(self, step: int) -> None:
        """Fade octaves in."""
        if self.bands is not None:
            self.bands.update(step)

    def forward(self, directions: Float[Tensor, "N 3"]) -> Float[Tensor, "N E"]:
        """Return the encoding of unit directions."""
        if self.bands is None:
            return spherical_harmonics(directions, self.degree)
        return self.bands(0.5 * directions + 0.5)


def spherical_harmonics(directions: Float[Tensor, "N 3"], degree: int) -> Float[Tensor, "N D"]:
    """Evaluate real spherical harmonics of the first ``degree`` bands (1 to 4), orthonormal on the sphere."""
    x, y, z = directions.unbind(-1)
    bands = [torch.full_like(x, 0.28209479)]
    if degree > 1:
        bands += [-0.48860251 * y, 0.48860251 * z, -0.48860251 * x]
    if degree > 2:
        bands += [1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (3 * z * z - 1)]
        bands += [-1.09254843 * x * z, 0.54627422 * (x * x - y * y)]
    if degree > 3:
        bands += [
            0.59004359 * y * (y * y - 3 * x * x),
            2.89061144 * x * y * z,
            0.45704579 * y * (1 - 5 * z * z),
        ]
        bands += [0.37317633 * z * (5 * z * z - 3), 0.45704579 * x * (1 - 5 * z * z)]
        bands += [1.44530572 * z * (x * x - y * y), 0.59004359 * x * (3 * y * y - x * x)]
    return torch.stack(bands, -1)
