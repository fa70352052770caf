"""Gaussian noise that lies on a surface: views of the same points see the same noise (arXiv 2501.05445, section 3.2).

Space is a grid of small cells, each with white noise of its own. A pixel of a noise map gathers the cells that its part
of the surface runs through and divides by the root of their count, so that a map is white noise again.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from usd.math.camera import Cameras

CELLS = 2**16
"""Values of noise; cells that share one are far apart more often than not."""
PRIMES = (73_856_093, 19_349_663, 83_492_791)
"""Of the spatial hash of Teschner et al. (2003)."""


@dataclass(frozen=True)
class SurfaceNoise:
    """Noise of all space: ``values`` are those of the cells, by their hash; ``screen`` is seen where no surface is.

    ``cell`` is the side of a cell in world units.
    """

    values: Float[Tensor, "K c"]
    screen: Float[Tensor, "c h w"]
    cell: float

    @classmethod
    def drawn(cls, like: Float[Tensor, "B c h w"], cell: float, seed: int) -> "SurfaceNoise":
        """Draw the noise for maps like these latents; a seed is the same noise on every device."""
        source = torch.Generator().manual_seed(seed)
        screen = torch.randn(like.shape[1:], generator=source).to(like)
        return cls(torch.randn(CELLS, like.shape[1], generator=source).to(like), screen, cell)

    def seen(
        self,
        cameras: Cameras,
        depth: Float[Tensor, "B 1 H W"],
        opacity: Float[Tensor, "B 1 H W"],
        domains: int = 1,
    ) -> Float[Tensor, "R c h w"]:
        """Return the noise maps of rendered views: depths are distances along the rays.

        Those of further ``domains``, such as normals beside colors, follow; each domain has noise of its own.
        """
        origins, directions = (rays.permute(0, 3, 1, 2) for rays in cameras.rays())
        points, covered = origins + depth.detach() * directions, opacity.detach() > 0.5
        return torch.cat([self.shifted(domain).maps(points, covered) for domain in range(domains)])

    def shifted(self, by: int) -> "SurfaceNoise":
        """Return other noise: each cell, and each pixel of the screen, has that of one so many places before it."""
        screen = self.screen.flatten(1).roll(by, 1).view_as(self.screen)
        return replace(self, values=self.values.roll(by, 0), screen=screen)

    def maps(
        self, points: Float[Tensor, "B 3 H W"], covered: Bool[Tensor, "B 1 H W"]
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise maps of views of surface points; what is not ``covered`` is the screen."""
        height, width = self.screen.shape[1:]
        block = max(1, min(points.shape[2] // height, points.shape[3] // width))
        size = height * block, width * block
        keys = cell_hashes(interpolate(points, size, mode="nearest"), self.cell, len(self.values))
        on = interpolate(covered.float(), size, mode="nearest")[:, 0] > 0
        # a row for each pixel of the map; cells off the surface are one more, whose noise is the screen's
        rows = pixel_unshuffle(torch.where(on, keys, -1)[:, None], block).flatten(2).transpose(1, 2)
        noise = (self.values[rows.clamp_min(0)] * (rows >= 0)[..., None]).sum(2)
        noise = noise + (rows < 0).sum(-1)[..., None] * self.screen.flatten(1).T
        # a cell that is met n times adds n^2 to the variance
        variance = (rows[..., :, None] == rows[..., None, :]).sum((-1, -2)).to(noise)
        return (noise / variance.sqrt()[..., None]).transpose(1, 2).unflatten(2, (height, width))


def cell_hashes(points: Float[Tensor, "B 3 H W"], cell: float, count: int) -> Int[Tensor, "B H W"]:
    """Return the number below ``count`` of the cell that each point lies in."""
    x, y, z = (points / cell).floor().long().unbind(1)
    return (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) % count
