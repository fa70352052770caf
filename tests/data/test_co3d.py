"""CO3D: a small sequence written from a toy, read back as references whose cameras, depths and pictures agree."""

import gzip
import json

import pytest
import torch
from PIL import Image

from usd.core.config import ConfigError, UserError, parse
from usd.core.random import generator
from usd.data import convert
from usd.data.co3d import Co3dCameras
from usd.data.co3d_sequence import read_sequence, write_depth
from usd.data.pictures import to_bytes, write_picture
from usd.data.toy_views import sphere_cameras
from usd.math.camera import orbit_cameras_deg
from usd.toybox import REFERENCE_FOV_DEG
from usd.toybox.distance import signed_distance
from usd.toybox.objects import make_toy
from usd.toybox.render import render

SEED, COUNT, SIZE, LEFT, TOP, SCALE = 1000022, 10, 72, 8, 3, 3.0
WORLD = torch.tensor([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, -0.6]])  # another program's idea of up
AWAY = torch.tensor([5.0, -2.0, 1.0])


def viewpoint(c2w: torch.Tensor, focal: float, width: int, height: int, kind: str) -> dict[str, object]:
    """PyTorch3D's camera of a crop whose principal point is that of the whole picture."""
    rotation = WORLD @ c2w[:3, :3] * torch.tensor([-1.0, 1.0, -1.0])
    center = SCALE * WORLD @ c2w[:3, 3] + AWAY
    units = (min(width, height),) * 2 if kind == "ndc_isotropic" else (width, height)
    principal = (SIZE / 2 - LEFT, SIZE / 2 - TOP)
    return {
        "R": rotation.tolist(),
        "T": (-rotation.T @ center).tolist(),
        "focal_length": [2 * focal / unit for unit in units],
        "principal_point": [
            (size / 2 - at) * 2 / unit
            for size, at, unit in zip((width, height), principal, units, strict=True)
        ],
        "intrinsics_format": kind,
    }


def cameras_around():
    """A video's cameras, in the toy's own world."""
    azimuth = [20.0 * i for i in range(COUNT)]
    return orbit_cameras_deg(
        [15.0 + 20 * (i % 2) for i in range(COUNT)], azimuth, 1.5, REFERENCE_FOV_DEG, SIZE
    )


def write_sequence(root, kind: str = "ndc_isotropic"):
    """A toy seen from around; pictures are cropped off the middle. Returns the sequence's folder."""
    folder = root / "toy" / "110_1"
    for name in ("images", "masks", "depths"):
        (folder / name).mkdir(parents=True)
    azimuth = [20.0 * i for i in range(COUNT)]
    cameras = orbit_cameras_deg(
        [15.0 + 20 * (i % 2) for i in range(COUNT)], azimuth, 1.5, REFERENCE_FOV_DEG, SIZE
    )
    seen, frames = render([make_toy(SEED)], cameras), []
    along = -torch.einsum("bhwc,bc->bhw", cameras.rays()[1], cameras.c2w[:, :3, 2])
    height, width = SIZE - TOP, SIZE - LEFT
    for i in range(COUNT):
        inside = (slice(TOP, None), slice(LEFT, None))
        alpha = seen.alpha[i][inside]
        rgb = (seen.rgb[i] * seen.alpha[i][..., None] + 0.5 * (1 - seen.alpha[i][..., None]))[inside]
        Image.fromarray(to_bytes(rgb.permute(2, 0, 1))).save(folder / f"images/{i:03d}.png")
        write_picture(folder / f"masks/{i:03d}.png", alpha[None])
        write_depth(folder / f"depths/{i:03d}.png", (seen.depth[i] * along[i])[inside] * SCALE / 0.5)
        files = {name: {"path": f"toy/110_1/{name}/{i:03d}.png"} for name in ("images", "masks", "depths")}
        frames.append(
            {
                "sequence_name": "110_1",
                "frame_number": i,
                "image": {**files["images"], "size": [height, width]},
                "mask": files["masks"],
                "depth": {**files["depths"], "scale_adjustment": 0.5},
                "viewpoint": viewpoint(cameras.c2w[i], float(cameras.focal_px[i]), width, height, kind),
            }
        )
    frames.append({**frames[0], "sequence_name": "another"})
    with gzip.open(root / "toy" / "frame_annotations.jgz", "wt") as file:
        json.dump(frames, file)
    return folder


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    return write_sequence(tmp_path_factory.mktemp("co3d"))


def data_of(folder, **options):
    return Co3dCameras(parse(Co3dCameras.Config, {"root_dir": str(folder), **options}, "data"))


def surface(posed):
    """World points (N, 3) of a reference's depth, and their colors."""
    origins, directions = posed.camera.rays()
    solid = (posed.picture.rgba[3] > 0.9) & (posed.picture.depth[0] > 0)
    points = (origins + directions * posed.picture.depth[0][None, ..., None])[0]
    return points[solid], posed.picture.rgba[:3].permute(1, 2, 0)[solid]


@pytest.mark.parametrize("kind", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_the_depth_of_one_reference_lands_on_another(tmp_path, kind):
    """What holds only if cameras, principal points, focal lengths, scale and depths are all right."""
    first, second = data_of(write_sequence(tmp_path, kind), train_views=[1, 2]).posed_references
    points, colors = surface(first)
    pixel, _ = second.camera.project(points)
    x, y = (pixel[0, :, i].long().clamp(0, second.camera.width - 1) for i in (0, 1))
    expected = second.picture.depth[0, y, x]
    error = (points - second.camera.position).norm(dim=-1) - expected
    visible = (expected > 0) & (error.abs() < 0.05)
    assert visible.float().mean() > 0.4 and error[visible].abs().median() < 0.01
    assert (second.picture.rgba[:3, y, x].T - colors)[visible].abs().median() < 0.03


def test_references_show_the_toy_in_a_world_fitted_to_it(sequence):
    """Carried back by the motion between the two worlds, the points of the depth maps lie on the toy's surface."""
    posed = data_of(sequence, train_views=[0, 3, 6]).posed_references
    true, found = cameras_around()[[0, 3, 6]], torch.cat([each.camera.c2w for each in posed])
    scale = (found[1, :3, 3] - found[0, :3, 3]).norm() / (true.position[1] - true.position[0]).norm()
    turn = found[0, :3, :3] @ true.c2w[0, :3, :3].T
    shift = found[0, :3, 3] - scale * turn @ true.position[0]
    points = torch.cat([surface(each)[0] for each in posed])
    distance, _ = signed_distance(make_toy(SEED), ((points - shift) @ turn / scale).contiguous())
    assert distance.abs().median() < 0.005 and distance.abs().quantile(0.9) < 0.03
    assert 0.4 < points.norm(dim=-1).max() < 0.6 and turn[2, 2] > 0.95, (
        "bounding radius 0.5 but for specks; +z up"
    )


def test_steps_take_references_in_turn_and_cameras_around_the_object(sequence):
    data = data_of(sequence, train_views=[4, 0], batch_size=3, height=16, width=16, reference_height=48)
    batches = [data.batch(step, generator("cpu", 0, "data", step)) for step in range(3)]
    assert [batch.reference_index for batch in batches] == [0, 1, 0]
    cameras = [posed.camera for posed in data.posed_references]
    for batch in batches:
        assert torch.equal(batch.reference.c2w, cameras[batch.reference_index].c2w)
        assert (batch.reference.height, batch.cameras.height, len(batch)) == (48, 16, 3)
    assert len(data.given_references()) == 2 and data.eval_batches("val")[0].reference is not None


def test_a_crop_holds_the_whole_object_and_keeps_the_lens(sequence):
    tight, loose = (
        data_of(sequence, box_crop=crop, box_crop_context=0.05).posed_references[0] for crop in (True, False)
    )
    assert tight.picture.rgba.shape[-1] < loose.picture.rgba.shape[-1]
    assert tight.picture.rgba[3].sum() == pytest.approx(float(loose.picture.rgba[3].sum()))
    assert float(tight.camera.focal_px) == pytest.approx(float(loose.camera.focal_px), rel=0.03)
    opaque = data_of(sequence, use_mask=False).posed_references[0]
    assert opaque.picture.rgba[3].mean() > tight.picture.rgba[3].mean()


def test_views_of_any_origin_become_a_sequence(tmp_path):
    """Written and read: cameras, masks and the picture of a toy, by the command that converts views."""
    folder = tmp_path / "toys" / "one"
    assert convert.main([str(SEED), str(folder), "--layout", "co3d", "--size", "40", "--views", "6"]) == 0
    frames, true = read_sequence(folder, "data.root_dir"), sphere_cameras(6, 40)
    for index, frame in enumerate(frames):
        assert torch.allclose(frame.c2w, true.c2w[index], atol=1e-5)
        assert frame.camera.fx == pytest.approx(float(true.focal_px[index]), rel=1e-5)
        assert (frame.camera.cx, frame.camera.cy, frame.depth) == (20, 20, None)
    reference = data_of(folder, train_views=[2]).given_references()[0]
    assert reference.rgba[3].max() == 1 and reference.rgba[3].min() == 0 and reference.depth is None


def broken(entry, **changes):
    return {**entry, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda e: broken(e, viewpoint={**e["viewpoint"], "R": [[1, 2], [3, 4]]}),
            "R is .*; expected 9 numbers",
        ),
        (lambda e: broken(e, viewpoint={**e["viewpoint"], "R": [[2.0] * 3] * 3}), "R is no rotation"),
        (
            lambda e: broken(e, viewpoint={**e["viewpoint"], "focal_length": [-1, 1]}),
            "expected positive numbers",
        ),
        (
            lambda e: broken(e, viewpoint={**e["viewpoint"], "intrinsics_format": "px"}),
            "intrinsics_format is px",
        ),
        (lambda e: broken(e, image=None), "frame 0 has no image"),
        (lambda e: broken(e, mask=None), "has no mask"),
    ],
)
def test_broken_annotations_are_one_clear_line(sequence, tmp_path, change, message):
    with gzip.open(sequence.parent / "frame_annotations.jgz", "rt") as file:
        entries = json.load(file)
    folder = tmp_path / "toy" / "110_1"
    folder.parent.mkdir()
    folder.symlink_to(sequence)
    with gzip.open(folder.parent / "frame_annotations.jgz", "wt") as file:
        json.dump([change(entries[0]), *entries[1:]], file)
    with pytest.raises(UserError, match=message):
        data_of(folder).given_references()


def test_wrong_folders_and_numbers_are_one_clear_line(sequence, tmp_path):
    with pytest.raises(UserError, match=r"is a category; expected a sequence in it: 110_1"):
        read_sequence(sequence.parent, "data.root_dir")
    with pytest.raises(UserError, match=r"is no sequence of CO3D; expected .*frame_annotations.jgz"):
        read_sequence(tmp_path / "nothing", "data.root_dir")
    (tmp_path / "frame_annotations.jgz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"cannot be read as gzipped JSON"):
        read_sequence(tmp_path / "a", "data.root_dir")
    with pytest.raises(ConfigError, match=r"data.train_views: 10 is out of range; expected below 10"):
        data_of(sequence, train_views=[10]).given_references()
    with pytest.raises(ConfigError, match=r"data.root_dir: required"):
        data_of("")
