"""Unbiased score distillation: from one picture, or a sentence, to a 3D object.

    recipe = usd.load_recipe("usd-patch-mini", {"system.guidance.image_path": "photo.png"})
    trial = usd.train(recipe)
    usd.render(trial, azimuth_deg=30).save("view.png")
    usd.export(trial)

Importing the package is cheap: a name is imported when it is used, and components and their libraries when a
configuration names them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usd.app.api import (
        Recipe,
        evaluate,
        export,
        list_components,
        list_recipes,
        load_recipe,
        open_trial,
        render,
        train,
    )
    from usd.app.experiment import Trial
    from usd.core.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "Recipe",
    "Trial",
    "UserError",
    "__version__",
    "evaluate",
    "export",
    "list_components",
    "list_recipes",
    "load_recipe",
    "open_trial",
    "render",
    "train",
]
_ELSEWHERE = {"UserError": "usd.core.errors", "Trial": "usd.app.experiment"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'usd' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_ELSEWHERE.get(name, "usd.app.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
