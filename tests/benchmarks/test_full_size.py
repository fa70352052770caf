"""The count of models of view groups at full size."""

import pytest

from benchmarks import full_size
from benchmarks.full_size import BrokenError, Report, check_view_groups


def test_networks_of_view_groups_are_counted_at_full_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    check_view_groups(report)
    assert "| wonder3d | unet | 910,785,284 | as published |" in report.lines
    monkeypatch.setattr(full_size, "VIEW_GROUPS", {"wonder3d": {"unet": 1}})
    with pytest.raises(BrokenError, match=r"wonder3d: unet has 910,785,284 parameters; expected 1"):
        check_view_groups(report)
    assert "zero123plus" in capsys.readouterr().out
