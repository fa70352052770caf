import torch

from usd.kernels.hash_grid import HashGridSpec, hash_grid


def test_kernel_equals_twin():
    spec = HashGridSpec(4, 2, 8, 4, 1.6)
    x = torch.rand(100, 3)
    table = spec.init_table()
    torch.testing.assert_close(hash_grid(x, table, spec, "warp"), hash_grid(x, table, spec, "torch"))
