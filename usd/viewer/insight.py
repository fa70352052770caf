"""What a guidance sees of a view, and what it wants of it, as pictures.

At one noise level and with noise that stays the same from look to look: the view with noise, the picture that one
denoising step makes of it (with the guidance's unconditional prediction, and with the model's own, biased one where
that is another), and the gradient: where it is strong, and which way it pulls.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from usd.core.random import generator
from usd.core.types import Render
from usd.data.pictures import to_bytes
from usd.guidance import Guidance, NoisyLatents
from usd.guidance.scores import Pictures, Scores
from usd.math.camera import Cameras
from usd.math.diffusion import EpsFn, add_noise, normal_like, x0_from_eps
from usd.math.distill import time_weight
from usd.system.distillation import DistillationSystem
from usd.system.latent_pictures import fit_latents
from usd.viewer.pictures import undisturbed

Picture = Float[Tensor, "3 H W"]
HEAT = ((0.0, 0.0, 0.02), (0.34, 0.06, 0.43), (0.73, 0.21, 0.33), (0.98, 0.55, 0.04), (0.99, 1.0, 0.64))
"""Colors from nothing to the most, evenly spaced."""


@dataclass(frozen=True)
class GuidanceLook:
    """A view as a guidance takes it: its latents, the pictures for models that see one, and what was rendered."""

    guidance: Guidance
    cameras: Cameras
    z: Float[Tensor, "1 c h w"]
    pictures: Pictures | None
    rendered: Picture


def open_guidance_of(system: DistillationSystem) -> Guidance | None:
    """Return the guidance while a training has it open, once it knows the reference picture if it looks at one."""
    guidance = system.guidance
    if guidance is None or (guidance.config.wants_picture and guidance.source.reference is None):
        return None
    return guidance


def guidance_pictures(
    system: DistillationSystem, guidance: Guidance, cameras: Cameras, level: float
) -> dict[str, Picture]:
    """Return pictures by caption of what a guidance sees from one camera at a noise level in (0, 1), and wants there.

    Nothing of the training changes. A guidance that learns from the views it scores is asked for plain distillation's
    gradient instead of its own.
    """
    with undisturbed(system):
        look = _look(system, guidance, cameras.to(system.device))
        x = _noisy(look, level, system.step)
        scores = guidance.source.at(look.cameras, look.pictures)
        biased = guidance.source.biased_at(look.cameras, look.pictures)
        return {
            "rendered": look.rendered,
            f"with noise, t = {int(x.t)}": _decoded_picture(guidance, x.xt),
            **_estimates(guidance, x, scores, biased),
            **_gradient_pictures(guidance, x, scores),
        }


def _look(system: DistillationSystem, guidance: Guidance, cameras: Cameras) -> GuidanceLook:
    """Render a view and bring it to the guidance, as a training step does."""
    render = system.renderer.render(cameras, guidance.needs | system.stage_needs | {"foreground"}, None)
    latents = system.latents_of(render, system.step)
    if latents is None:
        shown: Render = system.guidance_input(render)
        z, pictures = guidance.model.encode(shown.rgb), guidance.source.default_pictures(shown)
        return GuidanceLook(guidance, cameras, z, pictures, shown.rgb[0])
    z = fit_latents(latents, guidance.model.latent)
    return GuidanceLook(guidance, cameras, z, None, _decoded_picture(guidance, z))


def _noisy(look: GuidanceLook, level: float, step: int) -> NoisyLatents:
    bars = look.guidance.model.alphas_cumprod.to(look.z.device)
    t = torch.full((1,), round(level * (len(bars) - 1)), device=look.z.device)
    source = generator(look.z.device, 0, "what the guidance sees")
    noise = normal_like(look.z, source)
    weight = time_weight(look.guidance.config.weighting_strategy, bars, t)
    return NoisyLatents(look.z, add_noise(look.z, noise, bars, t), noise, t, weight, step, source)


def _estimates(
    guidance: Guidance, x: NoisyLatents, scores: Scores, biased: Scores | None
) -> dict[str, Picture]:
    scale = guidance_scale_of(guidance)

    def estimate(eps: EpsFn) -> Picture:
        bars = guidance.model.alphas_cumprod.to(x.xt.device)
        return _decoded_picture(guidance, x0_from_eps(x.xt, eps(x.xt, x.t), bars, x.t))

    if biased is not None:
        return {
            "step, rectified": estimate(scores.guided(scale)),
            "step, not rectified": estimate(biased.guided(scale)),
        }
    return {
        f"step, scale {scale:g}": estimate(scores.guided(scale)),
        "step, scale 1": estimate(scores.cond),
    }


def guidance_scale_of(guidance: Guidance) -> float:
    """Return the scale that a guidance's options say; 1 where they have none."""
    return float(vars(guidance.config).get("guidance_scale", 1.0))


def _gradient_pictures(guidance: Guidance, x: NoisyLatents, scores: Scores) -> dict[str, Picture]:
    """Return how strong the gradient is at each place, and how the picture changes along its descent."""
    if guidance.learns:
        grad = x.weight * (scores.guided(guidance_scale_of(guidance))(x.xt, x.t) - x.noise)
    else:
        grad = guidance.gradient(x, scores)
    strength = grad.norm(dim=1)[0]
    # A descent by a tenth of the latents' spread is large enough to be seen, and small enough to be a direction.
    towards = x.z - 0.1 * x.z.std().clamp_min(1e-3) * grad / grad.std().clamp_min(1e-12)
    change = guidance.model.decode(towards)[0] - guidance.model.decode(x.z)[0]
    return {
        f"gradient, up to {float(strength.max()):.2g}": heat_map(strength),
        "its direction": (0.5 + 0.4 * change / change.abs().max().clamp_min(1e-6)).clamp(0, 1),
    }


def heat_map(values: Float[Tensor, "h w"]) -> Picture:
    """Return non-negative values as colors, from black at 0 to light yellow at the largest."""
    place = values / values.max().clamp_min(1e-12) * (len(HEAT) - 1)
    low = place.floor().clamp(0, len(HEAT) - 2).long()
    table = torch.tensor(HEAT, device=values.device)
    share = (place - low)[..., None]
    return (table[low] * (1 - share) + table[low + 1] * share).permute(2, 0, 1)


def _decoded_picture(guidance: Guidance, z: Float[Tensor, "1 c h w"]) -> Picture:
    return guidance.model.decode(z)[0].clamp(0, 1)


def captioned_sheet(
    pictures: Mapping[str, Picture], side: int = 124, columns: int = 3
) -> UInt8[NDArray, "Y X 3"]:
    """Return pictures in a grid with their captions below, light on dark, as bytes."""
    font, line, gap = ImageFont.load_default(12), 19, 6
    rows = -(-len(pictures) // columns)
    size = (columns * (side + gap) - gap, rows * (side + line + gap) - gap)
    sheet = Image.new("RGB", size, (26, 27, 30))
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(pictures.items()):
        left, top = index % columns * (side + gap), index // columns * (side + line + gap)
        tile = Image.fromarray(to_bytes(picture.cpu().clamp(0, 1)))
        sheet.paste(tile.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        draw.text((left + 2, top + side + 2), _fitting(caption, font, side), (200, 202, 206), font)
    return np.asarray(sheet)


def _fitting(caption: str, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont", width: int) -> str:
    """Return a caption, its end left out where it is too long."""
    while font.getlength(caption) > width - 4 and len(caption) > 4:
        caption = caption[:-2].rstrip(".") + "."
    return caption
