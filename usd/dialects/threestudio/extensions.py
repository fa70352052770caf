"""Extensions of threestudio: programs of other people, whose components its files name.

What is translated of them stands with the part that it belongs to. The rest is answered in a line: whose component it
is, what it computes, what is nearest to it here, and where it says how to port one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from usd.core import registry
from usd.core.errors import ConfigError, UserError
from usd.core.extensions import PAGE
from usd.dialects.draft import Draft

KINDS = {
    "guidance_type": "guidance",
    "guidance_3d_type": "guidance",
    "geometry_type": "geometry",
    "renderer_type": "renderer",
    "material_type": "material",
    "background_type": "background",
    "prompt_processor_type": "prompt_processor",
}
"""Key of ``system`` -> kind of the component that it names, the most telling first."""


RENAMED = {
    "data_type": {"dreamcraft3d-single-image-datamodule": "single-image-datamodule"},
    "system.background_type": {"gaussiandreamer-background": "neural-environment-map-background"},
    "system.renderer_type": {
        "dreamcraft3d-mask-nvdiff-rasterizer": "nvdiff-rasterizer",
        "diff-gaussian-rasterizer-advanced": "diff-gaussian-rasterizer",
        "diff-gaussian-rasterizer-shading": "diff-gaussian-rasterizer",
        "gaussiandreamer-rasterizer": "diff-gaussian-rasterizer",
    },
}
"""Components of extensions that do what one of threestudio's does."""


@dataclass(frozen=True)
class Extension:
    """Somebody's extension: what its components are called, what it computes, and what is nearest to that here."""

    name: str
    components: str  # a regular expression that finds something in their names
    computes: str
    nearest: str


EXTENSIONS = (
    Extension(
        "threestudio-dreamcraft3D",
        r"dreamcraft3d",
        "bootstrapped score distillation, arXiv 2310.16818",
        "configs/specialise.yaml and configs/refine.yaml, a text model that learns one object",
    ),
    Extension(
        "threestudio-4dfy",
        r"fourdfy|4dfy|zeroscope|multiview-combined",
        "objects that move, arXiv 2311.17984",
        "configs/prolificdreamer.yaml, objects that do not move",
    ),
    Extension(
        "threestudio-animate124",
        r"animate-?124|a124",
        "objects of pictures that move, arXiv 2311.14603",
        "configs/magic123.yaml, objects that do not move",
    ),
    Extension(
        "threestudio-dreammesh4d",
        r"sugar|dreammesh4d|gs4d|4dgen|temporal",
        "Gaussians on meshes that move, arXiv 2410.06756",
        "configs/magic123.yaml, objects that do not move",
    ),
    Extension(
        "threestudio-gaussiandreamer",
        r"gaussiandreamer",
        "Gaussian splats that start from Shap-E, arXiv 2310.08529",
        "a mesh to start from, geometry.shape_init: mesh:FILE",
    ),
    Extension(
        "threestudio-mvdream",
        r"mvdream|multi-?view-(diffusion|prompt)|random-multi-?view|imagedream",
        "a model that sees four views at once, arXiv 2308.16512",
        "configs/prolificdreamer.yaml, one view at a time, or configs/magic123.yaml from a picture",
    ),
    Extension(
        "threestudio-3dgs",
        r"gaussian",
        "Gaussian splats, arXiv 2308.04079",
        "geometry_type: gaussian-splatting in usd-text-to-3d-system, as in configs/splats-text.yaml",
    ),
    Extension(
        "threestudio-meshfitting",
        r"mesh-fitting",
        "a mesh fitted to renders of another one",
        "configs/reconstruct.yaml on pictures of that mesh, or geometry.shape_init: mesh:FILE",
    ),
    Extension(
        "threestudio-zero123plus",
        r"zero123-?plus",
        "six views of a picture at once, arXiv 2310.15110",
        "zero123-guidance, one view at a time (configs/zero123.yaml)",
    ),
    Extension(
        "threestudio-hifi123",
        r"hifi",
        "a picture's object with its texture refined, arXiv 2310.06744",
        "configs/magic123.yaml, then configs/refine.yaml",
    ),
    Extension(
        "threestudio-reconfusion",
        r"reconfusion",
        "a scene of few pictures, arXiv 2312.02981",
        "configs/reconstruct.yaml, or configs/zero123.yaml from one picture",
    ),
    Extension(
        "threestudio-geodream",
        r"geodream|one-?2-?3-?45|cost-volume",
        "densities of a cost volume as a start, arXiv 2311.17971",
        "configs/prolificdreamer.yaml",
    ),
    Extension(
        "threestudio-dreamwaltz",
        r"dreamwaltz|multi-controlnet|smpl",
        "people posed by a body model, arXiv 2305.12529",
        "stable-diffusion-controlnet-guidance",
    ),
    Extension(
        "threestudio-3dfuse",
        r"3dfuse|threedfuse",
        "a text model that sees sparse depth, arXiv 2303.07937",
        "stable-diffusion-controlnet-guidance, or configs/prolificdreamer.yaml",
    ),
    Extension(
        "threestudio-progressive3D",
        r"progressive-?3d",
        "an object edited region by region, arXiv 2310.11784",
        "configs/prolificdreamer.yaml",
    ),
    Extension(
        "threestudio-magicclay",
        r"magic-?clay",
        "a mesh and a signed distance edited together, arXiv 2403.02460",
        "configs/magic3d.yaml with geometry.shape_init: mesh:FILE",
    ),
    Extension(
        "threestudio-shap-e",
        r"shap-?e\b",
        "a model that makes shapes at once, arXiv 2305.02463",
        "its mesh as a start, geometry.shape_init: mesh:FILE",
    ),
    Extension(
        "threestudio-lrm",
        r"\b(open)?lrm\b",
        "a model that makes objects of pictures at once, arXiv 2311.04400",
        "its mesh as a start, geometry.shape_init: mesh:FILE",
    ),
    Extension(
        "threestudio-stable-nerf-renderer",
        r"(stable|mask)-nerf-volume-renderer",
        "gradients of large pictures in two passes",
        "nerf-volume-renderer with trainer.batch_parts, or patch-renderer",
    ),
)


def rename_components(draft: Draft) -> None:
    """Give components of extensions the names that they have in threestudio."""
    for key, names in RENAMED.items():
        name = draft.get(key)
        if isinstance(name, str) and name in names:
            draft.set(key, names[name])


def extension_of(name: object) -> Extension | None:
    """Return the extension whose components have names like this one; None where none has."""
    if not isinstance(name, str):
        return None
    return next((each for each in EXTENSIONS if re.search(each.components, name, re.IGNORECASE)), None)


def is_missing(kind: str, name: object) -> bool:
    """Return whether no component of a kind has this name here."""
    if not isinstance(name, str):
        return False
    try:
        registry.find(kind, name)
    except UserError:
        return True
    return False


def refuse_extensions(values: Mapping[str, object]) -> None:
    """Raise ``ConfigError`` for components of extensions that are not here, the first with what is nearest to it."""
    draft = Draft(values)
    keys = {f"system.{key}": kind for key, kind in KINDS.items()}
    keys = {**keys, "system_type": "system", "data_type": "data", "exporter_type": "exporter"}
    for key, kind in keys.items():
        name = draft.get(key)
        extension = extension_of(name)
        if extension is not None and is_missing(kind, name):
            raise ConfigError(
                f"{key}: {name} is of the extension {extension.name} ({extension.computes}), which is not here; "
                f"expected {extension.nearest}, or a component of your own: {PAGE}"
            )
