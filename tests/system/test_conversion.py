"""A stage that starts from another: shape, colors, trials as well as checkpoints, and what goes wrong in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.geometry.shapes import SMALL, points, torus, torus_file
from usd.core import checkpoint
from usd.core.config import ConfigError, Spec, spec
from usd.core.errors import UserError
from usd.core.registry import build
from usd.system import conversion
from usd.system.conversion import ConversionOptions, ConversionTarget, frontal_color, initialize_object

FIELD = {"pos_encoding_config": SMALL, "isosurface_resolution": 32}
GRID = {"pos_encoding_config": SMALL, "isosurface_resolution": 40}


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def parts(name: str, material: dict[str, Any] | None = None, **options: object) -> ConversionTarget:
    torch.manual_seed(1)
    geometry, color = spec("geometry", name, options), spec("material", "no-material", material or {})
    return ConversionTarget(build(geometry), build(color), geometry, color)


def save(path: Path, made: ConversionTarget) -> Path:
    """The checkpoint of a training that made these parts."""
    named = {"geometry": (made.geometry_spec, made.geometry), "material": (made.material_spec, made.material)}
    specs: dict[str, Spec] = {name: pair[0] for name, pair in named.items()}
    weights = {
        f"{name}.{key}": value for name, pair in named.items() for key, value in pair[1].state_dict().items()
    }
    checkpoint.save_atomic(
        {
            "format": checkpoint.FORMAT,
            "global_step": 7,
            "state_dict": weights,
            "components": checkpoint.component_entries(specs),
        },
        path,
    )
    return path


@pytest.fixture
def coarse(tmp_path: Path) -> tuple[Path, ConversionTarget]:
    """A colorful blob, and its checkpoint in a trial's folder."""
    made = parts("implicit-volume", **FIELD)
    torch.nn.init.normal_(made.geometry.get_parameter("encoding.table"), std=0.5)
    return save(tmp_path / "trial" / "ckpts" / "last.ckpt", made), made


def colors(of: ConversionTarget, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return frontal_color(of.geometry, of.material, x, x)


@pytest.mark.parametrize("as_folder", [False, True])
def test_shape_and_colours_are_taken_over(coarse: tuple[Path, ConversionTarget], as_folder: bool) -> None:
    file, source = coarse
    made = parts("tetrahedra-sdf-grid", **GRID)
    before = colors(made, points())
    initialize_object(made, ConversionOptions(file.parents[1] if as_folder else file, {}, True), random())
    exported, surface = source.geometry.export_mesh(), made.geometry.export_mesh()
    assert torch.allclose(surface.vertices.amax(0), exported.vertices.amax(0), atol=0.03)
    assert torch.equal(colors(made, points()), colors(source, points()))
    assert not torch.allclose(before, colors(made, points()))


def test_a_source_without_colours_leaves_them(tmp_path: Path) -> None:
    bare = save(
        tmp_path / "bare.ckpt", parts("tetrahedra-sdf-grid", {"n_output_dims": 0}, **GRID, geometry_only=True)
    )
    grey = save(tmp_path / "grey.ckpt", parts("tetrahedra-sdf-grid", {"n_output_dims": 0}, **GRID))
    for path in (bare, grey):
        made = parts("tetrahedra-sdf-grid", **GRID, fix_geometry=True)
        before = colors(made, points())
        initialize_object(made, ConversionOptions(path, {}, True), random())
        assert torch.allclose(colors(made, points()), before, atol=1e-3)


def test_colours_can_be_left(coarse: tuple[Path, ConversionTarget]) -> None:
    made = parts("tetrahedra-sdf-grid", **GRID)
    before = colors(made, points())
    initialize_object(made, ConversionOptions(coarse[0], {}, False), random())
    assert torch.equal(colors(made, points()), before)


def test_colours_of_other_networks_are_fitted(
    coarse: tuple[Path, ConversionTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "FIT_STEPS", 80)
    made = parts("tetrahedra-sdf-grid", **{**GRID, "mlp_network_config": {"n_neurons": 48}})
    initialize_object(made, ConversionOptions(coarse[0], {}, True), random())
    x = made.geometry.export_mesh().vertices
    wanted = conversion.with_vertex_colors(
        made.geometry.export_mesh(),
        conversion.ConversionSource(coarse[1].geometry, coarse[1].material, coarse[1].material_spec),
    ).color
    assert wanted is not None
    error = (colors(made, x) - wanted).abs().mean()
    assert float(error) < 0.2 * float((wanted - wanted.mean(0)).abs().mean()) + 0.01


def test_options_of_the_source_can_be_changed(coarse: tuple[Path, ConversionTarget]) -> None:
    sizes = []
    for threshold in (1.0, 8.0):
        made = parts("tetrahedra-sdf-grid", **GRID)
        initialize_object(
            made, ConversionOptions(coarse[0], {"isosurface_threshold": threshold}, True), random()
        )
        sizes.append(float(made.geometry.export_mesh().vertices.norm(dim=-1).mean()))
    assert sizes[0] > 1.2 * sizes[1]
    with pytest.raises(
        ConfigError, match=r"system\.geometry_convert_override\.isosurface_threshhold: unknown key"
    ):
        initialize_object(made, ConversionOptions(coarse[0], {"isosurface_threshhold": 1.0}, True), random())


def test_a_shape_that_is_forced_wins(coarse: tuple[Path, ConversionTarget]) -> None:
    made = parts(
        "tetrahedra-sdf-grid", **GRID, shape_init="sphere", shape_init_params=0.2, force_shape_init=True
    )
    initialize_object(made, ConversionOptions(coarse[0], {}, True), random())
    assert float(made.geometry.export_mesh().vertices.norm(dim=-1).max()) < 0.21


def test_a_users_mesh_brings_its_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "FIT_STEPS", 60)
    fine = {"n_levels": 4, "log2_hashmap_size": 14, "base_resolution": 8}
    made = parts("custom-mesh", shape_init=f"mesh:{torus_file(tmp_path)}", pos_encoding_config=fine)
    initialize_object(made, ConversionOptions(None, {}, True), random())
    x = made.geometry.export_mesh().vertices
    assert float(torus(x).abs().max()) < 0.01
    assert bool((colors(made, x[x[:, 0] > 0.15])[:, 0] > 0.8).all())
    assert bool((colors(made, x[x[:, 0] < -0.15])[:, 1] > 0.8).all())


def test_a_new_training_without_files_is_left_as_it_is() -> None:
    made = parts("implicit-sdf", **GRID)
    before = {key: value.clone() for key, value in made.geometry.state_dict().items()}
    initialize_object(made, ConversionOptions(None, {}, True), random())
    assert all(torch.equal(before[key], value) for key, value in made.geometry.state_dict().items())


def without_geometry(path: Path, made: ConversionTarget) -> Path:
    saved = checkpoint.load(save(path, made))
    del saved["components"]["geometry"]
    checkpoint.save_atomic(saved, path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, made: folder / "none.ckpt", "no such checkpoint"),
        (lambda folder, made: folder, r"is a folder without ckpts/last\.ckpt"),
        (lambda folder, made: torus_file(folder), "truncated, or not a checkpoint"),
        (lambda folder, made: without_geometry(folder / "a.ckpt", made), "the checkpoint has no geometry"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(tmp_path: Path, make: Any, message: str) -> None:
    path = make(tmp_path, parts("implicit-volume", **FIELD))
    with pytest.raises(UserError, match=rf"^system\.geometry_convert_from: .*{message}") as caught:
        initialize_object(parts("tetrahedra-sdf-grid", **GRID), ConversionOptions(path, {}, True), random())
    assert "\n" not in str(caught.value)


def test_an_empty_source_says_why(tmp_path: Path) -> None:
    empty = parts("implicit-volume", **FIELD, density_bias=-4.0)
    with pytest.raises(UserError, match=r"geometry_convert_from: .*empty surface"):
        initialize_object(
            parts("tetrahedra-sdf-grid", **GRID),
            ConversionOptions(save(tmp_path / "a.ckpt", empty), {}, True),
            random(),
        )


def test_a_volume_starts_from_one_of_the_same_options_as_it_is(coarse: tuple[Path, ConversionTarget]) -> None:
    made = parts("implicit-volume", **FIELD)
    initialize_object(made, ConversionOptions(coarse[0], {}, True), random())
    assert torch.equal(colors(made, points()), colors(coarse[1], points()))


def test_a_volume_keeps_its_shape_where_colors_are_left(coarse: tuple[Path, ConversionTarget]) -> None:
    made = parts("implicit-volume", **FIELD)
    torch.nn.init.normal_(made.geometry.get_parameter("feature_network.0.weight"))
    initialize_object(made, ConversionOptions(coarse[0], {}, False), random())
    with torch.no_grad():
        density, expected = (of.geometry.query(points(), frozenset()).density for of in (made, coarse[1]))
    assert torch.equal(density, expected)
    assert not torch.equal(colors(made, points()), colors(coarse[1], points()))


def test_a_grid_gets_the_colors_of_a_users_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "FIT_STEPS", 60)
    start = {"shape_init": f"mesh:{torus_file(tmp_path)}", "force_shape_init": True}
    made = parts("volume-grid", grid_size=[24, 24, 24], isosurface_resolution=32, **start)
    initialize_object(made, ConversionOptions(None, {}, True), random())
    x = made.geometry.export_mesh().vertices
    right, left = (colors(made, x[half]).mean(0) for half in (x[:, 0] > 0.15, x[:, 0] < -0.15))
    assert right[0] > right[1] + 0.1 and left[1] > left[0] + 0.1
