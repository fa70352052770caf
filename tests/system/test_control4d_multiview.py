"""Control4D, tiny and without its diffusion model: what learns from which level of guidance."""

import copy

import pytest
import torch

from usd.core.config import ConfigError, parse
from usd.data.multiview_camera import PictureBatch
from usd.dialects.threestudio import translate_threestudio
from usd.math.camera import Window, orbit_cameras_deg
from usd.system.control4d_multiview import (
    FREE,
    GUIDED,
    REBUILT,
    Control4DConfig,
    Control4DSystem,
    Discriminator,
)
from usd.system.optimizer import make_optimizer

SCENE = {
    "geometry": {"n_feature_dims": 5, "pos_encoding_config": {"n_levels": 2, "log2_hashmap_size": 8}},
    "material_type": "hybrid-rgb-latent-material",
    "material": {"n_output_dims": 5},
    "background": {"n_output_dims": 5, "color": [1, 1, 1, 0, 0]},
    "renderer_type": "gan-volume-renderer",
    "renderer": {"hidden_channels": 8, "global_codes": 4, "base_renderer": {"num_samples_per_ray": 8}},
    "prompt_processor_type": "stable-diffusion-prompt-processor",
    "discriminator_channels": 4,
}


def scene(**options: object) -> Control4DSystem:
    torch.manual_seed(0)
    system = Control4DSystem(parse(Control4DConfig, {**SCENE, **options}, "system"))
    torch.nn.init.normal_(system.renderer.generator.leave.weight, std=0.1)  # as it is when it has learned
    return system


@pytest.fixture(scope="module")
def batch() -> PictureBatch:
    cameras = orbit_cameras_deg([10.0, 20.0], [0.0, 90.0], 2.0, 40.0, 18)
    pictures = torch.rand(2, 3, 18, 18, generator=torch.Generator().manual_seed(1))
    return PictureBatch(cameras, None, "train", pictures=pictures, indices=torch.arange(2))


@pytest.mark.parametrize(
    ("level", "losses", "encoders"),
    [
        (REBUILT, {"l1", "kl", "G"}, {"local_encoder", "global_encoder"}),
        (GUIDED, {"l1", "G"}, {"global_encoder"}),
        (FREE, {"l1", "G"}, set()),
    ],
)
def test_each_level_teaches_the_scene_the_generator_and_those_encoders_that_it_uses(
    batch: PictureBatch, monkeypatch: pytest.MonkeyPatch, level: int, losses: set, encoders: set
) -> None:
    system = scene()
    monkeypatch.setattr(system, "level", lambda step: level)
    found = system.compute(batch, 3, torch.Generator().manual_seed(0))
    assert set(found) == losses
    torch.stack([*found.values()]).sum().backward()
    taught = {name for name, weight in system.named_parameters() if weight.grad is not None}
    assert {name.split(".")[1] for name in taught if "_encoder" in name} == encoders
    assert any(name.startswith("geometry") for name in taught)
    assert any(name.startswith("renderer.generator") for name in taught)
    assert not any(name.startswith("discriminator") for name in taught), "it learns by steps of its own"


def test_all_levels_come_equally_often() -> None:
    system = scene()
    counts = torch.bincount(torch.tensor([system.level(step) for step in range(600)]))
    assert len(counts) == 3 and int(counts.min()) > 150


def test_views_are_made_of_the_scene_alone_and_a_window_is_a_part_of_them(batch: PictureBatch) -> None:
    system = scene().eval()
    whole = system.renderer.render(batch.cameras, frozenset({"depth"}))
    part = system.renderer.render(batch.cameras, frozenset({"depth"}), window=Window(2, 3, 5, 4, 3, 2))
    assert whole.rgb.shape == (2, 3, 18, 18) and whole.depth is not None and part.depth is not None
    assert torch.equal(part.rgb, whole.rgb[..., 2:17:3, 3:11:2])
    assert torch.equal(part.depth, whole.depth[..., 2:17:3, 3:11:2])


def started(seed: int) -> Discriminator:
    torch.manual_seed(seed)
    judge = Discriminator(4)
    options = parse(
        Control4DConfig, {**SCENE, "optimizer_dis": {"name": "Adam", "args": {"lr": 0.01}}}, "system"
    )
    judge.requires_grad_(True)
    judge.optimizer = make_optimizer(torch.nn.ModuleDict({"discriminator": judge}), options.optimizer_dis)
    judge.requires_grad_(False)
    return judge


def test_a_discriminator_learns_and_goes_on_as_if_it_had_not_been_interrupted() -> None:
    judge, real, fake = started(0), torch.rand(4, 3, 16, 16), torch.zeros(4, 3, 16, 16)
    first = judge.learn(real, fake, 0, 1.0)
    for step in range(1, 20):
        last = judge.learn(real, fake, step, 1.0)
    assert last < 0.5 * first
    other = started(1)
    other.load_training_state(copy.deepcopy(judge.training_state()))
    assert judge.learn(real, fake, 20, 1.0) == other.learn(real, fake, 20, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), other.parameters(), strict=True))


def test_what_cannot_be_generated_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"renderer_type: nerf-volume-renderer has no generator"):
        scene(renderer_type="nerf-volume-renderer", renderer={})
    with pytest.raises(ConfigError, match=r"upscale: is 3; expected a power of two"):
        scene(renderer={"upscale": 3})
    with pytest.raises(ConfigError, match=r"background.n_output_dims: is 3; expected 5"):
        scene(background={})
    with pytest.raises(ConfigError, match=r"^system.optimizer_dis.args.lr: 0 trains nothing"):
        scene(optimizer_dis={"args": {"lr": 0.0}})


def test_threestudios_second_optimizer_has_a_place_of_its_own() -> None:
    second = {"name": "Adam", "params": {"renderer.discriminator": {"lr": 1e-5}}}
    system = {"optimizer": {"name": "Adam", "optimizer_dis": second}}
    found = translate_threestudio({"system_type": "control4d-multiview-system", "system": system}).values
    parts = found["system"]
    assert isinstance(parts, dict) and "optimizer_dis" not in parts["optimizer"]
    assert parts["optimizer_dis"]["params"] == {"discriminator": {"lr": 1e-5}}
