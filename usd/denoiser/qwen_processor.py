"""Prompts with pictures for Qwen's language models, without torchvision, which transformers' own processor wants."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from usd.denoiser.weights import quiet, readable

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

IMAGE = "<|image_pad|>"
"""Token in a prompt where a picture stands; it is repeated for each patch of the picture."""


class QwenProcessor:
    """Tokens of prompts and patches of their pictures, as Qwen2-VL's processor makes them."""

    def __init__(self, pictures: "Qwen2VLImageProcessorPil", tokenizer: "PreTrainedTokenizerBase") -> None:
        self.pictures, self.tokenizer = pictures, tokenizer

    def __call__(
        self,
        text: Sequence[str],
        images: Sequence[Image.Image] | None = None,
        padding: bool = True,
        return_tensors: str = "pt",
    ) -> "BatchFeature":
        """Return ids of the prompts, in which the pictures follow one another, and the pictures' patches."""
        from transformers import BatchFeature

        patches: dict[str, object] = {}
        counts: list[int] = []
        if images:
            patches = dict(self.pictures(images=list(images), return_tensors=return_tensors))
            grids = cast("Sequence[Sequence[int]]", patches["image_grid_thw"])
            counts = [int(t * h * w) // self.pictures.merge_size**2 for t, h, w in grids]
        prompts = with_patches(text, counts)
        ids = self.tokenizer(prompts, padding=padding, return_tensors=return_tensors)
        return BatchFeature({**ids, **patches})


def with_patches(prompts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return prompts in which the token of each picture stands as often as the picture has patches."""
    left = iter(counts)
    found = []
    for prompt in prompts:
        first, *rest = prompt.split(IMAGE)
        found.append(first + "".join(IMAGE * next(left) + piece for piece in rest))
    return found


def read_processor(folder: Path, tokenizer: object) -> QwenProcessor:
    """Return the processor of a model, whose folder says how pictures are prepared. Raises ``UserError``."""
    from transformers import Qwen2VLImageProcessorPil

    with readable(folder, "a processor of pictures"), quiet():
        pictures = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    return QwenProcessor(pictures, cast("PreTrainedTokenizerBase", tokenizer))
