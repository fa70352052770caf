"""From one picture, or a sentence, to a 3D object.

python launch.py --config configs/usd-patch-mini.yaml --train system.guidance.image_path=photo.png
python launch.py --config <trial>/configs/parsed.yaml --export resume=<trial>/ckpts/last.ckpt
python launch.py --config configs/usd-text-to-3D-mini.yaml --train system.prompt_processor.prompt="a red car"

A configuration with `stages:` runs them all; the same command again skips what is done and goes on from there.

In key=value a text option (a prompt, a file) takes the text as the shell hands it over, signs included; the word null
means nothing where nothing is allowed. Everything else is YAML. `--describe NAME` says which option is what.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from usd.app.interrupts import listening
from usd.core import process
from usd.core.console import say, say_error
from usd.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from usd.app.experiment import Mode

FLAGS = [
    "config",
    "train",
    "validate",
    "test",
    "export",
    "dry-run",
    "viewer",
    "gpu",
    "verbose",
    "typecheck",
    "list",
    "describe",
    "doctor",
]


VIEWER = "watch and steer the training in the browser (options: viewer.port, viewer.share, ...)"
DRY_RUN = "two tiny steps and an export with random models, and what the real run would download and need"


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the parsed flags, and everything else as ``key=value`` overrides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", nargs="+", action="append", default=[], metavar="FILE", help="YAML files; later ones win"
    )
    mode = parser.add_mutually_exclusive_group()
    for name in ("train", "validate", "test", "export"):
        mode.add_argument(
            f"--{name}", dest="mode", action="store_const", const=name, help=f"{name} and leave"
        )
    mode.add_argument(
        "--list", dest="mode", action="store_const", const="list", help="every component, by kind"
    )
    mode.add_argument("--describe", metavar="NAME", help="a component's options: type, default, meaning")
    mode.add_argument(
        "--doctor", dest="mode", action="store_const", const="doctor", help="this machine, for a report"
    )
    parser.add_argument("--dry-run", action="store_true", help=DRY_RUN)
    parser.add_argument("--viewer", action="store_true", help=VIEWER)
    parser.add_argument(
        "--gpu",
        metavar="0,1|cpu",
        help="devices, several train together; by default the first GPU, else the CPU",
    )
    parser.add_argument("--verbose", action="store_true", help="more logging, and tracebacks of user errors")
    parser.add_argument(
        "--typecheck", action="store_true", help="check types and shapes of every call (slower)"
    )
    flags, rest = parser.parse_known_args(argv)
    configs, overrides = zip(*map(divided, flags.config)) if flags.config else ((), ())
    flags.config = [item for items in configs for item in items]
    return flags, [item for items in overrides for item in items] + rest


def divided(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the words behind ``--config`` into files and ``key=value`` overrides; the first is a file."""
    listed = [(item, is_file(item, first=not at)) for at, item in enumerate(items)]
    return [item for item, known in listed if known], [item for item, known in listed if not known]


def is_file(item: str, first: bool) -> bool:
    """Return whether an argument of ``--config`` is a file (its name may hold an equals sign) and no ``key=value``."""
    from usd.core.loading import is_override

    return first or not is_override(item) or os.path.isfile(item)


def perform(flags: argparse.Namespace, overrides: list[str]) -> None:
    """Do what the flags ask for. Raises ``UserError``."""
    for item in overrides:
        if item.startswith("-"):
            raise UserError(f"{item}: unknown option.{did_you_mean(item.strip('-'), FLAGS)} See --help.")
    if flags.mode in ("list", "doctor") or flags.describe:
        say(information(flags.mode, flags.describe))
        return
    if flags.dry_run and flags.mode in (None, "train") and flags.config:
        run_dry(flags.config, overrides, flags.gpu)
        return
    if flags.dry_run:
        raise UserError("--dry-run: tries a training out; expected --config FILE, alone or with --train")
    if not flags.mode or not flags.config:
        raise UserError(
            "nothing to do: expected --config FILE and one of --train, --validate, --test, --export"
        )
    if flags.viewer and flags.mode != "train":
        raise UserError(
            f"--viewer: shows a training, not --{flags.mode}; expected --train, or usd view TRIAL"
        )
    overrides = [*(["viewer.enable=true"] if flags.viewer else []), *overrides]
    run_mode(flags.mode, flags.config, overrides, flags.gpu, [sys.executable, *sys.argv])


def run_mode(
    mode: "Mode", configs: Sequence["str | Path"], overrides: list[str], gpu: str | None, command: list[str]
) -> None:
    """Train, validate, test or export what configurations say; ``command`` is written down. Raises ``UserError``."""
    if gpu and set(gpu) & set(",:"):  # torch warns of what several processes do on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from usd.app.experiment import load_experiment, recipe_changes, refuse_missing_inputs
    from usd.app.open_viewer import viewer_until_the_end
    from usd.app.stages import is_staged, run_stages

    with viewer_until_the_end(stays=True):
        if is_staged(configs):
            run_stages(mode, configs, overrides, gpu, command)
            return
        experiment, raw = load_experiment(configs, overrides)
        refuse_missing_inputs(mode, experiment)
        # Lightning comes with it: once the configuration is known to be right
        from usd.app.modes import execute

        execute(mode, experiment, raw, gpu, command, recipe_changes(configs, overrides))


def run_dry(configs: Sequence["str | Path"], overrides: list[str], gpu: str | None) -> None:
    """Try a training out at tiny size, and print what the real one would take. Raises ``UserError``."""
    from usd.app import dry_run

    for done in dry_run.rehearse(configs, overrides, gpu):
        say("\n".join(done.lines))


def information(mode: str | None, name: str | None) -> str:
    """Return the answer to --list, --doctor or --describe."""
    from usd.app import catalog, doctor

    report = {"list": catalog.listing_text, "doctor": doctor.report}.get(mode or "")
    return report() if report else catalog.describe(name or "")


def main(argv: list[str] | None = None) -> int:
    """Run the launcher. Returns the exit code: 2 for what the user can mend, 130 after an interruption."""
    process.prepare()
    flags, overrides = arguments(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: perform(flags, overrides), flags.verbose, flags.typecheck)


def guarded(action: Callable[[], None], verbose: bool, typecheck: bool) -> int:
    """Run a command, and turn what goes wrong into one line and an exit code."""
    if verbose:
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("usd").setLevel(logging.DEBUG)
    if typecheck:
        from jaxtyping import install_import_hook

        install_import_hook("usd", "beartype.beartype")
    try:
        with listening():
            action()
    except UserError as error:
        return _failed(str(error), verbose)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
    except OSError as error:  # what the file system refuses; --verbose says where
        if error.errno is None:
            raise
        return _failed(f"{error.filename or 'output'}: {error.strerror}", verbose)
    except KeyboardInterrupt as stop:
        if not sender():
            say_error(f"interrupted{stop}")
        return 130
    return 0


def _failed(message: str, verbose: bool) -> int:
    if verbose:
        logging.exception("traceback")
    say_error(f"{sender()}error: {message}")
    return 2


def sender() -> str:
    """Return the name of this process among several, as a prefix of its messages; empty for the first."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return "" if rank == "0" else f"process {rank}: "
