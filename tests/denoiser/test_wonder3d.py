"""Wonder3D against what its authors' code computed from the same random weights, and its parts against closed forms."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.denoiser.golden_models import GOLDEN, read_golden, read_large_golden, weights_of, write_wonder3d
from usd.core.errors import UserError
from usd.core.types import Render
from usd.denoiser import ViewGroupDenoiser, open_view_denoiser
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.latent import NetworkInput
from usd.denoiser.picture import resize_square
from usd.denoiser.rehearsal import RandomComponents
from usd.denoiser.weights import build, empty_network
from usd.denoiser.wonder3d import TASKS, VIEW_ANGLES, Wonder3DDenoiser, label_features
from usd.denoiser.wonder3d_unet import CrossDomainBlock, UNetMV2DConditionModel, plain_config
from usd.math.camera import orbit_cameras_deg
from usd.math.view_groups import wonder3d_cameras

REFERENCE = orbit_cameras_deg(20.0, 90.0, 1.5, 49.1, 64)
SMALL = ARCHITECTURES["wonder3d"].shrink()
GOLDEN_UNET = ARCHITECTURES["wonder3d"].configs["unet"] | {
    "sample_size": 16,
    "block_out_channels": [32, 32, 64, 64],
    "cross_attention_dim": 64,
}


@pytest.fixture(scope="module")
def block() -> tuple[CrossDomainBlock, dict[str, Tensor]]:
    """A transformer block with the weights of the original, and what that computed."""
    golden = read_golden("wonder3d_block.npz")
    network = UNetMV2DConditionModel.from_config(
        GOLDEN_UNET | {"block_out_channels": [64], "down_block_types": ["CrossAttnDownBlockMV2D"]}
        | {"up_block_types": ["CrossAttnUpBlockMV2D"]}
    )  # fmt: skip
    made = network.get_submodule("mid_block.attentions.0.transformer_blocks.0")
    made.load_state_dict(weights_of(golden), assign=True)
    assert isinstance(made, CrossDomainBlock)
    return made, golden


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Wonder3DDenoiser:
    """The published layout at tiny size, opened as any model is."""
    unet = SMALL.configs["unet"]
    weights = RandomComponents("wonder3d", SMALL).tensors("unet")
    opened = open_view_denoiser(str(write_wonder3d(tmp_path_factory.mktemp("wonder3d"), unet, weights)), "x")
    assert isinstance(opened, Wonder3DDenoiser) and isinstance(opened, ViewGroupDenoiser)
    return opened


@torch.no_grad()
def test_views_and_domains_attend_as_the_original_does(block) -> None:
    made, golden = block
    x = golden["in/block_h"]
    across_views, across_domains = made.attn1(made.norm1(x)), made.across_domains(made.norm_joint_mid(x))
    torch.testing.assert_close(across_views, golden["out/block_attn1"], atol=1e-4, rtol=0)
    torch.testing.assert_close(across_domains, golden["out/block_attn_joint_mid"], atol=1e-4, rtol=0)
    token = golden["in/clip_embed"].expand(12, -1, -1)
    whole = made(x, encoder_hidden_states=token)
    torch.testing.assert_close(whole, golden["out/block"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_other_objects_of_a_batch_change_nothing(block) -> None:
    made, golden = block
    x, tokens = golden["in/block_h"], torch.randn(12, 1, 64, generator=torch.Generator().manual_seed(0))
    twice = made(torch.cat([x, x.flip(0)]), encoder_hidden_states=torch.cat([tokens, tokens]))
    torch.testing.assert_close(twice[:12], made(x, encoder_hidden_states=tokens))
    assert not torch.allclose(twice[12:], twice[:12].flip(0)), "a row knows which domain it is of"


def test_the_labels_of_views_and_domains_are_the_published_ones() -> None:
    golden = read_golden("wonder3d_block.npz")
    labels = torch.tensor([(0.0, *angles, *task) for task in TASKS for angles in VIEW_ANGLES])
    torch.testing.assert_close(labels, golden["in/camera5"], atol=0, rtol=0)
    torch.testing.assert_close(label_features(labels), golden["out/camera10"], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_folder_of_the_originals_weights_predicts_what_the_original_did(tmp_path: Path) -> None:
    golden = read_large_golden("wonder3d_tiny.npz")
    opened = open_view_denoiser(str(write_wonder3d(tmp_path / "w", GOLDEN_UNET, weights_of(golden))), "x")
    assert isinstance(opened, Wonder3DDenoiser)
    x, t, uncond = golden["in/x"], golden["in/t"].expand(12), opened.unconditional(12)
    latent = golden["in/image_latent_scaled"].expand(12, -1, -1, -1)
    given = NetworkInput(golden["in/clip_embed"].expand(12, -1, -1), latent, uncond.time)
    torch.testing.assert_close(opened.eps(x, t, given), golden["out/eps"], atol=1e-4, rtol=0)
    torch.testing.assert_close(opened.eps(x, t, uncond), golden["out/eps_uncond"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_six_equal_views_that_ignore_the_other_domain_are_one_view_of_a_plain_unet(
    model: Wonder3DDenoiser,
) -> None:
    """A token that six rows hold six times each is read as if once; what is left is Stable Diffusion's UNet."""
    weights = {
        name: torch.zeros_like(x) if "attn_joint_mid.to_out" in name else x.float()
        for name, x in model.files.tensors("unet").items()
    }
    ours = build(
        "usd.denoiser.wonder3d_unet", "UNetMV2DConditionModel", SMALL.configs["unet"], weights, Path("x")
    )
    config = plain_config(SMALL.configs["unet"])
    plain = build("diffusers", "UNet2DConditionModel", config, weights, Path("x"))
    source = torch.Generator().manual_seed(0)
    x, token, label = (torch.randn(2, *shape, generator=source) for shape in ((8, 8, 8), (1, 32), (10,)))
    t, each = torch.full((12,), 401), torch.arange(12) // 6
    found = ours(x[each], t, encoder_hidden_states=token[each], class_labels=label[each]).sample
    expected = plain(x, t[:2], encoder_hidden_states=token, class_labels=label).sample
    torch.testing.assert_close(found, expected[each], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_picture_is_seen_at_256_pixels_and_its_scaled_latent_lies_beside_every_row(
    model: Wonder3DDenoiser,
) -> None:
    picture = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    reference = model.encode_reference(picture, REFERENCE)
    given = model.embed_view(reference, model.group_cameras(REFERENCE, 64))
    assert given.latent is not None and given.time is not None and given.tokens.shape == (12, 1, 32)
    scaled = model.latent_mode(picture) * 0.18215  # unlike Zero-1-to-3's, whose latent is not scaled
    torch.testing.assert_close(given.latent, scaled.expand(12, -1, -1, -1))
    encoder = model.image_encoder.on(picture.device)
    framed = resize_square(picture, model.latent.image_size)
    seen = encoder(model._clip_picture(framed)).image_embeds
    torch.testing.assert_close(given.tokens, seen[None].expand(12, -1, -1))
    uncond = model.unconditional(12)
    assert uncond.latent is not None and uncond.time is not None
    assert not uncond.tokens.any() and not uncond.latent.any() and torch.equal(uncond.time, given.time)


@torch.no_grad()
def test_chunks_are_whole_groups(model: Wonder3DDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.Generator().manual_seed(2)
    x, t = torch.randn(24, 4, 8, 8, generator=source), torch.full((24,), 300)
    together = model.eps(x, t, model.unconditional(24))
    monkeypatch.setattr(
        model, "_ranges", lambda count, group=1: [(i, i + group) for i in range(0, count, group)]
    )
    torch.testing.assert_close(model.eps(x, t, model.unconditional(24)), together, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="whole groups of 12"):
        model.unconditional(6)


def test_the_front_camera_looks_as_the_pictures_does_and_the_others_stand_about_its_upright() -> None:
    group = Wonder3DDenoiser.group_cameras(Wonder3DDenoiser.__new__(Wonder3DDenoiser), REFERENCE, 64)
    torch.testing.assert_close(group.c2w[0, :3, :3], REFERENCE.c2w[0, :3, :3], atol=1e-6, rtol=0)
    between = torch.linalg.inv(group.c2w[0]) @ group.c2w
    published = wonder3d_cameras(64)
    expected = torch.linalg.inv(published.c2w[0]) @ published.c2w
    torch.testing.assert_close(between, expected, atol=1e-6, rtol=0)
    assert group.span_y is not None and torch.equal(group.span_y, torch.full((6,), 1.35))


def test_other_cameras_are_refused_in_one_line(model: Wonder3DDenoiser) -> None:
    reference = model.encode_reference(torch.rand(1, 3, 64, 64), REFERENCE)
    for cameras in (orbit_cameras_deg(0.0, [0.0] * 6, 1.5, 49.1, 64), wonder3d_cameras(64, 80.0)):
        with pytest.raises(UserError, match=r"6 views.*view-group-datamodule with data.group wonder3d"):
            model.embed_view(reference, cameras)


def test_a_render_is_scored_as_normals_in_the_front_cameras_axes_and_as_colors(
    model: Wonder3DDenoiser,
) -> None:
    cameras, rgb = model.group_cameras(REFERENCE, 4), torch.rand(6, 3, 4, 4)
    towards = cameras.c2w[:1, :3, 2].expand(6, -1)  # all surfaces face the front camera
    opacity = torch.ones(6, 1, 4, 4)
    opacity[:, :, 0] = 0
    render = Render(rgb, opacity, normal=towards[:, :, None, None].expand(-1, -1, 4, 4))
    normals, colors = model.pictures(render, cameras).chunk(2)
    torch.testing.assert_close(colors, rgb)
    facing = torch.tensor([0.5, 0.5, 1.0]).view(3, 1, 1)
    torch.testing.assert_close(normals[:, :, 1:], facing.expand(6, -1, 3, 4), atol=1e-6, rtol=0)
    assert torch.equal(normals[:, :, 0], torch.ones(6, 3, 4)), "over white"
    with pytest.raises(UserError, match="makes 6 at a time"):
        model.pictures(render, cameras[:4])


def test_at_full_size_names_and_shapes_are_the_published_ones() -> None:
    text = gzip.decompress((GOLDEN / "wonder3d_published_unet_keys.txt.gz").read_bytes()).decode()
    published = {name: json.loads(size) for name, size in (line.split(" ", 1) for line in text.splitlines())}
    config = ARCHITECTURES["wonder3d"].configs["unet"]
    made = empty_network("usd.denoiser.wonder3d_unet", "UNetMV2DConditionModel", config).state_dict()
    assert {name: list(x.shape) for name, x in made.items()} == published and len(published) == 802
    assert sum(x.numel() for x in made.values()) == 910_785_284


def test_attention_that_was_not_published_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="cd_attention_last is True; expected False"):
        empty_network(
            "usd.denoiser.wonder3d_unet",
            "UNetMV2DConditionModel",
            SMALL.configs["unet"] | {"cd_attention_last": True},
        )
