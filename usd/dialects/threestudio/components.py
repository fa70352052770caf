"""Geometry, material, background, renderer and exporter."""

from usd.core.errors import ConfigError
from usd.dialects.draft import Draft, Values

GEOMETRY = "system.geometry"
VOLUMES = ("implicit-volume", "volume-grid")
SURFACES = ("implicit-sdf", "tetrahedra-sdf-grid", "custom-mesh")
HASHED = ("implicit-volume", *SURFACES)
UNNEEDED_VOLUME = (
    "isosurface",
    "isosurface_method",
    "isosurface_coarse_to_fine",
    "isosurface_deformable_grid",
    "isosurface_outlier_n_faces_threshold",
    "n_input_dims",
)
UNNEEDED_SURFACE = ("isosurface", "isosurface_method")
UNNEEDED_RENDERER = ("return_comp_normal", "return_normal_perturb")
UNNEEDED_BACKGROUND = ("share_aug_bg",)
"""A random color is one for all views of a batch here."""
UNNEEDED_EXPORTER = ("save_video",)
KNOWN = {
    "geometry": {*UNNEEDED_VOLUME, *UNNEEDED_SURFACE},
    "background": {*UNNEEDED_BACKGROUND},
    "renderer": {*UNNEEDED_RENDERER, "prop_scheduler_config"},
}
"""Kind -> options that threestudio has there and that have another place, or none, here."""
NETWORKS: dict[str, dict[str, object]] = {
    "CutlassMLP": {"otype": "FullyFusedMLP"},
    "SphereInitVanillaMLP": {"otype": "VanillaMLP", "sphere_init": True, "weight_norm": True},
}
"""``otype`` of a network there -> what says the same here."""
ENCODINGS = {
    name.lower(): name
    for name in (
        "HashGrid",
        "Frequency",
        "TriangleWave",
        "OneBlob",
        "Identity",
        "SphericalHarmonics",
        "Composite",
    )
}
"""tinycudann's encodings by their names in small letters: it does not mind the case."""
GRID: Values = {"vertices": "tinycudann"}
TINYCUDANN: dict[str, Values] = {
    "hashgrid": {**GRID, "per_level_scale": 2.0},
    "progressivebandhashgrid": {**GRID, "per_level_scale": 2.0},
    "frequency": {"n_frequencies": 12},
    "trianglewave": {"n_frequencies": 12},
    "sphericalharmonics": {"degree": 4},
}
"""Encoding -> what tinycudann does where a file says nothing, and this project something else."""
ANNEALED = f"{GEOMETRY}.anneal_density_blob_std_config"
LINEAR_LR = {"start_factor": 1 / 3, "end_factor": 1.0, "total_iters": 5}
EXPORTER = {"fmt": "obj-mtl", "texture_format": "jpg", "target_faces": None}
"""How threestudio writes a mesh where a file says nothing: its triangles as they are, and a texture beside them."""


def translate_components(draft: Draft) -> None:
    """Translate the parts of a scene."""
    _translate_geometry(draft)
    for key in ("system.renderer", "system.renderer.base_renderer"):
        draft.drop(*[f"{key}.{name}" for name in UNNEEDED_RENDERER])
        _translate_proposal_schedule(draft, key)
    _translate_encodings(draft)
    for part in ("geometry", "material", "background"):
        _translate_network(draft, f"system.{part}.mlp_network_config")
    draft.drop(*[f"system.background.{name}" for name in UNNEEDED_BACKGROUND])
    if draft.get("system.material_type") not in ("hybrid-rgb-latent-material",):
        draft.drop("system.material.requires_normal")
    _translate_exporter(draft)


def _translate_geometry(draft: Draft) -> None:
    name = draft.get(f"{GEOMETRY}_type")
    if name in VOLUMES:
        _translate_volume(draft, name == "implicit-volume")
    elif name in SURFACES:
        draft.drop(*[f"{GEOMETRY}.{key}" for key in UNNEEDED_SURFACE])
        shape = draft.get(f"{GEOMETRY}.shape_init")
        if isinstance(shape, str) and shape.startswith("mesh:"):
            draft.set_defaults(GEOMETRY, {"shape_init_mesh_up": "+z", "shape_init_mesh_front": "+x"})


def _translate_volume(draft: Draft, implicit: bool) -> None:
    draft.drop(*[f"{GEOMETRY}.{key}" for key in UNNEEDED_VOLUME])
    if implicit:
        draft.set_defaults(GEOMETRY, {"isosurface_threshold": 25.0})
    if draft.pop(ANNEALED) is not None:
        raise ConfigError(
            f"{ANNEALED}: a blob that changes its width is not there; expected density_blob_std"
        )
    if draft.get(f"{GEOMETRY}.isosurface_threshold") == 0:
        draft.set(f"{GEOMETRY}.isosurface_threshold", "auto")
        draft.note(f"{GEOMETRY}.isosurface_threshold: every density is above 0; the export takes auto")
    if draft.get(f"{GEOMETRY}.isosurface_chunk") == 0:
        draft.pop(f"{GEOMETRY}.isosurface_chunk")


def _translate_encodings(draft: Draft) -> None:
    """Say by options here what tinycudann does where an encoding's options are silent, and in other words."""
    for key in (
        "geometry.pos_encoding_config",
        "material.dir_encoding_config",
        "background.dir_encoding_config",
    ):
        _translate_encoding(draft.section(f"system.{key}"), f"system.{key}")
    # Where there is no section the defaults are threestudio's, and not tinycudann's.
    if draft.get(f"{GEOMETRY}_type") in HASHED and f"{GEOMETRY}.pos_encoding_config" not in draft:
        draft.set(f"{GEOMETRY}.pos_encoding_config", dict(GRID))


def _translate_encoding(config: Values, key: str) -> None:
    """Write tinycudann's defaults, and its other names, into the options of an encoding and of those nested in it.

    Vertices of grids are put where tinycudann has them, for checkpoints. Raises ``ConfigError``.
    """
    name = str(config.get("otype", "HashGrid")).lower()
    if name == "grid" and str(config.pop("type", "Hash")).lower() == "hash":
        name = "hashgrid"
    if "otype" in config:
        config["otype"] = ENCODINGS.get(name, config["otype"])
    if str(kind := config.pop("interpolation", "Linear")).lower() != "linear":
        raise ConfigError(f"{key}.interpolation: is {kind}; expected Linear, as grids have here")
    config.update({**TINYCUDANN.get(name, {}), **config} if config else {})
    nested = config.get("nested")
    for each in nested if isinstance(nested, list) else ():
        _translate_encoding(each if isinstance(each, dict) else {}, f"{key}.nested")


def _translate_network(draft: Draft, key: str) -> None:
    """Say tinycudann's other kernel and threestudio's start as a sphere by options of this project's networks."""
    config = draft.section(key)
    config.update(NETWORKS.get(str(config.get("otype")), {}))
    if str(config.get("output_activation", "")).lower() == "none":  # null, None or none, as there
        config["output_activation"] = "none"


def _translate_proposal_schedule(draft: Draft, renderer: str) -> None:
    """Turn a warm-up of the proposal network's learning rate into a schedule of that rate."""
    key, rate = f"{renderer}.prop_scheduler_config", f"{renderer}.prop_optimizer_config.args.lr"
    scheduler = draft.get(key)
    if not isinstance(scheduler, dict):
        return
    parts = scheduler.get("schedulers", [scheduler])
    if not (isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict)):
        raise ConfigError(
            f"{key}: has several schedulers; expected one LinearLR, alone or in a ChainedScheduler"
        )
    args, lr = parts[0].get("args", {}), draft.get(rate) or 0.01
    if parts[0].get("name") != "LinearLR" or not isinstance(args, dict) or not isinstance(lr, int | float):
        raise ConfigError(f"{key}: is {parts[0].get('name')}; expected a LinearLR from start_factor to 1")
    # PyTorch's own defaults.
    start, end, steps = (args.get(name, value) for name, value in LINEAR_LR.items())
    draft.write_from(key, rate, [0, start * lr, end * lr, steps])


def _translate_exporter(draft: Draft) -> None:
    """Drop an exporter that writes nothing; let a mesh be written as threestudio writes it."""
    for key in ("exporter", "system.exporter"):
        if draft.get(f"{key}_type") == "dummy-exporter":
            draft.pop(f"{key}_type")
            draft.pop(key)
        draft.drop(*[f"{key}.{name}" for name in UNNEEDED_EXPORTER])
    draft.set_defaults("", {"exporter_type": "mesh-exporter"})
    if draft.get("exporter_type") == "mesh-exporter":
        draft.set_defaults("exporter", EXPORTER)
