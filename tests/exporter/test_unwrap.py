"""Texture coordinates always come, whatever xatlas does; faces never lie over one another."""

import os
import time

import numpy as np
import pytest
import torch

from tests.exporter.solids import plane, ramp, sphere, torus
from usd.core.config import ConfigError
from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.exporter.box_atlas import box_atlas, overlapping_faces, pack_rows
from usd.exporter.unwrap import PACK_OPTIONS, UnwrapSettings, check_options, unwrap, unwrap_with_xatlas
from usd.exporter.xatlas_process import cut
from usd.mesh_io.atlas import Atlas, density


def check(atlas: Atlas, mesh: Mesh, size: int) -> None:
    """One corner for each of the mesh's, all in the picture, one texel for one face."""
    assert atlas.faces.shape == mesh.faces.shape
    assert float(atlas.uv.min()) >= 0 and float(atlas.uv.max()) <= 1
    assert float(overlapping_faces(atlas.corners, size).float().mean()) < 0.01


@pytest.mark.parametrize("make", [sphere, torus, plane, ramp])
def test_boxes_do_not_overlap(make) -> None:
    mesh = make()
    atlas = box_atlas(mesh.vertices, mesh.faces, 256)
    check(atlas, mesh, 256)
    assert atlas.method == "boxes"


def test_what_lies_over_itself_is_taken_apart() -> None:
    mesh = ramp(turns=3)
    assert box_atlas(mesh.vertices, mesh.faces, 256).charts >= 3
    flat = mesh.vertices[mesh.faces][..., :2] / 2.2 + 0.5
    assert bool(overlapping_faces(flat, 256).any())  # seen from above as it is, it does overlap


def test_a_cube_has_six_charts_without_stretch() -> None:
    vertices = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    atlas = box_atlas(vertices, faces, 256)
    found = density(atlas, vertices, faces, 256)
    assert atlas.charts == 6
    assert found.low == pytest.approx(found.mean, rel=1e-3) and found.used > 0.5


def test_faces_without_area_do_no_harm() -> None:
    mesh = sphere(12)
    faces = torch.cat([mesh.faces, mesh.faces[:3, [0, 0, 1]]])
    atlas = box_atlas(mesh.vertices, faces, 128)
    assert bool(atlas.uv.isfinite().all()) and len(atlas.faces) == len(faces)


def test_a_texture_with_too_few_texels_is_one_clear_line() -> None:
    mesh = torus(48)
    loose = Mesh(mesh.vertices[mesh.faces].view(-1, 3), torch.arange(3 * len(mesh.faces)).view(-1, 3))
    with pytest.raises(UserError, match=r"exporter\.texture_size: 16 is too small for \d+ charts"):
        box_atlas(loose.vertices, loose.faces, 16)


def test_rows_hold_rectangles_apart() -> None:
    extent = [[5.0, 3.0], [2.0, 7.0], [4.0, 4.0], [1.0, 1.0]]
    places = pack_rows(extent, [1, 2, 0, 3], 1.0, 16, 1)
    assert places is not None
    taken = torch.zeros(16, 16)
    for (x, y), (width, height) in zip(places, extent):
        taken[y : y + int(height) + 2, x : x + int(width) + 2] += 1
    assert float(taken.max()) == 1
    assert pack_rows(extent, [1, 2, 0, 3], 4.0, 16, 1) is None


def test_xatlas_unwraps_in_a_process_of_its_own() -> None:
    mesh = sphere(12)
    atlas = unwrap(
        mesh.vertices, mesh.faces, UnwrapSettings(128, 120.0, {"max_iterations": 2}, {"padding": 3})
    )
    assert atlas.method == "xatlas" and atlas.charts >= 1
    check(atlas, mesh, 128)


def test_a_large_mesh_is_unwrapped_in_pieces_that_lie_side_by_side(monkeypatch) -> None:
    mesh = sphere(16)
    monkeypatch.setattr("usd.exporter.unwrap.MOST_FACES", len(mesh.faces) - 1)
    monkeypatch.setattr("usd.exporter.unwrap.PIECE_FACES", 150)
    atlas = unwrap(mesh.vertices, mesh.faces, UnwrapSettings(256, 120.0))
    assert atlas.method == "xatlas" and atlas.charts >= 4
    check(atlas, mesh, 256)
    # Every corner keeps its shape: a face is as large on the sheet as it is in space, up to one factor.
    found = density(atlas, mesh.vertices, mesh.faces, 256)
    assert found.low > 0.7 * found.mean


def test_pieces_hold_every_face_once_and_none_too_many() -> None:
    centers = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0)).numpy()
    pieces = cut(centers, 90)
    assert sorted(np.concatenate(pieces)) == list(range(1000))
    assert max(map(len, pieces)) <= 90 and len(pieces) == 16


def test_huge_coordinates_are_unwrapped_as_small_ones_are() -> None:
    mesh = sphere(8)
    atlas = unwrap(1e9 * mesh.vertices + 1e9, mesh.faces, UnwrapSettings(64, 0))
    assert bool(atlas.uv.isfinite().all())


def test_when_the_time_is_up_boxes_are_taken_and_nothing_is_left_running(caplog) -> None:
    mesh = torus(48)
    began = time.monotonic()
    atlas = unwrap(mesh.vertices, mesh.faces, UnwrapSettings(256, 0.05))
    assert atlas.method == "boxes" and time.monotonic() - began < 60
    assert "longer than exporter.unwrap_time_limit" in caplog.text
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_process_that_fails_is_named_and_boxes_are_taken(caplog) -> None:
    mesh = sphere(8)
    atlas = unwrap(mesh.vertices, mesh.faces, UnwrapSettings(64, 60.0, {"max_iterations": -1.5}))
    assert atlas.method == "boxes" and "xatlas failed (TypeError" in caplog.text


def test_more_than_one_sheet_is_refused() -> None:
    mesh = sphere(10)
    pack = {"resolution": 32, "texels_per_unit": 200.0}
    why = unwrap_with_xatlas(mesh.vertices, mesh.faces, UnwrapSettings(64, 60.0, {}, pack))
    assert isinstance(why, str) and "expected one" in why


def test_unknown_options_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"exporter\.xatlas_pack_options\.paddin: .*'padding'"):
        check_options("exporter.xatlas_pack_options", {"paddin": 2}, PACK_OPTIONS)
