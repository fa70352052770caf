"""Losses on meshes: closed forms, invariances, and what is said where there is no mesh."""

import math

import pytest
import torch
from torch import Tensor

from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.types import Mesh, Render
from usd.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid
from usd.losses.mesh import (
    laplacian_smoothness,
    normal_consistency,
    sign_changes,
    uniform_laplacian,
    unique_edges,
)
from usd.losses.table import REGULARIZERS
from usd.math import mesh

FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
TETRAHEDRON = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])


def render(vertices: Tensor, faces: Tensor = FACES) -> Render:
    picture = torch.zeros(1, 3, 1, 1)
    return Render(picture, picture[:, :1], mesh=Mesh(vertices, faces))


def flat(n: int = 5) -> tuple[Tensor, Tensor]:
    """A square lattice in a plane."""
    y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    vertices = torch.stack([x, y, 0 * x], -1).view(-1, 3).double()
    at = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).flatten()
    return vertices, torch.cat(
        [torch.stack([at, at + 1, at + n + 1], 1), torch.stack([at, at + n + 1, at + n], 1)]
    )


def test_every_edge_is_found_once() -> None:
    assert sorted(map(tuple, unique_edges(FACES).tolist())) == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
        (2, 3),
    ]


def test_a_plane_is_consistent_and_a_regular_tetrahedron_has_its_angle() -> None:
    assert float(normal_consistency(render(*flat()))) == pytest.approx(0, abs=1e-12)
    angle = math.acos(-1 / 3)  # its vertices' normals point to the vertices
    assert float(normal_consistency(render(TETRAHEDRON))) == pytest.approx(1 - math.cos(angle), abs=1e-5)


def test_scale_and_place_do_not_bend_anything() -> None:
    bumpy = TETRAHEDRON + 0.3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    moved = normal_consistency(render(3 * bumpy + torch.tensor([1.0, 2.0, 3.0])))
    assert float(moved) == pytest.approx(float(normal_consistency(render(bumpy))), abs=1e-5)


def test_the_laplacian_is_the_sum_of_differences() -> None:
    """4 v of a regular tetrahedron around the origin; zero inside a lattice."""
    assert torch.allclose(uniform_laplacian(TETRAHEDRON, FACES), 4 * TETRAHEDRON)
    assert float(laplacian_smoothness(render(TETRAHEDRON))) == pytest.approx(4 * math.sqrt(3), rel=1e-6)
    inner = uniform_laplacian(*flat()).view(5, 5, 3)[1:-1, 1:-1]
    assert inner.abs().max() < 1e-12


@pytest.mark.parametrize("loss", [normal_consistency, laplacian_smoothness])
def test_descending_smooths_and_gradients_are_right(loss) -> None:
    vertices = (TETRAHEDRON + 0.2 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1))).double()
    assert torch.autograd.gradcheck(lambda v: loss(render(v)), vertices.requires_grad_())


def test_the_published_weights_name_them_and_a_volume_is_refused() -> None:
    for name in ("normal_consistency", "laplacian_smoothness", "sign_changes"):
        assert REGULARIZERS[name].needs == {"mesh"}
        with pytest.raises(UserError, match=f"lambda_{name}"):
            REGULARIZERS[name](Render(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1)))


def test_sign_changes_take_a_floater_away_and_want_a_grid() -> None:
    """Descent on this weight alone: a lonely point inside, which no picture asks for, is given up."""
    torch.manual_seed(0)
    options = {"isosurface_resolution": 16, "geometry_only": True, "shape_init_params": 0.5}
    grid = TetrahedraSDFGrid(parse(TetrahedraSDFGrid.Config, options, "geometry"))
    lonely = int((grid.positions() - 0.75).norm(dim=-1).argmin())
    grid.sdf.data[lonely] = -0.02
    before = mesh.components(grid.surface().faces, len(grid.surface().vertices)).max()
    optimizer = torch.optim.Adam([grid.sdf], lr=0.01)
    picture = torch.zeros(1, 3, 1, 1)
    for _ in range(4):
        optimizer.zero_grad()
        sign_changes(Render(picture, picture[:, :1], mesh=grid.surface())).backward()
        optimizer.step()
    assert int(before) == 1 and float(grid.sdf.detach()[lonely]) > 0
    assert int(mesh.components(grid.surface().faces, len(grid.surface().vertices)).max()) == 0
    with pytest.raises(UserError, match="lambda_sign_changes needs distances on a grid"):
        sign_changes(render(TETRAHEDRON))
