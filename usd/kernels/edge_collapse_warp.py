# ruff: noqa: ARG001, PLR0913, PLR0917 - a kernel takes as many arguments as it has arrays, and a first one always
"""Edge collapses in order of their cost, with a heap, on one CPU thread. Read ``edge_collapse`` first."""

from collections.abc import Callable
from typing import no_type_check

import torch
from torch import Tensor

from usd.kernels import runtime
from usd.kernels.native import native_body

wp = runtime.import_warp()
kernel = wp.kernel(module="usd_edge_collapse", enable_backward=False)
AT_ONCE = 20_000  # collapses between two reports of progress
CANDIDATE = 3  # doubles
ROOM = 2.0  # candidates for each edge of a closed mesh; when all are taken, those out of date go


@wp.func_native(native_body("edge_collapse.h", "start_collapses"))
@no_type_check
def start_collapses(
    x: wp.array(dtype=wp.float64),
    quadric: wp.array(dtype=wp.float64),
    faces: wp.array(dtype=wp.int32),
    vertex: wp.array2d(dtype=wp.int32),
    next: wp.array(dtype=wp.int32),
    memory: wp.array(dtype=wp.float64),
    state: wp.array(dtype=wp.int32),
):
    """Write lists, quadrics and candidates of a mesh."""


@wp.func_native(native_body("edge_collapse.h", "collapse_cheapest"))
@no_type_check
def collapse_cheapest(
    most: wp.int32,
    target: wp.int32,
    x: wp.array(dtype=wp.float64),
    quadric: wp.array(dtype=wp.float64),
    faces: wp.array(dtype=wp.int32),
    vertex: wp.array2d(dtype=wp.int32),
    next: wp.array(dtype=wp.int32),
    memory: wp.array(dtype=wp.float64),
    state: wp.array(dtype=wp.int32),
):
    """Collapse the cheapest edges, at most so many."""


@kernel
@no_type_check
def start(
    first: wp.int32,
    x: wp.array(dtype=wp.float64),
    quadric: wp.array(dtype=wp.float64),
    faces: wp.array(dtype=wp.int32),
    vertex: wp.array2d(dtype=wp.int32),
    next: wp.array(dtype=wp.int32),
    memory: wp.array(dtype=wp.float64),
    state: wp.array(dtype=wp.int32),
):
    """Begin, on the only thread."""
    start_collapses(x, quadric, faces, vertex, next, memory, state)


@kernel
@no_type_check
def proceed(
    first: wp.int32,
    most: wp.int32,
    target: wp.int32,
    x: wp.array(dtype=wp.float64),
    quadric: wp.array(dtype=wp.float64),
    faces: wp.array(dtype=wp.int32),
    vertex: wp.array2d(dtype=wp.int32),
    next: wp.array(dtype=wp.int32),
    memory: wp.array(dtype=wp.float64),
    state: wp.array(dtype=wp.int32),
):
    """Go on, on the only thread."""
    collapse_cheapest(most, target, x, quadric, faces, vertex, next, memory, state)


def collapse(x: Tensor, faces: Tensor, target: int, show: Callable[[int], None]) -> tuple[Tensor, Tensor]:
    """Return positions (V, 3) and faces (K, 3) of a mesh on the CPU, in double precision, with ``target`` faces."""
    cpu, n, alone = torch.device("cpu"), len(x), runtime.Split((1,))
    points, corners = x.clone().contiguous(), faces.to(torch.int32).clone().contiguous()
    # A closed mesh has 3 F / 2 edges; a heap of triangles that share none has twice as many.
    room = int(ROOM * 1.5 * len(faces)) + 64
    memory = torch.empty(CANDIDATE * room, dtype=torch.float64)
    state = torch.tensor([0, len(faces), 0], dtype=torch.int32)
    tensors = [
        points.view(-1),
        x.new_zeros(10 * n),
        corners.view(-1),
        torch.zeros((6, n), dtype=torch.int32),
        torch.zeros(3 * len(faces), dtype=torch.int32),
        memory,
        state,
    ]
    arrays = [runtime.array(tensor) for tensor in tensors]
    runtime.launch(start, alone, arrays, cpu)
    while int(state[0]) and int(state[1]) > target:
        runtime.launch(proceed, alone, [AT_ONCE, target, *arrays], cpu)
        show(len(faces) - int(state[1]))
    return points, corners[corners[:, 0] >= 0].to(faces.dtype)
