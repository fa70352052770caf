"""Networks that are used but never trained or saved."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

import torch

from usd.denoiser.execution import DEFAULT_EXECUTION, Execution, Weights, dtype_on

Slot = tuple[torch.nn.Module, str]
N = TypeVar("N")


class Frozen(Generic[N]):
    """A pretrained network of type N, loaded when first needed and moved to wherever its input is.

    It is no ``nn.Module`` on purpose: parameters(), state_dict() and train() of its owner do not see it. It computes
    in the dtype that ``weights`` and ``half`` mean on the device, whatever its file holds. ``prepare`` is called once,
    after loading. With ``execution.offload: unused`` its weights lie in main memory between uses.
    """

    def __init__(
        self,
        load: Callable[[], torch.nn.Module],
        weights: Weights = "fp32",
        execution: Execution = DEFAULT_EXECUTION,
        prepare: Callable[[N], None] | None = None,
        half: torch.dtype = torch.float16,
    ) -> None:
        self._load = load
        self._weights: Weights = weights
        self._execution = execution
        self._prepare = prepare
        self._half = half
        self._network: torch.nn.Module | None = None
        # the weights in main memory, while copies of them are in use
        self._away: dict[Slot, torch.Tensor] = {}

    @contextmanager
    def use(self, device: torch.device) -> Iterator[N]:
        """Lend the network on this device, for as long as the block lasts where weights are kept elsewhere."""
        try:
            yield self.on(device)
        finally:
            self.rest()

    def on(self, device: torch.device) -> N:
        """Return the network on this device, in the dtype that suits it."""
        network, dtype = self.network, self.dtype(device)
        if self._execution.offload == "unused":
            self._visit(network, device, dtype)
            return cast(N, network)
        first = next(network.parameters())
        if first.device != device or first.dtype != dtype:
            torch.nn.Module.to(network, device, dtype)  # not diffusers' own, which talks
        return cast(N, network)

    def rest(self) -> None:
        """Put back the weights that lie in main memory; the copies live as long as a gradient needs them."""
        for slot, kept in self._away.items():
            _put(slot, kept)
        self._away = {}

    def dtype(self, device: torch.device) -> torch.dtype:
        """Return the dtype of the weights, and of what goes in, on this device."""
        return dtype_on(device, self._weights, self._half)

    @property
    def loaded(self) -> bool:
        """Return whether the weights are in memory."""
        return self._network is not None

    @property
    def network(self) -> torch.nn.Module:
        """Return the network wherever its weights are, read from its file if need be."""
        if self._network is None:
            self._network = self._load_network()
        return self._network

    def drop(self) -> None:
        """Forget the weights; they are read again when needed."""
        self._network = None
        self._away = {}

    def _load_network(self) -> torch.nn.Module:
        network = self._load().eval().requires_grad_(False)
        if self._execution.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._prepare is not None:
            self._prepare(cast(N, network))
        return network

    def _visit(self, network: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Put copies of all weights on the device in place of those in main memory, which stay as they are."""
        self.rest()
        if next(network.parameters()).dtype != dtype:
            torch.nn.Module.to(network, dtype)
        for slot, kept in _slots(network):
            if device.type == "cuda" and not kept.is_pinned():
                kept.data = kept.data.pin_memory()  # three times as fast to copy
            self._away[slot] = kept
            _put(slot, kept.detach().to(device, non_blocking=True))


def _slots(network: torch.nn.Module) -> list[tuple[Slot, torch.Tensor]]:
    """Return every weight and buffer with its place. A weight in two places has two entries."""
    return [
        ((module, name), tensor)
        for module in network.modules()
        for table in (module._parameters, module._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]


def _put(slot: Slot, tensor: torch.Tensor) -> None:
    module, name = slot
    if name in module._buffers:
        module._buffers[name] = tensor
    else:
        kept = isinstance(tensor, torch.nn.Parameter)
        module._parameters[name] = tensor if kept else torch.nn.Parameter(tensor, requires_grad=False)  # type: ignore[assignment]
