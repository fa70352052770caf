"""What a reconstruction takes is measured on steps of the real size, and said for reconstructions alone."""

import re
from dataclasses import replace

import pytest
import torch

from tests.data.test_bad_views import TINY
from tests.data.test_views import balls
from tests.tiny_configs import CONFIGS
from usd.app.capture_estimate import capture_lines, step_seconds
from usd.app.experiment import load_experiment
from usd.core.registry import build
from usd.data import Data
from usd.data.convert import write_views
from usd.data.toy_views import sphere_cameras
from usd.system import System


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    write_views(balls(sphere_cameras(6, 24)), folder)
    sizes = [each for each in TINY if not each.startswith("trainer.max_steps")]
    options = [f"data.path={folder}", "trainer.max_steps=600", "data.n_rays=256", *sizes]
    return load_experiment([CONFIGS / "reconstruct.yaml"], options)[0]


def test_views_time_and_memory_are_measured(experiment):
    views, time, memory = capture_lines(experiment, "cpu")
    assert views.startswith("views: 6 of 24 x 24 pixels, opened in ")
    assert re.search(r": \S+ (ms|s) a step, 600 steps in \d+ minutes", time)
    assert float(re.search(r"memory, measured here: (\S+) GiB while training", memory)[1]) > 0.1


def test_a_measured_step_has_the_samples_of_a_real_one(experiment):
    """Its rays are as many as take the samples of a step; the weights are those before."""
    system, data = build(experiment.system, System), build(experiment.data, Data)
    system.data = data
    before = {name: value.clone() for name, value in system.named_parameters()}
    system.geometry.initialize = lambda: None
    assert step_seconds(system, data, 600, torch.device("cpu")) > 0
    assert system.figures["samples"] == pytest.approx(256, rel=0.5)
    assert all(torch.equal(value, before[name]) for name, value in system.named_parameters())


def test_other_data_says_nothing(experiment):
    other = replace(experiment, data=replace(experiment.data, name="random-camera-datamodule"))
    assert capture_lines(other, "cpu") == []
