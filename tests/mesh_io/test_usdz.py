"""USDZ packages: what Pixar's own reader finds in them, and that its validators find nothing wrong."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.mesh_io.test_write import surface
from usd.math.color import linear_from_srgb
from usd.mesh_io.usdz import ALIGNMENT, LAYER, StageUnits, aligned_zip, usdz_bytes

METERS = StageUnits()


def written(folder: Path, kind: str, units: StageUnits = METERS) -> Path:
    path = folder / "a.usdz"
    path.write_bytes(usdz_bytes(surface(kind), units))
    return path


@pytest.mark.parametrize("length", [0, 1, 63, 64, 1000])
def test_contents_are_stored_and_start_at_multiples_of_64_bytes(length):
    files = {"model.usda": b"#usda 1.0\n" * length, "textures/color.png": b"x" * 77, "é.bin": b"y"}
    content = aligned_zip(files)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == list(files) and archive.testzip() is None
        for entry in archive.infolist():
            name, extra = struct.unpack_from("<HH", content, entry.header_offset + 26)
            begin = entry.header_offset + 30 + name + extra
            assert begin % ALIGNMENT == 0 and entry.compress_type == zipfile.ZIP_STORED
            assert content[begin : begin + entry.file_size] == files[entry.filename]
    assert aligned_zip(files) == content, "the same object gives the same bytes"


@pytest.mark.parametrize("kind", ["plain", "vertex colors", "texture", "finish"])
def test_the_validators_of_usd_find_nothing(tmp_path, kind):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdValidation

    stage = Usd.Stage.Open(str(written(tmp_path, kind)))
    registry = UsdValidation.ValidationRegistry()
    validators = registry.GetOrLoadAllValidators()
    assert len(validators) > 10
    errors = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [(error.GetName(), error.GetMessage()) for error in errors] == []


@pytest.mark.parametrize(("up", "meters"), [("Y", 1.0), ("Z", 0.01)])
def test_points_coordinates_and_units_are_read_back(tmp_path, up, meters):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdShade

    stage = Usd.Stage.Open(str(written(tmp_path, "texture", StageUnits(up, meters))))
    made = surface("texture")
    assert UsdGeom.GetStageUpAxis(stage) == up
    assert UsdGeom.GetStageMetersPerUnit(stage) == pytest.approx(meters)
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Object/Surface"))
    assert np.allclose(mesh.GetPointsAttr().Get(), made.mesh.vertices, atol=1e-6)
    assert np.array_equal(np.array(mesh.GetFaceVertexIndicesAttr().Get()), made.mesh.faces.flatten())
    st = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").ComputeFlattened()
    assert made.atlas is not None
    uv = made.atlas.uv[made.atlas.faces.flatten()].numpy()
    assert np.allclose(np.array(st), np.stack([uv[:, 0], 1 - uv[:, 1]], 1), atol=1e-6), "v from below"
    bound, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
    assert bound.GetPath() == "/Object/Material"


def test_the_texture_is_in_the_package_and_found_by_its_shader(tmp_path):
    pytest.importorskip("pxr")
    from pxr import Ar, Usd

    path = written(tmp_path, "texture")
    stage = Usd.Stage.Open(str(path))
    asset = stage.GetPrimAtPath("/Object/Material/Color").GetAttribute("inputs:file").Get()
    opened = Ar.GetResolver().OpenAsset(Ar.ResolvedPath(asset.resolvedPath))
    assert bytes(opened.GetBuffer()) == surface("texture").texture
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [LAYER, "textures/color.png"]
        assert Image.open(io.BytesIO(archive.read("textures/color.png"))).size == (8, 8)


def test_colors_of_vertices_are_linear_and_shine_where_nothing_lights_them(tmp_path):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(written(tmp_path, "vertex colors")))
    color = UsdGeom.Mesh(stage.GetPrimAtPath("/Object/Surface")).GetDisplayColorAttr().Get()
    given = surface("vertex colors").mesh.color
    assert given is not None
    assert torch.allclose(torch.tensor(np.array(color)), linear_from_srgb(given), atol=1e-6)
    shader = stage.GetPrimAtPath("/Object/Material/Preview")
    assert shader.GetAttribute("inputs:emissiveColor").GetConnections()
    assert not shader.GetAttribute("inputs:diffuseColor").GetConnections()
