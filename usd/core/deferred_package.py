"""A package whose own first lines run only when something is asked of it that they define.

Libraries import packages of which they use a name or two, or none in what we ask of them: a third of the CPU time from
a command to its first step went there. The standard library only.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


@dataclass(frozen=True)
class Deferral:
    """A package whose first lines wait: ``parts`` are names that it has, and the modules that define them.

    ``first`` is a module below it that is imported with it, where its modules import each other and so depend on an
    order. Where ``in_order`` is said, the package alone knows the order, and a module below it that is imported by
    itself runs the package before.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    first: str | None = None
    in_order: bool = False


DEFERRED = {
    # every optimizer of torch and Lightning take these, from a compiler that nobody uses but for compiled UNets
    "torch._dynamo": Deferral(
        dict.fromkeys(("disable", "graph_break", "OptimizedModule"), "usd.core.uncompiled"), in_order=True
    ),
    # lightning takes these; the package imports transformers and scipy
    "torchmetrics": Deferral(
        {
            "Metric": "torchmetrics.metric",
            "MetricCollection": "torchmetrics.collections",
            "__version__": "torchmetrics.__about__",
        },
        first="torchmetrics.utilities",
    ),
    # diffusers' schedulers, which come with any of its models, and transformers' losses of detectors
    "scipy.stats": Deferral(in_order=True),
    "scipy.integrate": Deferral(in_order=True),
    "scipy.optimize": Deferral({"linear_sum_assignment": "scipy.optimize._lsap"}, in_order=True),
    # one model brings all of its kind
    "diffusers.models.autoencoders": Deferral(
        {"AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl"}
    ),
    "diffusers.models.transformers": Deferral(),
    "diffusers.models.unets": Deferral({"UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition"}),
}
"""Packages that others import and hardly use, and where the names lie that they do use."""


class LoadedModule(Loader):
    """Hands over a module that came with its package while its import was under way."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002 - Python's interface
        """Return the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""
        module.__spec__ = self.spec


class DeferredPackage(Loader, MetaPathFinder):
    """Finds one package, and runs its ``__init__`` at the first access to a name that is not in its ``parts``."""

    def __init__(self, name: str, known: Deferral) -> None:
        self.name, self.known = name, known
        self.empty: ModuleType | None = None  # the package, until its own lines run
        self.on_the_way = False  # to a part

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - Python's interface
    ) -> ModuleSpec | None:
        """Return the package's own spec with this loader, or a module that its own lines import; None for others."""
        if fullname != self.name:
            return self._module_below(fullname)
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        self.loader, spec.loader = spec.loader, self
        return spec

    def _module_below(self, fullname: str) -> ModuleSpec | None:
        """Run the package before a module below it, where that is said; return the module if it came with it."""
        is_below = self.known.in_order and fullname.startswith(self.name + ".")
        if not is_below or self.empty is None or self.on_the_way:
            return None
        self._fill(self.empty)
        there = sys.modules.get(fullname)
        if there is None:
            return None
        # Python asks a module that has appeared meanwhile for its own spec, and would run it once more.
        there.__spec__ = ModuleSpec(fullname, LoadedModule(there))
        return there.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 - Python's interface
        """Return None: an ordinary module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Leave the package empty but for its logger, which its modules want, and a way to fill it."""

        def find(name: str) -> object:
            return self._attribute(module, name)

        vars(module).update(_logger=logging.getLogger(self.name), __getattr__=find)
        self.empty = module
        if self.known.first is not None:
            importlib.import_module(self.known.first)

    def _attribute(self, module: ModuleType, name: str) -> object:
        """Return what the package calls ``name``. Raises ``AttributeError``."""
        if name in self.known.parts:
            with contextlib.suppress(ImportError, AttributeError):  # another version has it elsewhere
                return self._part(name)
        # Python itself asks every module for some of these names; for this one only where all are wanted.
        is_special = name.startswith("__") and name != "__all__"
        if is_special or self.empty is None:
            raise AttributeError(f"module '{self.name}' has no attribute '{name}'")
        self._fill(module)
        return getattr(module, name)

    def _part(self, name: str) -> object:
        """Return a name that a module below the package defines."""
        self.on_the_way, before = True, self.on_the_way
        try:
            return getattr(importlib.import_module(self.known.parts[name]), name)
        finally:
            self.on_the_way = before

    def _fill(self, module: ModuleType) -> None:
        """Run the package's own lines."""
        self.empty = None
        del vars(module)["__getattr__"]
        self.loader.exec_module(module)


def defer_packages() -> None:
    """Let libraries load of the packages in ``DEFERRED`` what they use; for everybody else these are as they were."""
    known = {finder.name for finder in sys.meta_path if isinstance(finder, DeferredPackage)}
    for name, deferral in DEFERRED.items():
        if name not in sys.modules and name not in known:
            sys.meta_path.insert(0, DeferredPackage(name, deferral))
