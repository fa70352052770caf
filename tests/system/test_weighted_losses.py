"""Figures of a step as numbers, all read at once."""

import torch

from usd.system.weighted_losses import process_averages


def test_numbers_of_any_kind_and_shape_come_back_exactly():
    wide = 1 + 2.0**-40
    figures = {
        "single": torch.tensor(0.1),
        "row": torch.tensor([2.5]),
        "wide": torch.tensor(wide, dtype=torch.float64),
        "count": torch.tensor(2**40 + 1),
        "half": torch.tensor(0.5, dtype=torch.bfloat16),
        "learned": torch.tensor(3.0, requires_grad=True),
    }
    assert process_averages(figures) == {
        "single": float(torch.tensor(0.1)), "row": 2.5, "wide": wide,
        "count": 2**40 + 1, "half": 0.5, "learned": 3.0,
    }  # fmt: skip
