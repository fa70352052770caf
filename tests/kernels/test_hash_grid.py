import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from usd.kernels import runtime
from usd.kernels.hash_grid import PRIMES, HashGridSpec, _corner_rows, hash_grid

SPECS = [
    HashGridSpec(4, 2, 10, 4, 1.6),  # dense and hashed levels
    HashGridSpec(3, 1, 12, 2, 2.0),  # dense only
    HashGridSpec(2, 4, 6, 16, 1.5),  # hashed only
    HashGridSpec(1, 8, 8, 5, 1.0),
    HashGridSpec(4, 2, 10, 4, 1.6, "tinycudann"),
]
SMALL = HashGridSpec(3, 2, 7, 2, 2.0)


def points(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def table(spec: HashGridSpec, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return spec.init_table(torch.Generator().manual_seed(seed), scale=1.0).to(dtype)


def like(x: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"F{s.n_features_per_level}L{s.n_levels}{s.vertices}")
@pytest.mark.parametrize("n", [0, 1, 257, 3000])
def test_kernel_and_twin_agree_in_values_and_gradients(spec, n):
    results = []
    for implementation in ("warp", "torch"):
        x, t = points(n).requires_grad_(), table(spec).requires_grad_()
        y = hash_grid(x, t, spec, implementation)
        results.append((y, *torch.autograd.grad(y, (x, t), like(y, 2))))
    for kernel, twin in zip(*results):
        torch.testing.assert_close(kernel, twin, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec", [*SPECS[:3], SPECS[-1]], ids=lambda s: f"F{s.n_features_per_level}L{s.n_levels}{s.vertices}"
)
def test_second_order_gradients_of_kernel_and_twin_agree(spec):
    """The gradient of a function of the gradient, as analytic normals and the eikonal loss need it."""
    results = []
    for implementation in ("warp", "torch"):
        x, t = points(200).requires_grad_(), table(spec).requires_grad_()
        y = hash_grid(x, t, spec, implementation)
        g_x, g_t = torch.autograd.grad(y.sin().sum(), (x, t), create_graph=True)
        loss = (g_x * like(g_x, 3)).sum() + (g_t * like(g_t, 4)).sum()
        results.append(torch.autograd.grad(loss, (x, t)))
    for kernel, twin in zip(*results):
        torch.testing.assert_close(kernel, twin, rtol=1e-3, atol=1e-3 * float(twin.abs().max()))


def test_second_order_through_positions_only():
    """The eikonal loss of a fixed position: v_table is absent, x itself needs no second derivative."""
    results = []
    for implementation in ("warp", "torch"):
        x, t = points(50).requires_grad_(), table(SMALL).requires_grad_()
        (normal,) = torch.autograd.grad(hash_grid(x, t, SMALL, implementation).sum(), x, create_graph=True)
        results.append(torch.autograd.grad((normal.norm(dim=-1) - 1).square().sum(), t)[0])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_normals_of_a_signed_distance_train_table_network_and_positions():
    """As users write it: autograd.grad(sdf, x, create_graph=True), then a loss on the normal. Kernel against twin."""
    generator = torch.Generator().manual_seed(3)
    first, last = torch.randn(SMALL.n_output, 8, generator=generator), torch.randn(8, generator=generator)
    results = []
    for implementation in ("warp", "torch"):
        parameters = [t.clone().requires_grad_() for t in (points(150), table(SMALL), first, last)]
        x, t, a, b = parameters
        sdf = torch.nn.functional.softplus(hash_grid(x, t, SMALL, implementation) @ a, beta=10) @ b
        (normal,) = torch.autograd.grad(sdf.sum(), x, create_graph=True)
        loss = (normal.norm(dim=-1) - 1).square().mean() + sdf.square().mean()
        results.append((normal.detach(), *torch.autograd.grad(loss, parameters)))
    for kernel, twin in zip(*results):
        torch.testing.assert_close(kernel, twin, rtol=1e-3, atol=1e-4 * float(twin.abs().max()))
        assert twin.abs().max() > 0


@pytest.mark.parametrize("wanted", ["x", "g", "xg"])
def test_second_order_by_any_choice_of_inputs(wanted):
    """The kernel shares work between them; asking for one must not change it."""
    results = []
    for implementation in ("warp", "torch"):
        x, t = points(300).requires_grad_(), table(SMALL)
        y = hash_grid(x, t, SMALL, implementation)
        g = like(y, 2).requires_grad_("g" in wanted)
        (slope,) = torch.autograd.grad(y, x, g, create_graph=True)
        inputs = {"x": (x,), "g": (g,), "xg": (x, g)}[wanted]
        results.append(torch.autograd.grad(slope, inputs, like(slope, 4)))
    for kernel, twin in zip(*results):
        torch.testing.assert_close(kernel, twin, rtol=1e-3, atol=1e-4 * float(twin.abs().max()))


def test_a_normal_computes_no_gradient_of_the_table(monkeypatch):
    from usd.kernels.hash_grid_warp import Sums

    done = []
    run = Sums._run
    monkeypatch.setattr(Sums, "_run", lambda self, name, *rest: done.append(name) or run(self, name, *rest))
    x, t = points(9).requires_grad_(), table(SMALL).requires_grad_()
    y = hash_grid(x, t, SMALL, "warp").sum()
    torch.autograd.grad(y, x, create_graph=True)
    assert done == ["interpolate", "pull"]
    torch.autograd.grad(y, (x, t))
    assert sorted(done) == ["interpolate", "pull", "pull", "scatter"]


def test_gradcheck_and_gradgradcheck_of_the_twin():
    x = (points(5, dtype=torch.float64) * 0.9 + 0.03).requires_grad_()
    t = table(SMALL, dtype=torch.float64).requires_grad_()

    def function(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return hash_grid(x, t, SMALL, "torch")

    torch.autograd.gradcheck(function, (x, t), eps=1e-7)
    torch.autograd.gradgradcheck(function, (x, t), eps=1e-7)


def test_position_gradient_is_the_finite_difference():
    x, t, h = points(500), table(SMALL), 1e-3
    x = x.requires_grad_()
    y = hash_grid(x, t, SMALL, "warp")
    g = like(y, 5)
    (analytic,) = torch.autograd.grad(y, x, g)
    cells = torch.tensor(SMALL.resolutions)
    place = x.detach()[:, None] * cells[:, None] % 1
    inner = ((place > 0.02) & (place < 0.98)).flatten(1).all(1)  # no kink within h
    assert inner.sum() > 100
    for axis in range(3):
        step = torch.eye(3)[axis] * h
        ahead, behind = (hash_grid(x.detach() + s * step, t, SMALL, "warp") for s in (1, -1))
        numeric = ((ahead - behind) * g).sum(1) / (2 * h)
        torch.testing.assert_close(analytic[inner, axis], numeric[inner], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_a_vertex_gets_its_own_row(implementation):
    spec = HashGridSpec(1, 2, 12, 4, 1.0)
    vertex = torch.tensor(list(itertools.product(range(5), repeat=3)))
    t = table(spec)
    rows = vertex[:, 0] + 5 * (vertex[:, 1] + 5 * vertex[:, 2])
    torch.testing.assert_close(hash_grid(vertex / 4, t, spec, implementation), t[rows], rtol=0, atol=0)


def test_hash_is_instant_ngps():
    spec = HashGridSpec(1, 1, 5, 100, 1.0)
    i, j, k = 17, 93, 55
    expected = ((i * PRIMES[0]) ^ (j * PRIMES[1]) ^ (k * PRIMES[2])) % 32
    assert _corner_rows(torch.tensor([[[i, j, k]]]), spec)[0, 0, 0] == expected
    t = torch.arange(32.0)[:, None]
    for implementation in ("warp", "torch"):
        y = hash_grid(torch.tensor([[i, j, k]]) / 100 + 1e-7, t, spec, implementation)
        torch.testing.assert_close(y.item(), float(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_constant_table_gives_a_constant_without_slope(implementation):
    x = points(300).requires_grad_()
    y = hash_grid(x, torch.full((SMALL.n_rows, 2), 0.7), SMALL, implementation)
    torch.testing.assert_close(y, torch.full_like(y, 0.7))
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-4)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_a_linear_function_on_the_vertices_is_reproduced(implementation):
    spec = HashGridSpec(1, 1, 12, 6, 1.0)
    vertex = torch.tensor(list(itertools.product(range(7), repeat=3)), dtype=torch.float32).flip(-1) / 6
    direction = torch.tensor([0.3, -1.2, 2.0])
    x = points(100).requires_grad_()
    y = hash_grid(x, (vertex @ direction)[:, None], spec, implementation)
    torch.testing.assert_close(y[:, 0], (x @ direction).detach(), rtol=1e-5, atol=1e-5)
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, direction.expand_as(g), rtol=1e-4, atol=1e-4)


def test_continuous_across_cells():
    side = torch.linspace(0.01, 0.99, 97)
    for cells in SMALL.resolutions:
        face = torch.stack([torch.full_like(side, 1 / cells), side, side.flip(0)], -1)
        near, far = face.clone(), face.clone()
        near[:, 0] -= 1e-6
        far[:, 0] += 1e-6
        t = table(SMALL)
        a, b = (hash_grid(x, t, SMALL, "warp") for x in (near, far))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_outside_points_are_moved_to_the_face_and_have_no_slope_there(implementation):
    inside = torch.tensor([[0.0, 0.4, 1.0], [1.0, 1.0, 0.2]])
    outside = (inside + torch.tensor([[-0.3, 0.0, 2.0], [0.1, 5.0, 0.0]])).requires_grad_()
    t = table(SMALL)
    y = hash_grid(outside, t, SMALL, implementation)
    torch.testing.assert_close(y, hash_grid(inside, t, SMALL, implementation))
    (g,) = torch.autograd.grad(y.sum(), outside)
    assert (g != 0).tolist() == [[False, True, False], [False, False, True]]


@pytest.mark.parametrize("implementation", ["warp", "torch"])
def test_table_gradient_touches_exactly_the_corners(implementation):
    """A zeroed gradient passes any tolerance; which entries are non-zero is the sharper question."""
    x = points(9) * 0.9 + 0.05
    t = table(SMALL).requires_grad_()
    y = hash_grid(x, t, SMALL, implementation)
    (g,) = torch.autograd.grad(y.sum(), t)
    cell = (x[:, None] * torch.tensor(SMALL.resolutions)[:, None]).floor().long()
    touched = torch.zeros(SMALL.n_rows, dtype=torch.bool)
    touched[_corner_rows(cell, SMALL).flatten()] = True
    assert ((g != 0).all(1) == touched).all() and ((g != 0).any(1) == touched).all()
    assert 0 < touched.sum() < SMALL.n_rows


def test_nan_position_is_harmless_and_visible():
    y = hash_grid(torch.tensor([[float("nan"), 0.5, 0.5], [0.5, 0.5, 0.5]]), table(SMALL), SMALL, "warp")
    assert y[0].isnan().all() and y[1].isfinite().all()


def test_threads_do_not_change_a_bit(monkeypatch):
    x, spec = points(5000), HashGridSpec(5, 2, 10, 4, 1.7)
    results = []
    for n_threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        xs, t = x.clone().requires_grad_(), table(spec).requires_grad_()
        y = hash_grid(xs, t, spec, "warp")
        g_x, g_t = torch.autograd.grad(y, (xs, t), like(y, 2), create_graph=True)
        second = torch.autograd.grad((g_x**2).sum(), (xs, t))
        results.append((y, g_x, g_t, *second))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_non_contiguous_inputs():
    x, t = points(40).t().contiguous().t(), table(SMALL)
    assert not x.is_contiguous()
    wide = torch.randn(SMALL.n_rows, 4)[:, ::2]
    torch.testing.assert_close(hash_grid(x, t, SMALL, "warp"), hash_grid(x, t, SMALL, "torch"))
    torch.testing.assert_close(hash_grid(x, wide, SMALL, "warp"), hash_grid(x, wide, SMALL, "torch"))


def test_float64_is_served_by_the_twin():
    y = hash_grid(points(3, dtype=torch.float64), table(SMALL, dtype=torch.float64), SMALL)
    assert y.dtype == torch.float64
    with pytest.raises(ValueError, match="float64"):
        hash_grid(points(3, dtype=torch.float64), table(SMALL, dtype=torch.float64), SMALL, "warp")
    assert runtime.choose("auto", points(3)) == "warp"


@pytest.mark.parametrize(
    "options",
    [{"n_levels": 0}, {"per_level_scale": 0.5}, {"log2_hashmap_size": 0}, {"per_level_scale": 4.0}],
)
def test_impossible_specs_are_refused(options):
    with pytest.raises(ValueError, match="hash grid"):
        HashGridSpec(**options)


def test_wrong_table_is_refused():
    with pytest.raises(ValueError, match=r"table is \(3, 2\); expected \(\d+, 2\)"):
        hash_grid(points(3), torch.zeros(3, 2), SMALL)


@given(
    levels=st.integers(1, 16),
    features=st.integers(1, 8),
    log2=st.integers(4, 19),
    base=st.integers(1, 32),
    scale=st.floats(1.0, 1.5),
)
@settings(max_examples=50, deadline=None)
def test_sizes_add_up(levels, features, log2, base, scale):
    spec = HashGridSpec(levels, features, log2, base, scale)
    assert sum(spec.level_rows) == spec.n_rows
    assert spec.offsets[0] == 0 and spec.offsets[-1] + spec.level_rows[-1] == spec.n_rows
    assert all(a <= b for a, b in itertools.pairwise(spec.resolutions))
    for cells, rows, dense in zip(spec.resolutions, spec.level_rows, spec.dense):
        assert dense == ((cells + 1) ** 3 <= 2**log2)
        assert rows == ((cells + 1) ** 3 if dense else 2**log2)


def test_published_resolutions():
    assert HashGridSpec().resolutions[0] == 16 and HashGridSpec().resolutions[-1] == 4096


def tinycudann_reference(spec: HashGridSpec, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Encode as the original library's documents say, point by point and corner by corner."""
    first, parts = 0, []
    for level in range(spec.n_levels):
        scale = spec.base_resolution * spec.per_level_scale**level - 1
        side = math.ceil(scale - 1e-6) + 1
        count = min((side**3 + 7) // 8 * 8, 2**spec.log2_hashmap_size)
        values = np.zeros((len(x), spec.n_features_per_level))
        for n, point in enumerate(x):
            place = point * scale + 0.5
            cell = np.floor(place).astype(int)
            for corner in itertools.product((0, 1), repeat=3):
                weight = np.prod(np.where(corner, place - cell, 1 - (place - cell)))
                i, j, k = (int(v) for v in cell + corner)
                dense = i + side * (j + side * k)
                row = dense if side**3 <= count else i ^ (j * 2654435761) ^ (k * 805459861)
                values[n] += weight * rows[first + row % count]
        first += count
        parts.append(values)
    assert first == len(rows)
    return np.concatenate(parts, 1)


@pytest.mark.parametrize("implementation", ["warp", "torch"])
@pytest.mark.parametrize(
    "spec",
    [
        HashGridSpec(5, 2, 12, 4, 1.6, "tinycudann"),
        # whole scales: the last corner lies beyond the last row
        HashGridSpec(3, 2, 12, 8, 2.0, "tinycudann"),
        HashGridSpec(16, 2, 14, 16, 1.3195079107728942, "tinycudann"),
    ],
    ids=str,
)
def test_tables_of_tinycudann_give_its_features(spec, implementation):
    x = torch.cat([points(60), torch.eye(3), torch.ones(1, 3), torch.zeros(1, 3)])
    rows = 0.1 * table(spec)
    expected = torch.tensor(tinycudann_reference(spec, rows.double().numpy(), x.double().numpy()))
    torch.testing.assert_close(hash_grid(x, rows, spec, implementation).double(), expected, rtol=0, atol=1e-4)


def test_sizes_of_tinycudann_are_known():
    """16 levels of 2^19 rows from 16 to 4096: the number of parameters that every such checkpoint has."""
    spec = HashGridSpec(vertices="tinycudann")
    assert spec.sides[:3] == (16, 24, 34) and spec.level_rows[:3] == (4096, 13824, 39304)
    assert spec.n_rows * 2 == 12599920


@pytest.mark.parametrize("n_dims", [1, 2])
def test_a_grid_of_fewer_dimensions_is_multilinear_between_its_vertices(n_dims):
    """A dense level that holds a linear function gives it back; a hashed one repeats its rows by the same primes."""
    spec = HashGridSpec(1, 1, 12, 5, 1.0, n_dims=n_dims)
    axes = torch.arange(6.0, dtype=torch.float64) / 5
    corners = torch.stack(torch.meshgrid([axes] * n_dims, indexing="ij"), -1)
    slope = torch.tensor([2.0, -3.0], dtype=torch.float64)[:n_dims]
    # The first coordinate is fastest in the table.
    rows = (corners @ slope).permute(*reversed(range(n_dims))).reshape(-1, 1)
    x = torch.rand(50, n_dims, dtype=torch.float64)
    assert spec.dense == (True,) and torch.allclose(hash_grid(x, rows, spec)[:, 0], x @ slope)
    hashed = HashGridSpec(1, 1, 3, 50, 1.0, n_dims=n_dims)
    at = torch.tensor([[7, 11][:n_dims]])
    row = int(_corner_rows(at[:, None], hashed)[0, 0, 0])
    assert hashed.dense == (False,) and row == (7 ^ (11 * PRIMES[1] if n_dims == 2 else 0)) % 8
