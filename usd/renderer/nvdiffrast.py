"""Visibility and antialiasing by the package nvdiffrast (arXiv 2011.03277), where a configuration asks for it.

It is not a dependency: its license allows research only, and it needs CUDA. Everything else (where a ray meets its
face, interpolation, shading) is computed as with the built-in rasterizer.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.errors import UserError
from usd.core.types import Mesh
from usd.kernels.rasterize import Seen, View, barycentric

NEAR, FAR = 0.01, 1000.0


@functools.cache
def package() -> Any:
    """The module ``nvdiffrast.torch``. Raises ``UserError`` where it is not installed."""
    try:
        return importlib.import_module("nvdiffrast.torch")
    except ImportError as error:
        raise UserError(
            "system.renderer.implementation: is 'nvdiffrast', but the package nvdiffrast cannot be imported "
            f"({error}); expected it to be installed (github.com/NVlabs/nvdiffrast), or 'built-in'"
        ) from error


@functools.cache
def context(kind: str, device: torch.device) -> Any:
    """What nvdiffrast draws with, once for each device."""
    make = package().RasterizeGLContext if kind == "gl" else package().RasterizeCudaContext
    return make(device=device)


def clip_positions(vertices: Float[Tensor, "V 3"], view: View) -> Float[Tensor, "B V 4"]:
    """Homogeneous positions in the window's clip space, y down: nvdiffrast's first row is then the top one."""
    whole = view.cameras
    x, y, z, w = torch.einsum(
        "bij,vj->bvi", whole.mvp(NEAR, FAR), torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    ).unbind(-1)
    across = (whole.width / view.width, (whole.width - 2 * view.left) / view.width - 1)
    down = (-whole.height / view.height, (whole.height - 2 * view.top) / view.height - 1)
    return torch.stack([across[0] * x + across[1] * w, down[0] * y + down[1] * w, z, w], -1)


def screen(mesh: Mesh, view: View, context_type: str) -> tuple[Seen, Callable[[Tensor], Tensor]]:
    """What each pixel shows, and nvdiffrast's antialiasing of pictures of it. Raises ``UserError`` on a CPU."""
    if mesh.vertices.device.type != "cuda":
        raise UserError(
            f"system.renderer.implementation: is 'nvdiffrast', which needs CUDA, but the mesh is on "
            f"'{mesh.vertices.device}'; expected 'built-in'"
        )
    return drawn(mesh, view, context(context_type, mesh.vertices.device))


def drawn(mesh: Mesh, view: View, glctx: Any) -> tuple[Seen, Callable[[Tensor], Tensor]]:
    """``screen`` with a context that is there."""
    positions, faces = clip_positions(mesh.vertices, view).contiguous(), mesh.faces.int().contiguous()
    raster, _ = package().rasterize(glctx, positions, faces, (view.height, view.width))
    face = raster[..., 3].detach().long().flatten() - 1
    pixel = (face >= 0).nonzero().squeeze(1)
    rough = Seen(pixel, face[pixel], positions.new_zeros(len(pixel)), view.shape)
    with torch.no_grad():
        t = barycentric(mesh.vertices, mesh.faces, view, rough)[1]
    seen = Seen(pixel, rough.face, t, view.shape)
    return seen, lambda picture: package().antialias(picture.contiguous(), raster, positions, faces)
