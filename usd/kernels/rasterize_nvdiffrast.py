"""Visibility and antialiasing by the package nvdiffrast (arXiv 2011.03277), where a configuration asks for it.

It is not a dependency: its license allows research only, and it needs CUDA. Everything else (where a ray meets its
face, interpolation, shading) is computed as with the built-in rasterizer.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.kernels.accelerators import load_accelerator
from usd.kernels.rasterize import Fragments, View, barycentric

NEAR, FAR = 0.01, 1000.0
ContextType = Literal["cuda", "gl"]


@functools.cache
def package() -> ModuleType:
    """Return the module ``nvdiffrast.torch``. Raises ``ValueError`` where it cannot be imported."""
    try:
        return load_accelerator("nvdiffrast")
    except ImportError as error:
        raise ValueError(
            f"the package nvdiffrast cannot be imported ({error}); expected it to be installed "
            "(github.com/NVlabs/nvdiffrast)"
        ) from error


@functools.cache
def rasterize_context(kind: ContextType, device: torch.device) -> object:
    """Return what nvdiffrast draws with, made once for each device."""
    make = package().RasterizeGLContext if kind == "gl" else package().RasterizeCudaContext
    return make(device=device)


def clip_positions(vertices: Float[Tensor, "V 3"], view: View) -> Float[Tensor, "B V 4"]:
    """Return homogeneous positions in the window's clip space, y down: nvdiffrast's first row is then the top one."""
    whole = view.cameras
    x, y, z, w = torch.einsum(
        "bij,vj->bvi", whole.mvp(NEAR, FAR), torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    ).unbind(-1)
    # The window's pixels, stretched over the whole clip space.
    across = (whole.width / view.width, (whole.width - 2 * view.left) / view.width - 1)
    down = (-whole.height / view.height, (whole.height - 2 * view.top) / view.height - 1)
    return torch.stack([across[0] * x + across[1] * w, down[0] * y + down[1] * w, z, w], -1)


def rasterize_nvdiffrast(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], view: View, context: object
) -> tuple[Fragments, Callable[[Tensor], Tensor]]:
    """Return what each pixel shows, and nvdiffrast's antialiasing of pictures (B, H, W, C) of it.

    ``context`` is a ``rasterize_context`` on the vertices' device.
    """
    positions, indices = clip_positions(vertices, view).contiguous(), faces.int().contiguous()
    raster, _ = package().rasterize(context, positions, indices, (view.height, view.width))
    # Faces are numbered from 1; 0 is a pixel that shows none.
    face = raster[..., 3].detach().long().flatten() - 1
    pixel = (face >= 0).nonzero().squeeze(1)
    rough = Fragments(pixel, face[pixel], positions.new_zeros(len(pixel)), view.shape)
    # nvdiffrast's depth is that of clip space, ours a distance along the ray.
    with torch.no_grad():
        t = barycentric(vertices, faces, view, rough)[1]
    fragments = Fragments(pixel, rough.face, t, view.shape)
    return fragments, lambda picture: package().antialias(picture.contiguous(), raster, positions, indices)
