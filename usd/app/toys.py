"""``usd toybox``: render a toy with its ground truth, or a sheet of many to look at."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from usd.core import process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.progress import each
from usd.data.pictures import contact_sheet, write_picture
from usd.data.transforms import write_transforms
from usd.math.mesh import vertex_normals
from usd.mesh_io.axes import y_up_from_z_up
from usd.mesh_io.write import ExportMesh, glb_bytes
from usd.toybox import REFERENCE_AZIMUTH_DEG, REFERENCE_ELEVATION_DEG, TEST_SEED
from usd.toybox.cameras import cameras_at, held_out_cameras, reference_camera
from usd.toybox.mesh import toy_mesh
from usd.toybox.objects import UNCAPTIONED_SHARE, make_toy
from usd.toybox.render import render
from usd.toybox.scene import Toy
from usd.toybox.shapes import SHAPES


def write_toy(toy: Toy, folder: Path, views: int, size: int) -> list[Path]:
    """Write ``input.png``, ``views/*.png``, ``transforms.json``, ``mesh.glb``, ``caption.txt`` (depth, normals)."""
    cameras = held_out_cameras(views, size)
    pictures, first = render([toy], cameras), render([toy], reference_camera(size))
    names = [f"views/{i:04d}.png" for i in range(views)]
    written = [
        write_picture(folder / name, picture) for name, picture in zip(names, pictures.rgba(), strict=True)
    ]
    written.append(write_picture(folder / "input.png", first.rgba()[0]))
    written.append(write_transforms(folder / "transforms.json", [cameras[[i]] for i in range(views)], names))
    for target, content in {
        "mesh.glb": toy_glb(toy),
        "caption.txt": f"{toy.caption}\n".encode(),
        "toy.json": json.dumps({"category": toy.category, "yaw_deg": math.degrees(toy.yaw)}).encode(),
    }.items():
        (folder / target).write_bytes(content)
        written.append(folder / target)
    return written


def toy_glb(toy: Toy) -> bytes:
    """Return the toy's mesh as a binary glTF (y up), with vertex colors and without a viewer's light."""
    mesh = toy_mesh(toy)
    normals = vertex_normals(mesh.vertices, mesh.faces)
    return glb_bytes(
        ExportMesh(replace(mesh, vertices=y_up_from_z_up(mesh.vertices)), y_up_from_z_up(normals), unlit=True)
    )


def write_sheet(path: Path, first_seed: int, columns: int, size: int) -> None:
    """Write one column a category (uncaptioned last) of three toys, from the reference camera and from behind."""
    cameras = cameras_at(
        [REFERENCE_ELEVATION_DEG, 30.0], [REFERENCE_AZIMUTH_DEG, REFERENCE_AZIMUTH_DEG + 140], size
    )
    rows: list[torch.Tensor] = []
    for k in each(range(3), "rendering toys, rows"):
        toys = [make_toy(first_seed + k, 0.0, category) for category in SHAPES] + [
            make_toy(first_seed + k, 1.0)
        ]
        rows.extend(render([toy], cameras).over_white() for toy in toys)
    pictures = torch.cat(rows)
    write_picture(path, contact_sheet(pictures, columns))


def toybox_parser() -> argparse.ArgumentParser:
    """Return the parser of ``usd toybox``."""
    parser = argparse.ArgumentParser(prog="usd toybox", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("render", help="a toy's input picture, held-out views, cameras, mesh and caption")
    one.add_argument("--seed", type=int, required=True, help=f"from {TEST_SEED} up: the test split")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--views", type=int, default=16)
    one.add_argument("--size", type=int, default=256)
    one.add_argument(
        "--category", choices=sorted(SHAPES), help="a named toy of this kind, whatever the seed says"
    )
    one.add_argument("--uncaptioned-share", "--nameless-share", type=float, default=UNCAPTIONED_SHARE)
    many = verbs.add_parser("sheet", help="a contact sheet of all categories")
    many.add_argument("--out", type=Path, default=Path("outputs/toybox.png"))
    many.add_argument("--seed", type=int, default=0)
    many.add_argument("--columns", type=int, default=16)
    many.add_argument("--size", type=int, default=96)
    return parser


def write(args: argparse.Namespace) -> None:
    """Write what the command line asks for. Raises UserError."""
    if args.seed < 0 or args.size < 1 or getattr(args, "views", 1) < 1:
        raise UserError("usd toybox: --seed must be at least 0, --size and --views at least 1")
    if args.verb == "sheet":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(args.out, args.seed, args.columns, args.size)
        say(str(args.out))
        return
    (args.out / "views").mkdir(parents=True, exist_ok=True)
    toy = make_toy(args.seed, args.uncaptioned_share, args.category)
    write_toy(toy, args.out, args.views, args.size)
    say(f"{toy.caption}: {args.out}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return process.run_command(lambda: write(toybox_parser().parse_args(argv)))


if __name__ == "__main__":
    process.start(main)
