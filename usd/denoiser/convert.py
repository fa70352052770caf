"""A model in another form: ``usd convert model MODEL OUT``.

MODEL is a single file, folder or alias, with or without a LoRA (``sd-1.5 + my.safetensors x 0.8``). OUT is a diffusers
folder, or a single file where its name ends in ``.safetensors`` or ``.ckpt``. Weights are copied bit by bit unless
``--half`` rounds them to fp16; nothing is computed, and no more than one component is in memory.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.denoiser.components import OWN_CLASSES, PROJECTION, PROJECTIONS, VIEW_GROUP_VOLUME, ModelComponents
from usd.denoiser.load import components_of
from usd.denoiser.published import write_folder, write_single_file
from usd.denoiser.single_file import PREDICTIONS
from usd.denoiser.weights import LazyTensors, NetworkConfig

SINGLE = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class CorrectedComponents(ModelComponents):
    """A model of which the user knows more than its file says, or whose weights are to be halved."""

    base: ModelComponents
    prediction: str | None = None
    convention: str | None = None
    half: bool = False

    @property
    def place(self) -> Path:  # type: ignore[override]
        """Path of the base model."""
        return self.base.place

    def config(self, component: str) -> NetworkConfig:
        """Return the base's configuration, corrected where the user knows better."""
        config = self.base.config(component)
        if component == "scheduler" and self.prediction is not None:
            return config | {"prediction_type": self.prediction}
        if component == PROJECTION and self.convention is not None:
            return config | {"fourth_number": self.convention}
        return config

    def tensors(self, component: str) -> Mapping[str, Tensor]:
        """Return the base's weights, rounded to fp16 where asked for."""
        tensors = self.base.tensors(component)
        return (
            LazyTensors({name: partial(_half, tensors, name) for name in tensors}) if self.half else tensors
        )

    def has(self, component: str) -> bool:
        """Return whether there is such a component."""
        return self.base.has(component)

    def source(self, component: str) -> Path:
        """Return where a component is stored, for messages."""
        return self.base.source(component)

    def tokenizer(self) -> Path | None:
        """Return the folder of the tokenizer's files, if there is one."""
        return self.base.tokenizer()

    def projection_layout(self) -> str:
        """Return as which of ``PROJECTIONS`` the camera projection is stored."""
        return self.base.projection_layout()


def _half(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = tensors[name]
    return tensor.half() if tensor.is_floating_point() else tensor


def convert(model: ModelComponents, out: Path, layout: str = PROJECTIONS[0], overwrite: bool = False) -> Path:
    """Write a model as a folder or single file. Raises UserError rather than overwrite what it was not told to."""
    if out.exists() and not overwrite and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; expected a new name, or --overwrite")
    if out.resolve() == model.place.resolve():
        raise UserError(f"{out}: is the model itself; expected another place")
    if model.has(VIEW_GROUP_VOLUME):
        raise UserError(
            f"{model.place}: SyncDreamer has one published form, its single file; expected another model"
        )
    if out.suffix in SINGLE:
        _refuse_without_file(model)
        return write_single_file(model, out)
    return write_folder(model, out, layout)


def _refuse_without_file(model: ModelComponents) -> None:
    """Raise UserError for networks that our single files have no names for, or no place."""
    named = model.config("unet").get("_class_name") if model.has("unet") else None
    if named in OWN_CLASSES or model.has("vision_encoder"):
        raise UserError(
            f"{model.place}: {named or 'it'} cannot be written as a single file; expected a folder"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the command line. Returns the exit code: 2 for what the user can mend."""
    reads = argparse.ArgumentParser(prog="usd convert model", description=__doc__)
    reads.add_argument("model", help="single file, folder, alias or hub id, with ' + LORA x SCALE' if wanted")
    reads.add_argument("out", type=Path, help="folder, or a file that ends in .safetensors or .ckpt")
    reads.add_argument(
        "--layout", choices=PROJECTIONS, default=PROJECTIONS[0], help="folder of the camera projection"
    )
    reads.add_argument("--half", action="store_true", help="round the weights to fp16: half the size")
    reads.add_argument(
        "--prediction", choices=PREDICTIONS, help="what the UNet predicts, where the file does not say"
    )
    reads.add_argument(
        "--stable-zero123", action="store_true", help="its pose's last number is the input's polar angle"
    )
    reads.add_argument("--overwrite", action="store_true", help="write over what is there")
    asked = reads.parse_args(arguments)
    return process.run_command(lambda: _convert(asked))


def _convert(asked: argparse.Namespace) -> None:
    convention = "input-polar" if asked.stable_zero123 else None
    model = CorrectedComponents(components_of(asked.model, "model"), asked.prediction, convention, asked.half)
    place = convert(model, asked.out, asked.layout, asked.overwrite)
    say(f"{place}: {', '.join(component_sizes(model))}")


def component_sizes(model: ModelComponents) -> list[str]:
    """Return the components of a model with their numbers of weights, and what it predicts."""
    components = [
        component
        for component in ("unet", "vae", "text_encoder", "image_encoder", PROJECTION)
        if model.has(component)
    ]
    counts = {
        component: sum(tensor.numel() for tensor in model.tensors(component).values())
        for component in components
    }
    sizes = [f"{component} {count:,}" for component, count in counts.items()]
    return [*sizes, str(model.config("scheduler").get("prediction_type", "epsilon"))]


if __name__ == "__main__":
    process.start(main)
