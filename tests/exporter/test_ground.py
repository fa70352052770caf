"""An object that stands on something comes out alone: a tilted ground, what lies below and beside it goes."""

import pytest
import torch

from tests.kernels.shapes import sphere
from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.exporter.ground import largest_piece, without_ground


def bumpy_plane(side: int = 24, tilt: float = 0.1, height: float = -0.42) -> Mesh:
    """A square of 3 x 3 that looks up, with a roughness of a few thousandths."""
    line = torch.linspace(-1.5, 1.5, side)
    x, y = torch.meshgrid(line, line, indexing="ij")
    rough = 0.004 * torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    vertices = torch.stack([x, y, height + tilt * x + rough], -1).view(-1, 3)
    first = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).flatten()
    right, below = first + side, first + 1
    faces = torch.cat([torch.stack([first, right, right + 1], 1), torch.stack([first, right + 1, below], 1)])
    return Mesh(vertices, faces)


def together(*meshes: Mesh) -> Mesh:
    starts = [sum(len(each.vertices) for each in meshes[:i]) for i in range(len(meshes))]
    faces = torch.cat([each.faces + start for each, start in zip(meshes, starts)])
    return Mesh(torch.cat([each.vertices for each in meshes]), faces)


def ball(radius: float = 0.5, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    vertices, faces = sphere(3, radius)
    return Mesh(vertices + torch.tensor(at), faces)


@pytest.mark.parametrize("tilt", [0.0, 0.1, -0.3])
def test_a_ball_on_a_tilted_table_comes_out_alone(tilt):
    beside, below = ball(0.1, (1.2, -1.0, 0.4)), ball(0.2, (0.5, 0.9, -0.9))
    made = without_ground(together(bumpy_plane(tilt=tilt), ball(), beside, below))
    assert made.vertices.norm(dim=1).max() < 0.51, (
        "nothing of the table, of what lies below, and of the other ball"
    )
    assert made.vertices[:, 2].max() > 0.49
    # What is cut off is the part that touches the ground, which is a band of a hundredth of the whole's size.
    height = made.vertices[:, 2] - tilt * made.vertices[:, 0] + 0.42
    assert 0.03 < float(height.min()) < 0.16
    assert made.faces.max() == len(made.vertices) - 1


def test_an_object_without_a_ground_is_one_clear_line():
    upside_down = bumpy_plane()
    with pytest.raises(UserError, match=r"exporter\.drop_ground: the surface has no ground"):
        without_ground(Mesh(upside_down.vertices, upside_down.faces.flip(1)))
    with pytest.raises(UserError, match="nothing stands on the ground"):
        without_ground(bumpy_plane())


def test_the_piece_with_the_most_area_is_kept():
    both = together(ball(0.3, (1, 0, 0)), ball(0.5))
    kept = largest_piece(both, torch.ones(len(both.faces), dtype=torch.bool))
    assert len(kept.faces) == len(ball().faces) and kept.vertices[:, 0].max() < 0.51
