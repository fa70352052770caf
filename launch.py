#!/usr/bin/env python3
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

from usd.core import process
from usd.core.errors import UserError, did_you_mean
from usd.interrupts import listening

FLAGS = [
    "config",
    "train",
    "validate",
    "test",
    "export",
    "gpu",
    "verbose",
    "typecheck",
    "list",
    "describe",
    "doctor",
]


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and everything else as ``key=value`` overrides."""
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
    listed = [(item, is_file(item, first=not at)) for items in flags.config for at, item in enumerate(items)]
    flags.config = [item for item, is_config in listed if is_config]
    return flags, [item for item, is_config in listed if not is_config] + rest


def is_file(item: str, first: bool) -> bool:
    """Whether what stands behind ``--config`` is a file, whose name may hold an equals sign, and no ``key=value``."""
    from usd.core.loading import is_override

    return first or not is_override(item) or os.path.isfile(item)


def perform(flags: argparse.Namespace, overrides: list[str]) -> None:
    for item in overrides:
        if item.startswith("-"):
            raise UserError(f"{item}: unknown option.{did_you_mean(item.strip('-'), FLAGS)} See --help.")
    if flags.mode in ("list", "doctor") or flags.describe:
        print(told(flags))
        return
    if not flags.mode or not flags.config:
        raise UserError(
            "nothing to do: expected --config FILE and one of --train, --validate, --test, --export"
        )
    if flags.gpu and set(flags.gpu) & set(",:"):  # torch warns of what several processes do on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from usd.experiment import load_experiment, refuse_missing_inputs
    from usd.stages import is_staged, run_stages

    command = [sys.executable, *sys.argv]
    if is_staged(flags.config):
        run_stages(flags.mode, flags.config, overrides, flags.gpu, command)
        return
    experiment, raw = load_experiment(flags.config, overrides)
    refuse_missing_inputs(flags.mode, experiment)
    # Lightning comes with it: once the configuration is known to be right
    from usd.train import execute

    execute(flags.mode, experiment, raw, flags.gpu, command)


def told(flags: argparse.Namespace) -> str:
    """The answer to --list, --doctor or --describe."""
    from usd import catalog, doctor

    report = {"list": catalog.listing_text, "doctor": doctor.report}.get(flags.mode)
    return report() if report else catalog.describe(flags.describe)


def main(argv: list[str] | None = None) -> int:
    process.prepare()
    flags, overrides = arguments(sys.argv[1:] if argv is None else argv)
    if flags.verbose:
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("usd").setLevel(logging.DEBUG)
    if flags.typecheck:
        from jaxtyping import install_import_hook

        install_import_hook("usd", "beartype.beartype")
    try:
        with listening():
            perform(flags, overrides)
    except UserError as error:
        if flags.verbose:
            logging.exception("traceback")
        print(f"{sender()}error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
    except OSError as error:  # what the file system refuses; --verbose says where
        if error.errno is None:
            raise
        if flags.verbose:
            logging.exception("traceback")
        print(f"{sender()}error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if not sender():
            print(f"interrupted{stop}", file=sys.stderr)
        return 130
    return 0


def sender() -> str:
    """Which of several processes speaks; empty for the first."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


if __name__ == "__main__":
    process.restart_in_utf8()
    sys.exit(main())
