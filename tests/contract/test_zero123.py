"""Zero-1-to-3's raw checkpoint against the original code's own outputs on the same weights."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.contract.golden import assert_close, below, golden, write_checkpoint
from usd.denoiser import open_view_denoiser
from usd.denoiser.convert import main
from usd.denoiser.zero123 import Zero123Denoiser, Zero123Reference
from usd.denoiser.zero123_condition import relative_pose
from usd.math.camera import Cameras, join_cameras, orbit_cameras_deg

GOLDEN = golden("zero123_ldm_tiny")


def open_zero123(place: Path) -> Zero123Denoiser:
    model = open_view_denoiser(str(place), "model")
    assert isinstance(model, Zero123Denoiser)
    return model


def camera(elevation_deg: Tensor, azimuth_deg: Tensor, distance: Tensor) -> Cameras:
    return orbit_cameras_deg(float(elevation_deg), float(azimuth_deg), float(distance), 40.0, 256)


REFERENCE = camera(*GOLDEN["in/reference_elevation_azimuth_distance"])
TARGETS = join_cameras(
    [
        camera(*row)
        for row in zip(
            GOLDEN["in/elevation_deg"], GOLDEN["in/azimuth_deg"], GOLDEN["in/distance"], strict=True
        )
    ]
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as it was trained: real weights under ``model_ema.``, zeros under ``model.``."""
    state = below(GOLDEN, "state_dict/")
    return write_checkpoint(state, tmp_path_factory.mktemp("zero123") / "z.ckpt", global_step=105000)


@pytest.fixture(scope="module")
def model(raw: Path) -> Zero123Denoiser:
    return open_zero123(raw)


@pytest.fixture(scope="module")
def reading(model: Zero123Denoiser) -> Zero123Reference:
    return model.encode_reference(GOLDEN["in/picture"], REFERENCE)


def test_the_pose_is_the_originals() -> None:
    assert_close(relative_pose(TARGETS, REFERENCE), GOLDEN["in/T"])


def test_clip_sees_the_picture_that_the_original_prepares(model: Zero123Denoiser) -> None:
    pixels = model._clip_picture(GOLDEN["in/picture"])
    assert_close(pixels[:, :, ::8, ::8], GOLDEN["out/clip_pixels_sub"])


def test_the_reference_is_read_as_the_original_reads_it(reading: Zero123Reference) -> None:
    assert_close(reading.embedding, GOLDEN["out/clip_emb"][:, 0])
    assert_close(reading.latent, GOLDEN["out/concat"])


def test_the_noise_is_the_originals_under_its_average(
    model: Zero123Denoiser, reading: Zero123Reference
) -> None:
    condition, xt, t = model.embed_view(reading, TARGETS), GOLDEN["in/xt"], GOLDEN["in/t"]
    assert_close(condition.tokens, GOLDEN["out/c"])
    assert_close(model.eps(xt, t, condition), GOLDEN["out/eps"])
    assert_close(model.eps(xt, t, model.unconditional(3)), GOLDEN["out/eps_uc"])


@torch.no_grad()
def test_latents_are_the_originals_both_ways(model: Zero123Denoiser) -> None:
    assert_close(model.encode(GOLDEN["in/picture"]), GOLDEN["out/z"])
    decoded = model.decode(GOLDEN["in/latent_to_decode"])[:, :, ::4, ::4]
    assert_close(decoded, (GOLDEN["out/dec"] / 2 + 0.5).clamp(0, 1))
    assert_close(model.alphas_cumprod, GOLDEN["state_dict/alphas_cumprod"], 1e-6)


@pytest.mark.parametrize("layout", ["cc_projection", "clip_camera_projection"])
def test_a_folder_of_either_layout_prepares_the_picture_as_its_pipeline_does(
    layout: str, raw: Path, reading: Zero123Reference, tmp_path: Path
) -> None:
    """``cc_projection`` as the original; ``clip_camera_projection`` as transformers' processor: 1e-4 to 1e-2 away."""
    assert main([str(raw), str(tmp_path / layout), "--layout", layout]) == 0
    model = open_zero123(tmp_path / layout)
    found = model.encode_reference(GOLDEN["in/picture"], REFERENCE)
    distance = float((found.embedding - GOLDEN["out/clip_emb"][:, 0]).abs().max())
    assert distance < 1e-4 if layout == "cc_projection" else 1e-4 < distance < 1e-2
    given = dataclasses.replace(found, embedding=reading.embedding)
    condition = model.embed_view(given, TARGETS)
    assert_close(model.eps(GOLDEN["in/xt"], GOLDEN["in/t"], condition), GOLDEN["out/eps"])
