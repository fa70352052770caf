"""``usd view TRIAL|FILE``: a finished object in the browser.

A trial is rendered as its renderer does, at any of its saved steps, without a diffusion model; a mesh file (GLB, glTF,
OBJ, PLY, STL, OFF) is shown as it is, and Gaussian splats (PLY, glTF, SPZ) as the renderer of splats does.
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from usd.app.experiment import Trial, load_experiment, short_path
from usd.app.open_viewer import open_viewer, viewer_until_the_end
from usd.core import checkpoint, process
from usd.core.errors import UserError, listing
from usd.viewer.options import HERE, ViewerOptions

if TYPE_CHECKING:
    from usd.system.scene import SceneSystem


def view_parser() -> argparse.ArgumentParser:
    """Return the command line of ``usd view``."""
    parser = argparse.ArgumentParser(
        prog="usd view", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", metavar="TRIAL|FILE", type=Path, help="a trial's folder, or a file of a mesh or of splats"
    )
    parser.add_argument("--step", type=int, help="saved step to begin with; by default the last")
    parser.add_argument(
        "--host", default=HERE, help="address to serve at; another than 127.0.0.1 asks for a token"
    )
    parser.add_argument("--port", type=int, default=7007, help="port of the page")
    parser.add_argument("--max-size", type=int, default=512, help="rows of the largest picture")
    parser.add_argument("--gpu", metavar="0|cpu", help="where pictures are made; by default the first GPU")
    return parser


def saved_steps(trial: Trial) -> dict[int, Path]:
    """Return the checkpoints of a trial by step, in order. Raises ``UserError`` where there is none."""
    if not trial.folder.exists():
        raise UserError(f"{trial.folder}: no such file or folder; expected a trial's folder or a mesh file")
    found = {
        int(match[1]): file
        for file in trial.ckpts.glob("epoch=*-step=*.ckpt")
        if (match := re.fullmatch(r"epoch=\d+-step=(\d+)\.ckpt", file.name))
    }
    if trial.last.is_file():
        found.setdefault(int(checkpoint.load(trial.last)["global_step"]), trial.last)
    if not found or not (trial.configs / "parsed.yaml").is_file():
        raise UserError(f"{trial.folder}: has no checkpoint; expected a trial's folder or a mesh file")
    return dict(sorted(found.items()))


def view(args: argparse.Namespace) -> None:
    """Show what the command line names until it is closed. Raises ``UserError``."""
    if not 1 <= args.port <= 65535 or not 16 <= args.max_size <= 4096:
        raise UserError("--port, --max-size: expected a port from 1 to 65535, and 16 to 4096 rows")
    options = ViewerOptions(host=args.host, port=args.port, max_size=args.max_size)
    with viewer_until_the_end(stays=True):
        if args.source.is_file():
            view_file(args.source, options, args.gpu)
        else:
            view_trial(Trial(args.source), args.step, options, args.gpu)


def view_file(file: Path, options: ViewerOptions, gpu: str | None) -> None:
    """Put a file of splats or of a mesh on the page. Raises ``UserError`` for what is neither."""
    from usd.mesh_io.splats import holds_splats

    if holds_splats(file):
        view_splats(file, options, gpu)
    else:
        view_mesh(file, options)


def view_splats(file: Path, options: ViewerOptions, gpu: str | None) -> None:
    """Put a file of Gaussian splats on the page. Raises ``UserError`` that says what is wrong with it."""
    from usd.app.devices import single_device
    from usd.app.splat_file import extent, open_splats
    from usd.viewer.session import Subject

    system = open_splats(file).to(single_device(gpu))
    viewer = open_viewer(options)
    subject = Subject(system, file.with_suffix(""), device=system.device)
    panel = viewer.open(file.name, subject, training=False)
    means = system.geometry.state_dict()["means"]
    panel.status.content = f"{len(means)} Gaussians"
    viewer.stage.place_before(torch.stack(extent(means)).cpu())


def view_mesh(file: Path, options: ViewerOptions) -> None:
    """Put a mesh file on the page. Raises ``UserError`` for what is none."""
    from usd.mesh_io.axes import default_up
    from usd.mesh_io.read import READERS, read_mesh

    if file.suffix.lower() not in READERS:
        raise UserError(
            f"{file}: holds no mesh or splats; expected one of {listing([*READERS, '.spz'])}, or a trial's folder"
        )
    mesh = read_mesh(file)  # says in one line what is wrong with it
    content = glb_content(file)
    viewer = open_viewer(options)
    panel = viewer.open(file.name, None, training=False)
    panel.status.content = f"{len(mesh.faces)} faces, {len(mesh.vertices)} vertices"
    viewer.stage.show(None)
    viewer.stage.show_mesh(content, default_up(file))
    viewer.stage.place_before(mesh.vertices)


def glb_content(file: Path) -> bytes:
    """Return a mesh file as GLB in its own axes: as it is, or converted with its colors and textures."""
    if file.suffix.lower() == ".glb":
        return file.read_bytes()
    import trimesh

    return bytes(trimesh.load_scene(file).export(file_type="glb"))


def view_trial(trial: Trial, step: int | None, options: ViewerOptions, gpu: str | None) -> None:
    """Open a trial at one of its saved steps; the page's slider goes to the others. Raises ``UserError``."""
    steps = saved_steps(trial)
    chosen = max(steps) if step is None else step
    FinishedTrial(trial, steps, chosen, gpu).open(options)


class FinishedTrial:
    """A trial whose saved steps are looked at, one after the other."""

    def __init__(self, trial: Trial, steps: dict[int, Path], chosen: int, gpu: str | None) -> None:
        from usd.app.devices import single_device
        from usd.app.modes import build_experiment

        if chosen not in steps:
            raise UserError(f"--step: {chosen} was not saved; expected one of {listing(map(str, steps))}")
        self.trial, self.steps = trial, steps
        self.experiment, _ = load_experiment([trial.configs / "parsed.yaml"])
        self.system, self.data = build_experiment(self.experiment, trial)
        self.system.to(single_device(gpu))
        self.load(chosen)

    def scene(self) -> "SceneSystem":
        """Return the system. Raises ``UserError`` where it has no object."""
        from usd.system.scene import SceneSystem

        if isinstance(self.system, SceneSystem):
            return self.system
        raise UserError(
            f"{self.trial.folder}: its system, {type(self.system).__name__}, trains no object to look at"
        )

    def load(self, step: int) -> None:
        """Take the weights of a saved step."""
        self.system.restore(checkpoint.load(self.steps[step]))
        self.system.to(self.system.device).eval()

    def open(self, options: ViewerOptions) -> None:
        """Show the object; the page's slider goes to the other steps. Raises ``UserError`` where there is none."""
        from usd.app.viewing import subject_of

        subject = subject_of(self.experiment, self.scene(), self.data)
        viewer = open_viewer(options)
        panel = viewer.open(self.trial.folder.name, subject, training=False)
        panel.status.content = short_path(self.trial.folder)
        panel.show_steps(list(self.steps), self.system.step)

        def show(step: int) -> None:
            self.load(step)
            subject.version += 1

        viewer.on_step = show


def main(argv: list[str] | None = None) -> int:
    """Run ``usd view``; return the exit code."""
    return process.run_command(lambda: view(view_parser().parse_args(argv)))


if __name__ == "__main__":
    process.start(main)
