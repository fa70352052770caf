"""Encodings of positions and directions as modules: hash grids, waves, spherical harmonics, several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.errors import ConfigError
from usd.core.unread import ReadWith
from usd.kernels.hash_grid import HashGridSpec, hash_grid
from usd.math import encodings

GRIDS = ("HashGrid", "ProgressiveBandHashGrid")
ONE_AT_MOST = "expected one at most, and none beside a dims_to_encode_begin"
WAVES = ("ProgressiveBandFrequency", "Frequency", "TriangleWave")
EncodingName = Literal[
    "HashGrid",
    "ProgressiveBandHashGrid",
    "ProgressiveBandFrequency",
    "Frequency",
    "TriangleWave",
    "OneBlob",
    "Identity",
    "SphericalHarmonics",
    "Composite",
]


@dataclass(frozen=True)
class EncodingConfig:
    """``pos_encoding_config``. What is not progressive is as tiny-cuda-nn has it."""

    read_with: ClassVar[ReadWith] = {
        **dict.fromkeys(
            ("start_level", "start_step", "update_steps"), ("otype", ("ProgressiveBandHashGrid",))
        ),
        **dict.fromkeys(
            ("n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution", "per_level_scale"),
            ("otype", GRIDS),
        ),
        "n_frequencies": ("otype", WAVES),
        "n_masking_step": ("otype", ("ProgressiveBandFrequency",)),
        "n_bins": ("otype", ("OneBlob",)),
        **dict.fromkeys(("scale", "offset"), ("otype", ("Identity",))),
        "degree": ("otype", ("SphericalHarmonics",)),
        **dict.fromkeys(("nested", "reduction"), ("otype", ("Composite",))),
    }

    otype: EncodingName = option(
        "HashGrid",
        "HashGrid, ProgressiveBandHashGrid (levels switched on one by one), ProgressiveBandFrequency (waves), "
        "tiny-cuda-nn's Frequency, TriangleWave, OneBlob, Identity, SphericalHarmonics, or Composite (of `nested`)",
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
    n_frequencies: int = option(12, "octaves of waves", ge=1, le=32)
    n_masking_step: int = option(
        0, "ProgressiveBandFrequency: step at which all octaves are on; 0: from the beginning", ge=0
    )
    n_bins: int = option(16, "OneBlob: bins of a dimension", ge=1, le=1024)
    scale: float = option(1.0, "Identity: factor of each number")
    offset: float = option(0.0, "Identity: what is added to each number")
    degree: int = option(4, "SphericalHarmonics: number of bands, degree^2 numbers a point", ge=1, le=4)
    include_xyz: bool = option(False, "put the position itself, in [-1, 1], before what it is encoded as")
    nested: "tuple[EncodingConfig, ...]" = option((), "Composite: encodings of a point's dimensions, in turn")
    reduction: Literal["Concatenation", "Sum", "Product"] = option(
        "Concatenation", "Composite: what is done with the nested encodings' numbers"
    )
    n_dims_to_encode: int | None = option(
        None, "nested: dimensions that it encodes; null, for one of them: those that are left", ge=0, le=3
    )
    dims_to_encode_begin: int | None = option(
        None, "nested: its first dimension, from 0; null: after those of the one before", ge=0, le=2
    )


class Encoding(torch.nn.Module):
    """Base class of encodings of points: modules that return ``n_output`` numbers for each."""

    n_output: int
    config: EncodingConfig

    def update(self, step: int) -> None:
        """Change with the training, as progressive encodings do."""


class HashGrid(Encoding):
    """Features of points in [0, 1]^d. ``n_output`` numbers a point; levels that are off give zeros."""

    mask: Tensor | None

    def __init__(self, config: EncodingConfig, n_dims: int = 3) -> None:
        super().__init__()
        self.config = config
        self.spec = HashGridSpec(
            config.n_levels,
            config.n_features_per_level,
            config.log2_hashmap_size,
            config.base_resolution,
            config.per_level_scale,
            config.vertices,
            n_dims,
        )
        self.n_output = self.spec.n_output + n_dims * config.include_xyz
        self.table = torch.nn.Parameter(self.spec.init_table())
        progressive = config.otype == "ProgressiveBandHashGrid"
        self.register_buffer("mask", torch.ones(self.spec.n_output) if progressive else None)
        self.update(0)

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

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """Encode points; see ``usd.kernels.hash_grid``."""
        features = hash_grid(x, self.table, self.spec)
        features = features if self.mask is None else features * self.mask
        return torch.cat([2 * x - 1, features], -1) if self.config.include_xyz else features


class FrequencyBands(Encoding):
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


class PlainEncoding(Encoding):
    """A function of points in [0, 1]^d without weights."""

    def __init__(self, config: EncodingConfig, n_dims: int) -> None:
        super().__init__()
        self.config = config
        if config.otype == "SphericalHarmonics" and n_dims != 3:
            raise ConfigError(f"SphericalHarmonics: encodes {n_dims} dimensions; expected 3")
        self.n_output = self.forward(torch.zeros(1, n_dims)).shape[1]

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """Encode points; spherical harmonics are of 2 x - 1."""
        config = self.config
        match config.otype:
            case "Frequency":
                return encodings.frequency(x, config.n_frequencies)
            case "TriangleWave":
                return encodings.triangle_wave(x, config.n_frequencies)
            case "OneBlob":
                return encodings.one_blob(x, config.n_bins)
            case "SphericalHarmonics":
                return spherical_harmonics(2 * x - 1, config.degree)
            case _:
                return config.scale * x + config.offset


class CompositeEncoding(Encoding):
    """Encodings of slices of a point's dimensions: side by side, summed, or multiplied."""

    def __init__(self, config: EncodingConfig, n_dims: int) -> None:
        super().__init__()
        self.config = config
        given = zip(config.nested, slices(config.nested, n_dims))
        used = [(nested, part) for nested, part in given if part.stop > part.start]
        self.slices = [part for _, part in used]
        parts = [build_encoding(each, part.stop - part.start) for each, part in used]
        self.parts, widths = torch.nn.ModuleList(parts), [part.n_output for part in parts]
        side_by_side = config.reduction == "Concatenation"
        if not used or not (side_by_side or len(set(widths)) == 1):
            raise ConfigError(_widths_error(widths, config.reduction))
        self.n_output = sum(widths) if side_by_side else widths[0]

    def update(self, step: int) -> None:
        """Change what is progressive."""
        for part in self.parts:
            assert isinstance(part, Encoding)
            part.update(step)

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """Encode points."""
        found = [part(x[:, dims].contiguous()) for part, dims in zip(self.parts, self.slices)]
        if self.config.reduction == "Concatenation":
            return torch.cat(found, -1)
        together = torch.stack(found)
        return together.sum(0) if self.config.reduction == "Sum" else together.prod(0)


def _widths_error(widths: Sequence[int], reduction: str) -> str:
    """Return what is wrong with the numbers that nested encodings give."""
    alike = "" if reduction == "Concatenation" else f", and as many of each for a {reduction}"
    said = ", ".join(map(str, widths)) or "no"
    return f"Composite: its nested encodings give {said} numbers a point; expected some{alike}"


def slices(nested: Sequence[EncodingConfig], n_dims: int) -> list[slice]:
    """Return the dimensions of each nested encoding. Raises ``ConfigError`` where they do not fit into ``n_dims``."""
    counts = [each.n_dims_to_encode for each in nested]
    left = n_dims - sum(count or 0 for count in counts)
    placed = any(each.dims_to_encode_begin is not None for each in nested)
    if counts.count(None) > (0 if placed else 1):
        raise ConfigError(f"Composite: nested encodings without n_dims_to_encode; {ONE_AT_MOST}")
    sizes = [max(left, 0) if count is None else count for count in counts]
    found, at = [], 0
    for each, count in zip(nested, sizes):
        begin = at if each.dims_to_encode_begin is None else each.dims_to_encode_begin
        at = begin + count
        found.append(slice(begin, at))
    if any(part.stop > n_dims for part in found):
        said = ", ".join(f"{part.start} to {part.stop - 1}" for part in found)
        raise ConfigError(f"Composite: nested encodings of dimensions {said}; expected 0 to {n_dims - 1}")
    return found


class WithPosition(Encoding):
    """The position, in [-1, 1], before what an encoding makes of it."""

    def __init__(self, inner: Encoding, config: EncodingConfig, n_dims: int) -> None:
        super().__init__()
        self.inner, self.config = inner, config
        self.n_output = n_dims + inner.n_output

    def update(self, step: int) -> None:
        """Change what is progressive."""
        self.inner.update(step)

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """Encode points."""
        return torch.cat([2 * x - 1, self.inner(x)], -1)


def build_encoding(config: EncodingConfig, n_dims: int = 3) -> Encoding:
    """Return the encoding of points in [0, 1]^d that a configuration names. Raises ``ConfigError``."""
    if config.otype in GRIDS:
        return HashGrid(config, n_dims)
    if config.otype == "ProgressiveBandFrequency":
        made: Encoding = FrequencyBands(n_dims, config.n_frequencies, config.n_masking_step)
        made.config = config
    else:
        made = (CompositeEncoding if config.otype == "Composite" else PlainEncoding)(config, n_dims)
    return WithPosition(made, config, n_dims) if config.include_xyz else made


@dataclass(frozen=True)
class DirectionEncodingConfig(EncodingConfig):
    """``dir_encoding_config``."""

    otype: EncodingName = option(
        "SphericalHarmonics",
        "SphericalHarmonics, or another of the encodings of positions, of (direction + 1) / 2",
    )
    degree: int = option(3, "SphericalHarmonics: number of bands, degree^2 numbers a direction", ge=1, le=4)
    n_frequencies: int = option(6, "octaves of waves", ge=1, le=32)


class DirectionEncoding(torch.nn.Module):
    """Spherical harmonics of unit directions, or another encoding of (direction + 1) / 2."""

    def __init__(self, config: DirectionEncodingConfig) -> None:
        super().__init__()
        harmonics = config.otype == "SphericalHarmonics" and not config.include_xyz
        self.degree = config.degree
        self.bands = None if harmonics else build_encoding(config)
        self.n_output = config.degree**2 if self.bands is None else self.bands.n_output

    def update(self, step: int) -> None:
        """Change what is progressive."""
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
