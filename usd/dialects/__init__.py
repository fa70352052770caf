"""Configurations written for another program, translated into this project's own dialect before they are parsed.

A dialect is a pure function from a merged mapping to another one. What it changes in meaning is a note, a line each;
what it moves is remembered, so that paths stay relative to the file that says them and errors name the user's key.
"""

from collections.abc import Mapping

from usd.core.errors import ConfigError, did_you_mean
from usd.dialects.draft import Draft, Translation
from usd.dialects.threestudio import is_threestudio, translate_threestudio
from usd.dialects.threestudio.extensions import refuse_extensions
from usd.dialects.threestudio.places import with_place
from usd.dialects.threestudio.trainer import translate_batches
from usd.dialects.threestudio.unknown import refuse_unknown

DIALECTS = ("usd", "threestudio")


def dialect_of(values: Mapping[str, object]) -> str:
    """Return the dialect that a configuration says, or that its system's name shows. Raises ``ConfigError``."""
    chosen = values.get("dialect")
    if chosen is None:
        return "threestudio" if is_threestudio(values) else "usd"
    if chosen not in DIALECTS:
        hint = did_you_mean(str(chosen), DIALECTS)
        raise ConfigError(
            f"dialect: {chosen!r} is not a choice; expected one of {', '.join(DIALECTS)}.{hint}"
        )
    return str(chosen)


def translate(values: Mapping[str, object], dialect: str | None = None) -> Translation:
    """Return a configuration in this project's dialect. Raises ``ConfigError`` for keys that no dialect knows."""
    if (dialect or dialect_of(values)) != "threestudio":
        draft = Draft({**values, "dialect": "usd"})
        translate_batches(draft)  # Lightning's, whoever's the file is
        return draft.translation()
    translation = translate_threestudio(values)
    try:
        refuse_extensions(translation.values)
        refuse_unknown(translation.values)
    except ConfigError as error:
        raise ConfigError(translation.as_written(str(error))) from error
    return translation


__all__ = ["DIALECTS", "Translation", "dialect_of", "translate", "with_place"]
