"""Names of components, and the rule that finds them: the YAML key names the folder, the value names the file.

    guidance_type: usd-guidance            usd/guidance/usd.py (or usd_guidance.py)
    renderer_type: nerf-volume-renderer    usd/renderer/nerf_volume.py

A name for another component with other values (``preset``) stands in ``usd/<kind>/presets.py``.

Files are imported on first use, so a missing optional package breaks one file only.
``custom/<kind>/<file>.py`` is found the same way, and so is any module of a package in ``custom/`` (``extensions``).

Names come from files that others wrote (YAML, checkpoints), so a name is never a path: it is made of ASCII letters,
digits, ``-`` and ``_``, and only a file that lies in one of these folders is ever imported.
"""

import ast
import functools
import importlib
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard, TypeVar, overload

from usd.core import extensions
from usd.core.errors import UserError, did_you_mean, listing
from usd.core.places import PACKAGE, checkout

KINDS = (
    "system",
    "geometry",
    "material",
    "background",
    "renderer",
    "denoiser",
    "prompt_processor",
    "guidance",
    "data",
    "exporter",
)
SUFFIXES = tuple(f"_{kind}" for kind in KINDS) + ("_datamodule", "_data_module")
CUSTOM_VARIABLE = "USD_CUSTOM"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)

NAME_RULE = "expected letters, digits, - and _"

if TYPE_CHECKING:  # config reads names from here, and module imports torch
    from usd.core.config import Spec
    from usd.core.module import Component

Class = TypeVar("Class", bound=type)
T = TypeVar("T")
_classes: dict[tuple[str, str], type] = {}


def register(*names: str) -> Callable[[Class], Class]:
    """Return a class decorator: ``<kind>_type: <name>`` means that class. The kind is the folder of its base class."""

    def decorate(cls: Class) -> Class:
        for name in names:
            if not NAME.fullmatch(name):
                raise TypeError(f"{cls.__qualname__}: {name!r} is no name of a component; {NAME_RULE}")
            _classes[_kind_of(cls), name] = cls
        return cls

    return decorate


def _kind_of(cls: type) -> str:
    for base in cls.__mro__:
        parts = base.__module__.split(".")
        if len(parts) == 2 and parts[0] == "usd" and parts[1] in KINDS:
            return parts[1]
    raise TypeError(f"{cls.__qualname__} must subclass the interface of a kind ({', '.join(KINDS)})")


@overload
def find(kind: str, name: str) -> "type[Component]": ...
@overload
def find(kind: type[T], name: str) -> type[T]: ...
def find(kind: str | type[object], name: str) -> type:
    """Return the class registered as ``name``, importing its file if need be. Raises ``UserError``.

    ``kind`` is the interface that the class implements (``Guidance``), or the name of its kind.
    """
    if isinstance(kind, str):
        return _find(kind, name)
    cls = _find(_kind_of(kind), name)
    if not issubclass(cls, kind):
        raise UserError(f"'{name}' is {cls.__name__}; expected a {_kind_of(kind)} that is a {kind.__name__}")
    return cls


def _find(kind: str, name: str) -> type:
    if kind not in KINDS:
        raise UserError(f"'{kind}' is not a kind of component; expected one of {', '.join(KINDS)}")
    if not NAME.fullmatch(name):
        raise UserError(
            f"{_quoted(name)} is no name of a {kind}; {NAME_RULE}.{did_you_mean(name, names(kind))}"
        )
    if (kind, name) not in _classes:
        for load in _candidates(kind, name):
            _import(load, name)
            if (kind, name) in _classes:
                break
        else:
            known = names(kind)
            raise UserError(
                f"no {kind} is called '{name}'; known: {listing(known, near=name)}.{did_you_mean(name, known)}"
            )
    return _classes[kind, name]


def _quoted(name: str) -> str:
    """Return a name that may hold anything on one line of at most 60 characters."""
    text = repr(name)
    return text if len(text) <= 60 else text[:57] + "..."


@overload
def build(spec: "Spec", /, **components: object) -> "Component": ...
@overload
def build(spec: "Spec", kind: type[T], /, **components: object) -> T: ...
def build(spec: "Spec", kind: type[object] | None = None, /, **components: object) -> object:
    """Return the component that ``spec`` names, typed as the interface ``kind`` where that is given.

    ``components`` are the other ones that its class asks for in ``__init__``. Raises ``UserError``.
    """
    cls = find(spec.kind, spec.name) if kind is None else find(kind, spec.name)
    return _made(cls, spec.config, components)


def _made(cls: type, config: object, components: Mapping[str, object]) -> object:
    return cls(config, **components)


def stems(name: str) -> list[str]:
    """Return file names (without ``.py``) that may define ``name``: its own, then without the kind's suffix."""
    full = name.lower().replace("-", "_")
    return [full] + [full.removesuffix(suffix) for suffix in SUFFIXES if full.endswith(suffix)]


def names(kind: str) -> dict[str, Path]:
    """Return every name of a kind and the file that defines it. Nothing is imported."""
    found = _names_in_folders(kind)
    for package in extensions.find_packages(custom_folders(), KINDS):
        for file in extensions.modules(package):
            if not extensions.imports_threestudio(file):
                named = extensions.kinds_of_names(file, KINDS)
                found = {**{name: file for name, of in named.items() if of == kind}, **found}
    return found


def _names_in_folders(kind: str) -> dict[str, Path]:
    """Return the names of a kind that files of its own folders define."""
    files = [file for folder in _folders(kind) for file in sorted(folder.glob("*.py"))]
    return {name: file for file in files for name in _names_in(file)}


def registered(kind: str) -> list[str]:
    """Return the names of a kind that are imported already (those defined outside the folders, as in tests, too)."""
    return sorted(name for known, name in _classes if known == kind)


def _candidates(kind: str, name: str) -> Iterator[Callable[[], ModuleType]]:
    """Yield ways to import ``name``, likeliest first: by the file rule, by the kind's ALIASES, by reading the files."""
    tried = [*stems(name), *[stem for stem in [_aliases(kind).get(name)] if stem]]
    folders = _folders(kind)
    files = (folder / f"{stem}.py" for stem in tried for folder in folders)
    declaring = (file for folder in folders for file in sorted(folder.glob("*.py")) if _defines(file, name))
    for file in itertools.chain(files, itertools.islice(declaring, 1)):  # the second are read if need be
        if file.is_file():
            _refuse_outside(file)
            extensions.refuse_threestudio(file, name)
            yield functools.partial(_load, kind, file)
    for package in extensions.find_packages(custom_folders(), KINDS):
        for file in extensions.modules(package):
            if _defines(file, name):
                extensions.refuse_threestudio(file, name)
                yield functools.partial(extensions.load_module, package, file)


def _refuse_outside(file: Path) -> None:
    """Raise ``UserError`` where a file of a folder of components is a link that leads out of it."""
    if file.resolve().parent != file.parent.resolve():
        raise UserError(
            f"{file}: is a link to {file.resolve()}; expected the file itself, or its folder in {CUSTOM_VARIABLE}"
        )


def _aliases(kind: str) -> dict[str, str]:
    """Return ``ALIASES = {name: file stem}`` of ``usd/<kind>/__init__.py``; empty where there is none."""
    interface = importlib.import_module(f"usd.{kind}") if (PACKAGE / kind).is_dir() else None
    return dict(getattr(interface, "ALIASES", {}))


def custom_folders() -> list[Path]:
    """Return the folders where drop-in components live, each once.

    They are ``custom/`` of the repository in a checkout, ``custom/`` of the working directory, and what the variable
    USD_CUSTOM names.
    """
    extra = os.environ.get(CUSTOM_VARIABLE, "")
    roots = [root / "custom" for root in (checkout(), Path.cwd()) if root is not None]
    return list(dict.fromkeys([*roots, *[Path(item) for item in extra.split(os.pathsep) if item]]))


def import_custom(folder: str) -> None:
    """Import every file of ``custom/<folder>/``, each once: what is no component registers itself as it is imported.

    Losses and layouts of views are found so. Raises ``UserError`` for a file that cannot be imported.
    """
    files = [file for root in custom_folders() for file in sorted((root / folder).glob("*.py"))]
    for file in files:
        if file not in _imported:
            _refuse_outside(file)
            _imported.add(file)
            _import(functools.partial(_load, folder, file), file.stem)


_imported: set[Path] = set()


def _folders(kind: str) -> list[Path]:
    ours = [PACKAGE / kind, *sorted(file.parent for file in (PACKAGE / kind).glob("*/__init__.py"))]
    return [folder for folder in [*ours, *[c / kind for c in custom_folders()]] if folder.is_dir()]


def _load(kind: str, file: Path) -> ModuleType:
    if file.is_relative_to(PACKAGE):
        return importlib.import_module(".".join(["usd", *file.relative_to(PACKAGE).with_suffix("").parts]))
    name = f"custom.{kind}.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import(load: Callable[[], ModuleType], name: str) -> None:
    try:
        load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "usd"):
            raise
        raise UserError(
            f"'{name}' needs the package '{missing}', which is not installed; pip install it"
        ) from error
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error


def _defines(file: Path, name: str) -> bool:
    """Return whether a file gives a component this name. Most files do not hold it and need not be parsed."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return name in text and name in _names_in(file)


def _names_in(file: Path) -> list[str]:
    """Return the names that a file gives to components, by ``@register("name")`` or ``preset("name", ...)``."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text if "register" in text or "preset" in text else "")
    except (SyntaxError, UnicodeDecodeError):
        return []
    nodes = list(ast.walk(tree))
    marks = [mark for node in nodes if isinstance(node, ast.ClassDef) for mark in node.decorator_list]
    named = [arg for mark in marks if _is_call_of(mark, "register") for arg in mark.args]
    named += [node.args[0] for node in nodes if _is_call_of(node, "preset") and node.args]
    return [arg.value for arg in named if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]


def _is_call_of(node: ast.AST, name: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name
