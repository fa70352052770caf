"""The surface of an object as files that other programs open: decimated, unwrapped, its colors in a texture."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import files
from usd.core.config import option
from usd.core.errors import ConfigError, UserError
from usd.core.progress import Work, counted
from usd.core.registry import register
from usd.core.types import Mesh
from usd.exporter import Comparison, Exporter
from usd.exporter.colors import SurfaceColors
from usd.exporter.decimate import decimate
from usd.exporter.ground import without_ground
from usd.exporter.report import measure_export
from usd.exporter.texels import TexelSamples, bake_texture, texel_count
from usd.exporter.unwrap import CHART_OPTIONS, PACK_OPTIONS, Setting, UnwrapSettings, check_options, unwrap
from usd.geometry import Geometry, Level
from usd.material import Material
from usd.math.camera import Cameras
from usd.math.mesh import clip_to_box, vertex_normals
from usd.mesh_io.atlas import Atlas
from usd.mesh_io.axes import y_up_from_z_up
from usd.mesh_io.pictures import pictures
from usd.mesh_io.read import read_mesh
from usd.mesh_io.usdz import StageUnits, usdz_bytes
from usd.mesh_io.write import (
    ExportMesh,
    PictureFormat,
    finish_maps,
    finish_picture,
    glb_bytes,
    mtl_bytes,
    obj_bytes,
    picture_bytes,
    ply_bytes,
    stl_bytes,
)

log = logging.getLogger(__name__)

Format = Literal["glb", "usdz", "obj", "obj-mtl", "ply", "stl"]
TEXTURED: tuple[Format, ...] = ("glb", "usdz", "obj-mtl")
UNWRAPPED: tuple[Format, ...] = (*TEXTURED, "obj")
Y_UP = UNWRAPPED
Unit = Literal["m", "cm", "mm", "in"]
METERS: dict[Unit, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254}


@register("mesh-exporter")
class MeshExporter(Exporter["MeshExporter.Config"]):
    """Colors are the material's, seen straight on. Axes and color space: see ``usd.mesh_io.write``."""

    @dataclass(frozen=True)
    class Config:
        fmt: Format | tuple[Format, ...] = option(
            "glb", "file format, or several; obj has vertex colors, obj-mtl a texture"
        )
        save_name: str = option("model", "file name without its ending")
        resolution: int | None = option(
            None, "lattice points a side of the exported surface; null: the geometry's own", ge=4, le=1024
        )
        threshold: Level | None = option(None, "density of the surface; null: the geometry's own", gt=0)
        crop: tuple[float, float, float, float, float, float] | None = option(
            None, "box that the surface is cut to: least x, y, z and largest x, y, z in world units"
        )
        drop_ground: bool = option(
            False, "whether the plane that a captured object stands on is cut away, with all below and beside"
        )
        target_faces: int | None = option(
            30000, "number of faces down to which edges are collapsed; null: all faces stay", ge=4
        )
        save_uv: bool = option(True, "unwrap the surface: texture coordinates, where the format has them")
        save_texture: bool = option(
            True, "glb, usdz, obj-mtl: whether colors go into a texture, and not to the vertices"
        )
        texture_size: int = option(1024, "texels a side of the texture", ge=16, le=8192)
        texture_format: PictureFormat = option(
            "png", "picture format of the texture; webp, without loss, is glb's alone (EXT_texture_webp)"
        )
        texture_samples: int = option(
            1, "places a side in each texel over which its color is averaged", ge=1, le=4
        )
        unwrap_time_limit: float = option(
            90.0, "seconds until boxes take the place of xatlas; 0: boxes at once", ge=0
        )
        xatlas_chart_options: dict[str, Setting] = option(
            {}, "settings of xatlas.ChartOptions: max_cost, ..."
        )
        xatlas_pack_options: dict[str, Setting] = option({}, "settings of xatlas.PackOptions: padding, ...")
        save_color: bool = option(True, "store vertex colors where there is no texture")
        save_normal: bool = option(False, "store vertex normals in obj and ply (glb always has them)")
        unlit: bool | None = option(
            None,
            "glb, usdz: viewers show colors without their own lights; null: unless the material is lit itself",
        )
        axes: Literal["format", "y-up", "z-up"] = option(
            "format", "up axis of the file; format: +y in glb, usdz and obj, +z in ply and stl"
        )
        scale: float = option(1.0, "size of a world unit, in meters or whatever unit is", gt=0)
        unit: Unit = option(
            "m", "unit of the coordinates, for scale in meters; glb is in meters by its specification"
        )
        check_views: int = option(
            4,
            "number of training views in which the file, read back, is compared with the object",
            ge=0,
            le=1000,
        )
        check_size: int = option(
            256, "pixels a side of the views that compare the file with the object", ge=16, le=4096
        )
        save_report: bool = option(True, "write <save_name>-report.json")
        context_type: Literal["gl", "cuda"] | None = option(
            None, "a published option of nvdiffrast; accepted, and not needed here"
        )
        chunk: int = option(1 << 18, "points evaluated at once for colors", ge=1)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.crop is not None and any(a >= b for a, b in zip(config.crop[:3], config.crop[3:])):
            raise ConfigError(
                f"exporter.crop: {list(config.crop)} is no box; expected least before largest corner"
            )
        check_options("exporter.xatlas_chart_options", config.xatlas_chart_options, CHART_OPTIONS)
        check_options("exporter.xatlas_pack_options", config.xatlas_pack_options, PACK_OPTIONS)
        if {"obj", "obj-mtl"} <= set(self.formats):
            raise ConfigError("exporter.fmt: obj and obj-mtl are one file; expected one of the two")
        self._check_formats()
        self._lit_by_material = False  # what was exported last is lit by its material
        if config.context_type is not None:
            log.info(
                "note: exporter.context_type changes nothing: textures are rasterized without nvdiffrast"
            )

    def _check_formats(self) -> None:
        """Raise ``ConfigError`` for a picture format that a file cannot hold; say where readers expect other axes."""
        config = self.config
        if config.texture_format == "webp" and set(self.formats) & {"usdz", "obj-mtl"}:
            raise ConfigError(
                f"exporter.texture_format: is webp, which {' and '.join(self.formats)} cannot hold; expected png or jpg"
            )
        if "glb" in self.formats and config.axes == "z-up":
            log.info(
                "note: exporter.axes: glTF is +y up by its specification; viewers show a z-up .glb lying"
            )
        if "glb" in self.formats and config.unit != "m":
            log.info("note: exporter.unit: glTF is in meters by its specification, and .glb stays so")

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that are written, one or several."""
        fmt = self.config.fmt
        return (fmt,) if isinstance(fmt, str) else fmt

    @torch.no_grad()
    def export(self, geometry: Geometry, material: Material, folder: Path) -> list[Path]:
        """Write a file for each format, in the order of ``fmt``; then what they refer to, and the report."""
        began = time.monotonic()
        config = self.config
        # Colors are taken along rays as long as the original mesh is fine, whatever decimation leaves of it.
        found = self._crop(require_surface(geometry.export_mesh(config.resolution, config.threshold)))
        mesh = self._decimate(found)
        colors_at = SurfaceColors(geometry, material, edge_length(found), config.chunk)
        atlas = self._atlas(mesh)
        self._lit_by_material = material.needs_normal
        surface = self._color_mesh(mesh, atlas, colors_at)
        files = [file for fmt in self.formats for file in self._files(surface, fmt)]
        report = measure_export(
            self._scale(mesh, self.formats[0]),
            len(found.faces),
            atlas,
            config.texture_size,
            time.monotonic() - began,
        )
        log.info("%s: %s", config.save_name, report.line())
        if config.save_report:
            files.append((f"{config.save_name}-report.json", json.dumps(report.as_json(), indent=1).encode()))
        return write_files(folder, files)

    @property
    def comparison(self) -> Comparison | None:
        """Views for ``compare``; None where no format has colors, or the material is lit by itself."""
        views = self.config.check_views
        possible = self._comparable_formats and not self._lit_by_material
        return Comparison(views, self.config.check_size) if views and possible else None

    def compare(self, files: Sequence[Path], cameras: Cameras, truth: Float[Tensor, "B 3 H W"]) -> str:
        """Return a line with the PSNR over white (mean over views), and add it to the report.

        Of materials that are lit a file holds the colors without the light: they cannot be compared so.
        """
        fmt = self._comparable_formats[0]
        path = next(file for file in files if file.suffix == f".{fmt.split('-')[0]}")
        read = read_mesh(path, "y" if self._is_y_up(fmt) else "z")
        # The file's units and axes are undone, so that the training cameras see what they saw.
        rgba = pictures(read.move(read.vertices / self._factor(fmt)), cameras.to("cpu"))
        # Over white, as the renders are: the file says nothing about a background.
        mse = (rgba[:, :3] + 1 - rgba[:, 3:] - truth.cpu()).square().mean((1, 2, 3))
        psnr = float((-10 * torch.log10(mse.clamp_min(1e-10))).mean())
        figures = {"file": path.name, "psnr": round(psnr, 2), "views": len(truth), "size": cameras.height}
        self._add_to_report(files, figures)
        return f"{path.name} read back agrees with the object: PSNR {psnr:.1f} dB in {len(truth)} views"

    def _add_to_report(self, files: Sequence[Path], agreement: dict[str, object]) -> None:
        """Write the comparison's figures into the report, where one was written."""
        report = next((file for file in files if file.name == f"{self.config.save_name}-report.json"), None)
        if report is not None:
            known = json.loads(report.read_text())
            write_file(report, json.dumps({**known, "agreement": agreement}, indent=1).encode())

    @property
    def _comparable_formats(self) -> list[Format]:
        """The formats that hold colors and that are read here, too: all but usdz."""
        return [fmt for fmt in self._colored_formats if fmt != "usdz"]

    @property
    def _colored_formats(self) -> list[Format]:
        """The formats that hold colors, a texture or vertex colors."""
        config = self.config
        textured = TEXTURED if config.save_uv and config.save_texture else ()
        return [fmt for fmt in self.formats if fmt in textured or (config.save_color and fmt != "stl")]

    def _is_y_up(self, fmt: Format) -> bool:
        return self.config.axes == "y-up" or (self.config.axes == "format" and fmt in Y_UP)

    def _crop(self, mesh: Mesh) -> Mesh:
        """Return the part of the mesh inside ``crop``, without its ground if that is asked for.

        Raises ``UserError`` where nothing is left of it.
        """
        cropped = self._in_box(mesh)
        return without_ground(cropped) if self.config.drop_ground else cropped

    def _in_box(self, mesh: Mesh) -> Mesh:
        if self.config.crop is None:
            return mesh
        corners = mesh.vertices.new_tensor(self.config.crop)
        # Cut, not sorted out: whole faces would leave a ragged edge.
        vertices, faces = clip_to_box(mesh.vertices, mesh.faces, corners[:3], corners[3:])
        if not len(faces):
            raise UserError(f"exporter.crop: nothing of the surface is in {list(self.config.crop)}")
        return Mesh(vertices, faces)

    def _decimate(self, mesh: Mesh) -> Mesh:
        # Before unwrapping, whose time grows faster than the number of faces.
        target = self.config.target_faces
        if target is None or len(mesh.faces) <= target:
            return mesh
        log.info("collapsing edges: %d faces, %d wanted", len(mesh.faces), target)
        return require_surface(Mesh(*decimate(mesh.vertices, mesh.faces, target)))

    def _atlas(self, mesh: Mesh) -> Atlas | None:
        config = self.config
        wanted = [fmt for fmt in self.formats if fmt in UNWRAPPED and (fmt == "obj" or config.save_texture)]
        if not (config.save_uv and wanted):
            return None
        chart, pack = config.xatlas_chart_options, config.xatlas_pack_options
        how = UnwrapSettings(config.texture_size, config.unwrap_time_limit, chart, pack)
        return unwrap(mesh.vertices, mesh.faces, how)

    def _color_mesh(self, mesh: Mesh, atlas: Atlas | None, colors_at: SurfaceColors) -> ExportMesh:
        """Return the mesh with vertex colors or a texture, whichever its formats hold."""
        config = self.config
        normals = vertex_normals(mesh.vertices, mesh.faces)
        # A texture is baked once, whatever the number of formats; vertex colors only where a format has no texture.
        textured = atlas is not None and config.save_texture
        texture, finish = None, None
        if atlas is not None and textured and set(self.formats) & set(TEXTURED):
            picture = bake_colors(
                mesh, normals, atlas, colors_at, config.texture_size, config.texture_samples
            )
            texture = picture_bytes(picture[..., :3], config.texture_format)
            finish = finish_picture(picture)
        bare = [fmt for fmt in self.formats if fmt != "stl" and not (textured and fmt in TEXTURED)]
        if config.save_color and bare:
            mesh = replace(mesh, color=colors_at(mesh.vertices, normals)[:, :3])
        chosen = config.unlit if config.unlit is not None else not self._lit_by_material
        return ExportMesh(mesh, normals, atlas, texture, config.texture_format, chosen, finish)

    def _factor(self, fmt: Format) -> float:
        """Return the units of a file in a world unit."""
        return self.config.scale / (1.0 if fmt == "glb" else METERS[self.config.unit])

    def _scale(self, mesh: Mesh, fmt: Format) -> Mesh:
        return replace(mesh, vertices=mesh.vertices * self._factor(fmt))

    def _to_file_axes(self, surface: ExportMesh, fmt: Format) -> ExportMesh:
        """Return the surface in the axes and units of a file."""
        mesh = self._scale(surface.mesh, fmt)
        if not self._is_y_up(fmt):
            return replace(surface, mesh=mesh)
        return replace(
            surface,
            mesh=replace(mesh, vertices=y_up_from_z_up(mesh.vertices)),
            normals=y_up_from_z_up(surface.normals),
        )

    def _files(self, surface: ExportMesh, fmt: Format) -> list[tuple[str, bytes]]:
        """Return names and contents of a format's files, the one to open first."""
        name, normals, surface = (
            self.config.save_name,
            self.config.save_normal,
            self._to_file_axes(surface, fmt),
        )
        if fmt == "glb":
            return [(f"{name}.glb", glb_bytes(surface))]
        if fmt == "usdz":
            stage = StageUnits("Y" if self._is_y_up(fmt) else "Z", METERS[self.config.unit])
            return [(f"{name}.usdz", usdz_bytes(surface, stage))]
        if fmt == "ply":
            return [(f"{name}.ply", ply_bytes(surface, normals))]
        if fmt == "stl":
            return [(f"{name}.stl", stl_bytes(surface))]
        if fmt == "obj" or surface.texture is None:
            return [(f"{name}.obj", obj_bytes(surface, None, normals))]
        return self._obj_with_material(surface, surface.texture)

    def _obj_with_material(self, surface: ExportMesh, texture: bytes) -> list[tuple[str, bytes]]:
        """Return an OBJ, its material library and the pictures that one names."""
        name = self.config.save_name
        picture = f"{name}_albedo.{self.config.texture_format}"
        maps = {"map_Kd": (picture, texture), **finish_maps(name, surface.finish)}
        library = mtl_bytes({word: file for word, (file, _) in maps.items()})
        obj = obj_bytes(surface, f"{name}.mtl", self.config.save_normal)
        return [(f"{name}.obj", obj), (f"{name}.mtl", library), *maps.values()]


def require_surface(mesh: Mesh) -> Mesh:
    """Return the mesh if it can be written. Raises ``UserError`` that names what is wrong with it."""
    if mesh.empty:
        raise UserError("empty surface: the mesh has no faces; nothing was written")
    used = mesh.vertices[torch.unique(mesh.faces)]
    # Vertices that no face uses may be anything: files leave them out.
    wrong = int((~used.isfinite()).any(1).sum())
    if wrong:
        raise UserError(
            f"{wrong} of {len(used)} vertices are not numbers; training diverged, nothing was written"
        )
    extent = float((used.amax(0) - used.amin(0)).amax())
    if not 0 < extent < 1e12:
        raise UserError(f"the surface is {extent:g} units large; expected a finite size, nothing was written")
    return mesh


def edge_length(mesh: Mesh) -> float:
    """Return the mean length of the faces' first edges."""
    first = mesh.vertices[mesh.faces[:, 0]] - mesh.vertices[mesh.faces[:, 1]]
    return float(first.norm(dim=-1).mean())


def bake_colors(
    mesh: Mesh, normals: Float[Tensor, "V 3"], atlas: Atlas, colors_at: SurfaceColors, size: int, samples: int
) -> Float[Tensor, "S S C"]:
    """Return the texture of an atlas: at each texel the values of the surface point that is laid there."""

    def values(samples: TexelSamples) -> Float[Tensor, "N C"]:
        # Texels lie between vertices: positions and normals are interpolated, then asked for their values.
        corner, weights = mesh.faces[samples.face], samples.weights[..., None]
        x = (mesh.vertices[corner] * weights).sum(1)
        normal = torch.nn.functional.normalize((normals[corner] * weights).sum(1), dim=-1)
        return colors_at(x, normal)

    corners = atlas.corners.to(mesh.vertices.device)
    with Work("baking the texture, texels", texel_count(corners, size * samples)) as work:
        baked = counted(values, work, lambda samples: len(samples.face))
        return bake_texture(corners, size, baked, samples)


def vertex_colors(
    mesh: Mesh, geometry: Geometry, material: Material, chunk: int = 1 << 18
) -> Float[Tensor, "V 3"]:
    """Return the colors that a camera close by sees at the vertices, looking along the surface's normal."""
    colors_at = SurfaceColors(geometry, material, edge_length(mesh), chunk)
    return colors_at(mesh.vertices, vertex_normals(mesh.vertices, mesh.faces))[:, :3]


def write_files(folder: Path, files: Sequence[tuple[str, bytes]]) -> list[Path]:
    """Write each file whole or not at all, those that others refer to first; return paths in the order given."""
    return [write_file(folder / name, content) for name, content in reversed(files)][::-1]


def write_file(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all. Raises ``UserError`` where it cannot be, or would be empty."""
    if not content:
        raise UserError(f"{path}: there is nothing to write")
    return files.write_atomically(path, content)
