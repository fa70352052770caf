"""The models that a configuration names, with their licenses, of ``load/models.yaml``."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from usd.core import places
from usd.report.records import mapping

KEY = re.compile(r"model_name_or_path$")
LORA = re.compile(r"\s\+\s")


@dataclass(frozen=True)
class ModelLicense:
    """A model, where it comes from, and what its authors allow."""

    name: str
    license: str
    origin: str
    note: str


def model_licenses(config: Mapping[str, object]) -> list[ModelLicense]:
    """Return what is known of every model that options of a configuration name, each once."""
    known = mapping(yaml.safe_load(places.resource("load/models.yaml").read_text("utf-8")))
    names = dict.fromkeys(part for name in model_names(config) for part in LORA.split(name))
    return [_license(name, mapping(known.get(name))) for name in names]


def model_names(value: object, key: str = "") -> Iterator[str]:
    """Yield the values of options that name a model."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from model_names(item, str(name))
    elif isinstance(value, str) and value and KEY.search(key):
        yield value


def _license(name: str, entry: Mapping[str, object]) -> ModelLicense:
    """Return what ``load/models.yaml`` says of a model; that nothing is known where it has no entry."""
    if not entry:
        return ModelLicense(name, "not known: see where it comes from", name, "")
    place = entry.get("repository") or entry.get("path") or ""
    return ModelLicense(name, str(entry.get("license", "not known")), str(place), str(entry.get("note", "")))
