"""How a training starts from an earlier one: its shape, and its colors, on another kind of geometry.

Where both have the same networks they are copied, and colors are the same everywhere. Otherwise the new networks are
fitted to the colors that the old ones show on the surface.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import checkpoint
from usd.core.config import Spec, plain, plain_options, spec
from usd.core.errors import UserError
from usd.core.registry import build, find
from usd.core.types import Mesh
from usd.geometry import Geometry
from usd.geometry.features import NETWORKS, FeatureSurface, copy_features
from usd.material import Material
from usd.math.mesh import surface_samples, vertex_normals

log = logging.getLogger(__name__)

KEY = "system.geometry_convert_from"
Built = TypeVar("Built", Geometry, Material)
FIT_STEPS, FIT_POINTS, FIT_RATE = 200, 4096, 0.01
FIT_ENOUGH = 0.004  # an error (root mean square) that no picture of eight bits shows


@dataclass(frozen=True)
class Handover:
    """What to start from: a checkpoint or a trial's folder, changes to its geometry's options, colors or not."""

    path: Path | None
    override: Mapping[str, Any]
    inherit_texture: bool


@dataclass(frozen=True)
class Parts:
    """What starts: a geometry and a material, and how they are configured."""

    geometry: Geometry
    material: Material
    geometry_spec: Spec
    material_spec: Spec


@dataclass(frozen=True)
class Source:
    """What an earlier training made."""

    geometry: Geometry
    material: Material
    material_spec: Spec


def begin(parts: Parts, handover: Handover, generator: torch.Generator) -> None:
    """Gives new parts the shape, and the colors, that a training starts from. Raises ``UserError``."""
    if handover.path is None:
        start = parts.geometry.initialize()
    else:
        source = load_source(handover, next(iter(parts.geometry.state_dict().values())).device)
        take_shape(parts, source, handover.inherit_texture)
        if not handover.inherit_texture or take_networks(parts, source):
            return
        start = (
            None
            if colorless(parts.geometry, source.geometry)
            else colored(parts.geometry.export_mesh(), source)
        )
    if start is not None and start.color is not None:
        error = fit_colors(parts.geometry, parts.material, start, generator)
        log.info("colours to start from are fitted to %.3f (root mean square)", error)


def checkpoint_of(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the last one of a trial's folder. Raises ``UserError``."""
    if not path.is_dir():
        return path
    for found in (path / "ckpts" / "last.ckpt", path / "last.ckpt"):
        if found.is_file():
            return found
    raise UserError(f"{path} is a folder without ckpts/last.ckpt; expected a checkpoint or a trial")


def load_source(handover: Handover, device: "torch.device | str") -> Source:
    """The geometry and material of a checkpoint. Raises ``UserError`` for what is no checkpoint with a geometry."""
    assert handover.path is not None
    try:
        saved = checkpoint.load(checkpoint_of(handover.path))
        geometry, material = (
            checkpoint.saved_component(saved, "geometry"),
            checkpoint.saved_component(saved, "material"),
        )
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error
    options = {**plain_options(geometry.spec.config), **handover.override}
    changed = spec("geometry", geometry.spec.name, options, "system.geometry_convert_override")
    shape = _built(changed, Geometry, geometry.weights).to(device)
    color = _built(material.spec, Material, material.weights).to(device)
    return Source(shape, color, material.spec)


def _built(wanted: Spec, kind: type[Built], weights: Mapping[str, Tensor]) -> Built:
    module = build(wanted, kind)
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UserError(
            f"{KEY}: the checkpoint's weights do not fit its {wanted.name} any more; was it overridden?"
        ) from error
    return module.eval().requires_grad_(False)


def take_shape(parts: Parts, source: Source, inherit_texture: bool) -> None:
    """The source's shape, and its networks of features where they fit and are wanted.

    A shape that ``force_shape_init`` asks for wins.
    """
    chosen = parts.geometry_spec
    from usd.geometry.initial_shape import ShapeConfig

    try:
        made = find(Geometry, chosen.name).convert(chosen.config, source.geometry).state_dict()
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error
    wanted = {
        key: value for key, value in made.items() if inherit_texture or key.split(".")[0] not in NETWORKS
    }
    parts.geometry.load_state_dict({**parts.geometry.state_dict(), **wanted})
    if isinstance(chosen.config, ShapeConfig) and chosen.config.force_shape_init:
        parts.geometry.initialize()


def take_networks(parts: Parts, source: Source) -> bool:
    """Copies networks and material where they are the same as the source's; says whether they were."""
    same = plain(source.material_spec) == plain(parts.material_spec)
    copied = same and copy_features(parts.geometry, source.geometry)
    if copied:
        parts.material.load_state_dict(source.material.state_dict())
    return copied


def colorless(*geometries: Geometry) -> bool:
    """Whether one of them has no features that anything was, or could be, learned in."""
    return any(isinstance(g, FeatureSurface) and g.feature_network is None for g in geometries)


def colored(mesh: Mesh, source: Source) -> Mesh:
    """The mesh with the colors of a source at its vertices."""
    from usd.exporter.mesh import vertex_colors

    with torch.no_grad():
        return replace(mesh, color=vertex_colors(mesh, source.geometry, source.material))


def fit_colors(geometry: Geometry, material: Material, target: Mesh, generator: torch.Generator) -> float:
    """Trains features and material until the surface shows a mesh's vertex colors; returns the last error (RMS)."""
    parts = [part for name, part in geometry.named_children() if name in NETWORKS]
    weights = [p for part in [*parts, material] for p in part.parameters() if p.requires_grad]
    if not parts or not weights or target.color is None or geometry.n_features != material.n_features:
        return 0.0
    optimizer, error = torch.optim.Adam(weights, lr=FIT_RATE, eps=1e-15), 0.0
    normals = vertex_normals(target.vertices, target.faces)
    for _ in range(FIT_STEPS):
        face, share = surface_samples(target.vertices, target.faces, FIT_POINTS, generator)
        corners = target.faces[face]
        x, normal, color = (
            (part[corners] * share[..., None]).sum(1) for part in (target.vertices, normals, target.color)
        )
        loss = (seen_color(geometry, material, x, normal) - color).square().mean()
        error = float(loss.detach().sqrt())
        if error < FIT_ENOUGH:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return error


def seen_color(
    geometry: Geometry, material: Material, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 3"]:
    """Colors of surface points seen straight on."""
    features = geometry.query(x, frozenset({"features"})).features
    assert features is not None
    unit = torch.nn.functional.normalize(normal, dim=-1)
    return material.color(features, x, -unit, unit)
