"""SyncDreamer against what its authors' code computed from the same random weights (golden/, at tiny size)."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.denoiser.golden_models import GOLDEN, read_golden, write_syncdreamer
from usd.core.errors import UserError
from usd.denoiser import ViewGroupDenoiser, open_view_denoiser
from usd.denoiser.components import open_components
from usd.denoiser.convert import convert
from usd.denoiser.layouts import (
    CLIP,
    SYNCDREAMER_CLIP,
    UNET,
    autoencoder_table,
    camera_projection_table,
    clip_vision_table,
    unet_table,
    with_zero123_names,
)
from usd.denoiser.single_file import autoencoder_config, unet_config, vision_config
from usd.denoiser.syncdreamer import SyncDreamerDenoiser
from usd.denoiser.syncdreamer_volume import DepthConditions, VolumeNetworks, frustum_places
from usd.denoiser.weights import empty_network
from usd.math.camera import orbit_cameras_deg
from usd.math.view_groups import opencv_world_to_camera, syncdreamer_cameras

REFERENCE = orbit_cameras_deg(20.0, 90.0, 1.5, 49.1, 256)
VIEWS = [0, 3, 9, 15]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_golden("syncdreamer_tiny.npz")


@pytest.fixture(scope="module")
def model(golden: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> SyncDreamerDenoiser:
    """The published layout at tiny size, opened as any model is."""
    file = write_syncdreamer(golden, tmp_path_factory.mktemp("syncdreamer"))
    opened = open_view_denoiser(str(file), "x")
    assert isinstance(opened, SyncDreamerDenoiser) and isinstance(opened, ViewGroupDenoiser)
    return opened


def _near(found: Tensor, expected: Tensor) -> None:
    """Compare at 1e-4, of the largest value where that exceeds 1 (frustum features reach 6.6)."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=0)


def test_the_cameras_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    poses = golden["state_dict/poses"].float()
    torch.testing.assert_close(opencv_world_to_camera(syncdreamer_cameras()), poses, atol=1e-6, rtol=0)
    focal = syncdreamer_cameras().focal_px
    torch.testing.assert_close(focal, golden["state_dict/Ks"][:, 0, 0].float(), atol=1e-3, rtol=0)


@torch.no_grad()
def test_conditions_volume_and_noise_are_the_originals(
    model: SyncDreamerDenoiser, golden: dict[str, Tensor]
) -> None:
    x, t = golden["in/x"][0], golden["in/t"].expand(16)
    reference = model.encode_reference(golden["in/picture"].float(), REFERENCE)
    _near(reference.embedding, golden["out/clip_embed"][0])
    _near(reference.latent * model.latent.scaling_factor, golden["out/x_input"])
    condition = model.embed_view(reference, model.group_cameras(REFERENCE, 256))
    assert condition.pose is not None
    _near(condition.pose, golden["out/v_embed"][0])
    _near(condition.tokens[VIEWS], golden["out/cc_token"])
    networks = model.networks.on(x.device)
    _near(networks.embed_time(t[:1]), golden["out/t_embed"])
    cube = networks.lift(x, t[:1], condition.pose)
    _near(cube[..., ::2, ::2, ::2], golden["out/volume_sub"])
    places = frustum_places(32)[VIEWS].movedim(-1, 1)[:, :, ::12, ::8, ::8]
    _near(places, golden["out/frustum_xyz_sub"])
    frustum = networks.frustum(cube, torch.tensor(VIEWS), t[:1], condition.pose[VIEWS], 32)
    _near(frustum[8], golden["out/frustum_8"])
    _near(frustum[4], golden["out/frustum_4"])
    _near(frustum[16][1:2, :, ::2, ::2, ::2], golden["out/frustum_16_view1_sub"])
    _near(frustum[32][1:2, :, ::4, ::2, ::2], golden["out/frustum_32_view1_sub"])
    cond, uncond = (model.eps(x, t, given)[VIEWS] for given in (condition, model.unconditional(16)))
    torch.testing.assert_close(cond, golden["out/eps"], atol=1e-4, rtol=0)
    torch.testing.assert_close(uncond + 2 * (cond - uncond), golden["out/eps_cfg2"], atol=1e-4, rtol=0)


def test_other_cameras_are_refused_in_one_line(model: SyncDreamerDenoiser, golden: dict[str, Tensor]) -> None:
    reference = model.encode_reference(golden["in/picture"].float(), REFERENCE)
    with pytest.raises(UserError, match="view-group-datamodule") as caught:
        model.embed_view(reference, syncdreamer_cameras(64, 80.0))
    assert "\n" not in str(caught.value)


def test_at_full_size_names_and_shapes_are_the_published_ones() -> None:
    """Networks made from the published shapes, without memory, hold every published weight and no other."""
    lines = gzip.decompress((GOLDEN / "syncdreamer_published_keys.txt.gz").read_bytes()).decode().splitlines()
    sizes = {name: json.loads(size) for name, size in (line.split(" ", 1) for line in lines)}
    published = {name: torch.empty(size, device="meta") for name, size in sizes.items()}
    stored, place = with_zero123_names(published), Path("x")
    configs = {"unet": unet_config(stored, {}, place), "vae": autoencoder_config(stored, {}, place)}
    unet = empty_network("diffusers", "UNet2DConditionModel", configs["unet"]).state_dict()
    vae = empty_network("diffusers", "AutoencoderKL", configs["vae"]).state_dict()
    vision = empty_network(
        "transformers", "CLIPVisionModelWithProjection", vision_config(stored, place)
    ).state_dict()
    weights = [name for name in vision if not name.endswith("position_ids")]
    tables = [
        unet_table(unet, configs["unet"]),
        autoencoder_table(vae, configs["vae"]),
        clip_vision_table(weights),
    ]
    ours = {origin.name for table in (*tables, camera_projection_table()) for origin in table.values()}
    with torch.device("meta"):
        bare = {name.removeprefix(UNET): x for name, x in published.items()}
        volume, conditions = VolumeNetworks(published).state_dict(), DepthConditions(bare).state_dict()
    added = {**volume, **{UNET + name: x for name, x in conditions.items()}}
    assert {name: x.shape for name, x in added.items()} == {name: published[name].shape for name in added}
    for table, network in zip(tables, (unet, vae, vision), strict=True):
        for name, origin in table.items():
            assert origin.read(stored).shape == network[name].shape, name
    unread = set(stored) - ours - set(added)
    text = {f"{CLIP}{n}" for n in ("positional_embedding", "text_projection", "logit_scale")}
    text |= {
        n
        for n in unread
        if n.startswith((f"{CLIP}transformer.", f"{CLIP}token_embedding", f"{CLIP}ln_final"))
    }
    buffers = {n for n in unread if "." not in n}
    assert unread == text | buffers and not (ours | set(added)) - set(stored)
    assert len(published) == 1618 and any(name.startswith(SYNCDREAMER_CLIP) for name in published)


def test_it_is_not_converted_into_a_model_without_its_volume(golden, tmp_path):
    file = write_syncdreamer(golden, tmp_path)
    with pytest.raises(UserError, match="SyncDreamer has one published form"):
        convert(open_components(file), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
