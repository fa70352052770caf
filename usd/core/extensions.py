"""Extensions: folders of ``custom/`` that are Python packages, with components in any of their modules.

``custom/mine/__init__.py`` makes ``custom/mine`` one. Its modules are read, not imported, to learn which names they
register; the package is imported when one of these names is used, and its modules may import each other.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from usd.core.errors import UserError

PAGE = "docs/porting-extensions.md"


def find_packages(folders: Iterable[Path], kinds: Iterable[str]) -> list[Path]:
    """Return the folders below ``folders`` that are packages; one that is named as a kind holds single files."""
    found = [file.parent for folder in folders for file in sorted(folder.glob("*/__init__.py"))]
    return [folder for folder in found if folder.name not in {*kinds, "losses", "layouts"}]


def modules(package: Path) -> Iterator[Path]:
    """Yield the Python files of a package, its own first; hidden folders are left out."""
    files = [file.relative_to(package) for file in package.rglob("*.py")]
    for file in sorted(files, key=lambda file: (file.name != "__init__.py", len(file.parts), str(file))):
        if not any(part.startswith(".") for part in file.parts):
            yield package / file


def load_module(package: Path, file: Path) -> ModuleType:
    """Import a file of a package as ``custom.<package>.<module>``, after the package itself."""
    name = f"custom.{package.name}"
    if name not in sys.modules:
        _load_package(package, name)
    parts = [part for part in file.relative_to(package).with_suffix("").parts if part != "__init__"]
    return importlib.import_module(".".join([name, *parts]))


def _load_package(package: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise


def refuse_threestudio(file: Path, name: str) -> None:
    """Raise ``UserError`` where a file was written for threestudio: it imports that package."""
    if imports_threestudio(file):
        raise UserError(
            f"'{name}' is written for threestudio ({file} imports it); {PAGE} shows how to port each kind of component"
        )


def imports_threestudio(file: Path) -> bool:
    """Return whether a file imports ``threestudio`` anywhere."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text if "threestudio" in text else "")
    except (SyntaxError, UnicodeDecodeError):
        return False
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        if any(name.split(".")[0] == "threestudio" for name in names):
            return True
    return False


def kinds_of_names(file: Path, kinds: Collection[str]) -> dict[str, str]:
    """Return the names that a module gives to components by ``@register``, with the kind of each.

    The kind is that of ``usd.<kind>``, from which the module imports the class's base; where it imports that from
    elsewhere, the kind in which the name ends. Names of no kind are left out.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return {}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    sources = {
        alias.asname or alias.name: f"{node.module}..".split(".") for node in imports for alias in node.names
    }
    found: dict[str, str] = {}
    for cls in [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]:
        bases = [sources.get(ast.unparse(base).split("[")[0], ["", ""]) for base in cls.bases]
        imported = [kind for package, kind, *_ in bases if package == "usd"]
        for name in _registered_names(cls):
            ending = [kind for kind in kinds if name.replace("-", "_").endswith(kind)]
            kind = [*imported, *ending, ""][0]
            if kind in kinds:
                found[name] = kind
    return found


def _registered_names(cls: ast.ClassDef) -> Iterator[str]:
    for mark in cls.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func).split(".")[-1] == "register":
            for argument in mark.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value
