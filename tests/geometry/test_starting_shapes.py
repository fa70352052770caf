"""Every geometry starts from every other, and densities start from shapes: the surface stays where it was."""

from pathlib import Path

import pytest
import torch
import trimesh

from tests.geometry.shapes import SMALL, points, small, torus, torus_file
from usd.core.config import ConfigError, parse
from usd.core.errors import UserError
from usd.core.registry import find
from usd.geometry import Geometry
from usd.geometry.custom_mesh import CustomMesh
from usd.geometry.volume_start import BETA, INSET, INVERSES, raw_density
from usd.math import mesh
from usd.network.activation import ActivationName, activation

RESOLUTION = {"isosurface_resolution": 40}
GRID = {"pos_encoding_config": SMALL, **RESOLUTION}
OPTIONS: dict[str, dict[str, object]] = {
    "implicit-volume": GRID,
    "volume-grid": {"grid_size": [49, 49, 49], **RESOLUTION},
    "implicit-sdf": GRID,
    "tetrahedra-sdf-grid": GRID,
    "custom-mesh": {"pos_encoding_config": SMALL},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return torus_file(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def sources(file: Path) -> dict[str, Geometry]:
    """A torus on each kind of geometry."""
    made = {name: small(name, shape_init=f"mesh:{file}", **options) for name, options in OPTIONS.items()}
    for geometry in made.values():
        geometry.initialize()
    return made


def distance_to_the_torus(geometry: Geometry) -> float:
    """How far the exported surface lies from the torus, mean over its vertices; infinite where it is open."""
    exported = geometry.export_mesh()
    return float(torus(exported.vertices).abs().mean()) if mesh.is_closed(exported.faces) else torch.inf


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_geometry_starts_as_a_file(name: str, sources: dict[str, Geometry]) -> None:
    assert distance_to_the_torus(sources[name]) < 0.02


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("implicit-volume", "custom-mesh"),
        ("custom-mesh", "implicit-volume"),
        ("implicit-sdf", "volume-grid"),
        ("volume-grid", "implicit-sdf"),
        ("tetrahedra-sdf-grid", "implicit-volume"),
        ("volume-grid", "tetrahedra-sdf-grid"),
    ],
)
def test_a_geometry_is_made_of_another_kind(source: str, target: str, sources: dict[str, Geometry]) -> None:
    cls = find(Geometry, target)
    config = parse(cls.Config, OPTIONS[target], "system.geometry")
    made = cls.convert(config, sources[source])
    assert distance_to_the_torus(made) < 0.025
    other = cls(config)  # as a training does: the state goes into a geometry that was built before
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.export_mesh().vertices, made.export_mesh().vertices)


@pytest.mark.parametrize("name", ["implicit-volume", "volume-grid"])
def test_a_volume_of_the_same_options_is_copied(name: str, sources: dict[str, Geometry]) -> None:
    source = sources[name]
    config = parse(type(source).Config, {**OPTIONS[name], "isosurface_threshold": 3.0}, "system.geometry")
    made = type(source).convert(config, source)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), source.state_dict().values()))


@pytest.mark.parametrize("name", sorted(INVERSES))
def test_the_density_of_a_distance_is_volsdf_s_for_every_activation(name: ActivationName) -> None:
    d = torch.tensor([-1.0, -2 * BETA, 0.0, BETA, 3 * BETA])
    density = activation(name)(raw_density(2 * (d - INSET * BETA), 2.0, name)) * 2 * BETA
    expected = torch.tensor([1, 1 - 0.5 * 2.718281828**-2, 0.5, 0.5 / 2.718281828, 0.5 * 2.718281828**-3])
    assert torch.allclose(density, expected, rtol=1e-3, atol=1e-4)


def test_an_activation_that_makes_nothing_solid_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"density_activation: sigmoid makes no density.*softplus"):
        small("implicit-volume", shape_init="sphere", density_activation="sigmoid")


def test_a_volume_starts_as_an_ellipsoid_and_without_a_shape_as_its_blob() -> None:
    volume = small("implicit-volume", shape_init="ellipsoid", shape_init_params=[0.3, 0.5, 0.7], **RESOLUTION)
    blob = volume.density(points()).detach()
    assert volume.start is None and "start" not in volume.state_dict()
    volume.initialize()
    extent = volume.export_mesh().vertices.abs().amax(0)
    assert torch.allclose(extent, torch.tensor([0.3, 0.5, 0.7]), atol=0.03)
    plain = small("implicit-volume")
    assert plain.initialize() is None and torch.equal(plain.density(points()).detach(), blob)
    plain.load_state_dict(volume.state_dict())
    assert torch.equal(plain.density(points()), volume.density(points()))


@pytest.mark.parametrize("name", ["implicit-volume", "volume-grid", "implicit-sdf"])
def test_a_sheet_encloses_nothing_and_is_refused(name: str, tmp_path: Path) -> None:
    sheet = trimesh.Trimesh([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0.1]], [[0, 1, 2]], process=False)
    sheet.export(tmp_path / "sheet.ply")
    with pytest.raises(UserError, match="encloses nothing"):
        small(name, shape_init=f"mesh:{tmp_path / 'sheet.ply'}").initialize()


def test_a_converted_mesh_keeps_the_parameter_of_its_optimizer(sources: dict[str, Geometry]) -> None:
    config = parse(CustomMesh.Config, {**OPTIONS["custom-mesh"], "fix_geometry": False}, "system.geometry")
    made, built = CustomMesh.convert(config, sources["implicit-sdf"]), CustomMesh(config)
    before = built.offset
    built.load_state_dict(made.state_dict())
    assert built.offset is before and before is not None and before.shape == built.vertices.shape
    built.surface().vertices.sum().backward()
    assert before.grad is not None and before.grad.shape == before.shape
