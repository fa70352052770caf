"""Zero123++ against a computation that follows its description: attention processors, tiles and noise by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser import ViewGroupDenoiser, check_shared_latents, open_text_denoiser, open_view_denoiser
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.rehearsal import rehearsal, write_stand_in
from usd.denoiser.zero123plus import Zero123PlusDenoiser, from_tiles, processor, read_ramp, to_tiles
from usd.math.camera import orbit_cameras_deg
from usd.math.diffusion import linear_alphas_cumprod

REFERENCE = orbit_cameras_deg(10.0, 90.0, 1.5, 49.1, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Zero123PlusDenoiser:
    """The published layout at tiny size, opened as any model is."""
    place = write_stand_in(ARCHITECTURES["zero123plus"], tmp_path_factory.mktemp("plus") / "zero123plus-v1.2")
    opened = open_view_denoiser(str(place), "x")
    assert isinstance(opened, Zero123PlusDenoiser) and isinstance(opened, ViewGroupDenoiser)
    return opened


class _Processor:
    """A published attention processor: it writes the hidden states of a self-attention, or reads them beside its own."""

    def __init__(self, name: str, kept: dict[str, Tensor], mode: dict[str, str]) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self.name, self.kept, self.mode, self.inner = name, kept, mode, AttnProcessor()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        given = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.name.endswith("attn1.processor"):
            if self.mode["is"] == "write":
                self.kept[self.name] = given
            else:
                given = torch.cat([given, self.kept[self.name]], dim=1)
        return self.inner(attn, hidden_states, given, attention_mask)


@torch.no_grad()
def _published_eps(model: Zero123PlusDenoiser, x: Tensor, t: int, tokens: Tensor, latent: Tensor) -> Tensor:
    """Return the noise in one group of views, from the velocity that the UNet predicts in their tiles."""
    unet = model.files.network("unet").float().eval()
    kept: dict[str, Tensor] = {}
    mode = {"is": "write"}
    unet.set_attn_processor({name: _Processor(name, kept, mode) for name in unet.attn_processors})
    bar = linear_alphas_cumprod(1000, 0.00085, 0.012)[t]
    noise = model._noise(latent, torch.tensor([t]))
    time = torch.tensor([t])
    unet(bar.sqrt() * latent + (1 - bar).sqrt() * noise, time, encoder_hidden_states=tokens)
    mode["is"] = "read"
    side = x.shape[-1]
    tiled = torch.empty(1, 4, 3 * side, 2 * side)
    for i, view in enumerate(x):
        row, column = divmod(i, 2)
        tiled[0, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = view
    v = unet(tiled, time, encoder_hidden_states=tokens).sample
    eps = bar.sqrt() * v + (1 - bar).sqrt() * tiled
    places = [(i // 2 * side, i % 2 * side) for i in range(6)]
    return torch.stack([eps[0, :, a : a + side, b : b + side] for a, b in places])


@torch.no_grad()
def test_each_group_is_one_picture_whose_attention_reads_the_noisy_reference(
    model: Zero123PlusDenoiser,
) -> None:
    source = torch.Generator().manual_seed(0)
    picture, x = torch.rand(1, 3, 64, 64, generator=source), torch.randn(12, 4, 8, 8, generator=source)
    reference = model.encode_reference(picture, REFERENCE)
    condition = model.embed_view(reference, model.group_cameras(REFERENCE, 64))
    both = condition.select(torch.arange(12) % 6)
    t = torch.tensor([700] * 6 + [30] * 6)
    found = model.eps(x, t, both)
    for group, time in ((0, 700), (6, 30)):
        expected = _published_eps(model, x[group : group + 6], time, condition.tokens[:1], reference.latent)
        torch.testing.assert_close(found[group : group + 6], expected, atol=1e-4, rtol=1e-4)
    uncond = model.unconditional(6)
    assert uncond.latent is not None
    expected = _published_eps(model, x[:6], 700, uncond.tokens[:1], uncond.latent[:1])
    torch.testing.assert_close(model.eps(x[:6], t[:6], uncond), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokens_are_those_of_no_prompt_plus_a_ramp_of_the_pictures_embedding(
    model: Zero123PlusDenoiser,
) -> None:
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    reference = model.encode_reference(picture, REFERENCE)
    given, nothing = model.embed_view(reference, model.group_cameras(REFERENCE, 64)), model.unconditional(6)
    added = (given.tokens - nothing.tokens)[0]
    assert added.shape == (77, 32) and not added[0].any()
    torch.testing.assert_close(added[-1], reference.embedding[0])
    torch.testing.assert_close(added[38], reference.embedding[0] / 2)


@torch.no_grad()
def test_the_reference_of_no_condition_is_a_gray_picture_and_no_latent_is_scaled(
    model: Zero123PlusDenoiser,
) -> None:
    vae = model.files.network("vae").float()
    gray = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
    uncond = model.unconditional(6)
    assert uncond.latent is not None
    torch.testing.assert_close(uncond.latent, gray.expand(6, -1, -1, -1))
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    mode = vae.encode((picture - 0.5) / 0.8).latent_dist.mode()  # as its preprocessor_config.json says
    torch.testing.assert_close(model.encode_reference(picture, REFERENCE).latent, mode)


@torch.no_grad()
def test_latents_and_pictures_are_scaled_as_published(model: Zero123PlusDenoiser) -> None:
    vae, views = model.files.network("vae").float(), torch.rand(6, 3, 64, 64)
    rows = [torch.cat([views[i], views[i + 1]], 2) for i in (0, 2, 4)]
    picture = (2 * torch.cat(rows, 1)[None] - 1) * 0.5 / 0.8
    tiled = (vae.encode(picture).latent_dist.mode() * 0.18215 - 0.22) * 0.75
    z = model.encode(views)
    torch.testing.assert_close(to_tiles(z), tiled, atol=1e-5, rtol=1e-5)
    shown = vae.decode((tiled / 0.75 + 0.22) / 0.18215).sample / 0.5 * 0.8
    torch.testing.assert_close(to_tiles(model.decode(z)), (shown / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-5)
    alone = model.encode(views[:1])
    assert alone.shape == (1, 4, 8, 8) and not torch.allclose(alone, z[:1]), "one view is no tile of others"


def test_tiles_come_back() -> None:
    views = torch.rand(12, 3, 4, 4)
    tiled = to_tiles(views)
    assert tiled.shape == (2, 3, 12, 8) and torch.equal(tiled[1, :, 4:8, 4:], views[9])
    assert torch.equal(from_tiles(tiled), views)


def test_the_versions_have_their_published_cameras(tmp_path: Path) -> None:
    expected = {
        "zero123plus-1.1": ((30.0, -20.0), 49.13434264120263),
        "zero123plus-1.2": ((20.0, -10.0), 30.0),
    }
    made = write_stand_in(ARCHITECTURES["zero123plus"], tmp_path / "a")
    for name, place in (("zero123plus-1.1", "zero123plus-v1.1"), ("zero123plus-1.2", "anything")):
        opened = open_view_denoiser(str(made.rename(tmp_path / place)), "x")
        made = tmp_path / place
        assert isinstance(opened, Zero123PlusDenoiser) and opened.group == name
        cameras = opened.group_cameras(REFERENCE, 320)
        (high, low), fov = expected[name]
        place_of = cameras.spherical
        torch.testing.assert_close(
            place_of.elevation.rad2deg(), torch.tensor([high, low] * 3), atol=1e-4, rtol=0
        )
        turns = (place_of.azimuth.rad2deg() - 90).remainder(360)
        torch.testing.assert_close(turns, torch.tensor([30.0, 90, 150, 210, 270, 330]), atol=1e-3, rtol=0)
        torch.testing.assert_close(cameras.fov_y.rad2deg(), torch.full((6,), fov), atol=1e-4, rtol=0)
    span = cameras.spherical.distance[0] * torch.tan(cameras.fov_y[0] / 2)
    torch.testing.assert_close(span, torch.tensor(1.5 * 16 / 35), atol=1e-5, rtol=0)


def test_full_size_counts_are_those_published() -> None:
    counts = ARCHITECTURES["zero123plus"].parameters()
    assert counts == {
        "unet": 865_910_724,
        "vae": 83_653_863,
        "text_encoder": 340_387_840,
        "vision_encoder": 632_076_800,
    }


def test_stable_diffusion_has_other_latents_and_cannot_rectify_it(model: Zero123PlusDenoiser) -> None:
    with rehearsal():
        prior = open_text_denoiser("sd-2.1", "x")
        with pytest.raises(UserError, match="do not share a latent space"):
            check_shared_latents(model, prior, "--rectify")


def test_files_that_say_too_little_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"ramping_coefficients": ["a"]}')
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": 3}}')
    with pytest.raises(UserError, match="has no ramping_coefficients"):
        read_ramp(tmp_path / "model_index.json")
    with pytest.raises(UserError, match="says no size"):
        processor(tmp_path)
