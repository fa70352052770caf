"""The toybox's kernels compile for CUDA on a machine without one."""

from pathlib import Path

import pytest

from usd.kernels import ahead
from usd.toybox import distance, render


@pytest.mark.slow
def test_every_kernel_of_the_toybox_compiles_for_cuda(tmp_path: Path) -> None:
    kernels = (distance.distance_kernel, render.first_pass, render.edge_pass, render.color_kernel)
    modules = {kernel.module.name: kernel.module for kernel in kernels}
    paths = ahead.compile_for_cuda(tmp_path, (80, 90), modules)
    assert len(paths) == 2 * len(modules)
    assert all(path.suffix == ".cubin" and path.stat().st_size > 1000 for path in paths)
