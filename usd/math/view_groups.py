"""The cameras of models that make all their views at once, by the camera that took the picture."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.math.camera import (
    Cameras,
    Spherical,
    look_at,
    orbit_cameras,
    orbit_cameras_deg,
    orthographic_cameras,
)

SYNCDREAMER_VIEWS = 16
SYNCDREAMER_SIZE = 256
SYNCDREAMER_FOCAL = 280 / 256
"""Focal length in picture heights."""
SYNCDREAMER_ELEVATION_DEG, SYNCDREAMER_DISTANCE = 30.0, 1.5

ZERO123_FOV_DEG, ZERO123_DISTANCE = math.degrees(2 * math.atan(16 / 35)), 1.5

WONDER3D_AZIMUTH_DEG = (-90.0, -45.0, 0.0, 90.0, 180.0, -135.0)
"""Of front, front right, right, back, left, front left, in the system's own frame."""
WONDER3D_DISTANCE = (1.3, 1.3 * math.sqrt(2), 1.3, 1.3, 1.3, 1.3 * math.sqrt(2))
WONDER3D_SPAN, WONDER3D_SIZE = 1.35, 256
"""World units and pixels of a side."""
TOYBOX_VIEWS = 6
TOYBOX_ELEVATION_DEG = (30.0, 0.0)
"""In turn."""

NAMED_AZIMUTH_STEP_DEG = 45.0
NAMED_ELEVATION_DEG = (-30.0, 0.0, 30.0, 60.0)
NAMED_DISTANCE = (0.6, 1.0, 1.8)
"""Of the views that edit models are asked for by name; distances are shares of the picture's."""


def syncdreamer_cameras(size: int = SYNCDREAMER_SIZE, azimuth_deg: float | int = 0.0) -> Cameras:
    """Return SyncDreamer's 16 cameras (arXiv 2309.03453), the input picture taken from ``azimuth_deg``."""
    azimuth = [azimuth_deg + 360 / SYNCDREAMER_VIEWS * i for i in range(SYNCDREAMER_VIEWS)]
    fov_y = math.degrees(2 * math.atan(0.5 / SYNCDREAMER_FOCAL))
    return orbit_cameras_deg(SYNCDREAMER_ELEVATION_DEG, azimuth, SYNCDREAMER_DISTANCE, fov_y, size)


def wonder3d_cameras(size: int = WONDER3D_SIZE, azimuth_deg: float | int = -90.0) -> Cameras:
    """Return Wonder3D's six cameras (arXiv 2310.15008), the front one at ``azimuth_deg``, all at elevation 0."""
    azimuth = (torch.tensor(WONDER3D_AZIMUTH_DEG) + 90.0 + azimuth_deg).deg2rad()
    place = Spherical(torch.zeros(len(azimuth)), azimuth, torch.tensor(WONDER3D_DISTANCE)).xyz()
    return orthographic_cameras(look_at(place, torch.zeros_like(place)), WONDER3D_SPAN, size, size)


def syncdreamer_group(reference: Cameras, size: int) -> Cameras:
    """Return SyncDreamer's cameras, the first at the reference's azimuth."""
    return syncdreamer_cameras(size, _azimuth_deg(reference)).to(reference.device)


def wonder3d_group(reference: Cameras, size: int) -> Cameras:
    """Return Wonder3D's cameras about the picture's own axes: the front one looks as the reference does."""
    cameras = wonder3d_cameras(size).to(reference.device)
    turn = torch.zeros_like(cameras.c2w[:1])
    # both look at the origin, so one rotation carries front to reference, and the others with it
    turn[:, :3, :3] = reference.c2w[:1, :3, :3] @ cameras.c2w[:1, :3, :3].transpose(1, 2)
    turn[:, 3, 3] = 1
    return orthographic_cameras(turn @ cameras.c2w, WONDER3D_SPAN, size, size)


def zero123plus_1_1_group(reference: Cameras, size: int) -> Cameras:
    """Return Zero123++ 1.1's six cameras (arXiv 2310.15110): the lens and the distance of Zero-1-to-3."""
    return _zero123plus(reference, size, (30.0, -20.0), ZERO123_FOV_DEG, ZERO123_DISTANCE)


def zero123plus_1_2_group(reference: Cameras, size: int) -> Cameras:
    """Return Zero123++ 1.2's six cameras: 30 degrees wide, at a distance that shows as much as 1.1's.

    No distance is published: objects are shown at one size, and whatever the distance, the result is as large.
    """
    distance = ZERO123_DISTANCE * math.tan(math.radians(ZERO123_FOV_DEG / 2)) / math.tan(math.radians(15))
    return _zero123plus(reference, size, (20.0, -10.0), 30.0, distance)


def _zero123plus(
    reference: Cameras, size: int, elevations: tuple[float, float], fov_deg: float, distance: float
) -> Cameras:
    azimuth = [_azimuth_deg(reference) + 30.0 + 60.0 * i for i in range(6)]
    return orbit_cameras_deg([*elevations] * 3, azimuth, distance, fov_deg, size).to(reference.device)


def mvdream_group(reference: Cameras, size: int) -> Cameras:
    """Return four cameras around, 15 degrees up, the first at the reference's azimuth (arXiv 2308.16512).

    The model knows where cameras stand and not their lens; they show as much as Zero-1-to-3's.
    """
    azimuth = [_azimuth_deg(reference) + 90.0 * i for i in range(4)]
    made = orbit_cameras_deg(15.0, azimuth, ZERO123_DISTANCE, ZERO123_FOV_DEG, size)
    return made.to(reference.device)


def imagedream_group(reference: Cameras, size: int) -> Cameras:
    """Return the four cameras that ImageDream's authors sample (arXiv 2312.02201): those of MVDream, 5 degrees up."""
    azimuth = [_azimuth_deg(reference) + 90.0 * i for i in range(4)]
    made = orbit_cameras_deg(5.0, azimuth, ZERO123_DISTANCE, ZERO123_FOV_DEG, size)
    return made.to(reference.device)


def named_views(cameras: Cameras, reference: Cameras) -> Int[Tensor, "B 3"]:
    """Return the number of azimuth, elevation and distance of the named view that is nearest to each camera.

    Azimuths count from the reference's towards its right, distances are shares of the reference's, elevations are those
    of the cameras.
    """
    place, front = cameras.spherical, reference.spherical
    azimuth = (place.azimuth - front.azimuth[0]).rad2deg() / NAMED_AZIMUTH_STEP_DEG
    share = (place.distance / front.distance[0]).log()
    steps = round(360 / NAMED_AZIMUTH_STEP_DEG)
    nearest = [
        azimuth.round().long() % steps,
        _nearest_choice(place.elevation.rad2deg(), NAMED_ELEVATION_DEG),
    ]
    return torch.stack([*nearest, _nearest_choice(share, [math.log(x) for x in NAMED_DISTANCE])], 1)


def _nearest_choice(values: Float[Tensor, "B"], choices: Sequence[float]) -> Int[Tensor, "B"]:
    """Return the number of the choice that is nearest to each value."""
    return (values[:, None] - values.new_tensor(choices)).abs().argmin(1)


def nearest_named_cameras(cameras: Cameras, reference: Cameras) -> Cameras:
    """Return the named view that is nearest to each camera, with the camera's field of view."""
    azimuth, elevation, distance = named_views(cameras, reference).unbind(1)
    front = reference.spherical
    place = Spherical(
        cameras.fov_y.new_tensor(NAMED_ELEVATION_DEG)[elevation].deg2rad(),
        front.azimuth[0] + (azimuth * NAMED_AZIMUTH_STEP_DEG).deg2rad(),
        front.distance[0] * cameras.fov_y.new_tensor(NAMED_DISTANCE)[distance],
    )
    return orbit_cameras(place, cameras.fov_y, cameras.height, cameras.width)


def named_group(reference: Cameras, size: int) -> Cameras:
    """Return 16 named views: the eight azimuths at eye level, and elevated, as far away as the reference."""
    turns = torch.arange(8).mul(NAMED_AZIMUTH_STEP_DEG).repeat(2).deg2rad().to(reference.device)
    place = reference.spherical
    elevation = torch.tensor(NAMED_ELEVATION_DEG[1:3]).repeat_interleave(8).deg2rad().to(reference.device)
    around = Spherical(elevation, place.azimuth[0] + turns, place.distance[0].expand(16))
    return orbit_cameras(around, reference.fov_y[0].expand(16), size, size)


def quarter_turns(cameras: Cameras) -> Cameras:
    """Return each camera with the three at quarter turns from it, together."""
    four = cameras[[i for i in range(len(cameras)) for _ in range(4)]]
    turns = torch.arange(4, device=cameras.device).repeat(len(cameras)) * (math.pi / 2)
    return four.turned(turns.to(cameras.c2w))


def toybox_group(reference: Cameras, size: int) -> Cameras:
    """Return the embedded model's six cameras, as far from the object as the reference and with its field of view.

    They stand every 60 degrees, none at the reference's azimuth.
    """
    angle = 360 / TOYBOX_VIEWS
    azimuth = torch.arange(TOYBOX_VIEWS).add(0.5).mul(angle).deg2rad().to(reference.device)
    elevation = torch.tensor(TOYBOX_ELEVATION_DEG).repeat(TOYBOX_VIEWS // 2).deg2rad().to(reference.device)
    place = reference.spherical
    around = Spherical(elevation, azimuth + place.azimuth[0], place.distance[0].expand(TOYBOX_VIEWS))
    return orbit_cameras(around, reference.fov_y[0].expand(TOYBOX_VIEWS), size, size)


def _azimuth_deg(reference: Cameras) -> float:
    return float(reference.spherical.azimuth[0].rad2deg())


ViewGroup = Callable[[Cameras, int], Cameras]
"""The cameras of a group, given the picture's one camera and the pixels of a side."""
VIEW_GROUPS: dict[str, ViewGroup] = {
    "syncdreamer": syncdreamer_group,
    "wonder3d": wonder3d_group,
    "zero123plus-1.1": zero123plus_1_1_group,
    "zero123plus-1.2": zero123plus_1_2_group,
    "mvdream": mvdream_group,
    "imagedream": imagedream_group,
    "toybox": toybox_group,
    "named": named_group,
}
"""By the name of the model."""
FREE_GROUPS: dict[str, Callable[[Cameras], Cameras]] = {"mvdream": quarter_turns, "imagedream": quarter_turns}
"""Of models that are given any cameras: the groups that belong to single ones."""


def opencv_world_to_camera(cameras: Cameras) -> torch.Tensor:
    """Return world-to-camera matrices (B 3 4) with OpenCV's axes: x right, y down, z forward."""
    flip = torch.tensor([1.0, -1.0, -1.0], device=cameras.device)
    return cameras.world_to_camera()[:, :3] * flip[:, None]
