"""Files of Gaussian splats, and of plain points: PLY, glTF (KHR_gaussian_splatting) and SPZ, in and out.

Our world is +z up. glTF and SPZ are +y up, and are turned; PLY files say nothing of axes and are taken as they are.
"""

from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.math.quaternions import multiply_quaternions, quaternion_of_rotation
from usd.math.spherical_harmonics import turned_harmonics
from usd.math.splats import ColoredSplats
from usd.mesh_io.axes import rotation_to_z_up
from usd.mesh_io.ply import SPLAT as SPLAT_PROPERTIES
from usd.mesh_io.splats_gltf import EXTENSION, glb_of_splats, read_gltf_splats
from usd.mesh_io.splats_ply import ColoredPoints, ply_of_splats, read_ply_points
from usd.mesh_io.splats_spz import read_spz, spz_of_splats

LARGEST = 1e6
FORMATS = ("ply", "glb", "spz")


def read_points(path: Path) -> ColoredSplats | ColoredPoints:
    """Return the splats of a file, or the points of a PLY that has no more. Raises ``UserError``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected PLY, glTF or SPZ") from error
    if content.startswith(b"ply"):
        found = read_ply_points(path, content)
        return checked(found, path) if isinstance(found, ColoredSplats) else found
    if content.startswith((b"glTF", b"{")) or path.suffix.lower() == ".gltf":
        return checked(turned(read_gltf_splats(path, content), rotation_to_z_up("+y")), path)
    if content.startswith((b"\x1f\x8b", b"NGSP")):
        return checked(turned(read_spz(path, content), rotation_to_z_up("+y")), path)
    raise UserError(f"{path}: is no file of splats or points; expected PLY, glTF or SPZ")


def holds_splats(path: Path) -> bool:
    """Return whether a file says that it holds splats; what cannot be read does not."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    if content.startswith(b"ply"):
        names = set(content.partition(b"end_header")[0].decode("latin-1").split())
        return names >= SPLAT_PROPERTIES
    if content.startswith((b"glTF", b"{")) or path.suffix.lower() == ".gltf":
        return EXTENSION.encode() in content
    return path.suffix.lower() == ".spz" or content.startswith(b"NGSP")


def read_splats(path: Path) -> ColoredSplats:
    """Return the splats of a file. Raises ``UserError``, also for a cloud of points."""
    found = read_points(path)
    if not isinstance(found, ColoredSplats):
        raise UserError(f"{path}: holds points without opacity, scale and rotation; expected Gaussian splats")
    return found


def write_splats(splats: ColoredSplats, fmt: str) -> bytes:
    """Return a file of one of ``FORMATS``."""
    if fmt == "ply":
        return ply_of_splats(splats)
    up = turned(splats, rotation_to_z_up("+y").T)
    return glb_of_splats(up) if fmt == "glb" else spz_of_splats(up)


def turned(splats: ColoredSplats, rotation: Float[Tensor, "3 3"]) -> ColoredSplats:
    """Return the splats turned about the origin, colors that change with the direction too."""
    rotation = rotation.to(splats.means)
    return replace(
        splats,
        means=splats.means @ rotation.T,
        rotations=multiply_quaternions(quaternion_of_rotation(rotation), splats.rotations),
        harmonics=turned_harmonics(splats.harmonics, rotation),
    )


def checked(splats: ColoredSplats, path: Path) -> ColoredSplats:
    """Return the splats. Raises ``UserError`` for none at all, and for numbers that are not finite or are huge."""
    if len(splats) == 0:
        raise UserError(f"{path}: holds no splats; expected at least one")
    for name, values in vars(splats).items():
        wrong = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
        if bool(wrong.any()):
            raise UserError(
                f"{path}: {name} of {int(wrong.sum())} of {len(splats)} splats are not finite, first of splat "
                f"{int(wrong.nonzero()[0])}; expected numbers"
            )
    for name in ("means", "scales"):
        largest = float(getattr(splats, name).abs().max())
        if largest > LARGEST:
            raise UserError(f"{path}: {name} reach {largest:.3g}; expected at most {LARGEST:.0e}")
    return splats
