from usd.kernels import ahead


def test_every_kernel_compiles_for_cuda_without_a_gpu(tmp_path):
    paths = ahead.compile_for_cuda(tmp_path, (80, 90))
    assert len(paths) == 2 * len(ahead.modules())
    assert all(path.suffix == ".cubin" and path.stat().st_size > 1000 for path in paths)
    assert {path.name.split(".")[-2] for path in paths} == {"sm80", "sm90"}
