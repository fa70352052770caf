"""A model as its components: a configuration and tensors each, under diffusers' names, wherever they are stored."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser.weights import NetworkConfig, build, load_tensors, read_json, weights_folder

CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "controlnet": ("diffusers", "ControlNetModel"),
    "language_model": ("transformers", "BertForMaskedLM"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "vision_encoder": ("transformers", "CLIPVisionModelWithProjection"),
}
PIPELINE_COMPONENTS = ("transformer", "text_encoder_2", "text_encoder_3")
"""Networks of pipelines of diffusers; their configurations say of which class they are."""
LIBRARIES = {"ChatGLMModel": "diffusers.pipelines.kolors.text_encoder"}
"""Modules of text encoders that are not in transformers."""
OWN_CLASSES = {
    "UNetMV2DConditionModel": "usd.denoiser.wonder3d_unet",
    "ImageDreamUNet": "usd.denoiser.imagedream_unet",
}
"""Modules of the classes that diffusers lacks, by the name in their config.json."""
T5 = ("transformers", "T5EncoderModel")  # the text encoder of models whose config.json says model_type t5
PROJECTION = "camera_projection"  # our name of the component that the two published layouts call differently
VIEW_GROUP_VOLUME = "view_group_volume"  # our name of the networks that SyncDreamer adds to Zero-1-to-3
PROJECTIONS = ("clip_camera_projection", "cc_projection")


def network_class(component: str, config: Mapping[str, object]) -> tuple[str, str]:
    """Return the library and the class of a component with this configuration."""
    if component == "text_encoder" and config.get("model_type") == "t5":
        return T5
    named, written = config.get("_class_name"), config.get("architectures")
    if isinstance(named, str) and named in OWN_CLASSES:
        return OWN_CLASSES[named], named
    if component in ("transformer", "vae") and isinstance(named, str):
        return "diffusers", named
    if component.startswith("text_encoder") and isinstance(written, list | tuple):
        name = str(written[0])
        if component not in CLASSES or not name.startswith("CLIP"):
            return LIBRARIES.get(name, "transformers"), name
    return CLASSES[component]


class ModelComponents(ABC):
    """``place`` is where they are stored, for messages. Parts: those of ``CLASSES``, ``scheduler``, ``PROJECTION``."""

    place: Path

    @abstractmethod
    def config(self, component: str) -> NetworkConfig:
        """Return a component's configuration, {} where published models have none. Raises UserError if missing."""

    @abstractmethod
    def tensors(self, component: str) -> Mapping[str, Tensor]:
        """Return a component's weights, read when asked for. Raises UserError."""

    @abstractmethod
    def has(self, component: str) -> bool:
        """Return whether there is such a component."""

    def source(self, component: str) -> Path:  # noqa: ARG002 - for overrides
        """Return where a component is stored, for messages."""
        return self.place

    def tokenizer(self) -> Path | None:
        """Return the folder of its tokenizer's files, if it has one."""
        return None

    def projection_layout(self) -> str:
        """Return which of ``PROJECTIONS`` the camera projection is stored as: it decides CLIP's resizing."""
        return PROJECTIONS[0]

    def network(self, component: str) -> torch.nn.Module:
        """Return the component as a network, its weights in the precision of the file. Raises UserError."""
        library, name = network_class(component, self.config(component))
        return build(library, name, self.config(component), self.tensors(component), self.source(component))


@dataclass(frozen=True)
class FolderComponents(ModelComponents):
    """A diffusers folder; Zero-1-to-3 in either published layout."""

    place: Path

    def config(self, component: str) -> NetworkConfig:
        """Return a component's configuration. Raises UserError."""
        if component == "scheduler":
            return read_json(self.place / component / "scheduler_config.json")
        path = self._component_folder(component) / "config.json"
        return {} if component == PROJECTION and not path.is_file() else read_json(path)

    def tensors(self, component: str) -> Mapping[str, Tensor]:
        """Return a component's weights, read when asked for. Raises UserError."""
        return load_tensors(self.source(component), averaged=component == "unet")

    def has(self, component: str) -> bool:
        """Return whether there is such a component."""
        return self._component_folder(component).is_dir()

    def source(self, component: str) -> Path:
        """Return where a component is stored, for messages."""
        return weights_folder(self._component_folder(component))

    def tokenizer(self) -> Path | None:
        """Return the folder of the tokenizer's files, if there is one."""
        return self.place / "tokenizer" if self.has("tokenizer") else None

    def projection_layout(self) -> str:
        """Return as which of ``PROJECTIONS`` the camera projection is stored."""
        return self._component_folder(PROJECTION).name

    def _component_folder(self, component: str) -> Path:
        choices = PROJECTIONS if component == PROJECTION else (component,)
        return next(
            (self.place / name for name in choices if (self.place / name).is_dir()), self.place / component
        )


@dataclass(frozen=True)
class MemoryComponents(ModelComponents):
    """Parts that are in memory."""

    configs: Mapping[str, NetworkConfig]
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    place: Path = Path("memory")

    def config(self, component: str) -> NetworkConfig:
        """Return a component's configuration. Raises UserError."""
        return self.configs.get(component, {}) if component == PROJECTION else self.configs[component]

    def tensors(self, component: str) -> Mapping[str, Tensor]:
        """Return a component's weights, read when asked for. Raises UserError."""
        return self.weights[component]

    def has(self, component: str) -> bool:
        """Return whether there is such a component."""
        return component in self.configs or component in self.weights


def read_network(component: str, folder: Path) -> torch.nn.Module:
    """Return a network that is published by itself, from its folder. Raises UserError."""
    config = read_json(folder / "config.json")
    return build(*network_class(component, config), config, load_tensors(folder), folder)


def open_components(place: Path) -> ModelComponents:
    """Return the components of a folder or single file. Raises UserError."""
    if place.is_dir():
        return FolderComponents(place)
    if not place.is_file():
        raise UserError(f"{place}: is missing; expected a diffusers folder or a single file")
    from usd.denoiser.single_file import SingleFile

    return SingleFile(place)
