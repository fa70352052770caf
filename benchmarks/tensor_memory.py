"""What a computation holds in memory, counted tensor by tensor, so that the count is the same on every device.

It is what PyTorch's allocator is asked for: without its rounding, without what libraries take for themselves (a CUDA
context, cuDNN's workspaces), and without memory that is not a tensor's.
"""

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors made inside: ``now``, and the most there have been, ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.see, out)
        return out

    def see(self, tensor: Tensor) -> None:
        if tensor.device.type == "meta" or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Call:
    """One use of a network: what came in, how long it took, and the bytes before, at most and after."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    seconds: float
    before: int
    peak: int
    after: int


@contextmanager
def watched(live: Live, name_of: Callable[[torch.nn.Module], str]) -> Iterator[list[Call]]:
    """All forward passes of the modules that ``name_of`` gives a name, in order."""
    calls: list[Call] = []
    open_calls: list[tuple[float, int, int]] = []

    def begin(module: torch.nn.Module, _: Any) -> None:
        if name_of(module):
            open_calls.append((time.perf_counter(), live.now, live.peak))
            live.peak = live.now

    def end(module: torch.nn.Module, given: Any, _: Any) -> None:
        if name := name_of(module):
            start, before, peak = open_calls.pop()
            x = given[0]
            seconds, inside = time.perf_counter() - start, live.peak
            live.peak = max(peak, inside)
            calls.append(
                Call(name, tuple(x.shape), x.dtype, str(x.device), seconds, before, inside, live.now)
            )

    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(begin),
        torch.nn.modules.module.register_module_forward_hook(end),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def resident() -> int:
    """Bytes of this process in memory, mapped files included."""
    return int(psutil.Process().memory_info().rss)


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
