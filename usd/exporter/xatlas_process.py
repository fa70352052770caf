"""Unwrapping of one mesh: ``python xatlas_process.py FOLDER SECONDS``, a process that ``unwrap.py`` starts.

xatlas cannot be interrupted, so the process can be ended; an alarm ends it too, should nobody be left to do so.
Reads ``mesh.npz`` and ``options.json`` in the folder and writes ``atlas.npz``. It imports nothing of this package.
"""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import xatlas


def configure(options: object, given: dict[str, object]) -> object:
    """Set attributes of xatlas's options; return them."""
    for name, value in given.items():
        setattr(options, name, value)
    return options


def main(folder: Path, seconds: int) -> None:
    """Read the mesh and the options in a folder, and write its atlas beside them."""
    # The parent ends this process; the alarm does where the parent itself was killed.
    if sys.platform != "win32":
        signal.alarm(seconds + 5)
    mesh, options = np.load(folder / "mesh.npz"), json.loads((folder / "options.json").read_text())
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh["vertices"], mesh["faces"])
    chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    atlas.generate(configure(chart, options["chart"]), configure(pack, options["pack"]))
    _, faces, uv = atlas[0]
    size = np.array([atlas.width, atlas.height])
    np.savez(
        folder / "atlas.npz",
        faces=faces,
        uv=uv,
        size=size,
        charts=atlas.chart_count,
        sheets=atlas.atlas_count,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
