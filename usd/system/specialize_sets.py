"""The pictures that a specialization learns from: made once, kept as PNG files, read back from them.

A set is a folder with ``000.png``, ``001.png``, ... and ``set.json``, which holds a digest of everything that decides
them. A run that is cut off goes on where it stopped; a set made with other settings is made again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import files
from usd.core.config import option
from usd.core.errors import UserError
from usd.core.progress import each
from usd.core.random import generator
from usd.data.pictures import contact_sheet, over, read_rgba, write_picture
from usd.data.view_readers import ViewOptions, read_views
from usd.denoiser import EncodedReference, TextDenoiser, ViewDenoiser, check_shared_latents
from usd.denoiser.picture import resize_square
from usd.denoiser.sample import Sampler, sample_text, sample_views
from usd.math.camera import Cameras

Pictures = Float[Tensor, "N 3 S S"]


@dataclass(frozen=True)
class SamplingConfig:
    """Options of sampling pictures to learn from."""

    steps: int = option(50, "number of DDIM steps", ge=1, le=1000)
    scale: float = option(3.0, "scale of classifier-free guidance", ge=0, le=10000)
    rectified: bool = option(
        False,
        "guide novel views against the text model's unconditional prediction (arXiv 2312.06198, supplement)",
    )
    batch_size: int = option(4, "pictures sampled at once", ge=1, le=65536)

    def sampler(self) -> Sampler:
        """Return steps and scale as a sampler takes them."""
        return Sampler(self.steps, self.scale)


@dataclass(frozen=True)
class PromptsConfig:
    """The three prompts. {subject}, {object_token} and {input_token} stand for the options of these names."""

    class_: str = option("photo of a {subject}", "prompt of anything of the object's kind")
    object: str = option("photo of a {object_token} {subject}", "prompt of the object")
    input: str = option(
        "photo of a {input_token} {object_token} {subject}",
        "prompt of the object, as clear as the input picture",
    )

    def fill(self, where: str, **words: str) -> "PromptsConfig":
        """Fill in the words. Raises ``UserError`` where a template asks for a word that there is not."""
        prompts = {}
        for field in fields(self):
            template = getattr(self, field.name)
            try:
                prompts[field.name] = " ".join(template.format(**words).split())
            except (KeyError, IndexError, ValueError) as problem:
                known = ", ".join(f"{{{word}}}" for word in words)
                raise UserError(
                    f"{where}.{field.name.removesuffix('_')}: '{template}': unknown {problem}; expected {known}"
                ) from problem
        return PromptsConfig(**prompts)


def picture_set(
    folder: Path,
    settings: object,
    count: int,
    batch_size: int,
    make: Callable[[int, int], Pictures],
) -> Pictures:
    """Read ``count`` pictures from ``folder``; those that are missing are made by ``make(first, after the last)``.

    ``settings``, JSON-like, are everything that decides them: with others all are made again.
    """
    key = files.digest(json.dumps(settings, sort_keys=True))
    if _record_key(folder) != key:
        for old in folder.glob("*.png"):
            old.unlink()
        files.write_record(folder / "set.json", {"key": key, "count": count})
    names = [folder / f"{index:03d}.png" for index in range(count)]
    for first in each(range(0, count, batch_size), f"pictures of the set {folder.name}, batches"):
        chunk = range(first, min(first + batch_size, count))
        if not all(names[index].is_file() for index in chunk):
            for index, picture in zip(chunk, make(chunk.start, chunk.stop), strict=True):
                write_picture(names[index], picture.cpu())
    pictures = torch.stack([over(read_rgba(name)) for name in names])
    write_picture(folder.parent / f"{folder.name}.png", contact_sheet(pictures[:64], columns=8))
    return pictures


def _record_key(folder: Path) -> str | None:
    """Return the digest of the settings that a set was made with."""
    key = (files.read_record(folder / "set.json") or {}).get("key")
    return key if isinstance(key, str) else None


def picture_digest(picture: Tensor) -> str:
    """Return the digest of a picture's numbers."""
    return files.digest(picture.cpu().numpy().tobytes())


def input_set(folder: Path, picture: Float[Tensor, "1 3 S S"]) -> Pictures:
    """Return the input picture alone, as a set."""
    return picture_set(folder, picture_digest(picture), 1, 1, lambda *_: picture)


def given_set(folder: Path, source: str, size: int) -> Pictures:
    """Return views of a folder (or a trial, or a toybox seed), over white, at the text model's size."""
    views = read_views(source, ViewOptions(), "system.views")
    pictures = (
        resize_square(over(views.rgba), size)
        if _square(views.rgba)
        else pad_to_square(over(views.rgba), size)
    )
    settings = [picture_digest(pictures), size]
    return picture_set(
        folder, settings, len(pictures), len(pictures), lambda first, last: pictures[first:last]
    )


def _square(pictures: Tensor) -> bool:
    """Return whether pictures are as high as wide."""
    return pictures.shape[-2] == pictures.shape[-1]


def pad_to_square(pictures: Float[Tensor, "N 3 H W"], size: int) -> Pictures:
    """Return pictures made square with white, then resized."""
    height, width = pictures.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    pads = (left, side - width - left, top, side - height - top)
    return resize_square(torch.nn.functional.pad(pictures, pads, value=1.0), size)


@dataclass(frozen=True)
class NovelViews:
    """A request for novel views: Zero-1-to-3, the input picture and its camera, and ``cameras`` to see it from."""

    model: ViewDenoiser
    prior: TextDenoiser
    picture: Float[Tensor, "1 3 S S"]
    reference: Cameras
    cameras: Cameras


def novel_view_set(folder: Path, source: NovelViews, config: SamplingConfig, seed: int) -> Pictures:
    """Return one sampled view for each camera."""
    device = source.model.alphas_cumprod.device
    if config.rectified:
        check_shared_latents(source.model, source.prior, "system.view_sampling.rectified")
    poses = [source.reference.c2w.tolist(), source.cameras.c2w.tolist(), source.cameras.fov_y.tolist()]
    digest, names = picture_digest(source.picture), [source.model.name, source.prior.name]
    settings = [digest, poses, *names, _sampling_settings(config), seed]
    references: list[EncodedReference] = []

    def make(first: int, last: int) -> Pictures:
        if not references:
            references.append(
                source.model.encode_reference(source.picture.to(device), source.reference.to(device))
            )
        return sample_views(
            source.model,
            references[0],
            source.cameras[first:last].to(device),
            config.sampler(),
            generator("cpu", seed, "views", first),
            source.prior if config.rectified else None,
        )

    return picture_set(folder, settings, len(source.cameras), config.batch_size, make)


def class_set(
    folder: Path, model: TextDenoiser, prompt: str, count: int, config: SamplingConfig, seed: int
) -> Pictures:
    """Return ``count`` pictures of the prompt by the model as it is: what it is not to forget."""

    def make(first: int, last: int) -> Pictures:
        source = generator("cpu", seed, "class", first)
        return sample_text(model, [prompt] * (last - first), config.sampler(), source)

    settings = [prompt, model.name, _sampling_settings(config), seed]
    return picture_set(folder, settings, count, config.batch_size, make)


def _sampling_settings(config: SamplingConfig) -> list[float | int | bool]:
    """Return everything that decides what is sampled."""
    return [config.steps, config.scale, config.rectified, config.batch_size]


def encode_set(model: TextDenoiser, pictures: Pictures, batch_size: int) -> Float[Tensor, "N c h w"]:
    """Return the latents of a set, encoded some pictures at a time."""
    device = model.alphas_cumprod.device
    return torch.cat([model.encode(some.to(device)).detach() for some in pictures.split(batch_size)])


def join_sets(sets: Sequence[Float[Tensor, "_ 3 _ _"]], size: int) -> Pictures:
    """Return sets of different sizes as one, at one size."""
    return torch.cat([resize_square(pictures, size) for pictures in sets])
