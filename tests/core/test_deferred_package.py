"""A package that is only there as far as it is used."""

import importlib
import subprocess
import sys

import pytest

from usd.core.deferred_package import Deferral, DeferredPackage


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """A package ``slow_counter`` whose first lines say that they run; ``slow_counter.part`` defines Part."""
    package = tmp_path / "slow_counter"
    package.mkdir()
    (package / "__init__.py").write_text("print('runs')\nfrom slow_counter.part import Part\nWHOLE = 3\n")
    (package / "part.py").write_text("from slow_counter import _logger\nclass Part: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    finder = DeferredPackage("slow_counter", Deferral({"Part": "slow_counter.part"}))
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
    finder = DeferredPackage("slow_star", Deferral({"Part": "slow_star.gone"}))
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
        "import scipy.stats._stats_py; assert scipy.stats._stats_py.__spec__.origin and scipy.stats.norm",
        "from scipy.optimize._optimize import fmin; from scipy.optimize import fmin as same; assert fmin is same",
        "from scipy.integrate import _quadpack_py as a; import scipy; assert scipy.integrate._quadpack_py is a",
    ],
)
def test_scipy_is_as_it_was(use):
    run_deferred(use)


def test_an_optimizer_and_lightning_bring_no_compiler_and_it_still_compiles():
    run_deferred(
        "import torch, lightning.pytorch\n"
        "x = torch.nn.Parameter(torch.ones(2)); step = torch.optim.AdamW([x], lr=0.1)\n"
        "for _ in range(2): step.zero_grad(); x.square().sum().backward(); step.step()\n"
        "assert x[0] < 1 and not {'torch._dynamo.eval_frame', 'sympy'} & set(sys.modules)\n"
        "from lightning.pytorch.utilities.compile import to_uncompiled, OptimizedModule\n"
        "layer = torch.nn.Linear(2, 2); assert not isinstance(layer, OptimizedModule)\n"
        "compiled = torch.compile(layer, backend='eager')\n"
        "assert torch.equal(compiled(x), layer(x)) and isinstance(compiled, OptimizedModule)\n"
        "step.zero_grad(); x.square().sum().backward(); step.step()\n"
        "import torch._dynamo.utils; assert torch._dynamo.utils.counters['frames']['ok'] == 1\n"
    )


def test_a_function_left_alone_by_the_compiler_stays_so_once_it_is_loaded():
    run_deferred(
        "import torch\n"
        "@torch.compiler.disable\n"
        "def left(x): return x + 1\n"
        "assert left(1) == 2 and 'torch._dynamo.eval_frame' not in sys.modules\n"
        "graphs = []\n"
        "def count(graph, inputs): graphs.append(str(graph.code)); return graph.forward\n"
        "def f(x): return left(2 * x) * 3\n"
        "assert torch.equal(torch.compile(f, backend=count)(torch.ones(2)), torch.full((2,), 9.0))\n"
        "assert len(graphs) == 2 and not any('+' in graph for graph in graphs)\n"
    )


def test_a_module_of_the_compiler_by_itself():
    run_deferred("import torch; from torch._dynamo.utils import counters; torch._dynamo.reset()")
