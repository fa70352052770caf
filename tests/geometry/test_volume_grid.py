"""The plain grid: its numbers are where they should be, its blob and normals agree with formulas."""

import pytest
import torch

from tests.geometry.shapes import points, small
from usd.core.errors import UserError
from usd.geometry.implicit_volume import density_bias
from usd.math import mesh

NAME = "volume-grid"


def test_a_new_grid_is_the_blob() -> None:
    x = points()
    expected = torch.nn.functional.softplus(density_bias(x, "blob_magic3d", 5.0, 0.5))
    assert torch.allclose(small(NAME).density(x), expected)


def test_numbers_lie_along_x_y_and_z() -> None:
    made = small(NAME, grid_size=(3, 4, 5), density_activation="none", density_bias=0.0, n_feature_dims=1)
    with torch.no_grad():
        made.grid[0, 0, 4, 0, 2] = 7.0
        made.grid[0, 1, 4, 0, 2] = 9.0
    field = made.query(torch.tensor([[1.0, -1.0, 1.0], [0.0, -1.0, 1.0]]), frozenset({"features"}))
    assert field.density.tolist() == [7.0, 0.0]
    assert field.features is not None and field.features[:, 0].tolist() == [9.0, 0.0]


def test_linear_fields_are_interpolated_exactly() -> None:
    made = small(NAME, grid_size=(4, 5, 6), density_activation="none", density_bias=0.0)
    axes = [torch.linspace(-1, 1, n) for n in (6, 5, 4)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    made.grid.data[0, 0] = 2 * x - y + 0.5 * z
    at = points()
    assert torch.allclose(made.density(at), at @ torch.tensor([2.0, -1.0, 0.5]), atol=1e-5)
    normal = made.query(at * 0.9, frozenset({"normal"})).normal
    expected = -torch.nn.functional.normalize(torch.tensor([2.0, -1.0, 0.5]), dim=0)
    assert normal is not None and torch.allclose(normal, expected.expand_as(normal), atol=1e-3)


def test_everything_is_trained_and_meshes_are_closed() -> None:
    made = small(NAME, grid_size=(16, 16, 16), isosurface_resolution=32)
    field = made.query(points(), frozenset({"features", "normal"}))
    assert field.features is not None and field.normal is not None
    (field.density.sum() + field.features.sum() + field.normal.sum()).backward()
    assert made.grid.grad is not None
    assert all(made.grid.grad[0, c].abs().sum() > 0 for c in range(4))
    out = made.export_mesh()
    assert mesh.is_closed(out.faces) and mesh.euler_number(out.faces) == 2


def test_normals_without_a_normal_type_are_refused() -> None:
    with pytest.raises(UserError, match="normal_type: is null"):
        small(NAME, normal_type=None).query(points(), frozenset({"normal"}))
