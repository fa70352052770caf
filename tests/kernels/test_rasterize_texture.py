"""Texture sampling against torch's own, and panoramas."""

import pytest
import torch

from usd.kernels.rasterize_texture import (
    Wrap,
    panorama_color,
    panorama_coordinates,
    panorama_directions,
    sample_texture,
)


def texture(height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def uv(n: int = 200, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    draw = torch.rand(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return low + (high - low) * draw


def test_clamped_sampling_is_that_of_torch() -> None:
    at = uv(low=-0.5, high=1.5)
    grid = torch.stack([2 * at[:, 0] - 1, 1 - 2 * at[:, 1]], -1)[None, None]
    batch = texture().permute(2, 0, 1)[None]
    expected = torch.nn.functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(sample_texture(texture(), at, "clamp"), expected[0, :, 0].T)


def test_texel_centres_give_texels_with_the_first_row_on_top() -> None:
    i, j = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    at = torch.stack([(j + 0.5) / 7, 1 - (i + 0.5) / 5], -1).view(-1, 2).double()
    assert torch.allclose(sample_texture(texture(), at).view(5, 7, 3), texture())


def test_repeating_has_period_one() -> None:
    at = uv()
    assert torch.allclose(
        sample_texture(texture(), at), sample_texture(texture(), at + torch.tensor([3.0, -2.0]))
    )


@pytest.mark.parametrize("wrap", ["repeat", "clamp", "panorama"])
def test_gradients(wrap: Wrap) -> None:
    def sample(picture: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return sample_texture(picture, at, wrap)

    assert torch.autograd.gradcheck(sample, (texture().requires_grad_(), uv(20).requires_grad_()))


def test_directions_of_a_panorama_find_their_own_pixels() -> None:
    directions = panorama_directions(6, 12, torch.zeros((), dtype=torch.float64))
    picture = texture(6, 12)
    assert torch.allclose(panorama_color(picture, directions), picture.view(-1, 3), atol=1e-9)
    assert torch.allclose(directions.norm(dim=1), torch.ones(72, dtype=torch.float64))
    assert directions[0, 2] > 0.9 and directions[-1, 2] < -0.9


def test_left_of_straight_ahead_is_left_in_the_panorama() -> None:
    """Looking along -x with z up, the left hand points along -y."""
    ahead, left = panorama_coordinates(torch.tensor([[-1.0, 0, 0], [-1.0, -0.1, 0]]))
    assert ahead.tolist() == pytest.approx([0.5, 0.5])
    assert 0.4 < float(left[0]) % 1 < 0.5


def test_poles_have_finite_gradients() -> None:
    directions = torch.tensor([[0.0, 0, 1], [0, 0, -1]], dtype=torch.float64, requires_grad=True)
    panorama_color(texture(), directions).sum().backward()
    assert directions.grad is not None and directions.grad.isfinite().all()
