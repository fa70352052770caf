r"""A rehearsal: every published model is stood in for by a random one of its architecture, tiny and made at once.

    with rehearsal() as models:
        train(...)                       # opens models by their names, as always; nothing is downloaded
    print(*models.lines(), sep="\n")     # what would have been

Models that come with the package and formulas are used as they are. A stand-in is a diffusers folder in a temporary
place, read by the very code that reads the published ones.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from usd.core.console import say
from usd.core.errors import UserError
from usd.core.files import digest
from usd.core.random import generator
from usd.denoiser import tiny_pipelines
from usd.denoiser.architectures import ARCHITECTURES, Architecture
from usd.denoiser.components import (
    CLASSES,
    PIPELINE_COMPONENTS,
    PROJECTION,
    ModelComponents,
    network_class,
    open_components,
)
from usd.denoiser.entries import ModelEntry, entry_of
from usd.denoiser.load import (
    ModelLocation,
    denoiser_of,
    find_published,
    finding_by,
    formulas,
    local_model,
    split_lora,
)
from usd.denoiser.published import write_folder, write_network
from usd.denoiser.weights import LazyTensors, NetworkConfig, empty_network, whole

ROLES = {"text": "stable-diffusion-2-base", "view": "zero123", "control": "controlnet-1", "language": "bert"}
"""The architecture of a model that is not in load/models.yaml, by the role that it is opened for."""
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
SMALL = 100e6  # weights of a model on this disk that is used as it is


class RandomComponents(ModelComponents):
    """A model of random numbers: the same for the same name, each tensor made when asked for.

    Weights are drawn so that signals keep their size on the way through a network: a prediction means nothing, and is
    finite.
    """

    def __init__(self, name: str, architecture: Architecture, tokenizer: Path | None = None) -> None:
        self.place = Path(f"random {name}")
        self.name, self.architecture, self._tokenizer = name, architecture, tokenizer

    def has(self, component: str) -> bool:
        """Return whether the architecture has such a component."""
        projection = component == PROJECTION and self.architecture.has_projection
        return component in self.architecture.configs or component == "scheduler" or projection

    def config(self, component: str) -> NetworkConfig:
        """Return a component's configuration."""
        if component == "scheduler":
            return dict(self.architecture.scheduler)
        return {} if component == PROJECTION else dict(self.architecture.configs[component])

    def tensors(self, component: str) -> Mapping[str, Tensor]:
        """Return a component's random weights in fp16."""
        shapes = self._shapes(component)
        return LazyTensors(
            {n: partial(random_weight, n, shape, self.name, component) for n, shape in shapes.items()}
        )

    def tokenizer(self) -> Path | None:
        """Return the folder of the tokenizer, where something reads words."""
        return self._tokenizer

    def _shapes(self, component: str) -> dict[str, tuple[int, ...]]:
        if component == PROJECTION:
            width = whole(self.config("unet"), "cross_attention_dim")
            return {
                "proj.weight": (width, whole(self.config("image_encoder"), "projection_dim") + 4),
                "proj.bias": (width,),
            }
        config = self.config(component)
        network = empty_network(*network_class(component, config), config)
        prefix = "text_model." if network_class(component, config)[1] == "CLIPTextModel" else ""
        named = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
        return {prefix + name.removeprefix(prefix): shape for name, shape in named.items()}


def random_weight(name: str, shape: tuple[int, ...], *seeds: str) -> Tensor:
    """Return ones for scales, zeros for offsets, else normal numbers divided by the root of the inputs. fp16."""
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    source = generator("cpu", 0, *seeds, name)
    return torch.randn(shape, generator=source).mul_(math.prod(shape[1:]) ** -0.5).half()


def write_stand_in(architecture: Architecture, folder: Path) -> Path:
    """Write a random model of this architecture, shrunk, as a diffusers folder; return the folder."""
    if architecture.denoiser in tiny_pipelines.FAMILIES:
        tiny_pipelines.make(architecture.denoiser, folder / "model")
        return folder / "model"
    return write_random(architecture.shrink(), folder)


def write_full_size(model: "RehearsedModel", folder: Path) -> Path:
    """Write a random model at its true size, in half precision; return its folder. Raises ``UserError``."""
    architecture, needed = model.architecture, 2 * sum(model.parameters.values())
    if architecture.denoiser in tiny_pipelines.FAMILIES:
        raise UserError(
            f"{model.name}: {architecture.denoiser} cannot be made of random numbers at true size"
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 1e9:.1f} GB are free; random weights of {model.name} take {needed / 1e9:.1f} GB "
            "there while they are needed (TMPDIR names another place)"
        )
    say(f"random weights of {model.name}: {needed / 1e9:.1f} GB below {folder.parent}, removed at the end")
    return write_random(architecture, folder)


def write_random(architecture: Architecture, folder: Path) -> Path:
    """Write a model of random numbers as a diffusers folder, with a tokenizer where it reads words; return it."""
    reads = "text_encoder" in architecture.configs or "language_model" in architecture.configs
    words = write_tokenizer(folder / "words") if reads else None
    model = RandomComponents(folder.name, architecture, words)
    if len(architecture.configs) == 1:
        return write_network(model, next(iter(architecture.configs)), folder / "model")
    return write_folder(model, folder / "model")


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer that reads anything, a number for each word by its first two letters; return the folder."""
    from tokenizers import Regex, Tokenizer, normalizers
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    letters = "abcdefghijklmnopqrstuvwxyz0123456789_"
    special = [
        "<start>",
        "<end>",
        "<unknown>",
        "[MASK]",
        "</w>",
    ]  # the last marks a vocabulary that spells what it does not know
    pieces = [
        *special,
        *letters,
        *(a + b for a in letters for b in letters),
        *"!\"#$%&'()*+,-./:;<=>?@[]^`{|}~",
    ]
    words = Tokenizer(WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unknown>"))
    cut = normalizers.Replace(Regex(r"(?<=\b\w\w)\w+"), "")
    words.normalizer = normalizers.Sequence([normalizers.Lowercase(), cut])
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    folder.mkdir(parents=True)
    words.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unknown>", "pad_token": "<end>"}
    named |= {"mask_token": "[MASK]"}
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class RehearsedModel:
    """A model that was stood in for, and what its real self would take."""

    name: str
    architecture: Architecture
    entry: ModelEntry | None = None
    place: Path | None = None  # where the real one lies, if it does: then nothing would be downloaded

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Number of weights of each network at its true size."""
        return self.architecture.parameters()

    @property
    def download_bytes(self) -> int:
        """Size of the weights that would be downloaded, from their number and the precision they are published in."""
        if self.place is not None:
            return 0
        return sum(self.parameters.values()) * BYTES[self.entry.stored if self.entry else "fp32"]

    def line(self) -> str:
        """Return the model's name, source, size and license on one line."""
        size = f"{sum(self.parameters.values()) / 1e6:,.0f} million weights"
        if self.place is not None:
            return f"{self.name}: {size}, from {self.place}"
        source = self.entry.repository if self.entry and self.entry.repository else "Hugging Face"
        license = self.entry.license if self.entry else "unknown, see its page"
        if self.entry is None:
            size = f"if it is {self.architecture.denoiser} of the usual size: {size}"
        return f"{self.name}: {size}, {self.download_bytes / 1e9:.1f} GB from {source}; license: {license}"


@dataclass
class Rehearsal:
    """The stand-ins made so far, below ``folder``, by the ids of their originals; ``full_size`` ones are not shrunk."""

    folder: Path
    full_size: bool = False
    models: dict[str, RehearsedModel] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line for each model that was stood in for."""
        return [model.line() for model in self.models.values()]

    def find(self, name: str, role: str, where: str) -> ModelLocation:
        """Return where the stand-in of a model lies, or the model itself where it needs none. Raises UserError."""
        base = split_lora(name)[0]
        entry, place = entry_of(base), local_model(base)
        if (entry is not None and entry.repository is None) or _is_no_model(base, entry, place):
            return find_published(base, role, where)
        key = entry.repository if entry and entry.repository and place is None else base
        model = self.models.get(key) or RehearsedModel(base, architecture_of(base, role, where), entry, place)
        if place is not None and (self.full_size or sum(model.parameters.values()) < SMALL):
            return find_published(base, role, where)
        # As on the hub, a folder above has the model's name: versions of some are told apart by nothing else.
        folder = self.folder / Path(key).name / digest(key, size=8)
        if key not in self.models:
            self.models[key] = model
            if self.full_size:
                write_full_size(model, folder)
            else:
                write_stand_in(model.architecture, folder)
        convention = entry.pose_convention if entry else None
        return ModelLocation(name, model.architecture.denoiser, folder / "model", pose_convention=convention)


def _is_no_model(name: str, entry: ModelEntry | None, place: Path | None) -> bool:
    """Return whether a name is that of a formula, or a mistake."""
    return entry is None and place is None and (name in formulas() or "/" not in name)


def architecture_of(name: str, role: str, where: str) -> Architecture:
    """Return the architecture of a model by its own files, its entry, or else its role. Raises UserError."""
    entry, place = entry_of(name), local_model(name)
    if place is not None:
        return _stored_architecture(open_components(place))
    if entry is not None and not entry.architecture:
        raise UserError(
            f"{where}: load/models.yaml names no architecture of '{name}' ({entry.denoiser}), so it cannot be "
            f"rehearsed; expected one of {', '.join(ARCHITECTURES)}"
        )
    known = entry.architecture if entry and entry.architecture else ROLES[role]
    if known not in ARCHITECTURES:
        raise UserError(f"{where}: load/models.yaml names an unknown architecture '{known}'")
    return ARCHITECTURES[known]


def _stored_architecture(model: ModelComponents) -> Architecture:
    """Return the architecture of a model that is on this disk."""
    names = (*CLASSES, *PIPELINE_COMPONENTS)
    configs = {component: model.config(component) for component in names if model.has(component)}
    return Architecture(denoiser_of(model), configs, model.config("scheduler"))


@contextmanager
def rehearsal(full_size: bool = False) -> Iterator[Rehearsal]:
    """Have every published model that is opened inside stood in for by a random one of its architecture.

    It is tiny, or of ``full_size``: then it computes nothing sensible in the time that the published one takes.
    """
    with tempfile.TemporaryDirectory(prefix="usd-rehearsal-", ignore_cleanup_errors=True) as folder:
        models = Rehearsal(Path(folder), full_size)
        with finding_by(models.find):
            yield models
