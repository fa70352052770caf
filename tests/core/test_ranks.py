"""With one process, agreeing with the others is plain arithmetic. With two: tests/app/test_processes.py."""

import torch

from usd.core import ranks


def test_one_process_agrees_with_itself():
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    with ranks.together():
        assert (ranks.processes(), ranks.rank()) == (1, 0)
        assert torch.equal(ranks.summed(x), x) and torch.equal(ranks.gathered(x), x)
        assert torch.equal(ranks.averaged(x), x) and not ranks.summed(x).requires_grad
        assert float(ranks.mean(x)) == 2.0
        ranks.copy_from_first([x])
        ranks.leave()


def test_a_mean_over_nothing_is_nothing():
    nothing = torch.zeros(0)
    assert float(ranks.mean_over(nothing.sum(), len(nothing))) == 0.0
    assert float(ranks.mean_over(torch.tensor(6.0), torch.tensor(4))) == 1.5
    assert float(ranks.mean_over(torch.tensor(1.0), torch.tensor(0.25), 0.5)) == 2.0
