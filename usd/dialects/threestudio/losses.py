"""``system.loss``: weights by threestudio's names."""

from usd.dialects.draft import Draft
from usd.dialects.threestudio.schedules import largest

KEY = "system.loss"
GUIDANCE = ("lambda_sds", "lambda_vsd", "lambda_sd", "lambda_sdi", "lambda_sds_vsd")
IMAGE_SPACE = ("lambda_sds_img", "lambda_vsd_img", "lambda_sd_img")
GUIDANCE_3D = ("lambda_3d_sds", "lambda_3d_sd", "lambda_3d_vsd")
OF_SURFACES = ("lambda_normal_consistency", "lambda_laplacian_smoothness")
OF_VOLUMES = (
    "lambda_orient",
    "lambda_sparsity",
    "lambda_opaque",
    "lambda_z_variance",
    "lambda_eikonal",
    "lambda_normal_smooth",
    "lambda_3d_normal_smooth",
    "lambda_normal_smoothness_2d",
    "lambda_emptiness",
    "lambda_convex",
)
OF_PICTURES = (
    "lambda_rgb",
    "lambda_mask",
    "lambda_depth",
    "lambda_depth_rel",
    "lambda_normal",
    "lambda_center_depth",
    "lambda_shape",
    "lambda_img",
    "lambda_3d",
)
OF_EXTENSIONS = ("lambda_mask_binary", "lambda_clip", "lambda_reg", "lambda_pretrain")
RASTERIZERS = ("nvdiff-rasterizer",)
EDITING = ("instructnerf2nerf-system", "control4d-multiview-system")
"""Systems whose guidance edits pictures and is no loss."""


def translate_losses(draft: Draft) -> None:
    """Translate the names of weights; drop those of losses that threestudio's system does not read."""
    if draft.get("system_type") == "usd-text-to-3d-system":  # of text systems only SJC's has depth
        draft.move(f"{KEY}.lambda_depth", f"{KEY}.lambda_center_depth")
    if draft.get("system_type") not in EDITING:
        for names, name in (
            (GUIDANCE, "lambda_usd"),
            (IMAGE_SPACE, "lambda_img"),
            (GUIDANCE_3D, "lambda_3d"),
        ):
            for old in names:
                draft.move(f"{KEY}.{old}", f"{KEY}.{name}")
    if draft.get("system_type") in EDITING:
        _drop_guidance(draft)
    _drop_other_kind(draft)
    _drop_zeros(draft)


def _drop_guidance(draft: Draft) -> None:
    """Drop the guidance's weights: where it edits pictures it is no loss."""
    for name in (*GUIDANCE, *IMAGE_SPACE):
        key = f"{KEY}.{name}"
        if largest(draft.get(key)) > 0:
            draft.drop_because(key, "is not read: the guidance edits pictures, here as in threestudio")
        draft.pop(key)


def _drop_other_kind(draft: Draft) -> None:
    """Drop the loss weights of the other kind of geometry, which threestudio ignores (rays or faces)."""
    is_mesh = draft.get("system.renderer_type") in RASTERIZERS
    for name in OF_VOLUMES if is_mesh else OF_SURFACES:
        key = f"{KEY}.{name}"
        if largest(draft.get(key)) > 0:
            kind = "meshes" if is_mesh else "volumes"
            draft.drop_because(key, f"is not read for {kind}, here as in threestudio")


def _drop_zeros(draft: Draft) -> None:
    """Drop weights of 0, every loss's default but for the guidance's."""
    for name in (*OF_SURFACES, *OF_VOLUMES, *OF_PICTURES, *OF_EXTENSIONS):
        key = f"{KEY}.{name}"
        if key in draft and largest(draft.get(key)) == 0:
            draft.pop(key)
