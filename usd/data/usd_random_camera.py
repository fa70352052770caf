"""Random cameras, and the camera that took the reference picture."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from typing_extensions import TypeVar

from usd.core import checkpoint
from usd.core.config import ConfigError, UserError, option
from usd.core.registry import register
from usd.data import RunContext
from usd.data.random_camera import RandomCameraConfig, RandomCameras, at_step, check_milestones
from usd.math.camera import Cameras, orbit_cameras_deg

ELEVATION = "reference_elevation_deg"  # its key in checkpoints


@dataclass(frozen=True)
class ReferenceSizeConfig(RandomCameraConfig):
    """Options of random cameras, and the size of the reference view that is rendered beside them."""

    reference_height: int | tuple[int, ...] | None = option(
        None,
        "pixels a side of the rendered reference view; a list follows reference_resolution_milestones; null: height",
        ge=1,
        le=16384,
    )
    reference_resolution_milestones: tuple[int, ...] | None = option(
        None, "steps at which reference_height takes its next value; null: resolution_milestones", ge=1
    )


@dataclass(frozen=True)
class UsdRandomCameraConfig(ReferenceSizeConfig):
    """The defaults are the published reference camera; a photograph from another height needs its own elevation."""

    reference_elevation_deg: float | Literal["auto"] = option(
        15.0,
        "elevation in degrees from which the reference picture was taken; auto: estimated when training starts",
        ge=-90,
        le=90,
    )
    reference_azimuth_deg: float = option(
        90.0,
        "azimuth of the reference camera in degrees; it turns the result and nothing else",
        ge=-360,
        le=360,
    )
    reference_camera_distance: float | None = option(
        None, "distance of the reference camera from the origin; null: eval_camera_distance", gt=0, le=10000
    )
    reference_fovy_deg: float | None = option(
        None, "vertical field of view of the reference camera in degrees; null: eval_fovy_deg", gt=0, lt=180
    )


U = TypeVar("U", bound=UsdRandomCameraConfig, default=UsdRandomCameraConfig, covariant=True)


@register("usd-random-camera-datamodule")
class UsdRandomCameras(RandomCameras[U]):
    """``RandomCameras`` whose batches know the reference camera, square, as large as training pictures are high."""

    Config = UsdRandomCameraConfig

    def __init__(self, config: U) -> None:
        super().__init__(config)
        check_reference_size(config)

    @classmethod
    def resolve(cls, config: object, context: RunContext) -> object:
        """Return the options with the reference elevation as a number: as given, as resumed, or estimated.

        Only a training estimates. Raises ``UserError`` where it is ``auto`` and cannot be told.
        """
        assert isinstance(config, UsdRandomCameraConfig)
        if config.reference_elevation_deg != "auto" or not (context.is_training or context.resume):
            return config  # the latter is refused for lack of a checkpoint
        degrees = None if context.resume is None else stored_elevation(checkpoint.load(context.resume))
        if degrees is None and not context.is_training:
            raise UserError(
                f"data.reference_elevation_deg: is auto, and {context.resume} says no elevation; expected degrees"
            )
        if degrees is None:
            degrees = context.estimate_elevation(*reference_lens(config))
        return replace(config, reference_elevation_deg=degrees)

    def reference(self, step: int = 0) -> Cameras:
        """Return one camera that looks at the origin, as large as ``reference_height`` says for ``step``."""
        config = self.config
        if config.reference_elevation_deg == "auto":
            raise ConfigError("data.reference_elevation_deg: has not been estimated yet; expected degrees")
        distance, fovy = reference_lens(config)
        size = reference_size(config, step)
        return orbit_cameras_deg(
            config.reference_elevation_deg, config.reference_azimuth_deg, distance, fovy, size
        )

    def state_dict(self) -> dict[str, object]:
        """Return the elevation in use, which may have been estimated, for checkpoints."""
        return {ELEVATION: self.config.reference_elevation_deg}


def check_reference_size(config: ReferenceSizeConfig) -> None:
    """Raise ``ConfigError`` for a list of sizes without as many milestones, and for milestones without a size."""
    own = config.reference_resolution_milestones
    if config.reference_height is not None:
        milestones = config.resolution_milestones if own is None else own
        check_milestones("reference_height", config.reference_height, milestones)
    elif own:
        raise ConfigError(
            "data.reference_resolution_milestones: has no reference_height to change; expected one"
        )


def reference_size(config: ReferenceSizeConfig, step: int) -> int:
    """Return the pixels a side of the reference view at a step."""
    if config.reference_height is None:
        return at_step(config.height, config.resolution_milestones, step)
    own = config.reference_resolution_milestones
    return at_step(config.reference_height, config.resolution_milestones if own is None else own, step)


def reference_lens(config: UsdRandomCameraConfig) -> tuple[float, float]:
    """Return distance and vertical field of view (degrees) of the reference camera."""
    return (
        config.reference_camera_distance or config.eval_camera_distance,
        config.reference_fovy_deg or config.eval_fovy_deg,
    )


def reference_camera(config: UsdRandomCameraConfig, size: int, unknown_deg: float = 15.0) -> Cameras:
    """Return the reference camera, ``size`` pixels a side; an elevation of ``auto`` is ``unknown_deg``."""
    elevation = config.reference_elevation_deg
    distance, fovy = reference_lens(config)
    degrees = unknown_deg if elevation == "auto" else float(elevation)
    return orbit_cameras_deg(degrees, config.reference_azimuth_deg, distance, fovy, size)


def stored_elevation(saved: Mapping[str, object]) -> float | None:
    """Return the reference elevation (degrees) that a checkpoint was trained with; None where it does not say."""
    stored = saved.get(UsdRandomCameras.__qualname__)
    return float(stored[ELEVATION]) if isinstance(stored, Mapping) and ELEVATION in stored else None
