"""The objects that travel between components. Plain, typed, and without behavior of their own."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.math.splats import Splats


@dataclass(frozen=True)
class Field:
    """The fields of a volumetric geometry at N points. Those nobody asked for are None."""

    density: Float[Tensor, "N"]
    features: Float[Tensor, "N F"] | None = None
    normal: Float[Tensor, "N 3"] | None = None


@dataclass(frozen=True)
class Samples:
    """Packed samples along rays, as losses need them: S samples over R rays.

    ``normal_perturb`` are normals at points displaced a little at random.
    ``distance``, ``gradient`` (not normalized) and ``laplacian`` are those of a signed distance, if that was rendered.
    ``length`` is each sample's extent along its ray.
    """

    ray_index: Int[Tensor, "S"]
    t: Float[Tensor, "S"]
    weight: Float[Tensor, "S"]
    direction: Float[Tensor, "S 3"]
    normal: Float[Tensor, "S 3"] | None = None
    normal_perturb: Float[Tensor, "S 3"] | None = None
    distance: Float[Tensor, "S"] | None = None
    gradient: Float[Tensor, "S 3"] | None = None
    laplacian: Float[Tensor, "S"] | None = None
    length: Float[Tensor, "S"] | None = None


@dataclass(frozen=True)
class Behind:
    """The background of R rays: its colors, and of a background that lies somewhere the expected distances.

    ``samples`` are those of a background that is rendered like a volume; their ``t`` and ``length`` are places between
    0 (where the background begins) and 1 (infinity) instead of distances.
    """

    color: Float[Tensor, "R C"]
    depth: Float[Tensor, "R"] | None = None
    samples: Samples | None = None


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in world units, +z up. ``color`` is per vertex, linear in [0, 1] as rendered.

    ``cut``, of a mesh marched through a grid: the signed distances, in edges of a cell, at both ends of each grid edge
    that the surface cuts.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    color: Float[Tensor, "V 3"] | None = None
    cut: Float[Tensor, "W 2"] | None = None

    @property
    def empty(self) -> bool:
        """Return whether the mesh has no faces."""
        return self.faces.shape[0] == 0

    def to(self, device: "torch.device | str") -> "Mesh":
        """Return the mesh on a device."""
        color = None if self.color is None else self.color.to(device)
        return replace(self, vertices=self.vertices.to(device), faces=self.faces.to(device), color=color)


@dataclass(frozen=True)
class Render:
    """The pictures of B cameras that a renderer returns. None where nobody asked (see ``needs``).

    ``rgb`` is composited over the background, ``foreground`` is premultiplied by ``opacity``. Both have the C
    channels of the material and the background: colors in [0, 1], or a diffusion model's latents.
    ``depth`` is the expected distance along the ray; ``normal`` is in world coordinates, unit length where opaque.
    ``behind`` is what the rays meet behind the object.
    """

    rgb: Float[Tensor, "B C H W"]
    opacity: Float[Tensor, "B 1 H W"]
    foreground: Float[Tensor, "B C H W"] | None = None
    depth: Float[Tensor, "B 1 H W"] | None = None
    normal: Float[Tensor, "B 3 H W"] | None = None
    samples: Samples | None = None
    mesh: Mesh | None = None
    splats: Splats | None = None
    behind: Behind | None = None


@dataclass(frozen=True)
class LatentSpace:
    """The space that a diffusion model works in. Two models may share a formula only if their spaces are equal."""

    channels: int
    height: int
    width: int
    image_size: int
    scaling_factor: float


@dataclass(frozen=True)
class GuidanceOutput:
    """A guidance's loss and the figures worth logging. ``trouble`` says what was not finite; the loss then is not.

    ``losses`` are further ones by name, each with a weight of its own: "img" compares pictures instead of latents.
    """

    loss: Float[Tensor, ""]
    figures: dict[str, float | Tensor] = field(default_factory=dict)
    trouble: str = ""
    losses: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
