"""Backgrounds: deterministic without a generator, augmented from the generator alone."""

import pytest
import torch

from usd.background import Background
from usd.core.config import ConfigError, parse
from usd.core.registry import find

NAMES = ("solid-color-background", "neural-environment-map-background", "textured-background")


def background(name: str, **options: object) -> Background:
    torch.manual_seed(0)
    cls = find("background", name)
    return cls(parse(cls.Config, options, "system.background"))


def directions(n: int = 32) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_solid_color_is_what_was_asked_for() -> None:
    colors = background("solid-color-background", color=[0.2, 0.4, 0.6]).color(directions())
    assert torch.allclose(colors, torch.tensor([0.2, 0.4, 0.6]).expand(32, 3))


def test_a_learned_color_has_a_gradient_and_a_fixed_one_has_none() -> None:
    learned = background("solid-color-background", color=[0.5, 0.5, 0.5], learned=True)
    learned.color(directions()).sum().backward()
    assert [p.grad is not None for p in learned.parameters()] == [True]
    assert not background("solid-color-background").color(directions()).requires_grad


@pytest.mark.parametrize("name", NAMES[1:])
def test_an_environment_depends_on_the_direction_and_trains(name: str) -> None:
    room = background(name)
    colors = room.color(directions())
    assert colors.min() >= 0 and colors.max() <= 1 and colors.std(0).min() > 0
    colors.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in room.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_comes_from_the_generator_and_only_in_training(name: str) -> None:
    room = background(name, random_aug=True, random_aug_prob=1.0)
    first, again, other = (room.color(directions(), seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert (first == first[0]).all()
    plain = room.color(directions())
    assert torch.equal(room.eval().color(directions(), seeded(1)), plain)


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_happens_as_often_as_asked(name: str) -> None:
    room = background(name, random_aug=True, random_aug_prob=0.25)
    plain, generator = room.color(directions()), seeded(0)
    changed = sum(not torch.equal(room.color(directions(), generator), plain) for _ in range(400))
    assert 70 < changed < 130


def test_an_evaluation_color_is_used_only_when_evaluating() -> None:
    room = background("neural-environment-map-background", eval_color=[1.0, 0.0, 0.0])
    assert not torch.equal(room.color(directions())[0], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(room.eval().color(directions())[0], torch.tensor([1.0, 0.0, 0.0]))


def test_a_color_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"system\.background\.color: 255 is out of range"):
        background("solid-color-background", color=[255, 0, 0])


def test_a_texture_is_seen_where_its_texels_lie() -> None:
    """The upper half of the panorama is what looking up shows."""
    room = background("textured-background", height=8, width=8, color_activation="none")
    with torch.no_grad():
        room.texture[:4], room.texture[4:] = 1.0, 0.0
    up = torch.tensor([[0.0, 0.0, 1.0], [0.3, 0.1, 0.9], [0.5, -0.5, -0.9]])
    colors = room.color(torch.nn.functional.normalize(up, dim=-1))
    assert colors[:, 0].tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_latent_background_has_as_many_channels_as_its_latents(name: str) -> None:
    room = background(name, n_output_dims=4, random_aug=True, random_aug_prob=1.0)
    assert room.n_channels == 4
    assert room.color(directions()).shape == room.color(directions(), seeded(0)).shape == (32, 4)


def test_a_latent_color_may_be_any_number_but_has_its_channels() -> None:
    latent = background("solid-color-background", n_output_dims=4, color=[-3.0, 0.0, 1.5, 9.0])
    assert latent.color(directions(1)).tolist() == [[-3.0, 0.0, 1.5, 9.0]]
    assert background("solid-color-background", n_output_dims=4).color(directions(1)).tolist() == [[1.0] * 4]
    for name, key in (
        ("solid-color-background", "color"),
        ("neural-environment-map-background", "eval_color"),
    ):
        with pytest.raises(ConfigError, match=rf"system\.background\.{key}: has 3 numbers; expected 4"):
            background(name, n_output_dims=4, **{key: [0.0, 0.5, 1.0]})
