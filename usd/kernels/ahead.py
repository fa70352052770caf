"""Compiling every kernel before it is needed: to ship binaries, or to prove without a GPU that CUDA accepts them."""

from collections.abc import Sequence
from pathlib import Path

from usd.kernels.runtime import WarpModule, import_warp


def modules(n_features: int = 2, vertices: str = "corners") -> dict[str, WarpModule]:
    """Return Warp's modules by name: all kernels of this package, the hash grid's for one kind of grid."""
    from usd.kernels import hash_grid_warp, mesh_distance_warp, rasterize_warp, ray_march_warp, splat_warp

    # A CUDA thread has one point and needs no tiles, so the copies into them are left out.
    kernels = [hash_grid_warp.kernel(name, n_features, vertices) for name in hash_grid_warp.BODIES]
    kernels += [
        *mesh_distance_warp.KERNELS,
        *rasterize_warp.KERNELS,
        *ray_march_warp.KERNELS,
        *splat_warp.kernels(),
    ]
    return {kernel.module.name: kernel.module for kernel in kernels}


def compile_for_cuda(
    folder: Path, architectures: Sequence[int] = (80, 90), wanted: dict[str, WarpModule] | None = None
) -> list[Path]:
    """Write a CUDA binary of every module for every architecture (80 is sm_80); needs neither GPU nor driver.

    ``wanted`` are Warp's modules by name; by default all of this package.
    """
    wp = import_warp()
    return [
        Path(path)
        for module in (wanted or modules()).values()
        for path in wp.compile_aot_module(module, arch=list(architectures), module_dir=folder, use_ptx=False)
    ]
