"""The contract of the real models: true sizes, every published layout, two training steps. No downloads, no GPU.

    make full-size                                     4 to 12 minutes, 18 GB of memory and 13 GB of disk
    python benchmarks/full_size.py --small             the same at a sixty-fourth of the size, in a minute
    python benchmarks/full_size.py --models syncdreamer    one model alone, without the steps

Random weights in the true configurations are written in each published layout, read back by the public path
(``open_model``) and compared bit by bit; numbers of parameters are those of the published files. Then two steps of
configs/usd-patch.yaml run on the CPU by the public launcher, and everything that enters a network is looked at. The
report says what each part holds in memory. Anything that is not as published ends the command with exit code 1.
"""

import argparse
import gc
import math
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import launch
from benchmarks import ROOT
from benchmarks.published_models import (
    DEPTH_ATTENTION,
    MODELS,
    VIEW_GROUPS,
    VOLUME,
    Published,
    parameters_of,
    shrunk,
    write,
)
from benchmarks.syncdreamer_file import published_shapes, random_volume, stored_shapes
from benchmarks.tensor_memory import Call, Live, gib, resident, watched
from usd.denoiser import Execution
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.components import PROJECTION, open_components
from usd.denoiser.load import open_model

STEPS = 2
CONFIG = ROOT / "configs" / "usd-patch.yaml"
SMALL = [
    "data.width=128",
    "data.height=128",
    "system.renderer.patch_size=32",
    "system.renderer.base_renderer.num_samples_per_ray=32",
    "system.geometry.pos_encoding_config.log2_hashmap_size=14",
]


ATTRIBUTES = {PROJECTION: "projection", VOLUME: "networks", DEPTH_ATTENTION: "conditioned"}
"""Where a denoiser holds its parts, where that is not their name."""


class BrokenError(Exception):
    """Something is not as published."""


@dataclass
class Report:
    """Lines of text, shown as they come and kept for a file."""

    lines: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def say(self, text: str = "") -> None:
        self.lines.append(text)
        print(text, flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for row in (head, ["---"] * len(head), *rows):
            self.say(f"| {' | '.join(row)} |")
        self.say()

    def seconds(self) -> str:
        return f"{time.monotonic() - self.begun:.0f} s"


def require(holds: bool, message: str) -> None:
    if not holds:
        raise BrokenError(message)


# ------------------------------------------------------------------------------------------------------------- loading


def check_layouts(model: Published, folder: Path, report: Report) -> None:
    """Writes each layout, reads it back by the public path, compares, and deletes all but the plain folder."""
    report.say(f"## {model.name}: {', '.join(model.layouts)}\n")
    rows = []
    for layout in model.layouts:
        start = time.monotonic()
        place = write(model, folder, layout)
        if model is MODELS["syncdreamer"]:
            check_names(place, report)
        wrote, start = time.monotonic() - start, time.monotonic()
        compared = check_layout(model, place, folder / "folder")
        rows.append(
            [
                layout,
                gib(size_of(place)),
                f"{wrote:.0f} s",
                f"{time.monotonic() - start:.0f} s",
                str(compared),
            ]
        )
        if layout != "folder":
            shutil.rmtree(place if place.is_dir() else place.parent)
        gc.collect()
    report.table(["layout", "on disk", "written in", "read and compared in", "tensors bit-equal"], rows)
    count_rows = [[part, f"{count:,}", "as published"] for part, count in model.parameters.items()]
    report.table(["part", "parameters", ""], count_rows)


def check_names(place: Path, report: Report) -> None:
    """Compares names and shapes in SyncDreamer's file with its authors'."""
    found, published = stored_shapes(place), published_shapes()
    other = sorted(name for name in {*found, *published} if found.get(name) != published.get(name))
    require(not other, f"{place}: {other[:3]} are not as published, {len(other)} in all")
    numbers = sum(math.prod(shape) for shape in found.values())
    report.say(f"names and shapes of {len(found):,} tensors, {numbers:,} numbers: as published\n")


def check_view_groups(report: Report) -> None:
    """Builds the networks of models of view groups at full size, without memory, and counts their parameters."""
    rows = []
    for name, published in VIEW_GROUPS.items():
        built = ARCHITECTURES[name].parameters()
        for part, count in published.items():
            require(
                built[part] == count, f"{name}: {part} has {built[part]:,} parameters; expected {count:,}"
            )
            rows.append([name, part, f"{count:,}", "as published"])
    report.say("## models of view groups, built without memory\n")
    report.table(["model", "part", "parameters", ""], rows)


def size_of(place: Path) -> int:
    files = [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files)


def check_layout(model: Published, place: Path, plain: Path) -> int:
    """How many tensors of the model as opened from ``place`` equal those that were written."""
    denoiser: Any = open_model(str(place), role_of(model), "full-size", Execution(weights="fp16"))
    check_space(model, denoiser)
    compared = 0
    for part, count in model.parameters.items():
        lent = getattr(denoiser, ATTRIBUTES.get(part, part))
        network = lent.on(torch.device("cpu"))
        network = network.conditions if part == DEPTH_ATTENTION else network
        found = parameters_of(network)
        require(found == count, f"{place}: {part} has {found:,} parameters; published are {count:,}")
        compared += compare(network, written(model, plain, part), f"{place}: {part}")
        lent.drop()
    return compared


def written(model: Published, plain: Path, part: str) -> Mapping[str, torch.Tensor]:
    """The tensors of a part as they were made."""
    if part in (VOLUME, DEPTH_ATTENTION):
        return random_volume(model.channels)
    return open_components(plain).tensors(part)


def role_of(model: Published) -> str:
    return "view" if model.family == "zero123" else "text"


def check_space(model: Published, denoiser: Any) -> None:
    space, side = denoiser.latent, model.configs["unet"]["sample_size"]
    found = (space.channels, space.height, space.width, space.image_size, round(space.scaling_factor, 5))
    wanted = (4, side, side, 8 * side, 0.18215)
    require(found == wanted, f"{model.name}: latent space {found}; expected {wanted}")


def compare(network: torch.nn.Module, written: Any, where: str) -> int:
    """The number of parameters that equal the written ones, after whatever change of precision is without loss."""
    names = {name.replace("proj.", "", 1) if where.endswith(PROJECTION) else name: name for name in written}
    for name, parameter in network.named_parameters():
        mine = name.replace("proj.", "", 1) if where.endswith(PROJECTION) else name
        stored = names.get(mine) or names.get(f"text_model.{mine}")
        require(stored is not None, f"{where}: {name} was not written")
        require(
            torch.equal(parameter.float(), written[stored].float()),
            f"{where}: {name} differs from what was written",
        )
    return len(list(network.named_parameters()))


# ------------------------------------------------------------------------------------------------------------ training


def network_name(module: torch.nn.Module) -> str:
    """What a watched network is called in the report; empty for all others."""
    kind = type(module).__name__
    if kind == "UNet2DConditionModel":
        return "zero123 unet" if module.config.in_channels == 8 else "sd unet"  # type: ignore[union-attr]
    names = {
        "Encoder": "autoencoder",
        "CLIPTextModel": "text encoder",
        "CLIPVisionModelWithProjection": "image encoder",
    }
    return names.get(kind, "")


def train(prior: Path, view: Path, options: Sequence[str], out: Path) -> tuple[list[Call], Live, int]:
    """Two steps by the public launcher; every call of a network, and what was held."""
    live = Live()
    argv = ["--config", str(CONFIG), "--train", "--gpu", "cpu", *options]
    argv += [
        f"system.guidance.pretrained_model_name_or_path={prior}",
        f"system.guidance.zero123_model_name_or_path={view}",
        f"system.prompt_processor.pretrained_model_name_or_path={prior}",
        f"trainer.max_steps={STEPS}",
        "trainer.val_check_interval=0",
        "trainer.num_sanity_val_steps=0",
        "trainer.test_after_fit=false",
        "trainer.enable_progress_bar=false",
        "checkpoint.save_last=false",
        f"exp_root_dir={out}",
        "use_timestamp=false",
        "tag=two-steps",
    ]
    with live, watched(live, network_name) as calls:
        require(launch.main(argv) == 0, "training ended with an error")
    return calls, live, resident()


def check_calls(calls: Sequence[Call]) -> None:
    """One forward pass per model and step in the guidance, one more of Stable Diffusion at the reference view."""
    counts = {name: sum(call.name == name for call in calls) for name in {call.name for call in calls}}
    wanted = {
        "zero123 unet": STEPS,
        "sd unet": 2 * STEPS,  # guidance; render and picture of the published reference-view term, together
        "autoencoder": 2 * STEPS + 2,  # random view and reference view; the picture, for each of them
        "image encoder": 1,
        "text encoder": 1,
    }
    require(set(counts) == set(wanted), f"networks used: {sorted(counts)}; expected {sorted(wanted)}")
    for name, count in wanted.items():
        require(counts[name] == count, f"{name}: {counts[name]} calls; expected {count}")
    pictures = Counter(call.shape for call in calls if call.name == "autoencoder")
    latents = Counter(call.shape for call in calls if call.name.endswith("unet"))
    read = {(1, 3, 256, 256): STEPS + 1, (1, 3, 512, 512): STEPS + 1}
    told = {(1, 8, 32, 32): STEPS, (1, 4, 32, 32): STEPS, (2, 4, 64, 64): STEPS}
    require(pictures == read, f"the autoencoders saw {dict(pictures)}; expected {read}")
    require(latents == told, f"the UNets saw {dict(latents)}; expected {told}")


def report_calls(calls: Sequence[Call], report: Report) -> None:
    rows = []
    for name, shape in dict.fromkeys((call.name, call.shape) for call in calls):
        mine = [call for call in calls if (call.name, call.shape) == (name, shape)]
        last = mine[-1]
        rows.append(
            [
                name,
                str(len(mine)),
                " x ".join(map(str, last.shape)),
                str(last.dtype).removeprefix("torch."),
                f"{min(call.seconds for call in mine):.1f} s",
                gib(max(call.peak - call.before for call in mine)),
                gib(max(call.after - call.before for call in mine)),
            ]
        )
    head = ["network", "calls", "input", "dtype", "seconds (least)", "needs at most", "keeps"]
    report.table(head, rows)


# ---------------------------------------------------------------------------------------------------------------- main


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="which to check"
    )
    parser.add_argument("--priors", nargs="*", default=["sd-2.1-base", "sd-1.5"], help="which to train with")
    parser.add_argument(
        "--weights", default="fp32", choices=["fp32", "bf16"], help="of UNets and towers in training"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "full-size", help="where files go")
    parser.add_argument(
        "--small", action="store_true", help="the same steps with small networks and pictures"
    )
    parser.add_argument("--keep", action="store_true", help="keep the models that were written")
    return parser.parse_args(argv)


def run(flags: argparse.Namespace, report: Report) -> None:
    models = {name: shrunk(MODELS[name]) if flags.small else MODELS[name] for name in flags.models}
    for name, model in models.items():
        check_layouts(model, flags.folder / name, report)
    check_view_groups(report)
    for prior in flags.priors:
        if prior in models and "zero123-xl" in models:
            report_training(flags, prior, report)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report.say(f"whole command: {report.seconds()}, at most {gib(peak)} of this process in memory")


def report_training(flags: argparse.Namespace, prior: str, report: Report) -> None:
    options = [f"system.guidance.models.weights={flags.weights}", *(SMALL if flags.small else [])]
    start = time.monotonic()
    places = (flags.folder / prior / "folder", flags.folder / "zero123-xl" / "folder")
    calls, live, held = train(*places, options, flags.folder / "trial")
    check_calls(calls)
    took = time.monotonic() - start
    report.say(f"## two steps of configs/usd-patch.yaml with {prior} and zero123-xl: {took:.0f} s\n")
    report_calls(calls, report)
    report.say(f"tensors at most {gib(live.peak)}; process at the end {gib(held)}\n")
    gc.collect()


def main(argv: Sequence[str] | None = None) -> int:
    flags, report = arguments(argv), Report()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    report.say(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, weights in training: {flags.weights}\n"
    )
    try:
        run(flags, report)
    except BrokenError as broken:
        print(f"error: {broken}", file=sys.stderr)
        return 1
    finally:
        flags.folder.mkdir(parents=True, exist_ok=True)
        (flags.folder / "report.md").write_text("\n".join(report.lines) + "\n", encoding="utf-8")
        if not flags.keep:
            for name in flags.models:
                shutil.rmtree(flags.folder / name, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
