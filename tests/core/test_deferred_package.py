"""A package that is only there as far as it is used."""

import importlib
import subprocess
import sys

import pytest

from usd.core.deferred_package import DeferredPackage


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """A package ``slow_counter`` whose first lines say that they run; ``slow_counter.part`` defines Part."""
    package = tmp_path / "slow_counter"
    package.mkdir()
    (package / "__init__.py").write_text("print('runs')\nfrom slow_counter.part import Part\nWHOLE = 3\n")
    (package / "part.py").write_text("from slow_counter import _logger\nclass Part: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    finder = DeferredPackage("slow_counter", {"Part": "slow_counter.part"})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    yield importlib.import_module("slow_counter")
    for name in ("slow_counter", "slow_counter.part"):
        sys.modules.pop(name, None)


def test_a_part_is_imported_without_the_rest(counter, capsys):
    from slow_counter import Part

    assert Part.__module__ == "slow_counter.part" and counter.Part is Part
    assert capsys.readouterr().out == ""


def test_any_other_name_runs_the_package_once(counter, capsys):
    assert counter.WHOLE == 3 and counter.WHOLE == 3
    assert capsys.readouterr().out == "runs\n"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        counter.nothing  # noqa: B018


def test_lightning_brings_neither_transformers_nor_scipy_and_torchmetrics_still_works():
    script = (
        "from usd.core.deferred_package import defer_torchmetrics; import sys, torch\n"
        "defer_torchmetrics(); defer_torchmetrics(); import lightning.pytorch\n"
        "from torchmetrics import Metric, MetricCollection\n"
        "assert not {'transformers', 'scipy.signal', 'torchmetrics.functional'} & set(sys.modules)\n"
        "import torchmetrics\n"
        "mean = torchmetrics.MeanMetric(); mean.update(torch.tensor([1.0, 3.0]))\n"
        "assert isinstance(mean, Metric) and torchmetrics.Metric is Metric and float(mean.compute()) == 2\n"
        "assert isinstance(MetricCollection([mean]), torchmetrics.MetricCollection)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
