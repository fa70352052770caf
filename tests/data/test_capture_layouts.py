"""Every layout of captures has a writer here, and gives the same rays and pixels back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_colmap import options, poses, quaternion, write_text
from usd.core.errors import UserError
from usd.data import depth_maps, record3d
from usd.data.co3d_sequence import write_sequence
from usd.data.colmap import pose_of
from usd.data.depth_maps import DepthFile, read_depth_file
from usd.data.metashape import read_metashape
from usd.data.neus import upper_times_rotation
from usd.data.pictures import read_rgba, write_picture
from usd.data.transforms import write_transforms
from usd.data.view_readers import read_views
from usd.data.view_set import view_set
from usd.math.camera import Cameras, orbit_cameras_deg, pinhole_cameras

HEIGHT, WIDTH, COUNT = 18, 24, 4
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
SPHERE = ((0.3, -0.2, 0.1), 0.8)


def plain() -> Cameras:
    made = orbit_cameras_deg([10.0, 30.0, -5.0, 45.0], [0.0, 80.0, 170.0, 260.0], 2.0, 40.0, HEIGHT)
    return made.resize(HEIGHT, WIDTH)


def each_its_own() -> Cameras:
    """Focal lengths apart, principal points beside the middle, other ones for each picture."""
    numbers = torch.tensor([30.0, 28.0, 11.0, 8.0]) + torch.arange(COUNT)[:, None] * torch.tensor(
        [1, 0.5, 0.7, 0.3]
    )
    return pinhole_cameras(plain().c2w, numbers, HEIGHT, WIDTH)


def pixels() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    disc = ((x - 11) ** 2 + (y - 8) ** 2 < 36).float()
    shade = torch.stack([x / WIDTH, y / HEIGHT, 0 * x], 0).float()
    made = [torch.cat([(shade + i / 9).clamp(0, 1), disc[None]]) for i in range(COUNT)]
    return (torch.stack(made) * 255).round() / 255


def opencv(cameras: Cameras) -> torch.Tensor:
    """World-to-camera matrices with OpenCV's axes (B, 4, 4)."""
    return torch.linalg.inv(cameras.c2w.double() @ FLIP)


def matrix_of(cameras: Cameras, index: int) -> np.ndarray:
    """The intrinsic matrix for pixels counted from the middle of the first one."""
    fx, fy = cameras.focals[index].double().tolist()
    cx, cy = cameras.principal_point[index].double().tolist()
    return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])


def write_transforms_layout(folder, cameras):
    for i, picture in enumerate(pixels()):
        write_picture(folder / f"images/{i}.png", picture)
    write_transforms(folder / "transforms.json", [cameras], [f"images/{i}.png" for i in range(COUNT)])


def write_nerf_synthetic(folder, cameras):
    for i, picture in enumerate(pixels()):
        write_picture(folder / f"train/r_{i}.png", picture)
    angle = 2 * np.arctan(0.5 * WIDTH / cameras.focal_px[0].item())
    frames = [
        {"file_path": f"./train/r_{i}", "rotation": 0.01, "transform_matrix": cameras.c2w[i].tolist()}
        for i in range(COUNT)
    ]
    (folder / "transforms_train.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))


def write_neus(folder, cameras):
    arrays = {}
    for i, (picture, w2c) in enumerate(zip(pixels(), opencv(cameras).numpy())):
        write_picture(folder / f"image/{i:06d}.png", picture[:3])
        write_picture(folder / f"mask/{i:03d}.png", picture[3:])
        arrays[f"world_mat_{i}"] = np.eye(4)
        arrays[f"world_mat_{i}"][:3] = -3.0 * matrix_of(cameras, i) @ w2c[:3]  # any factor is the same camera
        arrays[f"scale_mat_{i}"] = np.diag([SPHERE[1]] * 3 + [1.0])
        arrays[f"scale_mat_{i}"][:3, 3] = SPHERE[0]
    np.savez(folder / "cameras_sphere.npz", **arrays)


def write_llff(folder, cameras):
    rows = []
    for i, picture in enumerate(pixels()):
        write_picture(folder / f"images/IMG_{i}.png", picture)
        right, up, back, position = cameras.c2w[i, :3].double().unbind(1)
        size = torch.tensor([HEIGHT, WIDTH, cameras.focal_px[i].item()]).double()
        rows.append([*torch.stack([-up, right, back, position, size], 1).flatten().tolist(), 0.5, 4.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))


def write_mvsnet(folder, cameras):
    (folder / "cams").mkdir()
    for i, picture in enumerate(pixels()):
        write_picture(folder / f"blended_images/{i:08d}.png", picture)
        lines = ["extrinsic", *(" ".join(map(str, row)) for row in opencv(cameras)[i].tolist()), ""]
        lines += [
            "intrinsic",
            *(" ".join(map(str, row)) for row in matrix_of(cameras, i)),
            "",
            "425.0 2.5 128 745",
        ]
        (folder / f"cams/{i:08d}_cam.txt").write_text("\n".join(lines) + "\n")
    (folder / "cams/pair.txt").write_text("4\n")


def write_colmap(folder, cameras):
    """One camera for each picture, in subfolders; and a smaller model beside."""
    sparse = write_text(folder / "sparse/1", cameras)
    lines = []
    for i in range(COUNT):
        numbers = [*cameras.focals[i].tolist(), *cameras.principal_point[i].tolist()]
        lines.append(f"{i + 1} PINHOLE {WIDTH} {HEIGHT} " + " ".join(map(str, numbers)))
    (sparse / "cameras.txt").write_text("\n".join(lines) + "\n")
    rows = []
    for i, (q, t) in enumerate(poses(cameras)):
        rows += [" ".join(map(str, [i + 1, *q, *t, i + 1, f"left/{i}.png"])), ""]
        write_picture(folder / f"images/left/{i}.png", pixels()[i])
    (sparse / "images.txt").write_text("\n".join(rows) + "\n")
    write_text(folder / "sparse/0", cameras[:2])


def write_polycam(folder, cameras):
    """Corrected cameras and pictures, beside raw ones that are wrong; their world has +y up."""
    for i, picture in enumerate(pixels()):
        (fx, fy), (cx, cy) = cameras.focals[i].tolist(), cameras.principal_point[i].tolist()
        c2w = cameras.c2w[i][[1, 2, 0]]
        numbers = {f"t_{row}{column}": float(c2w[row, column]) for row in range(3) for column in range(4)}
        numbers |= {
            "fx": fx,
            "fy": fy,
            "cx": cx,
            "cy": cy,
            "width": WIDTH,
            "height": HEIGHT,
            "blur_score": 90.0,
        }
        for kind, wrong in (("corrected_", {}), ("", {"t_03": 9.0})):
            write_picture(folder / f"keyframes/{kind}images/{100 + i}.png", picture * (1 if kind else 0.5))
            (folder / f"keyframes/{kind}cameras").mkdir(exist_ok=True)
            file = folder / f"keyframes/{kind}cameras/{100 + i}.json"
            file.write_text(json.dumps({**numbers, **wrong}))


def write_record3d(folder, cameras):
    """Frames 0 to 3 and a fourth pose without a picture; more than nine, names would not be in order of numbers."""
    rows, lenses = [], []
    for i, picture in enumerate(pixels()):
        write_picture(folder / f"EXR_RGBD/rgb/{i}.png", picture)
        c2w = cameras.c2w[i][[1, 2, 0]].double()
        w, x, y, z = quaternion(c2w[:, :3])
        rows.append([x, y, z, w, *c2w[:, 3].tolist()])
        lenses.append([*cameras.focals[i].tolist(), *cameras.principal_point[i].tolist()])
    content = {
        "w": WIDTH,
        "h": HEIGHT,
        "K": [30, 0, 0, 0, 28, 0, 11, 8, 1],
        "fps": 60,
        "poses": [*rows, rows[0]],
    }
    content |= {"perFrameIntrinsicCoeffs": lenses, "dw": 256, "dh": 192}
    (folder / "EXR_RGBD/metadata.json").write_text(json.dumps(content))


def write_splat_cameras(folder, cameras):
    """Names without endings, in another order than the pictures'; a camera without a picture."""
    entries = []
    for i, picture in reversed(list(enumerate(pixels()))):
        write_picture(folder / f"images/v{i}.png", picture)
        c2w, (fx, fy) = cameras.c2w[i].double() @ FLIP, cameras.focals[i].tolist()
        pose = {"position": c2w[:3, 3].tolist(), "rotation": c2w[:3, :3].tolist()}
        entries.append(
            {"id": i, "img_name": f"v{i}", "width": WIDTH, "height": HEIGHT, "fx": fx, "fy": fy, **pose}
        )
    (folder / "cameras.json").write_text(json.dumps([*entries, {**entries[0], "img_name": "lost"}]))


def write_metashape(folder, cameras, kind="frame", label="v{}", lost="", **numbers):
    """A sensor for each camera, cameras in groups, and one that is turned off."""
    sensors, rows = [], []
    for i, picture in enumerate(pixels()):
        write_picture(folder / f"photos/v{i}.png", picture)
        (fx, fy), (cx, cy) = cameras.focals[i].tolist(), cameras.principal_point[i].tolist()
        lens = {"f": fy, "b1": fx - fy, "cx": cx - WIDTH / 2, "cy": cy - HEIGHT / 2, **numbers}
        body = "".join(f"<{key}>{value}</{key}>" for key, value in lens.items())
        body = f'<calibration class="adjusted"><resolution width="{WIDTH}" height="{HEIGHT}"/>{body}</calibration>'
        sensors.append(f'<sensor id="{i}" type="{kind}"><calibration class="initial"/>{body}</sensor>')
        pose = " ".join(map(str, (cameras.c2w[i].double() @ FLIP).flatten().tolist()))
        head = f'camera id="{i}" sensor_id="{i}" component_id="0" label="{label.format(i)}"'
        rows.append(f"<{head}><transform>{pose}</transform></camera>")
    off = rows[0].replace("<camera ", '<camera enabled="false" ').replace("v0", "off")
    shown = f"{rows[0]}<group>{''.join(rows[1:])}</group>{off}{lost}"
    text = f"<sensors>{''.join(sensors)}</sensors><cameras>{shown}</cameras>"
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<document version="2.0.0">\n  '
    (folder / "scan.xml").write_text(f'{head}<chunk label="a" enabled="true">{text}</chunk></document>')


def write_nsvf(folder, cameras):
    """Two kinds of views, of which the folder gives the first; one lens for all, and the box of the object."""
    for i, (picture, w2c) in enumerate(zip(pixels(), opencv(cameras))):
        for kind in (0, 2):
            write_picture(folder / f"rgb/{kind}_{i:04d}.png", picture if kind == 0 else picture * 0.5)
            (folder / "pose").mkdir(exist_ok=True)
            rows = torch.linalg.inv(w2c).tolist()
            text = "\n".join(" ".join(map(str, row)) for row in rows) + "\n"
            (folder / f"pose/{kind}_{i:04d}.txt").write_text(text)
    focal, (cx, cy) = cameras.focal_px[0].item(), cameras.principal_point[0].tolist()
    (folder / "intrinsics.txt").write_text(f"{focal} {cx} {cy} 0.\n0. 0. 0.\n0.\n1.\n{HEIGHT} {WIDTH}\n")
    low, high = ([c + s * 0.5 for c in SPHERE[0]] for s in (-1, 1))
    (folder / "bbox.txt").write_text(" ".join(map(str, [*low, *high, 0.1])))


def write_scannet(folder, cameras):
    """Numbers that would be in another order as text, a lens for each picture, a pose that was lost; depths."""
    for i, (picture, w2c) in enumerate(zip(pixels(), opencv(cameras))):
        name = 8 + i
        write_picture(folder / f"color/{name}.png", picture)
        (fx, fy), (cx, cy) = cameras.focals[i].tolist(), cameras.principal_point[i].tolist()
        texts = {
            "pose": torch.linalg.inv(w2c).flatten().tolist(),
            "intrinsics": [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0, 0, 0, 0, 1],
        }
        for kind, numbers in texts.items():
            (folder / kind).mkdir(exist_ok=True)
            (folder / f"{kind}/{name}.txt").write_text(" ".join(map(str, numbers)))
        (folder / "depth").mkdir(exist_ok=True)
        Image.fromarray(depth_planes()[i]).save(folder / f"depth/{name}.png")
    write_picture(folder / "color/7.png", pixels()[0])
    (folder / "pose/7.txt").write_text("\n".join(["-inf -inf -inf -inf"] * 4))
    (folder / "pose/6.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0")


def write_co3d(folder, cameras):
    write_sequence(view_set(list(pixels()), cameras, [str(i) for i in range(COUNT)]), folder)


WRITERS = {
    "transforms": (write_transforms_layout, each_its_own),
    "nerf_synthetic": (write_nerf_synthetic, plain),
    "neus": (write_neus, each_its_own),
    "llff": (write_llff, plain),
    "mvsnet": (write_mvsnet, each_its_own),
    "colmap": (write_colmap, each_its_own),
    "polycam": (write_polycam, each_its_own),
    "record3d": (write_record3d, each_its_own),
    "nsvf": (write_nsvf, plain),
    "splats": (write_splat_cameras, plain),
    "metashape": (write_metashape, each_its_own),
    "scannet": (write_scannet, each_its_own),
    "co3d": (write_co3d, each_its_own),
}


@pytest.mark.parametrize("layout", WRITERS)
def test_a_layout_gives_the_rays_and_pixels_that_were_written(tmp_path, layout):
    write, cameras = WRITERS[layout]
    folder = tmp_path / "toys/a scan"
    folder.mkdir(parents=True)
    write(folder, cameras())
    found = read_views(folder, options(frame="keep"))
    for given, true in zip(found.cameras.rays(), cameras().rays()):
        assert torch.allclose(given, true, atol=2e-5)
    assert found.masked and torch.allclose(found.rgba[:, 3], pixels()[:, 3], atol=0.01)
    solid = pixels()[:, 3] > 0.5
    for channel in range(3):
        assert torch.allclose(found.rgba[:, channel][solid], pixels()[:, channel][solid], atol=0.01)


def lost(cameras: Cameras, which: list[int]) -> Cameras:
    """The cameras, some of which are nowhere."""
    c2w = cameras.c2w.clone()
    c2w[which] = torch.nan
    return replace(cameras, c2w=c2w)


@pytest.mark.parametrize("layout", WRITERS)
def test_a_camera_that_is_no_number_is_left_out_by_its_name(tmp_path, layout):
    write, cameras = WRITERS[layout]
    whole, holed, empty = (tmp_path / name for name in ("whole/a", "holed/a", "empty/a"))
    for folder, which in ((whole, []), (holed, [1]), (empty, list(range(COUNT)))):
        folder.mkdir(parents=True)
        write(folder, lost(cameras(), which))
    every, found = (read_views(folder, options(frame="keep")) for folder in (whole, holed))
    assert [Path(name).name for name in found.names] == [Path(every.names[i]).name for i in (0, 2, 3)]
    assert torch.equal(found.cameras.c2w, every.cameras.c2w[[0, 2, 3]]) and torch.equal(
        found.rgba, every.rgba[[0, 2, 3]]
    )
    (note,) = [note for note in found.notes if "have no camera and are left out" in note]
    assert Path(every.names[1]).name in note
    with pytest.raises(UserError, match=r"none of its \d cameras is finite|has a camera|no finite world_mat"):
        read_views(empty, options(frame="keep"))


@pytest.mark.parametrize("at_root", [True, False], ids=["own folder", "beside"])
@pytest.mark.parametrize("layout", [name for name in WRITERS if name not in ("neus", "co3d", "scannet")])
def test_masks_beside_the_pictures_are_found_in_every_layout(tmp_path, layout, at_root):
    """Scans and sequences that name masks in their own way aside."""
    folder = tmp_path / "toys/a scan"
    folder.mkdir(parents=True)
    WRITERS[layout][0](folder, WRITERS[layout][1]())
    for file in sorted(folder.rglob("*.png")):
        picture = read_rgba(file)
        write_picture(file, picture[:3] * 0.5 + 0.25 * torch.rand(3, HEIGHT, WIDTH))
        inner = file.relative_to(folder).parts[-2] if layout == "colmap" else ""
        place = folder if at_root or layout == "colmap" else file.parent.parent
        write_picture(place / "masks" / inner / file.name, (picture[3:] > 0).float())
    found = read_views(folder, options(frame="keep"))
    assert "masks are the files beside the pictures" in found.notes
    assert torch.equal(found.rgba[:, 3], pixels()[:, 3])


def write_r3d(folder, cameras, **changes):
    """An unpacked .r3d: the same pictures, with depths in meters packed beside them."""
    lzfse = pytest.importorskip("liblzfse")
    write_record3d(folder, cameras)
    (folder / "EXR_RGBD/rgb").rename(folder / "rgbd")
    content = json.loads((folder / "EXR_RGBD/metadata.json").read_text())
    content = {**content, "dw": WIDTH, "dh": HEIGHT, **changes}
    (folder / "metadata").write_text(json.dumps(content))
    shutil.rmtree(folder / "EXR_RGBD")
    for i, plane in enumerate(depth_planes()):
        meters = np.where(plane == 0, np.nan, plane / 1000).astype(np.float32)
        (folder / f"rgbd/{i}.depth").write_bytes(lzfse.compress(meters.tobytes()))


def assert_planes(found):
    """Depths along the rays end on the planes of ``depth_planes``, whose holes are unknown."""
    for i in range(COUNT):
        origins, directions = found.cameras[[i]].rays()
        along = found.depths.view(i).float() * found.depth_unit
        depth = found.cameras[[i]].project((origins + along * directions)[0].reshape(-1, 3))[1][0]
        known = along.flatten() > 0
        assert torch.allclose(depth[known], torch.full((int(known.sum()),), 1.5 + 0.01 * i), atol=1e-3)
        assert int((~known).sum()) == 6


def test_depths_of_an_unpacked_r3d_are_planes_before_their_cameras(tmp_path):
    write_r3d(tmp_path, each_its_own())
    assert_planes(read_views(tmp_path, options(frame="keep")))


def write_exr(file, **channels):
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    exr.File(header, {name: np.ascontiguousarray(values) for name, values in channels.items()}).write(
        str(file)
    )


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_depths_of_record3ds_exr_export_are_planes_before_their_cameras(tmp_path, kind):
    """One float channel in meters, red, as its author says; nan where the sensor saw nothing."""
    write_record3d(tmp_path, each_its_own())
    (tmp_path / "EXR_RGBD/depth").mkdir()
    for i, plane in enumerate(depth_planes()):
        write_exr(
            tmp_path / f"EXR_RGBD/depth/{i}.exr", R=np.where(plane == 0, np.nan, plane / 1000).astype(kind)
        )
    assert_planes(read_views(tmp_path, options(frame="keep")))


def test_the_channel_of_depths_is_told_by_its_name(tmp_path):
    ones = np.ones((3, 4), np.float32)
    write_exr(tmp_path / "a.exr", R=ones, G=ones, B=ones, Z=2 * ones)
    write_exr(tmp_path / "b.exr", other=3 * ones)
    for name, depth in (("a", 2.0), ("b", 3.0)):
        read = read_depth_file(DepthFile(tmp_path / f"{name}.exr", 0.5), "data.path")
        assert torch.equal(read, torch.full((3, 4), depth / 2))
    (tmp_path / "b.exr").write_bytes((tmp_path / "a.exr").read_bytes()[:60])
    with pytest.raises(UserError, match=r"^data\.path: .*b\.exr: cannot be read as OpenEXR \([^\n]*\)$"):
        read_depth_file(DepthFile(tmp_path / "b.exr", 1.0), "data.path")


def test_exr_depths_without_the_package_are_left_out_or_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(record3d, "can_read_exr", lambda: False)
    monkeypatch.setattr(depth_maps, "can_read_exr", lambda: False)
    write_record3d(tmp_path, each_its_own())
    (tmp_path / "EXR_RGBD/depth").mkdir()
    (tmp_path / "EXR_RGBD/depth/0.exr").touch()
    found = read_views(tmp_path, options(frame="keep"))
    assert found.depths is None and "pip install 'usd[exr]'" in "; ".join(found.notes)
    with pytest.raises(UserError, match=r"0\.exr: reading OpenEXR takes pip install 'usd\[exr\]'"):
        read_depth_file(DepthFile(tmp_path / "EXR_RGBD/depth/0.exr", 1.0), "data.path")


def test_depths_that_cannot_be_read_are_left_out_and_said(tmp_path, monkeypatch):
    write_r3d(tmp_path, each_its_own(), dw=None)
    found = read_views(tmp_path, options(frame="keep"))
    assert found.depths is None and "depths left out: dw and dh" in "; ".join(found.notes)
    content = json.loads((tmp_path / "metadata").read_text())
    (tmp_path / "metadata").write_text(json.dumps({**content, "dw": WIDTH + 1}))
    with pytest.raises(UserError, match=r"0\.depth: has 1728 bytes; expected 18 x 25 floats"):
        read_views(tmp_path, options(frame="keep"))
    (tmp_path / "rgbd/0.depth").write_bytes(b"no")
    with pytest.raises(UserError, match=r"0\.depth: (cannot be unpacked|has 0 bytes)"):
        read_views(tmp_path, options(frame="keep"))
    monkeypatch.setattr(record3d, "can_unpack", lambda: False)
    found = read_views(tmp_path, options(frame="keep"))
    assert found.depths is None and "pip install 'usd[record3d]'" in "; ".join(found.notes)


def test_a_kind_of_nsvfs_views_is_named_by_one_of_its_files(tmp_path):
    write_nsvf(tmp_path, plain())
    train, test = (read_views(tmp_path / name, options(frame="keep")) for name in ("", "pose/2_0001.txt"))
    assert train.names[0] == "0_0000.png" and "test: pose/2_0003.txt" in " ".join(train.notes)
    assert test.names[3] == "2_0003.png" and torch.allclose(test.cameras.c2w, train.cameras.c2w)
    fitted = read_views(tmp_path, options(frame="fit"))
    scale = 0.5 / (0.5 * 3**0.5)
    away = (plain().position - torch.tensor(SPHERE[0])).norm(dim=1) * scale
    assert torch.allclose(fitted.cameras.position.norm(dim=1), away, atol=1e-4)


def test_a_scan_says_which_poses_were_lost_and_knows_its_depths(tmp_path):
    write_scannet(tmp_path, each_its_own())
    found = read_views(tmp_path, options(frame="keep"))
    assert found.names == ("8.png", "9.png", "10.png", "11.png")
    assert "1 of 6 poses have no picture" in found.notes
    assert "1 of 5 frames have no camera and are left out: 7.png" in found.notes
    origins, directions = found.cameras[[0]].rays()
    points = origins + found.depths.view(0).float() * found.depth_unit * directions
    depth = found.cameras[[0]].project(points[0].reshape(-1, 3))[1][0]
    known = found.depths.view(0).flatten() > 0
    assert torch.allclose(depth[known], torch.full((int(known.sum()),), 1.5), atol=1e-3)


@pytest.mark.parametrize("file", ["intrinsic/intrinsic_color.txt", "intrinsic_color.txt"])
def test_scannets_lens_counts_from_the_middle_of_the_first_pixel(tmp_path, file):
    """Its calibration takes pixel i along (i - cx) / fx; the ray through the same pixel here starts at i + 0.5."""
    write_scannet(tmp_path, plain())
    shutil.rmtree(tmp_path / "intrinsics")
    fx, cx, cy = 30.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2  # as the factory's 319.5 of 640 pixels
    (tmp_path / "intrinsic").mkdir()
    np.savetxt(tmp_path / file, [[fx, 0, cx, 0], [0, fx, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = read_views(tmp_path, options(frame="keep"))
    assert torch.allclose(found.cameras.principal_point, torch.tensor([WIDTH / 2, HEIGHT / 2]))
    _, directions = found.cameras[[0]].rays()
    local = directions[0] @ found.cameras.c2w[0, :3, :3]
    along = local[..., 0] / -local[..., 2]
    expected = (torch.arange(WIDTH) - cx) / fx
    assert torch.allclose(along, expected.expand(HEIGHT, -1), atol=1e-5)


def test_the_axis_of_nsvfs_blender_views_goes_through_the_pictures_middle(tmp_path):
    """``f cx cy`` with cx half the width: counted from the corner, as Blender rendered it."""
    write_nsvf(tmp_path, plain())
    focal = plain().focal_px[0].item()
    (tmp_path / "intrinsics.txt").write_text(
        f"{focal} {WIDTH / 2} {HEIGHT / 2} 0.\n0. 0. 0.\n0.\n1.\n18 24\n"
    )
    found = read_views(tmp_path, options(frame="keep"))
    assert torch.equal(found.cameras.principal_point[0], torch.tensor([WIDTH / 2, HEIGHT / 2]))
    assert torch.allclose(found.cameras.rays()[1], plain().rays()[1], atol=2e-5)


def test_the_largest_colmap_model_is_taken_and_said(tmp_path):
    write_colmap(tmp_path, each_its_own())
    notes = read_views(tmp_path, options(frame="keep")).notes
    assert "COLMAP model 1: 4 of 4 pictures have a camera; the largest of 2 models, not 0 with 2" in notes


def test_a_scans_sphere_becomes_ours(tmp_path):
    """What scale_mat says is the object's: its center at the origin, its radius 0.5, the mean camera upright."""
    write_neus(tmp_path, each_its_own())
    found = read_views(tmp_path, options())
    away = (each_its_own().position - torch.tensor(SPHERE[0])).norm(dim=1) * (0.5 / SPHERE[1])
    assert torch.allclose(found.cameras.position.norm(dim=1), away, atol=1e-5)
    assert found.cameras.c2w[:, :3, 1].mean(0)[:2].abs().max() < 1e-5


def test_a_camera_matrix_is_taken_apart_whatever_its_sign():
    upper = torch.tensor([[30.0, 0.2, 11.0], [0, 28.0, 8.0], [0, 0, 1.0]], dtype=torch.float64)
    rotation = plain().c2w[1, :3, :3].double()
    for factor in (1.0, -2.5):
        k, r = upper_times_rotation(factor * upper @ rotation)
        assert torch.allclose(k / k[2, 2], upper, atol=1e-6) and torch.allclose(r, rotation, atol=1e-6)


# ----------------------------------------------------------------------------------------- phones: masks and depths


def depth_planes() -> list[np.ndarray]:
    """Millimeters along the view axis: a plane at 1.5 m, with a hole."""
    made = [np.full((HEIGHT, WIDTH), 1500 + 10 * i, np.uint16) for i in range(COUNT)]
    for plane in made:
        plane[2:4, 3:6] = 0
    return made


@pytest.mark.parametrize("program", ["polycam", "record3d", "instant-ngp"])
def test_a_phones_depths_and_masks_come_along(tmp_path, program):
    """Points at the depths along the rays lie on the planes that the files describe."""
    cameras = each_its_own()
    frames = []
    for i, picture in enumerate(pixels()):
        write_picture(tmp_path / f"images/{i}.png", picture[:3])
        write_picture(tmp_path / f"confidence/{i}.png", picture[3:])
        Image.fromarray(depth_planes()[i]).save(tmp_path / f"depth_{i}.png")
        (fx, fy), (cx, cy) = cameras.focals[i].tolist(), cameras.principal_point[i].tolist()
        frame = {"file_path": f"images/{i}.png", "transform_matrix": cameras.c2w[i].tolist()}
        frame = {**frame, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": WIDTH, "h": HEIGHT}
        key = "depth_path" if program == "instant-ngp" else "depth_file_path"
        frames.append({**frame, "mask_path": f"confidence/{i}.png", key: f"depth_{i}.png"})
    head = (
        {"integer_depth_scale": 0.001, "aabb_scale": 4}
        if program == "instant-ngp"
        else {"camera_model": "OPENCV"}
    )
    head = {**head, "depth_unit_scale_factor": 0.001} if program == "record3d" else head
    (tmp_path / "transforms.json").write_text(json.dumps({**head, "frames": frames}))
    found = read_views(tmp_path, options())
    assert found.masked and torch.allclose(found.rgba[:, 3], pixels()[:, 3], atol=0.01)
    origins, directions = found.cameras.rays()
    assert found.depths is not None
    depths = found.depths.all().float() * found.depth_unit
    points = origins + depths * directions
    for i in range(COUNT):
        _, depth = found.cameras[[i]].project(points[i].reshape(-1, 3))
        known = depths[i].flatten() > 0
        assert torch.allclose(depth[0][known], torch.full((int(known.sum()),), 1.5 + 0.01 * i), atol=1e-3)
        assert int((~known).sum()) == 6
    scaled = read_views(tmp_path, options(frame="fit"))
    zoom = (scaled.cameras.position[0] - scaled.cameras.position[1]).norm() / (
        cameras.position[0] - cameras.position[1]
    ).norm()
    assert scaled.depths is not None
    assert torch.allclose(scaled.depths.all().float() * scaled.depth_unit, depths * zoom, rtol=1e-3)


def test_points_of_a_model_are_depths_where_they_were_found(tmp_path):
    """Known points; a track says which picture found which. The second picture is half as large."""
    write_colmap(tmp_path, each_its_own())
    cameras = each_its_own()
    xyz = 0.2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    sparse = tmp_path / "sparse/1"
    rows = sparse.joinpath("images.txt").read_text().splitlines()
    tracks = {0: [7, 8], 2: [7, 9, 11], 3: [10]}
    for view, found in tracks.items():
        rows[2 * view + 1] = " ".join(f"1.0 2.0 {number}" for number in [*found, -1])
    sparse.joinpath("images.txt").write_text("\n".join(rows) + "\n")
    lines = [f"{7 + i} {' '.join(map(str, p.tolist()))} 10 20 30 0.5 1 0 3 1" for i, p in enumerate(xyz)]
    sparse.joinpath("points3D.txt").write_text("# Number of points: 5\n" + "\n".join(lines) + "\n")
    views = read_views(tmp_path, options(frame="keep"))
    expected = [(view, number - 7) for view, numbers in sorted(tracks.items()) for number in numbers]
    assert views.points.view.tolist() == [view for view, _ in expected]
    for row, (view, number) in enumerate(expected):
        place = cameras[[view]].project(xyz[[number]])[0][0, 0]
        assert torch.allclose(views.points.pixel[row], place, atol=1e-3)
        distance = (xyz[number] - cameras.position[view]).norm()
        assert float(views.points.depth[row]) == pytest.approx(float(distance), rel=1e-5)
    some = views.select([3, 0]).points
    assert sorted(some.view.tolist()) == [0, 1, 1] and len(some) == 3
    assert torch.allclose(views.resized(HEIGHT * 2, WIDTH * 2).points.pixel, 2 * views.points.pixel)


def test_a_world_of_map_coordinates_keeps_its_digits(tmp_path):
    """UTM: half a million meters east, five million north. 32 bits there are half a meter."""
    write_colmap(tmp_path, each_its_own())
    truth = read_views(tmp_path, options())
    shift = torch.tensor([500_000.0, 5_300_000.0, 400.0], dtype=torch.float64)
    file = tmp_path / "sparse/1/images.txt"
    rows = file.read_text().splitlines()
    for i in range(COUNT):
        words = rows[2 * i].split(" ")
        numbers = [float(word) for word in words[1:8]]
        w2c = torch.linalg.inv(pose_of(numbers[:4], numbers[4:], "x") @ FLIP)
        words[5:8] = map(str, (w2c[:3, 3] - w2c[:3, :3] @ shift).tolist())
        rows[2 * i] = " ".join(words)
    file.write_text("\n".join(rows) + "\n")
    found = read_views(tmp_path, options())
    assert torch.allclose(found.cameras.c2w, truth.cameras.c2w, atol=2e-4)
    assert any(note.startswith("world centered: the cameras are 5.32e+06 from") for note in found.notes)


@pytest.mark.parametrize(
    ("layout", "change", "said"),
    [
        ("neus", lambda f: (f / "cameras_sphere.npz").write_bytes(b"no"), "cannot be read as an archive"),
        (
            "polycam",
            lambda f: (f / "keyframes/corrected_cameras/101.json").write_text("{}"),
            "101.json: width is None; expected a number",
        ),
        (
            "record3d",
            lambda f: (f / "EXR_RGBD/metadata.json").write_text('{"w": 24, "h": 18, "poses": [[0, 0, 1]]}'),
            "poses is no list of 7 numbers each",
        ),
        (
            "record3d",
            lambda f: [
                file.rename(file.with_name("x" + file.name)) for file in (f / "EXR_RGBD/rgb").iterdir()
            ],
            r"none of its 5 frames has a picture; expected rgb/0\.jpg",
        ),
        ("metashape", lambda f: shutil.rmtree(f / "photos"), r"none of its 4 pictures exist \(v0\)"),
        (
            "metashape",
            lambda f: (f / "scan.xml").write_text((f / "scan.xml").read_text()[:-30]),
            "scan.xml: is not readable XML",
        ),
        ("metashape", lambda f: write_metashape(f, plain(), k4=0.1), "sensor .: k4 cannot be expressed"),
        ("metashape", lambda f: write_metashape(f, plain(), b2=3), "sensor .: b2 cannot be expressed"),
        (
            "metashape",
            lambda f: write_metashape(f, plain(), "spherical"),
            "is a spherical camera; expected a frame",
        ),
        ("metashape", lambda f: write_metashape(f, plain(), f="x"), "sensor .: f is 'x'; expected 1 number"),
        (
            "splats",
            lambda f: (f / "cameras.json").write_text('[{"img_name": "v0", "width": 24, "height": "no"}]'),
            "camera 0: height is 'no'; expected a number",
        ),
        (
            "splats",
            lambda f: (
                shutil.rmtree(f / "images"),
                (f / "cfg_args").write_text("Namespace(sh_degree=3, source_path='/data/garden')"),
            ),
            r"none of its 5 pictures exist \(v3\); expected them in images/ .* trained on \(/data/garden\)",
        ),
        ("neus", lambda f: (f / "mask/000.png").unlink(), "3 masks of 4 pictures; expected one each"),
        (
            "llff",
            lambda f: (f / "images/IMG_1.png").unlink(),
            "has 4 cameras, images/ 3 pictures; expected as many",
        ),
        (
            "llff",
            lambda f: np.save(f / "poses_bounds.npy", np.zeros(17)),
            r"has shape \(17,\); expected \(pictures, 17\)",
        ),
        (
            "mvsnet",
            lambda f: (f / "cams/00000001_cam.txt").write_text("extrinsic"),
            "expected `extrinsic` with 16",
        ),
        ("nsvf", lambda f: (f / "intrinsics.txt").write_text("30 12"), "has 2 numbers; expected a matrix"),
        (
            "nsvf",
            lambda f: (f / "intrinsics.txt").write_text("0 12 9"),
            "focal lengths 0, 0; expected positive",
        ),
        ("nsvf", lambda f: (f / "pose/0_0001.txt").write_text("1 2 a"), "0_0001.txt: is no list of numbers"),
        ("nsvf", lambda f: (f / "pose/0_0001.txt").write_text("1 2 3"), "has 3 numbers; expected 4 x 4"),
        ("nsvf", lambda f: (f / "pose/0_0001.txt").write_text("2 " * 16), "is not a rotation"),
        (
            "nsvf",
            lambda f: (f / "bbox.txt").write_text("1 2 3"),
            "bbox.txt: has 3 numbers; expected two corners",
        ),
        (
            "nsvf",
            lambda f: (
                shutil.move(f / "rgb/0_0000.png", f / "rgb/x")
                and [file.unlink() for file in (f / "rgb").glob("0_*")]
            ),
            r"none of its 4 poses has a picture; expected rgb/0_0000\.png",
        ),
        (
            "scannet",
            lambda f: (f / "intrinsics/9.txt").unlink(),
            r"9\.txt: no such file; expected the lens of",
        ),
        (
            "scannet",
            lambda f: [file.write_text("inf " * 16) for file in (f / "pose").iterdir()],
            "is finite; expected",
        ),
    ],
)
def test_what_is_wrong_with_a_layout_is_one_clear_line(tmp_path, layout, change, said):
    WRITERS[layout][0](tmp_path, WRITERS[layout][1]())
    change(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        read_views(tmp_path, options())
    assert "\n" not in str(caught.value)


def test_a_phones_own_cameras_are_used_where_none_were_corrected(tmp_path):
    write_polycam(tmp_path, each_its_own())
    for kind in ("images", "cameras"):
        shutil.rmtree(tmp_path / f"keyframes/corrected_{kind}")
    for i, plane in enumerate(depth_planes()):
        for kind, values in (("depth", plane), ("confidence", (plane > 0).astype(np.uint8) * 255)):
            (tmp_path / f"keyframes/{kind}").mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / f"keyframes/{kind}/{100 + i}.png")
    (tmp_path / "keyframes/cameras/103.json").rename(tmp_path / "keyframes/cameras/104.json")
    found = read_views(tmp_path / "keyframes", options(frame="keep"))
    assert found.notes[:2] == (
        "Polycam's raw data: 3 pictures, the phone's own cameras",
        "1 of 4 cameras have no picture",
    )
    assert found.cameras.position[:, 1].tolist() == [9.0] * 3 and found.depths is not None
    along = found.depths.view(0)[..., 0].float() * found.depth_unit
    assert float(along[along > 0].min()) == pytest.approx(1.5, rel=1e-2) and int((along == 0).sum()) == 6


def test_a_scan_of_smaller_pictures_than_its_cameras_were_found_for_is_told_by_the_middle(tmp_path):
    write_neus(tmp_path, each_its_own())
    truth = read_views(tmp_path, options(frame="keep"))
    (tmp_path / "image").rename(tmp_path / "images")
    for file in (tmp_path / "images").iterdir():
        Image.open(file).resize((WIDTH // 2, HEIGHT // 2)).save(file)
    found = read_views(tmp_path, options(frame="keep"))
    assert torch.allclose(found.cameras.focals * 2, truth.cameras.focals, rtol=1e-5)
    assert torch.allclose(found.cameras.principal_point * 2, truth.cameras.principal_point, rtol=1e-5)
    assert "4 of 4 pictures are smaller than those that their cameras were found for" in found.notes


def test_poses_that_do_not_fit_their_pictures_give_way_to_the_model_beside(tmp_path):
    """LLFF's cameras belong to pictures by their order alone, which one picture without a camera breaks."""
    write_llff(tmp_path, plain())
    write_picture(tmp_path / "images/IMG_00.png", pixels()[0])
    (tmp_path / "images/._IMG_0.png").touch()
    write_text(tmp_path / "sparse/0", plain(), f"1 PINHOLE {WIDTH} {HEIGHT} 30 30 12 9", "IMG_{}.png")
    found = read_views(tmp_path, options(frame="keep"))
    assert found.names == tuple(f"IMG_{i}.png" for i in range(COUNT))
    assert found.notes[0] == "COLMAP model 0: 4 of 5 pictures have a camera"


def write_both(folder: Path, cameras: Cameras) -> None:
    """A model with a bent lens and a point, and LLFF's array made of it, as mip-NeRF 360's scenes have them."""
    write_llff(folder, cameras)
    lens = f"1 OPENCV {WIDTH} {HEIGHT} {cameras.focal_px[0].item()} 31 11.5 9.5 0.05 0 0 0"
    sparse = write_text(folder / "sparse/0", cameras, lens, "IMG_{}.png")
    rows = (sparse / "images.txt").read_text().splitlines()
    rows[3] = "1.0 2.0 7"  # behind two comments and the first picture
    (sparse / "images.txt").write_text("\n".join(rows) + "\n")
    (sparse / "points3D.txt").write_text("7 0.1 -0.2 0.05 10 20 30 0.5 1 0\n")


def test_a_model_goes_before_the_array_that_was_made_of_it(tmp_path):
    """LLFF's array has one focal length, and neither principal point, distortion nor points."""
    write_both(tmp_path, plain())
    found = read_views(tmp_path, options(frame="keep"))
    assert found.cameras.focals[0].tolist() == pytest.approx([plain().focal_px[0].item(), 31])
    assert found.cameras.principal_point[0].tolist() == pytest.approx([11.5, 9.5])
    assert found.points is not None and len(found.points) == 1 and len(found) == COUNT
    assert torch.allclose(found.cameras.c2w, plain().c2w, atol=1e-5)
    (note,) = [note for note in found.notes if "poses_bounds.npy" in note]
    assert note == "the COLMAP model taken, not poses_bounds.npy, which knows neither distortion nor points"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: write_text(f / "sparse/0", plain()[:2], name="IMG_{}.png"),
            "which has 2 of the 4 pictures",
        ),
        (lambda f: (f / "sparse/0/images.txt").write_text("1 0 0"), "has 3 fields"),
        (
            lambda f: (f / "sparse/0/cameras.txt").write_text(f"1 EQUIRECTANGULAR {WIDTH} {HEIGHT} 24 18"),
            "a EQUIRECTANGULAR camera",
        ),
    ],
)
def test_the_array_is_taken_where_the_model_beside_it_has_less(tmp_path, change, said):
    write_both(tmp_path, plain())
    change(tmp_path)
    found = read_views(tmp_path, options(frame="keep"))
    assert torch.allclose(found.cameras.c2w, plain().c2w, atol=1e-5) and len(found) == COUNT
    (note,) = [
        note for note in found.notes if "poses_bounds.npy taken, not the COLMAP model beside it" in note
    ]
    assert said in note


@pytest.mark.parametrize("place", ["input", ""])
def test_cameras_of_splats_are_read_by_their_file_too(tmp_path, place):
    write_splat_cameras(tmp_path, plain())
    for file in sorted((tmp_path / "images").iterdir()):
        (tmp_path / place).mkdir(exist_ok=True)
        file.rename(tmp_path / place / file.name)
    (tmp_path / "images").rmdir()
    text = (tmp_path / "cameras.json").read_text()
    (tmp_path / "cameras.json").write_text(text.replace('"v1"', '"v1.png"'))
    found = read_views(tmp_path / "cameras.json", options(frame="keep"))
    assert torch.allclose(found.cameras.c2w, plain().c2w, atol=1e-5)
    assert found.notes[:2] == (
        "cameras of 3D Gaussian splatting: 4 pictures",
        "1 of 5 cameras have no picture",
    )


@pytest.mark.parametrize("kind", ["frame", "fisheye"])
def test_metashapes_distortion_follows_its_manual(tmp_path, kind):
    """x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + p1 (r^2 + 2 x^2) + 2 p2 x y, of angles for a fisheye, y' likewise."""
    numbers = {"k1": 0.05, "k2": -0.02, "k3": 0.01, "p1": 0.003, "p2": -0.002}
    far = f'<camera label="far" component_id="1"><transform>{"0 " * 16}</transform></camera>'
    write_metashape(tmp_path, plain(), kind, "v{}.JPG", far + '<camera label="lost"/>', **numbers)
    (view, *_), notes = (made := read_metashape(tmp_path / "scan.xml", "x")).views, made.notes
    point = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    x, y = (point[:2] * (point[:2].norm().atan() / point[:2].norm() if kind == "fisheye" else 1)).tolist()
    r2, (k1, k2, k3, p1, p2) = x * x + y * y, numbers.values()
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    bent = [
        x * radial + p1 * (r2 + 2 * x * x) + 2 * p2 * x * y,
        y * radial + p2 * (r2 + 2 * y * y) + 2 * p1 * x * y,
    ]
    focal = plain().focal_px[0].item()
    expected = [WIDTH / 2 + focal * bent[0], HEIGHT / 2 + focal * bent[1]]
    assert view.lens.project(point).tolist() == pytest.approx(expected, abs=1e-6)
    assert notes == (
        "Metashape's cameras: 4 of 6 pictures",
        "2 of 6 frames have no camera and are left out: far, lost",
        "4 of 4 pictures undistorted",
    )


def test_points_beside_a_transforms_json_are_used_if_their_cameras_are_the_files(tmp_path):
    """nerfstudio's applied_transform moves them, and applied_scale scales them."""
    write_colmap(tmp_path / "colmap", each_its_own())
    (tmp_path / "colmap/sparse/0").joinpath("images.txt").write_text("")
    sparse, cameras = tmp_path / "colmap/sparse/1", each_its_own()
    rows = sparse.joinpath("images.txt").read_text().splitlines()
    rows[1] = "1.0 2.0 7"
    sparse.joinpath("images.txt").write_text("\n".join(rows) + "\n")
    sparse.joinpath("points3D.txt").write_text("7 0.1 -0.2 0.05 10 20 30 0.5 1 0\n")
    turn = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    frames = []
    for i in range(COUNT):
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = turn @ cameras.c2w[i, :3, :3], 0.5 * turn @ cameras.position[i]
        numbers = dict(zip(("fl_x", "fl_y"), cameras.focals[i].tolist()))
        numbers |= dict(zip(("cx", "cy"), cameras.principal_point[i].tolist()))
        frames.append(
            {"file_path": f"colmap/images/left/{i}.png", "transform_matrix": pose.tolist(), **numbers}
        )
    content = {"frames": frames, "applied_transform": torch.cat([turn, torch.zeros(3, 1)], 1).tolist()}
    for scale in (0.5, None):
        (tmp_path / "transforms.json").write_text(
            json.dumps({**content, **({"applied_scale": scale} if scale else {})})
        )
        found = read_views(tmp_path, options(frame="keep"))
        if scale is None:
            assert found.points is None and any("points of colmap/ left out" in note for note in found.notes)
            continue
        away = (torch.tensor([0.1, -0.2, 0.05]) - cameras.position[0]).norm() * scale
        assert found.points.depth.tolist() == pytest.approx([float(away)], rel=1e-4)


@pytest.mark.parametrize("layout", ["neus", "mvsnet"])
def test_what_has_no_counterpart_is_left_out_and_counted(tmp_path, layout):
    WRITERS[layout][0](tmp_path, WRITERS[layout][1]())
    if layout == "neus":
        for kind, name in (("image", "000004.png"), ("mask", "004.png")):
            write_picture(tmp_path / kind / name, read_rgba(tmp_path / "image/000000.png"))
    else:
        (tmp_path / "blended_images/00000003.png").unlink()
    found = read_views(tmp_path, options(frame="keep"))
    said = {
        "neus": "1 of 5 frames have no camera and are left out: 000004.png",
        "mvsnet": "1 of 4 cameras have no picture",
    }
    assert said[layout] in found.notes and len(found) == (4 if layout == "neus" else 3)
