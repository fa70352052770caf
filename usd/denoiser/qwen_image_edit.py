"""Qwen-Image-Edit: Qwen-Image that sees a reference picture twice, as latents and through its language model.

A prompt is read together with the picture, so that a condition keeps the prompt itself and reads it again for each.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from typing_extensions import override

from usd.core.errors import UserError
from usd.core.registry import register
from usd.denoiser import Embedding, ImageTextDenoiser
from usd.denoiser.pipeline import (
    PipelineConfig,
    PromptEncoders,
    PromptReader,
    PromptTokens,
    read_prompt_encoders,
    stack_prompts,
)
from usd.denoiser.qwen_image import QwenImageDenoiser
from usd.denoiser.qwen_processor import read_processor
from usd.denoiser.weights import read_json

SIDE = 384
"""Side in pixels at which the language model is shown a square picture, as the pipeline has it."""
LONGEST = 2048
"""Bytes of the longest prompt."""
KEPT = 64
"""Readings of a prompt with a picture that are kept."""


@dataclass(frozen=True)
class EditTokens(PromptTokens):
    """Tokens of a prompt, with a picture or without, and the prompt itself, in bytes."""

    prompt: UInt8[Tensor, "B L"] | None = None

    @override
    def lerp(self, other: "EditTokens", share: Float[Tensor, "B"]) -> "EditTokens":
        """Raise ``UserError``: between two prompts there is none."""
        raise UserError(
            "Qwen-Image-Edit reads whole prompts, and was asked for a mixture of two; "
            "expected system.prompt_processor.use_perp_neg: false"
        )

    def prompts(self) -> list[str]:
        """Return the prompts."""
        assert self.prompt is not None
        return [bytes(row.tolist()).rstrip(b"\0").decode("utf-8") for row in self.prompt.cpu()]


@register("qwen-image-edit")
class QwenImageEditDenoiser(QwenImageDenoiser, ImageTextDenoiser[PipelineConfig]):
    """Qwen-Image-Edit since 2509. A condition without ``with_image`` is that of no picture.

    The reference picture's latents have the size of the pictures that are made.
    """

    components = (*QwenImageDenoiser.components, "processor")
    pipeline = "QwenImageEditPlusPipeline"
    embedding = EditTokens

    def __init__(self, config: PipelineConfig, name: str = "") -> None:
        super().__init__(config, name)
        self._readings: dict[tuple[str, str], PromptTokens] = {}
        index = self.folder / "model_index.json"
        if index.is_file() and read_json(index).get("_class_name") == "QwenImageEditPipeline":
            raise UserError(
                f"'{self.name}' is the first Qwen-Image-Edit, which cannot do without a picture; "
                "expected Qwen-Image-Edit-2509 or later"
            )

    @override
    def _read_encoders(self) -> PromptEncoders:
        """Return the language model, and a reader of pictures that does without torchvision."""
        unread = (self.network_name, "vae", "processor")
        encoders = read_prompt_encoders(self.folder, self.pipeline, unread, self.execution.weights)
        processor = read_processor(self.folder / "processor", encoders.pipeline.components["tokenizer"])
        setattr(encoders.pipeline, "processor", processor)  # noqa: B010 - a pipeline of diffusers declares none
        return encoders

    def embed_text(self, prompts: Sequence[str]) -> EditTokens:
        """Return what the pipeline's own code makes of prompts without a picture. Raises ``UserError``."""
        read = super().embed_text(prompts)
        return EditTokens(read.tokens, read.mask, prompt=_as_bytes(prompts).to(read.tokens.device))

    @torch.no_grad()
    def with_image(self, embedding: Embedding, image: Float[Tensor, "B 3 H W"] | None) -> EditTokens:
        """Return the prompts read with pictures, one a row, and the pictures' latents; None: without."""
        assert isinstance(embedding, EditTokens)
        prompts = embedding.prompts()
        if image is None:
            return self.embed_text(prompts)
        shown = [_as_picture(row) for row in image]
        read = [self._reading(prompt, picture) for prompt, picture in zip(prompts, shown, strict=True)]
        both = stack_prompts(read)
        return replace(embedding, tokens=both.tokens, mask=both.mask, picture=self.encode(image))

    def _reading(self, prompt: str, picture: Image.Image) -> PromptTokens:
        """Return a prompt read with a picture; the last ones are kept, as a view is asked for again and again."""
        key = prompt, hashlib.blake2b(picture.tobytes()).hexdigest()
        if key not in self._readings:
            while len(self._readings) >= KEPT:
                del self._readings[next(iter(self._readings))]
            device = self.alphas_cumprod.device
            with torch.autocast(device.type, enabled=False), self.prompts.use(device) as encoders:
                self._readings[key] = self._read_prompts(encoders.pipeline, [prompt], device, picture)
        return self._readings[key]

    @override
    def _read_prompts(
        self,
        pipeline: PromptReader,
        prompts: list[str],
        device: torch.device,
        picture: Image.Image | None = None,
    ) -> PromptTokens:
        """Return tokens, and which are meant, of prompts with a picture or without."""
        given = None if picture is None else [picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)]
        return self._tokens_of(pipeline.encode_prompt(prompts, image=given, device=device))


def _as_bytes(prompts: Sequence[str]) -> UInt8[Tensor, "B L"]:
    """Return prompts as rows of bytes, filled up with zeros. Raises ``UserError`` for one that is too long."""
    rows = [prompt.encode("utf-8") for prompt in prompts]
    if longest := max((len(row) for row in rows if len(row) > LONGEST), default=0):
        raise UserError(f"a prompt has {longest} bytes; expected at most {LONGEST} for Qwen-Image-Edit")
    return torch.tensor([list(row.ljust(LONGEST, b"\0")) for row in rows], dtype=torch.uint8)


def _as_picture(picture: Float[Tensor, "3 H W"]) -> Image.Image:
    """Return a picture in [0, 1] as one of 8 bits."""
    levels = picture.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
