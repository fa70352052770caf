"""Networks that are used but never trained or saved."""

from collections.abc import Callable
from typing import Any

import torch


class Frozen:
    """A pretrained network, loaded when first needed and moved to wherever its input is.

    It is no ``nn.Module`` on purpose: parameters(), state_dict() and train() of its owner do not see it. With
    ``half`` it computes in fp16 on CUDA; everywhere else in fp32, whatever its file holds.
    """

    def __init__(self, load: Callable[[], torch.nn.Module], half: bool) -> None:
        self._load = load
        self._half = half
        self._network: torch.nn.Module | None = None

    def on(self, device: torch.device) -> Any:
        """The network on this device, in the dtype that suits it."""
        if self._network is None:
            self._network = self._load().eval().requires_grad_(False)
        dtype = self.dtype(device)
        first = next(self._network.parameters())
        if first.device != device or first.dtype != dtype:
            self._network.to(device=device, dtype=dtype)
        return self._network

    def dtype(self, device: torch.device) -> torch.dtype:
        return torch.float16 if self._half and device.type == "cuda" else torch.float32

    @property
    def loaded(self) -> bool:
        return self._network is not None

    def drop(self) -> None:
        """Forget the weights; they are read again when needed."""
        self._network = None
