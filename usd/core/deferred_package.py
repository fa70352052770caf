"""A package whose own first lines run only when something is asked of it that they define.

Lightning takes two classes of torchmetrics, whose ``__init__`` imports transformers and scipy: a third of the time from
a command to its first step. The standard library only.
"""

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TAKEN_BY_LIGHTNING = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}


class DeferredPackage(Loader, MetaPathFinder):
    """Finds one package, and runs its ``__init__`` at the first access to a name that is not in ``parts``.

    ``parts`` are the names that a module below the package defines, and that module. ``first`` is imported with the
    package, where its modules import each other and so depend on an order.
    """

    def __init__(self, name: str, parts: Mapping[str, str], first: str | None = None) -> None:
        self.name, self.parts, self.first = name, parts, first

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - Python's interface
    ) -> ModuleSpec | None:
        """Return the package's own spec with this loader; None for any other module."""
        spec = PathFinder.find_spec(fullname, path) if fullname == self.name else None
        if spec is None or spec.loader is None:
            return None
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 - Python's interface
        """Return None: an ordinary module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Leave the package empty but for its logger, which its modules want, and a way to fill it."""

        def find(name: str) -> object:
            return self._attribute(module, name)

        vars(module).update(_logger=logging.getLogger(self.name), __getattr__=find)
        if self.first is not None:
            importlib.import_module(self.first)

    def _attribute(self, module: ModuleType, name: str) -> object:
        """Return what the package calls ``name``. Raises ``AttributeError``."""
        if name in self.parts:
            return getattr(importlib.import_module(self.parts[name]), name)
        # Python itself asks every module for some of these names.
        if name.startswith("__") or "__getattr__" not in vars(module):
            raise AttributeError(f"module '{self.name}' has no attribute '{name}'")
        del vars(module)["__getattr__"]
        self.loader.exec_module(module)
        return getattr(module, name)


def defer_torchmetrics() -> None:
    """Let ``import lightning`` load of torchmetrics what it uses; for everybody else it is as it always was."""
    known = any(isinstance(finder, DeferredPackage) for finder in sys.meta_path)
    if "torchmetrics" not in sys.modules and not known:
        sys.meta_path.insert(0, DeferredPackage("torchmetrics", TAKEN_BY_LIGHTNING, "torchmetrics.utilities"))
