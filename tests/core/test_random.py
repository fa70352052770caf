import torch

from usd.core.random import generator, mix


def test_mix_is_a_function_of_every_part():
    seeds = [
        mix(s, *p) for s in (0, 1) for p in [(), (0,), (1,), ("a",), ("a", 0), ("a", 1), (1, 11), (11, 1)]
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(0, "step", 5) == mix(0, "step", 5)


def test_generators_replay():
    a, b = (torch.rand(5, generator=generator("cpu", 3, "x", 7)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(5, generator=generator("cpu", 3, "x", 8)))
