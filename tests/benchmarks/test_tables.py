"""Tables know when a difference is noise."""

import pytest
import torch

from benchmarks import tables

RNG = torch.Generator().manual_seed(0)


def test_a_shift_common_to_all_objects_is_sure_however_much_objects_differ() -> None:
    base = (10 * torch.randn(12, generator=RNG)).tolist()
    shifted = [value + 0.5 + 0.1 * (-1) ** i for i, value in enumerate(base)]
    found = tables.paired(shifted, base)
    assert found.sure and found.mean == pytest.approx(0.5) and found.words() == "+0.50 ± 0.03"


def test_unrelated_numbers_are_called_noise_about_nineteen_times_in_twenty() -> None:
    draws = torch.randn(2000, 2, 12, generator=RNG).tolist()
    sure = sum(tables.paired(a, b).sure for a, b in draws) / len(draws)
    assert 0.03 < sure < 0.07
    assert tables.paired([1.0], [0.0]).words().endswith("smaller than the noise"), "one object says nothing"


def test_the_table_pairs_only_objects_that_both_settings_have() -> None:
    rows = {
        "plain": {"1": {"psnr": 10.0}, "2": {"psnr": 30.0}, "3": {"psnr": 90.0}},
        "better": {"1": {"psnr": 11.0}, "2": {"psnr": 31.5}},
    }
    lines = tables.table(rows, [tables.Column("psnr", "PSNR, dB", 1)], "plain").splitlines()
    assert lines[0] == "| setting | objects | PSNR, dB | minus plain |"
    assert lines[2] == "| plain | 3 | 43.3 ± 41.6 | - |"
    assert lines[3] == "| better | 2 | 21.2 ± 14.5 | +1.2 ± 0.2, smaller than the noise |"
