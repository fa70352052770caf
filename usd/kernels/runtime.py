"""Which implementation serves a tensor, and how a Warp kernel is launched on torch tensors.

A kernel of this package takes ``first: int`` as its first argument and works on item ``first + i``, i being the
last of ``wp.tid()``. On the CPU, where Warp runs a launch on one thread, a launch is cut into ranges of items
that a few threads run side by side (``wp.launch`` releases the interpreter lock); on CUDA it is one launch on
torch's current stream. Items must not write to the same place: on the CPU Warp's ``atomic_add`` is a plain add.
The result does not depend on the number of threads.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
from torch import Tensor

Implementation = Literal["auto", "warp", "torch"]
ITEMS_PER_TASK = 4096


@functools.cache
def find_warp() -> Any:
    """The ``warp`` module, imported on first use and without its banner; None where it is not installed."""
    try:
        import warp as wp
    except ImportError:
        return None
    wp.config.log_level = wp.LOG_ERROR
    wp.init()
    return wp


def choose(implementation: Implementation, *tensors: Tensor) -> Literal["warp", "torch"]:
    """Which implementation serves these tensors: "warp" for float32 on a CPU or CUDA, else the torch twin.

    Raises ``ValueError`` where "warp" was asked for and cannot serve, and for tensors on several devices.
    """
    devices = {t.device for t in tensors}
    if len(devices) != 1:
        raise ValueError(f"kernels: tensors are on {sorted(map(str, devices))}; expected one device")
    if implementation == "torch":
        return "torch"
    if implementation not in ("auto", "warp"):
        raise ValueError(f"kernels: unknown implementation '{implementation}'; expected 'auto', 'warp' or 'torch'")
    obstacle = _obstacle(tensors, devices.pop())
    if obstacle and implementation == "warp":
        raise ValueError(f"kernels: {obstacle}; expected float32 tensors on a CPU or CUDA. Use 'auto' or 'torch'")
    return "torch" if obstacle else "warp"


def _obstacle(tensors: Sequence[Tensor], device: torch.device) -> str:
    """Why Warp cannot serve these tensors; empty where it can."""
    other = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if other:
        return f"warp kernels do not compute in {other.pop()}"
    if device.type not in ("cpu", "cuda"):
        return f"warp has no device '{device.type}'"
    return "" if find_warp() is not None else "the package 'warp-lang' is not installed"


def launch(
    kernel: Any, n_items: int, arguments: Sequence[Any], device: torch.device, outer: tuple[int, ...] = ()
) -> None:
    """Run ``kernel(first, *arguments)`` over ``outer`` x ``n_items``; only the items are split over CPU threads.

    ``arguments`` are what ``array`` returns, numbers and Warp values.
    """
    if n_items == 0:
        return
    if device.type == "cuda":
        _launch_range(kernel, 0, n_items, arguments, device, outer)
        return
    n_tasks = min(4 * torch.get_num_threads(), -(-n_items // ITEMS_PER_TASK))
    cuts = [n_items * i // n_tasks for i in range(n_tasks + 1)]
    run_tasks(
        [
            functools.partial(_launch_range, kernel, first, last - first, arguments, device, outer)
            for first, last in zip(cuts[:-1], cuts[1:], strict=True)
        ]
    )


def _launch_range(
    kernel: Any, first: int, count: int, arguments: Sequence[Any], device: torch.device, outer: tuple[int, ...]
) -> None:
    wp = find_warp()
    where: dict[str, Any] = {"device": "cpu"}
    if device.type == "cuda":
        where = {"stream": wp.stream_from_torch(torch.cuda.current_stream(device))}
    wp.launch(kernel, dim=(*outer, count), inputs=[first, *arguments], record_tape=False, **where)


def run_tasks(tasks: Sequence[Callable[[], None]]) -> None:
    """Run independent tasks on up to ``torch.get_num_threads()`` threads, the caller's included.

    The first task runs alone: a kernel's module is compiled and loaded by its first launch.
    """
    if not tasks:
        return
    tasks[0]()
    waiting = iter(tasks[1:])
    n_others = min(torch.get_num_threads(), len(tasks) - 1) - 1
    others = [_pool(n_others).submit(_drain, waiting) for _ in range(max(n_others, 0))]
    _drain(waiting)
    for other in others:
        other.result()


def _drain(tasks: Any) -> None:
    for task in tasks:
        task()


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="usd-kernels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked worker has none of its parent's threads


def array(tensor: Tensor, dtype: Any = None) -> Any:
    """A view of a contiguous tensor for a kernel; ``dtype`` may be a Warp vector that takes up the last axis."""
    return find_warp().from_torch(tensor.detach(), dtype=dtype, return_ctype=True)
