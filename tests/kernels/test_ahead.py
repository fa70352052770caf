import pytest

from usd.kernels import ahead


@pytest.mark.parametrize("cards", [(90,), pytest.param((80, 90), marks=pytest.mark.slow)], ids=["one", "two"])
def test_every_kernel_compiles_for_cuda_without_a_gpu(cards, tmp_path):
    paths = ahead.compile_for_cuda(tmp_path, cards)
    assert len(paths) == len(cards) * len(ahead.modules())
    assert all(path.suffix == ".cubin" and path.stat().st_size > 1000 for path in paths)
    assert {path.name.split(".")[-2] for path in paths} == {f"sm{card}" for card in cards}
