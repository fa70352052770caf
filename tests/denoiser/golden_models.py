"""The tiny models whose outputs the original code computed (golden/)."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from usd.denoiser.architectures import ARCHITECTURES, Architecture
from usd.denoiser.components import MemoryComponents
from usd.denoiser.published import write_folder
from usd.denoiser.rehearsal import RandomComponents
from usd.denoiser.weights import NetworkConfig

GOLDEN = Path(__file__).parent / "golden"


def read_golden(name: str) -> dict[str, Tensor]:
    """Return the tensors of a golden file: ``state_dict/...``, ``in/...``, ``out/...``."""
    return _read(GOLDEN / name)


def read_large_golden(name: str) -> dict[str, Tensor]:
    """Return the tensors of a golden file that is too large for this repository; skip the test without one."""
    folder = os.environ.get("USD_GOLDEN")
    if folder is None or not (Path(folder) / name).is_file():
        pytest.skip(f"needs {name} in the folder that USD_GOLDEN names")
    return _read(Path(folder) / name)


def _read(file: Path) -> dict[str, Tensor]:
    stored = np.load(file)
    return {key: torch.from_numpy(stored[key]) for key in stored.files}


def weights_of(golden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the model's weights in a golden file, in float32."""
    stored = {k.removeprefix("state_dict/"): v for k, v in golden.items() if k.startswith("state_dict/")}
    return {name: x.float() if x.dtype == torch.float16 else x for name, x in stored.items()}


def write_syncdreamer(golden: dict[str, Tensor], folder: Path) -> Path:
    """Write SyncDreamer's published layout at tiny size."""
    weights = weights_of(golden)
    file = folder / "syncdreamer-pretrain.ckpt"
    torch.save({"state_dict": weights, "global_step": 80000}, file)
    return file


def write_wonder3d(folder: Path, unet: NetworkConfig, weights: Mapping[str, Tensor]) -> Path:
    """Write Wonder3D's published layout around a UNet, with random encoders of its family; return the folder."""
    small = ARCHITECTURES["wonder3d"].shrink()
    vision = small.configs["image_encoder"] | {"projection_dim": unet["cross_attention_dim"]}
    configs = {"unet": unet, "vae": small.configs["vae"], "image_encoder": vision}
    made = RandomComponents("wonder3d", Architecture("wonder3d", configs))
    encoders = {name: made.tensors(name) for name in ("vae", "image_encoder")}
    return write_folder(
        MemoryComponents(configs | {"scheduler": dict(small.scheduler)}, encoders | {"unet": weights}), folder
    )
