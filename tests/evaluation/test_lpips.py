"""LPIPS: found or said to be missing; a distance; and its arithmetic by hand on weights made up here."""

import pytest
import torch

from usd.core.errors import UserError
from usd.evaluation.lpips import CONVOLUTIONS, LINEAR_FILE, VGG_FILE, find_lpips, read_lpips

WIDTHS = (64, 128, 256, 512, 512)


def write_weights(folder, seed=0) -> None:
    """Random weights in the published files' names and shapes, but a sixteenth as wide."""
    draw, before, vgg = torch.Generator().manual_seed(seed), 3, {}
    for numbers, width in zip(CONVOLUTIONS, WIDTHS):
        for number in numbers:
            wide = width // 16
            vgg[f"features.{number}.weight"] = (
                torch.randn(wide, before, 3, 3, generator=draw) * (2 / (9 * before)) ** 0.5
            )
            vgg[f"features.{number}.bias"] = torch.randn(wide, generator=draw) * 0.1
            before = wide
    torch.save({**vgg, "classifier.0.weight": torch.zeros(1)}, folder / VGG_FILE)
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, w // 16, 1, 1, generator=draw) for i, w in enumerate(WIDTHS)
    }
    torch.save(heads, folder / LINEAR_FILE)


@pytest.fixture
def lpips(tmp_path):
    write_weights(tmp_path)
    found, note = find_lpips([tmp_path])
    assert found is not None and "v0.1" in note
    return found


def pictures(seed, n=2, size=33):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_missing_weights_are_said_by_name(tmp_path):
    found, note = find_lpips([tmp_path])
    assert found is None and VGG_FILE in note and LINEAR_FILE in note and "left out" in note


def test_it_is_a_distance(lpips):
    a, b = pictures(0), pictures(1)
    assert lpips(a, a).tolist() == [0, 0]
    assert torch.allclose(lpips(a, b), lpips(b, a)) and (lpips(a, b) > 0).all()


def test_it_grows_with_noise_and_does_not_mix_pictures(lpips):
    truth = pictures(0)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    little, much = (lpips(truth + s * noise, truth) for s in (0.02, 0.2))
    assert (little < much).all()
    assert torch.allclose(lpips(truth[:1] + 0.2 * noise[:1], truth[:1]), much[:1], atol=1e-6)


def test_it_is_the_weighted_distance_of_unit_features(lpips):
    a, b = pictures(3, 1), pictures(4, 1)
    expected = 0.0
    for x, y, w in zip(lpips.features(a), lpips.features(b), lpips.linear):
        length = x.norm(dim=1)
        assert ((length - 1).abs() < 1e-4).logical_or(length == 0).all()
        expected += sum(float(w[c] * (x[0, c] - y[0, c]).square().mean()) for c in range(len(w)))
    assert lpips(a, b).item() == pytest.approx(expected, rel=1e-4)


def test_features_shrink_by_halves(lpips):
    assert [f.shape[-1] for f in lpips.features(pictures(0, 1, 33))] == [33, 16, 8, 4, 2]


def test_other_files_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / VGG_FILE)
    torch.save({}, tmp_path / LINEAR_FILE)
    with pytest.raises(UserError, match="are not the weights of LPIPS"):
        read_lpips(tmp_path / VGG_FILE, tmp_path / LINEAR_FILE)
