"""``data``: cameras, lamps, and the reference picture."""

from usd.core.errors import ConfigError
from usd.dialects.draft import Draft

CAMERAS = {
    "elevation_sampling": "mixture",
    "light_sample_strategy": "dreamfusion",
    "light_position_perturb": 1.0,
    "light_distance_range": [0.8, 1.5],
    "n_val_views": 1,
}
"""What threestudio's random cameras do where a file says nothing."""

SINGLE_IMAGE = {
    "height": 96,
    "width": 96,
    "default_elevation_deg": 0.0,
    "default_azimuth_deg": -180.0,
    "default_camera_distance": 1.2,
    "default_fovy_deg": 60.0,
}
UNNEEDED = (
    "rays_d_normalize",
    "rays_noise_scale",
    "use_random_camera",
    "use_mixed_camera_config",
    "requires_depth",
    "requires_normal",
)
CO3D_UNNEEDED = (
    "scale_radius",
    "cam_scale_factor",
    "load_preprocessed",
    "v2_mode",
    "train_num_rays",
    "train_split",
    "val_split",
    "test_split",
    "render_path",
    "batch_size",
)
KNOWN = (*SINGLE_IMAGE, *UNNEEDED, "image_path", "random_camera")
REFERENCE = ("elevation_deg", "azimuth_deg", "camera_distance", "fovy_deg")


def translate_data(draft: Draft) -> None:
    """Translate the data by its kind."""
    name = draft.get("data_type")
    if name == "single-image-datamodule":
        _translate_single_image(draft)
    elif name in ("random-camera-datamodule", "eff-random-camera-datamodule"):
        draft.drop(*[f"data.default_{key}" for key in REFERENCE])  # names for interpolations
    if name in ("random-camera-datamodule", "eff-random-camera-datamodule", "single-image-datamodule"):
        draft.set_defaults("data", CAMERAS)
        draft.drop(*[f"data.{key}" for key in UNNEEDED])
    if name == "co3d-datamodule":
        _translate_co3d(draft)


def _translate_single_image(draft: Draft) -> None:
    """Move the reference camera's options to ``data.reference_*``, those of the other views to ``data``'s own."""
    draft.set_defaults("data", SINGLE_IMAGE)
    draft.set("data_type", "usd-random-camera-datamodule")
    for key in REFERENCE:
        draft.move(f"data.default_{key}", f"data.reference_{key}")
    if draft.get("data.batch_size") not in (None, 1):
        raise ConfigError(
            f"data.batch_size: {draft.get('data.batch_size')} pictures; expected 1, or data.random_camera.batch_size"
        )
    draft.pop("data.batch_size")
    for key in ("height", "width", "resolution_milestones"):
        draft.move(f"data.{key}", f"data.reference_{key}")
    draft.pop("data.reference_width")
    _move_picture(draft)
    _move_cameras(draft)


def _move_picture(draft: Draft) -> None:
    """Give the picture to the guidance that conditions on one, else to the system; its framing is kept."""
    places = ("system.guidance", "system.guidance_3d")
    place = next((p for p in places if f"{p}.zero123_model_name_or_path" in draft), "system")
    if f"{place}.image_path" in draft and draft.get(f"{place}.image_path") != draft.get("data.image_path"):
        raise ConfigError(
            f"{place}.cond_image_path: is {draft.get(f'{place}.image_path')}, but data.image_path is "
            f"{draft.get('data.image_path')}; expected one picture"
        )
    draft.move("data.image_path", f"{place}.image_path")
    draft.set_defaults("system.reference", {"framing": "keep"})
    for key in ("requires_depth", "requires_normal"):
        if draft.get(f"data.{key}"):
            draft.move(f"data.{key}", f"system.reference.{key}")


def _move_cameras(draft: Draft) -> None:
    """``data.random_camera.*`` are ``data.*``."""
    for key in list(draft.section("data.random_camera")):
        draft.move(f"data.random_camera.{key}", f"data.{key}")
    draft.pop("data.random_camera")


def _translate_co3d(draft: Draft) -> None:
    """Random views beside the pictures of a sequence, whose world is fitted to it."""
    draft.set_defaults("system.reference", {"framing": "keep"})
    draft.move("data.height", "data.reference_height")
    draft.pop("data.width")
    draft.drop(*[f"data.{key}" for key in (*CO3D_UNNEEDED, "rays_d_normalize", "use_random_camera")])
    draft.note("data: the world of a CO3D sequence is fitted to its object, whatever its scale")
    _move_cameras(draft)
    draft.set_defaults("data", CAMERAS)
