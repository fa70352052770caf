"""``usd benchmark``: what a training step costs on this machine, in two minutes, as a table to paste into a report.

On a CUDA GPU it takes some steps of configs/usd-patch.yaml with each preset of configs/presets that the card has the
memory for. The models have their published sizes and random weights: nothing is downloaded, and the pictures mean
nothing. On a CPU it takes some steps with the embedded models.
"""

import argparse
import dataclasses
import gc
import json
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from usd.app.devices import choose_devices, first_device, single_device
from usd.app.doctor import describe_machine
from usd.app.experiment import Experiment, load_experiment, open_trial, trial_of
from usd.app.loop import Loop
from usd.app.machine_errors import plain_errors
from usd.app.modes import build_experiment, interruptible, prefer_kernels
from usd.app.shrink import shrink
from usd.app.step_meter import StepCost, StepMeter
from usd.app.trainer import make_trainer, silence_lightning
from usd.core import files, process
from usd.core.console import say
from usd.core.errors import ConfigError, UserError, did_you_mean
from usd.core.loading import find_config
from usd.denoiser.rehearsal import rehearsal


@dataclass(frozen=True)
class Preset:
    """Configurations and options over them; ``gigabytes`` is the memory of the card they are for, 0 for any machine."""

    configs: tuple[str, ...]
    options: tuple[str, ...] = ()
    gigabytes: int = 0


UNCOMPILED = ("system.guidance.models.compile=no",)
CHEAP_REFERENCE = ("system.reference_view_latents=view",)
PRESETS = {
    "mini": Preset(("usd-patch-mini",), ("system.expected_views.fit_steps=0",)),
    "mini-text": Preset(("usd-text-to-3D-patch-mini",), ("system.prompt_processor.prompt='a red chair'",)),
    "8gb": Preset(("usd-patch", "configs/presets/8gb.yaml"), CHEAP_REFERENCE, 8),
    "12gb": Preset(("usd-patch", "configs/presets/12gb.yaml"), CHEAP_REFERENCE, 12),
    "24gb": Preset(("usd-patch", "configs/presets/24gb.yaml"), UNCOMPILED, 24),
    "24gb-compiled": Preset(("usd-patch", "configs/presets/24gb.yaml"), (), 24),
}
OPTIONAL = {"24gb-compiled"}
"""Presets that are measured only where they are named: compiling takes longer than all the rest."""
EMBEDDED = [name for name, preset in PRESETS.items() if not preset.gigabytes]
SOLD_AS = 0.9  # of its gigabytes a card shows at least: some of its memory is kept back

SHORT = {"num_sanity_val_steps": 0, "val_check_interval": 0, "test_after_fit": False, "max_skipped_steps": 0}
QUIET = {"enable_progress_bar": False, "option_changes": None}


@dataclass(frozen=True)
class Measured:
    """A row of the table; without a cost, the reason."""

    preset: str
    recipe: str
    cost: StepCost | None = None
    failure: str = ""

    def cells(self) -> list[str]:
        """Return the row's text."""
        if self.cost is None:
            return [self.preset, self.recipe, "failed", *[""] * (len(HEAD) - 3)]
        cost = self.cost
        reserved = f" ({cost.reserved_bytes / 2**30:.1f} reserved)" if cost.reserved_bytes else ""
        return [
            self.preset,
            self.recipe,
            f"{1e3 * cost.seconds:.0f}",
            f"{1e3 * cost.slow_seconds:.0f}",
            f"{1e3 * cost.cpu_seconds:.0f}",
            f"{100 * cost.unet_share:.0f} %",
            f"{cost.peak_bytes / 2**30:.1f} GiB{reserved}",
        ]


HEAD = [
    "preset",
    "recipe",
    "ms a step (median)",
    "one in ten takes",
    "CPU ms a step",
    "in UNets",
    "memory at most",
]


def benchmark_parser() -> argparse.ArgumentParser:
    """Return the command line of ``usd benchmark``."""
    parser = argparse.ArgumentParser(
        prog="usd benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("options", nargs="*", metavar="key=value", help="options laid over every preset")
    parser.add_argument(
        "--preset",
        action="append",
        metavar="NAME",
        help=f"what to measure, repeatable: {', '.join(PRESETS)} (default: what suits the device)",
    )
    parser.add_argument("--gpu", metavar="0|cpu", help="device; by default the first GPU, else the CPU")
    parser.add_argument("--steps", type=int, default=10, help="steps measured of each preset (10)")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them (5)")
    parser.add_argument("--tiny", action="store_true", help="everything tiny: tries the command out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    return parser


def measure_presets(args: argparse.Namespace) -> int:
    """Measure what the command line asks for and print the table; return 1 where a preset failed. Raises UserError."""
    if args.steps < 1 or args.warm_up < 1:
        raise UserError("usd benchmark: --steps and --warm-up must be at least 1")
    device = single_device(args.gpu)
    names = chosen_presets(args.preset, device, args.tiny)
    with rehearsal(full_size=not args.tiny):
        rows = [measure_preset(name, args, device) for name in names]
    machine = describe_machine()
    what = "tiny networks, " if args.tiny else ""
    said = f"{what}steps {args.warm_up + 1} to {args.warm_up + args.steps} of a training"
    reasons = [f"{row.preset}: {row.failure}" for row in rows if row.failure]
    say(
        "\n".join(["", *machine, said, "", *markdown_table([HEAD, *(row.cells() for row in rows)]), *reasons])
    )
    if args.json is not None:
        content = {
            "machine": machine,
            "steps": args.steps,
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        files.write_atomically(args.json, json.dumps(content, indent=2) + "\n")
    return int(any(row.failure for row in rows))


def chosen_presets(asked: Sequence[str] | None, device: torch.device, tiny: bool) -> list[str]:
    """Return the presets to measure: those asked for, or those that suit the device. Raises ``UserError``."""
    for name in asked or []:
        if name not in PRESETS:
            raise UserError(
                f"--preset {name}: no such preset.{did_you_mean(name, PRESETS)} Expected {', '.join(PRESETS)}"
            )
        if PRESETS[name].gigabytes and device.type == "cpu" and not tiny:
            say(f"note: {name} is for a CUDA GPU; on this CPU a step takes a minute and 20 GB of memory")
    if asked:
        return list(dict.fromkeys(asked))
    if device.type == "cpu":
        return EMBEDDED
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return [name for name in PRESETS if name not in OPTIONAL and fits(PRESETS[name], memory)] or EMBEDDED


def fits(preset: Preset, gibibytes: float) -> bool:
    """Return whether a preset is for a GPU of this much memory."""
    return 0 < preset.gigabytes * SOLD_AS <= gibibytes


def measure_preset(name: str, args: argparse.Namespace, device: torch.device) -> Measured:
    """Return a preset's row. A machine that has not enough for it is a row, too; what is mistyped raises UserError."""
    preset, meter = PRESETS[name], StepMeter(args.warm_up, args.steps)
    recipe = preset.configs[0]
    say(f"{name}: {' '.join([*preset.configs, *preset.options, *args.options])}")
    with tempfile.TemporaryDirectory(prefix="usd-benchmark-", ignore_cleanup_errors=True) as folder:
        experiment = benchmark_experiment(preset, args, Path(folder), meter.max_steps)
        try:
            train_measured(experiment, args.gpu, meter)
            row = Measured(name, recipe, meter.cost(device))
        except ConfigError:
            raise
        except UserError as error:
            row = Measured(name, recipe, failure=str(error))
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def benchmark_experiment(preset: Preset, args: argparse.Namespace, folder: Path, steps: int) -> Experiment:
    """Return a preset's experiment as a short training below ``folder``. Raises ``UserError``."""
    options = [*preset.options, "system.prompt_processor.use_cache=false", *args.options]
    experiment, _ = load_experiment([find_config(config) for config in preset.configs], options)
    experiment = shrink(experiment) if args.tiny else experiment
    place = {
        "name": "benchmark",
        "tag": "benchmark",
        "use_timestamp": False,
        "timestamp": None,
        "resume": None,
    }
    return replace(
        experiment,
        exp_root_dir=folder,
        trainer=replace(experiment.trainer, max_steps=steps, **SHORT, **QUIET),  # type: ignore[arg-type]
        checkpoint=replace(experiment.checkpoint, save_last=False, every_n_train_steps=None),
        **place,  # type: ignore[arg-type]
    )


def train_measured(experiment: Experiment, gpu: str | None, meter: StepMeter) -> None:
    """Train as the launcher does, with a meter beside it. Raises ``UserError``."""
    trial = trial_of(experiment)
    open_trial(trial)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(plain_errors(trial.folder))
        stack.enter_context(interruptible(trial))
        silence_lightning()
        prefer_kernels(experiment.kernels)
        choose_devices(first_device(gpu))
        system, data = build_experiment(experiment, trial)
        trainer = make_trainer(experiment, trial, first_device(gpu))
        trainer.callbacks.append(meter)  # type: ignore[attr-defined]
        trainer.fit(Loop(system, data))


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the first of which is the head, as a table of Markdown."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return [f"| {line} |" for line in (lines[0], " | ".join("-" * width for width in widths), *lines[1:])]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return process.run_command(lambda: measure_presets(benchmark_parser().parse_args(argv)))


if __name__ == "__main__":
    process.start(main)
