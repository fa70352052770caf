"""Scores from a sentence and a picture of each view: InstructPix2Pix and ControlNet.

    edit:     eps = u + s_I (img - u) + s (txt - img)
    control:  eps = img + s (txt - img)

txt is predicted under sentence and picture, img under the picture, u under neither; for control the picture is a
map of edges or normals that a ControlNet follows.

The picture is the one that the caller gives, else the reference picture, else the render itself (its normals).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import option
from usd.core.errors import UserError
from usd.core.types import Render
from usd.denoiser import Execution, ImageTextDenoiser, TextDenoiser, open_control_denoiser, open_edit_denoiser
from usd.guidance import Guidance, ReferenceOptions
from usd.guidance.scores import Pictures, Scores, ScoreSource, predictor
from usd.math.camera import Cameras
from usd.math.canny import canny_edges
from usd.math.diffusion import EpsFn
from usd.math.distill import denoised
from usd.math.normal_map import normal_colors
from usd.prompt_processor import PromptProcessor


@dataclass(frozen=True)
class ImagePromptOptions(ReferenceOptions):
    """Options of every formula on a text model that sees a picture of the view."""

    guidance_scale: float = option(
        7.5, "guidance scale, s of the formula: factor of what the sentence changes", ge=0, le=10000
    )
    condition_scale: float = option(1.5, "guidance scale of the picture", ge=0, le=1000)
    diffusion_steps: int = option(20, "DDIM steps in which a view is edited", ge=1, le=1000)

    @property
    def wants_picture(self) -> bool:
        """Return whether an image prompt is named."""
        return bool(self.image_path)

    @property
    def wants_prompts(self) -> bool:
        """Return True: the prompt reaches the model."""
        return True


@dataclass(frozen=True)
class EditOptions(ImagePromptOptions):
    """Options of InstructPix2Pix."""

    pretrained_model_name_or_path: str = option(
        "instruct-pix2pix", "model that edits pictures: an alias, a folder or a hub id", path=True
    )

    def open_source(self, prompts: PromptProcessor | None) -> "ImagePromptScores":
        """Open the model. Raises ``UserError``."""
        where = "system.guidance.pretrained_model_name_or_path"
        model = open_edit_denoiser(self.pretrained_model_name_or_path, where, self.execution)
        return ImagePromptScores(model, prompts, self.condition_scale)


@dataclass(frozen=True)
class ControlOptions(ImagePromptOptions):
    """Options of Stable Diffusion with a ControlNet."""

    pretrained_model_name_or_path: str = option(
        "realistic-vision-2", "text model: an alias, a folder or a hub id", path=True
    )
    control_model_name_or_path: str | None = option(
        None, "ControlNet: an alias, a folder or a hub id; null: the one of control_type", path=True
    )
    control_type: Literal["normal", "canny"] = option(
        "normal",
        "map that is followed: normals (rendered; a given picture is a normal map), or edges of the picture",
    )
    canny_lower_bound: float = option(
        50, "change in [0, 255] of an edge that continues another", ge=0, le=2000
    )
    canny_upper_bound: float = option(100, "change in [0, 255] of an edge by itself", ge=0, le=2000)

    def open_source(self, prompts: PromptProcessor | None) -> "ControlScores":
        """Open the models. Raises ``UserError``."""
        return ControlScores(self, prompts, self.execution)


class ImagePromptScores(ScoreSource):
    """A model of sentence and picture. ``picture_scale`` is s_I; 1 where the formula has none."""

    model: ImageTextDenoiser

    def __init__(
        self, model: ImageTextDenoiser, prompts: PromptProcessor | None, picture_scale: float
    ) -> None:
        super().__init__()
        if prompts is None:
            raise UserError("system.prompt_processor_type: required by a guidance that reads a prompt")
        self.model, self.prompts, self.picture_scale = model, prompts, picture_scale

    def at(self, cameras: Cameras, pictures: Pictures | None) -> Scores:
        """Return the scores of the prompt and of the pictures of the views, by default the reference picture."""
        image = self._image(pictures, len(cameras))
        prompts, model = self.prompts(cameras), self.model
        condition = partial(model.with_image, prompts.cond, image)
        cond = predictor(model, condition, "conditional")
        uncond = predictor(model, partial(model.with_image, prompts.uncond, image), "picture's")
        scores = Scores(cond, uncond, condition, cameras)
        if self.picture_scale == 1:
            return scores
        neither = predictor(model, partial(model.with_image, prompts.uncond, None), "unconditional")
        return stretched(scores, neither, self.picture_scale)

    def at_reference(self, count: int) -> Scores:
        """Return the scores of the reference picture's own camera."""
        return self.at(self.given_reference()[1][[0] * count], None)

    def text_model(self) -> TextDenoiser:
        """Return the model itself, which without a picture is a text model."""
        return self.model

    def default_pictures(self, render: Render) -> Pictures | None:
        """Return the render, where there is no reference picture."""
        return render.rgb.detach() if self.reference is None else None

    def _image(self, pictures: Pictures | None, count: int) -> Pictures:
        if pictures is None:
            pictures = self.given_reference()[0].expand(count, -1, -1, -1)
        return self.condition_map(pictures)

    def condition_map(self, pictures: Pictures) -> Pictures:
        """Return what the model sees of the pictures: here the pictures."""
        return pictures


class ControlScores(ImagePromptScores):
    """Stable Diffusion with a ControlNet."""

    def __init__(
        self, options: ControlOptions, prompts: PromptProcessor | None, execution: Execution
    ) -> None:
        kind, where = options.control_type, "system.guidance.pretrained_model_name_or_path"
        control = options.control_model_name_or_path or f"controlnet-{kind}"
        name, scale = options.pretrained_model_name_or_path, options.condition_scale
        super().__init__(open_control_denoiser(name, control, where, execution, scale), prompts, 1.0)
        self.options = options
        if kind == "normal" and not options.wants_picture:
            self.needs = frozenset({"normal"})

    def default_pictures(self, render: Render) -> Pictures | None:
        """Return the rendered normals as colors, or the render; nothing where there is a reference picture."""
        if self.reference is not None or self.options.control_type != "normal":
            return super().default_pictures(render)
        if render.normal is None:
            raise UserError(
                "system.guidance.control_type: normal, but no normals are rendered; expected canny"
            )
        return normal_colors(render.normal, render.opacity, 0.0).detach()

    def condition_map(self, pictures: Pictures) -> Pictures:
        """Return edges as pictures, or the pictures, which are normals already."""
        o = self.options
        if o.control_type == "normal":
            return pictures
        return canny_edges(pictures, o.canny_lower_bound / 255, o.canny_upper_bound / 255).expand(
            -1, 3, -1, -1
        )


def stretched(scores: Scores, neither: EpsFn, scale: float) -> Scores:
    """Return scores with ``scale`` times what the picture changes (InstructPix2Pix, arXiv 2211.09800, equation 3).

    Added to both, (scale - 1) (img - u) makes img + s (txt - img) into u + scale (img - u) + s (txt - img).
    """

    def more(eps: EpsFn) -> EpsFn:
        return lambda xt, t: eps(xt, t) + (scale - 1) * (scores.uncond(xt, t) - neither(xt, t))

    return replace(scores, cond=more(scores.cond), uncond=more(scores.uncond))


@torch.no_grad()
def edit_views(
    guidance: Guidance,
    rgb: Float[Tensor, "B 3 H W"],
    cameras: Cameras,
    step: int,
    generator: torch.Generator | None,
    pictures: Pictures | None = None,
) -> Float[Tensor, "B 3 S S"]:
    """Return views edited as the prompt says: noise to a t of the guidance's range, and DDIM back (arXiv 2303.12789).

    ``pictures`` are what the model sees of each view; by default the reference picture, else the views. Raises
    ``UserError`` where the guidance sees no pictures.
    """
    options = guidance.config
    if not isinstance(options, ImagePromptOptions):
        raise UserError(
            "system.guidance_type: edits no pictures; expected stable-diffusion-instructpix2pix-guidance "
            "or stable-diffusion-controlnet-guidance"
        )
    if pictures is None and guidance.source.reference is None:
        pictures = rgb
    x = guidance.noisy_latents(guidance.model.encode(rgb), step, generator)
    predict = guidance.source.at(cameras, pictures).guided(options.guidance_scale)
    return guidance.model.decode(
        denoised(predict, x.xt, x.t, options.diffusion_steps, guidance.model.alphas_cumprod)
    )
