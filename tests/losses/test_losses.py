"""Losses at the points where their value is known."""

import math

import pytest
import torch

from usd.core.types import Render, Samples
from usd.losses import needs_of
from usd.losses.depth import center_depth
from usd.losses.opacity import opaque, sparsity
from usd.losses.pictures import absolute_difference
from usd.losses.reference import reference_mask, reference_rgb
from usd.losses.samples import distortion, emptiness, orientation, ray_distortion, z_variance
from usd.losses.table import LOSS_OPTIONS, REFERENCE_LOSSES, REGULARIZERS


def rendered(opacity: float, color: float = 1.0, samples: Samples | None = None) -> Render:
    o = torch.full((2, 1, 4, 5), opacity)
    return Render(
        rgb=torch.ones(2, 3, 4, 5), opacity=o, foreground=color * o.expand(2, 3, 4, 5), samples=samples
    )


def along(t: list[float], weight: list[float], ray: list[int], facing: float = 1.0) -> Samples:
    direction = torch.tensor([[0.0, 0.0, -1.0]]).expand(len(t), 3)
    return Samples(
        torch.tensor(ray, dtype=torch.long),
        torch.tensor(t),
        torch.tensor(weight),
        direction,
        -facing * direction,
    )


def test_the_table_needs_what_its_losses_need() -> None:
    assert needs_of(REGULARIZERS.values()) == {
        "opacity",
        "samples",
        "normal",
        "normal_perturb",
        "depth",
        "mesh",
        "gradient",
        "laplacian",
        "rgb",
        "splats",
    }
    assert needs_of(REFERENCE_LOSSES.values()) == {"opacity", "foreground"}
    assert needs_of([]) == frozenset()


def test_sparsity_of_an_empty_picture_is_a_tenth() -> None:
    assert float(sparsity(rendered(0.0))) == pytest.approx(0.1)
    assert float(sparsity(rendered(1.0))) == pytest.approx(math.sqrt(1.01))


def test_opaque_is_the_entropy_of_a_coin() -> None:
    assert float(opaque(rendered(0.5))) == pytest.approx(math.log(2))
    assert float(opaque(rendered(0.0))) == pytest.approx(float(opaque(rendered(1.0))), rel=1e-4)
    assert float(opaque(rendered(0.0))) < 0.01


def test_orientation_punishes_only_normals_that_face_away() -> None:
    toward = rendered(1.0, samples=along([1.0, 2.0], [0.5, 0.5], [0, 0], facing=1.0))
    away = rendered(1.0, samples=along([1.0, 2.0], [0.5, 0.5], [0, 0], facing=-1.0))
    assert float(orientation(toward)) == 0
    assert float(orientation(away)) == pytest.approx(1 / 40)


def test_z_variance_is_the_variance_of_the_distance() -> None:
    two_peaks = rendered(1.0, samples=along([1.0, 3.0], [0.5, 0.5], [0, 0]))
    assert float(z_variance(two_peaks)) == pytest.approx(1.0)
    one_peak = rendered(1.0, samples=along([2.0, 5.0], [0.9, 0.3], [0, 1]))
    assert float(z_variance(one_peak)) == pytest.approx(0.0, abs=1e-6)


def test_z_variance_of_nothing_is_zero() -> None:
    assert float(z_variance(rendered(0.0, samples=along([], [], [])))) == 0


def test_z_variance_is_unchanged_by_a_shift_and_scales_with_the_square() -> None:
    def variance(shift: float, scale: float) -> float:
        t = [scale * v + shift for v in (1.0, 2.0, 4.0)]
        return float(z_variance(rendered(1.0, samples=along(t, [0.2, 0.3, 0.4], [0, 0, 0]))))

    assert variance(5.0, 1.0) == pytest.approx(variance(0.0, 1.0), rel=1e-4)
    assert variance(0.0, 3.0) == pytest.approx(9 * variance(0.0, 1.0), rel=1e-4)


def test_reference_losses_vanish_on_the_picture_itself() -> None:
    render = rendered(0.6, color=0.25)
    picture = torch.cat([torch.full((2, 3, 4, 5), 0.25), render.opacity], 1)
    assert float(reference_rgb(render, picture)) == pytest.approx(0, abs=1e-12)
    assert float(reference_mask(render, picture)) == pytest.approx(0, abs=1e-12)


def test_colors_where_the_picture_is_transparent_do_not_matter() -> None:
    picture = torch.cat([torch.rand(2, 3, 4, 5), torch.zeros(2, 1, 4, 5)], 1)
    assert float(reference_rgb(rendered(0.0), picture)) == 0


def test_a_missing_part_is_named() -> None:
    with pytest.raises(ValueError, match="samples"):
        z_variance(rendered(1.0))


def test_emptiness_is_the_logarithm_of_the_weights() -> None:
    """log(1 + a w): one sample that is seen whole costs less than the same weight in ten."""
    one = rendered(1.0, samples=along([1.0], [1.0], [0]))
    assert float(emptiness(one)) == pytest.approx(math.log(11))
    assert float(emptiness(one, emptiness_scale=3.0)) == pytest.approx(math.log(4))
    haze = rendered(1.0, samples=along([1.0] * 10, [0.1] * 10, [0] * 10))
    assert 10 * float(emptiness(haze)) == pytest.approx(10 * math.log(2))
    assert set(LOSS_OPTIONS) == {"emptiness_scale", "center_ratio"}


def test_center_depth_compares_the_middle_with_the_border() -> None:
    opacity = torch.zeros(2, 1, 8, 8)
    opacity[..., 2:6, 2:6] = 1
    depth = 3 * torch.ones_like(opacity)
    inside = Render(opacity.expand(2, 3, 8, 8), opacity, depth=depth)
    assert float(center_depth(inside, center_ratio=0.5)) == pytest.approx(-math.log(3))
    outside = Render(opacity.expand(2, 3, 8, 8), 1 - opacity, depth=depth.requires_grad_())
    loss = center_depth(outside, center_ratio=0.5)
    loss.backward()
    assert depth.grad is not None and torch.isfinite(depth.grad).all() and float(loss.detach()) > 3000


def test_the_absolute_difference_of_pictures_is_a_mean() -> None:
    assert float(absolute_difference(torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.25))) == 0.75


def test_distortion_is_the_double_sum_of_the_paper_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    count = [5, 0, 7, 1]
    ray = torch.repeat_interleave(torch.arange(4), torch.tensor(count))
    edges = [torch.rand(n + 1, generator=generator, dtype=torch.float64).cumsum(0) for n in count]
    t = torch.cat([(e[1:] + e[:-1]) / 2 for e in edges])
    length = torch.cat([e[1:] - e[:-1] for e in edges])
    weight = torch.rand(13, generator=generator, dtype=torch.float64, requires_grad=True)
    samples = Samples(ray, t, weight, torch.zeros(13, 3), length=length)
    same = ray[:, None] == ray
    pairs = (weight[:, None] * weight * (t[:, None] - t).abs())[same].sum()
    truth = pairs + (weight.square() * length).sum() / 3
    found = ray_distortion(samples).sum()
    assert torch.allclose(found, truth)
    assert torch.allclose(*(torch.autograd.grad(x, weight)[0] for x in (found, truth)))
    # A mean over rays, those without samples among them.
    picture = Render(torch.zeros(1, 3, 1, 4), torch.zeros(1, 1, 1, 4), samples=samples)
    assert distortion(picture).item() == pytest.approx(truth.item() / 4)


def test_all_weight_in_one_sample_is_the_least_distorted() -> None:
    ray, t, length = torch.zeros(4).long(), torch.arange(4.0), torch.full((4,), 0.0)
    sharp, wide = torch.tensor([0.0, 1, 0, 0]), torch.full((4,), 0.25)
    values = [
        float(ray_distortion(Samples(ray, t, w, torch.zeros(4, 3), length=length)).sum())
        for w in (sharp, wide)
    ]
    assert values[0] == 0 and values[1] == pytest.approx(1.25)
