"""Views of a toy of the toybox: ground truth for reconstruction and evaluation, named by its seed."""

import math
import re
from dataclasses import replace

import torch

from usd.data.view_set import ViewSet, view_set
from usd.math.camera import Cameras, Spherical, orbit_cameras, sphere_angles
from usd.toybox import REFERENCE_DISTANCE, REFERENCE_FOV_DEG
from usd.toybox.objects import make_toy


def toy_seed(text: str) -> int | None:
    """Return the seed that ``1000022`` or ``toybox:1000022`` names; None for anything else."""
    found = re.fullmatch(r"(?:toybox:)?(\d{1,12})", text)
    return int(found[1]) if found else None


def sphere_cameras(count: int, size: int) -> Cameras:
    """Return ``count`` cameras spread evenly over the sphere (a Fibonacci spiral), looking at the origin."""
    elevation, azimuth = sphere_angles(count)
    place = Spherical(elevation, azimuth, torch.full((count,), REFERENCE_DISTANCE))
    return orbit_cameras(place, math.radians(REFERENCE_FOV_DEG), size, size)


def render_toy_views(seed: int, cameras: Cameras) -> ViewSet:
    """Render exact pictures, masks and normals of a toy from any cameras, orthographic ones included."""
    from usd.toybox.render import render

    toy = make_toy(seed)
    seen = render([toy], cameras)
    normals = seen.normal.permute(0, 3, 1, 2).contiguous()
    names = tuple(f"{i:04d}.png" for i in range(len(cameras)))
    note = f"toybox {seed}: {toy.caption}"
    return replace(view_set(list(seen.rgba()), cameras, names, [note]), normals=normals)
