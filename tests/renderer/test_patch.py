"""The patch renderer equals its base where the patch is, and where nothing is to be gained."""

import pytest
import torch
from scenes import Ball, background, material

from usd.core.config import parse
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.renderer.patch import PatchRenderer, _enlarge, _patch_window

ALL = frozenset({"foreground", "depth", "normal", "samples"})
BASE = {"radius": 0.6, "num_samples_per_ray": 64, "randomized": False}


def renderer(patch_size: int = 8, augmented: bool = False, **options: object) -> PatchRenderer:
    config = parse(
        PatchRenderer.Config, {"base_renderer": BASE, "patch_size": patch_size, **options}, "system.renderer"
    )
    behind = background(random_aug=augmented, random_aug_prob=1.0)
    return PatchRenderer(config, geometry=Ball(4.0), material=material(), background=behind)


def cameras(height: int = 32, width: int = 32, count: int = 2) -> Cameras:
    return orbit_cameras_deg([10.0, 40.0][:count], [0.0, 100.0][:count], 1.5, 40.0, height).resize(
        height, width
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 36), (30, 22)])
def test_the_patch_is_the_base_picture_and_the_rest_is_near_it(height: int, width: int) -> None:
    one, views = renderer(), cameras(height, width)
    pasted, whole = one.render(views, ALL, seeded(3)), one.base.render(views, ALL)
    at = _patch_window(views, 8, seeded(3))
    for name in ("rgb", "opacity", "foreground", "depth", "normal"):
        a, b = (getattr(r, name)[..., at.top : at.top + 8, at.left : at.left + 8] for r in (pasted, whole))
        assert torch.allclose(a, b, atol=1e-5), name
    assert pasted.rgb.shape == whole.rgb.shape
    assert 1e-4 < float((pasted.rgb - whole.rgb).abs().mean()) < 0.06


def test_it_gives_what_its_base_gives() -> None:
    one = renderer()
    shared = {"rgb", "opacity", "samples", "normal_perturb", "length", *ALL}
    assert one.outputs == one.base.outputs - {"behind"} == shared
    asked = one.render(cameras(), one.outputs, seeded())
    assert asked.samples is not None and asked.samples.normal_perturb is not None
    assert all(getattr(asked, name) is not None for name in one.outputs - {"normal_perturb", "length"})


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 20), (6, 5)])
def test_a_picture_not_larger_than_the_patch_is_rendered_in_full(height: int, width: int) -> None:
    one, views = renderer(), cameras(height, width)
    assert torch.equal(one.render(views, generator=seeded()).rgb, one.base.render(views).rgb)


def test_evaluation_is_the_full_picture() -> None:
    one, views = renderer().eval(), cameras()
    assert torch.equal(one.render(views, generator=seeded()).rgb, one.base.render(views).rgb)


def test_patches_reach_every_pixel() -> None:
    generator, views = seeded(), cameras(10, 12)
    places = {(w.top, w.left) for w in (_patch_window(views, 8, generator) for _ in range(300))}
    assert places == {(top, left) for top in range(3) for left in range(5)}


def test_the_patch_follows_the_generator() -> None:
    one, views = renderer(), cameras()
    first, again, other = (one.render(views, generator=seeded(s)).rgb for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_patch_and_rest_stand_before_the_same_random_background() -> None:
    rendered = renderer(augmented=True).render(cameras(), generator=seeded(5))
    empty = rendered.rgb.permute(0, 2, 3, 1)[rendered.opacity[:, 0] == 0]
    assert len(empty) > 100 and torch.allclose(empty, empty[0], atol=1e-6)


def test_samples_of_both_pictures_come_along() -> None:
    one, views = renderer(), cameras()
    rendered = one.render(views, ALL, seeded())
    assert rendered.samples is not None
    low_rays, patch_rays = 2 * 8 * 8, 2 * 8 * 8
    assert low_rays <= int(rendered.samples.ray_index.max()) < low_rays + patch_rays
    assert rendered.samples.normal is not None and len(rendered.samples.normal) == len(rendered.samples.t)


def test_a_detached_picture_trains_the_patch_alone() -> None:
    for detach, shares in ((True, False), (False, True)):
        one, views = renderer(global_detach=detach), cameras()
        at = _patch_window(views, 8, seeded())
        outside = torch.ones(32, 32)
        outside[at.top : at.top + 8, at.left : at.left + 8] = 0
        rgb = one.render(views, generator=seeded()).rgb
        (gradient,) = torch.autograd.grad((rgb * outside).sum(), one.scene.geometry.sigma)
        assert bool(gradient != 0) is shares


def test_enlarging_keeps_straight_lines_where_they_are() -> None:
    """A picture linear in the view angle's tangent stays so, also where the small picture is a little wider."""
    small = torch.linspace(-1, 1, 10)[None, None, None, :].expand(1, 1, 8, 10) * 9 / 8
    large = _enlarge(small, 30, 36)[0, 0]
    x = (torch.arange(36) + 0.5 - 18) / 15
    assert torch.allclose(large[15, 3:-3], x[3:-3], atol=1e-5)
    assert torch.allclose(large[15], large[2])


def test_the_checkpoint_holds_the_base_once() -> None:
    assert set(renderer().state_dict()) == {"base.grid_value", "base.grid_binary"}
