"""Edit models as view denoisers: the camera is said in the prompt, by the name of the nearest of 96 views.

LoRAs teach edit models such prompts, "<sks> right side view elevated shot medium shot", from renders of known cameras.
A LoRA over an unchanged base is what rectification (arXiv 2312.06198) was made for: the conditional prediction is the
LoRA's, the unconditional one that of the base without it.
"""

from dataclasses import dataclass, field
from typing import TypeGuard
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.denoiser import Denoiser, Embedding, EncodedReference, ImageTextDenoiser, ViewDenoiser
from usd.denoiser.pipeline import PipelineConfig, PipelineDenoiser, PromptTokens, stack_prompts
from usd.math.camera import Cameras
from usd.math.view_groups import named_views

AZIMUTHS = (
    "front view",
    "front-right quarter view",
    "right side view",
    "back-right quarter view",
    "back view",
    "back-left quarter view",
    "left side view",
    "front-left quarter view",
)
"""Every 45 degrees from the picture's, as the camera moves to the right."""
ELEVATIONS = ("low-angle shot", "eye-level shot", "elevated shot", "high-angle shot")
"""At -30, 0, 30 and 60 degrees."""
DISTANCES = ("close-up", "medium shot", "wide shot")
"""At .6, 1 and 1.8 times the picture's distance."""
TRIGGER = "<sks>"
"""What such a prompt begins with, in the published LoRAs of Qwen-Image-Edit-2511 and FLUX.2."""


def view_prompt(azimuth: int, elevation: int, distance: int) -> str:
    """Return the prompt of a named view, by its numbers."""
    return f"{TRIGGER} {AZIMUTHS[azimuth]} {ELEVATIONS[elevation]} {DISTANCES[distance]}"


PROMPTS = tuple(view_prompt(a, e, 1) for e in range(len(ELEVATIONS)) for a in range(len(AZIMUTHS)))
"""The views at the picture's own distance, which are read while the text encoders are in memory."""


@dataclass(frozen=True)
class NamedReference(EncodedReference):
    """A reference picture, its camera, and the prompts that were read with it."""

    picture: Float[Tensor, "1 3 H W"]
    cameras: Cameras
    readings: dict[str, PromptTokens] = field(default_factory=dict)


class NamedViewsDenoiser(ViewDenoiser[PipelineConfig]):
    """An edit model that is given the picture, which shows the front, and the name of the view.

    Its own unconditional prediction keeps the picture and has an empty prompt, as the pipelines have it.
    """

    def __init__(self, edit: ImageTextDenoiser[PipelineConfig]) -> None:
        super().__init__(edit.config, edit.name)
        self.edit, self.latent = edit, edit.latent
        self.register_buffer("alphas_cumprod", edit.alphas_cumprod, persistent=False)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Return the edit model's latents."""
        return self.edit.encode(image)

    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 S S"]:
        """Return the edit model's pictures."""
        return self.edit.decode(z)

    def eps(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise that the edit model predicts."""
        return self.edit.eps(xt, t, embedding)

    def unconditional(self, batch: int) -> Embedding:
        """Return the condition of neither a prompt nor a picture."""
        return self.edit.unconditional(batch)

    def encode_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> NamedReference:
        """Return the picture with the views of its own distance read beside it, and the empty prompt."""
        reference = NamedReference(rgb, cameras)
        for prompt in ("", *PROMPTS):
            self._reading(reference, prompt)
        return reference

    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> PromptTokens:
        """Return the condition of the named views that are nearest to the cameras."""
        assert isinstance(reference, NamedReference)
        numbers = named_views(cameras, reference.cameras.to(cameras.device)).tolist()
        return stack_prompts([self._reading(reference, view_prompt(*row)) for row in numbers])

    def with_cameras(
        self, embedding: Embedding, cameras: Cameras, reference: EncodedReference | None = None
    ) -> Embedding:
        """Return the empty prompt with the reference picture, where there is one."""
        if reference is None:
            return embedding
        assert isinstance(reference, NamedReference)
        return self._reading(reference, "").select(torch.zeros(len(cameras), dtype=torch.long))

    def release_encoders(self) -> None:
        """Free the text encoders; a view from another distance reads them again."""
        self.edit.release_encoders()

    def _reading(self, reference: NamedReference, prompt: str) -> PromptTokens:
        """Return a prompt read with the picture, once."""
        if prompt not in reference.readings:
            read = self.edit.with_image(self.edit.embed_text([prompt]), reference.picture)
            assert isinstance(read, PromptTokens)
            reference.readings[prompt] = read
        return reference.readings[prompt]


_views: "WeakValueDictionary[int, NamedViewsDenoiser]" = WeakValueDictionary()
"""By the identity of their edit models, which they keep alive."""


def as_view_denoiser(model: Denoiser) -> Denoiser:
    """Return an edit pipeline as a view denoiser, and any other model as it is."""
    if not _edits(model):
        return model
    known = _views.get(id(model))
    if known is None:
        known = _views[id(model)] = NamedViewsDenoiser(model)
    return known


def _edits(model: Denoiser) -> "TypeGuard[ImageTextDenoiser[PipelineConfig]]":
    return isinstance(model, ImageTextDenoiser) and isinstance(model, PipelineDenoiser)
