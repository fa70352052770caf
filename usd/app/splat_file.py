"""A file of Gaussian splats as a scene of its own, for ``usd view`` and ``usd render``."""

from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from usd.core.config import spec
from usd.core.registry import build
from usd.geometry.gaussian_splatting import GaussianSplatting
from usd.math.splats import ColoredSplats
from usd.mesh_io.splats import read_splats
from usd.system import System
from usd.system.scene import SceneSystem

ALMOST_ALL = 0.98
"""Share of the Gaussians, along each axis, that a picture is made to hold: captures have strays far away."""
SYSTEM = "reconstruct-splats-system"


def open_splats(file: Path) -> SceneSystem:
    """Return a scene of the splats of a file, in their own axes and place. Raises ``UserError``."""
    return scene_of(read_splats(file))


def open_centered_splats(file: Path) -> tuple[SceneSystem, float]:
    """Return a scene whose splats lie about the origin, and their radius. Raises ``UserError``."""
    splats = read_splats(file)
    low, high = extent(splats.means)
    return scene_of(replace(splats, means=splats.means - (low + high) / 2)), 0.5 * float((high - low).norm())


def scene_of(splats: ColoredSplats) -> SceneSystem:
    """Return a scene of Gaussians, with the renderer of their kind."""
    geometry = {
        "radius": max(1e-3, float(splats.means.abs().max())),
        "sh_degree": round(splats.harmonics.shape[1] ** 0.5) - 1,
    }
    system = build(
        spec("system", SYSTEM, {"geometry": geometry, "optimizer": {"args": {"lr": 0.01}}}), System
    )
    assert isinstance(system, SceneSystem) and isinstance(system.geometry, GaussianSplatting)
    system.geometry.take(splats)
    return system.eval()


def extent(means: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Return the corners of the box that holds almost all of them along each axis."""
    ordered = means.sort(0).values  # torch.quantile takes no more than 16 million
    away = int((1 - ALMOST_ALL) / 2 * len(means))
    return ordered[away], ordered[len(means) - 1 - away]
