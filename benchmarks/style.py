"""``python -m benchmarks.style``: the code in numbers that can be compared with other projects', and their limits.

    python -m benchmarks.style                 a table: number, limit, the value now
    python -m benchmarks.style names Any       where these come from, line by line

Everything is read from the syntax trees of ``usd/``; nothing is imported. Exits with 1 where a limit is broken.

- *Any*: occurrences of the name in code and in quoted annotations.
- *docstrings*: share of public modules, classes, functions and methods that have one.
- *comments*: share of a folder's lines that are a comment and nothing else.
- *names*: top-level functions (without leading underscores) that stand in three or more modules.
- *classes*: top-level classes whose name stands in two or more modules.
- *cycles*: pairs of folders that import each other, imports inside functions and ``__main__`` included.
- *siblings*: of a folder's files, the mean share of lines that also stand in the one sibling most alike. Imports,
  comments and lines of fewer than five characters do not count.
- *length*: the 90th percentile of lines of a function, docstring included.
- *tests*: lines of tests per line of the package.
"""

import argparse
import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from benchmarks import ROOT

PACKAGE = "usd"
COMMENTED = ("kernels", "exporter", "evaluation")
SIBLINGS = ("guidance", "system", "renderer")
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Source:
    """A file of Python: its path below the repository, its lines and its syntax tree."""

    path: Path
    lines: list[str]
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        return ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")

    @property
    def folder(self) -> str:
        """The folder below the package; empty for a file directly in it."""
        return self.path.parts[1] if len(self.path.parts) > 2 else ""


@dataclass(frozen=True)
class Measure:
    """A number, its limit, and the places it comes from."""

    name: str
    value: float
    limit: float
    at_least: bool = False
    places: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the value is within its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return (
            f"{self.name:<22} {self.value:>8.4g}   {sign} {self.limit:<6g} {'' if self.holds else 'BROKEN'}"
        )


def read_sources(root: Path, folder: str = PACKAGE) -> list[Source]:
    """Return every Python file below ``root/folder``, sorted by path."""
    files = sorted((root / folder).rglob("*.py"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    return [
        Source(file.relative_to(root), text.splitlines(), ast.parse(text))
        for file, text in zip(files, texts, strict=True)
    ]


def any_names(source: Source) -> Iterator[str]:
    """Yield the place of every ``Any``, those in quoted annotations included."""
    for node in ast.walk(source.tree):
        quoted = isinstance(node, ast.Constant) and isinstance(node.value, str) and _annotates_any(node.value)
        if quoted or (isinstance(node, ast.Name) and node.id == "Any"):
            yield f"{source.path}:{node.lineno}"


def _annotates_any(text: str) -> bool:
    """Whether a string is an annotation that names ``Any``."""
    if "Any" not in text or "\n" in text:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def public_definitions(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the public functions, classes and methods of a body. A nested ``Config`` is documented by its options."""
    for node in body:
        if isinstance(node, DEFINITION) and not node.name.startswith("_") and node.name != "Config":
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def missing_docstrings(source: Source) -> tuple[int, list[str]]:
    """Return how many public definitions a file has, and the places of those without a docstring."""
    nodes = [source.tree, *public_definitions(source.tree.body)]
    missing = [node for node in nodes if ast.get_docstring(node) is None]  # type: ignore[arg-type]
    return len(nodes), [f"{source.path}:{getattr(node, 'lineno', 1)}" for node in missing]


def comment_share(sources: Sequence[Source]) -> float:
    """Return the share of lines that hold a comment and nothing else."""
    lines = [line.strip() for source in sources for line in source.lines]
    return sum(line.startswith("#") for line in lines) / max(len(lines), 1)


def repeated(sources: Sequence[Source], kinds: tuple[type[ast.stmt], ...], least: int) -> dict[str, set[str]]:
    """Return the names of top-level definitions that stand in at least ``least`` modules, and those modules."""
    modules: defaultdict[str, set[str]] = defaultdict(set)
    for source in sources:
        for node in source.tree.body:
            if isinstance(node, kinds) and isinstance(node, DEFINITION):
                modules[node.name.lstrip("_")].add(source.module)
    return {name: found for name, found in sorted(modules.items()) if len(found) >= least}


def imported_folders(source: Source) -> set[str]:
    """Return the folders or files below the package that a file imports from, at its top or inside functions."""
    nodes = list(ast.walk(source.tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names += [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == PACKAGE and len(part) > 1}


def folder_cycles(sources: Sequence[Source]) -> list[str]:
    """Return the pairs of folders that import each other."""
    edges: defaultdict[str, set[str]] = defaultdict(set)
    for source in sources:
        if source.folder:
            edges[source.folder] |= imported_folders(source) - {source.folder}
    return sorted(f"{a} <-> {b}" for a in edges for b in edges[a] if a < b and a in edges.get(b, set()))


def shared_lines(sources: Sequence[Source]) -> dict[str, float]:
    """Return, for each file, the share of its lines that also stand in the sibling most alike."""
    lines = {str(source.path): _lines_of_substance(source) for source in sources}
    return {
        path: max((_share(own, other) for name, other in lines.items() if name != path), default=0.0)
        for path, own in lines.items()
    }


def _share(own: list[str], other: list[str]) -> float:
    return sum(line in set(other) for line in own) / max(len(own), 1)


def _lines_of_substance(source: Source) -> list[str]:
    lines = [line.strip() for line in source.lines]
    return [line for line in lines if len(line) >= 5 and not line.startswith(("#", "import ", "from "))]


def function_lengths(sources: Sequence[Source]) -> list[int]:
    """Return the lines of every function and method, sorted."""
    nodes = chain.from_iterable(ast.walk(source.tree) for source in sources)
    found = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in found)


def measure(root: Path = ROOT) -> list[Measure]:
    """Return every number of the package below ``root``."""
    sources = read_sources(root)
    folders: defaultdict[str, list[Source]] = defaultdict(list)
    for source in sources:
        folders[source.folder].append(source)
    return [*_prose(sources, folders), *_names(sources), *_sizes(root, sources, folders)]


def _prose(sources: Sequence[Source], folders: Mapping[str, list[Source]]) -> Iterator[Measure]:
    counted = [missing_docstrings(source) for source in sources]
    missing = tuple(place for _, places in counted for place in places)
    share = 100 - 100 * len(missing) / sum(number for number, _ in counted)
    yield Measure("docstrings %", share, 95, True, missing)
    for folder in COMMENTED:
        yield Measure(f"comments {folder} %", 100 * comment_share(folders[folder]), 4, True)


def _names(sources: Sequence[Source]) -> Iterator[Measure]:
    places = tuple(place for source in sources for place in any_names(source))
    yield Measure("Any", len(places), 39, places=places)
    functions = repeated(sources, (ast.FunctionDef, ast.AsyncFunctionDef), 3)
    yield Measure("names in 3 modules", len(functions), 5, places=_listed(functions))
    classes = repeated(sources, (ast.ClassDef,), 2)
    yield Measure("classes twice", len(classes), 0, places=_listed(classes))
    cycles = folder_cycles(sources)
    yield Measure("cycles of folders", len(cycles), 0, places=tuple(cycles))


def _listed(found: Mapping[str, set[str]]) -> tuple[str, ...]:
    return tuple(f"{name}: {', '.join(sorted(modules))}" for name, modules in found.items())


def _sizes(root: Path, sources: Sequence[Source], folders: Mapping[str, list[Source]]) -> Iterator[Measure]:
    for folder in SIBLINGS:
        flat = [s for s in folders[folder] if s.path.name != "__init__.py" and len(s.path.parts) == 3]
        shares = shared_lines(flat)
        listed = tuple(f"{share:.0%} {path}" for path, share in sorted(shares.items(), key=lambda x: -x[1]))
        yield Measure(f"siblings {folder} %", 100 * statistics.mean(shares.values()), 15, places=listed)
    lengths = function_lengths(sources)
    yield Measure("length p90", lengths[int(0.9 * len(lengths))], 16)
    tests = sum(len(source.lines) for source in read_sources(root, "tests"))
    yield Measure("tests per line", tests / sum(len(source.lines) for source in sources), 0.62, True)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or where chosen numbers come from. Returns 1 where a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.style", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="first words of numbers whose places are listed")
    chosen = parser.parse_args(argv).names
    found = measure()
    for number in found:
        if not chosen or number.name.split()[0] in chosen:
            print("\n".join([str(number), *(f"    {place}" for place in number.places if chosen)]))
    return 0 if all(number.holds for number in found) else 1


if __name__ == "__main__":
    sys.exit(main())
