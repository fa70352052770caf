"""What every view has of its own: a correction of its pose, and a look (exposure, white balance).

Both have a row for each training view. How many there are the data says when a training begins, and the weights when a
checkpoint is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.config import option
from usd.data.views import RayBatch
from usd.math.rotations import rotate


@dataclass(frozen=True)
class AppearanceConfig:
    """``system.appearance``."""

    n_dims: int = option(0, "numbers of a view's look; 0: all views look alike", ge=0, le=1024)
    n_neurons: int = option(
        16, "width of the network between these and a transformation of colors", ge=1, le=4096
    )


class PerView(torch.nn.Module):
    """Weights with a row for each view, none before their number is known."""

    rows: tuple[str, ...] = ()

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        for name, width in widths.items():
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(0, width)))
        self.rows = tuple(widths)

    def make_room(self, views: int) -> None:
        """Give each of the views a row of zeros, unless there are as many already."""
        for name in self.rows:
            weight = self.get_parameter(name)
            if len(weight) != views:
                self.register_parameter(name, torch.nn.Parameter(weight.new_zeros(views, weight.shape[1])))


class PoseCorrections(PerView):
    """A small turn (a rotation vector, radians) and shift (world units) of each camera."""

    turn: torch.nn.Parameter
    shift: torch.nn.Parameter

    def __init__(self, enabled: bool) -> None:
        super().__init__({"turn": 3, "shift": 3} if enabled else {})

    def forward(self, rays: RayBatch) -> RayBatch:
        """Return rays as the corrected cameras have them: turned about their cameras, then shifted."""
        if not self.rows:
            return rays
        turned = rotate(self.turn.index_select(0, rays.view), rays.directions)
        return replace(rays, directions=turned, origins=rays.origins + self.shift.index_select(0, rays.view))


class Appearance(PerView):
    """An affine transformation of colors for each view, from an embedding of a few numbers.

    color' = (1 + A) color + b, with A and b from a network of the embedding (Urban Radiance Fields, arXiv 2111.14643).
    An embedding of zeros changes nothing: views that were never seen have it.
    """

    code: torch.nn.Parameter

    def __init__(self, config: AppearanceConfig) -> None:
        super().__init__({"code": config.n_dims} if config.n_dims else {})
        if not config.n_dims:
            return
        # Without biases, so that zeros give zeros; the first layer is random, as else no code would have a gradient.
        self.network = torch.nn.Sequential(
            torch.nn.Linear(config.n_dims, config.n_neurons, bias=False),
            torch.nn.Tanh(),
            torch.nn.Linear(config.n_neurons, 12, bias=False),
        )

    def forward(self, rgb: Float[Tensor, "R 3"], view: Int[Tensor, "R"]) -> Float[Tensor, "R 3"]:
        """Return colors as the views show them."""
        if not self.rows:
            return rgb
        # About their mean, so that a view that was never seen looks like the average one.
        codes = self.code - self.code.mean(0)
        out = self.network(codes.index_select(0, view)).view(-1, 3, 4)
        return rgb + torch.einsum("rij,rj->ri", out[:, :, :3], rgb) + out[:, :, 3]
