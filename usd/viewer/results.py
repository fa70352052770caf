"""Files made from the page: the mesh as it would be exported, an export cut to a box, a video along a camera path."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from usd.core.config import Plain, Spec, plain_options, spec
from usd.core.registry import build
from usd.data.camera_path import CameraPath, parse_camera_path
from usd.evaluation.gallery import rendered_rgba, write_video
from usd.exporter import Exporter
from usd.viewer.pictures import undisturbed
from usd.viewer.session import Subject

MESH_EXPORTER = "mesh-exporter"


def mesh_export(subject: Subject, crop: Sequence[float] | None = None, **changed: Plain) -> Spec:
    """Return how the subject is exported: as configured, with a crop box and changed options.

    Where the configured exporter knows none of these, as that of splats, a mesh is written.
    """
    chosen = subject.exporter or spec("exporter", MESH_EXPORTER)
    wanted = {**changed, **({} if crop is None else {"crop": list(crop)})}
    if not wanted.keys() <= plain_options(chosen.config).keys():
        chosen = spec("exporter", MESH_EXPORTER)
    return spec("exporter", chosen.name, {**plain_options(chosen.config), **wanted}, "exporter")


def write_export(subject: Subject, chosen: Spec, folder: Path) -> list[Path]:
    """Write the object to ``folder``; return the files. Raises ``UserError`` where there is nothing to write."""
    with undisturbed(subject.system):
        return subject.system.export(build(chosen, Exporter), folder)


def mesh_preview(subject: Subject, crop: Sequence[float] | None = None) -> bytes:
    """Return the GLB that an export would write now. Raises ``UserError`` where there is no surface."""
    chosen = mesh_export(subject, crop, fmt="glb", save_report=False, check_views=0, axes="y-up", scale=1.0)
    with tempfile.TemporaryDirectory() as folder:
        return write_export(subject, chosen, Path(folder))[0].read_bytes()


def video_frames(
    subject: Subject, content: Mapping[str, Plain], size: int
) -> Iterator[tuple[int, int, tuple[Path, ...]]]:
    """Render a camera path a frame at a time: yields frames done, frames in all, and at the end the written files."""
    path = parse_camera_path(content, "camera path")
    cameras, frames = path.cameras(size, size), []
    for index in range(len(cameras)):
        with undisturbed(subject.system):
            view = cameras[index : index + 1].to(subject.system.device)
            frames.append(rendered_rgba(subject.system.render_views(view))[0])
        yield index + 1, len(cameras), ()
    yield len(cameras), len(cameras), write_path_video(subject, path, frames)


def write_path_video(subject: Subject, path: CameraPath, frames: Sequence[torch.Tensor]) -> tuple[Path, ...]:
    """Write a path's video, and the path itself for ``usd render``, under names nobody has yet."""
    folder, step, number = subject.save, subject.system.step, 1
    while (folder / f"it{step}-path-{number}.mp4").exists():
        number += 1
    video = write_video(folder / f"it{step}-path-{number}.mp4", frames, path.fps)
    return video, path.write(folder / f"it{step}-path-{number}.json")
