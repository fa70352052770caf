"""A triangle mesh with its base color, whatever holds it: factors, textures, vertex colors, several materials.

All colors are kept as light (linear) and multiplied as glTF 2.0, section 3.9.2, says: factor x texture x vertex color.
Texture coordinates and vertex colors belong to corners of faces, so that coincident vertices can be merged without
losing them.

Letters: V F vertices and faces, h w texels, N points, R points on faces.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from usd.core.types import Mesh
from usd.math.color import linear_from_srgb, srgb_from_linear

Wrap = Literal["repeat", "clamp", "mirror"]
WHITE = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Texture:
    """A picture of sRGB bytes and alpha, looked up by coordinates (u right, v down) in units of its size."""

    pixels: UInt8[Tensor, "h w 4"]
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    smooth: bool = True

    def sample(self, uv: Float[Tensor, "N 2"]) -> Float[Tensor, "N 4"]:
        """Return light and alpha at coordinates; texels are decoded before they are mixed (bilinear)."""
        height, width = self.pixels.shape[:2]
        place = uv.double() * torch.tensor([width, height]) - (0.5 if self.smooth else 0.0)
        low = place.floor()
        share = (place - low).float()
        x, y = low.long().unbind(-1)
        if not self.smooth:
            return self._texels(x, y)
        u, v = share[:, :1], share[:, 1:]
        top = self._texels(x, y) * (1 - u) + self._texels(x + 1, y) * u
        return top * (1 - v) + (self._texels(x, y + 1) * (1 - u) + self._texels(x + 1, y + 1) * u) * v

    def _texels(self, x: Int[Tensor, "N"], y: Int[Tensor, "N"]) -> Float[Tensor, "N 4"]:
        height, width = self.pixels.shape[:2]
        found = self.pixels[wrap_index(y, height, self.wrap[1]), wrap_index(x, width, self.wrap[0])]
        light = linear_from_srgb(torch.arange(256) / 255)
        return torch.cat([light[found[:, :3].long()], found[:, 3:].float() / 255], -1)


def wrap_index(index: Int[Tensor, "N"], size: int, wrap: Wrap) -> Int[Tensor, "N"]:
    """Return texel numbers in [0, size) for any integers."""
    if wrap == "clamp":
        return index.clamp(0, size - 1)
    if wrap == "repeat":
        return index % size
    there = index % (2 * size)
    return torch.where(there < size, there, 2 * size - 1 - there)


@dataclass(frozen=True)
class BaseColor:
    """A material's base color: a factor (light and alpha), a texture, and below which alpha it is cut out (``cutoff``).

    ``named`` is false where the file names no color; ``known`` where it names one that cannot be read.
    """

    factor: tuple[float, float, float, float] = WHITE
    texture: Texture | None = None
    cutoff: float | None = None
    named: bool = True
    known: bool = True


NO_COLOR = BaseColor(named=False)


@dataclass(frozen=True)
class ColoredMesh:
    """Triangles in float64, one base color a face, and what corners hold. ``notes`` say what reading assumed."""

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    colors: tuple[BaseColor, ...]
    color_of_face: Int[Tensor, "F"]
    uv: Float[Tensor, "F 3 2"] | None = None
    corner_light: Float[Tensor, "F 3 4"] | None = None
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, mesh: Mesh) -> "ColoredMesh":
        """Return a mesh of ours, with its vertex colors (as displayed) if it has any."""
        faces, light = mesh.faces, None
        if mesh.color is not None:
            opaque = torch.ones_like(mesh.color[:, :1])
            light = torch.cat([linear_from_srgb(mesh.color.clamp(0, 1)), opaque], -1)[faces]
        color = BaseColor(named=light is not None)
        return cls(mesh.vertices, faces, (color,), torch.zeros(len(faces)).long(), None, light)

    @property
    def mesh(self) -> Mesh:
        """The shape alone."""
        return Mesh(self.vertices, self.faces)

    @property
    def has_colors(self) -> bool:
        """True where the file names colors and all that it names could be read."""
        used = [self.colors[i] for i in torch.unique(self.color_of_face).tolist()]
        return any(color.named for color in used) and all(color.known for color in used)

    def light(self, face: Int[Tensor, "R"], weights: Float[Tensor, "R 3"]) -> Float[Tensor, "R 4"]:
        """Return light and alpha at points of faces, given by the weights of the faces' corners."""
        kind = self.color_of_face[face]
        found = torch.tensor([color.factor for color in self.colors], dtype=torch.float32).view(-1, 4)[kind]
        if self.corner_light is not None:
            found = found * (self.corner_light[face] * weights[..., None]).sum(1)
        for number in torch.unique(kind).tolist():
            texture = self.colors[number].texture
            if texture is None or self.uv is None:
                continue
            rows = (kind == number).nonzero().squeeze(1)
            uv = (self.uv[face[rows]] * weights[rows, :, None]).sum(1)
            found = found.index_copy(0, rows, found[rows] * texture.sample(uv))
        return found

    def display_colors(self, face: Int[Tensor, "R"], weights: Float[Tensor, "R 3"]) -> Float[Tensor, "R 3"]:
        """Return colors as displayed, in [0, 1], at points of faces; middle gray where the mesh has none."""
        if not self.has_colors:
            return torch.full((len(face), 3), 0.5)
        return srgb_from_linear(self.light(face, weights)[:, :3].clamp(0, 1))

    @property
    def has_cutouts(self) -> bool:
        """True where alpha cuts holes into some faces (glTF's ``alphaMode: MASK``)."""
        return any(color.cutoff is not None for color in self.colors)

    def is_solid(self, face: Int[Tensor, "R"], weights: Float[Tensor, "R 3"]) -> Bool[Tensor, "R"]:
        """Return which points of faces are not cut out."""
        cutoffs = torch.tensor([-1.0 if color.cutoff is None else color.cutoff for color in self.colors])
        return self.light(face, weights)[:, 3] >= cutoffs[self.color_of_face[face]]

    def select(self, kept: Bool[Tensor, "F"], *notes: str) -> "ColoredMesh":
        """Return the mesh of some of its faces, without vertices that none of them uses."""
        used, faces = torch.unique(self.faces[kept], return_inverse=True)
        uv = None if self.uv is None else self.uv[kept]
        light = None if self.corner_light is None else self.corner_light[kept]
        vertices, kinds = self.vertices[used], self.color_of_face[kept]
        return ColoredMesh(vertices, faces.view(-1, 3), self.colors, kinds, uv, light, (*self.notes, *notes))

    def flip(self, turned: Bool[Tensor, "F"], *notes: str) -> "ColoredMesh":
        """Return the mesh with some of its faces turned the other way round."""
        order = torch.where(turned[:, None], torch.tensor([2, 1, 0]), torch.tensor([0, 1, 2]))
        rows = torch.arange(len(order))[:, None]
        uv = None if self.uv is None else self.uv[rows, order]
        light = None if self.corner_light is None else self.corner_light[rows, order]
        faces = self.faces[rows, order]
        return replace(self, faces=faces, uv=uv, corner_light=light, notes=(*self.notes, *notes))

    def move(self, vertices: Float[Tensor, "V 3"]) -> "ColoredMesh":
        """Return the mesh with its vertices elsewhere."""
        return replace(self, vertices=vertices)
