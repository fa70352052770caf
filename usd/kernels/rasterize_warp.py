"""The ray query of a mesh; one thread follows one ray. Read ``rasterize`` first."""

import math
from typing import no_type_check

import torch
from torch import Tensor

from usd.kernels import runtime

wp = runtime.import_warp()
kernel = wp.kernel(module="usd_rasterize", enable_backward=False)
FAR = 1e30


@kernel
@no_type_check
def cast_rays(
    first: wp.int32,
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3f),
    directions: wp.array(dtype=wp.vec3f),
    far: wp.float32,
    miss: wp.float32,
    face: wp.array(dtype=wp.int64),
    t: wp.array(dtype=wp.float32),
):
    """Write the nearest face that one ray meets, and where."""
    r = first + wp.tid()
    # Faces are met from either side.
    hit = wp.mesh_query_ray(mesh, origins[r], directions[r], far)
    if hit.result:
        face[r] = wp.int64(hit.face)
        t[r] = hit.t
    else:
        face[r] = wp.int64(-1)
        t[r] = miss


KERNELS = (cast_rays,)


class Tree:
    """Warp's mesh: the hierarchy of boxes over the faces of one set of vertices."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        # Warp's mesh points into these tensors: they must live as long as it does.
        self.kept = (vertices.contiguous(), faces.int().flatten().contiguous())
        points, indices = self.kept
        with _on_torch_stream(points.device):
            self.mesh = wp.Mesh(wp.from_torch(points, dtype=wp.vec3f), wp.from_torch(indices))

    def cast(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Cast as ``Tracer.cast`` does, by the kernel."""
        n = len(origins)
        face = torch.empty(n, dtype=torch.int64, device=origins.device)
        t = origins.new_empty(n)
        rays = (runtime.array(each.contiguous(), wp.vec3f) for each in (origins, directions))
        arguments = (self.mesh.id, *rays, FAR, math.inf, runtime.array(face), runtime.array(t))
        runtime.launch(cast_rays, runtime.Split((n,), grain=512), arguments, origins.device)
        return face, t


def _on_torch_stream(device: torch.device):
    """Let Warp's own work (building the tree) follow torch's current stream."""
    if device.type != "cuda":
        return wp.ScopedDevice("cpu")
    return wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(device)))
