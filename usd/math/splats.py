"""Gaussians in space, as they travel between components."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Splats:
    """N Gaussians of world space. ``rotations`` are quaternions, real part first, of any length but 0.

    ``scales`` are standard deviations along the axes, ``opacities`` those in the middle, in [0, 1].
    """

    means: Float[Tensor, "N 3"]
    scales: Float[Tensor, "N 3"]
    rotations: Float[Tensor, "N 4"]
    opacities: Float[Tensor, "N"]

    def __len__(self) -> int:
        return self.means.shape[0]

    def colored(self, harmonics: Float[Tensor, "N K 3"]) -> "ColoredSplats":
        """Return them with coefficients of colors."""
        return ColoredSplats(self.means, self.scales, self.rotations, self.opacities, harmonics)


@dataclass(frozen=True)
class ColoredSplats(Splats):
    """Gaussians, and the coefficients of their colors (``usd.math.spherical_harmonics``)."""

    harmonics: Float[Tensor, "N K 3"]
