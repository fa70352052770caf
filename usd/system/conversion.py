"""How a training starts from an earlier one: its shape, and its colors, on another kind of geometry.

Where both have the same networks they are copied, and colors are the same everywhere. Otherwise the new networks are
fitted to the colors that the old ones show on the surface.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import checkpoint
from usd.core.config import Spec, plain, plain_options, spec
from usd.core.errors import UserError
from usd.core.registry import build, find
from usd.core.types import Mesh
from usd.geometry import Geometry, SplatCloud
from usd.geometry.features import FeatureSurface, copy_features
from usd.material import Material
from usd.math.mesh import surface_samples, vertex_normals

log = logging.getLogger(__name__)

KEY = "system.geometry_convert_from"
Built = TypeVar("Built", Geometry, Material)
FIT_STEPS, FIT_POINTS, FIT_RATE = 200, 4096, 0.01
FIT_ENOUGH = 0.004  # an error (root mean square) that no picture of eight bits shows


@dataclass(frozen=True)
class ConversionOptions:
    """The object to start from: a checkpoint or a trial's folder, changes to its geometry's options, colors or not."""

    path: Path | None
    override: Mapping[str, object]
    inherit_texture: bool


@dataclass(frozen=True)
class ConversionTarget:
    """The geometry and material that start, and how they are configured."""

    geometry: Geometry
    material: Material
    geometry_spec: Spec
    material_spec: Spec


@dataclass(frozen=True)
class ConversionSource:
    """The geometry and material of an earlier training."""

    geometry: Geometry
    material: Material
    material_spec: Spec


def initialize_object(
    target: ConversionTarget, options: ConversionOptions, generator: torch.Generator
) -> None:
    """Give a new object the shape, and the colors, that a training starts from. Raises ``UserError``."""
    if options.path is None:
        start = target.geometry.initialize()
    else:
        device = next(iter(target.geometry.state_dict().values())).device
        source = load_source(options.path, options.override, device)
        copy_shape(target, source, options.inherit_texture)
        if isinstance(target.geometry, SplatCloud):
            paint_splats(target.geometry, source, options.inherit_texture)
            return
        if not options.inherit_texture or copy_networks(target, source):
            return
        colored = has_features(target.geometry) and has_features(source.geometry)
        start = with_vertex_colors(target.geometry.export_mesh(), source) if colored else None
    if start is not None and start.color is not None:
        error = fit_colors(target.geometry, target.material, start, generator)
        log.info("colors to start from are fitted to %.3f (root mean square)", error)


def paint_splats(geometry: SplatCloud, source: ConversionSource, inherit_texture: bool) -> None:
    """Give Gaussians the colors of a source where they are; those of other Gaussians came with these."""
    if inherit_texture and not isinstance(source.geometry, SplatCloud) and has_features(source.geometry):
        with torch.no_grad():
            x = geometry.splats().means
            geometry.paint(source.material.displayed(frontal_color(source.geometry, source.material, x, x)))


def load_source(path: Path, override: Mapping[str, object], device: torch.device) -> ConversionSource:
    """Load geometry and material of a checkpoint. Raises ``UserError`` for what is no checkpoint with a geometry."""
    try:
        geometry, material = _earlier_components(checkpoint.checkpoint_of(path))
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error
    options = {**plain_options(geometry.spec.config), **override}
    changed = spec("geometry", geometry.spec.name, options, "system.geometry_convert_override")
    shape = _build_with_weights(changed, Geometry, geometry.weights).to(device)
    color = _build_with_weights(material.spec, Material, material.weights).to(device)
    return ConversionSource(shape, color, material.spec)


def _earlier_components(path: Path) -> tuple[checkpoint.SavedComponent, checkpoint.SavedComponent]:
    """Return geometry and material of a checkpoint, this project's or threestudio's. Raises ``UserError``."""
    try:
        saved = checkpoint.load(path)
    except checkpoint.ForeignCheckpointError:
        from usd.system.threestudio_training import saved_components, threestudio_state

        state = threestudio_state(path)
        if state is None:
            raise
        return saved_components(path, state)
    return checkpoint.saved_component(saved, "geometry"), checkpoint.saved_component(saved, "material")


def _build_with_weights(component: Spec, kind: type[Built], weights: Mapping[str, Tensor]) -> Built:
    """Build a component and give it weights. Raises ``UserError`` where they are another component's."""
    module = build(component, kind)
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UserError(
            f"{KEY}: the checkpoint's weights do not fit its {component.name} any more; was it overridden?"
        ) from error
    return module.eval().requires_grad_(False)


def copy_shape(target: ConversionTarget, source: ConversionSource, inherit_texture: bool) -> None:
    """Copy the source's shape, and its networks of features where they fit and are wanted.

    A shape that ``force_shape_init`` asks for wins.
    """
    chosen = target.geometry_spec
    from usd.geometry.initial_shape import ShapeConfig

    try:
        converted = find(Geometry, chosen.name).convert(chosen.config, source.geometry).state_dict()
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error
    left = () if inherit_texture else target.geometry.texture_modules
    copied = {key: value for key, value in converted.items() if key.split(".")[0] not in left}
    target.geometry.load_state_dict({**target.geometry.state_dict(), **copied})
    if isinstance(chosen.config, ShapeConfig) and chosen.config.force_shape_init:
        target.geometry.initialize()


def copy_networks(target: ConversionTarget, source: ConversionSource) -> bool:
    """Copy networks and material where they are the same as the source's; return whether they were."""
    same = plain(source.material_spec) == plain(target.material_spec)
    copied = same and copy_features(target.geometry, source.geometry)
    if copied:
        target.material.load_state_dict(source.material.state_dict())
    return copied


def has_features(geometry: Geometry) -> bool:
    """Return whether colors were, or can be, learned in a geometry's features."""
    return not (isinstance(geometry, FeatureSurface) and geometry.feature_network is None)


def with_vertex_colors(mesh: Mesh, source: ConversionSource) -> Mesh:
    """Return the mesh with the colors of a source at its vertices."""
    from usd.exporter.mesh import vertex_colors

    with torch.no_grad():
        return replace(mesh, color=vertex_colors(mesh, source.geometry, source.material))


def fit_colors(geometry: Geometry, material: Material, target: Mesh, generator: torch.Generator) -> float:
    """Train features and material until the surface shows a mesh's vertex colors; return the last error (RMS)."""
    features = geometry.feature_parameters()
    weights = [p for p in [*features, *material.parameters()] if p.requires_grad]
    if not features or not weights or target.color is None or geometry.n_features != material.n_features:
        return 0.0
    optimizer, error = torch.optim.Adam(weights, lr=FIT_RATE, eps=1e-15), 0.0
    normals = vertex_normals(target.vertices, target.faces)
    for _ in range(FIT_STEPS):
        face, share = surface_samples(target.vertices, target.faces, FIT_POINTS, generator)
        corners = target.faces[face]
        # what the corners say, at the points between them
        x, normal, color = (
            (values[corners] * share[..., None]).sum(1) for values in (target.vertices, normals, target.color)
        )
        loss = (frontal_color(geometry, material, x, normal) - color).square().mean()
        error = float(loss.detach().sqrt())
        if error < FIT_ENOUGH:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return error


def frontal_color(
    geometry: Geometry, material: Material, x: Float[Tensor, "N 3"], normal: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 3"]:
    """Return the colors of surface points for a viewer straight in front of them."""
    features = geometry.query(x, frozenset({"features"})).features
    assert features is not None
    unit = torch.nn.functional.normalize(normal, dim=-1)
    return material.color(features, x, -unit, unit)
