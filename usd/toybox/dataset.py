"""Training pictures of toys, rendered once into shards on disk and read back by memory map.

A shard holds ``SHARD`` toys with ``VIEWS`` views each. The first ``REFERENCES`` views of a toy stand about where the
reference camera stands, the others all around it. Everything is a pure function of the toy's seed.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from usd.core import files
from usd.core.progress import each
from usd.math.camera import Cameras, Spherical, orbit_cameras
from usd.math.normal_map import normal_colors
from usd.toybox import (
    REFERENCE_AZIMUTH_DEG,
    REFERENCE_DISTANCE,
    REFERENCE_ELEVATION_DEG,
    REFERENCE_FOV_DEG,
    TEST_SEED,
)
from usd.toybox.objects import facing, make_toy
from usd.toybox.render import Light, render
from usd.toybox.scene import RADIUS, Toy

SHARD = 250
VIEWS = 12
REFERENCES = 4
SIZE = 64


def training_cameras(rng: np.random.Generator, size: int = SIZE) -> Cameras:
    """Draw the ``VIEWS`` cameras of one toy: one field of view; three in four toys at the reference distance."""
    around = np.arange(VIEWS - REFERENCES) / (VIEWS - REFERENCES) * 360 + rng.uniform(0, 360)
    azimuth = np.concatenate(
        [
            REFERENCE_AZIMUTH_DEG + rng.uniform(-20, 20, REFERENCES),
            around + rng.uniform(-22.5, 22.5, VIEWS - REFERENCES),
        ]
    )
    low, high = math.sin(math.radians(-15)), math.sin(math.radians(60))
    elevation = np.concatenate(
        [
            np.clip(rng.normal(REFERENCE_ELEVATION_DEG, 10, REFERENCES), -20, 70),
            np.degrees(np.arcsin(rng.uniform(low, high, VIEWS - REFERENCES))),
        ]
    )
    fov, distance = math.radians(REFERENCE_FOV_DEG), np.full(VIEWS, REFERENCE_DISTANCE)
    if rng.random() < 0.25:
        fov = math.radians(rng.uniform(30, 55))
        distance = RADIUS * 1.06 / math.sin(fov / 2) * rng.uniform(1.0, 1.3, VIEWS)
    angles = torch.from_numpy(np.radians(np.stack([elevation, azimuth]))).float()
    return orbit_cameras(Spherical(angles[0], angles[1], torch.from_numpy(distance).float()), fov, size, size)


def training_light(rng: np.random.Generator) -> Light:
    """Draw a light: the default for four toys in five, any direction from above and strength for the fifth."""
    if rng.random() < 0.8:
        return Light()
    turn, lift = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 1.4)
    direction = (math.cos(lift) * math.cos(turn), math.cos(lift) * math.sin(turn), math.sin(lift))
    diffuse = float(rng.uniform(0.2, 0.6))
    return Light(
        direction, diffuse, 1.0 - diffuse + float(rng.uniform(-0.1, 0.1)), float(rng.uniform(0, 0.2))
    )


def normal_map(toy: Toy, cameras: Cameras) -> Float[Tensor, "B 4 H W"]:
    """Render normals as colors (``usd.math.normal_map``) with straight alpha, each pixel the mean of four rays."""
    seen = render([toy], cameras.resize(2 * cameras.height, 2 * cameras.width), edge_rays=1)
    opacity = seen.alpha[:, None]
    colors = normal_colors(seen.normal.permute(0, 3, 1, 2), opacity, 0.0)
    four = torch.nn.functional.avg_pool2d(torch.cat([colors, opacity], 1), 2)
    return torch.cat([four[:, :3] / four[:, 3:].clamp_min(1e-6), four[:, 3:]], 1)


def rgba_bytes(rgba: Tensor) -> np.ndarray:
    """Return pictures (B, 4, H, W) in [0, 1] as bytes (B, H, W, 4)."""
    return (rgba.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def build_shard(folder: Path, index: int, uncaptioned_share: float) -> Path:
    """Render shard ``index`` into ``folder`` unless it stands there; written aside and moved, so never half there."""
    target = folder / f"shard-{index:05d}"
    if target.exists():
        return target
    seeds = range(index * SHARD, (index + 1) * SHARD)
    if seeds[-1] >= TEST_SEED:
        raise ValueError(f"toybox: shard {index} would reach the test split (seeds from {TEST_SEED} up)")
    pictures, poses, fovs, faces, captions, categories = [], [], [], [], [], []
    for seed in each(seeds, f"rendering toys, part {index + 1}"):
        toy, rng = make_toy(seed, uncaptioned_share), np.random.default_rng([seed, 7])
        cameras = training_cameras(rng)
        pictures.append(rgba_bytes(render([toy], cameras, lights=[training_light(rng)]).rgba()))
        poses.append(cameras.c2w.numpy())
        fovs.append(float(cameras.fov_y[0]))
        faces.append(facing(toy, cameras).numpy())
        captions.append(toy.caption)
        categories.append(toy.category)
    part = folder / f".part-{index:05d}-{os.getpid()}"
    part.mkdir(parents=True)
    np.save(part / "rgba.npy", np.stack(pictures))
    np.save(part / "c2w.npy", np.stack(poses).astype(np.float32))
    np.save(part / "fov.npy", np.array(fovs, np.float32))
    np.save(part / "facing.npy", np.stack(faces).astype(np.float32))
    (part / "words.json").write_text(json.dumps({"captions": captions, "categories": categories}))
    try:
        part.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(part)
    return target


def build_normals(shard: Path, index: int, uncaptioned_share: float) -> Path:
    """Render the normal maps of shard ``index``, for its pictures' cameras, unless they stand there."""
    target = shard / "normals.npy"
    if target.exists():
        return target
    c2w, fov = np.load(shard / "c2w.npy"), np.load(shard / "fov.npy")
    size = np.load(shard / "rgba.npy", mmap_mode="r").shape[2]
    maps = []
    seeds = range(index * SHARD, (index + 1) * SHARD)
    for i, seed in enumerate(each(seeds, f"rendering normals of toys, part {index + 1}")):
        cameras = Cameras(torch.from_numpy(c2w[i]), torch.full((len(c2w[i]),), float(fov[i])), size, size)
        maps.append(rgba_bytes(normal_map(make_toy(seed, uncaptioned_share), cameras)))
    with files.replace_atomically(target) as partial:
        np.save(partial, np.stack(maps))
    return target


@dataclass(frozen=True)
class Shards:
    """N toys in memory maps. ``rgba`` (N, V, H, W, 4) bytes, ``c2w`` (N, V, 4, 4), ``fov`` (N,), ``facing`` (N, V).

    ``normals`` are like ``rgba``, or empty where they were not asked for.
    """

    rgba: list[np.ndarray]
    c2w: np.ndarray
    fov: np.ndarray
    facing: np.ndarray
    captions: list[str]
    categories: list[str]
    normals: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.captions)

    def over_white(
        self, toys: Tensor, views: Tensor, as_normals: Sequence[bool] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return pictures (B, 3, H, W) over white and alpha (B, 1, H, W), in [0, 1], of the given toys and views.

        Where ``as_normals`` says so, the picture is the normal map.
        """
        chosen = [False] * len(toys) if as_normals is None else as_normals
        wanted = zip(toys.tolist(), views.tolist(), chosen, strict=True)
        rgba = np.stack([(self.normals if n else self.rgba)[t // SHARD][t % SHARD, v] for t, v, n in wanted])
        picture = (torch.from_numpy(rgba).float() / 255).permute(0, 3, 1, 2).contiguous()
        alpha = picture[:, 3:]
        return picture[:, :3] * alpha + 1 - alpha, alpha

    def cameras(self, toys: Tensor, views: Tensor) -> Cameras:
        """Return the cameras of the given toys' views."""
        size = self.rgba[0].shape[2]
        t, v = toys.numpy(), views.numpy()
        return Cameras(torch.from_numpy(self.c2w[t, v]), torch.from_numpy(self.fov[t]), size, size)


def open_shards(
    folder: Path, n_toys: int, uncaptioned_share: float, normals: bool = False, first_toy: int = 0
) -> Shards:
    """Open the shards of ``n_toys`` toys from ``first_toy`` up, with normal maps if asked for.

    What is missing is rendered.
    """
    home = folder / f"nameless-{uncaptioned_share:.2f}"
    indices = range(first_toy // SHARD, -(-(first_toy + n_toys) // SHARD))
    parts = [build_shard(home, index, uncaptioned_share) for index in indices]
    maps = [build_normals(part, i, uncaptioned_share) for i, part in zip(indices, parts)] if normals else []
    words = [json.loads((part / "words.json").read_text()) for part in parts]
    return Shards(
        [np.load(part / "rgba.npy", mmap_mode="r") for part in parts],
        np.concatenate([np.load(part / "c2w.npy") for part in parts]),
        np.concatenate([np.load(part / "fov.npy") for part in parts]),
        np.concatenate([np.load(part / "facing.npy") for part in parts]),
        [caption for part in words for caption in part["captions"]],
        [category for part in words for category in part["categories"]],
        [np.load(file, mmap_mode="r") for file in maps],
    )
