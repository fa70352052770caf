"""The nearest point of a mesh and its winding number; one thread serves one point. Read ``mesh_distance`` first."""

import contextlib
from contextlib import AbstractContextManager
from typing import no_type_check

import torch
from torch import Tensor

from usd.kernels import runtime

wp = runtime.import_warp()
ACCURACY = 2.0  # where the winding number takes faces together: at this many times their group's size away


@wp.kernel(module="usd_mesh_distance", enable_backward=False)
@no_type_check
def measure(
    first: wp.int32,
    mesh: wp.uint64,
    reach: wp.float32,
    accuracy: wp.float32,
    x: wp.array(dtype=wp.vec3f),
    found: wp.array(dtype=wp.float32),
):
    """Write the signed distance of one point."""
    i = first + wp.tid()
    at = x[i]
    # Warp's tree gives the nearest face, and the side by its own winding number.
    nearest = wp.mesh_query_point_sign_winding_number(mesh, at, reach, accuracy, 0.5)
    point = wp.mesh_eval_position(mesh, nearest.face, nearest.u, nearest.v)
    found[i] = nearest.sign * wp.length(at - point)


KERNELS = (measure,)


def distance(x: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """Return signed distances (N,) of points to a mesh with faces, all detached and float32."""
    points = wp.from_torch(vertices.contiguous(), dtype=wp.vec3f)
    indices = wp.from_torch(faces.flatten().to(torch.int32).contiguous(), dtype=wp.int32)
    with _on_torch_stream(x.device):
        mesh = wp.Mesh(points, indices, support_winding_number=True)
    x, found = x.contiguous(), torch.empty_like(x[:, 0])
    # Beyond any distance between a point and a vertex: the query must not give up early.
    reach = 4 * float(torch.cat([x, vertices]).abs().max()) + 1
    arguments = [mesh.id, reach, ACCURACY, runtime.array(x, wp.vec3f), runtime.array(found)]
    runtime.launch(measure, runtime.Split((len(x),)), arguments, x.device)
    return found


def _on_torch_stream(device: torch.device) -> AbstractContextManager:
    """Let Warp build the mesh where torch has written it: on CUDA after what torch's stream still has to do."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(device)))
