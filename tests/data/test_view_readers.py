"""Captures as people have them: orientations, sizes, profiles and names in every layout with cameras."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.icc_profiles import P3, encoded, rgb_profile
from tests.data.test_colmap import options, scene
from tests.data.test_views import balls
from usd.core.errors import UserError
from usd.data import convert, wonder3d, zero123_views
from usd.data.convert import write_views
from usd.data.pictures import EXIF_TURNS, picture_size, write_picture
from usd.data.toy_views import sphere_cameras
from usd.data.view_readers import read_views
from usd.math.camera import Cameras

LAYOUTS = ("transforms", "syncdreamer", "wonder3d", "zero123")


def write(layout, folder):
    """A ball that is not in the middle, seen by a layout's cameras."""
    cameras = convert.layout_cameras(layout, 24, 90.0, 6)
    views = balls(cameras)
    if layout == "wonder3d":
        wonder3d.write_scene(views, folder)
    elif layout == "zero123":
        zero123_views.write_views(views, folder)
    else:
        convert.write_layout(views, folder, layout, 90.0)


def retagged(folder, number: int, turn: bool = False) -> None:
    """Give every picture an EXIF orientation; with ``turn`` store it so that the orientation undoes the turn."""
    exif = Image.Exif()
    exif[0x0112] = number
    for file in [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]:
        picture = Image.open(file)
        picture.load()
        if turn:
            back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
            picture = picture.transpose(back[number])
        picture.save(file, exif=exif)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("number", [3, 6])
def test_pictures_with_cameras_are_read_as_stored_in_every_layout(tmp_path, layout, number):
    write(layout, tmp_path)
    truth = read_views(tmp_path, options())
    retagged(tmp_path, number)
    found = read_views(tmp_path, options())
    assert torch.equal(found.rgba, truth.rgba) and torch.equal(found.cameras.c2w, truth.cameras.c2w)
    assert (found.normals is None) == (truth.normals is None)
    assert found.normals is None or torch.equal(found.normals, truth.normals)
    assert any("not turned by its EXIF orientation" in note for note in found.notes)


def test_colmap_pictures_and_their_masks_are_read_as_stored(tmp_path):
    scene(tmp_path)
    for i in range(6):
        mask = np.zeros((30, 40), np.uint8)
        mask[:12, :17] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/a view {i}.png.png")
    truth = read_views(tmp_path, options(frame="keep", masks="files"))
    retagged(tmp_path, 6)
    found = read_views(tmp_path, options(frame="keep", masks="files"))
    assert torch.equal(found.rgba, truth.rgba) and found.rgba[0, 3, :12, :17].min() == 1
    assert "6 of 6 pictures: not turned by its EXIF orientation" in found.notes


def test_a_size_that_the_file_does_not_say_is_the_stored_one(tmp_path):
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    frames = [{"file_path": "a", "transform_matrix": torch.eye(4).tolist()}]
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    found = read_views(tmp_path, options(masks="none"))
    assert found.rgba.shape == (1, 4, 12, 20) and picture_size(tmp_path / "a.jpg", "x") == (20, 12)


@pytest.mark.parametrize("number", [6, 8])
def test_cameras_of_the_turned_shape_get_the_turned_pictures(tmp_path, number):
    """Stored 30 x 20, shown 20 x 30, and the cameras are 20 x 30: only the upright picture can be meant."""
    cameras = sphere_cameras(4, 30)
    views = balls(Cameras(cameras.c2w, cameras.fov_y, 30, 20))
    write_views(views, tmp_path)
    truth = read_views(tmp_path, options())
    retagged(tmp_path, number, turn=True)
    assert picture_size(tmp_path / "views/0000.png", "x") == (30, 20)
    found = read_views(tmp_path, options())
    assert torch.equal(found.rgba, truth.rgba)
    assert "4 of 4 pictures: turned by its EXIF orientation" in found.notes and number in EXIF_TURNS


def test_a_folder_that_cannot_be_converted_is_named_once(tmp_path, capsys):
    assert convert.main([str(tmp_path), str(tmp_path / "out"), "--layout", "zero123"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: SOURCE: {tmp_path}: ") and said.count(str(tmp_path)) == 1


def test_wide_gamut_captures_are_converted_and_counted(tmp_path):
    write("transforms", tmp_path)
    for file in sorted((tmp_path / "views").iterdir())[:4]:
        alpha = Image.open(file).getchannel("A")
        picture = Image.new("RGB", alpha.size, tuple(encoded((200, 40, 30), P3).tolist()))
        picture.putalpha(alpha)
        picture.save(file, icc_profile=rgb_profile("Display P3", P3))
    found = read_views(tmp_path, options())
    assert "4 of 6 pictures: colors converted from Display P3 to sRGB" in found.notes
    shown = found.rgba[0, :3][:, found.rgba[0, 3] > 0.5]
    assert (255 * shown.mean(1)).tolist() == pytest.approx([200, 40, 30], abs=2)


@pytest.mark.parametrize("layout", ["transforms", "zero123", "colmap", "wonder3d"])
def test_a_picture_beyond_the_limit_is_one_line_in_every_layout(tmp_path, monkeypatch, layout):
    if layout == "colmap":
        scene(tmp_path)
    else:
        write(layout, tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError) as caught:
        read_views(tmp_path, options())
    said = str(caught.value)
    assert "megapixels; expected fewer" in said and "\n" not in said


def test_a_size_cannot_be_asked_of_a_picture_beyond_the_limit(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(tmp_path / "a.png")
    frames = [{"file_path": "a.png", "transform_matrix": torch.eye(4).tolist()}]
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"frames\[0\]: .*a\.png: has more than 0 megapixels"):
        read_views(tmp_path, options())


# ----------------------------------------------------------------------------------------------------------- names


def renamed(folder, change) -> None:
    content = json.loads((folder / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["file_path"] = change(frame["file_path"])
    (folder / "transforms.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda name: name.removesuffix(".png"),
        lambda name: name.replace("/", "\\"),
        lambda name: ".\\" + name.replace("/", "\\").removesuffix(".png"),
        lambda name: "D:\\scans\\ball\\" + name.replace("/", "\\"),
        lambda name: "/mnt/scans/ball/" + name,
    ],
    ids=["case", "no ending", "slashes", "slashes, no ending", "a Windows path", "another machine"],
)
def test_pictures_of_a_transforms_json_are_found_by_any_name(tmp_path, change):
    write("transforms", tmp_path)
    truth = read_views(tmp_path, options())
    masks = tmp_path / "masks"
    masks.mkdir()
    for file in (tmp_path / "views").iterdir():
        Image.open(file).getchannel("A").save(masks / file.name.upper())
    renamed(tmp_path, change)
    for policy in ("alpha", "files"):
        found = read_views(tmp_path, options(masks=policy))
        assert torch.equal(found.rgba, truth.rgba)


def test_files_in_capitals_are_files_of_their_layout(tmp_path):
    for layout in LAYOUTS:
        folder = tmp_path / layout
        write(layout, folder)
        truth = read_views(folder, options())
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            file.rename(file.with_suffix(file.suffix.upper()))
        assert torch.equal(read_views(folder, options()).rgba, truth.rgba)


def test_pictures_that_are_not_there_are_counted_with_a_hint(tmp_path):
    write("transforms", tmp_path)
    file = tmp_path / "views/0002.png"
    Image.open(file).convert("RGB").save(file.with_suffix(".jpg"))
    file.unlink()
    found = read_views(tmp_path, options())
    assert "1 of 6 frames have no picture (views/0002.png; did you mean '0002.jpg'?)" in found.notes
    renamed(tmp_path, lambda name: name.replace("000", "view_000"))
    with pytest.raises(UserError, match=r"none of its 6 pictures exist \(views/view_0000\.png\)"):
        read_views(tmp_path, options())


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda name: name.replace(".png", ".JPG"), "views"),
        (lambda name: "images/" + name, "views"),
        (lambda name: name.replace("views/", "/home/me/scan/images_4/"), "views"),
    ],
    ids=["another ending", "a folder more", "another folder"],
)
def test_pictures_none_of_which_is_where_the_file_says_are_found_nearby(tmp_path, change, place):
    write("transforms", tmp_path)
    truth = read_views(tmp_path, options())
    (tmp_path / "masks").mkdir()
    for file in (tmp_path / "views").iterdir():
        Image.open(file).getchannel("A").save(tmp_path / "masks" / file.name)
    renamed(tmp_path, change)
    found = read_views(tmp_path, options(masks="alpha"))
    assert torch.equal(found.rgba, truth.rgba)
    assert any(f"taken by their names from {place}/" in note for note in found.notes)


@pytest.mark.parametrize(
    "mask",
    ["masks/{}.png", "mask/{}.png", "masks/{}.png.png", "masks/{}_mask.png", "masks/views/{}.png"],
    ids=["masks", "mask", "COLMAP", "Metashape", "subfolder"],
)
def test_masks_are_found_where_tools_write_them(tmp_path, mask):
    write("transforms", tmp_path)
    truth = read_views(tmp_path, options())
    for file in sorted((tmp_path / "views").iterdir()):
        there = tmp_path / mask.format(file.stem)
        there.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.open(file)
        picture.getchannel("A").save(there)
        picture.convert("RGB").save(file)
    found = read_views(tmp_path, options())
    assert found.masked and torch.equal(found.rgba[:, 3], truth.rgba[:, 3])


def test_a_picture_above_the_file_is_not_its_own_mask(tmp_path):
    write("transforms", tmp_path)
    inner = tmp_path / "cameras"
    inner.mkdir()
    (tmp_path / "transforms.json").rename(inner / "transforms.json")
    (inner / "masks").mkdir()
    renamed(inner, lambda name: "../" + name)
    assert "masks are the pictures' alpha" in read_views(inner, options()).notes
    with pytest.raises(UserError, match="6 of 6 pictures have no mask"):
        read_views(inner, options(masks="files"))


def test_an_archive_may_have_been_unpacked_into_a_folder_more(tmp_path):
    inner = tmp_path / "fox" / "fox"
    inner.mkdir(parents=True)
    write("transforms", inner)
    (tmp_path / "fox" / "__MACOSX").mkdir()
    (inner / "transforms.json").rename(inner / "base_cam.json")
    assert len(read_views(tmp_path / "fox", options())) == 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("walk.MP4", r"is a video without cameras; find them first: usd poses \S+walk\.MP4 FOLDER"),
        ("my walk.MP4", r"first: usd poses '\S+my walk\.MP4' FOLDER"),
        ("scan.r3d", "is an archive; expected the folder that it unpacks to"),
        ("", r"has 1 picture but no cameras; expected transforms.*; or find them: usd poses \S+ FOLDER"),
    ],
)
def test_what_has_no_cameras_is_answered_with_the_way_to_them(tmp_path, name, said):
    (tmp_path / (name or "a.jpg")).touch()
    with pytest.raises(UserError, match=said):
        read_views(tmp_path / name if name else tmp_path, options())


@pytest.mark.parametrize("name", ["cameras.sfm", "opensfm/reconstruction.json"])
def test_cameras_of_other_programs_are_named_with_the_way_to_ours(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=rf"1 picture, and cameras of \w+ \({name}\), .*COLMAP"):
        read_views(tmp_path, options())


def test_a_mask_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    write("transforms", tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["mask_path"] = "views/0000.jpg"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    said = r"0000\.jpg: no such file; expected a mask\. Did you mean '0000\.png'\?, or `masks: none` \(5 more"
    with pytest.raises(UserError, match=said):
        read_views(tmp_path, options(masks="files"))
    assert len(read_views(tmp_path, options(masks="none"))) == 6


def test_large_captures_are_reduced_as_they_are_read(tmp_path):
    """The views of a size are those that were resampled at once, within the rounding of two steps."""
    write_views(balls(sphere_cameras(3, 256)), tmp_path)
    small = read_views(tmp_path, options(size=12))
    truth = read_views(tmp_path, options()).resized(12, 12)
    assert small.rgba.shape == (3, 4, 12, 12)
    assert (
        "3 of 3 pictures enlarged to data.size, 300 pixels" in read_views(tmp_path, options(size=300)).notes
    )
    assert float((small.rgba[:, 3] - truth.rgba[:, 3]).abs().max()) < 0.06


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "scan/a/transforms_train.json",
            r"has no cameras itself, but scan/a/transforms_train\.json has; expected .*scan/a",
        ),
        ("scan.zip", r"holds an archive, scan\.zip; expected the folder that it unpacks to"),
    ],
)
def test_what_a_folder_has_instead_is_said(tmp_path, file, said):
    for name in ("one", "other"):
        write_picture(tmp_path / name / "a.png", torch.rand(3, 8, 8))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("[]")
    with pytest.raises(UserError, match=said):
        read_views(tmp_path, options())


POSE = "0 0 0\n" + "1 0 0 0.5\n0 1 0 -0.5\n0 0 1 2e-1\n0 0 0 1\n"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "a.xml",
            '<?xml version="1.0"?>\n<BlocksExchange version="3.2">',
            r"cameras of ContextCapture .* for COLMAP",
        ),
        ("a.csv", "#name,x,y,alt,heading,pitch,roll,f\n", r"cameras of RealityCapture \(a\.csv\)"),
        (
            "Barn_COLMAP_SfM.log",
            POSE,
            r"cameras of Tanks and Temples .* expected a lens beside.*usd poses finds",
        ),
        ("Calibration/cal18/pos_001.txt", "1 0 0 0", r"cameras of DTU .* as NeuS shares it"),
    ],
)
def test_cameras_that_are_not_read_are_told_by_their_content(tmp_path, file, content, said):
    write_picture(tmp_path / "pictures/a.png", torch.rand(3, 8, 8))
    (tmp_path / "notes").mkdir()
    for other in ("other.log", "other.csv", "other.xml"):
        (tmp_path / other).write_text("begun at noon, 3 pictures\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=f"has 1 picture, and {said}"):
        read_views(tmp_path, options())
    if "/" not in file:
        with pytest.raises(UserError, match=said):
            read_views(tmp_path / file, options())
