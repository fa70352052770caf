"""Written GLB files against the Khronos validator, where Node and its package ``gltf-validator`` are there."""

from pathlib import Path

import pytest
import torch
import trimesh

from tests.mesh_io.validator import issues_of
from usd.core.types import Mesh
from usd.math.mesh import vertex_normals
from usd.mesh_io.atlas import Atlas
from usd.mesh_io.write import ExportMesh, PictureFormat, glb_bytes, picture_bytes


def surface(kind: str) -> ExportMesh:
    made = trimesh.creation.icosphere(subdivisions=1)
    vertices, faces = torch.tensor(made.vertices).float(), torch.tensor(made.faces).long()
    color = vertices * 0.5 + 0.5 if kind == "vertex colors" else None
    mesh, normals = Mesh(vertices, faces, color), vertex_normals(vertices, faces)
    if kind in ("plain", "vertex colors"):
        return ExportMesh(mesh, normals, unlit=True)
    uv = torch.rand(len(faces) * 3, 2, generator=torch.Generator().manual_seed(0))
    atlas = Atlas(uv, torch.arange(len(faces) * 3).view(-1, 3), 1, "boxes")
    fmt: PictureFormat = "webp" if kind == "webp" else "png"
    texture = picture_bytes(torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0)), fmt)
    finish = torch.full((8, 8, 3), 0.5) if kind == "finish" else None
    return ExportMesh(mesh, normals, atlas, texture, fmt, finish=finish)


@pytest.mark.parametrize("kind", ["plain", "vertex colors", "texture", "finish", "webp"])
def test_written_files_are_valid(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.glb"
    path.write_bytes(glb_bytes(surface(kind)))
    issues = issues_of(path)
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
