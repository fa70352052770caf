"""Files found by the names that other programs wrote down for them.

A name may lack its ending (``train/r_0``), differ in case (``IMG_1.JPG``), use Windows' slashes, or be the absolute
path that the file had on another machine. It means a file where exactly one fits;
where several do, an error names them.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

from usd.core.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".avif")
"""Endings that a name may lack."""
NO_PICTURES = re.compile(r"[._]|(dynamic_)?masks?|depths?|normals?|conf", re.IGNORECASE)
"""Beginnings of the names of folders whose pictures are other maps."""
MOST_FOLDERS = 200
"""Pictures that moved are looked for in so many folders at most."""


def fold_name(name: str) -> str:
    """Return a name without its case, and without the ways in which systems compose accents."""
    return unicodedata.normalize("NFC", name).casefold()


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their names, without hidden ones; none where it is not there."""
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )


class Folder:
    """The files below a folder, by name. ``where`` is blamed in errors."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        self._listings: dict[Path, dict[str, list[Path]]] = {}

    def find(self, name: str) -> Path | None:
        """Return the file that ``name`` means, None where there is none. Raise UserError where several fit."""
        if not name or "\0" in name or not self._exists:
            return None
        if _is_file(self.path / name):
            return self.path / name
        for parts in _readings(name):
            for exact in (True, False):
                found = self._matching(parts, exact)
                if len(found) > 1:
                    shown = " or ".join(sorted(file.name for file in found)[:3])
                    raise UserError(f"{self.where}: {name}: could be {shown}; expected one such file")
                if found:
                    return found[0]
        return None

    @cached_property
    def _exists(self) -> bool:
        return self.path.is_dir()

    def nearest(self, name: str) -> str:
        """Return ``". Did you mean 'x'?"`` for the nearest file, first of all one with another ending; else nothing."""
        stems = {fold_name(file.stem): file.name for file in reversed(self._beside(name))}
        near = get_close_matches(_stem(name), list(stems), n=1)
        return f". Did you mean '{stems[near[0]]}'?" if near else ""

    def other_ending(self, name: str) -> str | None:
        """Return the name of a file that differs from ``name`` in its ending only."""
        return next((file.name for file in self._beside(name) if fold_name(file.stem) == _stem(name)), None)

    def _beside(self, name: str) -> list[Path]:
        """Return everything in the folder where ``name`` should be."""
        folders = self._descend(path_steps(name)[:-1])
        return [file for folder in folders for group in self._listed(folder).values() for file in group]

    def _matching(self, parts: tuple[str, ...], exact: bool) -> list[Path]:
        """Return the files that ``parts`` name, also without an ending; all of them, and each once."""
        *above, last = parts
        endings = [""] if Path(last).suffix.lower() in PICTURES else ["", *PICTURES]
        if exact:
            files = [self.path.joinpath(*above, last + ending) for ending in endings]
            return [file for file in files if _is_file(file)]
        wanted = {fold_name(last + ending) for ending in endings}
        listed = [self._listed(folder) for folder in self._descend(tuple(above))]
        return [file for names in listed for key in wanted for file in names.get(key, []) if _is_file(file)]

    def _descend(self, parts: tuple[str, ...]) -> list[Path]:
        """Return the folders that ``parts`` lead to, whatever their case."""
        folders = [self.path]
        for part in parts:
            if part == "..":
                folders = [folder / part for folder in folders]
                continue
            inside = [path for folder in folders for path in self._listed(folder).get(fold_name(part), [])]
            folders = [path for path in inside if path.is_dir()]
        return folders

    def _listed(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listings:
            names: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                names.setdefault(fold_name(path.name), []).append(path)
            self._listings[folder] = names
        return self._listings[folder]


def pictures_by_names(root: Path, names: Sequence[str], where: str) -> list[Path | None]:
    """Return the picture of each name, with or without an ending, that stands beside a file of cameras in ``root``.

    They are all in ``images/``, ``input/`` or ``root`` itself, whichever has the most; else in a folder further in.
    """
    folders = [Folder(place, where) for each in ("images", "input", "") if (place := root / each).is_dir()]
    found = [[folder.find(name) for name in names] for folder in folders]
    most = max(found, key=lambda files: len(files) - files.count(None))
    moved = None if any(most) else moved_pictures(root, names)
    return most if moved is None else moved[1]


def moved_pictures(root: Path, names: Sequence[str]) -> tuple[Path, list[Path | None]] | None:
    """Return where pictures are, none of which is where its name says: in another folder, or with another ending.

    The folder is the one below ``root`` in which most names, or the longest ends of them, are found; at least half.
    None where there is none.
    """
    stems = [_without_ending(name) for name in names]
    places = [place for place in _folders_below(root) if pictures_in(place) or place == root]
    for dropped in range(max((len(parts) for parts in stems), default=0)):
        tails = [str(PurePosixPath(*parts[dropped:])) if len(parts) > dropped else "" for parts in stems]
        found = [(place, _found_all(place, tails)) for place in places]
        place, files = max(found, key=lambda pair: len(pair[1]) - pair[1].count(None))
        if 2 * files.count(None) <= len(files):
            return place, files
    return None


def _found_all(place: Path, names: Sequence[str]) -> list[Path | None]:
    """Return the files of a folder by names without endings; none of them where a name fits several."""
    folder = Folder(place, "")
    try:
        return [folder.find(name) for name in names]
    except UserError:
        return [None] * len(names)


def _without_ending(name: str) -> tuple[str, ...]:
    """Return the steps of a path, of a picture's without its ending."""
    *above, last = path_steps(name) or ("",)
    return (*above, Path(last).stem if Path(last).suffix.lower() in PICTURES else last)


def _folders_below(root: Path) -> list[Path]:
    """Return a folder and those two levels below it, in the order of their names, but folders of other maps."""
    found = [root]
    for level in ("*", "*/*"):
        inside = islice((path for path in sorted(root.glob(level)) if path.is_dir()), MOST_FOLDERS)
        found += [path for path in inside if not any(map(NO_PICTURES.match, path.relative_to(root).parts))]
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name longer than the system allows
        return False


def path_steps(name: str) -> tuple[str, ...]:
    """Return the steps of a path, whichever slashes it has; without drive and root."""
    bare = re.sub(r"^[A-Za-z]:(?=[\\/])", "", name).replace("\\", "/")
    return tuple(part for part in PurePosixPath(bare).parts if part not in ("/", "//", "."))


def _stem(name: str) -> str:
    return fold_name(PurePosixPath(*path_steps(name)).stem)


def _readings(name: str) -> Iterator[tuple[str, ...]]:
    """Return the relative paths that ``name`` can stand for: an absolute one also without the folders above."""
    parts = path_steps(name)
    absolute = name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name)
    for first in range(len(parts) if absolute else min(len(parts), 1)):
        yield parts[first:]


def nearby(path: Path) -> str:
    """Return ``". Did you mean 'x'?"`` for the file nearest to a path that does not exist; else nothing."""
    try:
        return Folder(path.parent, "").nearest(path.name)
    except OSError:
        return ""
