"""Gaussian splatting by the extensions threestudio-3dgs and threestudio-gaussiandreamer."""

from usd.dialects.draft import Draft

GEOMETRY = "system.geometry"
OPTIONS = {
    "init_num_pts": "n_splats",
    "opacity_init": "initial_opacity",
    "densify_from_iter": "density.start",
    "densify_until_iter": "density.end",
    "densification_interval": "density.every",
    "densify_grad_threshold": "density.slope_threshold",
    "split_thresh": "density.split_scale",
    "min_opac_prune": "density.prune_opacity",
    "opacity_reset_interval": "density.reset_every",
    "max_num": "density.most",
}
"""Option of the extension's geometry -> the one here."""

RATES = {
    "position_lr": "means",
    "scale_lr": "scales",
    "feature_lr": "constant",
    "opacity_lr": "opacities",
    "rotation_lr": "rotations",
}
"""Learning rate among the geometry's options -> the parameters that have it here, in the optimizer."""

UNNEEDED = (
    "prune_interval", "prune_from_iter", "prune_until_iter", "radii2d_thresh", "sphere", "pred_normal",
    "normal_lr", "scaling_lr", "position_lr_delay_mult",
)  # fmt: skip


def translate_splats(draft: Draft) -> None:
    """Translate a scene of Gaussian splats; its options of learning rates become the optimizer's."""
    if draft.get(f"{GEOMETRY}_type") != "gaussian-splatting":
        return
    if draft.get(f"{GEOMETRY}.shape_init") is None:
        draft.note(
            f"{GEOMETRY}.shape_init: starts as a blob; GaussianDreamer's start, Shap-E, would be mesh:FILE"
        )
    for old, new in OPTIONS.items():
        draft.move(f"{GEOMETRY}.{old}", f"{GEOMETRY}.{new}")
    radius = draft.get(f"{GEOMETRY}.pc_init_radius")
    if isinstance(radius, int | float):  # points spread evenly over a ball have this deviation along an axis
        draft.write_from(f"{GEOMETRY}.pc_init_radius", f"{GEOMETRY}.blob_std", radius / 5**0.5)
    _translate_rates(draft)
    draft.drop(*[f"{GEOMETRY}.{option}" for option in UNNEEDED])
    draft.drop("system.renderer.debug", "system.renderer.invert_bg_prob", "system.invert_bg_prob")
    if draft.get("system.material_type") == "no-material":  # splats have colors of their own
        draft.pop("system.material")
    if draft.get("exporter_type") == "gaussian-mesh-exporter":
        draft.set("exporter_type", "mesh-exporter")


def _translate_rates(draft: Draft) -> None:
    """Give each kind of parameter its learning rate, from a number, a schedule, or its first and last value."""
    _join_schedule(draft, "position_lr", "position_lr_init", "position_lr_final", "position_lr_max_steps")
    _join_schedule(draft, "scale_lr", "scale_lr_init", "scale_lr_final", "scale_lr_max_steps")
    draft.set_defaults("system.optimizer", {"name": "Adam", "args": {"lr": 0.0, "eps": 1e-15}})
    draft.set_defaults("system.optimizer", {"params": {}})
    groups = draft.section("system.optimizer.params")
    for old, name in RATES.items():
        rate = draft.pop(f"{GEOMETRY}.{old}")
        if rate is not None:
            groups[f"geometry.{name}"] = {"lr": rate}


def _join_schedule(draft: Draft, rate: str, first: str, last: str, steps: str) -> None:
    start, end, until = (draft.pop(f"{GEOMETRY}.{key}") for key in (first, last, steps))
    if start is not None:
        draft.set_defaults(GEOMETRY, {rate: start if end is None else [0, start, end, until]})
