"""What the original implementations computed at a tiny size, as tensors, and the files that their weights came from.

``data/*.npz`` holds random weights under the names that the original code writes (on a coarse grid, so that float16 is
exact), inputs, and the original code's outputs in fp32 on a CPU. Names are ``state_dict/<name>``, ``in/<name>``,
``out/<name>`` and the like. ``TOLERANCE`` is absolute, and relative to the largest value where that is above 1.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

DATA = Path(__file__).with_name("data")
TOLERANCE = 1e-4
CONFIG_FILES = {"scheduler": "scheduler_config.json", "feature_extractor": "preprocessor_config.json"}
WEIGHT_FILES = {"text_encoder": "model.safetensors", "image_encoder": "model.safetensors"}


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of ``data/<name>.npz``, float16 as float32."""
    with np.load(DATA / f"{name}.npz") as stored:
        tensors = {key: torch.from_numpy(stored[key].copy()) for key in stored.files}
    return {key: x.float() if x.dtype == torch.float16 else x for key, x in tensors.items()}


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}


def write_checkpoint(state: Mapping[str, Tensor], path: Path, **more: Any) -> Path:
    """A ``.ckpt`` as the original trainers save one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": dict(state), "global_step": 1, **more}, path)
    return path


def write_folder(configs: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """A diffusers folder: ``configs`` by part, weights as ``<part>/<name>``; a text model's tokenizer is empty."""
    for part, config in configs.items():
        place, weights = folder / part, below(tensors, f"{part}/")
        place.mkdir(parents=True, exist_ok=True)
        (place / CONFIG_FILES.get(part, "config.json")).write_text(json.dumps(config))
        if weights:
            save_file(weights, place / WEIGHT_FILES.get(part, "diffusion_pytorch_model.safetensors"))
    if "text_encoder" in configs:
        (folder / "tokenizer").mkdir(exist_ok=True)
    return folder


def write_usd_models(tensors: Mapping[str, Tensor], root: Path) -> dict[str, Path]:
    """The two models of ``usd_published.npz`` below ``root``: "zero123" and "sd", which share an autoencoder."""
    configs = json.loads((DATA / "usd_published_configs.json").read_text())
    autoencoder = {f"vae/{name}": x for name, x in below(tensors, "zero123/vae/").items()}
    return {
        model: write_folder(configs[model], {**autoencoder, **below(tensors, f"{model}/")}, root / model)
        for model in ("zero123", "sd")
    }


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raises AssertionError that says by how much, of what, where two tensors differ by more than ``tolerance``."""
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    error, largest = (
        float((found.detach().float() - expected.float()).abs().max()),
        float(expected.abs().max()),
    )
    assert error <= tolerance * max(1.0, largest), f"off by {error:.2e} of {largest:.2e}"
