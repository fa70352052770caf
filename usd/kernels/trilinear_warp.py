# mypy: disable-error-code="name-defined, valid-type"
# ruff: noqa: PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays
"""Volumes between their voxels on a CPU, with gradients; a thread serves some places. Read ``trilinear`` first.

The loops are the C++ of ``trilinear.h``, for the reason given in ``hash_grid_warp``.
"""

import functools
from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from usd.kernels import runtime
from usd.kernels.native import native_body

wp = runtime.import_warp()
CHUNK = 1024  # places or voxels of a task
PARTS = ("GATHER", "SCATTER", "PULL")
COPIES = ("INTO_ROWS", "OUT_OF_ROWS")


def _row(channels: int) -> int:
    """Return how many numbers a voxel's row has: whole vectors."""
    return -(-channels // 8) * 8


@functools.cache
def kernels(channels: int) -> dict[str, runtime.WarpKernel]:
    """Return all kernels for volumes of so many channels, by what they do."""
    # Made together: Warp compiles a module anew when a kernel comes to it later.
    walks = {part: _walk_kernel(part, channels) for part in PARTS}
    return walks | {name: _copy_kernel(name, channels) for name in COPIES}


def _walk_kernel(part: str, channels: int) -> runtime.WarpKernel:
    """Return the kernel that gathers, scatters or pulls (one of ``PARTS``): a chunk of places of one volume."""
    switches = {name: int(name == part) for name in PARTS}
    code = native_body("trilinear.h", "walk_places", CHANNELS=channels, ROW=_row(channels), **switches)

    @no_type_check
    def walk_places(
        rows: wp.array(dtype=wp.float32),
        places: wp.array2d(dtype=wp.vec3f),
        values: wp.array(dtype=wp.float32),
        slopes: wp.array2d(dtype=wp.vec3f),
        volume: wp.int32,
        first: wp.int32,
        last: wp.int32,
        depth: wp.int32,
        height: wp.int32,
        width: wp.int32,
    ): ...

    # Warp tells functions of one signature apart by their names alone.
    walk_places.__name__ = walk_places.__qualname__ = f"{part}_places_{channels}"
    walk_places = wp.func_native(code)(walk_places)

    @no_type_check
    def walk(
        first: wp.int32,
        first_is_volume: wp.bool,
        chunk: wp.int32,
        rows: wp.array(dtype=wp.float32),
        places: wp.array2d(dtype=wp.vec3f),
        values: wp.array(dtype=wp.float32),
        slopes: wp.array2d(dtype=wp.vec3f),
        depth: wp.int32,
        height: wp.int32,
        width: wp.int32,
    ):
        volume, lane = wp.tid()
        # A launch is cut along one axis: a piece begins at first.
        if first_is_volume:
            volume += first
        else:
            lane += first
        end = wp.min((lane + 1) * chunk, places.shape[1])
        walk_places(rows, places, values, slopes, volume, lane * chunk, end, depth, height, width)

    walk.__name__ = walk.__qualname__ = part.lower()
    return wp.kernel(walk, module=f"usd_trilinear_{channels}", enable_backward=False)


def _copy_kernel(name: str, channels: int) -> runtime.WarpKernel:
    """Return the kernel that copies a chunk of voxels into rows, or back."""
    code = native_body(
        "trilinear.h",
        "copy_voxels",
        CHANNELS=channels,
        ROW=_row(channels),
        INTO_ROWS=int(name == "INTO_ROWS"),
    )

    @no_type_check
    def copy_voxels(
        values: wp.array3d(dtype=wp.float32),
        rows: wp.array(dtype=wp.float32),
        volume: wp.int32,
        first: wp.int32,
        last: wp.int32,
    ): ...

    copy_voxels.__name__ = copy_voxels.__qualname__ = f"{name}_{channels}"
    copy_voxels = wp.func_native(code)(copy_voxels)

    @no_type_check
    def copy(
        first: wp.int32,
        chunk: wp.int32,
        values: wp.array3d(dtype=wp.float32),
        rows: wp.array(dtype=wp.float32),
    ):
        volume, lane = wp.tid()
        start = (lane + first) * chunk
        copy_voxels(values, rows, volume, start, wp.min(start + chunk, values.shape[2]))

    copy.__name__ = copy.__qualname__ = name.lower()
    return wp.kernel(copy, module=f"usd_trilinear_{channels}", enable_backward=False)


def sample(volumes: Tensor, places: Tensor) -> Tensor:
    """Return values (R, C, P) of volumes (R, C, D, H, W) at places (R, P, 3), all float32 on the CPU."""
    return _SampleVolumes.apply(volumes.contiguous(), places.contiguous())


def _copy(name: str, values: Tensor, rows: Tensor) -> None:
    """Copy volumes (R, C, V) into rows (R * V * row), or back: one of ``COPIES``."""
    n_volumes, channels, n_voxels = values.shape
    split = runtime.Split((n_volumes, -(-n_voxels // CHUNK)), axis=1, grain=4)
    arguments = (CHUNK, runtime.array(values), runtime.array(rows))
    runtime.launch(kernels(channels)[name], split, arguments, values.device)


def _walk(part: str, shape: torch.Size, rows: Tensor, places: Tensor, values: Tensor, slopes: Tensor) -> None:
    """Gather, scatter or pull over all places of volumes of a shape (R, C, D, H, W)."""
    # Two threads must not add to one row, so a scatter gives each thread whole volumes.
    by_volume = part == "SCATTER"
    n_chunks = -(-places.shape[1] // CHUNK)
    split = runtime.Split((shape[0], n_chunks), axis=0 if by_volume else 1, grain=1)
    arrays = (
        runtime.array(rows),
        runtime.array(places, wp.vec3f),
        runtime.array(values.view(-1)),
        runtime.array(slopes, wp.vec3f),
    )
    runtime.launch(kernels(shape[1])[part], split, (by_volume, CHUNK, *arrays, *shape[2:]), rows.device)


if TYPE_CHECKING:

    class SampleContext(FunctionCtx):
        """The context of autograd that ``_Sample`` keeps shapes and tensors in, for type checkers."""

        shape: torch.Size
        saved_tensors: tuple[Tensor, ...]
        needs_input_grad: tuple[bool, ...]

else:  # autograd makes a class of its own
    SampleContext = FunctionCtx


class _SampleVolumes(torch.autograd.Function):
    """(volumes, places) -> values, with gradients for both."""

    @staticmethod
    def forward(ctx: SampleContext, volumes: Tensor, places: Tensor) -> Tensor:
        flat, device = volumes.flatten(2), volumes.device
        n_volumes, channels, n_voxels = flat.shape
        rows = runtime.room((n_volumes * n_voxels * _row(channels),), device)
        _copy("INTO_ROWS", flat, rows)
        values = runtime.room((n_volumes, channels, places.shape[1]), device)
        _walk("GATHER", volumes.shape, rows, places, values, places)
        # The gradient with regard to volumes needs nothing of them.
        ctx.save_for_backward(places, rows if ctx.needs_input_grad[1] else rows[:0])
        ctx.shape = volumes.shape
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: SampleContext, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (places, rows), g = ctx.saved_tensors, grads[0].contiguous()
        g_volumes = _scattered(ctx.shape, places, g) if ctx.needs_input_grad[0] else None
        g_places = torch.empty_like(places) if ctx.needs_input_grad[1] else None
        if g_places is not None:
            _walk("PULL", ctx.shape, rows, places, g, g_places)
        return g_volumes, g_places


def _scattered(shape: torch.Size, places: Tensor, g: Tensor) -> Tensor:
    """Return the gradient of volumes (R, C, D, H, W) from that of values (R, C, P)."""
    n_voxels = shape[2:].numel()
    # Added up in rows, as they are read; the way back costs little beside eight additions a place.
    rows = runtime.zeros((shape[0] * n_voxels * _row(shape[1]),), g.device)
    _walk("SCATTER", shape, rows, places, g, places)
    volumes = runtime.room((*shape[:2], n_voxels), g.device)
    _copy("OUT_OF_ROWS", volumes, rows)
    return volumes.view(shape)
