"""The implicit volume: formulas of its bias, agreement of its normals, meshes of it, gradients to all of it."""

import math

import pytest
import torch

from tests.geometry.shapes import small
from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.geometry import Geometry
from usd.geometry.implicit_volume import ImplicitVolume, density_bias
from usd.math import mesh as meshes
from usd.network.encoding import EncodingConfig, HashGrid

SMALL = {"n_levels": 3, "log2_hashmap_size": 12, "base_resolution": 4}


def volume(**options: object) -> ImplicitVolume:
    torch.manual_seed(0)
    config = {"pos_encoding_config": SMALL, "mlp_network_config": {"n_neurons": 16}, **options}
    return ImplicitVolume(parse(ImplicitVolume.Config, config, "system.geometry"))


def points(n: int = 64, reach: float = 0.8) -> torch.Tensor:
    return (torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * reach


def test_the_blob_is_zero_where_the_formula_says() -> None:
    at = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert density_bias(at, "blob_magic3d", 10.0, 0.5).tolist() == [10.0, 0.0, -10.0]
    assert density_bias(at, "blob_dreamfusion", 10.0, 0.5)[1] == pytest.approx(10 * math.exp(-0.5))
    assert density_bias(at, -1.0, 10.0, 0.5).tolist() == [-1.0] * 3


def test_an_untrained_volume_is_the_blob() -> None:
    x = points()
    expected = torch.nn.functional.softplus(density_bias(x, "blob_magic3d", 10.0, 0.5))
    assert torch.allclose(volume().density(x), expected, atol=2e-2)


def test_only_what_is_needed_is_computed() -> None:
    field = volume().query(points(), frozenset())
    assert field.features is None and field.normal is None


@pytest.mark.parametrize("kind", ["analytic", "finite_difference", "pred"])
def test_normals_are_unit_vectors_and_trainable(kind: str) -> None:
    geometry = volume(normal_type=kind)
    torch.nn.init.normal_(geometry.encoding.table, std=0.5)
    normal = geometry.query(points(), frozenset({"normal"})).normal
    assert normal is not None
    assert torch.allclose(normal.norm(dim=-1), torch.ones(64), atol=1e-4)
    normal[:, 0].sum().backward()
    assert geometry.encoding.table.grad is not None and geometry.encoding.table.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["analytic", "finite_difference"])
def test_normals_of_the_blob_point_outwards_also_without_gradients(kind: str) -> None:
    with torch.no_grad():
        x = torch.nn.functional.normalize(points(), dim=-1) * 0.4
        geometry = volume(normal_type=kind)
        torch.nn.init.zeros_(geometry.encoding.table)
        normal = geometry.query(x, frozenset({"normal"})).normal
    assert normal is not None and not normal.requires_grad
    assert (normal * x).sum(-1).min() > 0.399


def test_normals_without_a_normal_type_are_refused() -> None:
    with pytest.raises(UserError, match="normal_type"):
        volume(normal_type=None).query(points(), frozenset({"normal"}))


def test_every_parameter_is_trained() -> None:
    geometry = volume()
    field = geometry.query(points(), frozenset({"features"}))
    assert field.features is not None
    (field.density.sum() + field.features.square().sum()).backward()
    for name, parameter in geometry.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_attribute_names_that_optimizer_settings_address() -> None:
    names = {name.split(".")[0] for name, _ in volume().named_parameters()}
    assert names == {"encoding", "density_network", "feature_network"}


def test_the_mesh_of_the_blob_is_a_ball_of_the_size_that_renders_opaque() -> None:
    """Columns of softplus(10 (1 - 2 r)) reach optical depth ln 2 at a radius just inside 0.5."""
    made = volume().export_mesh(64)
    assert meshes.is_closed(made.faces) and meshes.euler_number(made.faces) == 2
    radius = float(made.vertices.norm(dim=-1).mean())
    assert 0.4 < radius < 0.52


def test_a_given_threshold_is_the_density_at_the_vertices() -> None:
    geometry = volume()
    made = geometry.export_mesh(96, 4.0)
    with torch.no_grad():
        assert torch.allclose(geometry.density(made.vertices), torch.tensor(4.0), atol=0.15)


def test_an_empty_volume_says_why() -> None:
    with pytest.raises(UserError, match=r"no line of sight .* largest density on the 16\^3 grid is 0\.0\d+"):
        volume(density_bias=-4.0).export_mesh(16)
    with pytest.raises(UserError, match="the threshold 1000 is above"):
        volume().export_mesh(16, 1000.0)


def test_a_volume_of_nan_says_so() -> None:
    geometry = volume()
    torch.nn.init.constant_(geometry.encoding.table, float("nan"))
    with pytest.raises(UserError, match="diverged"):
        geometry.export_mesh(16)


def test_conversion_is_refused_where_nobody_wrote_it() -> None:
    class Fresh(ImplicitVolume):
        convert = Geometry.convert

    source = volume()
    with pytest.raises(UserError, match="Geometry cannot be made from ImplicitVolume"):
        Fresh.convert(source.config, source)


def test_a_misspelt_option_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"system\.geometry\.pos_encoding_config\.n_level: unknown key.*n_levels"
    ):
        volume(pos_encoding_config={"n_level": 4})


def test_a_progressive_grid_switches_levels_on() -> None:
    config = EncodingConfig(
        otype="ProgressiveBandHashGrid",
        n_levels=4,
        log2_hashmap_size=10,
        start_level=1,
        start_step=10,
        update_steps=5,
    )
    grid = HashGrid(config)
    torch.nn.init.ones_(grid.table)
    x = torch.full((1, 3), 0.3)
    assert [float(grid(x).sum()) for grid in [grid]] == pytest.approx([2.0])
    assert [grid.active_levels(step) for step in (0, 14, 15, 20, 999)] == [1, 1, 2, 3, 4]
    grid.update(20)
    assert float(grid(x).sum()) == pytest.approx(6.0)


def test_a_lattice_around_the_object_is_as_fine_as_a_larger_one() -> None:
    """A small ball off the middle: the same number of points meets its surface more often, and more exactly."""

    def march(**options: object) -> tuple[int, float]:
        ball = small(
            "volume-grid", grid_size=[33, 33, 33], density_activation="none", density_bias=0.0, **options
        )
        axis = torch.linspace(-1, 1, 33)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        middle = torch.tensor([0.5, -0.25, 0.0])
        with torch.no_grad():
            ball.grid[0, 0] = 10 - 30 * (torch.stack([x, y, z], -1) - middle).norm(dim=-1)
        exported = ball.export_mesh(24, 1.0)
        assert meshes.is_closed(exported.faces)
        return len(exported.vertices), float(((exported.vertices - middle).norm(dim=1) - 0.3).abs().mean())

    (many, small_error), (few, error) = march(isosurface_coarse_to_fine=True), march()
    assert many > 3 * few and small_error < error


def test_a_lattice_around_nothing_is_the_whole_cube() -> None:
    empty = small("volume-grid", grid_size=[4, 4, 4], density_bias=-50.0, isosurface_coarse_to_fine=True)
    with pytest.raises(UserError, match="empty surface"):
        empty.export_mesh(16, 1.0)
