"""A batch worked on in parts takes the step of the whole one, and a checkpoint lies between steps."""

import pytest
import torch

import launch
from tests.tiny_configs import command, trial
from usd.core import checkpoint

NAME = "usd-patch-mini.yaml"
SGD = ["system.optimizer.name=SGD", "system.optimizer.args={lr: 1.0e-4}"]
PLAIN = ["data.batch_size=4", "trainer.val_check_interval=0", "trainer.test_after_fit=false"]
PLAIN += ["system.renderer.num_samples_per_ray=8"]


def weights(out, tag, *overrides):
    assert launch.main(command(NAME, out, *PLAIN, *overrides, tag=tag)) == 0
    saved = checkpoint.load(trial(out, tag).last)
    return saved["state_dict"], saved["global_step"]


@pytest.mark.parametrize("parts", [2, 4])
def test_the_step_is_that_of_the_whole_batch(parts, tmp_path):
    """Losses that are means over views: the guidance's and those at the reference camera."""
    once = ["trainer.max_steps=2", "system.loss.lambda_sparsity=0", "system.loss.lambda_opaque=0"]
    whole, _ = weights(tmp_path, "whole", *once)
    split, step = weights(tmp_path, "split", *once, f"trainer.batch_parts={parts}")
    start, _ = weights(tmp_path, "start", *once, "system.loss.lambda_rgb=0", "system.loss.lambda_mask=0")
    assert step == 2
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-3, atol=1e-5)
    assert any(not torch.allclose(start[name], value, rtol=1e-3, atol=1e-5) for name, value in whole.items())


def test_a_run_in_parts_resumes_where_it_was(tmp_path):
    parts = "trainer.batch_parts=2"
    whole, _ = weights(tmp_path, "whole", parts, "trainer.max_steps=3")
    weights(tmp_path, "broken", parts, "trainer.max_steps=1")
    resumed, step = weights(
        tmp_path, "broken", parts, "trainer.max_steps=3", f"resume={trial(tmp_path, 'broken').last}"
    )
    assert step == 3 and all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_batch_that_cannot_be_divided_is_one_line(tmp_path, capsys):
    assert launch.main(command(NAME, tmp_path, "trainer.batch_parts=3", "data.batch_size=4")) == 2
    assert "data.batch_size: 4 views" in capsys.readouterr().err
