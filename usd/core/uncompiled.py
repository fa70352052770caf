"""What libraries ask of torch's compiler while nobody compiles anything: its answers, without loading it.

The compiler is a second of imports, and every optimizer of torch names it. Once it is loaded, it answers itself. The
standard library only.
"""

import functools
import importlib
import sys
from collections.abc import Mapping
from types import FunctionType, ModuleType

COMPILER = "torch._dynamo"


def _loaded(part: str) -> ModuleType | None:
    """Return a module of the compiler, where all of it is loaded."""
    package = vars(sys.modules[COMPILER]) if COMPILER in sys.modules else {}
    return sys.modules.get(f"{COMPILER}.{part}") if "__all__" in package else None


def graph_break(msg: str = "") -> None:
    """Do nothing: only a compiler makes something of this call."""


def disable(fn: object = None, recursive: bool = True, **options: object) -> object:
    """Return a function that the compiler leaves alone: itself, for as long as there is no compiler."""
    if fn is None:
        return lambda function: disable(function, recursive, **options)
    if isinstance(fn, FunctionType):
        return _left_alone(fn, recursive, options)
    return _disable(fn, recursive, options)  # a class or a module: the compiler knows what to do


def _left_alone(function: FunctionType, recursive: bool, options: Mapping[str, object]) -> object:
    known = functools.cache(lambda: _disable(function, recursive, options))

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        if _loaded("decorators") is None:
            return function(*args, **kwargs)
        return known()(*args, **kwargs)

    return run


def _disable(fn: object, recursive: bool, options: Mapping[str, object]) -> FunctionType:
    """Return what the compiler itself makes of it."""
    compiler = importlib.import_module(f"{COMPILER}.decorators")
    found: FunctionType = compiler.disable(fn, recursive, **options)
    return found


class _AsLoaded(type):
    """Metaclass of a stand-in for a class of the compiler: nothing is its instance while the compiler is not loaded."""

    def __instancecheck__(cls, instance: object) -> bool:
        there = _loaded("eval_frame")
        return there is not None and isinstance(instance, getattr(there, cls.__name__))


class OptimizedModule(metaclass=_AsLoaded):
    """A compiled module, where there is one."""
