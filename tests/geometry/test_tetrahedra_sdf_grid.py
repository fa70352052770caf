"""The tetrahedral grid as a geometry: where it starts, what it takes over, what it learns from images of its surface."""

import math
from pathlib import Path

import pytest
import torch

from tests.geometry.shapes import points, small, torus, torus_file
from usd.core.config import ConfigError
from usd.core.errors import UserError
from usd.geometry.tetrahedra_sdf_grid import TetrahedraSDFGrid, large_components_by_faces
from usd.math import mesh

NAME = "tetrahedra-sdf-grid"
PUBLISHED = {
    "radius": 1.0,
    "isosurface_resolution": 128,
    "isosurface_deformable_grid": True,
    "isosurface_remove_outliers": True,
    "isosurface_outlier_n_faces_threshold": 0.01,
    "n_input_dims": 3,
    "n_feature_dims": 3,
    "pos_encoding_config": {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    },
    "mlp_network_config": {
        "otype": "VanillaMLP",
        "activation": "ReLU",
        "output_activation": "none",
        "n_neurons": 64,
        "n_hidden_layers": 1,
    },
    "shape_init": "ellipsoid",
    "shape_init_params": [0.4, 0.4, 0.8],
    "shape_init_mesh_up": "+z",
    "shape_init_mesh_front": "+x",
    "force_shape_init": False,
    "geometry_only": False,
    "fix_geometry": False,
}


def grid(**options: object) -> TetrahedraSDFGrid:
    return small(NAME, **{"isosurface_resolution": 40, **options})


def test_published_options_are_read() -> None:
    tiny = {"n_levels": 2, "log2_hashmap_size": 8}
    made = small(NAME, **{**PUBLISHED, "isosurface_resolution": 24, "pos_encoding_config": tiny})
    assert made.config.shape_init_params == (0.4, 0.4, 0.8)


@pytest.mark.parametrize(
    ("options", "half"),
    [
        ({}, (0.5, 0.5, 0.5)),
        ({"radius": 2.0}, (1.0, 1.0, 1.0)),
        ({"shape_init": "sphere", "shape_init_params": 0.7}, (0.7, 0.7, 0.7)),
        ({"shape_init": "ellipsoid", "shape_init_params": [0.3, 0.5, 0.8]}, (0.3, 0.5, 0.8)),
    ],
)
def test_it_starts_as_the_shape_it_is_told(options: dict, half: tuple[float, float, float]) -> None:
    made = grid(**options).surface()
    assert mesh.is_closed(made.faces) and mesh.euler_number(made.faces) == 2
    assert torch.allclose(made.vertices.amax(0), torch.tensor(half), rtol=0.03)
    assert float(mesh.volume(made.vertices, made.faces)) == pytest.approx(
        4 / 3 * math.pi * math.prod(half), rel=0.05
    )


def test_it_starts_as_a_file_and_takes_its_colors(tmp_path: Path) -> None:
    made = grid(shape_init=f"mesh:{torus_file(tmp_path)}", isosurface_resolution=56)
    start = made.initialize()
    assert start is not None and start.color is not None
    surface = made.surface()
    assert mesh.is_closed(surface.faces) and mesh.euler_number(surface.faces) == 0
    assert float(torus(surface.vertices).abs().max()) < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape_init": "cube"}, "'cube' is no shape; expected sphere, ellipsoid, mesh:FILE"),
        ({"shape_init": "sphere", "shape_init_params": [0.1, 0.2, 0.3]}, "a sphere has one radius"),
    ],
)
def test_a_wrong_shape_is_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(**options)


def test_everything_that_should_be_is_trained() -> None:
    made = grid()
    surface = made.surface()
    (surface.vertices.square().sum() + made.features(surface.vertices).square().sum()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    names = {name.split(".")[0] for name, _ in made.named_parameters()}
    assert names == {"sdf", "deformation", "encoding", "feature_network"}


def test_a_fixed_shape_is_no_parameter_and_is_marched_once() -> None:
    made = grid(fix_geometry=True)
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {"encoding", "feature_network"}
    first = made.surface()
    assert made.surface() is first
    made.load_state_dict(grid(fix_geometry=True, shape_init_params=0.3).state_dict())
    assert float(made.surface().vertices.norm(dim=-1).max()) < 0.32


def test_without_features_they_are_zeros() -> None:
    made = grid(geometry_only=True, isosurface_deformable_grid=False)
    assert {name for name, _ in made.named_parameters()} == {"sdf"}
    assert float(made.features(points()).abs().sum()) == 0 and made.features(points()).shape == (64, 3)


def test_small_components_are_dropped_where_asked() -> None:
    def with_floater(**options: object) -> TetrahedraSDFGrid:
        made = grid(isosurface_resolution=64, **options)
        far = (made.positions().detach() - 0.8).norm(dim=-1) - 0.1
        made.sdf.data.copy_(torch.minimum(made.sdf.data, far))
        return made

    kept = with_floater().surface()
    assert mesh.euler_number(kept.faces) == 4
    cleaned = with_floater(isosurface_remove_outliers=True, isosurface_outlier_n_faces_threshold=0.2)
    assert mesh.euler_number(cleaned.surface().faces) == 2
    sizes = torch.bincount(mesh.components(kept.faces, len(kept.vertices)))
    assert int(large_components_by_faces(kept.faces, len(kept.vertices), int(sizes.min())).sum()) == len(
        kept.faces
    )
    assert int(large_components_by_faces(kept.faces, len(kept.vertices), 10**9).sum()) == int(sizes.max())


def test_an_empty_grid_says_what_it_holds() -> None:
    made = grid()
    made.sdf.data.fill_(0.25)
    for make in (made.surface, made.export_mesh):
        with pytest.raises(UserError, match=r"empty surface: signed distances are between 0\.25 and 0\.25"):
            make()


@pytest.mark.parametrize("name", ["implicit-volume", "volume-grid", "implicit-sdf"])
def test_it_takes_over_what_a_field_exports(name: str) -> None:
    source = small(name, isosurface_resolution=40)
    made = TetrahedraSDFGrid.convert(grid().config, source)
    exported, surface = source.export_mesh(), made.surface()
    assert mesh.is_closed(surface.faces) and mesh.euler_number(surface.faces) == 2
    size = exported.vertices.norm(dim=-1).mean()
    assert torch.allclose(surface.vertices.norm(dim=-1), size, atol=0.03)
    assert float(made.box[1].max()) < 0.8


def test_it_takes_over_the_features_of_the_same_networks_only() -> None:
    source = small("implicit-volume", isosurface_resolution=24)
    torch.nn.init.normal_(source.encoding.table)
    needs = frozenset({"features"})
    same = TetrahedraSDFGrid.convert(grid().config, source)
    assert torch.equal(same.features(points()), source.query(points(), needs).features)
    other = TetrahedraSDFGrid.convert(grid(mlp_network_config={"n_neurons": 8}).config, source)
    assert not torch.allclose(other.features(points()), source.query(points(), needs).features)


def test_a_grid_of_the_same_settings_is_taken_over_exactly() -> None:
    source = grid(shape_init="ellipsoid", shape_init_params=[0.3, 0.4, 0.5])
    torch.nn.init.normal_(source.deformation)
    made = TetrahedraSDFGrid.convert(grid(fix_geometry=True).config, source)
    assert torch.equal(made.surface().vertices, source.surface().vertices)
    finer = TetrahedraSDFGrid.convert(grid(isosurface_resolution=56).config, source)
    assert torch.allclose(
        finer.surface().vertices.amax(0), source.surface().vertices.amax(0).detach(), atol=0.03
    )


def test_a_checkpoint_brings_shape_and_box_back() -> None:
    source = TetrahedraSDFGrid.convert(grid().config, small("implicit-sdf", isosurface_resolution=32))
    again = grid()
    again.load_state_dict(source.state_dict())
    assert torch.equal(again.surface().vertices, source.surface().vertices)


def test_a_sphere_grows_towards_the_points_it_is_pulled_to() -> None:
    """Descent on the vertices alone, as images of the surface pull them: sdf and deformation follow."""
    made = grid(isosurface_resolution=28)
    optimizer = torch.optim.Adam([made.sdf, made.deformation], lr=0.01)
    for _ in range(40):
        surface = made.surface()
        loss = (surface.vertices.norm(dim=-1) - 0.65).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    surface = made.surface()
    assert torch.allclose(surface.vertices.norm(dim=-1), torch.tensor(0.65), atol=0.03)
    assert mesh.is_closed(surface.faces) and mesh.euler_number(surface.faces) == 2
