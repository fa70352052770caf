"""Texture coordinates within a time limit: by xatlas, else by boxes."""

import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.config import ConfigError
from usd.core.errors import did_you_mean, listing
from usd.core.progress import Work
from usd.exporter.box_atlas import box_atlas
from usd.mesh_io.atlas import Atlas

log = logging.getLogger(__name__)

Setting = bool | int | float
PACK_SIZE = 1024  # xatlas packs on a grid of this size at most: finer ones take long and gain little
MOST_FACES = 12_000  # larger meshes go to xatlas in pieces
# Charts of large pieces cost more time and are no larger: seams are as long with 2,000 faces as with 12,000.
PIECE_FACES = 2_000
PROGRESS_SECONDS = 10.0
GLANCE_SECONDS = 0.5
CHART_OPTIONS = (
    "fix_winding",
    "max_boundary_length",
    "max_chart_area",
    "max_cost",
    "max_iterations",
    "normal_deviation_weight",
    "normal_seam_weight",
    "roundness_weight",
    "straightness_weight",
    "texture_seam_weight",
    "use_input_mesh_uvs",
)
PACK_OPTIONS = (
    "bilinear",
    "blockAlign",
    "bruteForce",
    "create_image",
    "max_chart_size",
    "padding",
    "resolution",
    "rotate_charts",
    "rotate_charts_to_axis",
    "texels_per_unit",
)


@dataclass(frozen=True)
class UnwrapSettings:
    """Size of the texture, seconds that xatlas may take (0: boxes at once), and xatlas's options."""

    size: int
    time_limit: float | int
    chart: dict[str, Setting] = field(default_factory=dict)
    pack: dict[str, Setting] = field(default_factory=dict)


def check_options(key: str, given: dict[str, Setting], known: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` for a name that xatlas does not know."""
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f" Known keys: {listing(known)}."
            raise ConfigError(f"{key}.{name}: unknown key.{hint}")


def unwrap(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], settings: UnwrapSettings) -> Atlas:
    """Return an atlas by xatlas; by boxes, with a note that says why, where xatlas does not end well in time."""
    # xatlas has absolute thresholds: in the unit cube they mean the same for every object.
    low, high = vertices.amin(0), vertices.amax(0)
    unit = ((vertices - low) / (high - low).amax().clamp_min(1e-30)).cpu()
    # An unwrapping that fails is no reason to lose a training: boxes always succeed.
    why = ""
    if settings.time_limit > 0:
        found = unwrap_with_xatlas(unit, faces, settings)
        if isinstance(found, Atlas):
            return found
        why = found
    if why:
        log.warning("note: %s; laying the faces out by boxes instead", why)
    return box_atlas(unit, faces, settings.size, int(settings.pack.get("padding", 2)))


def unwrap_with_xatlas(
    vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], settings: UnwrapSettings
) -> Atlas | str:
    """Return an atlas, or why there is none, from a process that is ended when the time is up."""
    pack = {"resolution": min(settings.size, PACK_SIZE), "padding": 2, **settings.pack}
    most = PIECE_FACES if len(faces) > MOST_FACES else len(faces)
    with tempfile.TemporaryDirectory(prefix="unwrap-") as name:
        folder = Path(name)
        # Arrays go by file: nothing of the parent's memory is shared with a library that may crash.
        np.savez(
            folder / "mesh.npz",
            vertices=vertices.float().numpy(),
            faces=faces.cpu().numpy().astype(np.uint32),
        )
        (folder / "options.json").write_text(
            json.dumps({"chart": settings.chart, "pack": pack, "most_faces": most})
        )
        failure = _run_xatlas(folder, settings.time_limit, len(faces))
        return failure or _read_atlas(folder / "atlas.npz", len(faces))


def _run_xatlas(folder: Path, limit: float | int, n_faces: int) -> str:
    """Return why xatlas did not finish; an empty text where it did."""
    script = Path(__file__).with_name("xatlas_process.py")
    # xatlas cannot be interrupted, and a crash of it must not be ours: it gets a process of its own.
    command = [sys.executable, "-P", str(script), str(folder), str(int(limit))]
    began = time.monotonic()
    with open(folder / "errors.txt", "w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            if not _wait(process, began, limit, n_faces):
                return f"unwrapping {n_faces} faces took longer than exporter.unwrap_time_limit, {limit:g} s"
        finally:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return ""
    messages = [
        line for line in (folder / "errors.txt").read_text(errors="replace").splitlines() if "Error" in line
    ]
    return f"xatlas failed ({messages[-1] if messages else f'exit code {process.returncode}'})"


def _wait(process: subprocess.Popen, began: float, limit: float | int, n_faces: int) -> bool:
    """Return whether the process ended within the limit; log now and then how long it has been."""
    told = PROGRESS_SECONDS
    with Work("unwrapping, at most seconds", limit) as work:
        while (left := began + limit - time.monotonic()) > 0:
            try:
                process.wait(min(GLANCE_SECONDS, left))
                return True
            except subprocess.TimeoutExpired:
                passed = time.monotonic() - began
                work.show(round(passed), f"{n_faces} faces")
                if passed >= told:
                    told += PROGRESS_SECONDS
                    log.info("unwrapping %d faces: %.0f s of at most %g s", n_faces, passed, limit)
    return process.poll() is not None


def _read_atlas(file: Path, n_faces: int) -> Atlas | str:
    """Return the atlas that the process wrote, on one square texture, or why it is not usable."""
    found = np.load(file)
    if int(found["sheets"]) != 1:
        pack = "xatlas_pack_options: resolution or texels_per_unit"
        return f"xatlas made {int(found['sheets'])} textures, expected one (exporter.{pack})"
    width, height = (float(side) for side in found["size"])
    # A sheet is seldom square: both axes are scaled by its longer side, so that charts keep their shape.
    uv = torch.from_numpy(found["uv"]).float() * torch.tensor([width, height]) / max(width, height)
    # Seams double vertices: the atlas has faces and corners of its own.
    faces = torch.from_numpy(found["faces"].astype(np.int64))
    if len(faces) != n_faces or not bool(uv.isfinite().all()):
        return "xatlas returned coordinates that are not usable"
    return Atlas(uv.clamp(0, 1), faces, int(found["charts"]), "xatlas")
