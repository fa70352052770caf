import pytest
import torch

from usd.kernels.trilinear import sample_volumes

SHAPES = [(1, 3, 2, 3, 4), (2, 13, 7, 5, 6), (3, 13, 1, 1, 1)]  # one vector a voxel, and two
COUNTS = [1, 17, 2100]  # less than a block, one more, and several chunks


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(shape: tuple[int, ...], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Volumes, and places of which every third coordinate or so lies beyond the cube."""
    volumes = torch.randn(shape, generator=seeded(1))
    return volumes, 3 * torch.rand(shape[0], count, 3, generator=seeded(2)) - 1.5


def results(volumes, places, implementation):
    """Values, and the gradients of volumes and places for a random gradient of the values."""
    volumes, places = volumes.clone().requires_grad_(), places.clone().requires_grad_()
    values = sample_volumes(volumes, places, implementation)
    g = torch.randn(values.shape, generator=seeded(3))
    return values, *torch.autograd.grad(values, (volumes, places), g)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", COUNTS)
def test_kernel_and_twin_agree(shape, count):
    for ours, theirs in zip(*(results(*inputs(shape, count), name) for name in ("warp", "torch"))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_a_linear_volume_is_itself_between_its_voxels(implementation):
    axes = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in (5, 4, 6)]  # z, y, x
    volumes = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].flip(1)
    places = (2 * torch.rand(1, 50, 3, generator=seeded()) - 1) * 0.75  # inside of the outer centers
    values = sample_volumes(volumes, places, implementation)
    torch.testing.assert_close(values[0].T, places[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_beyond_the_cube_there_is_nothing(implementation):
    volumes = torch.ones(1, 3, 4, 4, 4)
    inside, edge, corner = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 1.0, 1.0]
    beyond = [[1.3, 0, 0], [0, -1e30, 0], [0, 0, 3e38], [-1e9, 1e9, 0], [torch.nan, 0, 0], [torch.inf, 0, 0]]
    values = sample_volumes(volumes, torch.tensor([[inside, edge, corner, *beyond]]), implementation)
    expected = torch.tensor([1, 0.5, 0.125, *[0] * len(beyond)]).expand(3, -1)
    torch.testing.assert_close(values[0], expected)


def test_places_beyond_the_cube_move_no_gradient():
    volumes = torch.ones(1, 3, 3, 3, 3, requires_grad=True)
    places = torch.tensor([[[2.0, 0, 0], [0, torch.nan, 0]]], requires_grad=True)
    values = sample_volumes(volumes, places, "warp")
    g = torch.full_like(values, torch.inf)
    for gradient in torch.autograd.grad(values, (volumes, places), g):
        assert not gradient.any()


@pytest.mark.parametrize("needs", ["volumes", "places"])
def test_one_gradient_alone_is_the_same(needs):
    volumes, places = inputs((2, 3, 4, 4, 4), 40)
    both = dict(zip(("volumes", "places"), results(volumes, places, "warp")[1:]))
    given = {"volumes": volumes, "places": places}
    given[needs] = given[needs].requires_grad_()
    values = sample_volumes(**given, implementation="warp")
    (alone,) = torch.autograd.grad(values, given[needs], torch.randn(values.shape, generator=seeded(3)))
    torch.testing.assert_close(alone, both[needs])


def test_the_twin_passes_gradcheck_in_double_precision():
    volumes, places = (t.double().requires_grad_() for t in inputs((2, 3, 3, 2, 4), 12))
    assert torch.autograd.gradcheck(sample_volumes, (volumes, places))


def test_the_number_of_threads_changes_nothing():
    found = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found.append(results(*inputs((3, 13, 6, 6, 6), 5000), "warp"))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_no_places_have_no_values():
    volumes = torch.ones(2, 3, 4, 4, 4, requires_grad=True)
    values = sample_volumes(volumes, torch.zeros(2, 0, 3), "warp")
    assert values.shape == (2, 3, 0)
    assert not torch.autograd.grad(values.sum(), volumes)[0].any()
