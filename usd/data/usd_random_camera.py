"""Random cameras, and the camera that took the reference picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import TypeVar

from usd.core.config import ConfigError, option
from usd.core.registry import register
from usd.data.random_camera import RandomCameraConfig, RandomCameras, at_step
from usd.math.camera import Cameras, orbit_cameras_deg

ELEVATION = "reference_elevation_deg"  # its key in checkpoints


@dataclass(frozen=True)
class UsdRandomCameraConfig(RandomCameraConfig):
    """The defaults are the published reference camera; a photograph from another height needs its own elevation."""

    reference_elevation_deg: float | Literal["auto"] = option(
        15.0,
        "how high above the object's middle the picture was taken; auto: estimated when training starts",
        ge=-90,
        le=90,
    )
    reference_azimuth_deg: float = option(
        90.0, "where around the object; turns the result, nothing else", ge=-360, le=360
    )
    reference_camera_distance: float | None = option(
        None, "its distance; null: eval_camera_distance", gt=0, le=10000
    )
    reference_fovy_deg: float | None = option(
        None, "its vertical field of view; null: eval_fovy_deg", gt=0, lt=180
    )


U = TypeVar("U", bound=UsdRandomCameraConfig, default=UsdRandomCameraConfig, covariant=True)


@register("usd-random-camera-datamodule")
class UsdRandomCameras(RandomCameras[U]):
    """``RandomCameras`` whose batches know the reference camera, at the training picture's height (square)."""

    Config = UsdRandomCameraConfig

    def reference(self, step: int = 0) -> Cameras:
        """One camera that looks at the origin, as large as the training pictures of ``step`` are high."""
        config = self.config
        if config.reference_elevation_deg == "auto":
            raise ConfigError("data.reference_elevation_deg: has not been estimated yet; expected degrees")
        distance, fovy = reference_lens(config)
        size = at_step(config.height, config.resolution_milestones, step)
        return orbit_cameras_deg(
            config.reference_elevation_deg, config.reference_azimuth_deg, distance, fovy, size
        )

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the data: the elevation in use, which may have been estimated."""
        return {ELEVATION: self.config.reference_elevation_deg}


def reference_lens(config: UsdRandomCameraConfig) -> tuple[float, float]:
    """Distance and vertical field of view (degrees) of the reference camera."""
    return (
        config.reference_camera_distance or config.eval_camera_distance,
        config.reference_fovy_deg or config.eval_fovy_deg,
    )


def stored_elevation(checkpoint: Mapping[str, Any]) -> float | None:
    """The reference elevation (degrees) that a checkpoint was trained with; None where it does not say."""
    stored = checkpoint.get(UsdRandomCameras.__qualname__)
    return float(stored[ELEVATION]) if isinstance(stored, Mapping) and ELEVATION in stored else None
