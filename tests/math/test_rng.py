"""Numbers for the parts of a batch are the parts of the numbers for the batch."""

import pytest
import torch

from tests.fake_device import elsewhere
from usd.math import rng
from usd.math.rng import BatchShare, ShareGenerator


def whole(seed: int = 3) -> torch.Generator:
    return ShareGenerator.seeded("cpu", seed, None)


def parts(total: int, processes: int, seed: int = 3) -> list[torch.Generator]:
    return [
        ShareGenerator.seeded("cpu", seed, BatchShare.of(total, rank, processes)) for rank in range(processes)
    ]


@pytest.mark.parametrize(("total", "processes"), [(6, 1), (6, 2), (7, 2), (5, 3), (32, 5)])
def test_parts_cover_the_whole_once_and_evenly(total, processes):
    found = [BatchShare.of(total, rank, processes) for rank in range(processes)]
    assert [i for part in found for i in range(part.first, part.first + part.count)] == list(range(total))
    assert max(part.count for part in found) - min(part.count for part in found) <= 1


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_rows_of_all_parts_are_those_of_the_whole(processes):
    views, each = 6, 4  # views, and rows that each of them has
    source = whole()
    rays = rng.uniform((views * each, 2), source)
    noise, times = rng.normal((views, 3), source), rng.integers(0, 1000, (views,), source)
    split = parts(views, processes)
    count = views // processes
    assert torch.equal(torch.cat([rng.uniform((count * each, 2), g) for g in split]), rays)
    assert torch.equal(torch.cat([rng.normal((count, 3), g) for g in split]), noise)
    assert torch.equal(torch.cat([rng.integers(0, 1000, (count,), g) for g in split]), times)


def test_what_a_batch_has_once_is_the_same_everywhere_and_draws_stay_in_step():
    a, b = parts(4, 2)
    first = [rng.normal((2,), g) for g in (a, b)]
    assert not torch.equal(*first)
    assert torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    with rng.use_share(a, None), rng.use_share(b, None):
        assert torch.equal(rng.uniform((5,), a), rng.uniform((5,), b))
    assert not torch.equal(rng.uniform((2,), a), rng.uniform((2,), b))


def test_a_fresh_generator_knows_its_part():
    renewed = [rng.fresh(g, 9) for g in parts(2, 2)]
    together = torch.cat([rng.uniform((1, 4), g) for g in renewed])
    assert torch.equal(together, rng.uniform((2, 4), rng.fresh(whole(), 9)))
    assert torch.equal(together, rng.uniform((2, 4), rng.fresh(torch.Generator(), 9)))


def test_without_parts_nothing_changes():
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(rng.uniform((7,), a), torch.rand(7, generator=b))
    with rng.use_share(a, BatchShare(0, 1, 2)):
        assert torch.equal(rng.normal((7,), a), torch.randn(7, generator=b))


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="7 rows are no multiple of the 2"):
        rng.uniform((7,), ShareGenerator.seeded("cpu", 0, BatchShare(0, 2, 4)))


def test_numbers_that_python_reads_come_from_the_cpu_and_from_the_same_seed(monkeypatch):
    here = whole()
    assert rng.on_host(here) is here
    with elsewhere(monkeypatch) as device:
        there, again = (ShareGenerator.seeded(device, 3, None) for _ in range(2))
        host = rng.on_host(there)
        assert host is not there and host.device.type == "cpu" and rng.on_host(there) is host
        drawn = [torch.rand(2, generator=rng.on_host(each)) for each in (there, again, there)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
