"""Keys that neither dialect knows."""

from collections.abc import Mapping

from usd.core import registry
from usd.core.config import keys_of
from usd.core.errors import ConfigError, UserError, did_you_mean, listing
from usd.dialects.draft import Draft
from usd.dialects.threestudio import components, data, guidance, prompt_processor, system

PLACES = {
    "system": "system",
    "data": "data",
    "system.geometry": "geometry",
    "system.material": "material",
    "system.background": "background",
    "system.renderer": "renderer",
    "system.guidance": "guidance",
    "system.guidance_3d": "guidance",
    "system.prompt_processor": "prompt_processor",
}
"""Key of a component -> its kind."""


def refuse_unknown(values: Mapping[str, object]) -> None:
    """Raise ``ConfigError`` for a key that is neither threestudio's nor this project's, with the nearest that is."""
    draft = Draft(values)
    for place, kind in PLACES.items():
        ours = _known_options(kind, draft.get(f"{place}_type"))
        for key in draft.section(place) if ours else ():
            if key not in ours:
                known = {*ours, *_known_there(kind)}
                hint = did_you_mean(key, known) or f" Known keys: {listing(known)}."
                name = draft.get(f"{place}_type")
                raise ConfigError(f"{place}.{key}: unknown key of {name}, here and in threestudio.{hint}")


def _known_options(kind: str, name: object) -> set[str]:
    """Return the options of a component; none where there is no such component, which parsing says."""
    try:
        return set(keys_of(registry.find(kind, name).Config)) if isinstance(name, str) else set()
    except UserError:
        return set()


def _known_there(kind: str) -> set[str]:
    """Return options that threestudio has and that have another name or place here."""
    return set(
        {
            "system": system.KNOWN,
            "data": data.KNOWN,
            "guidance": guidance.KNOWN,
            "prompt_processor": prompt_processor.UNNEEDED,
        }.get(kind, components.KNOWN.get(kind, ()))
    )
