"""Meshes of any program as ground truth or prediction: files in, surface and colors out, and unlit pictures of them.

Axes: GLB, GLTF and OBJ are +y up, as importers assume, and are turned to our +z; PLY, STL and OFF stay as they are.
Colors are display values (sRGB): vertex colors (stored linear in glTF), a base color texture, or one base color.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.data.view_set import ViewSet, view_set
from usd.kernels.rasterize import NOTHING, Tracer, intersect
from usd.math.camera import Cameras
from usd.math.color import srgb_from_linear

MESHES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
Y_UP = (".glb", ".gltf", ".obj")
Up = Literal["auto", "y", "z"]
RAYS_A_SIDE = 3
"""A pixel is the mean of this many rays a side."""


@dataclass(frozen=True)
class Coloured:
    """A mesh and how it is colored: ``mesh.color`` at vertices, or a ``texture`` at ``uv`` of each face's corners."""

    mesh: Mesh
    uv: Float[Tensor, "F 3 2"] | None = None
    texture: Float[Tensor, "3 h w"] | None = None

    @property
    def has_colours(self) -> bool:
        return self.mesh.color is not None or self.texture is not None

    def colours(self, face: Int[Tensor, "R"], weights: Float[Tensor, "R 3"]) -> Float[Tensor, "R 3"]:
        """At points of faces, given by the weights of their corners; middle gray without colors."""
        if self.texture is not None and self.uv is not None:
            at = (self.uv[face] * weights[..., None]).sum(1)
            at = torch.where((at < 0) | (at > 1), at.remainder(1.0), at)
            grid = torch.stack([2 * at[:, 0] - 1, 1 - 2 * at[:, 1]], -1)[None, None]
            found = torch.nn.functional.grid_sample(
                self.texture[None], grid, padding_mode="border", align_corners=False
            )
            return found[0, :, 0].T
        if self.mesh.color is not None:
            return (self.mesh.color[self.mesh.faces[face]] * weights[..., None]).sum(1).clamp(0, 1)
        return torch.full((len(face), 3), 0.5)


def read_mesh(path: Path, up: Up = "auto", where: str = "mesh") -> Coloured:
    """The one mesh of a file, parts joined. Raises UserError for what is not a mesh; an empty mesh is read as one."""
    import trimesh

    if not path.is_file():
        raise UserError(f"{where}: {path}: no such file; expected a mesh ({', '.join(MESHES)})")
    try:
        loaded: Any = trimesh.load(path, process=False)
        parts = [(part, place) for part, place in _placed(loaded) if isinstance(part, trimesh.Trimesh)]
    except Exception as error:  # trimesh raises whatever its many loaders raise
        raise UserError(
            f"{where}: {path}: cannot be read as a mesh ({type(error).__name__}: {error})"
        ) from error
    turn = up == "y" or (up == "auto" and path.suffix.lower() in Y_UP)
    linear = path.suffix.lower() in (".glb", ".gltf")
    made = [_coloured(part, place, turn, linear) for part, place in parts]
    made = [part for part in made if not part.mesh.empty] or [Coloured(Mesh(torch.zeros(0, 3), _no_faces()))]
    return made[0] if len(made) == 1 else _joined(made)


def _no_faces() -> Int[Tensor, "F 3"]:
    return torch.zeros(0, 3, dtype=torch.long)


def _placed(loaded: Any) -> list[tuple[Any, np.ndarray]]:
    """The parts of what was loaded, each with the matrix (4, 4) that puts it in its place."""
    import trimesh

    if not isinstance(loaded, trimesh.Scene):
        return [(loaded, np.eye(4))]
    places = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
    return [(loaded.geometry[name], np.asarray(matrix)) for matrix, name in places]


def _coloured(part: Any, place: np.ndarray, turn: bool, linear: bool) -> Coloured:
    there = np.asarray(part.vertices) @ place[:3, :3].T + place[:3, 3]
    vertices = torch.from_numpy(np.array(there, dtype=np.float32)).view(-1, 3)
    faces = torch.from_numpy(np.array(part.faces, dtype=np.int64)).view(-1, 3)
    if turn:
        vertices = torch.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], -1)
    if not torch.isfinite(vertices).all():
        raise UserError("mesh: has vertices that are not finite; expected numbers")
    visual = part.visual
    if visual.kind == "texture":
        return _textured(visual, Mesh(vertices, faces), linear)
    if visual.kind in ("vertex", "face"):
        return Coloured(Mesh(vertices, faces, _display(visual.vertex_colors, linear)))
    return Coloured(Mesh(vertices, faces))


def _display(stored: Any, linear: bool) -> Float[Tensor, "V 3"]:
    """Display values of stored colors, which are bytes, larger integers, or numbers in [0, 1]."""
    values = np.asarray(stored)
    scale = float(np.iinfo(values.dtype).max) if values.dtype.kind in "ui" else 1.0
    colour = torch.from_numpy(np.array(values, dtype=np.float32)[:, :3] / scale).clamp(0, 1)
    return srgb_from_linear(colour) if linear else colour


def _textured(visual: Any, mesh: Mesh, linear: bool) -> Coloured:
    """A mesh with its base color texture; without a picture its vertex colors, or the material's one color."""
    material = visual.material
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if (picture is None or visual.uv is None) and "color" in visual.vertex_attributes:
        return Coloured(Mesh(mesh.vertices, mesh.faces, _display(visual.vertex_attributes["color"], linear)))
    if picture is None or visual.uv is None:
        main = torch.tensor(np.array(material.main_color, dtype=np.float32)[:3] / 255)
        return Coloured(Mesh(mesh.vertices, mesh.faces, main.expand(len(mesh.vertices), 3)))
    pixels = torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)
    if pixels.shape[1:] == (2, 2) and bool((pixels == pixels[:, :1, :1]).all()):
        return Coloured(mesh)  # what trimesh puts in the place of a material that is not there
    uv = torch.from_numpy(np.array(visual.uv, dtype=np.float32))
    return Coloured(mesh, uv[mesh.faces], pixels)


def _joined(parts: list[Coloured]) -> Coloured:
    """All parts as one mesh. Textures are kept if there is one part with one; others are sampled at the corners."""
    separate = [_at_corners(part) for part in parts]
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in separate[:-1]])
    faces = torch.cat([mesh.faces + int(start) for mesh, start in zip(separate, starts)])
    colours = [mesh.color for mesh in separate if mesh.color is not None]
    colour = torch.cat(colours) if len(colours) == len(separate) else None
    return Coloured(Mesh(torch.cat([mesh.vertices for mesh in separate]), faces, colour))


def _at_corners(part: Coloured) -> Mesh:
    """The part with vertex colors: where it has a texture, every face gets corners of its own."""
    if part.texture is None:
        return part.mesh
    count = len(part.mesh.faces)
    corner = torch.eye(3).repeat(count, 1)
    colour = part.colours(torch.arange(count).repeat_interleave(3), corner)
    vertices = part.mesh.vertices[part.mesh.faces].view(-1, 3)
    return Mesh(vertices, torch.arange(3 * count).view(-1, 3), colour)


def see_mesh(coloured: Coloured, cameras: Cameras, rays_a_side: int = RAYS_A_SIDE) -> ViewSet:
    """Unlit pictures with straight alpha, each pixel the mean of ``rays_a_side`` squared rays."""
    fine = cameras.resize(cameras.height * rays_a_side, cameras.width * rays_a_side)
    tracer = Tracer(coloured.mesh.vertices, coloured.mesh.faces)
    pictures = [_picture(coloured, tracer, fine[i : i + 1], rays_a_side) for i in range(len(cameras))]
    return view_set(
        pictures, cameras, [f"{i:04d}.png" for i in range(len(cameras))], ["unlit pictures of the mesh"]
    )


def _picture(coloured: Coloured, tracer: Tracer, camera: Cameras, rays_a_side: int) -> Float[Tensor, "4 H W"]:
    origins, directions = (rays.reshape(-1, 3) for rays in camera.rays())
    face, _ = tracer.cast(origins, directions)
    hit = face != NOTHING
    premultiplied = torch.zeros(len(face), 4)
    if hit.any():
        corners = coloured.mesh.vertices[coloured.mesh.faces[face[hit]]]
        weights, _ = intersect(corners, origins[hit], directions[hit])
        premultiplied[hit] = torch.cat(
            [coloured.colours(face[hit], weights.nan_to_num(1 / 3)), torch.ones(int(hit.sum()), 1)], -1
        )
    grid = premultiplied.view(camera.height, camera.width, 4).permute(2, 0, 1)[None]
    small = torch.nn.functional.avg_pool2d(grid, rays_a_side)[0]
    colour = torch.where(small[3:] > 0, small[:3] / small[3:].clamp_min(1e-6), torch.zeros_like(small[:3]))
    return torch.cat([colour, small[3:]])
