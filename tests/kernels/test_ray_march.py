import math

import pytest
import torch
from torch.nn.functional import normalize

from usd.kernels.occupancy import Occupancy, is_occupied, occupied_everywhere, step_size
from usd.kernels.ray_march import (
    RaySamples,
    composite,
    composite_density,
    intersect_box,
    march,
    packed_info,
)
from usd.math.volume import alpha_from_density, to_dense

IMPLEMENTATIONS = ["warp", "torch"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rays(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from a sphere of radius 3 towards the middle, some of them past the cube."""
    origins = 3 * normalize(torch.randn(n, 3, generator=seeded(seed)), dim=-1)
    target = 2 * torch.rand(n, 3, generator=seeded(seed + 1)) - 1
    return origins, normalize(1.4 * target - origins, dim=-1)


def random_grid(resolution: int = 16, share: float = 0.3, radius: float = 1.0) -> Occupancy:
    value = torch.rand(resolution, resolution, resolution, generator=seeded(7))
    return Occupancy(value, value < share, radius)


def random_samples(counts: list[int], dtype: torch.dtype = torch.float32) -> RaySamples:
    ray_index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    packed = packed_info(ray_index, len(counts))
    slot = torch.arange(len(ray_index)) - packed[ray_index, 0]
    start = (1 + slot * 0.1).to(dtype)
    return RaySamples(ray_index, start, start + 0.1, packed)


def composite_inputs(samples: RaySamples, channels: int = 3, dtype: torch.dtype = torch.float32):
    alpha = torch.rand(len(samples), generator=seeded(3), dtype=dtype).requires_grad_()
    features = torch.rand(len(samples), channels, generator=seeded(4), dtype=dtype).requires_grad_()
    return alpha, features


# ---- marching


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [0, 1, 500])
def test_march_kernel_and_twin_agree(n, share):
    origins, directions = rays(n)
    a, b = (
        march(origins, directions, random_grid(share=share), 0.05, seeded(5), implementation=i)
        for i in IMPLEMENTATIONS
    )
    assert torch.equal(a.ray_index, b.ray_index) and torch.equal(a.packed, b.packed)
    torch.testing.assert_close(a.t_start, b.t_start)
    torch.testing.assert_close(a.t_end, b.t_end)
    assert a.n_rays == n and (len(a) > 0) == (n > 0 and share > 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_samples_are_exactly_the_occupied_lattice(implementation):
    origins, directions = rays(200)
    grid, step = random_grid(), 0.07
    samples = march(origins, directions, grid, step, implementation=implementation)
    assert is_occupied(grid, samples.positions(origins, directions)).float().mean() > 0.999
    enter, leave = intersect_box(origins, directions, 1.0, 0.0, math.inf)
    expected = 0
    for r in range(200):
        t = enter[r] + (torch.arange(100) + 0.5) * step
        t = t[t < leave[r]]
        expected += int(is_occupied(grid, origins[r] + t[:, None] * directions[r]).sum())
    assert abs(len(samples) - expected) <= 2  # a middle on a cell's face may fall to either side


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_packing_is_sorted_and_complete(implementation):
    samples = march(*rays(300), random_grid(), 0.05, seeded(1), implementation=implementation)
    assert (samples.ray_index.diff() >= 0).all()
    assert torch.equal(samples.packed, packed_info(samples.ray_index, 300))
    same_ray = samples.ray_index.diff() == 0
    assert (samples.t.diff()[same_ray] > 0.049).all()
    torch.testing.assert_close(samples.lengths, torch.full_like(samples.lengths, 0.05), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_miss_has_no_samples_and_a_ray_inside_starts_where_it_is(implementation):
    origins = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    samples = march(origins, directions, occupied_everywhere(4, 1.0), 0.1, implementation=implementation)
    assert samples.packed[:, 1].tolist() == [20, 0, 10, 0]
    torch.testing.assert_close(samples.t_start[0], torch.tensor(4.0))
    torch.testing.assert_close(samples.t_start[20], torch.tensor(0.0), rtol=0, atol=1e-6)


def test_near_and_far_cut():
    origins, directions = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    for implementation in IMPLEMENTATIONS:
        samples = march(
            origins,
            directions,
            occupied_everywhere(4, 1.0),
            0.1,
            near=4.5,
            far=5.5,
            implementation=implementation,
        )
        assert len(samples) == 10 and samples.t.min() >= 4.5 and samples.t.max() <= 5.5


def test_box_intersection_is_where_the_ray_crosses_the_surface():
    origins, directions = rays(1000)
    enter, leave = intersect_box(origins, directions, 1.0, 0.0, math.inf)
    hit = leave > enter
    assert 100 < hit.sum() < 1000
    for t in (enter, leave):
        x = (origins + t[:, None] * directions)[hit]
        torch.testing.assert_close(x.abs().amax(-1), torch.ones(len(x)), rtol=0, atol=1e-5)
    along = torch.linspace(0, 6, 601)
    x = origins[~hit, None] + along[:, None] * directions[~hit, None]
    assert (x.abs().amax(-1) > 1 - 1e-3).all()


def test_jitter_comes_from_the_generator_alone():
    a, b, c = (march(*rays(50), random_grid(), 0.1, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a.t_start, b.t_start)
    assert len(a) != len(c) or not torch.equal(a.t_start, c.t_start)


def test_jittered_samples_estimate_a_length_without_bias():
    """The expected total length of samples is the length of the ray inside the cube."""
    origins, directions = torch.tensor([[0.3, -0.2, 5.0]]).expand(4000, 3), torch.tensor([[0.1, 0.2, -1.0]])
    directions = normalize(directions, dim=-1).expand(4000, 3)
    enter, leave = intersect_box(origins, directions, 1.0, 0.0, math.inf)
    samples = march(origins, directions, occupied_everywhere(4, 1.0), 0.37, seeded())
    torch.testing.assert_close(samples.lengths.sum() / 4000, (leave - enter)[0], rtol=5e-3, atol=0)


def test_selection_stays_packed():
    samples = march(*rays(60), random_grid(), 0.05)
    keep = torch.rand(len(samples), generator=seeded(2)) < 0.4
    part = samples.select(keep)
    assert torch.equal(part.t_start, samples.t_start[keep])
    assert torch.equal(part.packed, packed_info(samples.ray_index[keep], 60))


def test_a_step_of_zero_is_refused():
    with pytest.raises(ValueError, match="expected a positive length"):
        march(*rays(2), random_grid(), 0.0)


# ---- compositing


@pytest.mark.parametrize("counts", [[], [0, 0], [1], [5, 0, 3, 40, 0, 1], [30] * 200])
@pytest.mark.parametrize("channels", [0, 1, 3, 7])
@pytest.mark.parametrize("least", [0.0, 1e-2])
def test_composite_kernel_and_twin_agree_in_values_and_gradients(counts, channels, least):
    samples = random_samples(counts)
    results = []
    for implementation in IMPLEMENTATIONS:
        alpha, features = composite_inputs(samples, channels)
        view = composite(alpha, features, samples, least, implementation)
        loss = sum((v * torch.randn(v.shape, generator=seeded(9))).sum() for v in view)
        grads = torch.autograd.grad(loss, (alpha, features))
        results.append((*view, *grads))
    for kernel, twin in zip(*results):
        torch.testing.assert_close(kernel, twin, rtol=1e-4, atol=1e-5)


def test_composite_twin_passes_gradcheck():
    samples = random_samples([4, 0, 3], torch.float64)
    alpha, features = composite_inputs(samples, 2, torch.float64)
    torch.autograd.gradcheck(lambda a, f: tuple(composite(a, f, samples)), (alpha, features))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_opaque_and_transparent_samples_have_exact_gradients(implementation):
    """alpha of 0 and 1 is where a division by 1 - alpha would fail."""
    samples = random_samples([4])
    alpha = torch.tensor([0.0, 0.5, 1.0, 0.5], requires_grad=True)
    color = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    view = composite(alpha, color, samples, implementation=implementation)
    (g,) = torch.autograd.grad(view.color.sum(), alpha)
    torch.testing.assert_close(view.weights, torch.tensor([0.0, 0.5, 0.5, 0.0]))
    torch.testing.assert_close(g, torch.tensor([1 - 2.5, 2 - 3.0, 0.5 * (3 - 2.0), 0.0]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_weights_and_what_is_left_sum_to_one(implementation):
    samples = random_samples([0, 7, 80])
    alpha, features = composite_inputs(samples)
    view = composite(alpha * 0.2, features, samples, implementation=implementation)
    left = (1 - 0.2 * to_dense(alpha, samples.packed, samples.ray_index)).prod(-1)
    torch.testing.assert_close(view.opacity + left, torch.ones(3))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_constant_density_has_the_closed_form(implementation):
    """opacity = 1 - exp(-sigma d); mean depth of the first d of an exponential law, up to the step's square."""
    origins, directions = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    samples = march(origins, directions, occupied_everywhere(8, 1.0), 0.01, implementation=implementation)
    sigma, d = 1.7, 2.0
    alpha = alpha_from_density(torch.full_like(samples.t, sigma), samples.lengths)
    view = composite(alpha, torch.ones(len(samples), 1), samples, implementation=implementation)
    opacity = 1 - math.exp(-sigma * d)
    depth = 4 * opacity + (1 - math.exp(-sigma * d) * (1 + sigma * d)) / sigma
    torch.testing.assert_close(view.opacity.item(), opacity, rtol=1e-4, atol=0)
    torch.testing.assert_close(view.color.item(), opacity, rtol=1e-4, atol=0)
    torch.testing.assert_close(view.depth.item(), depth, rtol=1e-4, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hidden_samples_get_nothing_and_change_nothing(implementation):
    samples = random_samples([10])
    alpha = torch.full((10,), 0.9, requires_grad=True)
    view = composite(alpha, torch.rand(10, 3), samples, 1e-3, implementation)
    (g,) = torch.autograd.grad(view.color.sum(), alpha)
    assert (view.weights > 0).tolist() == [True] * 4 + [
        False
    ] * 6  # transmittance 1, 0.1, 0.01, 0.001 (just), ...
    assert (g[4:] == 0).all() and (g[:4] != 0).all()


def test_gradients_do_not_leak_between_rays():
    samples = random_samples([3, 4, 2])
    alpha, features = composite_inputs(samples)
    view = composite(alpha, features, samples, implementation="warp")
    grads = torch.autograd.grad(view.color[1].sum() + view.depth[1], (alpha, features))
    own = samples.ray_index == 1
    for g in grads:
        assert (g[own] != 0).all() and (g[~own] == 0).all()


def test_threads_do_not_change_a_bit(monkeypatch):
    results = []
    for n_threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        samples = march(*rays(900), random_grid(), 0.05, seeded(1), implementation="warp")
        alpha, features = composite_inputs(samples)
        view = composite(alpha, features, samples, implementation="warp")
        grads = torch.autograd.grad(sum(v.square().sum() for v in view), (alpha, features))
        results.append((samples.t_start, samples.packed, *view, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_first_surface_hides_the_second():
    """A wall of full opacity at the middle of the cube: every ray ends there, within a step."""
    origins = torch.cat([torch.rand(100, 2, generator=seeded()) - 0.5, torch.full((100, 1), 3.0)], 1)
    directions = torch.tensor([[0.0, 0.0, -1.0]]).expand(100, 3)
    samples = march(origins, directions, occupied_everywhere(8, 1.0), step_size(1.0, 256), seeded(1))
    height = samples.positions(origins, directions)[:, 2]
    color = torch.stack([(height > -0.5).float(), (height <= -0.5).float()], -1)
    view = composite((height < 0).float(), color, samples)
    torch.testing.assert_close(view.depth, torch.full((100,), 3.0), rtol=0, atol=step_size(1.0, 256))
    torch.testing.assert_close(view.color, torch.tensor([[1.0, 0.0]]).expand(100, 2))
    dense = to_dense(view.weights, samples.packed, samples.ray_index)
    torch.testing.assert_close(dense.max(1).values, torch.ones(100))


@pytest.mark.parametrize("counts", [[], [0, 1], [7, 8, 9, 0, 64, 65, 3], [130] * 40])
@pytest.mark.parametrize("channels", [0, 2, 3])
def test_densities_composite_as_their_opacities_do(counts, channels):
    """Kernel against twin, and the twin against ``composite`` of the opacities; thin and opaque samples alike."""
    samples = random_samples(counts)
    size = 10 ** (8 * torch.rand(len(samples), generator=seeded(5)) - 5)  # step opacities of 1e-6 to 1
    _, features = composite_inputs(samples, channels)
    results = []
    for implementation in IMPLEMENTATIONS:
        density = size.clone().requires_grad_()
        view = composite_density(density, features, samples, 1e-3, implementation)
        loss = sum((v * torch.randn(v.shape, generator=seeded(9))).sum() for v in view)
        results.append((*view, *torch.autograd.grad(loss, (density, features))))
    for kernel, twin in zip(*results):
        torch.testing.assert_close(kernel, twin, rtol=1e-4, atol=1e-5)
    view = composite(alpha_from_density(size, samples.lengths), features, samples, 1e-3)
    torch.testing.assert_close(results[0][0], view.weights.detach(), rtol=1e-4, atol=1e-5)


def test_opacity_is_exact_for_thin_and_for_thick_samples():
    samples = random_samples([1] * 400)
    density = 10 ** torch.linspace(-12, 4, 400)
    view = composite_density(density, torch.zeros(400, 0), samples, implementation="warp")
    expected = -torch.expm1(-density.double() * samples.lengths.double())
    torch.testing.assert_close(view.weights.double(), expected, rtol=1e-6, atol=0)


def test_not_a_number_stays_visible_and_with_its_ray():
    samples = random_samples([3, 20])
    density = torch.ones(23)
    density[5] = float("nan")
    view = composite_density(density, torch.ones(23, 3), samples, implementation="warp")
    assert view.opacity[0].isfinite() and view.opacity[1].isnan()
    infinite = composite_density(torch.full((23,), 1e38), torch.ones(23, 3), samples, implementation="warp")
    torch.testing.assert_close(infinite.opacity, torch.ones(2))


@pytest.mark.parametrize("resolution", [1, 3, 5])
def test_grids_of_odd_size_are_marched_alike(resolution):
    a, b = (march(*rays(60), random_grid(resolution, 0.5), 0.05, implementation=i) for i in IMPLEMENTATIONS)
    assert torch.equal(a.ray_index, b.ray_index) and torch.equal(a.packed, b.packed)
