"""What may be asked of a renderer, checked as strictly as a key of a configuration.

A component names the fields of ``Render`` that it reads, and of the optional fields of its ``Samples`` those that it
cannot do without: ``needs = frozenset({"rgb", "depth"})``.
"""

from collections.abc import Iterable
from dataclasses import MISSING, fields

from usd.core.errors import UserError, did_you_mean
from usd.core.types import Render, Samples

RENDERABLE = frozenset(field.name for field in fields(Render)) | frozenset(
    field.name for field in fields(Samples) if field.default is not MISSING
)


def check_needs(names: Iterable[str], where: str) -> frozenset[str]:
    """Return ``names`` as a set.

    Raises UserError, which starts with ``where``, for a name that is no field of a render.
    """
    needs = frozenset(names)
    for name in sorted(needs - RENDERABLE):
        raise UserError(
            f"{where}: '{name}' is nothing that a renderer gives; expected some of {', '.join(sorted(RENDERABLE))}."
            f"{did_you_mean(name, RENDERABLE)}"
        )
    return needs
