"""``usd new KIND NAME``: a component's file to start from, which works before anything in it is changed."""

import re
from pathlib import Path
from string import Template

from usd.core import registry
from usd.core.errors import UserError, did_you_mean

STARTS_FROM = {
    "system": "usd-system",
    "geometry": "implicit-volume",
    "material": "neural-radiance-material",
    "renderer": "nerf-volume-renderer",
    "denoiser": "gaussian",
    "prompt_processor": "stable-diffusion-prompt-processor",
    "data": "usd-random-camera-datamodule",
    "exporter": "mesh-exporter",
}
"""The component that a new one behaves like until it is changed; the other kinds have a formula to start from."""

SUFFIX = {"geometry": "", "denoiser": "", "data": "-datamodule"}
"""What is added to a file's name to make a component's; by default its kind."""

SUBCLASS = '''"""A $kind of my own: as $base until something here says otherwise."""

from dataclasses import dataclass

from usd.core.registry import register
from $module import $parent


@register("$name")
class $cls($parent):
    """What `$key: $name` means."""

    @dataclass(frozen=True)
    class Config($parent.Config):
        """Options of its own stand here: `strength: float = option(1.0, "meaning", ge=0)`."""

    config: Config
'''

GUIDANCE = '''"""Score distillation with a formula of my own.

grad = w(t) s (eps(x_t, picture, camera) - eps(x_t))
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.registry import register
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.picture_scores import PictureOptions
from usd.guidance.scores import Scores


@register("$name")
class $cls(Guidance["$cls.Config"]):
    """What `$key: $name` means."""

    @dataclass(frozen=True)
    class Config(PictureOptions):
        guidance_scale: float = option(10.0, "strength of the difference", ge=0)

    def gradient(self, x: NoisyLatents, scores: Scores) -> Float[Tensor, "B c h w"]:
        """Return the gradient with respect to the latents of a batch of views."""
        difference = scores.cond(x.xt, x.t) - scores.uncond(x.xt, x.t)
        return x.weight * self.config.guidance_scale * difference
'''

BACKGROUND = '''"""A background of my own: one color, darker towards the ground."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.background import Background
from usd.core.config import option
from usd.core.registry import register


@register("$name")
class $cls(Background):
    """What `$key: $name` means."""

    @dataclass(frozen=True)
    class Config:
        color: tuple[float, float, float] = option((0.6, 0.8, 1.0), "color straight up", ge=0, le=1)

    config: Config

    def color(
        self, directions: Float[Tensor, "R 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "R 3"]:
        """Return the colors of unit directions; world up is +z."""
        return directions.new_tensor(self.config.color) * (0.75 + 0.25 * directions[:, 2:])
'''


def write_skeleton(kind: str, name: str, folder: Path) -> tuple[Path, str]:
    """Write ``<folder>/<kind>/<file>.py`` and return it with the component's name.

    Raises ``UserError`` for a kind that does not exist, a name that is none, or one that is taken.
    """
    kind = kind.replace("-", "_")
    if kind not in registry.KINDS:
        near = did_you_mean(kind, registry.KINDS)
        raise UserError(f"{kind}: no kind of component; expected one of {', '.join(registry.KINDS)}.{near}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,60}", name, re.ASCII):
        raise UserError(f"{name}: no name of a {kind}; expected a letter, then {registry.NAME_RULE[9:]}")
    suffix = SUFFIX.get(kind, "-" + kind.replace("_", "-"))
    stem = name.lower().replace("_", "-").removesuffix(suffix)
    full, file = stem + suffix, folder / kind / f"{stem.replace('-', '_')}.py"
    taken = registry.names(kind).get(full) or (file if file.exists() else None)
    if taken is not None:
        raise UserError(f"{full}: there is such a {kind} already, {taken}; expected another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_text(kind, full), encoding="utf-8")
    return file, full


def _text(kind: str, name: str) -> str:
    """Return the source of a new component called ``name``."""
    words = {"kind": kind.replace("_", " "), "key": f"{kind}_type", "name": name}
    words["cls"] = "".join(word.capitalize() for word in name.split("-"))
    if kind not in STARTS_FROM:
        return Template({"guidance": GUIDANCE, "background": BACKGROUND}[kind]).substitute(words)
    parent = registry.find(kind, STARTS_FROM[kind])
    base = {"base": STARTS_FROM[kind], "module": parent.__module__, "parent": parent.__name__}
    return Template(SUBCLASS).substitute(words, **base)
