"""SyncDreamer's one file with random weights, under the names and in the shapes that its authors' class stores."""

import gzip
import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import ROOT
from usd.denoiser import layouts
from usd.denoiser.architectures import UNET
from usd.denoiser.components import ModelComponents
from usd.denoiser.published import state_of
from usd.denoiser.rehearsal import random_weight
from usd.denoiser.weights import LazyTensors, whole_numbers
from usd.math.view_groups import opencv_world_to_camera, syncdreamer_cameras

Shapes = dict[str, tuple[int, ...]]
KEYS = ROOT / "tests" / "denoiser" / "golden" / "syncdreamer_published_keys.txt.gz"
CONDITIONS = ("middle_conditions.", "output_conditions.")
STEP = 80000


@cache
def published_shapes() -> Shapes:
    """Every name of the published file with its shape."""
    lines = gzip.decompress(KEYS.read_bytes()).decode().splitlines()
    return {name: tuple(json.loads(shape)) for name, shape in (line.split(" ", 1) for line in lines)}


def volume_shapes(channels: list[int]) -> Shapes:
    """Names and shapes of what it adds to Zero-1-to-3, beside a UNet of so many channels by level."""
    widths = dict(zip(whole_numbers(UNET, "block_out_channels"), channels, strict=True))
    shapes = {n: s for n, s in published_shapes().items() if n.startswith(layouts.SYNCDREAMER_VOLUME)}
    named = {name.removeprefix(layouts.UNET): shape for name, shape in shapes.items()}
    return {
        name: tuple(widths.get(n, n) for n in shape) if name.startswith(CONDITIONS) else shape
        for name, shape in named.items()
    }


def random_volume(channels: list[int]) -> Mapping[str, Tensor]:
    """The weights of what it adds, each made when asked for."""
    shapes = volume_shapes(channels)
    return LazyTensors({n: partial(random_weight, n, shape, "syncdreamer") for n, shape in shapes.items()})


def write_syncdreamer(base: ModelComponents, path: Path) -> Path:
    """Writes the file around a Zero-1-to-3; returns it."""
    volume = random_volume(whole_numbers(base.config("unet"), "block_out_channels"))
    own = layouts.with_other_prefixes(
        state_of(base, "zero123", averaged=False), {layouts.CLIP: layouts.SYNCDREAMER_CLIP}
    )
    added = {(layouts.UNET if n.startswith(CONDITIONS) else "") + n: x for n, x in volume.items()}
    stored = {**own, **added, **camera_buffers(), "alphas": 1 - own["betas"]}
    named = {name: x for name, x in stored.items() if "." in name or name in published_shapes()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": named, "global_step": STEP}, path)
    return path


def camera_buffers() -> dict[str, Tensor]:
    """World to camera, intrinsics at 256 px and azimuths (radians) of its 16 views."""
    cameras = syncdreamer_cameras()
    focal, middle = cameras.focal_px, cameras.focal_px.new_full((len(cameras),), 128.0)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, middle, zero, focal, middle, zero, zero, one]
    azimuth = torch.arange(len(cameras)) * (2 * torch.pi / len(cameras))
    return {
        "poses": opencv_world_to_camera(cameras),
        "Ks": torch.stack(rows, -1).unflatten(-1, (3, 3)),
        "azimuth": azimuth,
    }


def stored_shapes(file: Path) -> Shapes:
    """Names and shapes of a written file."""
    stored = torch.load(file, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    return {name: tuple(x.shape) for name, x in stored.items()}
