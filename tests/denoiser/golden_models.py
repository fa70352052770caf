"""The tiny models whose outputs the original code computed (golden/)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def read_golden(name: str) -> dict[str, Tensor]:
    """Return the tensors of a golden file: ``state_dict/...``, ``in/...``, ``out/...``."""
    stored = np.load(GOLDEN / name)
    return {key: torch.from_numpy(stored[key]) for key in stored.files}


def write_syncdreamer(golden: dict[str, Tensor], folder: Path) -> Path:
    """Write SyncDreamer's published layout at tiny size."""
    weights = {k.removeprefix("state_dict/"): v for k, v in golden.items() if k.startswith("state_dict/")}
    weights = {k: v.float() if v.dtype == torch.float16 else v for k, v in weights.items()}
    file = folder / "syncdreamer-pretrain.ckpt"
    torch.save({"state_dict": weights, "global_step": 80000}, file)
    return file
