"""Which implementation serves a tensor, and how a Warp kernel is launched on torch tensors.

On the CPU Warp runs a launch on one thread, but ``wp.launch`` releases the interpreter lock: a launch is cut along
one axis into pieces that a few threads run side by side. On CUDA it is one launch on torch's current stream.
A kernel of this package therefore takes ``first: int`` as its first argument and adds it to that axis of
``wp.tid()``. Different indices of that axis must not write to the same place: on the CPU Warp's ``atomic_add`` is
a plain add. So results do not depend on the number of threads.
"""

import contextlib
import functools
import itertools
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from usd.kernels.accelerators import ACCELERATORS, server_of

LARGE = 16 << 20  # bytes; from here on the C library hands out new memory each time
Implementation = Literal["auto", "warp", "torch", "tinycudann", "nerfacc", "nvdiffrast", "gsplat", "embreex"]
_wanted: list[str] = ["auto"]  # what "auto" means, as the configuration's `kernels` says


@runtime_checkable
class WarpModule(Protocol):
    """The unit that Warp compiles: all kernels of one name of module."""

    name: str


@runtime_checkable
class WarpKernel(Protocol):
    """A kernel as Warp's decorators make it."""

    module: WarpModule


@functools.cache
def find_warp() -> ModuleType | None:
    """Return the ``warp`` module, imported on first use and without its banner; None where it is not installed."""
    try:
        import warp as wp
    except ImportError:
        return None
    wp.config.log_level = wp.LOG_ERROR
    # Warp looks for a driver and complains on stderr where there is none.
    with _silent_stderr(not torch.cuda.is_available()):
        wp.init()
    return wp


def import_warp() -> ModuleType:
    """Return the ``warp`` module. Raises ``ImportError`` where it is not installed."""
    warp = find_warp()
    if warp is None:
        raise ImportError("the package 'warp-lang' is not installed")
    return warp


@contextlib.contextmanager
def _silent_stderr(silent: bool) -> Iterator[None]:
    """Hide what native code prints: Warp warns of a missing CUDA driver on every machine without a GPU."""
    if not silent:
        yield
        return
    sys.stderr.flush()
    # Native code writes to the descriptor, not to sys.stderr.
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def prefer(names: Sequence[str]) -> None:
    """Set what "auto" means from now on in this process: "auto", "warp" or "torch", and usable accelerators.

    Raises ``ValueError`` for one that cannot.
    """
    for name in names:
        if name in ACCELERATORS and (obstacle := ACCELERATORS[name].obstacle()):
            raise ValueError(obstacle)
    _wanted[:] = names or ["auto"]


def wants(kernel: str, implementation: Implementation = "auto") -> str | None:
    """Return the accelerator that is to serve a kernel, by the argument or else by ``prefer``; None for our own."""
    return server_of(kernel, _wanted if implementation == "auto" else [implementation])


def accelerator_of(
    kernel: str, implementation: Implementation, *tensors: Tensor, obstacle: str = ""
) -> str | None:
    """Return the accelerator that serves these tensors; None for our own kernels.

    One that was asked for in general (``prefer``) leaves out what it cannot do: anything but float32 on its device,
    and what ``obstacle`` says. One asked for by the argument raises ``ValueError`` then.
    """
    name = wants(kernel, implementation)
    if name is None:
        return None
    if not all((t.device.type, t.dtype) == (ACCELERATORS[name].device, torch.float32) for t in tensors):
        obstacle = f"{name} serves float32 tensors on {ACCELERATORS[name].device.upper()} only"
    if obstacle and implementation != "auto":
        raise ValueError(f"kernels: {obstacle}; expected 'auto', 'warp' or 'torch'")
    return None if obstacle else name


def choose(implementation: Implementation, *tensors: Tensor) -> Literal["warp", "torch"]:
    """Return which of our own serves these tensors: "warp" for float32 on a CPU or CUDA, else the torch twin.

    Raises ``ValueError`` where "warp" was asked for and cannot serve, and for tensors on several devices.
    """
    devices = {t.device for t in tensors}
    if len(devices) != 1:
        raise ValueError(f"kernels: tensors are on {sorted(map(str, devices))}; expected one device")
    if implementation == "auto":
        implementation = next((name for name in ("warp", "torch") if name in _wanted), "auto")
    if implementation == "torch":
        return "torch"
    if implementation not in ("auto", "warp"):
        raise ValueError(
            f"kernels: unknown implementation '{implementation}'; expected 'auto', 'warp' or 'torch'"
        )
    obstacle = _obstacle(tensors, devices.pop())
    if obstacle and implementation == "warp":
        raise ValueError(
            f"kernels: {obstacle}; expected float32 tensors on a CPU or CUDA. Use 'auto' or 'torch'"
        )
    return "torch" if obstacle else "warp"


def _obstacle(tensors: Sequence[Tensor], device: torch.device) -> str:
    """Return why Warp cannot serve these tensors; empty where it can."""
    other = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if other:
        return f"warp kernels do not compute in {other.pop()}"
    if device.type not in ("cpu", "cuda"):
        return f"warp has no device '{device.type}'"
    return "" if find_warp() is not None else "the package 'warp-lang' is not installed"


@dataclass(frozen=True)
class Split:
    """The shape of a launch, and along which axis (in pieces of at least ``grain``) CPU threads may share it."""

    dim: tuple[int, ...]
    axis: int = 0
    grain: int = 2048

    def pieces(self, n_threads: int) -> list[tuple[int, tuple[int, ...]]]:
        """Return (first, dim) of each piece: a few per thread, so that no thread waits long for another."""
        # Pieces differ in cost: with several a thread the slow ones are shared out.
        size = self.dim[self.axis]
        n = max(1, min(4 * n_threads, size // self.grain)) if n_threads > 1 else 1
        cuts = [size * i // n for i in range(n + 1)]
        before, after = self.dim[: self.axis], self.dim[self.axis + 1 :]
        return [(first, (*before, last - first, *after)) for first, last in itertools.pairwise(cuts)]


def launch(kernel: WarpKernel, split: Split, arguments: Sequence[object], device: torch.device) -> None:
    """Run ``kernel(first, *arguments)`` over ``split.dim``; ``arguments`` are numbers, ``array``s and Warp structs."""
    if 0 in split.dim:
        return
    if device.type == "cuda":
        _launch_piece(kernel, arguments, device, 0, split.dim)
        return
    tasks = [
        functools.partial(_launch_piece, kernel, arguments, device, *piece)
        for piece in split.pieces(torch.get_num_threads())
    ]
    # Warp compiles at the first launch, and two threads would compile the same module twice.
    if kernel not in _loaded:  # its first launch compiles and loads its module, and must have that to itself
        tasks.pop(0)()
        _loaded.add(kernel)
    run_tasks(tasks)


_loaded: set[WarpKernel] = set()  # kernels that this process has launched on the CPU


def _launch_piece(
    kernel: WarpKernel, arguments: Sequence[object], device: torch.device, first: int, dim: tuple[int, ...]
) -> None:
    wp = import_warp()
    # On CUDA in the order of what torch has queued, without waiting for it.
    where: dict[str, object] = {"device": "cpu"}
    if device.type == "cuda":
        where = {"stream": wp.stream_from_torch(torch.cuda.current_stream(device))}
    wp.launch(kernel, dim=dim, inputs=[first, *arguments], record_tape=False, **where)


def run_tasks(tasks: Sequence[Callable[[], None]]) -> None:
    """Run independent tasks on up to ``torch.get_num_threads()`` threads, the caller's included."""
    # One iterator for all threads: who is done takes the next task. `next` holds the interpreter lock.
    waiting = iter(tasks)
    n_others = min(torch.get_num_threads(), len(tasks)) - 1
    others = [_pool(n_others).submit(_drain, waiting) for _ in range(max(n_others, 0))]
    _drain(waiting)
    for other in others:
        other.result()


def _drain(tasks: Iterator[Callable[[], None]]) -> None:
    for task in tasks:
        task()


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="usd-kernels")


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked worker has none of its parent's threads


def array(tensor: Tensor, dtype: object = None) -> object:
    """Return a view of a contiguous tensor for a kernel; ``dtype`` may be a Warp vector that takes up the last axis."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    return import_warp().from_torch(plain, dtype=dtype, return_ctype=True)


def zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return float32 zeros for a kernel to add to."""
    return _fresh_pages(shape) if _is_large(shape, device) else torch.zeros(shape, device=device)


def room(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return float32 memory for a kernel to fill."""
    return _fresh_pages(shape) if _is_large(shape, device) else torch.empty(shape, device=device)


def _is_large(shape: tuple[int, ...], device: torch.device) -> bool:
    return device.type == "cpu" and sys.platform == "linux" and 4 * math.prod(shape) >= LARGE


def _fresh_pages(shape: tuple[int, ...]) -> Tensor:
    """Return zeros on the operating system's large pages, where it has any, instead of 4 KiB ones.

    Large results are new to the process each time, and half of the time of filling one was spent entering pages.
    The system hands over zeros, page by page, to the thread that writes there first: nothing is cleared twice.
    """
    # Anonymous memory, that the operating system clears page by page as it is touched.
    memory = mmap.mmap(-1, 4 * math.prod(shape), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)
