"""Errors of predictions on known pictures: closed forms with the analytic models, and what a view from the side tells."""

import math

import pytest
import torch

from usd.core.config import parse
from usd.denoiser import Embedding
from usd.denoiser.gaussian import GaussianDenoiser, Normal
from usd.evaluation.rectification import ModelPair, Probe, looking_back, turned, view_moments
from usd.math.camera import orbit_cameras_deg
from usd.math.diffusion import scaled_linear_alphas_cumprod
from usd.math.rectification import best_own_share, rectification_gain

SIZE = 8
CAMERA = orbit_cameras_deg(15.0, 90.0, 1.5, 40.0, SIZE)
PICTURE = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
BARS = scaled_linear_alphas_cumprod()


def model(**options: float) -> GaussianDenoiser:
    return GaussianDenoiser(parse(GaussianDenoiser.Config, {"size": SIZE, **options}, "model"))


def pair(own_mean: float = 0.0, base_mean: float = 0.0, view_std: float = 1e-3) -> ModelPair:
    return ModelPair(model(mean=own_mean, view_std=view_std), model(mean=base_mean))


def condition(models: ModelPair, count: int = 1) -> Embedding:
    return models.view.embed_view(models.view.encode_reference(PICTURE, CAMERA), CAMERA[[0] * count])


def test_a_condition_that_knows_the_picture_does_not_err_and_equal_models_err_equally() -> None:
    models = pair()
    found = view_moments(models, models.view.encode(PICTURE), condition(models), Probe((300, 700)))[0]
    assert found[:, 0, 0].max() < 1e-6
    torch.testing.assert_close(found[:, 1], found[:, 2])
    assert (found[:, 1, 1] > 1e-3).all() and (rectification_gain(found, 3.0) == 0).all()


def test_errors_of_a_normal_world_have_their_closed_form() -> None:
    """x0 ~ N(m, 1): the error is sigma (alpha noise - ...) linear in z - m; over many draws its square is known."""
    models, time = pair(own_mean=0.8), 500
    z = models.view.encode(PICTURE)
    found = view_moments(models, z, condition(models), Probe((time,), draws=400))[0, 0]
    alpha, sigma = math.sqrt(BARS[time]), math.sqrt(1 - BARS[time])
    for row, mean in ((1, 0.8), (2, 0.0)):
        expected = (sigma * alpha) ** 2 * float((z - mean).square().mean()) + alpha**4
        assert float(found[row, row]) == pytest.approx(expected, rel=0.03)


def test_rows_at_a_time_change_nothing_and_each_row_is_its_own() -> None:
    models = pair(0.3)
    z = torch.cat([models.view.encode(PICTURE), models.view.encode(1 - PICTURE)])
    probe = Probe((100, 600, 900), draws=3)
    both = view_moments(models, z, condition(models, 2), probe)
    few = view_moments(models, z, condition(models, 2), Probe(probe.times, 3, rows=2))
    torch.testing.assert_close(both, few)
    torch.testing.assert_close(both[1:], view_moments(models, z[1:], condition(models), probe))
    assert (both[0, :, 0, 0] < both[1, :, 0, 0]).all()  # the other picture is not what the condition expects


def test_another_model_may_make_the_own_prediction() -> None:
    models = ModelPair(model(view_std=1e-3), model(), model(mean=0.9))
    found = view_moments(models, models.view.encode(PICTURE), condition(models), Probe((500,)))[0, 0]
    assert found[1, 1] > found[2, 2]
    assert float(best_own_share(found, 3.0)) < 0.1


def test_a_turned_camera_keeps_height_and_distance() -> None:
    sides = turned(CAMERA, [90.0, -30.0])
    here, there = CAMERA.spherical, sides.spherical
    torch.testing.assert_close(there.elevation, here.elevation.expand(2))
    torch.testing.assert_close(there.distance, here.distance.expand(2))
    moved = torch.rad2deg(there.azimuth - here.azimuth).remainder(360)
    torch.testing.assert_close(moved, torch.tensor([90.0, 330.0]), atol=1e-3, rtol=0)


def test_looking_back_asks_for_the_picture_from_the_view_that_was_sampled() -> None:
    models, seen = pair(0.3), []
    encode = models.view.encode_reference

    def remember(rgb: torch.Tensor, cameras: object) -> object:
        seen.append((rgb, cameras))
        return encode(rgb, cameras)

    models.view.encode_reference = remember  # type: ignore[method-assign, assignment]
    found = looking_back(models, (PICTURE, CAMERA), [0.0, 90.0], Probe((200, 800)))
    assert found.shape == (2, 2, 3, 3) and len(seen) == 2
    (given, _), (side, camera) = seen
    assert torch.equal(given, PICTURE)
    turn = float(camera.spherical.azimuth - CAMERA.spherical.azimuth) % (2 * math.pi)
    assert turn == pytest.approx(math.pi / 2, abs=1e-4)
    assert (side - PICTURE).abs().mean() < 0.05  # every view of this model expects the reference
    torch.testing.assert_close(found[1, :, 1:, 1:], found[0, :, 1:, 1:])  # the condition is no part of these


def test_a_normal_condition_is_selected_by_rows() -> None:
    rows = condition(pair(), 3).select(torch.tensor([2, 0]))
    assert isinstance(rows, Normal) and rows.mean.shape[0] == 2
