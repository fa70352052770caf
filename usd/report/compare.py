"""Several trials on one page: the same cameras in all of them, and pictures of what differs from the first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from usd.core import files
from usd.core.errors import UserError
from usd.core.loading import leaf_values
from usd.data.pictures import to_bytes
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.pictures import pictures
from usd.mesh_io.read import read_mesh
from usd.report.curves import Curve, read_curves
from usd.report.inline import data_uri, picture_uri, webp
from usd.report.page import NOT_SET, Figure, ModelView, figures, model_view, plain_text, render_page
from usd.report.records import TrialRecord

AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
ELEVATION, FOV_Y = 15.0, 40.0
GAIN = 3.0
"""Differences are shown so many times as strong, on gray."""


@dataclass(frozen=True)
class Column:
    """A trial on a page of several: its object, its views, and how these differ from the first trial's."""

    title: str
    folder: str
    reference: str | None
    prompt: str
    model: ModelView | None
    views: list[str]
    differences: list[str]
    figures: list[Figure]


@dataclass(frozen=True)
class ComparisonPage:
    """A page of several trials."""

    columns: list[Column]
    figure_names: list[str]
    options: list[tuple[str, list[str]]]
    curves: list[tuple[str, list[Curve]]]

    @property
    def shared_options(self) -> list[tuple[str, list[str]]]:
        """The options that all trials have, and in which they differ."""
        return [(key, values) for key, values in self.options if NOT_SET not in values]

    @property
    def other_options(self) -> list[tuple[str, list[str]]]:
        """The options that not all trials have: trials of other systems have many of them."""
        return [(key, values) for key, values in self.options if NOT_SET in values]

    def lines(self, curves: Sequence[Curve]) -> list[str]:
        """Return curves of one figure as polylines in one box with the same axes."""
        low, high = min(min(curve.values) for curve in curves), max(max(curve.values) for curve in curves)
        last = max(curve.steps[-1] for curve in curves)
        return [curve.line((0, last), (low, high)) for curve in curves]

    def value(self, column: Column, name: str) -> str:
        """Return a trial's figure as text; a dash where nobody measured it."""
        return next((figure.value for figure in column.figures if figure.name == name), "–")


def write_comparison(folders: Sequence["Path | str"], out: Path, size: int = 256) -> Path:
    """Write one page that shows several trials side by side. Raises ``UserError`` where a folder is no trial's."""
    records = [TrialRecord.of(folder) for folder in folders]
    if not 16 <= size <= 2048:
        raise UserError(f"--size {size}: expected 16 to 2048")
    page = comparison_page(records, size)
    return files.write_atomically(out, render_page("compare.html", page=page).encode("utf-8", "replace"))


def comparison_page(records: Sequence[TrialRecord], size: int) -> ComparisonPage:
    """Return what a page of several trials shows, the first of them being what the others are held against."""
    renders = render_models([record.model for record in records], size)
    columns = [column(record, views, renders[0]) for record, views in zip(records, renders)]
    names = dict.fromkeys(figure.name for one in columns for figure in one.figures)
    return ComparisonPage(columns, list(names), different_options(records), shared_curves(records))


def column(record: TrialRecord, views: Tensor | None, first: Tensor | None) -> Column:
    """Return a trial as a column of the page."""
    differs = [] if views is None or first is None else [tensor_uri(d) for d in difference(views, first)]
    return Column(
        title=record.title,
        folder=str(record.folder),
        reference=picture_uri(record.input_picture, 256) if record.input_picture else None,
        prompt=record.prompt,
        model=model_view(record),
        views=[] if views is None else [tensor_uri(view) for view in views],
        differences=differs,
        figures=figures(record),
    )


def render_models(models: Sequence[Path | None], size: int) -> list[Float[Tensor, "V 3 H W"] | None]:
    """Return views of models around them, over white, in their own colors; None where there is no model.

    The cameras are the same for all: they look at the origin from where the largest model just fits.
    """
    meshes = [None if file is None else read_mesh(file, "y") for file in models]
    radius = max((float(mesh.vertices.norm(dim=1).max()) for mesh in meshes if mesh is not None), default=1.0)
    distance = 1.05 * radius / math.sin(math.radians(FOV_Y / 2))
    cameras = orbit_cameras_deg(ELEVATION, list(AZIMUTHS), distance, FOV_Y, size)
    return [None if mesh is None else mesh_over_white(mesh, cameras) for mesh in meshes]


def mesh_over_white(mesh: ColoredMesh, cameras: Cameras) -> Float[Tensor, "V 3 H W"]:
    """Return what cameras see of a mesh, over white."""
    rgba = pictures(mesh, cameras)
    return rgba[:, :3] + 1 - rgba[:, 3:]


def difference(views: Float[Tensor, "V 3 H W"], first: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 3 H W"]:
    """Return signed differences, ``GAIN`` times as strong, around middle gray."""
    return (0.5 + GAIN * 0.5 * (views - first)).clamp(0, 1)


def tensor_uri(picture: Float[Tensor, "3 H W"]) -> str:
    """Return a picture inside a URI."""
    image = Image.fromarray(to_bytes(picture.detach().cpu()))
    return data_uri(webp(image, max(image.size)), "image/webp")


def different_options(records: Sequence[TrialRecord]) -> list[tuple[str, list[str]]]:
    """Return the options in which the trials differ, with each one's value as text."""
    own = ("timestamp", "tag", "exp_root_dir", "resume", "name")
    trees = [dict(leaf_values(record.config)) for record in records]
    keys = dict.fromkeys(key for tree in trees for key in tree if key not in own)
    rows = [(key, [plain_text(tree.get(key)) for tree in trees]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def shared_curves(records: Sequence[TrialRecord]) -> list[tuple[str, list[Curve]]]:
    """Return the curves that all trials have, by name."""
    found = [{curve.name: curve for curve in read_curves(record.folder)} for record in records]
    names = [name for name in found[0] if all(name in curves for curves in found)]
    return [(name, [curves[name] for curves in found]) for name in names]
