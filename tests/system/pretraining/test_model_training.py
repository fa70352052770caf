"""Training the embedded family at tiny size: the pieces as theorems, and what is published loads through the denoisers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from lightning.pytorch import Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from usd.app.loop import Loop
from usd.core.config import ConfigError, parse
from usd.data.toybox import ToyboxData, held_out_views
from usd.denoiser import open_text_denoiser, open_view_denoiser
from usd.denoiser.group_attention import group_layers, learned_weights
from usd.denoiser.zero123_condition import CameraProjection, CameraProjectionConfig, rotate_pairs
from usd.denoiser.zero123_group import Zero123GroupDenoiser
from usd.math.diffusion import ddim_timesteps, eps_from_v, scaled_linear_alphas_cumprod
from usd.system.pretraining.autoencoder import AutoencoderSystem, fold_whitening
from usd.system.pretraining.clip import ClipSystem, contrastive
from usd.system.pretraining.diffusion_training import draw_timesteps, make_unet, noise_and_target
from usd.system.pretraining.elevation_training import ElevationSystem
from usd.system.pretraining.model_training import save_half
from usd.system.pretraining.novel_view import Condition, NovelView, NovelViewSystem, kept_conditions, widen
from usd.system.pretraining.text_to_image import TextToImageSystem, drop_caption
from usd.system.pretraining.view_group import ViewGroupSystem
from usd.system.pretraining.view_volume import ViewVolumeSystem
from usd.toybox import dataset
from usd.toybox.objects import normal_caption

OPTIMIZER = {"name": "AdamW", "args": {"lr": 1e-3}}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Convolutions(TorchDispatchMode):
    """Remembers every convolution, forwards and backwards, as (dims, smallest side, dtype)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, int, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "convolution" in func.__name__:
            maps = [
                x for x in (*args[:2], out) if isinstance(x, torch.Tensor)
            ]  # backwards: (gradient, input)
            maps = [x for x in maps if x is not args[1] or "backward" in func.__name__]  # forwards: no weight
            self.seen |= {(x.dim() - 2, min(x.shape[2:]), x.dtype) for x in maps}
        return out


CONVOLUTIONS: dict[str, Convolutions] = {}


class WatchedLoop(Loop):
    """A loop whose training steps, not its validations, are seen by ``CONVOLUTIONS``."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        name = Path(self.trainer.default_root_dir).name
        with CONVOLUTIONS.setdefault(name, Convolutions()):
            super().optimizer_step(*args, **kwargs)


def fitted(system: Any, data: ToyboxData, folder: Path) -> Any:
    """Two training steps, one validation, and what it publishes."""
    system.save_dir = folder / "save"
    trainer = Trainer(
        max_steps=2, val_check_interval=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(WatchedLoop(system, data))
    return system


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny family, each member trained two steps on the ones before."""
    home, patch = tmp_path_factory.mktemp("family"), pytest.MonkeyPatch()
    patch.setattr(dataset, "SHARD", 2)
    patch.setattr("usd.data.toybox.SHARD", 2)
    for sampler in ("text_to_image", "novel_view"):
        patch.setattr(f"usd.system.pretraining.{sampler}.ddim_timesteps", lambda steps: ddim_timesteps(2))
    options = {"n_toys": 4, "batch_size": 4, "cache": str(home / "cache"), "n_val_toys": 6, "val_views": 3}
    common = {"optimizer": OPTIMIZER}

    def data(**more: object) -> ToyboxData:
        return ToyboxData(parse(ToyboxData.Config, {**options, **more}, "data"))

    vae = AutoencoderSystem(parse(AutoencoderSystem.Config, {"channels": [16, 16, 16], **common}, "system"))
    fitted(vae, data(), home / "vae").publish(home / "stable-diffusion" / "vae")
    small = {"vision_layers": 1, "vision_width": 64, "text_width": 64, "text_layers": 1, "projection_dim": 32}
    clip = ClipSystem(parse(ClipSystem.Config, {**small, **common}, "system"))
    fitted(clip, data(), home / "clip").publish(home / "clip" / "out")
    folders = {"autoencoder": str(home / "stable-diffusion" / "vae")}
    text = {"channels": [64, 64], "text_encoder": str(home / "clip" / "out"), **folders, **common}
    sd = TextToImageSystem(parse(TextToImageSystem.Config, text, "system"))
    fitted(sd, data(normal_share=0.5, **folders), home / "sd").publish(home / "stable-diffusion")
    pairs = data(targets_per_reference=2, target_pictures=True, **folders)
    shape = {"features": 8, "coarse": 4, "coarse_channels": 8, "fine_channels": 4, "samples": 4, "head": 8}
    lift = ViewVolumeSystem(parse(ViewVolumeSystem.Config, {"volume": shape, **folders, **common}, "system"))
    fitted(lift, pairs, home / "lift").publish(home / "view_volume")
    view = {"start_from": str(home / "stable-diffusion"), "clip": str(home / "clip" / "out"), **common}
    view["volume"] = str(home / "view_volume")
    novel = NovelViewSystem(parse(NovelViewSystem.Config, view, "system"))
    fitted(novel, data(targets_per_reference=2, **folders), home / "zero123")
    novel.publish(home / "zero123" / "out")
    small = {"reader": {"picture": 16, "width": 8}, "rim_toys": 0, **common}
    fitted(ElevationSystem(parse(ElevationSystem.Config, small, "system")), data(), home / "elevation")
    patch.undo()
    torch.save(novel.state_dict(), home / "novel.pt")
    return home


def test_whitening_changes_the_latents_and_not_the_pictures() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 16), norm_num_groups=8, sample_size=16, mid_block_add_attention=False,
    ).eval()  # fmt: skip
    pictures = torch.rand(8, 3, 16, 16, generator=generator()) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
        before = vae.decode(latents).sample
        fold_whitening(vae, latents)
        white = vae.encode(pictures).latent_dist
        after = vae.decode(white.mode()).sample
    torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-4)
    flat = white.mode().double().permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(torch.cov(flat), torch.eye(4).double(), atol=1e-3, rtol=0)
    assert flat.mean(1).abs().max() < 1e-3
    assert white.std.max() < 1e-3


def test_a_published_model_does_not_say_where_it_was_read_from(tmp_path: Path) -> None:
    make_unet((64, 64), 4, 8, 32).save_pretrained(tmp_path / "first")
    again = UNet2DConditionModel.from_pretrained(tmp_path / "first")
    save_half(again, tmp_path / "second")
    assert str(tmp_path) not in (tmp_path / "second" / "config.json").read_text()
    stored = UNet2DConditionModel.from_pretrained(tmp_path / "second").state_dict()
    assert all(torch.equal(stored[key], value.half()) for key, value in again.state_dict().items())


def test_a_widened_unet_computes_what_it_did() -> None:
    torch.manual_seed(0)
    unet = make_unet((64, 64), 4, 8, 32).eval()
    wide = widen(unet, 4, 16).eval()
    x, extra, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32)
    t = torch.tensor([10, 700])
    with torch.no_grad():
        before = unet(x, t, encoder_hidden_states=tokens).sample
        told = torch.cat([x, extra], 1)
        after = wide(told, t, encoder_hidden_states=tokens, class_labels=torch.randn(2, 16)).sample
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("below", [1000, 500])
def test_conditions_are_dropped_in_their_shares_and_never_above_the_limit(below: int) -> None:
    given = {
        "drop_all": 0.2,
        "drop_tokens": 0.1,
        "drop_beside": 0.3,
        "drop_below": below,
        "optimizer": OPTIMIZER,
    }
    config = parse(NovelViewSystem.Config, given, "system")
    draw, t = torch.rand(20000, generator=generator()), torch.arange(20000) % 1000
    tokens, beside = kept_conditions(config, draw, t)
    low = t < below
    assert (tokens[~low] == 1).all() and (beside[~low] == 1).all()
    shares = [float(x[low].mean()) for x in (tokens, beside, tokens * beside, (1 - tokens) * (1 - beside))]
    assert shares == pytest.approx([0.7, 0.5, 0.4, 0.2], abs=0.02)


def test_a_frozen_conditional_path_gets_no_gradient_and_the_rest_does() -> None:
    torch.manual_seed(0)
    projection = CameraProjection(CameraProjectionConfig(embedding_dim=6, width=32))
    network = NovelView(widen(make_unet((64, 64), 4, 8, 32), 4, 0), projection)
    condition = Condition(torch.randn(2, 6), torch.randn(2, 3, 6), torch.randn(2, 4), torch.randn(2, 4, 8, 8))

    def learning() -> set[str]:
        network.zero_grad(set_to_none=True)
        network(torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), condition).square().mean().backward()
        return {name for name, p in network.named_parameters() if p.grad is not None}

    everything = learning()
    network.learn_condition(False)
    frozen = everything - learning()
    assert {name.split(".")[0] for name in everything} == {"unet", "projection"}
    assert {name for name in everything if name.startswith("projection.") or ".attn2." in name} < frozen
    assert {name for name in frozen if name.startswith("unet.") and "attn2" not in name} == {
        "unet.conv_in.weight", "unet.conv_in.bias",
    }  # fmt: skip
    network.learn_condition(True)
    assert learning() == everything


def test_turning_pairs_is_a_rotation_that_adds_up() -> None:
    pairs = torch.randn(3, 4, 5, 2, generator=generator())
    a, b = torch.tensor([0.3, -2.0, 3.0]), torch.tensor([1.0, 2.5, 1.5])
    twice = rotate_pairs(rotate_pairs(pairs, a.sin(), a.cos()), b.sin(), b.cos())
    torch.testing.assert_close(twice, rotate_pairs(pairs, (a + b).sin(), (a + b).cos()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(twice.norm(dim=-1), pairs.norm(dim=-1))


def test_a_steered_projection_sees_the_sum_of_read_and_relative_azimuth() -> None:
    """With features (cos a, sin a) of the embedding, what leaves the turn depends on a + difference only."""
    config = CameraProjectionConfig(embedding_dim=8, width=16, type="steered", harmonics=1, channels=1)
    projection = CameraProjection(config)
    read = torch.tensor([0.4, 1.0])
    difference = torch.tensor([1.1, 0.5])
    pairs = torch.stack([read.cos(), read.sin()], -1)[:, None, None]
    turned = rotate_pairs(pairs, difference.sin(), difference.cos())
    torch.testing.assert_close(turned[0], turned[1])
    tokens, time = projection(torch.randn(2, 8), None, torch.randn(2, 4))
    assert tokens.shape == (2, 1, 16)
    assert time is None


def test_turned_features_started_from_a_view_reader_say_the_targets_azimuth() -> None:
    """Whatever the phase of a channel, reading plus difference is all that enters it."""
    config = CameraProjectionConfig(embedding_dim=6, width=8, type="steered", harmonics=3, channels=4)
    projection = CameraProjection(config)
    azimuth = torch.tensor([0.7, -1.2])
    waves = [f(k * azimuth) for k in (1, 2, 3) for f in (torch.sin, torch.cos)]
    projection.read_view_from({"weight": torch.eye(7, 6), "bias": torch.zeros(7)})
    pairs = projection.turn(torch.stack(waves, -1)).unflatten(-1, (3, 4, 2))
    difference = torch.tensor([0.5, 0.5 + 1.9])
    turned = rotate_pairs(pairs, difference.sin(), difference.cos())
    torch.testing.assert_close(turned[0], turned[1], atol=1e-5, rtol=1e-5)
    first = torch.stack([torch.cos(azimuth + difference), torch.sin(azimuth + difference)], -1)
    torch.testing.assert_close(turned[:, 0, 0], first, atol=1e-5, rtol=1e-5)


def test_the_target_of_noised_inverts_to_the_noise() -> None:
    x0, t = torch.randn(5, 4, 8, 8, generator=generator()), torch.tensor([0, 100, 500, 800, 999])
    xt, v = noise_and_target(x0, t, generator(1))
    eps = eps_from_v(xt, v, scaled_linear_alphas_cumprod(), t)
    noise = torch.randn(x0.shape, generator=generator(1))
    torch.testing.assert_close(eps, noise, atol=1e-4, rtol=1e-4)


def test_timesteps_favour_high_noise_by_the_share() -> None:
    t = draw_timesteps(20000, 0.5, generator(), "cpu")
    assert abs((t >= 450).float().mean().item() - (0.5 + 0.5 * 0.55)) < 0.02
    assert t.min() < 10
    assert t.max() > 990


def test_contrastive_loss_of_matching_pairs_is_small() -> None:
    one_hot = torch.eye(8)
    loss, hits = contrastive(one_hot, one_hot, torch.tensor(50.0))
    assert loss < 1e-3
    assert hits == 1.0
    wrong, misses = contrastive(one_hot, one_hot.roll(1, 0), torch.tensor(50.0))
    assert wrong > 10
    assert misses == 0.0


def test_what_training_publishes_is_what_the_denoiser_computes(family: Path) -> None:
    """The novel-view network inside training, and the published folder through the public path, agree."""
    model: Any = open_view_denoiser(str(family / "zero123" / "out"), "test")
    view = {
        "start_from": str(family / "stable-diffusion"),
        "clip": str(family / "clip" / "out"),
        "volume": str(family / "view_volume"),
        "bf16": False,
    }
    system = NovelViewSystem(parse(NovelViewSystem.Config, {**view, "optimizer": OPTIMIZER}, "system"))
    system.load_state_dict(torch.load(family / "novel.pt", weights_only=True))
    views = held_out_views(range(1_000_000, 1_000_001), 3)
    assert views.pictures is not None
    reading = model.encode_reference(views.pictures[:1], views.cameras[[0]])
    told = model.embed_view(reading, views.cameras[[1, 2]])
    x, t = torch.randn(2, 4, 16, 16, generator=generator()), torch.tensor([100, 800])
    latents = model.latent_mode(views.pictures[:1])
    condition = system.condition(views.pictures[:1], latents, views.cameras[[0]], views.cameras[[1, 2]])
    with torch.no_grad():
        said = system.average(x, t, condition)
        nothing = system.average(x, t, condition, torch.zeros(2), torch.zeros(2))
    alphas = scaled_linear_alphas_cumprod()
    close = {"atol": 2e-2, "rtol": 2e-2}  # the folder holds float16
    torch.testing.assert_close(model.eps(x, t, told), eps_from_v(x, said, alphas, t), **close)
    torch.testing.assert_close(
        model.eps(x, t, model.unconditional(2)), eps_from_v(x, nothing, alphas, t), **close
    )


def test_views_of_a_group_are_trained_beside_the_single_ones_and_open_as_a_model(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the layers across views learn, and the published folder through the public path computes the same."""
    monkeypatch.setattr(dataset, "SHARD", 2)
    monkeypatch.setattr("usd.data.toybox.SHARD", 2)
    folder = Path(shutil.copytree(family / "zero123" / "out", tmp_path / "model"))
    options = {"n_toys": 2, "first_toy": 2, "batch_size": 4, "targets_per_reference": 2, "around": True}
    options |= {"autoencoder": str(family / "stable-diffusion" / "vae"), "cache": str(family / "cache")}
    options |= {"n_val_toys": 2, "val_views": 3}
    view = {"start_from": str(folder), "clip": str(family / "clip" / "out"), "views": 2, "bf16": False}
    view |= {"volume": str(family / "view_volume"), "optimizer": OPTIMIZER}
    with pytest.raises(ConfigError, match="drop_"):
        parse(ViewGroupSystem.Config, view, "system")
    view |= {"drop_all": 0, "drop_tokens": 0, "drop_beside": 0}
    system = ViewGroupSystem(parse(ViewGroupSystem.Config, view, "system"))
    fitted(system, ToyboxData(parse(ToyboxData.Config, options, "data")), tmp_path).publish(folder)
    single = UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    trained = {name.replace(".own.", "."): x for name, x in system.network.unet.state_dict().items()}
    assert all(torch.equal(trained[name], x) for name, x in single.items())
    assert all(float(x.abs().max()) > 0 for x in learned_weights(group_layers(system.network.unet)).values())

    model = Zero123GroupDenoiser(parse(Zero123GroupDenoiser.Config, {"folder": str(folder)}, "test"))
    views = held_out_views(range(1_000_000, 1_000_001), 3)
    assert views.pictures is not None
    reading = model.encode_reference(views.pictures[:1], views.cameras[[0]])
    x, t = torch.randn(2, 4, 16, 16, generator=generator()), torch.tensor([700, 700])
    latents, others = model.latent_mode(views.pictures[:1]), views.cameras[[1, 2]]
    condition = system.condition(views.pictures[:1], latents, views.cameras[[0]], others)
    alphas, close = scaled_linear_alphas_cumprod(), {"atol": 2e-2, "rtol": 2e-2}
    with torch.no_grad():
        said = system.average(x, t, condition)
        nothing = system.average(x, t, condition, torch.zeros(2), torch.zeros(2))
    torch.testing.assert_close(
        model.eps(x, t, model.embed_view(reading, others)), eps_from_v(x, said, alphas, t), **close
    )
    torch.testing.assert_close(
        model.eps(x, t, model.unconditional(2)), eps_from_v(x, nothing, alphas, t), **close
    )


def test_no_training_computes_small_3d_convolutions_in_bfloat16(family: Path) -> None:
    """oneDNN's weight gradient at 2 x 2 x 2 voxels is wrong on processors with AVX-512 but without AMX."""
    trainings = ("vae", "clip", "sd", "lift", "zero123", "elevation")
    small = {
        name: {(side, d) for n, side, d in CONVOLUTIONS[name].seen if n == 3 and side < 3}
        for name in trainings
    }
    assert {d for found in small.values() for _, d in found} == {torch.float32}
    assert {side for side, _ in small["lift"]} == {1, 2}, "this size of the network must meet them"
    assert (3, 8, torch.bfloat16) in CONVOLUTIONS["lift"].seen, "large ones are still fast"
    assert all(torch.bfloat16 in {d for _, _, d in CONVOLUTIONS[name].seen} for name in trainings)


def test_the_published_text_model_loads(family: Path) -> None:
    model: Any = open_text_denoiser(str(family / "stable-diffusion"), "test")
    x = torch.randn(2, 4, 16, 16, generator=generator())
    eps = model.eps(x, torch.tensor([10, 900]), model.embed_text(["a red car", ""]))
    assert torch.isfinite(eps).all()
    assert model.latent.channels == 4


def test_the_view_is_part_of_the_condition_of_every_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets belong to their reference's toy, and a batch is a pure function of its generator."""
    monkeypatch.setattr(dataset, "SHARD", 2)
    monkeypatch.setattr("usd.data.toybox.SHARD", 2)
    options = {"n_toys": 6, "batch_size": 6, "targets_per_reference": 3, "cache": str(tmp_path)}
    data = ToyboxData(parse(ToyboxData.Config, options, "data"))
    batch, again = data.batch(0, generator(5)), data.batch(0, generator(5))
    assert torch.equal(batch.reference.pictures, again.reference.pictures)
    assert torch.equal(batch.target.cameras.c2w, again.target.cameras.c2w)
    assert batch.target.captions == [c for c in batch.reference.captions for _ in range(3)]


def test_the_training_split_never_reaches_the_test_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test split"):
        dataset.build_shard(tmp_path, 1_000_000 // dataset.SHARD, 0.1)


def test_cameras_of_training_see_the_toy_from_all_around() -> None:
    cameras = dataset.training_cameras(np.random.default_rng(0))
    turned = cameras[dataset.REFERENCES :].spherical
    gaps = turned.azimuth.sort().values.diff()
    assert gaps.max() < 1.7


def test_the_empty_caption_is_of_pictures_only():
    assert drop_caption("a red car", True) == ""
    assert drop_caption("a red car", False) == "a red car"
    assert drop_caption(normal_caption("a red car"), True) == normal_caption("a red car")
