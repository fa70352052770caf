"""A model as its parts: a configuration and tensors each, under diffusers' names, wherever they are stored."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser.weights import build, load_tensors, read_json, weights_folder

CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
}
PROJECTION = "camera_projection"  # our name of the part that the two published layouts call differently
PROJECTIONS = ("clip_camera_projection", "cc_projection")


class ModelParts(ABC):
    """``place`` is where they are stored, for messages. Parts: those of ``CLASSES``, ``scheduler``, ``PROJECTION``."""

    place: Path

    @abstractmethod
    def config(self, part: str) -> dict[str, Any]:
        """Its configuration; {} where a published model has none. Raises UserError where it must have one."""

    @abstractmethod
    def tensors(self, part: str) -> Mapping[str, Tensor]:
        """Its weights, read when asked for. Raises UserError."""

    @abstractmethod
    def has(self, part: str) -> bool:
        """Whether there is such a part."""

    def source(self, part: str) -> Path:
        """Where the part is stored, for messages."""
        return self.place

    def tokenizer(self) -> Path | None:
        """The folder of its tokenizer's files, if it has one."""
        return None

    def projection_layout(self) -> str:
        """Which of ``PROJECTIONS`` the camera projection is stored as: it decides how CLIP's picture is resized."""
        return PROJECTIONS[0]

    def network(self, part: str) -> torch.nn.Module:
        """The part as a network, its weights in the precision of the file. Raises UserError."""
        library, name = CLASSES[part]
        return build(library, name, self.config(part), self.tensors(part), self.source(part))


@dataclass(frozen=True)
class FolderParts(ModelParts):
    """A diffusers folder; Zero-1-to-3 in either published layout."""

    place: Path

    def config(self, part: str) -> dict[str, Any]:
        if part == "scheduler":
            return read_json(self.place / part / "scheduler_config.json")
        path = self._part(part) / "config.json"
        return {} if part == PROJECTION and not path.is_file() else read_json(path)

    def tensors(self, part: str) -> Mapping[str, Tensor]:
        return load_tensors(self.source(part), averaged=part == "unet")

    def has(self, part: str) -> bool:
        return self._part(part).is_dir()

    def source(self, part: str) -> Path:
        return weights_folder(self._part(part))

    def tokenizer(self) -> Path | None:
        return self.place / "tokenizer" if self.has("tokenizer") else None

    def projection_layout(self) -> str:
        return self._part(PROJECTION).name

    def _part(self, part: str) -> Path:
        choices = PROJECTIONS if part == PROJECTION else (part,)
        return next(
            (self.place / name for name in choices if (self.place / name).is_dir()), self.place / part
        )


@dataclass(frozen=True)
class GivenParts(ModelParts):
    """Parts that are in memory."""

    configs: Mapping[str, dict[str, Any]]
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    place: Path = Path("memory")

    def config(self, part: str) -> dict[str, Any]:
        return self.configs.get(part, {}) if part == PROJECTION else self.configs[part]

    def tensors(self, part: str) -> Mapping[str, Tensor]:
        return self.weights[part]

    def has(self, part: str) -> bool:
        return part in self.configs or part in self.weights


def open_parts(place: Path) -> ModelParts:
    """The parts of a folder or single file. Raises UserError."""
    if place.is_dir():
        return FolderParts(place)
    if not place.is_file():
        raise UserError(f"{place}: is missing; expected a diffusers folder or a single file")
    from usd.denoiser.single_file import SingleFile

    return SingleFile(place)
