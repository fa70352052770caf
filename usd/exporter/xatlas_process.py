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


def cut(centers: np.ndarray, most: int) -> list[np.ndarray]:
    """Return the faces of each piece: halved along the longest side of its box until none has more than ``most``."""
    pieces, waiting = [], [np.arange(len(centers))]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= most:
            pieces.append(np.sort(rows))
            continue
        # Compact pieces have short borders, and every border is a seam.
        axis = int(np.argmax(np.ptp(centers[rows], axis=0)))
        # Halves by number, not by place: the depth is the logarithm of the size, however uneven the mesh.
        order = rows[np.argsort(centers[rows, axis], kind="stable")]
        waiting += [order[len(order) // 2 :], order[: len(order) // 2]]
    return pieces


def add_pieces(atlas: "xatlas.Atlas", vertices: np.ndarray, faces: np.ndarray, most: int) -> list[np.ndarray]:
    """Add a mesh in pieces of at most so many faces; return the faces of each.

    xatlas's time for charts grows as the number of faces to the power of 1.7, that of many small meshes as their
    number; all charts are packed together afterwards.
    """
    pieces = cut(vertices[faces].mean(1), most)
    for rows in pieces:
        # A piece has vertices of its own; their positions stay, so that it has the scale of the whole.
        used, local = np.unique(faces[rows], return_inverse=True)
        atlas.add_mesh(vertices[used], local.reshape(-1, 3).astype(np.uint32))
    return pieces


def laid_out(atlas: "xatlas.Atlas", pieces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return faces in the order of the whole mesh, and coordinates of all their corners' places."""
    faces = np.empty((sum(map(len, pieces)), 3), np.int64)
    places, before = [], 0
    for index, rows in enumerate(pieces):
        # Coordinates of a piece are those of the common sheet already: only their numbers move on.
        _, local, uv = atlas[index]
        faces[rows] = local.astype(np.int64) + before
        places.append(uv)
        before += len(uv)
    return faces, np.concatenate(places)


def main(folder: Path, seconds: int) -> None:
    """Read the mesh and the options in a folder, and write its atlas beside them."""
    # The parent ends this process; the alarm does where the parent itself was killed.
    if sys.platform != "win32":
        signal.alarm(seconds + 5)
    mesh, options = np.load(folder / "mesh.npz"), json.loads((folder / "options.json").read_text())
    atlas = xatlas.Atlas()
    pieces = add_pieces(atlas, mesh["vertices"], mesh["faces"], options["most_faces"])
    chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    atlas.generate(configure(chart, options["chart"]), configure(pack, options["pack"]))
    faces, uv = laid_out(atlas, pieces)
    # The sheet is as large as packing made it, whatever resolution was asked for.
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
