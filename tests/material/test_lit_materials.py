"""Materials with light: closed forms in a uniform room, limits, and randomness from the generator alone."""

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.registry import find
from usd.material import Material
from usd.material.environment import Environment, decode_radiance, prefilter, read_panorama, studio_panorama
from usd.material.pbr import environment_brdf, tangent_frame, tilt_normals
from usd.math.color import linear_from_srgb, srgb_from_linear

LIT, PBR = "diffuse-with-point-light-material", "pbr-material"


def made(name: str, **options: object) -> Material:
    cls = find("material", name)
    return cls(parse(cls.Config, options, "system.material"))


def unit(n: int = 40, seed: int = 0) -> Tensor:
    draw = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(draw, dim=-1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------------- one light


def test_seen_straight_on_the_color_is_the_albedo() -> None:
    """A light at the camera, 0.9 + 0.1: what the exporter bakes is what was learned."""
    material, normals, features = made(LIT).eval(), unit(), torch.randn(40, 3)
    assert torch.allclose(material.color(features, 0.3 * normals, -normals, normals), features.sigmoid())
    assert torch.allclose(material.bake(features, normals, normals).color, features.sigmoid())


def test_the_albedo_alone_is_tested_where_asked() -> None:
    material, normals, features = made(LIT, ambient_only_on_test=True).eval(), unit(), torch.randn(40, 3)
    sideways = unit(seed=5)
    assert torch.equal(material.color(features, normals, sideways, normals), features.sigmoid())


def test_shade_falls_with_the_cosine_and_ends_at_the_ambient_light() -> None:
    material, normals = made(LIT).eval(), unit()
    features = torch.full((40, 3), 20.0)
    away = unit(seed=1)
    cosine = (normals * -away).sum(1).clamp_min(0)
    colors = material.color(features, normals, away, normals)
    assert torch.allclose(colors, (0.1 + 0.9 * cosine)[:, None].expand(-1, 3), atol=1e-5)


def test_a_light_that_came_with_the_camera_shines_from_its_own_position() -> None:
    """Lambert's law about that position, whatever this step's own light; the same one for a light at the camera."""
    material = made(LIT, ambient_only_steps=0, diffuse_prob=1.0, textureless_prob=1.0).train()
    material.update(3, seeded())
    points, normals, features = 0.3 * unit(), unit(), torch.randn(40, 3)
    lights = 1.2 * unit(seed=2)
    toward = torch.nn.functional.normalize(lights - points, dim=-1)
    expected = 0.1 + 0.9 * (normals * toward).sum(-1, keepdim=True).clamp_min(0)
    lit = material.lit_color(features, points, unit(seed=3), normals, lights)
    assert torch.allclose(lit, expected.expand(-1, 3), atol=1e-5)
    own = material.lit_color(features, points, unit(seed=3), normals, None)
    assert torch.equal(own, material.color(features, points, unit(seed=3), normals))
    assert not torch.allclose(own, lit, atol=1e-2)


def test_materials_without_a_lamp_do_not_mind_one() -> None:
    material, features = made("no-material").eval(), torch.randn(40, 3)
    lit = material.lit_color(features, unit(), unit(), None, unit())
    assert torch.equal(lit, material.color(features, unit(), unit(), None))


def test_training_starts_with_the_albedo_and_then_shows_all_three() -> None:
    material, features, normals = made(LIT, ambient_only_steps=5).train(), torch.randn(40, 3), unit()
    generator, seen = seeded(), set()
    for step in range(60):
        material.update(step, generator)
        assert step >= 5 or material.shading == "albedo"
        seen.add(material.shading)
        colors = material.color(features, 0.4 * normals, -unit(seed=2), normals)
        if material.shading == "textureless":
            assert torch.allclose(colors[:, :1].expand(-1, 3), colors)
        assert colors.min() >= 0 and colors.max() <= 1
    assert seen == {"albedo", "textureless", "diffuse"}


def test_the_light_comes_from_the_generator() -> None:
    normals, features = unit(), torch.zeros(40, 3)

    def colors(seed: int) -> Tensor:
        material = made(LIT, ambient_only_steps=0, diffuse_prob=1.0, soft_shading=True).train()
        material.update(0, seeded(seed))
        return material.color(features, 0.4 * normals, -unit(seed=2), normals)

    assert torch.equal(colors(3), colors(3)) and not torch.equal(colors(3), colors(4))


def test_normals_are_asked_for_and_missed() -> None:
    for name in (LIT, PBR):
        material = made(name).eval()
        assert material.needs_normal
        with pytest.raises(ValueError, match="needs normals"):
            material.color(torch.zeros(2, 8), torch.zeros(2, 3), unit(2), None)


# ------------------------------------------------------------------------------------------------ environment


def test_a_uniform_room_is_uniform_whatever_the_roughness() -> None:
    room = prefilter(torch.full((16, 32, 3), 0.7))
    assert torch.allclose(room.diffuse(unit()), torch.tensor(0.7), atol=1e-4)
    for roughness in (0.1, 0.33, 1.0):
        assert torch.allclose(
            room.specular(unit(), torch.full((40,), roughness)), torch.tensor(0.7), atol=1e-4
        )


def test_rougher_surfaces_blur_more() -> None:
    room = prefilter(studio_panorama())
    spreads = [float(room.specular(unit(400), torch.full((400,), r)).std()) for r in (0.1, 0.35, 0.7, 1.0)]
    assert spreads == sorted(spreads, reverse=True) and spreads[0] > 1.5 * spreads[-1]


def test_light_from_above_falls_on_what_faces_up() -> None:
    panorama = torch.zeros(32, 64, 3)
    panorama[:16] = 1.0
    light = prefilter(panorama).diffuse(torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1]]))[:, 0]
    assert light.tolist() == pytest.approx([1.0, 0.5, 0.0], abs=0.03)


def test_a_white_metal_in_a_white_room_is_nearly_white_and_gradients_reach_everything() -> None:
    material = made(PBR, use_bump=False, environment_scale=1.0, max_metallic=1.0)
    white = prefilter(torch.ones(8, 16, 3))
    material.glossy, material.matt = white.glossy, white.matt
    normals = unit()
    features = torch.tensor([9.0, 9, 9, 9, -9]).expand(40, -1).clone().requires_grad_()
    colors = material.color(features, normals, -normals, normals)
    assert colors.min() > 0.95 and colors.max() <= 1
    mixed = torch.zeros(40, 8, requires_grad=True)
    made(PBR, environment_scale=0.5).color(mixed, normals, -unit(seed=4), normals).sum().backward()
    assert mixed.grad is not None and (mixed.grad.abs().sum(0) > 0).all()


def test_reflected_light_is_bounded() -> None:
    roughness, cosine = (
        grid.reshape(-1, 1)
        for grid in torch.meshgrid(torch.linspace(0, 1, 9), torch.linspace(0, 1, 9), indexing="ij")
    )
    a, b = environment_brdf(roughness, cosine)
    assert (a + b).max() < 1.05 and (0.04 * a + b).min() > -0.01


def test_bump_leaves_flat_what_is_not_tilted_and_frames_are_square() -> None:
    normals = torch.cat([unit(), torch.tensor([[0.0, 0, 1], [0, 0, -1]])])
    assert torch.allclose(tilt_normals(normals, torch.zeros(42, 3)), normals, atol=1e-6)
    frame = torch.stack([*tangent_frame(normals), normals], 1)
    assert torch.allclose(frame @ frame.transpose(1, 2), torch.eye(3).expand(42, 3, 3), atol=1e-5)


def test_baked_parts_are_light_free() -> None:
    baked = made(PBR, max_metallic=0.8).bake(torch.zeros(3, 8), unit(3), unit(3))
    assert torch.allclose(linear_from_srgb(baked.color), torch.full((3, 3), 0.5), atol=1e-5)
    assert baked.metallic is not None and baked.metallic.tolist() == pytest.approx([0.4] * 3)


def test_display_and_light_are_inverse() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.allclose(srgb_from_linear(linear_from_srgb(x)), x, atol=1e-6)
    edge = torch.zeros(1, requires_grad=True)
    srgb_from_linear(edge).sum().backward()
    assert edge.grad is not None and edge.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------------- files


def rgbe(rows: bytes, height: int, width: int) -> bytes:
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + f"-Y {height} +X {width}\n".encode() + rows


def test_radiance_files_flat_and_run_length_coded() -> None:
    """(128, 64, 0) with exponent 129 is (1, 0.5, 0); a run of 8 and eight single bytes say the same."""
    flat = decode_radiance(rgbe(bytes([128, 64, 0, 129]) * 2, 1, 2))
    assert torch.equal(flat, torch.tensor([1.0, 0.5, 0.0]).expand(1, 2, 3))
    runs = struct.pack("4B", 2, 2, 0, 8) + bytes([136, 128, 8, *[64] * 8, 136, 0, 136, 129])
    assert torch.equal(decode_radiance(rgbe(runs, 1, 8)), torch.tensor([1.0, 0.5, 0.0]).expand(1, 8, 3))


def test_radiance_files_with_old_runs_and_exposures() -> None:
    """(1, 1, 1, n) repeats the pixel before n times, a second mark 256 n times; pixels are light times exposure."""
    pixel = bytes([128, 64, 0, 129])
    old = decode_radiance(rgbe(pixel + bytes([1, 1, 1, 3]) + pixel, 1, 5))
    assert torch.equal(old, torch.tensor([1.0, 0.5, 0.0]).expand(1, 5, 3))
    long = decode_radiance(rgbe(pixel + bytes([1, 1, 1, 4]) + bytes([1, 1, 1, 1]), 1, 261))
    assert torch.equal(long, torch.tensor([1.0, 0.5, 0.0]).expand(1, 261, 3))
    exposed = rgbe(pixel, 1, 1).replace(b"\n\n", b"\nEXPOSURE=2.0\nEXPOSURE=0.25\n\n", 1)
    assert torch.equal(decode_radiance(exposed), torch.tensor([[[2.0, 1.0, 0.0]]]))
    for wrong in (b"EXPOSURE=0", b"FORMAT=32-bit_rle_xyze"):
        with pytest.raises(ValueError, match=r"EXPOSURE|XYZ"):
            decode_radiance(rgbe(pixel, 1, 1).replace(b"\n\n", b"\n" + wrong + b"\n\n", 1))


@pytest.mark.parametrize(
    "content", [b"", b"no picture", rgbe(b"\x02\x02\x00\x08\x88", 1, 8), rgbe(b"\x01", 4, 4)]
)
def test_a_damaged_panorama_is_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "sky.hdr"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"environment_texture: .*sky\.hdr: cannot be read"):
        read_panorama(file)


def test_a_missing_panorama_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        made(PBR, environment_texture=str(tmp_path / "none.hdr"))


def test_the_room_is_not_part_of_a_checkpoint() -> None:
    assert made(PBR).state_dict() == {}
    assert isinstance(prefilter(studio_panorama()), Environment)
