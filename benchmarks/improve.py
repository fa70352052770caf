"""``python -m benchmarks.improve``: textures of toys whose backs were blurred, made better, against the truth.

Each toy is unwrapped and its true colors are baked. The part that the reference camera does not see is blurred over the
surface, so that only its rough colors are left. ``usd improve`` gets that file and the toy's picture. Measured are the
PSNR of the texture's texels on the surface, before and after, against the truth, and whether everything in the file but
the picture is the same, byte for byte.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks import runs
from usd.app.improve import improve, parser
from usd.core.types import Mesh
from usd.data.pictures import write_picture
from usd.exporter.box_atlas import box_atlas
from usd.exporter.decimate import decimate
from usd.exporter.reference_projection import ReferenceProjection
from usd.exporter.texels import covered_texels
from usd.kernels.rasterize import Tracer
from usd.math.mesh import vertex_normals
from usd.mesh_io.atlas import Atlas
from usd.mesh_io.axes import y_up_from_z_up
from usd.mesh_io.gltf_rewrite import BinaryGltf
from usd.mesh_io.images import decode_image
from usd.mesh_io.write import ExportMesh, glb_bytes, picture_bytes
from usd.toybox import TEST_SEED
from usd.toybox.cameras import reference_camera
from usd.toybox.mesh import on_surface, surface_normals, toy_mesh
from usd.toybox.objects import make_toy
from usd.toybox.render import Light, lit_colors, render
from usd.toybox.scene import Toy

TEXTURE, FACES, PICTURE = 256, 4000, 256
BLUR = 0.18
SAMPLES = 3000


@dataclass(frozen=True)
class TexturedToy:
    """A toy as a textured mesh: where its texels lie, their true colors, and which of them the picture shows."""

    mesh: Mesh
    atlas: Atlas
    pixel: Tensor
    x: Float[Tensor, "N 3"]
    colors: Float[Tensor, "N 3"]
    seen: Bool[Tensor, "N"]

    def glb(self, colors: Float[Tensor, "N 3"]) -> bytes:
        """The toy as a file (y up) with some colors at its texels."""
        picture = torch.full((TEXTURE * TEXTURE, 3), 0.5)
        picture[self.pixel] = colors
        turned = y_up_from_z_up(self.mesh.vertices)
        normals = vertex_normals(turned, self.mesh.faces)
        content = picture_bytes(picture.view(TEXTURE, TEXTURE, 3), "png")
        return glb_bytes(ExportMesh(Mesh(turned, self.mesh.faces), normals, self.atlas, content, unlit=True))


@dataclass(frozen=True)
class Improvement:
    """PSNR in dB of a toy's texture against the truth, before and after, and of the part no picture shows."""

    seed: int
    caption: str
    before: float
    after: float
    hidden_before: float
    hidden_after: float
    same_but_pictures: bool
    minutes: float


def textured_toy(toy: Toy) -> TexturedToy:
    """Unwrap a toy and find its texels' true colors."""
    fine = toy_mesh(toy, 96)
    vertices, faces = decimate(fine.vertices, fine.faces, FACES)
    atlas = box_atlas(vertices, faces, TEXTURE)
    texels = list(covered_texels(atlas.corners * TEXTURE, TEXTURE, TEXTURE))
    x = torch.cat([(vertices[faces[p.face]] * p.weights[..., None]).sum(1) for p in texels])
    on = on_surface(toy, x)
    normals = surface_normals(toy, on)
    camera = reference_camera(PICTURE)
    # What counts as seen is told by the picture alone, whatever the exporter makes of it.
    projection = ReferenceProjection(render([toy], camera).rgba()[0], camera, Tracer(vertices, faces))
    seen = projection(x, normals)[1][:, 0] > 0.05
    pixel = torch.cat([part.pixel for part in texels])
    return TexturedToy(Mesh(vertices, faces), atlas, pixel, x, lit_colors(toy, on, normals, Light()), seen)


def blurred(toy: TexturedToy) -> Float[Tensor, "N 3"]:
    """Colors whose hidden part is a wide mean over the surface around each point."""
    chosen = torch.randperm(len(toy.x), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    rough = []
    for part in toy.x.split(4096):
        weight = (-(torch.cdist(part, toy.x[chosen]) ** 2) / (2 * BLUR**2)).exp()
        rough.append(weight @ toy.colors[chosen] / weight.sum(1, keepdim=True))
    return torch.where(toy.seen[:, None], toy.colors, torch.cat(rough))


def texel_psnr(colors: Float[Tensor, "N 3"], truth: Float[Tensor, "N 3"]) -> float:
    return -10 * math.log10(float((colors - truth).square().mean().clamp_min(1e-10)))


def improved(seed: int, folder: Path, extra: list[str]) -> Improvement:
    """Blur a toy's back, improve the file, and measure."""
    began, toy = time.monotonic(), make_toy(seed)
    made = textured_toy(toy)
    folder.mkdir(parents=True, exist_ok=True)
    start, picture, out = folder / "blurred.glb", folder / "input.png", folder / "improved.glb"
    before = blurred(made)
    start.write_bytes(made.glb(before))
    (folder / "true.glb").write_bytes(made.glb(made.colors))
    write_picture(picture, render([toy], reference_camera(PICTURE)).rgba()[0])
    args = parser().parse_args([str(start), "--picture", str(picture), "--out", str(out), "--gpu", "cpu"])
    improve(args, [f"exp_root_dir={folder}", *extra])
    pixels = decode_image(BinaryGltf(out).image_bytes(0))[..., :3].reshape(-1, 3)
    after = pixels[made.pixel].float() / 255
    hidden = ~made.seen
    return Improvement(
        seed,
        toy.caption,
        texel_psnr(before, made.colors),
        texel_psnr(after, made.colors),
        texel_psnr(before[hidden], made.colors[hidden]),
        texel_psnr(after[hidden], made.colors[hidden]),
        without_pictures(start) == without_pictures(out),
        (time.monotonic() - began) / 60,
    )


def without_pictures(file: Path) -> list[object]:
    """Everything that a file holds but its pictures: numbers as bytes, and the tree without their places."""
    model = BinaryGltf(file)
    views = model.tree["bufferViews"]
    pictures = {image.get("bufferView") for image in model.images}
    numbers = [model.document.view_bytes(i) for i in range(len(views)) if i not in pictures]
    kept = ("accessors", "meshes", "materials", "nodes", "textures", "scenes")
    return [numbers, [model.tree.get(key) for key in kept]]


def arguments(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    flags = argparse.ArgumentParser(prog="python -m benchmarks.improve", description=__doc__)
    flags.add_argument("--toys", type=int, default=8, help="number of toys, of the test split")
    flags.add_argument("--first", type=int, default=0, help="how many of the test split to leave out")
    flags.add_argument("--out", type=Path, default=Path("outputs/improve"))
    return flags.parse_known_args(argv)


def main(argv: list[str] | None = None) -> bool:
    args, extra = arguments(argv)
    found = []
    for seed in range(TEST_SEED + args.first, TEST_SEED + args.first + args.toys):
        one = improved(seed, args.out.resolve() / str(seed), extra)
        found.append(one)
        print(json.dumps(asdict(one)), flush=True)
    gains = [one.after - one.before for one in found]
    print(f"{sum(gain > 0 for gain in gains)} of {len(gains)} rose, mean {sum(gains) / len(gains):+.2f} dB")
    return True


if __name__ == "__main__":
    runs.command(main)
