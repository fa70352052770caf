"""Exported files as other programs see them: read by trimesh, rendered, and compared with the object they are of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from usd.core.errors import UserError
from usd.kernels.rasterize import Tracer, barycentric, interpolate, rasterize, whole
from usd.kernels.rasterize_texture import sample_texture
from usd.math.camera import Cameras
from usd.math.color import srgb_from_linear

SAMPLES = 2  # rays a side of a pixel


@dataclass(frozen=True)
class Loaded:
    """A mesh from a file in our axes and units, with display colors: of a texture (v up), or of vertices, or white."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    color: Float[Tensor, "V 3"]
    uv: Float[Tensor, "V 2"] | None = None
    texture: Float[Tensor, "h w 3"] | None = None


def read_back(path: Path, y_up: bool, scale: float = 1.0) -> Loaded:
    """What an exported file holds. Raises ``UserError`` where trimesh finds no faces in it."""
    mesh = trimesh.load(path, force="mesh", process=False)
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise UserError(f"{path}: trimesh finds no faces in it")
    vertices = torch.from_numpy(np.array(mesh.vertices, np.float32)) / scale
    if y_up:
        x, y, z = vertices.unbind(-1)
        vertices = torch.stack([x, -z, y], -1)
    faces = torch.from_numpy(np.array(mesh.faces, np.int64))
    uv, texture = _texture(mesh)
    return Loaded(vertices, faces, _vertex_colors(mesh, path), uv, texture)


def _texture(mesh: trimesh.Trimesh) -> tuple[Tensor | None, Tensor | None]:
    visual = mesh.visual
    if not isinstance(visual, trimesh.visual.TextureVisuals) or visual.uv is None:
        return None, None
    material = visual.material
    if isinstance(material, trimesh.visual.material.PBRMaterial):
        picture = material.baseColorTexture
    else:
        picture = material.image
    if not isinstance(picture, Image.Image):
        return None, None
    pixels = torch.from_numpy(np.array(picture.convert("RGB"), np.float32)) / 255
    return torch.from_numpy(np.array(visual.uv, np.float32)), pixels


def _vertex_colors(mesh: trimesh.Trimesh, path: Path) -> Float[Tensor, "V 3"]:
    """Display values; white where there are none."""
    if path.suffix.lower() == ".glb":
        return _glb_colors(path, len(mesh.vertices))
    visual = mesh.visual
    if not isinstance(visual, trimesh.visual.ColorVisuals) or visual.kind != "vertex":
        return torch.ones(len(mesh.vertices), 3)
    return torch.from_numpy(np.array(visual.vertex_colors[:, :3], np.float32)) / 255


def _glb_colors(path: Path, n: int) -> Float[Tensor, "V 3"]:
    """glTF's colors are linear. Beside a material trimesh keeps them with the single meshes of a scene only."""
    parts = list(trimesh.load_scene(path, process=False).geometry.values())
    found = parts[0].visual.vertex_attributes.get("color") if len(parts) == 1 else None
    if found is None or found.dtype != np.float32 or len(found) != n:
        return torch.ones(n, 3)
    return srgb_from_linear(torch.from_numpy(np.array(found[:, :3])))


@torch.no_grad()
def pictures(loaded: Loaded, cameras: Cameras, samples: int = SAMPLES) -> Float[Tensor, "B 4 H W"]:
    """Premultiplied colors and alpha of all views, without any light, samples x samples rays a pixel."""
    tracer = Tracer(loaded.vertices, loaded.faces)
    fine = cameras.resize(cameras.height * samples, cameras.width * samples)
    views = [_view(loaded, tracer, fine[i : i + 1]) for i in range(len(fine))]
    return torch.nn.functional.avg_pool2d(torch.cat(views), samples)


def _view(loaded: Loaded, tracer: Tracer, camera: Cameras) -> Float[Tensor, "1 4 H W"]:
    view = whole(camera)
    seen = rasterize(tracer, view)
    weights, _ = barycentric(loaded.vertices, loaded.faces, view, seen)
    if loaded.uv is not None and loaded.texture is not None:
        color = sample_texture(loaded.texture, interpolate(loaded.uv, loaded.faces, seen, weights))
    else:
        color = interpolate(loaded.color, loaded.faces, seen, weights)
    picture = seen.picture(torch.cat([color, torch.ones_like(color[:, :1])], 1))
    return picture.permute(0, 3, 1, 2)
