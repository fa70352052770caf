"""Gaussian splats as PLY, in the layout that every viewer reads, and clouds of colored points.

Columns: x y z, nx ny nz (zeros), f_dc_0..2 and f_rest_* (harmonics; the rest channel after channel), opacity (a logit),
scale_0..2 (logarithms), rot_0..3 (a quaternion, real part first).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.math.safe import logit
from usd.math.splats import ColoredSplats
from usd.mesh_io.ply import COLORS, read_vertex_columns

Columns = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ColoredPoints:
    """Points, with colors in [0, 1] where a file has any."""

    points: Float[Tensor, "N 3"]
    colors: Float[Tensor, "N 3"] | None


def read_ply_points(path: Path, content: bytes) -> ColoredSplats | ColoredPoints:
    """Return the splats of a PLY, or its points. Raises ``UserError`` where columns are missing."""
    columns = read_vertex_columns(path, content)
    require(path, columns, ["x", "y", "z"])
    if not any(re.match(r"(f_dc|scale|rot)_\d|opacity", name) for name in columns):
        return _points(columns)
    names = [*(f"f_dc_{i}" for i in range(3)), "opacity", *(f"scale_{i}" for i in range(3))]
    require(path, columns, [*names, *(f"rot_{i}" for i in range(4))])
    return ColoredSplats(
        stacked(columns, "xyz"),
        stacked(columns, [f"scale_{i}" for i in range(3)]).exp(),
        stacked(columns, [f"rot_{i}" for i in range(4)]),
        torch.from_numpy(np.array(columns["opacity"], dtype=np.float32)).sigmoid(),
        _harmonics(path, columns),
    )


def require(path: Path, columns: Columns, names: list[str]) -> None:
    """Raise ``UserError`` where a column is missing."""
    if missing := [name for name in names if name not in columns]:
        raise UserError(
            f"{path}: vertices have no property '{missing[0]}'; expected those of a Gaussian splat: x, y, z, f_dc_0 to "
            "f_dc_2, opacity, scale_0 to scale_2, rot_0 to rot_3"
        )


def stacked(columns: Columns, names: "list[str] | str") -> Float[Tensor, "N C"]:
    """Return columns side by side."""
    return torch.from_numpy(np.stack([np.asarray(columns[name], dtype=np.float32) for name in names], -1))


def _harmonics(path: Path, columns: Columns) -> Float[Tensor, "N K 3"]:
    """Return the coefficients. Raises ``UserError`` for a number of them that no degree has."""
    constant = stacked(columns, [f"f_dc_{i}" for i in range(3)])[:, None]
    count = sum(name.startswith("f_rest_") for name in columns)
    if count not in (0, 9, 24, 45):
        raise UserError(f"{path}: has {count} properties f_rest_*; expected 0, 9, 24 or 45")
    if count == 0:
        return constant
    rest = stacked(columns, [f"f_rest_{i}" for i in range(count)])
    return torch.cat([constant, rest.view(len(rest), 3, count // 3).transpose(1, 2)], 1)


def _points(columns: Columns) -> ColoredPoints:
    """Return points, and their colors where there are any."""
    for names in COLORS:
        if all(name in columns for name in names):
            color = stacked(columns, list(names))
            whole = np.issubdtype(columns[names[0]].dtype, np.integer)
            return ColoredPoints(stacked(columns, "xyz"), color / 255 if whole else color)
    return ColoredPoints(stacked(columns, "xyz"), None)


def ply_of_splats(splats: ColoredSplats) -> bytes:
    """Return a binary PLY."""
    rest = splats.harmonics[:, 1:].transpose(1, 2).flatten(1)
    parts = {
        "x y z": splats.means,
        "nx ny nz": torch.zeros_like(splats.means),
        "f_dc_0 f_dc_1 f_dc_2": splats.harmonics[:, 0],
        " ".join(f"f_rest_{i}" for i in range(rest.shape[1])): rest,
        "opacity": logit(splats.opacities, 1e-6)[:, None],
        "scale_0 scale_1 scale_2": splats.scales.clamp_min(1e-12).log(),
        "rot_0 rot_1 rot_2 rot_3": torch.nn.functional.normalize(splats.rotations, dim=-1),
    }
    names = " ".join(parts).split()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splats)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    table = torch.cat([part.detach().cpu().float() for part in parts.values()], 1)
    return "\n".join(header).encode() + table.numpy().astype("<f4").tobytes()
