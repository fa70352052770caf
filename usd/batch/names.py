"""Folder names of objects: safe on every file system, inside the output folder, and no two alike."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from usd.app.experiment import folder_name
from usd.core.files import digest

LONGEST = 150
"""Bytes of a name: file systems allow 255, and locks and what is set aside have longer ones."""
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
"""What Windows takes for a device, whatever stands behind its first dot."""


def object_name(text: str) -> str:
    """Return ``text`` as the name of one folder; ``object`` where nothing of it can be part of a name."""
    plain = unicodedata.normalize("NFC", text.encode(errors="replace").decode())
    short = folder_name(plain.replace("~", "-")).encode()[:LONGEST].decode(errors="ignore")
    name = short.strip(". ") or "object"
    return f"_{name}" if RESERVED.fullmatch(name.partition(".")[0].strip()) else name


def distinct(candidates: Sequence[Sequence[str]]) -> list[str]:
    """Return one name for each object: of its candidates the first that is nobody else's, ignoring case.

    Candidates go from short to certain: the last gets a digest of itself where even that one is taken.
    """
    names = [object_name(mine[0]) for mine in candidates]
    for level in range(1, max(map(len, candidates), default=0)):
        others = [object_name(mine[min(level, len(mine) - 1)]) for mine in candidates]
        names = _replaced(names, others)
    certain = [digest(mine[-1].encode(errors="replace"), size=4) for mine in candidates]
    return _replaced(names, [f"{name[:100]}-{mark}" for name, mark in zip(names, certain)])


def _replaced(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the names, where all that share one are replaced by their counterparts in ``others``."""
    counts = Counter(name.casefold() for name in names)
    return [other if counts[name.casefold()] > 1 else name for name, other in zip(names, others)]
