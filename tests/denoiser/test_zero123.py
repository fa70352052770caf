"""Zero-1-to-3: the published condition exactly, and both published layouts bit-equal."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import TinyModels
from usd.core.config import UserError
from usd.denoiser import open_view_denoiser
from usd.denoiser.zero123 import Zero123Denoiser
from usd.denoiser.zero123_condition import relative_pose
from usd.math.camera import orbit_cameras_deg

REFERENCE = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, 16)
TARGETS = orbit_cameras_deg([45.0, -10.0], [120.0, -170.0], 1.8, 40.0, 16)


def _open(folder: Path) -> Zero123Denoiser:
    model = open_view_denoiser(str(folder), "x")
    assert isinstance(model, Zero123Denoiser)
    return model


def _picture() -> torch.Tensor:
    return torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([20, 900])


def test_pose_is_target_minus_reference_with_the_polar_angle_from_above() -> None:
    pose = relative_pose(TARGETS, REFERENCE)
    up, round_, out = math.radians(30), math.radians(30), 0.3
    expected = torch.tensor([-up, math.sin(round_), math.cos(round_), out])
    torch.testing.assert_close(pose[0], expected, atol=1e-5, rtol=1e-4)
    around = math.radians(-170 - 90)
    expected = torch.tensor([math.radians(25), math.sin(around), math.cos(around), out])
    torch.testing.assert_close(pose[1], expected, atol=1e-5, rtol=1e-4)


def test_the_references_own_pose_is_zero() -> None:
    torch.testing.assert_close(
        relative_pose(REFERENCE, REFERENCE)[0], torch.tensor([0.0, 0.0, 1.0, 0.0]), atol=1e-6, rtol=0
    )


def test_stable_zero123_is_told_the_inputs_polar_angle() -> None:
    pose = relative_pose(TARGETS, REFERENCE, "input-polar")
    torch.testing.assert_close(pose[:, 3], torch.full((2,), math.radians(75)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pose[:, :3], relative_pose(TARGETS, REFERENCE)[:, :3])


def test_noise_follows_the_published_recipe(tiny: TinyModels) -> None:
    """Libraries' own classes called by hand: one token, and the mode of the latent, not scaled, beside x_t."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.nn.functional import interpolate
    from transformers import CLIPVisionModelWithProjection

    x, t = _inputs()
    small = interpolate(_picture(), (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    pixels = (small - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2
    layer = torch.load(tiny.zero123_a / "clip_camera_projection/diffusion_pytorch_model.bin")
    with torch.no_grad():
        seen = CLIPVisionModelWithProjection.from_pretrained(tiny.zero123_a / "image_encoder")(
            pixels
        ).image_embeds
        row = torch.cat([seen.expand(2, -1), relative_pose(TARGETS, REFERENCE)], -1)
        token = (row @ layer["proj.weight"].T + layer["proj.bias"])[:, None]
        input_picture = interpolate(_picture(), (16, 16), mode="bilinear", antialias=True) * 2 - 1
        mode = AutoencoderKL.from_pretrained(tiny.zero123_a / "vae").encode(input_picture).latent_dist.mode()
        unet = UNet2DConditionModel.from_pretrained(tiny.zero123_a / "unet")
        expected = unet(torch.cat([x, mode.expand(2, -1, -1, -1)], 1), t, token).sample
        nothing = unet(torch.cat([x, torch.zeros_like(x)], 1), t, torch.zeros_like(token)).sample
    model = _open(tiny.zero123_a)
    told = model.embed_view(model.encode_reference(_picture(), REFERENCE), TARGETS)
    torch.testing.assert_close(model.eps(x, t, told), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(model.eps(x, t, model.unconditional(2)), nothing)


def test_both_layouts_are_bit_equal(tiny: TinyModels) -> None:
    x, t = _inputs()
    a, b = (_open(folder) for folder in (tiny.zero123_a, tiny.zero123_b))
    reading = a.encode_reference(_picture(), REFERENCE)  # each layout prepares CLIP's picture in its own way
    assert torch.equal(*(m.eps(x, t, m.embed_view(reading, TARGETS)) for m in (a, b)))
    for one, other in zip(a.projection.on(x.device).parameters(), b.projection.on(x.device).parameters()):
        assert torch.equal(one, other)


def test_the_camera_matters(tiny: TinyModels) -> None:
    x, t = _inputs()
    model = _open(tiny.zero123_a)
    reading = model.encode_reference(_picture(), REFERENCE)
    here, there = (
        model.eps(x, t, model.embed_view(reading, cameras)) for cameras in (TARGETS, TARGETS[[1, 0]])
    )
    assert not torch.allclose(here, there)


def test_half_precision_files_compute_in_full_on_a_cpu(tiny: TinyModels) -> None:
    """No fp16 arithmetic on a CPU, whatever the files hold; the result is that of the rounded weights."""
    x, t = _inputs()
    half, full = _open(tiny.zero123_half), _open(tiny.zero123_a)
    said = half.eps(x, t, half.embed_view(half.encode_reference(_picture(), REFERENCE), TARGETS))
    told = full.eps(x, t, full.embed_view(full.encode_reference(_picture(), REFERENCE), TARGETS))
    assert said.dtype == torch.float32
    torch.testing.assert_close(said, told, atol=0.02, rtol=0.02)
    for part in (half.unet, half.image_encoder, half.projection, half.vae):
        assert {p.dtype for p in part.on(x.device).parameters()} == {torch.float32}


def test_a_projection_of_the_wrong_width_is_one_line(tiny: TinyModels, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.zero123_a, tmp_path / "model"))
    path = folder / "clip_camera_projection/diffusion_pytorch_model.bin"
    torch.save({"proj.weight": torch.zeros(16, 99), "proj.bias": torch.zeros(16)}, path)
    model = open_view_denoiser(str(folder), "x")
    with pytest.raises(UserError, match="cannot be read as a camera projection") as caught:
        model.unconditional(1)
    assert "\n" not in str(caught.value)


def test_the_embedded_form_is_a_difference_of_configuration_only(tiny: TinyModels) -> None:
    """Several tokens, patch tokens and the time embedding: all reach the UNet, and all are zeros when told nothing."""
    x, t = _inputs()
    model = _open(tiny.zero123_steered)
    told = model.embed_view(model.encode_reference(_picture(), REFERENCE), TARGETS)
    assert told.tokens.shape == (2, 2 + 4, 16) and told.time is not None and told.time.shape == (2, 6)
    nothing = model.unconditional(2)
    assert (
        nothing.tokens.shape == told.tokens.shape and nothing.time is not None and nothing.latent is not None
    )
    assert not nothing.tokens.any() and not nothing.time.any() and not nothing.latent.any()
    without_time = replace(told, time=torch.zeros_like(told.time))
    assert not torch.allclose(model.eps(x, t, told), model.eps(x, t, without_time))
    assert not torch.allclose(model.eps(x, t, told), model.eps(x, t, nothing))


def test_a_view_volume_adds_its_hint_beside_the_noise(tiny: TinyModels) -> None:
    """Reference latent, then hint; zeros when told nothing; without the folder the model is the original."""
    x, t = _inputs()
    model = _open(tiny.zero123_volume)
    reading = model.encode_reference(_picture(), REFERENCE)
    told, nothing = model.embed_view(reading, TARGETS), model.unconditional(2)
    assert told.latent is not None and nothing.latent is not None
    assert told.latent.shape == nothing.latent.shape == (2, 4 + 5, 8, 8)
    assert torch.equal(told.latent[:, :4], reading.latent.expand(2, -1, -1, -1))
    assert not torch.allclose(told.latent[0, 4:], told.latent[1, 4:]) and not nothing.latent.any()
    blind = replace(told, latent=torch.cat([told.latent[:, :4], torch.zeros(2, 5, 8, 8)], 1))
    assert not torch.allclose(model.eps(x, t, told), model.eps(x, t, blind))
    assert _open(tiny.zero123_a).encode_reference(_picture(), REFERENCE).volume is None


def test_a_part_may_lie_in_another_folder(tiny: TinyModels, tmp_path: Path) -> None:
    """The autoencoder shared with a base model; when that is gone, one line says where it was looked for."""
    folder = Path(shutil.copytree(tiny.zero123_a, tmp_path / "model"))
    shutil.move(folder / "vae", tmp_path / "shared")
    (folder / "vae").mkdir()
    said = json.loads((tmp_path / "shared/config.json").read_text())
    (folder / "vae/config.json").write_text(json.dumps({**said, "weights_of": "../../shared"}))
    assert torch.equal(_open(folder).encode(_picture()), _open(tiny.zero123_a).encode(_picture()))
    other = Path(shutil.copytree(folder, tmp_path / "deeper/still/model"))
    with pytest.raises(UserError, match=r"said to lie in .*shared, which is missing"):
        _open(other).encode(_picture())
