"""MVDream against a computation that follows its description, on the tensors of a file in the published layout."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from tests.denoiser import published_models as published
from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.registry import find
from usd.data import Data
from usd.denoiser import TextGroupDenoiser, open_group_denoiser, open_text_denoiser
from usd.denoiser.architectures import ARCHITECTURES, CAMERAS
from usd.denoiser.components import CLASSES, MemoryComponents
from usd.denoiser.entries import ModelEntry
from usd.denoiser.hub import files_to_fetch, missing_components
from usd.denoiser.mvdream import MVDreamDenoiser, camera_numbers
from usd.denoiser.published import state_of
from usd.denoiser.rehearsal import rehearsal
from usd.denoiser.sample import Sampler, sample_group
from usd.denoiser.weights import empty_network
from usd.math.camera import Cameras, orbit_cameras_deg

FRONT = orbit_cameras_deg(0.0, 90.0, 1.5, 49.1, 16)


def write_mvdream(folder: Path) -> Path:
    """Write the published single file at tiny size: tensors by the training code's names, and nothing around them."""
    unet = published.unet("sd2") | {"block_out_channels": [64, 128], "attention_head_dim": [1, 2]} | CAMERAS
    configs = published.configs("sd2") | {"unet": unet}
    weights = {
        name: published.random_like(empty_network(*CLASSES[name], configs[name]).state_dict(), 0)
        for name in ("unet", "vae", "text_encoder")
    }
    published.tokenizer(folder / "tokenizer")
    file = folder / "sd-v2.1-base-4view.pt"
    torch.save(state_of(MemoryComponents(configs, weights), "stable-diffusion-2", averaged=False), file)
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvdream(tmp_path_factory.mktemp("mvdream"))


@pytest.fixture(scope="module")
def model(file: Path) -> MVDreamDenoiser:
    opened = open_text_denoiser(str(file), "x")
    assert isinstance(opened, MVDreamDenoiser) and isinstance(opened, TextGroupDenoiser)
    return opened


class _Over4Views:
    """Attention of the description: a self-attention's rows (b f) l c become b (f l) c."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        x, context = hidden_states, encoder_hidden_states
        if context is None:
            x = context = torch.stack([torch.cat(list(group)) for group in x.split(4)])
        q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
        heads = [[each[..., a : a + 64] for each in (q, k, v)] for a in range(0, q.shape[-1], 64)]
        read = [torch.softmax(q @ k.transpose(1, 2) / 8, -1) @ v for q, k, v in heads]
        out = attn.to_out[0](torch.cat(read, -1))
        return torch.cat([torch.stack(row.chunk(4)) for row in out]) if len(out) < len(hidden_states) else out


@torch.no_grad()
def _described(
    file: Path, model: MVDreamDenoiser, x: Tensor, t: Tensor, tokens: Tensor, camera: Tensor
) -> Tensor:
    stored = {k.removeprefix("model.diffusion_model."): v for k, v in torch.load(file).items()}
    unet = model.files.network("unet").float()
    unet.set_attn_processor(_Over4Views())
    unet.class_embedding = None
    hidden = silu(linear(camera, stored["camera_embed.0.weight"], stored["camera_embed.0.bias"]))
    embedded = linear(hidden, stored["camera_embed.2.weight"], stored["camera_embed.2.bias"])
    unet.time_embedding.register_forward_hook(lambda _module, _inputs, time: time + embedded)
    return unet(x, t, encoder_hidden_states=tokens).sample


@torch.no_grad()
def test_views_attend_to_each_other_and_cameras_are_added_to_the_time(
    model: MVDreamDenoiser, file: Path
) -> None:
    source = torch.Generator().manual_seed(0)
    x, t = torch.randn(8, 4, 8, 8, generator=source), torch.tensor([700] * 4 + [30] * 4)
    cameras = orbit_cameras_deg(
        [10.0] * 4 + [25.0] * 4, [5.0, 95.0, 185.0, 275.0, 40.0, 130.0, 220.0, 310.0], 2.0, 40.0, 16
    )
    given = model.with_cameras(model.embed_text(["a red !"] * 8), cameras)
    expected = _described(file, model, x, t, given.tokens, camera_numbers(cameras))
    torch.testing.assert_close(model.eps(x, t, given), expected, atol=1e-4, rtol=1e-4)
    alone = model.eps(x[4:], t[4:], given.select(torch.arange(4, 8)))
    torch.testing.assert_close(alone, expected[4:], atol=1e-4, rtol=1e-4)
    nothing = model.with_cameras(model.unconditional(8), cameras)
    assert torch.equal(nothing.tensors()["time"], given.tensors()["time"]), "cameras stay without a sentence"
    assert not torch.equal(nothing.tensors()["tokens"], given.tokens)


def test_cameras_are_matrices_on_the_unit_sphere_as_published() -> None:
    """The published cameras by their own formula: y is up, and then z; the first stands at +x."""
    rows = []
    for azimuth in (90.0, 180.0, 270.0, 360.0):
        e, a = torch.deg2rad(torch.tensor(15.0)), torch.deg2rad(torch.tensor(azimuth))
        place = torch.stack([e.cos() * a.sin(), e.sin(), e.cos() * a.cos()])
        right = torch.linalg.cross(-place, torch.tensor([0.0, 1.0, 0.0]))
        right = right / right.norm()
        matrix = torch.eye(4)
        matrix[:3] = torch.stack([right, torch.linalg.cross(right, -place), place, place], 1)
        rows.append(torch.stack([matrix[0], -matrix[2], matrix[1], matrix[3]]).flatten())
    found = camera_numbers(MVDreamDenoiser.group_cameras(object.__new__(MVDreamDenoiser), _at(0.0), 16))
    torch.testing.assert_close(found, torch.stack(rows), atol=1e-6, rtol=0)
    torch.testing.assert_close(camera_numbers(_at(30.0, 3.0)), camera_numbers(_at(30.0)), atol=1e-6, rtol=0)


def _at(azimuth: float, distance: float = 1.5) -> Cameras:
    return orbit_cameras_deg(0.0, azimuth, distance, 49.1, 16)


def test_the_file_is_that_of_a_noise_predictor_at_256_pixels(model: MVDreamDenoiser) -> None:
    assert model.predicts == "epsilon" and model.group_size == 4 and model.latent.scaling_factor == 0.18215
    with rehearsal():
        stand_in = open_group_denoiser("mvdream", "x")
        assert isinstance(stand_in, MVDreamDenoiser)
    counts = ARCHITECTURES["mvdream"].parameters()
    assert counts["unet"] == 865_910_724 + (16 + 1) * 1280 + (1280 + 1) * 1280


def test_a_sentence_becomes_four_views_and_the_base_model_rectifies_them() -> None:
    with rehearsal():
        model, prior = open_group_denoiser("mvdream", "x"), open_text_denoiser("sd-2.1-base", "x")
        assert isinstance(model, MVDreamDenoiser)
        cameras = model.group_cameras(FRONT, 64)
        noise = [torch.Generator().manual_seed(0) for _ in range(2)]
        own, other = (
            sample_group(model, "a red chair", cameras, Sampler(2, 5.0), source, base)
            for source, base in zip(noise, (None, prior), strict=True)
        )
        assert own.shape == (4, 3, 64, 64) and bool(own.isfinite().all()) and not torch.equal(own, other)


def test_data_draws_random_cameras_with_those_at_quarter_turns() -> None:
    cls = find(Data, "view-group-datamodule")
    options = {"group": "mvdream", "height": 16, "width": 16, "batch_size": 2, "elevation_range": [0, 30]}
    data = cls(parse(cls.Config, options, "data"))
    first, later = (data.batch(step, torch.Generator().manual_seed(step)).cameras for step in (0, 1))
    assert len(first) == 8 and not torch.allclose(first.c2w, later.c2w)
    places = first.spherical
    turns = (places.azimuth.view(2, 4) - places.azimuth.view(2, 4)[:, :1]).rad2deg().remainder(360)
    expected = torch.tensor([0.0, 90, 180, 270]).expand(2, 4)
    torch.testing.assert_close(turns.where(turns < 359.9, 0.0), expected, atol=1e-2, rtol=0)
    for each in (places.elevation.view(2, 4), places.distance.view(2, 4)):
        torch.testing.assert_close(each, each[:, :1].expand(2, 4), atol=1e-5, rtol=0)


def test_an_alias_can_be_a_single_file_of_a_repository(tmp_path: Path) -> None:
    names = ["README.md", "a.pt", "b.pt", "unet/config.json"]
    assert files_to_fetch(names, ("./b.pt",)) == ["b.pt"]
    assert missing_components(tmp_path, ("./b.pt",)) == {"./b.pt": "b.pt"}
    (tmp_path / "b.pt").touch()
    assert not missing_components(tmp_path, ("./b.pt",))
    assert parse(ModelEntry, {"denoiser": "mvdream", "file": "b.pt"}, "x").file == "b.pt"


def test_other_models_have_no_group() -> None:
    with pytest.raises(UserError, match="has no cameras of its own"):
        open_group_denoiser("toybox-sd", "--model")
