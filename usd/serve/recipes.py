"""The recipes that one picture, or one sentence, is enough for."""

import functools
from pathlib import Path
from typing import Literal

from usd.batch.tasks import PICTURE_KEY, PROMPT_KEY
from usd.core import loading, places
from usd.core.errors import UserError, did_you_mean, listing

Input = Literal["picture", "sentence", "mesh"]
DEFAULTS: dict[Input, str] = {
    "picture": "usd-patch-mini",
    "sentence": "usd-text-to-3D-mini",
    "mesh": "usd-improve-mini",
}
ENDINGS: dict[Input, str] = {"picture": "guidance.image_path", "sentence": PROMPT_KEY}
MESH_KEY = "system.geometry.shape_init"
MISSING = "???"


@functools.cache
def values_of(recipe: Path) -> dict[str, object]:
    """Return the values of a recipe by key path, those of its bases included."""
    return {key: value for content, _ in loading.chain(recipe) for key, value in loading.leaf_values(content)}


@functools.cache
def input_of(recipe: Path) -> Input | None:
    """Return what a recipe is made from: a picture, a sentence, a mesh with a picture of it; None for anything else."""
    values = values_of(recipe)
    if values.get(MESH_KEY) == MISSING:
        return "mesh"
    kind: Input = "picture" if any(key.endswith(ENDINGS["picture"]) for key in values) else "sentence"
    missing = [key for key, value in values.items() if value == MISSING]
    sufficient = all(key.endswith(ENDINGS[kind]) for key in missing)
    return kind if sufficient and any(key.endswith(ENDINGS[kind]) for key in values) else None


@functools.cache
def offered() -> dict[str, Input]:
    """Return the recipes that a job may have, by name, and what each is made from."""
    found = {
        name: input_of(file)
        for name, file in places.recipes().items()
        if file.parent.name not in ("presets", "toybox")
    }
    return {name: kind for name, kind in found.items() if kind is not None}


def chosen_recipe(name: str, kind: Input) -> str:
    """Return the recipe of a request: the named one, or the usual one. Raises ``UserError`` where it does not fit."""
    name = name or DEFAULTS[kind]
    known = [other for other, its in offered().items() if its == kind]
    if name not in known:
        raise UserError(
            f"recipe: {name[:80]}: makes nothing from a {kind}; expected one of {listing(known, near=name)}."
            f"{did_you_mean(name, known)}"
        )
    return name


def source_overrides(recipe: Path, picture: str, prompt: str) -> list[str]:
    """Return the overrides that hand a picture's path, and a sentence, to a recipe."""
    given = []
    if picture:
        keys = [key for key in values_of(recipe) if key.endswith(ENDINGS["picture"])]
        staged = [key for key in keys if key.startswith("stages.")]
        given += [loading.override(key, picture) for key in staged or [PICTURE_KEY]]
    if prompt:
        given.append(loading.override(PROMPT_KEY, prompt))
    return given
