"""Photographs cut out by a network that the user has, as an ONNX file: U2-Net, IS-Net, BiRefNet and their kind.

No weights come along. ``onnxruntime`` runs the file, and PyMatting estimates the colors that the object itself has at
its edge, where the photograph shows it mixed with what is behind (Germer et al. 2020), and if asked for the edge's
alpha too (Levin et al. 2008). A network's convention is told by its file's name, else by the side of its input:

    u2net, u2netp, silueta    320    (x / max x - mean) / deviation of ImageNet; the first output, stretched to 0 ... 1
    isnet, dis                1024   x - 0.5; the first output, stretched to 0 ... 1
    birefnet, rmbg            1024   (x - mean) / deviation of ImageNet; the last output through a sigmoid
"""

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from usd.core.errors import UserError
from usd.data.file_names import nearby

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colors."""
SURE = 0.95
"""Alpha from which, and one minus which below, a pixel is certain; the rest is the edge that is refined."""
EDGE = 0.01
"""The edge's width to each side as a share of the picture's longest side."""
LONGEST_REFINED = 1024
"""Longest side at which the edge's alpha is solved for: a sparse system with an unknown for each pixel."""


@dataclass(frozen=True)
class Convention:
    """The convention of a kind of network: colors in, alpha out; ``side`` where its file leaves the size free."""

    side: int
    by_maximum: bool
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    logits: bool


CONVENTIONS = {
    "u2net": Convention(320, True, MEAN, DEVIATION, logits=False),
    "isnet": Convention(1024, False, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), logits=False),
    "birefnet": Convention(1024, False, MEAN, DEVIATION, logits=True),
}
NAMES = {"u2net": "u2net", "silueta": "u2net", "isnet": "isnet", "dis": "isnet", "birefnet": "birefnet"}
"""Parts of file names, and the convention that they mean."""


@runtime_checkable
class InputInfo(Protocol):
    """The description of a network's input by onnxruntime."""

    name: str
    shape: list[object]
    type: str


@runtime_checkable
class OnnxSession(Protocol):
    """A network of onnxruntime."""

    def get_inputs(self) -> list[InputInfo]:
        """Return what goes in."""
        ...

    def run(self, outputs: None, inputs: dict[str, NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """Return what comes out."""
        ...


@dataclass(frozen=True)
class MattingModel:
    """A network's file and its convention."""

    path: Path
    convention: Convention
    side: int

    @classmethod
    def open(cls, path: Path, where: str = "--model") -> "MattingModel":
        """Open a file. Raises ``UserError`` where it is missing, no network for pictures, or the package is missing."""
        if not path.is_file():
            raise UserError(f"{where}: {path}: no such file; expected an ONNX network{nearby(path)}")
        shape = _session(path, where).get_inputs()[0].shape
        if len(shape) != 4 or shape[1] not in (3, "C", None):
            raise UserError(f"{where}: {path}: takes {shape}; expected pictures, 1 x 3 x height x width")
        fixed = shape[2] if isinstance(shape[2], int) else None
        kind = next((kind for part, kind in NAMES.items() if part in path.stem.lower()), None)
        kind = kind or ("u2net" if fixed == CONVENTIONS["u2net"].side else "isnet")
        return cls(path, CONVENTIONS[kind], fixed or CONVENTIONS[kind].side)

    @cached_property
    def session(self) -> OnnxSession:
        """The network, ready to run."""
        return _session(self.path, "--model")

    def alpha(self, rgb: Float[Tensor, "3 H W"]) -> Float[Tensor, "H W"]:
        """Return how much of each pixel is object, as the network says."""
        given = self.session.get_inputs()[0]
        pixels = _resized(rgb, self.side, self.side)
        if self.convention.by_maximum:
            pixels = pixels / pixels.max().clamp_min(1e-6)
        mean, deviation = (
            pixels.new_tensor(each)[:, None, None]
            for each in (self.convention.mean, self.convention.deviation)
        )
        numbers = ((pixels - mean) / deviation)[None]
        numbers = numbers.half() if "float16" in given.type else numbers
        outputs = self.session.run(None, {given.name: numbers.numpy()})
        found = torch.from_numpy(np.asarray(outputs[-1 if self.convention.logits else 0], dtype=np.float32))
        found = found.reshape(-1, *found.shape[-2:])[0]
        return _resized(self._to_alpha(found)[None], *rgb.shape[-2:])[0].clamp(0, 1)

    def _to_alpha(self, found: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        if self.convention.logits:
            return torch.sigmoid(found)
        least, most = found.min(), found.max()
        return (found - least) / (most - least).clamp_min(1e-6)


def _session(path: Path, where: str) -> OnnxSession:
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise UserError(
            "matting: needs the package onnxruntime; expected pip install 'usd[matting]'"
        ) from error
    try:
        return cast(OnnxSession, runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: {path}: cannot be read as an ONNX network ({reason})") from error


def _resized(values: Float[Tensor, "c h w"], height: int, width: int) -> Float[Tensor, "c H W"]:
    return torch.nn.functional.interpolate(
        values[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]


def cut_out(model: MattingModel, rgb: Float[Tensor, "3 H W"], refine: bool = False) -> Float[Tensor, "4 H W"]:
    """Return a photograph's object with straight alpha, and with its own colors at the edge.

    With ``refine``, alpha near the edge follows the colors there instead of the network.
    """
    alpha = model.alpha(rgb)
    if refine:
        alpha = refine_edge(rgb, alpha)
    return torch.cat([own_colors(rgb, alpha), alpha[None]])


def refine_edge(rgb: Float[Tensor, "3 H W"], alpha: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Return alpha that is solved for in a band about the edge (closed-form matting), and as it was elsewhere."""
    height, width = alpha.shape
    zoom = min(1.0, LONGEST_REFINED / max(height, width))
    size = max(1, round(height * zoom)), max(1, round(width * zoom))
    small, guide = _resized(rgb, *size), _resized(alpha[None], *size)[0]
    trimap = trimap_of(guide)
    if not ((trimap > 0) & (trimap < 1)).any() or not (trimap == 1).any() or not (trimap == 0).any():
        return alpha
    pixels = small.permute(1, 2, 0).double().numpy()
    solved = _pymatting().estimate_alpha_cf(pixels, trimap.double().numpy())
    found = _resized(torch.from_numpy(np.asarray(solved)).float()[None], height, width)[0].clamp(0, 1)
    band = _resized(((trimap > 0) & (trimap < 1)).float()[None], height, width)[0] > 0.5
    return torch.where(band, found, alpha)


def trimap_of(alpha: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Return 1 where a pixel and all about it are surely object, 0 where surely not, one half between."""
    reach = max(1, round(EDGE * max(alpha.shape)))
    # The least and the largest alpha of a square about each pixel.
    most = torch.nn.functional.max_pool2d(alpha[None], 2 * reach + 1, 1, reach)[0]
    least = -torch.nn.functional.max_pool2d(-alpha[None], 2 * reach + 1, 1, reach)[0]
    return torch.where(least > SURE, 1.0, torch.where(most < 1 - SURE, 0.0, 0.5))


def own_colors(rgb: Float[Tensor, "3 H W"], alpha: Float[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """Return the object's own colors, also where it is mixed with what is behind it."""
    pixels = rgb.permute(1, 2, 0).double().numpy()
    found = _pymatting().estimate_foreground_ml(pixels, alpha.double().numpy())
    return torch.from_numpy(np.asarray(found)).float().permute(2, 0, 1).clamp(0, 1).contiguous()


@runtime_checkable
class Pymatting(Protocol):
    """The functions of the package that are used."""

    def estimate_alpha_cf(
        self, image: NDArray[np.float64], trimap: NDArray[np.float64], /
    ) -> NDArray[np.float64]:
        """Return alpha by closed-form matting."""
        ...

    def estimate_foreground_ml(
        self, image: NDArray[np.float64], alpha: NDArray[np.float64], /
    ) -> NDArray[np.float64]:
        """Return the object's colors by the multi-level method."""
        ...


def _pymatting() -> Pymatting:
    try:
        return cast(Pymatting, import_module("pymatting"))
    except ImportError as error:
        raise UserError(
            "matting: needs the package pymatting; expected pip install 'usd[matting]'"
        ) from error
