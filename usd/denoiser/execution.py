"""How pretrained networks are kept in memory and run. What they hand on is float32 whatever is chosen here."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from usd.core.config import option

Weights = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """Memory and speed of the models. The defaults fit a card of 24 GB; docs/real-models.md has the arithmetic."""

    weights: Weights = option(
        "auto",
        "precision of UNets and encoders; auto: fp16 on CUDA, fp32 on a CPU and without half_precision_weights",
    )
    autoencoder: Literal["fp32", "bf16"] = option(
        "fp32", "precision of the autoencoder; fp16 is no choice, its activations exceed 65504"
    )
    offload: Literal["none", "unused"] = option(
        "none", "where weights are kept; unused: in main memory, from where they visit the GPU for each use"
    )
    views_at_once: int = option(0, "views per call of a UNet or autoencoder; 0: all of them", ge=0)
    image_size: int | None = option(
        None, "pixels a side of the pictures that models of any size are given; null: 512", ge=8, le=8192
    )
    recompute: bool = option(
        False, "compute the autoencoder's activations again in the backward pass instead of keeping them"
    )
    channels_last: bool = option(
        False, "lay out the weights of convolutions as GPUs with tensor cores like them"
    )
    compile: Literal["no", "default", "reduce-overhead", "max-autotune"] = option(
        "no", "compile the UNets with this mode of torch.compile: a minute at the start, faster steps"
    )

    def single(self, half_precision_weights: bool) -> "Execution":
        """Return the same; where half precision is not wanted, ``auto`` is fp32."""
        if half_precision_weights or self.weights != "auto":
            return self
        return replace(self, weights="fp32")


DEFAULT_EXECUTION = Execution()


def dtype_on(device: torch.device, weights: Weights, half: torch.dtype = torch.float16) -> torch.dtype:
    """Return the dtype that ``weights`` means on this kind of device; ``half`` is what fp16 means to the network."""
    if weights == "auto":
        return half if device.type == "cuda" else torch.float32
    return half if weights == "fp16" else DTYPES[weights]
