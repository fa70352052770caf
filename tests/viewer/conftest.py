"""A tiny object to look at."""

import pytest
import torch

from usd.core.config import spec
from usd.core.registry import build
from usd.system import System


@pytest.fixture(scope="module")
def system() -> System:
    options = {
        "geometry": {"radius": 0.6, "pos_encoding_config": {"n_levels": 2, "log2_hashmap_size": 8}},
        "renderer": {"radius": 0.6, "num_samples_per_ray": 8},
        "guidance_type": "usd-guidance",
        "optimizer": {"args": {"lr": 0.01}},
    }
    torch.manual_seed(0)
    return build(spec("system", "usd-system", options), System)
