"""Pictures of an object for the page: rendered in bands that fit between two steps, without a trace in the training."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from usd.core.types import Render
from usd.data.pictures import over, to_bytes
from usd.evaluation.gallery import depth_shade, rendered_rgba
from usd.math.camera import Cameras, Window
from usd.math.normal_map import normal_colors
from usd.system.scene import SceneConfig, SceneSystem, evaluating
from usd.viewer.budget import PixelRate

Scene = SceneSystem[SceneConfig, Any, Any]
"""A system with an object, whatever batches it is trained and evaluated with."""
PictureKind = Literal["colors", "opacity", "depth", "normals"]
NEEDS: dict[PictureKind, frozenset[str]] = {
    "colors": frozenset({"depth"}),  # so that what stands behind the object is hidden
    "opacity": frozenset(),
    "depth": frozenset({"depth"}),
    "normals": frozenset({"normal", "depth"}),
}
FAR = 160.0
"""Depth of a pixel in which nothing is, within what the page can say (world units)."""


def available_kinds(system: Scene) -> list[PictureKind]:
    """Return what pictures of a system's object can show."""
    outputs = system.renderer.outputs
    wanted: dict[PictureKind, str] = {"opacity": "opacity", "depth": "depth", "normals": "normal"}
    return ["colors", *(kind for kind, output in wanted.items() if output in outputs)]


@contextlib.contextmanager
def undisturbed(system: Scene) -> Iterator[None]:
    """Evaluate inside the block: afterwards random numbers and the modes of modules are what they were before."""
    own = [module for name, module in system.named_children() if name not in system.transient]
    devices = [system.device] if system.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), evaluating(*own):
        yield


def render_in_bands(
    system: Scene, cameras: Cameras, kind: PictureKind, rate: PixelRate, seconds: float
) -> Iterator[Render | None]:
    """Render one camera's picture in bands of about ``seconds`` each: None after all but the last, then the picture."""
    cameras, needs = cameras.to(system.device), NEEDS[kind] & system.renderer.outputs
    rows, parts = rate.rows(cameras.width, cameras.height, seconds), []
    for top in range(0, cameras.height, rows):
        window = Window(top, 0, min(rows, cameras.height - top), cameras.width)
        began = time.perf_counter()
        with undisturbed(system):
            parts.append(system.render_views(cameras, *needs, window=window))
        rate.learn(window.height * window.width, time.perf_counter() - began)
        yield stack_bands(parts) if top + rows >= cameras.height else None


def stack_bands(bands: Sequence[Render]) -> Render:
    """Return pictures of one view, whose bands lie one below the other, as one."""

    def stacked(name: str) -> Tensor | None:
        known = [getattr(band, name) for band in bands]
        return None if any(part is None for part in known) else torch.cat(known, 2)

    rgb, opacity = stacked("rgb"), stacked("opacity")
    assert rgb is not None and opacity is not None
    return replace(
        bands[0],
        rgb=rgb,
        opacity=opacity,
        foreground=stacked("foreground"),
        depth=stacked("depth"),
        normal=stacked("normal"),
    )


def picture_of(render: Render, kind: PictureKind, background: float = 1.0) -> UInt8[NDArray, "H W 3"]:
    """Return the first view of a render as bytes for a screen, before a gray ``background``."""
    if kind == "colors":
        shown = over(rendered_rgba(render), background)
    elif kind == "normals" and render.normal is not None:
        shown = normal_colors(render.normal, render.opacity, background)
    elif kind == "depth" and render.depth is not None:
        shown = depth_shade(render.depth, render.opacity).expand(-1, 3, -1, -1)
    else:
        shown = render.opacity.expand(-1, 3, -1, -1)
    return to_bytes(shown[0].clamp(0, 1))


def view_depth(render: Render, cameras: Cameras) -> "Float[NDArray, 'H W'] | None":
    """Return the depth along the view axis (world units) of what is opaque, ``FAR`` elsewhere; None without depths."""
    if render.depth is None:
        return None
    directions = cameras.rays()[1][0]
    forward = -cameras.c2w[0, :3, 2]
    along = render.depth[0, 0] * (directions @ forward)
    return torch.where(render.opacity[0, 0] > 0.5, along, FAR).double().numpy()
