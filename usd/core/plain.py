"""Plain values: what YAML, JSON and checkpoints hold."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Plain = None | bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"]
    """Null, numbers, texts, and lists and mappings (by text) of them."""
else:  # checkers of types at run time know no type that holds itself
    Plain = object
