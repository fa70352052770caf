"""The background that lies somewhere: what rays meet behind the object's cube."""

import torch

from usd.background.contracted import ContractedBackground
from usd.core.config import parse
from usd.math.contraction import expand

OPTIONS = {
    "num_samples_per_ray": 96,
    "grid_resolution": 24,
    "pos_encoding_config": {"n_levels": 3, "log2_hashmap_size": 10, "base_resolution": 4},
}


def background(**options: object) -> ContractedBackground:
    torch.manual_seed(0)
    return ContractedBackground(parse(ContractedBackground.Config, {**OPTIONS, **options}))


def rays(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    d = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return torch.zeros(n, 3), torch.nn.functional.normalize(d, dim=-1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Shell(ContractedBackground):
    """An opaque wall at a distance from the origin, red towards +x."""

    wall = 3.0

    def _field(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = expand(y, self.config.radius)
        density = 100.0 * (x.norm(dim=-1) > self.wall)
        return density, torch.zeros(len(y), self.config.n_feature_dims)


def shell(**options: object) -> Shell:
    torch.manual_seed(0)
    return Shell(parse(Shell.Config, {**OPTIONS, **options}))


def test_a_wall_is_where_it_is() -> None:
    one, (o, d) = shell(num_samples_per_ray=512).eval(), rays()
    seen = one.behind(o, d)(torch.ones(64))
    assert seen.depth is not None and seen.samples is not None
    assert torch.allclose(seen.depth, torch.full((64,), 3.0), atol=0.05)
    # Places: from the cube, whose sides are at 1 to sqrt 3, half of the way to infinity is one radius further.
    assert 0.4 < float(seen.samples.t.min()) < 0.7
    closer = one.behind(o + 2.5 * d, d)(torch.ones(64))
    assert closer.depth is not None and torch.allclose(closer.depth, torch.full((64,), 0.5), atol=0.05)


def test_the_grid_learns_where_nothing_is_and_the_picture_stays() -> None:
    one, (o, d) = shell().eval(), rays()
    before = one.behind(o, d)(torch.ones(64))
    for step in range(0, 48, 16):
        one.update(step, seeded(step))
    after = one.behind(o, d)(torch.ones(64))
    assert float(one.occupancy.fraction) < 0.5
    assert torch.allclose(before.color, after.color, atol=1e-5)


def test_what_the_object_hides_is_not_looked_at() -> None:
    one, (o, d) = background().train(), rays()
    hidden = torch.ones(64)
    hidden[::2] = 0
    seen = one.behind(o, d, seeded())(hidden)
    assert seen.samples is not None and set((seen.samples.ray_index % 2).tolist()) == {1}
    assert seen.color.shape == (64, 3) and seen.depth is not None and seen.depth[::2].abs().max().item() == 0
    nothing = one.behind(o, d, seeded())(torch.zeros(64))
    assert nothing.samples is not None and len(nothing.samples.t) == 0


def test_every_weight_has_a_gradient_and_the_generator_is_the_only_randomness() -> None:
    one, (o, d) = background().train(), rays()
    first, again, other = (one.behind(o, d, seeded(s))(torch.ones(64)).color for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    first.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.parameters())
    one.eval()
    assert torch.equal(one.color(d, seeded(1)), one.color(d))


def test_parts_of_a_picture_are_worked_on_one_after_the_other() -> None:
    o, d = rays()
    with torch.no_grad():
        whole, parts = (background(eval_rays=n).eval().behind(o, d)(torch.ones(64)) for n in (64, 10))
    assert whole.depth is not None and parts.depth is not None
    assert torch.allclose(whole.color, parts.color, atol=1e-6) and torch.allclose(whole.depth, parts.depth)
