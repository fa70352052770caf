import json
import math

import pytest
import torch

from usd.data.pictures import write_picture
from usd.data.transforms import read_transforms, write_transforms
from usd.evaluation.metrics import mask_iou, psnr, ssim
from usd.evaluation.views import mean_score, score_picture, score_view, write_metrics
from usd.math.camera import orbit_cameras_deg


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_constant_offset_is_closed_form():
    picture = noise(2, 3, 16, 16) * 0.5
    assert torch.allclose(psnr(picture, picture + 0.1), torch.full((2,), 20.0), atol=1e-3)


def test_psnr_of_gaussian_noise_is_its_level():
    flat = torch.full((1, 3, 256, 256), 0.5)
    noisy = flat + 0.05 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    assert psnr(noisy, flat).item() == pytest.approx(-20 * math.log10(0.05), abs=0.05)


def test_psnr_does_not_mix_pictures_of_a_batch():
    truth = noise(2, 3, 8, 8)
    picture = truth.clone()
    picture[1] += 0.1
    first, second = psnr(picture, truth)
    assert torch.isinf(first) and second.item() == pytest.approx(20, abs=1e-3)


def direct_ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The definition, window by window, in double precision."""
    line = torch.exp(-0.5 * ((torch.arange(11).double() - 5) / 1.5).square())
    weight = torch.outer(line, line).flatten() / line.sum() ** 2
    x, y = (each.double().unfold(2, 11, 1).unfold(3, 11, 1).flatten(4) for each in (a, b))
    mean_x, mean_y = (each @ weight for each in (x, y))
    dx, dy = x - mean_x[..., None], y - mean_y[..., None]
    var_x, var_y, both = dx.square() @ weight, dy.square() @ weight, (dx * dy) @ weight
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x.square() + mean_y.square() + 1e-4)
    return (luminance * (2 * both + 9e-4) / (var_x + var_y + 9e-4)).mean((1, 2, 3))


def test_ssim_is_its_definition_to_a_millionth():
    truth = noise(2, 3, 40, 56)
    picture = (truth + 0.3 * (noise(2, 3, 40, 56, seed=1) - 0.5)).clamp(0, 1)
    assert torch.allclose(ssim(picture, truth).double(), direct_ssim(picture, truth), rtol=0, atol=1e-6)


def test_ssim_of_identical_pictures_is_one():
    picture = noise(3, 3, 32, 24)
    assert torch.allclose(ssim(picture, picture), torch.ones(3), atol=1e-5)


def test_ssim_is_symmetric_and_falls_with_noise():
    truth = noise(1, 3, 48, 48)
    little, much = (truth + s * (noise(1, 3, 48, 48, seed=1) - 0.5) for s in (0.1, 0.8))
    assert torch.allclose(ssim(truth, little), ssim(little, truth), atol=1e-6)
    assert 1 > ssim(little, truth).item() > ssim(much, truth).item()


def test_ssim_of_flat_pictures_is_the_luminance_term():
    a, b = torch.full((1, 3, 20, 20), 0.2), torch.full((1, 3, 20, 20), 0.7)
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    assert ssim(a, b).item() == pytest.approx(expected, rel=1e-3)


def test_ssim_takes_pictures_smaller_than_its_window():
    picture = noise(1, 3, 6, 6)
    assert ssim(picture, picture).item() == pytest.approx(1, abs=1e-5)


def test_mask_iou_counts_pixels():
    a, b = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    a[..., :2, :] = 1  # 8 pixels
    b[..., 1:3, :] = 1  # 8 pixels, 4 shared
    assert mask_iou(a, b).item() == pytest.approx(4 / 12)
    assert mask_iou(a, 1 - a).item() == 0
    assert mask_iou(a * 0, a * 0).item() == 1


def test_hidden_colours_do_not_count():
    truth = torch.cat([noise(3, 16, 16), torch.zeros(1, 16, 16)])
    other = torch.cat([noise(3, 16, 16, seed=5), torch.zeros(1, 16, 16)])
    found = score_picture(other, truth)
    assert math.isinf(found.psnr) and found.ssim == pytest.approx(1, abs=1e-5) and found.mask_iou == 1


def test_scores_of_files_are_written_with_their_mean(tmp_path):
    cameras = orbit_cameras_deg(10.0, [0.0, 90.0], 1.5, 40.0, 16)
    write_transforms(tmp_path / "transforms.json", [cameras], ["views/0.png", "views/1.png"])
    truth = torch.cat([noise(3, 16, 16), torch.ones(1, 16, 16)])
    found = score_view(write_picture(tmp_path / "a.png", truth), write_picture(tmp_path / "b.png", truth))
    assert math.isinf(found.psnr) and mean_score([found]).psnr == 100
    frames = read_transforms(tmp_path / "transforms.json")
    content = json.loads(write_metrics(tmp_path / "metrics.json", frames, {1: found}).read_text())
    assert content["views"] == 1 and content["per_view"][0]["file_path"] == "views/1.png"
    assert content["mask_iou"] == 1 and content["psnr"] == 100
