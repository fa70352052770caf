"""Distillation of views that are denoised together; and every formula with every model that is no pipeline."""

from pathlib import Path

import pytest
import torch

from tests.denoiser import formula_matrix
from tests.denoiser.golden_models import read_golden, write_syncdreamer
from usd.core.config import parse, spec
from usd.core.errors import UserError
from usd.core.registry import build, find
from usd.data import Data
from usd.data.random_camera import CameraBatch
from usd.denoiser.gaussian import GaussianDenoiser
from usd.denoiser.rehearsal import rehearsal
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


# ------------------------------------------------------------------------------------- every formula, every model

PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
LEARNS = ("vsd-guidance", "stable-diffusion-vsd-guidance")
GROUPS = {
    "toybox-views": ("toybox", "toybox-sd"),
    "wonder3d": ("wonder3d", "sd-1.5"),
    "zero123plus-1.1": ("zero123plus-1.1", None),
    "zero123plus-1.2": ("zero123plus-1.2", None),
    "imagedream": ("imagedream", "sd-2.1-base"),
    "imagedream-local": ("imagedream", "sd-2.1-base"),
}
"""Models of view groups from a picture: their cameras, and the text model that may rectify them."""


def group_batch(group: str) -> CameraBatch:
    """Return the cameras of a group, with the picture's."""
    data = build(spec("data", "view-group-datamodule", {"group": group, "height": 64, "width": 64}), Data)
    batch = data.batch(0, torch.Generator().manual_seed(0))
    assert isinstance(batch, CameraBatch) and batch.reference is not None
    return batch


def test_the_matrix_has_every_formula() -> None:
    assert set(formula_matrix.FORMULAS) == formula_matrix.formulas_of_sentences()


@pytest.mark.slow
@pytest.mark.parametrize("unconditional", ["own", "prior"])
@pytest.mark.parametrize("model", GROUPS)
def test_every_formula_takes_two_steps_with_every_model_of_view_groups(
    model: str, unconditional: str
) -> None:
    group, base = GROUPS[model]
    if unconditional == "prior" and base is None:
        pytest.skip("no text model shares its latents")
    batch = group_batch(group)
    given: dict[str, object] = {"unconditional": unconditional}
    if base is not None:
        given["pretrained_model_name_or_path"] = base
    with rehearsal():
        formula_matrix.take_two_steps_of_views(model, given, batch.cameras, PICTURE, batch.reference, LEARNS)
        with pytest.raises(UserError, match="cannot learn: it denoises its views together"):
            build(spec("guidance", "vsd-guidance", {"zero123_model_name_or_path": model, **given}))


@pytest.mark.slow
def test_every_formula_takes_two_steps_with_syncdreamer(tmp_path: Path) -> None:
    """The published layout at tiny size; it has no stand-in."""
    file, batch = write_syncdreamer(read_golden("syncdreamer_tiny.npz"), tmp_path), group_batch("syncdreamer")
    given: dict[str, object] = {"unconditional": "own"}
    formula_matrix.take_two_steps_of_views(str(file), given, batch.cameras, PICTURE, batch.reference, LEARNS)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["zero123-xl", "stable-zero123", "toybox-zero123", "gaussian"])
def test_every_formula_takes_two_steps_with_every_model_of_single_views(model: str) -> None:
    batch = group_batch("toybox")
    for unconditional in ("own", "prior"):
        base = {"toybox-zero123": "toybox-sd", "gaussian": "gaussian"}.get(model, "sd-2.1-base")
        given: dict[str, object] = {"unconditional": unconditional, "pretrained_model_name_or_path": base}
        with rehearsal():
            formula_matrix.take_two_steps_of_views(model, given, batch.cameras[:2], PICTURE, batch.reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["sd-1.5", "sd-2.1", "sd-2.1-base", "deep-floyd-if", "toybox-sd", "mvdream"]
)
def test_every_formula_takes_two_steps_with_every_unet_that_reads_a_sentence(model: str) -> None:
    skipped = LEARNS if model == "mvdream" else ()
    cameras = group_batch("mvdream").cameras
    with rehearsal():
        formula_matrix.take_two_steps_from_a_sentence(
            model, "a red chair", cameras if model == "mvdream" else cameras[:1], {}, skipped
        )
