"""From one picture, or a sentence, to a 3D object.

usd demo                                                          a toy's picture to an object, measured
usd train usd-patch-mini system.guidance.image_path=photo.png     your own picture
usd export outputs/photo/<trial>                                  the trained object as a mesh
usd list; usd describe usd-system; usd doctor                     what there is to configure; this machine

A configuration is a YAML file or the bare name of one that comes with the package. `usd COMMAND --help` says more.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import usd
from usd.app import completion, launcher
from usd.core import places, process, registry
from usd.core.console import say, say_error
from usd.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from usd.app.experiment import Mode

MODES: "dict[Mode, str]" = {
    "train": "make an object, or train what else a configuration says; a trial's folder: go on with it",
    "validate": "write a trial's validation pictures",
    "test": "render a trial's test views and measure them",
    "export": "write a trial's mesh",
}


@dataclass(frozen=True)
class Program:
    """A sub-command with a command line of its own: a module, whose ``main`` takes the arguments."""

    module: str
    help: str


PROGRAMS = {
    "demo": Program("usd.app.demo", "a toy's one picture to an object, measured against the truth"),
    "demo-text": Program("usd.app.demo_text", "a sentence to a textured mesh, in three stages"),
    "demo-full": Program("usd.app.demo_full", "one picture to a textured mesh through every stage"),
    "view": Program("usd.app.view_command", "a finished trial, a mesh or splats in the browser"),
    "render": Program(
        "usd.app.render_command", "a finished object along a way of the camera: video or pictures"
    ),
    "batch": Program("usd.batch.command", "many objects, here or on a Ray cluster"),
    "serve": Program("usd.serve.command", "a job service: a page that takes pictures and sentences"),
    "improve": Program("usd.app.improve", "a mesh file with a better texture, from a picture of it"),
    "report": Program("usd.report.command", "a trial's page, made again; or several side by side"),
    "evaluate": Program(
        "usd.evaluation.command", "how far a mesh, views or a trial are from the truth; rectification PICTURE"
    ),
    "picture": Program("usd.app.picture_command", "pictures of a sentence, and one to make an object of"),
    "views": Program("usd.app.views_command", "all views of a model that makes them together, with cameras"),
    "elevation": Program("usd.app.elevation_estimate", "how high above the object a picture was taken"),
    "benchmark": Program("usd.app.benchmark", "how fast this machine trains, as a table for a report"),
    "toybox": Program("usd.app.toys", "a toy with its ground truth, or a sheet of many toys"),
    "matte": Program("usd.app.matte_command", "photographs cut out by a matting network that you have"),
    "poses": Program("usd.app.poses_command", "cameras of a video's or a folder's pictures, by COLMAP"),
    "models": Program("usd.app.models_command", "models on this machine, or what a recipe would fetch"),
    "evaluate-rectification": Program(
        "usd.app.rectification_command", "whether another model's unconditional prediction helps"
    ),
    "convert-model": Program("usd.denoiser.convert", "a diffusion model in another form"),
    "convert-views": Program("usd.data.convert", "views in the file layouts of other systems"),
}
CONVERT = {"model": "convert-model", "views": "convert-views"}
NESTED = {"convert": CONVERT, "evaluate": {"rectification": "evaluate-rectification"}}
"""Commands of two words: the program that the second one names."""
SHELLS = ("bash", "zsh", "fish")


def parser() -> argparse.ArgumentParser:
    """Return the command line of ``usd``."""
    made = argparse.ArgumentParser(
        prog="usd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"usd {usd.__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for mode, meaning in MODES.items():
        made_mode = commands.add_parser(mode, help=meaning, description=meaning, allow_abbrev=False)
        _add_mode(made_mode)
        if mode == "train":
            made_mode.add_argument("--dry-run", action="store_true", help=launcher.DRY_RUN)
            made_mode.add_argument("--viewer", action="store_true", help=launcher.VIEWER)
    for name, program in PROGRAMS.items():
        if not any(name in seconds.values() for seconds in NESTED.values()):
            commands.add_parser(name, help=program.help)
    convert = commands.add_parser("convert", help="models and views in other forms")
    convert.add_argument("what", choices=CONVERT)
    commands.add_parser("list", help="every component by kind, and every configuration that comes along")
    described = commands.add_parser("describe", help="a component's options: type, default, meaning")
    described.add_argument("name", help="as `usd list` writes it, or experiment for the top level")
    commands.add_parser("doctor", help="this machine, for a bug report")
    new = commands.add_parser("new", help="a component's file to start from, in ./custom")
    new.add_argument("kind", metavar="KIND", help=", ".join(registry.KINDS))
    new.add_argument("name", metavar="NAME", help="letters, digits, - and _")
    shell = commands.add_parser("completion", help="a script that completes commands in a shell")
    shell.add_argument("shell", choices=SHELLS)
    return made


def _add_mode(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "config", nargs="+", metavar="CONFIG", help="YAML files, bare names or a trial's folder; key=value"
    )
    made.add_argument("--gpu", metavar="0,1|cpu", help="devices; by default the first GPU, else the CPU")
    made.add_argument("--verbose", action="store_true", help="more logging, and tracebacks of user errors")
    made.add_argument("--typecheck", action="store_true", help="check types and shapes of every call")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``usd``. Returns the exit code: 2 for what the user can mend, 130 after an interruption."""
    if argv is None:
        process.restart_in_utf8()
    process.prepare()
    given = list(sys.argv[1:] if argv is None else argv)
    program = _program(given)
    if program is not None:
        name, rest = program
        return int(importlib.import_module(PROGRAMS[name].module).main(rest) or 0)
    known = completion.subcommands(parser())
    if given and not given[0].startswith("-") and given[0] not in known:
        say_error(f"error: {given[0]}: no such command.{did_you_mean(given[0], known)} See usd --help.")
        return 2
    flags, rest = parser().parse_known_args(given)
    return launcher.guarded(
        lambda: run_subcommand(flags, rest, [sys.executable, "-m", "usd", *given]),
        getattr(flags, "verbose", False),
        getattr(flags, "typecheck", False),
    )


def _program(given: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the called sub-command that has a command line of its own, and its arguments; None for any other."""
    seconds = NESTED.get(given[0], {}) if given else {}
    if len(given) > 1 and given[1] in seconds:
        return seconds[given[1]], list(given[2:])
    return (given[0], list(given[1:])) if given and given[0] in PROGRAMS else None


def run_subcommand(flags: argparse.Namespace, rest: Sequence[str], command: list[str]) -> None:
    """Do what a sub-command asks for. Raises ``UserError``."""
    if flags.command in MODES:
        refuse_options(rest, ["gpu", "verbose", "typecheck", "dry-run", "viewer"])
        words, overrides = launcher.divided(flags.config)
        overrides = [*(["viewer.enable=true"] if getattr(flags, "viewer", False) else []), *overrides]
        configs, resumed = configurations(words)
        if getattr(flags, "dry_run", False):
            launcher.run_dry(configs, [*overrides, *rest], flags.gpu)
            return
        launcher.run_mode(flags.command, configs, [*resumed, *overrides, *rest], flags.gpu, command)
        return
    if rest:
        raise UserError(f"{rest[0]}: not expected here. See usd {flags.command} --help.")
    say(answer(flags))


def refuse_options(words: Sequence[str], known: Sequence[str]) -> None:
    """Raise ``UserError`` for an option that does not exist."""
    for word in words:
        if word.split("=")[0] in ("--config", "-c"):
            raise UserError(
                f"{word}: is launch.py's; a configuration is named without it: usd train CONFIG key=value"
            )
        if word.startswith("-"):
            raise UserError(f"{word}: unknown option.{did_you_mean(word.strip('-'), known)} See --help.")


def configurations(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the configuration files, and the overrides that a trial's folder brings: checkpoint and place.

    Raises ``UserError`` for a word that is neither.
    """
    from usd.app.experiment import place_overrides
    from usd.core.loading import find_config, override

    files, resumed = [], []
    for word in words:
        parsed = Path(word) / "configs" / "parsed.yaml"
        if parsed.is_file():
            files.append(parsed)
            resumed += [
                override("resume", str(Path(word) / "ckpts" / "last.ckpt")),
                *place_overrides(Path(word)),
            ]
        else:
            files.append(find_config(word, "a trial's folder, "))
            if files[-1].is_dir():
                raise UserError(
                    f"{word}: has no configs/parsed.yaml; expected a trial's folder or a YAML file"
                )
    return files, resumed


def answer(flags: argparse.Namespace) -> str:
    """Return what a command that only tells something prints."""
    if flags.command == "completion":
        return completion.script(flags.shell, parser())
    if flags.command == "new":
        return _new(flags.kind, flags.name)
    if flags.command == "list":
        width = max(map(len, places.recipes()))
        recipes = [f"  {name:<{width}}  {file}" for name, file in places.recipes().items()]
        return "\n".join([launcher.information("list", None), "configurations:", *recipes])
    return launcher.information(flags.command, getattr(flags, "name", None))


def _new(kind: str, name: str) -> str:
    from usd.app.skeletons import write_skeleton

    file, full = write_skeleton(kind, name, Path("custom"))
    return f"wrote {file}: {kind}_type={full}. `usd describe {full}` lists its options"
