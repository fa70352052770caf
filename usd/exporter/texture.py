"""A user's .glb with new textures: the same file, its shape, faces, texture coordinates and materials as they were.

Each texel of a base color picture is a point of the surface. It gets the color that the object has there, and where
the reference picture shows the point squarely, the picture's own: weights per texel blend the two. Where the geometry
kept the colors that its training started from, the *change* of the colors is added to the given texel instead.
"""

import io
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from usd.core import files
from usd.core.config import option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.data.reference import ReferenceConfig, load_reference
from usd.exporter import Exporter
from usd.exporter.colors import SurfaceColors
from usd.exporter.reference_projection import GRAZING, Evidence, ReferenceProjection, rim_between
from usd.exporter.symmetry import MirroredPicture, mirrored_picture
from usd.exporter.texels import MARGIN_PX, TexelSamples, covered_texels
from usd.geometry import Geometry
from usd.geometry.initial_shape import MESH
from usd.geometry.mesh_input import MeshPlacement, placed_mesh
from usd.kernels.rasterize import Tracer
from usd.material import Material
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.math.color import linear_from_srgb, srgb_from_linear
from usd.math.mesh import face_cross
from usd.mesh_io.axes import Axis
from usd.mesh_io.colored_mesh import ColoredMesh, Texture
from usd.mesh_io.gltf_rewrite import BinaryGltf, EncodedPicture
from usd.mesh_io.images import decode_image
from usd.mesh_io.pictures import pictures as shown

log = logging.getLogger(__name__)

DARK = 1e-3
"""A factor of a material below which no texture can say what is seen."""


@register("texture-exporter")
class TextureExporter(Exporter["TextureExporter.Config"]):
    """New textures for a .glb of any origin. Needs texture coordinates and a base color texture in the file."""

    @dataclass(frozen=True)
    class Config:
        source: str = option("", "the .glb whose textures are made anew; mesh:FILE or FILE", path=True)
        up: Axis | None = option(None, "axis of the file that is up; null: as its format has it")
        front: Axis | None = option(None, "axis of the file that becomes +x; null: +x")
        size: float | None = option(None, "largest coordinate of the object; null: the file's", gt=0)
        picture: str | None = option(
            None, "reference picture that leads where it shows the surface; null: none", path=True
        )
        reference: ReferenceConfig = option(
            ReferenceConfig(), "how the reference picture is cut out and framed"
        )
        picture_share: float = option(1.0, "weight of the reference picture where it leads", ge=0, le=1)
        mirror_share: float = option(
            0.0,
            "weight of the reference picture's mirror image on hidden parts, where shape and colors are symmetric",
            ge=0,
            le=1,
        )
        elevation_deg: float = option(15.0, "elevation of the reference camera in degrees", ge=-90, le=90)
        azimuth_deg: float = option(90.0, "azimuth of the reference camera in degrees", ge=-360, le=360)
        camera_distance: float = option(1.5, "distance of the reference camera from the origin", gt=0)
        fovy_deg: float = option(
            40.0, "vertical field of view of the reference camera in degrees", gt=0, lt=180
        )
        change_share: float = option(
            0.5,
            "share of the training's change of colors that the texture takes, where the start is kept",
            ge=0,
            le=1,
        )
        elevation_range: tuple[float, float] = option(
            (-10.0, 45.0),
            "least and largest elevation of the training's cameras in degrees, where the start is kept",
        )
        save_name: str = option("model", "file name without its ending")

    @torch.no_grad()
    def export(self, geometry: Geometry, material: Material, folder: Path) -> list[Path]:
        """Write the file with new textures. Raises ``UserError`` where it has none to replace."""
        config = self.config
        path = Path(config.source.removeprefix(MESH))
        model = BinaryGltf(path)
        mesh = placed_mesh(path, MeshPlacement(config.up, config.front, config.size), geometry.radius)
        wanted = self._wanted(geometry, material, mesh)
        pictures = {
            image: new_texture(model.image_bytes(image), mesh, faces, wanted)
            for image, faces in textured_faces(model, mesh)
        }
        if not pictures:
            raise UserError(f"{path}: has no base color texture with coordinates; expected one to make anew")
        return [files.write_atomically(folder / f"{config.save_name}.glb", model.replace_images(pictures))]

    def _wanted(self, geometry: Geometry, material: Material, mesh: ColoredMesh) -> "WantedColors":
        """Return the colors that texels get: the object's, or the given ones with the training's change."""
        tracer = Tracer(mesh.vertices.float(), mesh.faces)
        start, after = geometry.at_start(), SurfaceColors(geometry, material, 0.01 * geometry.radius)
        picture = self._reference(mesh, tracer)
        colors, mirrored = self._colors(start, after, tracer), self._mirrored(mesh, picture)
        if picture is None or not isinstance(colors, Change) or self._is_finer(picture, mesh):
            return WantedColors(mesh, colors, picture, mirrored)
        # Of a picture coarser than the texture only what differs is added, so that finer detail stays.
        layers = difference(picture.rgba, shown(mesh, picture.camera)[0])
        return WantedColors(mesh, colors, replace(picture, rgba=layers), mirrored, differences=True)

    def _is_finer(self, picture: ReferenceProjection, mesh: ColoredMesh) -> bool:
        """Return whether a picture has as many pixels a unit as the mesh has texels."""
        width = 2 * self.config.camera_distance * math.tan(math.radians(self.config.fovy_deg) / 2)
        return picture.rgba.shape[-1] / width >= texels_per_unit(mesh)

    def _colors(
        self, start: Geometry | None, after: SurfaceColors, tracer: Tracer
    ) -> "SurfaceColors | Change":
        """Return the object's colors, or what the training changed of them where the start is kept."""
        if start is None:
            return after
        # The same material on the field as it began, so that what differs is the training's doing alone.
        before = replace(after, geometry=start)
        return Change(before, after, Evidence(self._training_cameras(), tracer), self.config.change_share)

    def _reference(self, mesh: ColoredMesh, tracer: Tracer) -> ReferenceProjection | None:
        """Return the reference picture on the surface; None where there is no picture."""
        config = self.config
        if config.picture is None or config.picture_share == 0:
            return None
        rgba = load_reference(config.picture, config.reference, "exporter.picture").rgba
        camera = orbit_cameras_deg(
            config.elevation_deg, config.azimuth_deg, config.camera_distance, config.fovy_deg, rgba.shape[-1]
        )
        # Where the outlines agree to the pixel, colors can be believed up to the outline.
        rim = rim_between(rgba[3], shown(mesh, camera)[0, 3])
        return ReferenceProjection(rgba, camera, tracer, rim, GRAZING, edges=True)

    def _mirrored(self, mesh: ColoredMesh, picture: ReferenceProjection | None) -> MirroredPicture | None:
        """Return the reference picture in a mirror of the object; None where it has none, or none is asked for."""
        if picture is None or self.config.mirror_share == 0:
            return None
        found = mirrored_picture(mesh, picture, torch.Generator().manual_seed(0))
        if found is None:
            return None
        log.info(
            "the object is its own mirror image (plane with its normal at %.1f degrees): hidden parts take detail "
            "of what the picture shows; exporter.mirror_share=0: they do not",
            found.mirror.azimuth_deg,
        )
        return replace(found, share=self.config.mirror_share)

    def _training_cameras(self) -> Cameras:
        """Return eight cameras around the object at each end of the training's elevations, and between them."""
        # Only where they stand counts: no picture is made from them, so a few pixels are enough.
        low, high = self.config.elevation_range
        elevation = [degrees for degrees in (low, (low + high) / 2, high) for _ in range(8)]
        azimuth = [self.config.azimuth_deg + 45.0 * (i % 8) for i in range(24)]
        return orbit_cameras_deg(elevation, azimuth, self.config.camera_distance, self.config.fovy_deg, 8)


@dataclass(frozen=True)
class Change:
    """The change that a training made to the colors of a surface, where its views show it."""

    before: SurfaceColors
    after: SurfaceColors
    evidence: Evidence
    share: float

    def __call__(self, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the change at points, in [-1, 1]."""
        # A point that no view shows squarely got hardly any gradient: what changed there is drift.
        change = self.after(x, normal)[:, :3] - self.before(x, normal)[:, :3]
        return self.share * self.evidence(x, normal) * change.cpu()


@dataclass(frozen=True)
class WantedColors:
    """Colors that a texture's texels should show.

    ``colors`` gives them, or their change from the mesh's own. ``mirrored`` adds detail where the object's mirror image
    shows the surface. ``reference`` leads where the picture itself does: its colors, or with ``differences`` what they
    differ by from the mesh's own. A change keeps what is finer in the given texture than a field, or a picture.
    """

    mesh: ColoredMesh
    colors: SurfaceColors | Change
    reference: ReferenceProjection | None
    mirrored: MirroredPicture | None = None
    differences: bool = False

    def __call__(self, texels: TexelSamples) -> Float[Tensor, "N 3"]:
        """Return colors as displayed, in [0, 1]."""
        x, normal = surface_points(self.mesh, texels)
        wanted = self.colors(x, normal)[:, :3].cpu()
        # A change is added to the texel, not painted over it: the field is coarser than most textures.
        changes = isinstance(self.colors, Change)
        own = self.mesh.display_colors(texels.face, texels.weights) if changes else torch.zeros_like(wanted)
        # Blended as displayed: both are pictures, and light would give the brighter one more than its share.
        if self.mirrored is not None:
            detail, weight = self.mirrored(x, normal)
            # The mirrored side may lie in another light: broad tones stay as they are, only detail is taken.
            wanted = wanted + weight * (detail - wanted if changes else detail)
        if self.reference is not None:
            seen, weight = self.reference(x, normal)
            base = torch.zeros_like(own) if self.differences else own
            wanted = wanted + weight * (seen - base - wanted)
        return (wanted + own).clamp(0, 1)


def texels_per_unit(mesh: ColoredMesh) -> float:
    """Return how many texels of its base color textures a mesh has in a world unit: the root of the ratio of areas."""
    if mesh.uv is None:
        return 0.0
    texels = [0 if color.texture is None else color.texture.pixels[..., 0].numel() for color in mesh.colors]
    a, b, c = mesh.uv.double().unbind(1)
    flat = 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs()
    held = flat * torch.tensor(texels, dtype=torch.float64)[mesh.color_of_face]
    area = 0.5 * face_cross(mesh.vertices, mesh.faces).norm(dim=-1)[held > 0].sum()
    return float((held.sum() / area.clamp_min(1e-30)).sqrt())


def difference(rgba: Float[Tensor, "4 S S"], given: Float[Tensor, "4 S S"]) -> Float[Tensor, "4 S S"]:
    """Return a picture's colors less those of another, premultiplied one, and the mask of what both show."""
    # Straight colors on both sides, or the rim of the object would count as a difference.
    straight = given[:3] / given[3:].clamp_min(1e-6)
    return torch.cat([rgba[:3] - straight, torch.minimum(rgba[3:], given[3:])])


def new_texture(
    content: bytes, mesh: ColoredMesh, faces: Int[Tensor, "K"], wanted: WantedColors
) -> EncodedPicture:
    """Return a picture with new colors at the texels of some faces, encoded as it was."""
    pixels = decode_image(content)
    total = torch.zeros(pixels.shape[0] * pixels.shape[1], 4)
    for part in texels_of(mesh, faces, (pixels.shape[0], pixels.shape[1])):
        texel = torch.cat([texel_colors(mesh, part, wanted(part)), torch.ones(len(part.pixel), 1)], 1)
        # Faces may share a texel, and mirrored halves do: what they want is averaged.
        total.index_add_(0, part.pixel, texel)
    return encoded_like(content, repainted(pixels, total))


def textured_faces(model: BinaryGltf, mesh: ColoredMesh) -> Iterator[tuple[int, Int[Tensor, "K"]]]:
    """Yield the number of each picture that is a base color, and the faces that show it.

    A picture is known by its pixels: the reader keeps them as they are.
    """
    if mesh.uv is None:
        return
    for image in range(len(model.images)):
        pixels = decode_image(model.image_bytes(image))
        kinds = [k for k, color in enumerate(mesh.colors) if shows(color.texture, pixels)]
        faces = torch.isin(mesh.color_of_face, torch.tensor(kinds, dtype=torch.long)).nonzero().flatten()
        if len(faces):
            yield image, faces


def shows(texture: Texture | None, pixels: UInt8[Tensor, "H W 4"]) -> bool:
    """Return whether a texture holds a picture's pixels."""
    return texture is not None and torch.equal(texture.pixels, pixels)


def texels_of(mesh: ColoredMesh, faces: Int[Tensor, "K"], size: tuple[int, int]) -> Iterator[TexelSamples]:
    """Yield the texels of faces, inside them first, then those around that readers mix in and no face covers.

    Faces whose coordinates leave the picture are moved back by whole pictures; those across its border are left out.
    """
    assert mesh.uv is not None
    height, width = size
    uv = mesh.uv[faces].double()
    # Textures repeat, so a face may stand in any copy of the picture; its corners move together.
    uv = uv - uv.amin(1, keepdim=True).floor()
    whole = (uv <= 1 + 1e-6).all(2).all(1)
    if not bool(whole.all()):
        log.warning("note: %d faces lie across the border of their texture and keep it", int((~whole).sum()))
    faces, corners = faces[whole], (uv[whole] * torch.tensor([width, height])).float()
    covered = torch.zeros(height * width, dtype=torch.bool)
    for inside in covered_texels(corners, height, width):
        covered[inside.pixel] = True
        yield TexelSamples(faces[inside.face], inside.pixel, inside.weights)
    for border in covered_texels(corners, height, width, MARGIN_PX):
        # Readers mix neighbors: texels just outside of a face must not keep another color than inside.
        new = ~covered[border.pixel]
        if bool(new.any()):
            yield TexelSamples(faces[border.face[new]], border.pixel[new], border.weights[new])


def surface_points(
    mesh: ColoredMesh, texels: TexelSamples
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Return the points of texels, and the unit normals of their faces."""
    x = (mesh.vertices[mesh.faces[texels.face]] * texels.weights[..., None]).sum(1).float()
    normal = face_cross(mesh.vertices, mesh.faces)[texels.face].float()
    return x, torch.nn.functional.normalize(normal, dim=-1)


def texel_colors(
    mesh: ColoredMesh, texels: TexelSamples, wanted: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 3"]:
    """Return what a texture must hold so that, times the material's factor and vertex colors, ``wanted`` is seen."""
    kind = mesh.color_of_face[texels.face]
    factor = torch.tensor([color.factor for color in mesh.colors]).view(-1, 4)[kind, :3]
    # Vertex colors are light, too, and interpolated over a face as light.
    if mesh.corner_light is not None:
        factor = factor * (mesh.corner_light[texels.face] * texels.weights[..., None]).sum(1)[:, :3]
    light = linear_from_srgb(wanted.clamp(0, 1)) / factor.clamp_min(DARK)
    return srgb_from_linear(light.clamp(0, 1))


def repainted(pixels: UInt8[Tensor, "h w 4"], total: Float[Tensor, "T 4"]) -> UInt8[Tensor, "h w 4"]:
    """Return a picture with the mean colors of ``total`` (sums, and counts) where there are any; alpha is kept."""
    painted, flat = total[:, 3] > 0, pixels.reshape(-1, 4).clone()
    mean = total[painted, :3] / total[painted, 3:]
    flat[painted, :3] = (mean * 255).round().to(torch.uint8)
    return flat.view_as(pixels)


def encoded_like(content: bytes, pixels: UInt8[Tensor, "h w 4"]) -> EncodedPicture:
    """Return a picture in the format, and with or without the alpha, of an encoded one."""
    with Image.open(io.BytesIO(content)) as before:
        form, alpha = before.format or "PNG", "A" in before.getbands() or "transparency" in before.info
    image = Image.fromarray(np.ascontiguousarray(pixels.numpy()), "RGBA")
    buffer = io.BytesIO()
    # Colors at full resolution: halved, as JPEG does unless told, they would run over the borders of charts.
    if form == "JPEG":
        image.convert("RGB").save(buffer, "JPEG", quality=95, subsampling=0)
        return EncodedPicture(buffer.getvalue(), "image/jpeg")
    image = image if alpha else image.convert("RGB")
    if form == "WEBP":
        image.save(buffer, "WEBP", lossless=True)
        return EncodedPicture(buffer.getvalue(), "image/webp")
    image.save(buffer, "PNG")
    return EncodedPicture(buffer.getvalue(), "image/png")
