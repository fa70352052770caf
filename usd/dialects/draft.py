"""A configuration on its way from one dialect to another."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from usd.core.errors import ConfigError
from usd.core.loading import ValueOrigin

Values = dict[str, object]


@dataclass(frozen=True)
class Translation:
    """A translated configuration, what changed in meaning (a line each), and where moved keys were written."""

    values: Mapping[str, object]
    notes: tuple[str, ...] = ()
    written_at: Mapping[str, str] = field(default_factory=dict)  # key after translation -> key in the file

    def origins(self, origins: Mapping[str, ValueOrigin]) -> dict[str, ValueOrigin]:
        """Return where each value was written, under the keys after translation."""
        moved = {
            new + key.removeprefix(old): origin
            for new, old in self.written_at.items()
            for key, origin in origins.items()
            if key == old or key.startswith(f"{old}.")
        }
        return {**origins, **moved}

    def as_written(self, message: str) -> str:
        """Return an error message with the key that the user wrote in front, where it starts with a moved key."""
        key = message.partition(":")[0]
        for new, old in sorted(self.written_at.items(), key=lambda item: -len(item[0])):
            if key == new or key.startswith(f"{new}."):
                return f"{old}{key.removeprefix(new)} ({key} here){message.removeprefix(key)}"
        return message


class Draft:
    """A mapping that is translated in place; ``translation`` is the result.

    Keys are paths of names joined by dots.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        """Start from a copy of ``values``."""
        self.values: Values = copy.deepcopy(dict(values))
        self._notes: list[str] = []
        self._unneeded: list[str] = []
        self._written_at: dict[str, str] = {}

    def get(self, key: str) -> object:
        """Return the value at ``key``; None where there is none."""
        *above, name = key.split(".")
        return self.section(".".join(above)).get(name)

    def __contains__(self, key: str) -> bool:
        """Return whether ``key`` is given."""
        *above, name = key.split(".")
        return name in self.section(".".join(above))

    def section(self, key: str) -> Values:
        """Return the options at ``key``, as they lie in the draft; an empty mapping where nothing is.

        Raises ``ConfigError`` where something else than options is.
        """
        found: object = self.values
        at: list[str] = []
        for name in key.split(".") if key else ():
            at.append(name)
            assert isinstance(found, dict)
            found = found.get(name)
            if found is None:
                return {}
            if not isinstance(found, dict):
                raise ConfigError(f"{'.'.join(at)}: expected a mapping of options, got {found!r}")
        return found if isinstance(found, dict) else {}

    def set(self, key: str, value: object) -> None:
        """Write ``value`` at ``key``, with the sections above it."""
        *above, name = key.split(".")
        self.section(".".join(above))  # refuses what is no mapping
        into = self.values
        for part in above:
            if into.get(part) is None:
                into[part] = {}
            inner = into[part]
            assert isinstance(inner, dict)
            into = inner
        into[name] = value

    def set_defaults(self, key: str, defaults: Mapping[str, object]) -> None:
        """Write those options of the section ``key`` ("" for the top level) that are not given."""
        for name, value in defaults.items():
            path = f"{key}.{name}" if key else name
            if path not in self:
                self.set(path, value)

    def pop(self, key: str) -> object:
        """Remove and return the value at ``key``; None where there is none."""
        *above, name = key.split(".")
        return self.section(".".join(above)).pop(name, None)

    def move(self, old: str, new: str) -> None:
        """Give the value at ``old``, where there is one, the key ``new``."""
        if old in self:
            self.set(new, self.pop(old))
            self._written_at[new] = self._written_at.pop(old, old)

    def write_from(self, old: str, new: str, value: object) -> None:
        """Write at ``new`` a value that was made from the one at ``old``, which goes."""
        self.move(old, new)
        self.set(new, value)

    def copy(self, old: str, new: str) -> None:
        """Write the value at ``old``, where there is one, at ``new`` too."""
        if old in self:
            self.set(new, copy.deepcopy(self.get(old)))
            self._written_at[new] = self._written_at.get(old, old)

    def drop(self, *keys: str) -> None:
        """Remove options that have no counterpart and need none; one line says which."""
        for key in keys:
            if key in self:
                self.pop(key)
                self._unneeded.append(key)

    def drop_because(self, key: str, reason: str) -> None:
        """Remove an option, where it is given, and say why."""
        if key in self:
            self.pop(key)
            self.note(f"{key}: {reason}")

    def note(self, line: str) -> None:
        """Add a line for the user, once."""
        if line not in self._notes:
            self._notes.append(line)

    def translation(self) -> Translation:
        """Return the result."""
        unneeded = [f"not needed here: {', '.join(self._unneeded)}"] if self._unneeded else []
        notes = tuple(f"note: {line}" for line in [*self._notes, *unneeded])
        return Translation(self.values, notes, dict(self._written_at))
