"""Stand-ins for what a user of threestudio has: a sentence, a picture with depth and normals, a mesh, captures."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from usd.app.toys import write_toy
from usd.data.pictures import write_picture
from usd.math.camera import Cameras, orbit_cameras_deg
from usd.toybox import REFERENCE_FOV_DEG, TEST_SEED
from usd.toybox.cameras import reference_camera
from usd.toybox.objects import make_toy
from usd.toybox.render import render
from usd.toybox.scene import Toy

PICTURE = Path("load/images/hamburger_rgba.png")
"""Where threestudio keeps the picture that several of its recipes name."""

CORNERS = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
VIEWS, SIZE = 6, 32
FRAMES = 101  # CO3D's recipe takes the frames 0, 50 and 100


def write_inputs(folder: Path) -> Mapping[str, str]:
    """Write the stand-ins below ``folder``; return the values of the keys that recipes leave open."""
    toy = make_toy(TEST_SEED, 0.0, None)
    picture = render([toy], reference_camera(2 * SIZE))
    place = folder / PICTURE
    place.parent.mkdir(parents=True)
    write_picture(place, picture.rgba()[0])
    near = 1 - picture.depth / picture.depth.max()
    write_picture(place.with_name("hamburger_depth.png"), near.expand(3, -1, -1))
    write_picture(place.with_name("hamburger_normal.png"), 0.5 + 0.5 * picture.normal[0].permute(2, 0, 1))
    (folder / "capture" / "views").mkdir(parents=True)
    write_toy(toy, folder / "capture", VIEWS, SIZE)
    return {
        "system.prompt_processor.prompt": toy.caption,
        "data.image_path": str(place),
        "data.dataroot": str(folder / "capture"),
        "data.root_dir": str(write_sequence(folder / "co3d", toy)),
        "system.guide_shape": str(write_box(folder / "box.obj")),
        "data.default_elevation_deg": "0.0",
        "data.default_camera_distance": "3.8",
        "data.default_fovy_deg": "20.0",
    }


def write_box(file: Path) -> Path:
    """Write a closed box as an OBJ file; return it."""
    lines = [f"v {x} {y} {z}" for x, y, z in CORNERS]
    lines += [f"f {' '.join(str(i + 1) for i in side)}" for side in SIDES]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def write_sequence(folder: Path, toy: Toy) -> Path:
    """Write a sequence of CO3D (version 2): pictures, masks, depth, and cameras in PyTorch3D's convention."""
    place = folder / "toy" / "1_1"
    for name in ("images", "masks", "depths"):
        (place / name).mkdir(parents=True)
    turns = [360.0 * i / FRAMES for i in range(FRAMES)]
    cameras = orbit_cameras_deg(
        [15.0 + 10 * (i % 2) for i in range(FRAMES)], turns, 1.5, REFERENCE_FOV_DEG, SIZE
    )
    seen = render([toy], cameras)
    along = -torch.einsum("bhwc,bc->bhw", cameras.rays()[1], cameras.c2w[:, :3, 2])
    for i, rgb in enumerate(seen.over_white()):
        write_picture(place / f"images/{i:03d}.png", rgb)
        write_picture(place / f"masks/{i:03d}.png", seen.alpha[i][None])
        depth = (
            (seen.depth[i] * along[i]).half().numpy().view(np.uint16)
        )  # half floats in a picture of integers
        Image.fromarray(depth).save(place / f"depths/{i:03d}.png")
    frames = [frame_annotation(cameras[[i]], i) for i in range(FRAMES)]
    with gzip.open(folder / "toy" / "frame_annotations.jgz", "wt") as file:
        json.dump(frames, file)
    return place


def frame_annotation(camera: Cameras, number: int) -> dict[str, object]:
    """Return what CO3D says of a frame. PyTorch3D's cameras look along +z, with +x to the left."""
    rotation = camera.c2w[0, :3, :3] * torch.tensor([-1.0, 1.0, -1.0])
    focal = 2 * float(camera.focal_px) / SIZE
    files = {name: f"toy/1_1/{name}s/{number:03d}.png" for name in ("image", "mask", "depth")}
    return {
        "sequence_name": "1_1",
        "frame_number": number,
        "image": {"path": files["image"], "size": [SIZE, SIZE]},
        "mask": {"path": files["mask"]},
        "depth": {"path": files["depth"], "scale_adjustment": 1.0},
        "viewpoint": {
            "R": rotation.tolist(),
            "T": (-rotation.T @ camera.position[0]).tolist(),
            "focal_length": [focal, focal],
            "principal_point": [0.0, 0.0],
            "intrinsics_format": "ndc_isotropic",
        },
    }
