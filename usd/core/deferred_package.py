"""A package whose own first lines run only when something is asked of it that they define.

Libraries import packages of which they use a name or two, or none in what we ask of them: a third of the CPU time from
a command to its first step went there. The standard library only.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

DEFERRED: dict[str, dict[str, str]] = {
    # lightning takes these; the package imports transformers and scipy
    "torchmetrics": {
        "Metric": "torchmetrics.metric",
        "MetricCollection": "torchmetrics.collections",
        "__version__": "torchmetrics.__about__",
    },
    # diffusers' schedulers, which come with any of its models, and transformers' losses of detectors
    "scipy.stats": {},
    "scipy.integrate": {},
    "scipy.optimize": {"linear_sum_assignment": "scipy.optimize._lsap"},
    # one model brings all of its kind
    "diffusers.models.autoencoders": {"AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl"},
    "diffusers.models.transformers": {},
    "diffusers.models.unets": {"UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition"},
}
"""Packages that others import and hardly use, and where the names lie that they do use."""
IMPORTED_FIRST = {"torchmetrics": "torchmetrics.utilities"}
"""By package: a module below it that is imported with it, where its modules import each other."""


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
            with contextlib.suppress(ImportError, AttributeError):  # another version has it elsewhere
                return getattr(importlib.import_module(self.parts[name]), name)
        # Python itself asks every module for some of these names; for this one only where all are wanted.
        is_special = name.startswith("__") and name != "__all__"
        if is_special or "__getattr__" not in vars(module):
            raise AttributeError(f"module '{self.name}' has no attribute '{name}'")
        del vars(module)["__getattr__"]
        self.loader.exec_module(module)
        return getattr(module, name)


def defer_packages() -> None:
    """Let libraries load of the packages in ``DEFERRED`` what they use; for everybody else these are as they were."""
    known = {finder.name for finder in sys.meta_path if isinstance(finder, DeferredPackage)}
    for name, parts in DEFERRED.items():
        if name not in sys.modules and name not in known:
            sys.meta_path.insert(0, DeferredPackage(name, parts, IMPORTED_FIRST.get(name)))
