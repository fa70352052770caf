"""LPIPS (arXiv 1801.03924) with VGG-16 features, version 0.1: how different two pictures look.

d(x, y) = sum over 5 layers of mean over pixels of sum over channels of w (x^ - y^)^2, where x^ are the features of a
layer scaled to unit length at each pixel and w >= 0 are learned.

Its weights are not part of this project. Two files are looked for: VGG-16's (``vgg16-397923af.pth``, as torchvision
names it) and the learned w (``vgg.pth`` of the LPIPS repository, version 0.1), in ``load/lpips`` and in torch's hub
cache; the second also inside an installed ``lpips`` package. Without them LPIPS is left out, and the report says so.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.places import output, resource

VGG_FILE, LINEAR_FILE = "vgg16-397923af.pth", "vgg.pth"
CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of VGG-16's convolutions, block by block; a ReLU follows each, and pooling each block but the last."""
MEAN, SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of pictures in [-1, 1]."""


@dataclass(frozen=True)
class Lpips:
    """The weights. Call it with pictures in [0, 1]."""

    weights: dict[str, Tensor]
    linear: tuple[Float[Tensor, "_"], ...]

    @torch.no_grad()
    def __call__(
        self, picture: Float[Tensor, "B 3 H W"], truth: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B"]:
        """Return one distance a picture; 0 for equal ones. Sides must be at least 16 pixels."""
        return self.distance(picture, truth)

    def distance(
        self, picture: Float[Tensor, "B 3 H W"], truth: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B"]:
        """Return the same, differentiable by the picture: a perceptual loss."""
        total = torch.zeros(len(picture), device=picture.device)
        # Learned weights of each layer's channels; a mean over pixels makes sizes comparable.
        for a, b, w in zip(self.features(picture), self.features(truth), self.linear, strict=True):
            total += ((a - b).square() * w.to(a)[None, :, None, None]).sum(1).mean(dim=(1, 2))
        return total

    def features(self, picture: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return unit-length features after each block of convolutions."""
        # VGG's statistics of [0, 1], turned into those of [-1, 1].
        mean, spread = (picture.new_tensor(value)[:, None, None] for value in (MEAN, SPREAD))
        x, found = (2 * picture - 1 - mean) / spread, []
        for block, numbers in enumerate(CONVOLUTIONS):
            x = torch.nn.functional.max_pool2d(x, 2) if block else x
            for number in numbers:
                weight, bias = (
                    self.weights[f"features.{number}.{part}"].to(x) for part in ("weight", "bias")
                )
                x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
            # Unit length at each pixel: what is compared is which features there are, not how strong.
            found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return found


def weight_folders() -> list[Path]:
    """Return the folders where weights are looked for, first to last."""
    package = importlib.util.find_spec("lpips")
    inside = [Path(package.origin).parent / "weights/v0.1"] if package and package.origin else []
    given = dict.fromkeys([resource("load/lpips"), output("load/lpips")])
    return [*given, Path(torch.hub.get_dir()) / "checkpoints", *inside]


def find_lpips(places: list[Path] | None = None) -> tuple[Lpips | None, str]:
    """Return the model and where it came from; without weights None, and why."""
    searched = weight_folders() if places is None else places
    files = [_first(name, searched) for name in (VGG_FILE, LINEAR_FILE)]
    missing = [name for name, file in zip((VGG_FILE, LINEAR_FILE), files) if file is None]
    if missing or files[0] is None or files[1] is None:
        return (
            None,
            f"LPIPS left out: {' and '.join(missing)} not found in {searched[0]} or torch's hub cache",
        )
    return read_lpips(files[0], files[1]), f"LPIPS (VGG, v0.1) by {files[0]}"


def _first(name: str, places: list[Path]) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)


def read_lpips(vgg: Path, linear: Path) -> Lpips:
    """Return the model from both files. Raises ``UserError`` for files that are not these weights."""
    try:
        weights = torch.load(vgg, map_location="cpu", weights_only=True)
        layers = torch.load(linear, map_location="cpu", weights_only=True)
        wanted = [
            f"features.{n}.{part}" for block in CONVOLUTIONS for n in block for part in ("weight", "bias")
        ]
        chosen = {name: weights[name].float() for name in wanted}
        heads = tuple(layers[f"lin{i}.model.1.weight"].float().flatten() for i in range(len(CONVOLUTIONS)))
    except Exception as error:  # torch.load raises many kinds
        raise UserError(
            f"{vgg}, {linear}: are not the weights of LPIPS ({type(error).__name__}: {error})"
        ) from error
    return Lpips(chosen, heads)
