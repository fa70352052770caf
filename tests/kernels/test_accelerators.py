"""Optional packages: held to the twins where installed; elsewhere, what is handed to them is held to their documents.

The stand-ins below compute, in plain torch, what the packages document: where their vertices lie, how rows are hashed
and padded, where their steps begin. Whatever is shifted or laid out wrongly on our side shows as another result.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from usd.app.modes import prefer_kernels
from usd.core.errors import UserError
from usd.kernels import accelerators, hash_grid_tinycudann, mlp, ray_march_nerfacc, runtime
from usd.kernels.accelerators import ACCELERATORS
from usd.kernels.hash_grid import PRIMES, HashGridSpec, hash_grid, hash_grid_torch
from usd.kernels.mlp import mlp_torch
from usd.kernels.occupancy import Occupancy
from usd.kernels.rasterize import Tracer
from usd.kernels.ray_march import composite, composite_density, march

SPEC = HashGridSpec(4, 2, 9, 3, 1.7)  # levels of 3, 5, 8 and 14 cells: two dense ones and two hashed ones


def installed(name: str) -> None:
    """Skips, and says why, where a package cannot be used."""
    if obstacle := ACCELERATORS[name].obstacle():
        pytest.skip(obstacle)


@pytest.fixture(autouse=True)
def _fresh():
    yield
    runtime.prefer(["auto"])
    for cached in (accelerators.load_accelerator, hash_grid_tinycudann.grid, mlp.network):
        cached.cache_clear()


def points(n: int = 300) -> torch.Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) * 0.998 + 0.001


def table(spec: HashGridSpec = SPEC) -> torch.Tensor:
    return spec.init_table(torch.Generator().manual_seed(2), 1.0)


def rays(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(n, 3, generator=source), dim=-1)
    return 0.2 * torch.randn(n, 3, generator=source) - 1.5 * directions, directions


def grid() -> Occupancy:
    binary = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(4)) < 0.4
    return Occupancy(binary.float(), binary, 1.0)


def weights() -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(5)
    return [torch.randn(o, i, generator=source) / i**0.5 for i, o in ((5, 32), (32, 32), (32, 3))]


# ----------------------------------------------------------------------------------------- where they are installed


def test_tinycudann_encodes_as_the_twin_does():
    installed("tinycudann")
    x, rows = points().cuda(), table().cuda()
    results = []
    for implementation in ("tinycudann", "torch"):
        own, own_x = rows.clone().requires_grad_(), x.clone().requires_grad_()
        out = hash_grid(own_x, own, SPEC, implementation)
        (slope,) = torch.autograd.grad(out.sin().sum(), own_x, create_graph=True)
        (out.square().sum() + slope.square().sum()).backward()
        results.append((out.detach(), slope.detach(), own.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_tinycudann_s_network_is_the_twin_to_half_precision():
    installed("tinycudann")
    x, layers = points().cuda()[:, [0, 1, 2, 0, 1]], [w.cuda() for w in weights()]
    torch.testing.assert_close(mlp.mlp(x, layers, "tinycudann"), mlp_torch(x, layers), rtol=2e-2, atol=2e-2)


def test_nerfacc_marches_and_composites_as_the_twin_does():
    installed("nerfacc")
    o, d = (each.cuda() for each in rays())
    here = Occupancy(grid().value.cuda(), grid().binary.cuda(), 1.0)
    a, b = (march(o, d, here, 0.05, implementation=i) for i in ("nerfacc", "torch"))
    assert torch.equal(a.packed, b.packed) and torch.equal(a.ray_index, b.ray_index)
    torch.testing.assert_close(a.t_start, b.t_start, rtol=1e-4, atol=1e-4)
    values = torch.rand(len(b), device="cuda")
    for function in (composite, composite_density):
        seen = [function(values, values[:, None], b, 1e-3, implementation=i) for i in ("nerfacc", "torch")]
        for one, other in zip(*seen, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vertices", [torch.float32, torch.float64])
def test_embree_meets_what_our_rays_meet(vertices):
    installed("embreex")
    mesh = box()
    turned = (
        0.4
        * mesh.vertices
        @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    )
    o, d = rays(400)
    ours = Tracer(turned, mesh.faces, "torch").cast(o, 2 * d)
    prefer_kernels("embreex")
    tracer = Tracer(turned.to(vertices), mesh.faces)
    face, t = tracer.cast(o.to(vertices), 2 * d.to(vertices))
    assert type(tracer.query).__module__.endswith("embree") == (vertices == torch.float32)
    assert face.dtype == torch.int64 and 0.2 < (face >= 0).double().mean() < 0.9
    assert torch.equal(face, ours[0])
    torch.testing.assert_close(t.float(), ours[1], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------- what they are handed, here


class Encoding(torch.nn.Module):
    """tinycudann's grid: vertices at (i - 1/2) / scale, resolution ceil(scale) + 1, rows in eights."""

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        assert n_input_dims == 3 and dtype is torch.float32
        assert encoding_config["interpolation"] == "Linear"
        base, growth = encoding_config["base_resolution"], encoding_config["per_level_scale"]
        self.scales = [base * growth**level - 1 for level in range(encoding_config["n_levels"])]
        self.features, most = (
            encoding_config["n_features_per_level"],
            2 ** encoding_config["log2_hashmap_size"],
        )
        self.sides = [math.ceil(scale) + 1 for scale in self.scales]
        self.rows = [min(-(-(side**3) // 8) * 8, most) for side in self.sides]
        self.params = torch.nn.Parameter(torch.zeros(sum(self.rows) * self.features))

    def forward(self, x):
        tables = self.params.view(-1, self.features).split(self.rows)
        return torch.cat(
            [self.level(x, *which) for which in zip(tables, self.scales, self.sides, strict=True)], -1
        )

    def level(self, x, rows, scale, side):
        position = x.double() * scale + 0.5
        cell, out = position.floor(), 0.0
        for corner in range(8):
            bits = torch.tensor([corner >> axis & 1 for axis in range(3)])
            weight = torch.where(bits == 1, position - cell, 1 - position + cell).prod(-1)
            out = out + weight[:, None].float() * rows[self.row(cell.long() + bits, side, len(rows))]
        return out

    def row(self, vertex, side, count):
        i, j, k = vertex.unbind(-1)
        if side**3 <= count:
            return (i + side * (j + side * k)) % count
        return (i * PRIMES[0] ^ j * PRIMES[1] ^ k * PRIMES[2]) % count


class Network(torch.nn.Module):
    """tinycudann's network: inputs padded to 16 with ones, outputs to 16, matrices (out, in) one after the other."""

    def __init__(self, n_input_dims, n_output_dims, network_config, seed=1337):
        super().__init__()
        width, self.outputs = network_config["n_neurons"], n_output_dims
        inner = [width] * network_config["n_hidden_layers"]
        self.sizes = [-(-n_input_dims // 16) * 16, *inner, -(-n_output_dims // 16) * 16]
        self.params = torch.nn.Parameter(torch.zeros(sum(a * b for a, b in zip(self.sizes, self.sizes[1:]))))

    def forward(self, x):
        x = torch.nn.functional.pad(x, (0, self.sizes[0] - x.shape[1]), value=1.0)
        shapes = list(zip(self.sizes[1:], self.sizes))
        layers = self.params.split([a * b for a, b in shapes])
        for i, (flat, shape) in enumerate(zip(layers, shapes, strict=True)):
            x = x @ flat.view(shape).T
            x = x.relu() if i < len(shapes) - 1 else x
        return x[:, : self.outputs].half()


def traverse_grids(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size):
    """nerfacc's: steps from the near plane on, kept where their middle is inside and occupied."""
    starts, index, counts = [], [], []
    low, high = aabbs[0, :3], aabbs[0, 3:]
    for ray, (o, d) in enumerate(zip(rays_o, rays_d)):
        edges = near_planes[ray] + step_size * torch.arange(200)
        middle = edges + step_size / 2
        x = (o + middle[:, None] * d - low) / (high - low)
        inside = ((x >= 0) & (x < 1)).all(-1) & (middle < far_planes[ray])
        cell = (x * binaries.shape[1]).long().clamp(0, binaries.shape[1] - 1)
        kept = edges[inside & binaries[0][cell[:, 0], cell[:, 1], cell[:, 2]]]
        starts.append(kept)
        index.append(torch.full((len(kept),), ray))
        counts.append(len(kept))
    start, count = torch.cat(starts), torch.tensor(counts)
    left = torch.tensor([True, False]).repeat(len(start))
    intervals = SimpleNamespace(
        vals=torch.stack([start, start + step_size], 1).flatten(), is_left=left, is_right=~left
    )
    packed = torch.stack([count.cumsum(0) - count, count], -1)
    return intervals, SimpleNamespace(ray_indices=torch.cat(index), packed_info=packed), None


def render_weight_from_alpha(alphas, packed_info=None, ray_indices=None, n_rays=None):
    reach = torch.ones_like(alphas)
    for first, count in packed_info.tolist():
        clear = (1 - alphas[first : first + count]).cumprod(0)
        reach[first : first + count] = torch.cat([torch.ones(1), clear])[:count]
    return alphas * reach, reach


def render_weight_from_density(t_starts, t_ends, sigmas, packed_info=None, ray_indices=None, n_rays=None):
    alphas = 1 - torch.exp(-sigmas * (t_ends - t_starts))
    return *render_weight_from_alpha(alphas, packed_info), alphas


def accumulate_along_rays(weights, values=None, ray_indices=None, n_rays=None):
    return torch.zeros(n_rays, values.shape[1]).index_add(0, ray_indices, weights[:, None] * values)


@pytest.fixture
def stand_ins(monkeypatch):
    packages = {
        "tinycudann": SimpleNamespace(Encoding=Encoding, Network=Network),
        "nerfacc": SimpleNamespace(
            traverse_grids=traverse_grids,
            render_weight_from_alpha=render_weight_from_alpha,
            render_weight_from_density=render_weight_from_density,
            accumulate_along_rays=accumulate_along_rays,
        ),
    }
    for module in (hash_grid_tinycudann, mlp, ray_march_nerfacc):
        monkeypatch.setattr(module, "load_accelerator", packages.__getitem__)


@pytest.mark.parametrize("vertices", ["corners", "tinycudann"])
def test_a_table_means_the_same_to_tinycudann(stand_ins, vertices):
    results, spec = [], replace(SPEC, vertices=vertices)
    for encode in (hash_grid_tinycudann.encode_tinycudann, hash_grid_torch):
        rows, x = table(spec).requires_grad_(), points().requires_grad_()
        out = encode(x, rows, spec)
        out.sin().sum().backward()
        results.append((out.detach(), rows.grad, x.grad))
    assert spec.dense == (True, True, False, False)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_layers_are_packed_as_tinycudann_reads_them(stand_ins):
    x, layers = points()[:, [0, 1, 2, 0, 1]], [w.requires_grad_() for w in weights()]
    out = mlp.mlp_fused(x, layers)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, mlp_torch(x, layers), rtol=2e-3, atol=2e-3)
    out.sum().backward()
    assert [w.grad.shape for w in layers] == [w.shape for w in layers]


def test_nerfacc_s_steps_are_ours(stand_ins):
    o, d = rays()
    ours = march(o, d, grid(), 0.05, torch.Generator().manual_seed(6), implementation="torch")
    from usd.kernels.ray_march import intersect_box

    enter, leave = intersect_box(o, d, 1.0, 0.0, 1e9)
    first = enter + torch.rand(len(enter), generator=torch.Generator().manual_seed(6)) * 0.05
    theirs = ray_march_nerfacc.march_nerfacc(o, d, grid(), 0.05, first, leave)
    assert torch.equal(theirs.packed, ours.packed) and torch.equal(theirs.ray_index, ours.ray_index)
    torch.testing.assert_close(theirs.t_start, ours.t_start)
    values = torch.rand(len(ours), generator=torch.Generator().manual_seed(7))
    for from_density, function in ((False, composite), (True, composite_density)):
        a = ray_march_nerfacc.composite_nerfacc(values, values[:, None], ours, 1e-3, from_density)
        for one, other in zip(a, function(values, values[:, None], ours, 1e-3, "torch"), strict=True):
            torch.testing.assert_close(one, other)


def test_another_layout_of_the_package_is_refused(stand_ins, monkeypatch):
    monkeypatch.setattr(Encoding, "forward", lambda self, x: x)
    with pytest.raises(ValueError, match=r"keeps 54 numbers where"):
        hash_grid_tinycudann.pad_rows(torch.zeros(27, 2), 54)


# ---------------------------------------------------------------------------------------------------- being chosen


@pytest.mark.parametrize("name", ACCELERATORS)
def test_one_that_is_not_there_is_one_line(name):
    if not ACCELERATORS[name].obstacle():
        pytest.skip(f"{name} is installed")
    with pytest.raises(UserError, match=f"kernels: .*{name}"):
        prefer_kernels(name)


def test_what_the_configuration_prefers_is_used_where_it_can_be(monkeypatch):
    monkeypatch.setattr(accelerators.Accelerator, "obstacle", lambda self: "")
    x = torch.zeros(2, 3)
    prefer_kernels(["nerfacc", "torch"])
    assert runtime.wants("march") == "nerfacc" and runtime.wants("hash_grid") is None
    assert runtime.accelerator_of("march", "auto", x) is None  # on a CPU our own serves
    assert runtime.choose("auto", x) == "torch"
    with pytest.raises(ValueError, match="nerfacc serves float32 tensors on CUDA only"):
        runtime.accelerator_of("march", "nerfacc", x)
    prefer_kernels("auto")
    assert runtime.choose("auto", x) == "warp"


def test_a_fused_network_has_the_plain_one_s_names_and_values():
    from usd.network.mlp import MLPConfig
    from usd.network.mlp import mlp as build

    plain, fused = build(5, 3, MLPConfig()), build(5, 3, MLPConfig(otype="FullyFusedMLP"))
    fused.load_state_dict(plain.state_dict())
    x = points()[:, [0, 1, 2, 0, 1]]
    torch.testing.assert_close(fused(x), plain(x))
    assert "hidden layers of one width" in mlp.fusion_obstacle([40, 3]) and not mlp.fusion_obstacle([64, 3])


def test_nvdiffrast_shows_what_our_rasterizer_shows():
    installed("nvdiffrast")
    from usd.kernels import rasterize_nvdiffrast
    from usd.kernels.rasterize import View, rasterize
    from usd.math.camera import orbit_cameras_deg

    mesh = box().to("cuda")
    cameras = orbit_cameras_deg(20.0, 30.0, 2.5, 50.0, 64).to("cuda")
    view = View(cameras, 0, 0, 64, 64)
    context = rasterize_nvdiffrast.rasterize_context("cuda", mesh.vertices.device)
    seen, _ = rasterize_nvdiffrast.rasterize_nvdiffrast(mesh.vertices, mesh.faces, view, context)
    ours = rasterize(Tracer(mesh.vertices, mesh.faces), view)
    both = set(seen.pixel.tolist()) & set(ours.pixel.tolist())
    assert len(both) > 0.98 * max(len(seen.pixel), len(ours.pixel))  # but for pixels that an edge crosses


def box():
    """A cube of side 1."""
    from usd.core.types import Mesh

    corners = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([f for a, b, c, d in sides for f in ((a, b, c), (a, c, d))])
    return Mesh(corners, faces)
