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


def test_dds_refuses_a_model_of_groups_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianDenoiser, "group_size", 4)
    with pytest.raises(UserError, match=r"^system\.guidance: dds .* 'gaussian' denoises its views together"):
        build(spec("guidance", "dds-guidance", {"zero123_model_name_or_path": "gaussian"}))


# ------------------------------------------------------------------------------------- every formula, every model

PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
GROUP = {
    "vsd": "cannot learn: it denoises its views together",
    "dds": "denoises its views together; expected a model of single views",
}
"""Formulas that refuse models of view groups, and why."""
WANTS_TEXT = "do not share a latent space"
"""Why NFSD, which has a text model predict, refuses a model without a relative."""
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


def assert_refused(refused: dict[str, str], **expected: str) -> None:
    """Compare the formulas that refuse a model, and their reasons, with those expected, by the first letters."""
    assert {name.removeprefix("stable-diffusion-") for name in refused} == {
        f"{name}-guidance" for name in expected
    }
    for name, line in refused.items():
        why = expected[name.removeprefix("stable-diffusion-").removesuffix("-guidance")]
        assert why in line and "\n" not in line


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
    given = {"unconditional": unconditional, "pretrained_model_name_or_path": base or "sd-2.1-base"}
    with rehearsal():
        refused = formula_matrix.take_two_steps_of_views(
            model, given, batch.cameras, PICTURE, batch.reference
        )
    assert_refused(refused, **GROUP, **({} if base else {"nfsd": WANTS_TEXT}))


@pytest.mark.slow
def test_every_formula_takes_two_steps_with_syncdreamer(tmp_path: Path) -> None:
    """The published layout at tiny size; it has no stand-in."""
    file, batch = write_syncdreamer(read_golden("syncdreamer_tiny.npz"), tmp_path), group_batch("syncdreamer")
    given = {"unconditional": "own", "pretrained_model_name_or_path": "sd-1.5"}
    with rehearsal():
        refused = formula_matrix.take_two_steps_of_views(
            str(file), given, batch.cameras, PICTURE, batch.reference
        )
    assert_refused(refused, **GROUP)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["zero123-xl", "stable-zero123", "toybox-zero123", "gaussian"])
def test_every_formula_takes_two_steps_with_every_model_of_single_views(model: str) -> None:
    batch = group_batch("toybox")
    base = {"toybox-zero123": "toybox-sd", "gaussian": "gaussian"}.get(model, "sd-2.1-base")
    for unconditional in ("own", "prior"):
        given = {"unconditional": unconditional, "pretrained_model_name_or_path": base}
        with rehearsal():
            assert not formula_matrix.take_two_steps_of_views(
                model, given, batch.cameras[:2], PICTURE, batch.reference
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["sd-1.5", "sd-2.1", "sd-2.1-base", "deep-floyd-if", "toybox-sd", "mvdream"]
)
def test_every_formula_takes_two_steps_with_every_unet_that_reads_a_sentence(model: str) -> None:
    cameras = group_batch("mvdream").cameras
    with rehearsal():
        refused = formula_matrix.take_two_steps_from_a_sentence(
            model, "a red chair", cameras if model == "mvdream" else cameras[:1], {}
        )
    assert_refused(refused, **{"mvdream": GROUP, "deep-floyd-if": {"vsd": "cannot learn"}}.get(model, {}))
