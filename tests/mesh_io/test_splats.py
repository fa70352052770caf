"""Files of Gaussian splats: round trips, an independent reader, turned colors, and what is refused in one line."""

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from tests.mesh_io.validator import issues_of
from usd.core.errors import UserError
from usd.math.quaternions import quaternion_of_rotation, rotation_of_quaternion
from usd.math.spherical_harmonics import colors_of_harmonics
from usd.math.splats import ColoredSplats
from usd.mesh_io.splats import FORMATS, read_splats, turned, write_splats
from usd.mesh_io.splats_spz import _smallest_three

EXACT = dict.fromkeys(("means", "scales", "rotations", "opacities", "harmonics"), 1e-6)
STEPS = {"means": 2**-12, "scales": 0.005, "rotations": 0.07, "opacities": 0.002, "harmonics": 0.1}
TOLERANCE = {"ply": EXACT, "glb": EXACT, "spz": STEPS}


def splats(degree: int = 3, n: int = 40) -> ColoredSplats:
    source = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source)

    turn = torch.nn.functional.normalize(noise(n, 4), dim=1)
    values = (0.3 * noise(n, 3), 0.01 + 0.1 * torch.rand(n, 3, generator=source), turn)
    return ColoredSplats(*values, 0.05 + 0.9 * noise(n).sigmoid(), 0.2 * noise(n, (degree + 1) ** 2, 3))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_what_is_written_is_read(fmt: str, degree: int, tmp_path: Path) -> None:
    given, file = splats(degree), tmp_path / f"splats.{fmt}"
    file.write_bytes(write_splats(given, fmt))
    found = read_splats(file)
    same = torch.sign((found.rotations * given.rotations).sum(1, keepdim=True))
    found = replace(found, rotations=same * found.rotations)  # q and -q are one rotation
    for name, tolerance in TOLERANCE[fmt].items():
        assert torch.allclose(getattr(found, name), getattr(given, name), atol=tolerance), name


def test_an_independent_reader_sees_every_column(tmp_path: Path) -> None:
    given, file = splats(1), tmp_path / "splats.ply"
    file.write_bytes(write_splats(given, "ply"))
    columns = trimesh.load(file).metadata["_ply_raw"]["vertex"]["data"]
    assert torch.allclose(torch.from_numpy(columns["x"].copy()).flatten(), given.means[:, 0])
    # The rest channel after channel: first the three coefficients of red.
    rest = torch.stack([torch.from_numpy(columns[f"f_rest_{i}"].copy()).flatten() for i in range(9)], 1)
    assert torch.allclose(rest[:, 3:6], given.harmonics[:, 1:, 1])
    assert torch.allclose(
        torch.from_numpy(columns["opacity"].copy()).flatten().sigmoid(), given.opacities, atol=1e-5
    )


def test_gltf_names_the_extension() -> None:
    content = write_splats(splats(1), "glb")
    (length,) = struct.unpack("<I", content[12:16])
    document = json.loads(content[20 : 20 + length])
    primitive = document["meshes"][0]["primitives"][0]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"] and primitive["mode"] == 0
    assert primitive["extensions"]["KHR_gaussian_splatting"]["kernel"] == "ellipse"
    for name in ("ROTATION", "SCALE", "OPACITY", "SH_DEGREE_0_COEF_0", "SH_DEGREE_1_COEF_2"):
        assert f"KHR_gaussian_splatting:{name}" in primitive["attributes"]


def test_the_khronos_validator_complains_of_nothing_but_names_it_does_not_know(tmp_path: Path) -> None:
    """Version 2.0.0-dev.3.10 knows no KHR_gaussian_splatting: under names for private use all is valid."""
    file, prefix = tmp_path / "splats.glb", b"KHR_gaussian_splatting:"
    file.write_bytes(write_splats(splats(3), "glb"))
    errors = [each for each in issues_of(file)["messages"] if each["severity"] < 2]
    assert all(prefix.decode() in each["pointer"] for each in errors), errors
    file.write_bytes(file.read_bytes().replace(prefix, b"_" + prefix[:-1]))
    private = issues_of(file)
    assert private["numErrors"] == private["numWarnings"] == 0, private["messages"]


@pytest.mark.slow  # the reader compiles itself first
def test_a_reader_of_splats_alone_sees_the_same(tmp_path: Path) -> None:
    gsply = pytest.importorskip("gsply")
    given, file = splats(3), tmp_path / "splats.ply"
    file.write_bytes(write_splats(given, "ply"))
    found = gsply.plyread(file)
    for theirs, ours in (
        (found.means, given.means),
        (found.scales, given.scales.log()),
        (found.quats, given.rotations),
        (found.opacities, torch.logit(given.opacities)),
        (found.sh0, given.harmonics[:, 0]),
        (found.shN, given.harmonics[:, 1:]),
    ):
        assert torch.allclose(torch.from_numpy(theirs).view_as(ours), ours, atol=1e-5)
    packed = tmp_path / "splats.spz"
    packed.write_bytes(write_splats(given, "spz"))
    # SPZ has +y up.
    upright = given.means[:, [0, 2, 1]] * torch.tensor([1.0, 1.0, -1.0])
    assert torch.allclose(torch.from_numpy(gsply.read_spz(packed).means), upright, atol=2**-11)


def test_turned_splats_show_turned_colors() -> None:
    given = splats(3, 5)
    rotation = rotation_of_quaternion(torch.tensor([0.3, -0.5, 0.2, 0.7]))
    direction = torch.nn.functional.normalize(torch.randn(5, 3), dim=1)
    after = turned(given, rotation)
    before = colors_of_harmonics(given.harmonics, direction)
    assert torch.allclose(colors_of_harmonics(after.harmonics, direction @ rotation.T), before, atol=1e-5)
    shape, turned_shape = (rotation_of_quaternion(one.rotations) for one in (given, after))
    assert torch.allclose(turned_shape, rotation @ shape, atol=1e-5)


def test_a_rotation_is_the_quaternion_it_came_from() -> None:
    for q in torch.nn.functional.normalize(torch.randn(20, 4, dtype=torch.float64), dim=1):
        found = quaternion_of_rotation(rotation_of_quaternion(q))
        assert abs(float((found * q).sum())) == pytest.approx(1, abs=1e-9)


def test_the_smallest_three_of_a_quaternion_say_the_fourth() -> None:
    """Version 3: two bits for the largest, then ten for each other, sign first; the last number's are the lowest."""
    x, y, z, w = 0.1, -0.2, 0.3, (1 - 0.14) ** 0.5
    word = 3
    for value in (x, y, z):
        word = word << 10 | (value < 0) << 9 | round(abs(value) / 0.5**0.5 * 511)
    packed = torch.tensor([[word >> 8 * i & 255 for i in range(4)]], dtype=torch.int32)
    assert torch.allclose(_smallest_three(packed), torch.tensor([[w, x, y, z]]), atol=2e-3)


def lines(*properties: str, rows: tuple[str, ...] = ("0 0 0",)) -> bytes:
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {name}" for name in properties]
    return "\n".join([*header, "end_header", *rows, ""]).encode()


FULL = [
    "x",
    "y",
    "z",
    "f_dc_0",
    "f_dc_1",
    "f_dc_2",
    "opacity",
    "scale_0",
    "scale_1",
    "scale_2",
    "rot_0",
    "rot_1",
    "rot_2",
    "rot_3",
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines("x", "y", "z", "opacity", rows=("0 0 0 1",)), "vertices have no property 'f_dc_0'"),
        (lines(*FULL, rows=()), "holds no splats"),
        (lines(*FULL, rows=("nan" + " 0" * 9 + " 1 0 0 0",)), "means of 1 of 1 splats are not finite"),
        (lines(*FULL, rows=("0 0 0 0 0 0 0 30 0 0 1 0 0 0",)), "scales reach 1.07e"),
        (lines(*FULL, "f_rest_0", rows=("0 " * 15,)), "has 1 properties f_rest_"),
        (lines(*FULL, rows=("0 0",)), "is the file cut off"),
        (lines("x", "y", "z"), "holds points without opacity"),
        (b"hello", "is no file of splats or points"),
        (gzip.compress(b"1234", mtime=0), "is the file cut off"),
        (gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 2, 9, 0, 12, 0, 0), mtime=0), "is cut off"),
        (b"NGSP" + bytes(20), "is SPZ of version 4 or later"),
    ],
    ids=[
        "no colors",
        "no rows",
        "not finite",
        "huge",
        "odd harmonics",
        "short row",
        "points",
        "no format",
        "cut header",
        "cut body",
        "newer version",
    ],
)
def test_what_cannot_be_read_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file.ply"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_splats(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)
