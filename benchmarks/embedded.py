"""What the embedded family can do on toys it never saw: one command prints every figure and writes the sheets.

    python benchmarks/embedded.py --out outputs/embedded [--toys 32] [--json F]

VAE: PSNR of reconstructions. CLIP: how often a render finds its own caption among all. Text to image: the same for
pictures made from the captions. Novel views (DDIM, one reference picture): PSNR, SSIM and mask IoU beside copying the
reference, with plain and with rectified guidance; pose retrieval among seven azimuths on asymmetric toys.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from usd.core.errors import UserError  # noqa: E402
from usd.data.pictures import contact_sheet, write_picture  # noqa: E402
from usd.denoiser import TextDenoiser, ViewDenoiser, open_text_denoiser, open_view_denoiser  # noqa: E402
from usd.denoiser.sample import Sampler, sample_text  # noqa: E402
from usd.evaluation import embedded as e  # noqa: E402

VIEWS = 8


def mean_and_spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.pstdev(values), "n": len(values)}


def text_figures(sd: TextDenoiser, clip: e.Clip, toys: list[e.Toy], out: Path) -> dict[str, float]:
    captions = [toy.caption for toy in toys]
    size = sd.latent.image_size
    real = torch.cat([e.toy_views(toy, e.reference_camera(size)).pictures for toy in toys])
    made = sample_text(sd, captions, Sampler(e.STEPS, 4.0), torch.Generator("cpu").manual_seed(0))
    both = torch.stack([real, made], 1).flatten(0, 1)
    write_picture(out / "text_to_image.png", contact_sheet(both, 16))
    return {
        "clip_on_renders": e.recognition(clip, real, captions),
        "clip_on_samples": e.recognition(clip, made, captions),
        "captions": len(captions),
    }


def novel_views(
    model: ViewDenoiser, base: TextDenoiser | None, toys: list[e.Toy], scale: float, out: Path
) -> dict[str, object]:
    rows: list[Tensor] = []
    figures: list[dict[str, float]] = []
    for toy in toys:
        views = e.held_out_views(toy, VIEWS, model.latent.image_size)
        made = e.novel_views(model, views, scale, base)
        figures.append(e.view_figures(made, views))
        blank = torch.ones_like(views.reference)
        rows += [torch.cat([views.reference, views.pictures]), torch.cat([blank, made])]
    write_picture(out, contact_sheet(torch.cat(rows), VIEWS + 1))
    return {key: mean_and_spread([f[key] for f in figures]) for key in figures[0]}


def pose_retrieval(model: ViewDenoiser, toys: list[e.Toy], scale: float, out: Path) -> dict[str, object]:
    right, rows = [], []
    for toy in toys:
        views = e.toy_views(toy, e.ring_cameras(model.latent.image_size))
        made = e.novel_views(model, views, scale)
        right.append(e.azimuth_hits(made, views.pictures).float().mean().item())
        rows += [
            torch.cat([views.reference, views.pictures]),
            torch.cat([torch.ones_like(views.reference), made]),
        ]
    write_picture(out, contact_sheet(torch.cat(rows), len(e.AZIMUTHS_DEG) + 1))
    return {"accuracy": mean_and_spread(right), "chance": 1 / len(e.AZIMUTHS_DEG)}


def other_figures(
    view: ViewDenoiser, text: TextDenoiser, toys: list[e.Toy], args: argparse.Namespace
) -> dict[str, object]:
    """Return the figures of the autoencoder, of pictures from captions, and of poses; say each when it is there."""
    pictures = torch.cat([e.held_out_views(toy, 4, view.latent.image_size).pictures for toy in toys])
    result: dict[str, object] = {"autoencoder": e.autoencoder_figures(view, pictures)}
    print("autoencoder", result["autoencoder"], flush=True)
    clip, captioned = e.Clip.load(args.clip), e.split_toys(2 * args.toys)
    result["text_to_image"] = text_figures(text, clip, captioned, args.out)
    print("text to image", result["text_to_image"], flush=True)
    asymmetric = e.split_toys(args.toys, e.asymmetric)
    result["pose_retrieval"] = pose_retrieval(view, asymmetric, args.scale, args.out / "pose_retrieval.png")
    print("pose retrieval", result["pose_retrieval"], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/embedded"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--toys", type=int, default=32, help="toys of the test split for each figure")
    parser.add_argument("--scale", type=float, default=1.5, help="guidance scale of novel views")
    parser.add_argument("--zero123", default="toybox-zero123")
    parser.add_argument(
        "--views", default="toybox-views", help="model of view groups, sampled as it is published"
    )
    parser.add_argument("--only-views", action="store_true", help="only novel views")
    parser.add_argument("--stable-diffusion", default="toybox-sd")
    parser.add_argument("--clip", type=Path, default=ROOT / "load/toybox/clip")
    args = parser.parse_args()
    started = time.time()
    view = open_view_denoiser(args.zero123, "--zero123")
    text = open_text_denoiser(args.stable_diffusion, "--stable-diffusion")
    toys = e.split_toys(args.toys)
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    if not args.only_views:
        result |= other_figures(view, text, toys, args)
    together = open_view_denoiser(args.views, "--views")
    ways = {"plain": (view, None), "rectified": (view, text), "together": (together, None)}
    for name, (model, base) in ways.items():
        result[f"novel_views_{name}"] = novel_views(
            model, base, toys, args.scale, args.out / f"novel_views_{name}.png"
        )
        print(f"novel views, {name}", result[f"novel_views_{name}"], flush=True)
    result["seconds"] = round(time.time() - started, 1)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2))
    print(f"{result['seconds']} s; sheets in {args.out}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
