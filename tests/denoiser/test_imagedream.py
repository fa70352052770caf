"""ImageDream against a computation that follows its description, on the tensors of a file in the published layout."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from tests.denoiser import published_models as published
from usd.core.errors import UserError
from usd.denoiser import ViewGroupDenoiser, open_student, open_view_denoiser
from usd.denoiser.architectures import ARCHITECTURES, CAMERAS, IMAGE_TOKENS
from usd.denoiser.components import MemoryComponents, network_class, open_components
from usd.denoiser.convert import convert
from usd.denoiser.imagedream import ImageDreamDenoiser
from usd.denoiser.mvdream import camera_numbers
from usd.denoiser.published import state_of
from usd.denoiser.weights import empty_network
from usd.math.camera import orbit_cameras_deg

REFERENCE = orbit_cameras_deg(10.0, 40.0, 1.5, 49.1, 16)
WIDTH, VISION_WIDTH, TOKENS = 64, 80, 16
UNET = "model.diffusion_model."


def write_imagedream(folder: Path, name: str) -> Path:
    """Write the published single file at tiny size, with the prefixes that its authors' code has."""
    vision = published.VISION | {"hidden_size": VISION_WIDTH, "image_size": 32, "hidden_act": "gelu"}
    unet = published.unet("sd2") | {"block_out_channels": [64, 128], "attention_head_dim": [1, 2]} | CAMERAS
    unet |= IMAGE_TOKENS | {"image_embedding_dim": VISION_WIDTH}
    configs = published.configs("sd2") | {"unet": unet, "image_encoder": vision}
    weights = {}
    for part in ("unet", "vae", "text_encoder", "image_encoder"):
        shapes = empty_network(*network_class(part, configs[part]), configs[part]).state_dict()
        kept = {key: x for key, x in shapes.items() if not key.endswith("position_ids")}
        weights[part] = published.random_like(kept, 0)
    state = state_of(MemoryComponents(configs, weights), "stable-diffusion-2", averaged=False)
    theirs = {"cond_stage_model.": "clip_model.", "first_stage_model.": "vae_model."}
    renamed = {}
    for key, x in state.items():
        prefix = next((p for p in theirs if key.startswith(p)), "")
        renamed[theirs.get(prefix, "") + key.removeprefix(prefix)] = x
    torch.save(renamed, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("imagedream")
    pixel = write_imagedream(folder, "sd-v2.1-base-4view-ipmv.pt")
    local = folder / "sd-v2.1-base-4view-ipmv-local.pt"
    shutil.copyfile(pixel, local)
    return {"pixel": pixel, "local": local}


@pytest.fixture(scope="module")
def pixel(files: dict[str, Path]) -> ImageDreamDenoiser:
    opened = open_view_denoiser(str(files["pixel"]), "x")
    assert (
        isinstance(opened, ImageDreamDenoiser) and isinstance(opened, ViewGroupDenoiser) and opened.is_pixel
    )
    return opened


@pytest.fixture(scope="module")
def stored(files: dict[str, Path]) -> dict[str, Tensor]:
    return {key.removeprefix(UNET): x for key, x in torch.load(files["pixel"]).items()}


def _norm(stored: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], stored[f"{name}.weight"], stored[f"{name}.bias"])


def _attended(q: Tensor, k: Tensor, v: Tensor, width: int = 64) -> Tensor:
    """Return what heads of 64 channels read, one after the other."""
    read = []
    for a in range(0, q.shape[-1], width):
        mine = slice(a, a + width)
        read.append(torch.softmax(q[..., mine] @ k[..., mine].mT / math.sqrt(width), -1) @ v[..., mine])
    return torch.cat(read, -1)


def _resampled(stored: dict[str, Tensor], patches: Tensor) -> Tensor:
    """Return the tokens of the description: learned queries read patches and themselves, four times."""
    head = "image_embed."
    x = linear(patches, stored[f"{head}proj_in.weight"], stored[f"{head}proj_in.bias"])
    tokens = stored[f"{head}latents"]
    for i in range(4):
        first, second = f"{head}layers.{i}.0.", f"{head}layers.{i}.1."
        own = _norm(stored, f"{first}norm2", tokens)
        both = torch.cat([_norm(stored, f"{first}norm1", x), own], 1)
        k, v = linear(both, stored[f"{first}to_kv.weight"]).chunk(2, -1)
        read = _attended(linear(own, stored[f"{first}to_q.weight"]), k, v)
        tokens = tokens + linear(read, stored[f"{first}to_out.weight"])
        hidden = gelu(linear(_norm(stored, f"{second}0", tokens), stored[f"{second}1.weight"]))
        tokens = tokens + linear(hidden, stored[f"{second}3.weight"])
    out = linear(tokens, stored[f"{head}proj_out.weight"], stored[f"{head}proj_out.bias"])
    return _norm(stored, f"{head}norm_out", out)


class _Described:
    """Attention of the description: over all views of a group, and to words and image tokens apart."""

    def __init__(self, views: int) -> None:
        self.views = views

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        x, context = hidden_states, encoder_hidden_states
        if context is None:
            joined = torch.stack([torch.cat(list(group)) for group in x.split(self.views)])
            out = attn.to_out[0](_attended(attn.to_q(joined), attn.to_k(joined), attn.to_v(joined)))
            return torch.cat([torch.stack(row.chunk(self.views)) for row in out])
        words, image = context[:, :-TOKENS], context[:, -TOKENS:]
        q = attn.to_q(x)
        read = _attended(q, attn.to_k(words), attn.to_v(words))
        return attn.to_out[0](read + _attended(q, attn.to_k_ip(image), attn.to_v_ip(image)))


@torch.no_grad()
def _expected(
    model: ImageDreamDenoiser, x: Tensor, t: Tensor, tokens: Tensor, camera: Tensor, views: int
) -> Tensor:
    unet = model.files.network("unet").float()
    unet.set_attn_processor(_Described(views))
    return unet(x, t, encoder_hidden_states=tokens, class_labels=camera).sample


def _inputs(model: ImageDreamDenoiser):
    source = torch.Generator().manual_seed(0)
    picture, x = torch.rand(1, 3, 32, 32, generator=source), torch.randn(8, 4, 8, 8, generator=source)
    reference = model.encode_reference(picture, REFERENCE)
    cameras = orbit_cameras_deg([10.0] * 4 + [25.0] * 4, [40.0, 130.0, 220.0, 310.0] * 2, 2.0, 40.0, 16)
    return reference, cameras, x, torch.tensor([700] * 4 + [30] * 4)


@torch.no_grad()
def test_the_pixel_variant_sees_the_picture_as_a_fifth_view(
    pixel: ImageDreamDenoiser, stored: dict[str, Tensor]
) -> None:
    reference, cameras, x, t = _inputs(pixel)
    given = pixel.embed_view(reference, cameras)
    nothing = pixel.with_cameras(pixel.unconditional(8), cameras, reference)
    zeros = _resampled(stored, torch.zeros(1, 17, VISION_WIDTH))
    torch.testing.assert_close(nothing.tokens[:1, -TOKENS:], zeros, atol=1e-5, rtol=1e-5)
    seen = reference.latent[..., :8, :8]  # the network takes latents of any size
    for whole, latent in ((given, seen), (nothing, torch.zeros_like(seen))):
        condition = dataclasses.replace(whole, latent=latent.expand(8, -1, -1, -1))
        assert whole.latent is not None and condition.time is not None
        assert torch.equal(whole.latent[..., :8, :8], condition.latent)
        for rows in (slice(0, 4), slice(4, 8)):
            five = torch.cat([x[rows], latent])
            camera = torch.cat([condition.time[rows], torch.zeros(1, 16)])
            tokens, times = condition.tokens[:1].expand(5, -1, -1), t[rows][:1].expand(5)
            expected = _expected(pixel, five, times, tokens, camera, 5)[:4]
            found = pixel.eps(x, t, condition)[rows]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_local_variant_sees_its_tokens_alone(files: dict[str, Path]) -> None:
    model = open_view_denoiser(str(files["local"]), "x")
    assert isinstance(model, ImageDreamDenoiser) and not model.is_pixel
    reference, cameras, x, t = _inputs(model)
    given = model.embed_view(reference, cameras)
    assert given.time is not None
    expected = _expected(model, x, t, given.tokens, given.time, 4)
    torch.testing.assert_close(model.eps(x, t, given), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_image_tokens_are_made_of_the_last_layer_but_one(
    pixel: ImageDreamDenoiser, stored: dict[str, Tensor]
) -> None:
    """The file's tower has two layers, of which one is read, in heads of 80 channels."""
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    tower = "clip_model.model.visual."
    assert f"{tower}transformer.resblocks.1.ln_1.weight" in stored
    x = torch.nn.functional.conv2d(pixel._clip_picture(picture), stored[f"{tower}conv1.weight"], stride=8)
    x = torch.cat([stored[f"{tower}class_embedding"][None, None], x.flatten(2).mT], 1)
    x = _norm(stored, f"{tower}ln_pre", x + stored[f"{tower}positional_embedding"])
    block = f"{tower}transformer.resblocks.0."
    stacked = linear(
        _norm(stored, f"{block}ln_1", x),
        stored[f"{block}attn.in_proj_weight"],
        stored[f"{block}attn.in_proj_bias"],
    )
    read = _attended(*stacked.chunk(3, -1), VISION_WIDTH)
    x = x + linear(read, stored[f"{block}attn.out_proj.weight"], stored[f"{block}attn.out_proj.bias"])
    hidden = linear(
        _norm(stored, f"{block}ln_2", x), stored[f"{block}mlp.c_fc.weight"], stored[f"{block}mlp.c_fc.bias"]
    )
    x = x + linear(gelu(hidden), stored[f"{block}mlp.c_proj.weight"], stored[f"{block}mlp.c_proj.bias"])
    found = pixel.encode_reference(picture, REFERENCE)
    torch.testing.assert_close(found.tokens, _resampled(stored, x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.latent, pixel.latent_mode(picture) * 0.18215)


def test_cameras_are_those_of_a_world_in_which_the_pictures_stands_at_minus_y(
    pixel: ImageDreamDenoiser,
) -> None:
    reference = pixel.encode_reference(torch.rand(1, 3, 32, 32), REFERENCE)
    group = pixel.group_cameras(REFERENCE, 16)
    given = pixel.embed_view(reference, group)
    published_ones = orbit_cameras_deg(5.0, [-90.0, 0.0, 90.0, 180.0], 1.0, 49.1, 16)
    assert given.time is not None
    torch.testing.assert_close(given.time, camera_numbers(published_ones), atol=1e-6, rtol=0)
    torch.testing.assert_close(group.spherical.azimuth[0].rad2deg(), torch.tensor(40.0), atol=1e-4, rtol=0)


def test_full_size_counts_follow_from_the_published_configuration() -> None:
    """MVDream's UNet, image keys and values in 16 blocks, and the resampler."""
    counts = ARCHITECTURES["imagedream"].parameters()
    widths = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] + [1280] * 3 + [640] * 3 + [320] * 3
    attention = sum(2 * 1024 * width for width in widths)
    inner = 12 * 64
    layer = 2 * 2 * 1024 + 1024 * inner * 3 + inner * 1024 + 2 * 1024 + 2 * 4 * 1024 * 1024
    resampler = 16 * 1024 + (1280 + 1) * 1024 + (1024 + 1) * 1024 + 2 * 1024 + 4 * layer
    assert counts["unet"] == ARCHITECTURES["mvdream"].parameters()["unet"] + attention + resampler


def test_it_has_no_student_and_no_other_single_file(
    pixel: ImageDreamDenoiser, files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="denoises its views together"):
        open_student(pixel, 4)
    with pytest.raises(UserError, match="ImageDreamUNet cannot be written as a single file"):
        convert(open_components(files["pixel"]), tmp_path / "out.safetensors")
