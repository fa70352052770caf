"""COLMAP models, text and binary: known cameras come back, and files cut short say where."""

import math
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest
import torch

from usd.core.errors import UserError
from usd.data import colmap
from usd.data.pictures import write_picture
from usd.data.view_readers import ViewOptions, read_views
from usd.math.camera import Cameras, Spherical, orbit_cameras

WIDTH, HEIGHT, FOCAL = 40, 30, 50.0


def options(**changes) -> ViewOptions:
    fields = ViewOptions.__dataclass_fields__
    return ViewOptions(**{**{key: field.default for key, field in fields.items()}, **changes})


def cameras(count=6) -> Cameras:
    place = Spherical(
        torch.full((count,), 0.3), torch.arange(count) * 2 * math.pi / count, torch.full((count,), 2.0)
    )
    return orbit_cameras(place, 2 * math.atan(0.5 * HEIGHT / FOCAL), HEIGHT, WIDTH)


def quaternion(rotation: torch.Tensor) -> list[float]:
    """(w, x, y, z) of a rotation that is not half a turn."""
    w = 0.5 * math.sqrt(max(1e-12, 1 + float(rotation.trace())))
    r = rotation
    return [w, *(float(v) / (4 * w) for v in (r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]))]


def poses(views: Cameras) -> list[tuple[list[float], list[float]]]:
    """COLMAP's world-to-camera rotation and translation of each camera."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    found = []
    for c2w in views.c2w:
        rotation = (c2w[:3, :3] @ flip).T
        found.append((quaternion(rotation), (-rotation @ c2w[:3, 3]).tolist()))
    return found


def write_text(
    folder: Path,
    views: Cameras,
    camera=f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} 20 15",
    name="a view {}.png",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(f"# Camera list\n# Number of cameras: 1\n{camera}\n")
    lines = [f"# Image list\n# Number of images: {len(views)}, mean observations per image: 1"]
    for i, (q, t) in enumerate(poses(views)):
        numbers = " ".join(f"{v:.9f}" for v in (*q, *t))
        lines += [f"{i + 1} {numbers} 1 {name.format(i)}", "1.0 2.0 -1" if i % 2 else ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_binary(folder: Path, views: Cameras, model=0, values=(FOCAL, 20.0, 15.0)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    head = struct.pack("<QiiQQ", 1, 1, model, WIDTH, HEIGHT)
    (folder / "cameras.bin").write_bytes(head + struct.pack(f"<{len(values)}d", *values))
    data = struct.pack("<Q", len(views))
    for i, (q, t) in enumerate(poses(views)):
        data += struct.pack("<i7di", i + 1, *q, *t, 1) + f"a view {i}.png".encode() + b"\0"
        data += struct.pack("<Qddq", 1, 3.0, 4.0, -1)
    (folder / "images.bin").write_bytes(data)
    return folder


def scene(folder: Path, write=write_text, shape=(HEIGHT, WIDTH), **how) -> Path:
    """A model with pictures of a disc in the middle."""
    views = cameras()
    write(folder / "sparse/0", views, **how)
    y, x = torch.meshgrid(torch.arange(shape[0]) + 0.5, torch.arange(shape[1]) + 0.5, indexing="ij")
    disc = ((x - shape[1] / 2) ** 2 + (y - shape[0] / 2) ** 2 < 36).float()
    for i in range(len(views)):
        write_picture(folder / f"images/a view {i}.png", torch.stack([disc, disc * i / 6, disc, disc]))
    return folder


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_cameras_come_back_from_either_form(tmp_path, write):
    found = read_views(scene(tmp_path, write), options(frame="keep"))
    assert torch.allclose(found.cameras.c2w, cameras().c2w, atol=1e-5)
    assert torch.allclose(found.cameras.focal_px, torch.full((6,), FOCAL), atol=1e-3)
    assert found.names == tuple(f"a view {i}.png" for i in range(6)) and found.masked
    assert "6 of 6 pictures" in found.notes[0]


def test_an_arbitrary_world_is_fitted_to_ours(tmp_path):
    """The object lies at (3, 1, 2), the world is upside down and ten times as large; discs of radius 6 px of 50 at 2."""
    there = cameras()
    flip, center = torch.diag(torch.tensor([1.0, -1.0, -1.0])), torch.tensor([3.0, 1.0, 2.0])
    c2w = there.c2w.clone()
    c2w[:, :3, :3] = flip @ c2w[:, :3, :3]
    c2w[:, :3, 3] = 10 * c2w[:, :3, 3] @ flip.T + center
    write_text(scene(tmp_path) / "sparse/0", Cameras(c2w, there.fov_y, HEIGHT, WIDTH))
    found = read_views(tmp_path, options())
    radius = 2 * math.sin(math.atan(6 / 50))
    assert torch.allclose(found.cameras.position, there.position * (0.5 / radius), rtol=0.05, atol=0.05)
    assert torch.allclose(found.cameras.c2w[:, :3, :3], there.c2w[:, :3, :3], atol=1e-3)
    assert any("world fitted" in note for note in found.notes)


@pytest.mark.parametrize("numbers", ["50 50 18 15", "25 50 20 15"], ids=["off-center", "not square"])
def test_a_principal_point_and_focal_lengths_are_the_cameras_and_pictures_stay(tmp_path, numbers):
    found = read_views(scene(tmp_path, camera=f"1 PINHOLE {WIDTH} {HEIGHT} {numbers}"), options(frame="keep"))
    assert found.rgba.shape[-2:] == (HEIGHT, WIDTH) and found.valid is None
    assert found.cameras.intrinsics[0].tolist() == pytest.approx([float(each) for each in numbers.split()])


@pytest.mark.parametrize(
    "lens", ["SIMPLE_RADIAL {} 50 20 15 0.1", "RADIAL {} 50 20 15 0.1 0", "OPENCV {} 50 50 20 15 0.1 0 0 0"]
)
def test_distortion_is_taken_out(tmp_path, lens):
    """The lens and its undistorted pinhole agree near the middle."""
    found = read_views(scene(tmp_path, camera=f"1 {lens.format(f'{WIDTH} {HEIGHT}')}"), options(frame="keep"))
    assert found.rgba.shape[-2:] == (HEIGHT, WIDTH)
    assert torch.allclose(found.cameras.focal_px, torch.full((6,), 50.0), atol=1e-3)
    assert "6 of 6 pictures undistorted" in found.notes
    assert found.rgba[0, 3].nonzero().float().mean(0).tolist() == pytest.approx([14.5, 19.5], abs=0.6)


def test_pictures_may_be_smaller_than_what_colmap_saw(tmp_path):
    found = read_views(scene(tmp_path, shape=(15, 20)), options(frame="keep"))
    assert torch.allclose(found.cameras.fov_y, cameras().fov_y, atol=1e-5) and found.rgba.shape[-1] == 20


def test_cut_binary_files_say_where_they_end(tmp_path):
    folder = scene(tmp_path, write_binary) / "sparse/0"
    for name, sizes in (("images.bin", (4, 60, 100, 300)), ("cameras.bin", (0, 20, 40))):
        whole = (folder / name).read_bytes()
        for size in sizes:
            (folder / name).write_bytes(whole[:size])
            with pytest.raises(UserError, match=rf"{name}: is cut short: ends at byte {size}, within"):
                read_views(tmp_path, options())
        (folder / name).write_bytes(whole)


def test_every_cut_of_a_binary_file_is_noticed(tmp_path):
    folder = write_binary(tmp_path, cameras(2))
    whole = (folder / "images.bin").read_bytes()
    for size in range(len(whole)):
        (folder / "images.bin").write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut short"):
            colmap.read_model(folder, "x")


def test_cut_text_files_say_what_is_missing(tmp_path):
    folder = scene(tmp_path) / "sparse/0"
    text = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join(text[:6]))
    with pytest.raises(UserError, match=r"images\.txt: is cut short: has 2 of 6 pictures"):
        read_views(tmp_path, options())
    (folder / "images.txt").write_text("\n".join(text[:4]) + "\n3 0.5 0.5")
    with pytest.raises(UserError, match=r"line 5 has 3 fields; expected at least 10"):
        read_views(tmp_path, options())


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (f"1 SIMPLE_RADIAL {WIDTH} {HEIGHT} 20 20 15 90", "its brown distortion .90. leaves"),
        (
            f"1 EQUIRECTANGULAR {WIDTH} {HEIGHT} 40 30",
            "is a EQUIRECTANGULAR camera; expected a pinhole or a fish",
        ),
        (f"1 PINHOLE {WIDTH} {HEIGHT} 50 50", "PINHOLE with 2 parameters; expected 4"),
        (f"1 PINHOLE {WIDTH} {HEIGHT} 50 fifty 20 15", "line 3: could not convert"),
        (f"7 PINHOLE {WIDTH} {HEIGHT} 50 50 20 15", "was taken by camera 1, which cameras.txt does not have"),
        ("1 PINHOLE 100 20 50 50 50 10", "expected the shape that its camera has, 100 x 20"),
        (f"1 PINHOLE {WIDTH} {HEIGHT} 0 50 20 15", "focal lengths 0, 50"),
    ],
)
def test_cameras_we_do_not_have_are_refused(tmp_path, camera, message):
    with pytest.raises(UserError, match=message):
        read_views(scene(tmp_path, camera=camera), options())


def test_half_a_model_and_a_model_without_pictures(tmp_path):
    folder = scene(tmp_path)
    for file in (folder / "images").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="none of the 6 pictures of its COLMAP model exist"):
        read_views(folder, options())
    (folder / "sparse/0/cameras.txt").unlink()
    with pytest.raises(UserError, match=r"has no cameras\.txt; expected a whole COLMAP model"):
        read_views(folder, options())


def test_an_unknown_model_number_is_named(tmp_path):
    folder = write_binary(tmp_path, cameras(1), model=77)
    with pytest.raises(UserError, match="camera 1 of 1 is of model 77, which is unknown"):
        colmap.read_model(folder, "x")


def test_masks_beside_the_pictures_are_found(tmp_path):
    folder = scene(tmp_path)
    for i in range(6):
        write_picture(folder / f"images/a view {i}.png", torch.rand(3, HEIGHT, WIDTH))
        mask = torch.zeros(1, HEIGHT, WIDTH)
        mask[:, 10:20, 15:25] = 1
        write_picture(folder / f"masks/a view {i}.png.png", mask)
    found = read_views(folder, options())
    assert found.masked and found.rgba[:, 3].sum().item() == pytest.approx(600)
    assert "masks are the files beside the pictures" in found.notes
    (folder / "masks/a view 3.png.png").unlink()
    with pytest.raises(UserError, match=r"1 of 6 pictures have no mask \(a view 3\.png\)"):
        read_views(folder, options())


# -------------------------------------------------------------------------------------------------- several models


@pytest.mark.parametrize("write", [write_text, write_binary])
@pytest.mark.parametrize("place", ["sparse", "colmap/sparse", "dense/sparse"])
def test_of_several_models_the_largest_is_taken_and_said(tmp_path, write, place):
    scene(tmp_path, write)
    shutil.rmtree(tmp_path / "sparse")
    for number, count in ((0, 3), (1, 6), (2, 2), (10, 6)):
        write(tmp_path / place / str(number), cameras(6)[:count])
    found = read_views(tmp_path, options(frame="keep"))
    assert len(found) == 6
    assert found.notes[0] == (
        "COLMAP model 1: 6 of 6 pictures have a camera; the largest of 4 models, not 10 with 6, 0 with 3, 2 with 2"
    )
    assert read_views(tmp_path / place, options(frame="keep")).names == found.names
    small = read_views(tmp_path / place / "0", options(frame="keep"))
    assert (
        small.names == found.names[:3] and small.notes[0] == "COLMAP model 0: 3 of 6 pictures have a camera"
    )


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_a_model_without_a_number_is_one_too(tmp_path, write):
    scene(tmp_path, write)
    (tmp_path / "sparse/0").rename(tmp_path / "aside")
    for file in (tmp_path / "aside").iterdir():
        file.rename(tmp_path / "sparse" / file.name)
    assert (
        read_views(tmp_path, options(frame="keep")).notes[0]
        == "COLMAP model sparse: 6 of 6 pictures have a camera"
    )


def test_half_a_model_is_not_preferred_to_a_whole_one(tmp_path):
    scene(tmp_path)
    write_text(tmp_path / "sparse/1", cameras(6)[:2])
    (tmp_path / "sparse/0/cameras.txt").unlink()
    assert len(read_views(tmp_path, options(frame="keep"))) == 2


def test_pictures_without_a_camera_are_counted(tmp_path):
    """Of those on disk, or of those that the database says COLMAP was given; those that are gone are said too."""
    scene(tmp_path)
    for name in ("left/b.JPG", "c.jpeg", "notes.txt"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).touch()
    found = read_views(tmp_path, options(frame="keep"))
    assert found.notes[0] == "COLMAP model 0: 6 of 8 pictures have a camera"
    with closing(sqlite3.connect(tmp_path / "database.db")) as database:
        database.execute("create table images (name text)")
        database.executemany("insert into images values (?)", [(str(i),) for i in range(12)])
        database.commit()
    (tmp_path / "images/a view 3.png").unlink()
    found = read_views(tmp_path, options(frame="keep"))
    assert found.notes[:2] == (
        "COLMAP model 0: 5 of 12 pictures have a camera",
        "1 of the 6 pictures of the model are not in images/",
    )
    (tmp_path / "database.db").write_bytes(b"no database")
    assert "5 of 8 pictures" in read_views(tmp_path, options(frame="keep")).notes[0]


def test_pictures_of_a_model_are_found_by_any_name(tmp_path):
    scene(tmp_path)
    truth = read_views(tmp_path, options(frame="keep"))
    for file in list((tmp_path / "images").iterdir()):
        file.rename(file.with_name(file.name.upper()))
    (tmp_path / "images").rename(tmp_path / "input")
    found = read_views(tmp_path, options(frame="keep"))
    assert torch.equal(found.rgba, truth.rgba) and found.names == truth.names
    assert "6 of 6 pictures" in found.notes[0]


@pytest.mark.parametrize("name", ["Images", "images_2", "frames", "RGB"])
def test_pictures_are_found_in_folders_of_other_usual_names(tmp_path, name):
    folder = scene(tmp_path)
    (folder / "masks").mkdir()
    for file in (folder / "images").iterdir():
        shutil.copy(file, folder / "masks" / file.name)
    (folder / "images").rename(folder / name)
    views = read_views(folder, options())
    assert len(views) == 6 and any("6 of 6 pictures have a camera" in note for note in views.notes)
    shutil.rmtree(folder / name)  # masks of the same names are no pictures
    with pytest.raises(UserError, match="none of the 6 pictures"):
        read_views(folder, options())


@pytest.mark.parametrize("place", ["sparse/geo", "undistorted/sparse", "out/colmap/0"])
def test_a_model_in_another_subfolder_is_found(tmp_path, place):
    folder = scene(tmp_path, write_binary)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / "sparse/0").rename(folder / place)
    assert len(read_views(folder, options())) == 6


def test_a_model_that_claims_more_than_it_holds_is_not_preferred(tmp_path):
    folder = scene(tmp_path, write_binary)
    write_binary(folder / "sparse/1", cameras())
    (folder / "sparse/1/images.bin").write_bytes(struct.pack("<Q", 999))
    assert any(note.startswith("COLMAP model 0: 6 of 6") for note in read_views(folder, options()).notes)


def test_a_model_of_undistorted_pictures_takes_those_beside_it(tmp_path):
    """They have the names of the pictures they were made from, which stand in the folder above."""
    scene(tmp_path / "dense")
    shutil.copytree(tmp_path / "dense/images", tmp_path / "images")
    for file in (tmp_path / "images").iterdir():
        write_picture(file, torch.zeros(3, 20, 31))
    (tmp_path / "dense/sparse/0").rename(tmp_path / "dense/model")
    (tmp_path / "dense/sparse").rmdir()
    (tmp_path / "dense/model").rename(tmp_path / "dense/sparse")
    found = read_views(tmp_path, options(frame="keep"))
    assert (found.height, found.width) == (HEIGHT, WIDTH) and float(found.rgba[:, 0].max()) == 1


def test_pictures_with_another_ending_than_in_the_model_are_taken_and_said(tmp_path):
    """Pictures that were cut out since are PNG files."""
    scene(tmp_path, name="a view {}.jpg")
    found = read_views(tmp_path, options(frame="keep"))
    assert len(found) == 6 and found.masked
    assert "pictures have other names than in the model (a view 0.jpg): taken from images/" in found.notes


def test_lines_of_observations_may_be_left_away(tmp_path):
    scene(tmp_path)
    truth = read_views(tmp_path, options(frame="keep"))
    file = tmp_path / "sparse/0/images.txt"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines() if line.endswith(".png")))
    found = read_views(tmp_path, options(frame="keep"))
    assert torch.equal(found.cameras.c2w, truth.cameras.c2w) and len(found) == 6


def test_of_two_forms_the_whole_one_is_read(tmp_path):
    scene(tmp_path)
    (tmp_path / "sparse/0/cameras.bin").write_bytes(b"")
    assert len(read_views(tmp_path, options(frame="keep"))) == 6
