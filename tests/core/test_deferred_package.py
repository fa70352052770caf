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


def test_a_name_that_has_moved_and_a_star_run_the_package(tmp_path, monkeypatch, capsys):
    (tmp_path / "slow_star").mkdir()
    (tmp_path / "slow_star" / "__init__.py").write_text("print('runs')\n__all__ = ['Part']\nPart = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    finder = DeferredPackage("slow_star", {"Part": "slow_star.gone"})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    for use in ("from slow_star import Part", "from slow_star import *"):
        names = {}
        exec(use, names)
        del sys.modules["slow_star"]
        assert names["Part"] == 3 and capsys.readouterr().out == "runs\n"


def run_deferred(script):
    """Run lines of Python where packages are deferred, in a process of their own."""
    defer = "from usd.core.deferred_package import defer_packages; import sys; defer_packages()\n"
    out = subprocess.run([sys.executable, "-c", defer + script], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr


def test_lightning_brings_neither_transformers_nor_scipy_and_torchmetrics_still_works():
    run_deferred(
        "import torch; defer_packages(); import lightning.pytorch\n"
        "from torchmetrics import Metric, MetricCollection\n"
        "assert not {'transformers', 'scipy.signal', 'torchmetrics.functional'} & set(sys.modules)\n"
        "import torchmetrics\n"
        "mean = torchmetrics.MeanMetric(); mean.update(torch.tensor([1.0, 3.0]))\n"
        "assert isinstance(mean, Metric) and torchmetrics.Metric is Metric and float(mean.compute()) == 2\n"
        "assert isinstance(MetricCollection([mean]), torchmetrics.MetricCollection)\n"
    )


def test_a_model_of_diffusers_brings_no_other_kind_and_no_scipy_and_all_of_them_still_work():
    run_deferred(
        "from diffusers import AutoencoderKL, UNet2DConditionModel\n"
        "from transformers import CLIPTextModel\n"
        "others = {'diffusers.models.unets.unet_1d', 'diffusers.models.autoencoders.autoencoder_tiny'}\n"
        "assert not (others | {'scipy.stats._stats_py', 'scipy.optimize._optimize'}) & set(sys.modules)\n"
        "from diffusers import AutoencoderTiny, FluxTransformer2DModel\n"
        "from diffusers.models.unets import UNet1DModel, UNet2DConditionModel as same\n"
        "assert same is UNet2DConditionModel\n"
    )


@pytest.mark.parametrize(
    "use",
    [
        "from scipy.stats import norm; assert norm.cdf(0) == 0.5",
        "import scipy; scipy.stats.norm; scipy.optimize.minimize; scipy.integrate.quad",
        "from scipy.optimize import *; minimize, linear_sum_assignment",
        "from scipy.interpolate import RBFInterpolator; from scipy.signal import convolve",
    ],
)
def test_scipy_is_as_it_was(use):
    run_deferred(use)
