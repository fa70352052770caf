"""Many objects, one after another or side by side, here or on a Ray cluster.

usd batch pictures/ --config configs/usd-patch-mini.yaml                  # Ray on this machine
usd batch pictures/ --config configs/usd-patch.yaml --gpus 0.5            # two objects share a GPU
usd batch pictures/ --config configs/usd-patch.yaml --address auto        # the cluster this machine is in
usd batch pictures/ --config configs/usd-patch-mini.yaml --local 2        # without Ray
usd batch prompts.txt --config configs/usd-text-to-3D-mini.yaml           # one object a line

Everything else is a key=value override for every object. The same command again goes on where it stopped.
"""

import argparse
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from usd.app.experiment import folder_name, short_path
from usd.batch import Result, Task
from usd.batch.checks import parsed_stages
from usd.batch.launchers import Cluster, Launcher, Local, Share, cards
from usd.batch.names import object_name
from usd.batch.scheduler import run_all
from usd.batch.summary import table, write_page, write_sheet, write_table
from usd.batch.tasks import PICTURE_KEY, PROMPT_KEY, Source, sources
from usd.core import loading, process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.loading import find_config
from usd.core.places import output
from usd.core.progress import Work


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``usd batch``."""
    parser = argparse.ArgumentParser(
        prog="usd batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, help="pictures, folders of them, or a .txt of sentences"
    )
    parser.add_argument(
        "--config", nargs="+", required=True, type=Path, metavar="FILE", help="YAML files, as for usd train"
    )
    parser.add_argument(
        "--out", type=Path, help="a folder for all objects; outputs/batch/<config> by default"
    )
    parser.add_argument(
        "--key", help=f"option that takes the picture or sentence; {PICTURE_KEY} or {PROMPT_KEY} by default"
    )
    parser.add_argument("--no-export", dest="export", action="store_false", help="train and test only")
    parser.add_argument("--retries", type=int, default=2, help="further attempts at what crashed")
    parser.add_argument("--local", type=int, metavar="N", help="N processes at a time here, without Ray")
    parser.add_argument("--workers", type=int, metavar="N", help="tasks at a time, where Ray is started here")
    parser.add_argument("--address", help="a Ray cluster: auto, host:port or ray://host:port")
    parser.add_argument("--cpus", type=float, default=1, help="cores a task takes, and threads it runs")
    parser.add_argument(
        "--gpus", type=float, help="GPUs a task takes; 0.5: two tasks share one. By default 1, or 0"
    )
    return parser


def tasks_of(args: argparse.Namespace, overrides: list[str]) -> list[Task]:
    """One task an object; what was assumed, or left out, is printed."""
    found, notes = sources(args.sources)
    for note in notes:
        say(note)
    return [_task(name, source, args, overrides) for name, source in found.items()]


def _task(name: str, source: Source, args: argparse.Namespace, overrides: list[str]) -> Task:
    key = args.key or (PICTURE_KEY if source.is_picture else PROMPT_KEY)
    return Task(
        name=name,
        source=source.text,
        folder=str(output_folder(args) / name),
        configs=tuple(str(find_config(path).resolve()) for path in args.config),
        overrides=(loading.override(key, source.text), *overrides),
        export=args.export,
        threads=max(1, int(args.cpus)),
        here=str(Path.cwd()),
        is_picture=source.is_picture,
        problem=source.problem,
    )


def output_folder(args: argparse.Namespace) -> Path:
    """Return the folder that all objects go to. Raises ``UserError`` for a name that runs cannot write to as it is."""
    if args.out is None:
        return output(Path("outputs", "batch", object_name(args.config[0].stem)))
    out = output(args.out)
    if folder_name(out.name) != out.name or not out.name:
        raise UserError(
            f"--out {args.out}: cannot be the name of a folder of runs; expected one such as results"
        )
    return out


def launcher(args: argparse.Namespace) -> Launcher:
    """Return the launcher that the command line asks for."""
    gpus = args.gpus if args.gpus is not None else float(bool(args.address is None and _has_gpu()))
    if args.local is not None:
        return Local(args.local, cards(gpus))
    return Cluster(args.address, Share(args.cpus, gpus), args.workers)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def check(args: argparse.Namespace, overrides: list[str]) -> None:
    """Raise ``UserError`` for values that argparse lets through."""
    for item in overrides:
        if item.startswith("-") or "=" not in item:
            raise UserError(f"{item}: unknown option; expected key=value. See --help.")
    for name in ("local", "workers"):
        value = vars(args)[name]
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    if args.retries < 0 or args.cpus <= 0 or (args.gpus or 0) < 0:
        raise UserError(
            "--retries, --cpus, --gpus: expected numbers that are not negative, and some of a CPU"
        )
    if args.local is not None and args.address is not None:
        raise UserError("--local and --address exclude each other")


def teller(work: Work, out: Path) -> Callable[[Result], None]:
    """Return a callback that, after every attempt, prints a line and writes the table so far."""
    known: dict[str, Result] = {}

    def tell(result: Result) -> None:
        known[result.name] = result
        write_table(out / "summary.csv", list(known.values()))
        ended = [one for one in known.values() if not one.again]
        work.show(len(ended), result.name)
        before = " before" if result.status == "done" and not result.attempts else ""
        loss = f", loss {result.figures['loss']:.4g}" if "loss" in result.figures else ""
        error = f": {result.error}" if result.error else ""
        say(
            f"[{len(ended)}/{work.total}] {result.name}: {result.status}{before}, {result.seconds:.0f} s{loss}{error}"
        )

    return tell


def run_batch(args: argparse.Namespace, overrides: list[str]) -> list[Result]:
    """All objects; then the table and the sheet."""
    check(args, overrides)
    tasks = tasks_of(args, overrides)
    parsed_stages(tasks[0])  # all have the same, but for their sources
    out = Path(tasks[0].folder).parent
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    say(f"{len(tasks)} objects: {short_path(out)}")
    with contextlib.closing(launcher(args)) as there, Work("objects", len(tasks)) as work:
        results = run_all(tasks, there, args.retries, teller(work, out))
    say(f"\n{table(results)}\n")
    say(f"table  {short_path(write_table(out / 'summary.csv', results))}")
    try:
        sheet = write_sheet(out / "sheet.png", tasks)
    except UserError as error:  # the objects are made all the same
        say(f"note: no sheet: {error}")
    else:
        say(f"sheet  {short_path(sheet)}" if sheet else "note: no sheet: there is nothing to show")
    say(f"page   {short_path(write_page(out / 'report.html', results))}")
    return results


def main(argv: list[str] | None = None) -> int:
    """0: all objects are done; 1: some are not; 2: the command is wrong; 130: interrupted."""
    args, overrides = parser().parse_known_args(argv)
    for name in ("config", "sources"):
        given: list[Path] = getattr(args, name)
        overrides = [str(item) for item in given if _is_override(item)] + overrides
        setattr(args, name, [item for item in given if not _is_override(item)])
    return process.run_command(lambda: exit_code(run_batch(args, overrides)))


def exit_code(results: list[Result]) -> int:
    """Return the command's exit code: 130 if any was interrupted, 0 if all are done, else 1."""
    if any(result.status == "interrupted" for result in results):
        return 130
    return 0 if all(result.status == "done" for result in results) else 1


def _is_override(item: Path) -> bool:
    return loading.is_override(str(item)) and not os.path.lexists(item)
