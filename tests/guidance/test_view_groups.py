"""Distillation of views that are denoised together."""

import pytest
import torch

from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.registry import find
from usd.denoiser.gaussian import GaussianDenoiser
from usd.guidance import Guidance


def _guidance(monkeypatch: pytest.MonkeyPatch) -> Guidance:
    cls = find(Guidance, "zero123-guidance")
    options = {"zero123_model_name_or_path": "gaussian", "image_path": "x"}
    monkeypatch.setattr(GaussianDenoiser, "group_size", 4)
    return cls(parse(cls.Config, options, "system.guidance"))


def test_the_views_of_a_group_share_one_noise_level(monkeypatch: pytest.MonkeyPatch) -> None:
    guidance = _guidance(monkeypatch)
    t = guidance.noisy_latents(torch.zeros(12, 3, 8, 8), 0, torch.Generator().manual_seed(0)).t.view(3, 4)
    assert (t == t[:, :1]).all() and len(t[:, 0].unique()) == 3


def test_a_batch_that_is_no_whole_group_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="denoises 4 at a time; expected view-group-datamodule"):
        _guidance(monkeypatch).noisy_latents(torch.zeros(6, 3, 8, 8), 0, None)
