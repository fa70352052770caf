"""The structure of the code, held by tests: layers, options that are read, sizes, names, the documented tree, a light import."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from usd.core.registry import KINDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "usd"
ADDON = PACKAGE / "serve" / "blender"
FILES = sorted(PACKAGE.rglob("*.py"))
OURS = [
    *FILES,
    ROOT / "launch.py",
    *sorted((ROOT / "custom").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in OURS}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imports(file: Path) -> Iterator[str]:
    """Full names of the modules a file imports, at its top or inside functions."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and file.parent == ADDON:  # Blender names that package
                continue
            assert node.level == 0, f"{name_of(file)}: relative import"
            yield node.module or ""
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if is_module(f"{node.module}.{alias.name}")
            )


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


# ------------------------------------------------------------------------------------------------------ layers

TRAVELERS = ("usd.math.camera", "usd.math.splats")  # types of objects that travel between components
LAYERS = {
    **dict.fromkeys(["math", "kernels"], 0),
    "core": 1,
    **dict.fromkeys([kind for kind in KINDS if kind not in ("system", "exporter")], 2),
    **dict.fromkeys(["losses", "toybox", "network", "mesh_io", "dialects"], 2),
    **dict.fromkeys(["system", "exporter", "evaluation", "extern", "viewer"], 3),
}


def folder_of(module: str) -> str | None:
    """The folder of a module below usd; None for files directly in it and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "usd" and len(parts) > 1 and parts[1] in LAYERS else None


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def forbidden(file: Path, module: str) -> str | None:
    """Why ``file`` may not import ``module``; None where it may."""
    here, there = folder_of(module_of(file)), folder_of(module)
    if here is None or file.name == "__main__.py":
        return None
    if there is None:
        above = module.startswith("usd.") and module != "usd.core"
        return "a folder must not import the application above it" if above else None
    if LAYERS[here] < LAYERS[there] and not (here == "core" and module in TRAVELERS):
        return f"layer {LAYERS[here]} ({here}) must not know layer {LAYERS[there]} ({there})"
    if here == "core" and there in ("math", "kernels") and module not in ("usd.math", *TRAVELERS):
        return f"core knows of these rooms {TRAVELERS} only"
    other_kind = here in KINDS and there in KINDS and here != there
    if other_kind and LAYERS[here] == 2 and module.count(".") > 1:
        return f"{here} may know the interface usd.{there}, not an implementation"
    return None


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_layers(file):
    broken = {module: why for module in imports(file) if (why := forbidden(file, module))}
    assert not broken


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name in ("math", "kernels")], ids=name_of)
def test_math_and_kernels_know_only_torch_numpy_and_warp(file):
    allowed = {"torch", "numpy", "warp", "jaxtyping", "scipy", "usd", *sys.stdlib_module_names}
    assert {module.split(".")[0] for module in imports(file)} <= allowed


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "mesh_io"], ids=name_of)
def test_mesh_files_know_core_and_mathematics_only(file):
    folders = {folder_of(module) for module in imports(file)} - {None}
    assert folders <= {"mesh_io", "core", "math", "kernels"}


def test_the_test_of_layers_can_fail():
    assert forbidden(PACKAGE / "math" / "camera.py", "usd.core.config")
    assert forbidden(PACKAGE / "guidance" / "usd.py", "usd.renderer.patch")
    assert forbidden(PACKAGE / "losses" / "opacity.py", "usd.system")
    assert forbidden(PACKAGE / "geometry" / "__init__.py", "usd.app.modes")
    assert not forbidden(PACKAGE / "guidance" / "usd.py", "usd.denoiser")
    assert not forbidden(PACKAGE / "system" / "usd.py", "usd.data.random_camera")


def folder_imports() -> set[tuple[str, str]]:
    """Which folder of the package imports which other one, by any of its files, ``__main__`` included."""
    edges = set()
    for file in FILES:
        here = file.relative_to(PACKAGE).parts
        for module in imports(file):
            there = module.split(".")
            if len(here) > 1 and there[0] == "usd" and len(there) > 1 and (PACKAGE / there[1]).is_dir():
                edges.add((here[0], there[1]))
    return {(here, there) for here, there in edges if here != there}


def test_no_two_folders_import_each_other():
    edges = folder_imports()
    assert len(edges) > 50
    assert not {(here, there) for here, there in edges if (there, here) in edges}


# ----------------------------------------------------------------------------------------------------- options


def is_option(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.AnnAssign) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("option", "component")
    )


def allows_one_value(node: ast.AnnAssign) -> bool:
    """Published keys of which we support a single value are read by the parser, which refuses all others."""
    literal = isinstance(node.annotation, ast.Subscript) and ast.unparse(node.annotation.value) == "Literal"
    choices = [word.value for word in node.value.keywords if word.arg == "choices"]
    one_literal = literal and not isinstance(node.annotation.slice, ast.Tuple)
    return one_literal or any(isinstance(choice, ast.Tuple) and len(choice.elts) == 1 for choice in choices)


def options(file: Path) -> list[str]:
    classes = [node for node in ast.walk(TREES[file]) if isinstance(node, ast.ClassDef)]
    fields = [node for cls in classes for node in cls.body if is_option(node)]
    return [field.target.id for field in fields if not allows_one_value(field)]


@functools.cache
def read_attributes() -> set[str]:
    """Every name read as an attribute anywhere in the package."""
    nodes = [node for file in OURS for node in ast.walk(TREES[file])]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


DECLARING = [file for file in OURS if options(file)]


@pytest.mark.parametrize("file", DECLARING, ids=name_of)
def test_every_option_is_read_by_something(file):
    unread = [option for option in options(file) if option not in read_attributes()]
    assert not unread, f"{name_of(file)}: declared and never read: {unread}"


def test_options_were_found_at_all():
    assert len(DECLARING) > 10
    assert "max_steps" in options(PACKAGE / "app" / "experiment.py")


# ------------------------------------------------------------------------------------------------------- sizes


def functions(file: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(TREES[file]) if isinstance(node, FUNCTIONS)]


def length(node: ast.FunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1


def arguments(node: ast.FunctionDef) -> int:
    spec = node.args
    names = [arg.arg for arg in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]]
    return len([name for name in names if name not in ("self", "cls")])


def is_kernel(node: ast.FunctionDef) -> bool:
    """Warp kernels pass their arrays one by one."""
    marks = {ast.unparse(mark).split("(")[0] for mark in node.decorator_list}
    return bool(marks & {"wp.kernel", "wp.func", "kernel", "no_type_check"})


def test_a_formula_is_a_short_file():
    """A guidance in one file is what people are asked to write: ours stay under the sixty lines we promise."""
    formulas = [file for file in (ROOT / "usd" / "guidance").glob("*.py") if "@register(" in file.read_text()]
    lengths = {file.stem: len(file.read_text().splitlines()) for file in formulas}
    assert len(formulas) >= 12 and {name for name, lines in lengths.items() if lines > 60} == set()


@pytest.mark.parametrize("file", OURS, ids=name_of)
def test_no_function_is_long_or_takes_many_arguments(file):
    long = [f"{node.name}: {length(node)} lines" for node in functions(file) if length(node) > 60]
    wide = [
        f"{node.name}: {arguments(node)}"
        for node in functions(file)
        if arguments(node) > 8 and not is_kernel(node)
    ]
    assert not long and not wide


def test_most_functions_are_short():
    lengths = sorted(length(node) for file in FILES for node in functions(file))
    assert lengths[len(lengths) // 2] <= 10


def writes_to_a_stream(tree: ast.AST) -> bool:
    """Whether code prints, or writes to standard output or error, by itself."""
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return bool({"print", "sys.stdout.write", "sys.stderr.write", "logging.StreamHandler"} & set(called))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_all_output_goes_through_the_console(file):
    assert not writes_to_a_stream(TREES[file]) or name_of(file) == "usd/core/console.py"


def test_the_test_of_output_can_fail():
    assert writes_to_a_stream(TREES[PACKAGE / "core" / "console.py"])
    assert writes_to_a_stream(ast.parse("print('x')"))


@pytest.mark.parametrize("file", OURS, ids=name_of)
def test_no_star_import_no_probe_no_vague_name(file):
    nodes = list(ast.walk(TREES[file]))
    assert file.stem not in ("utils", "util", "misc", "common", "helpers", "helper")
    assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
    assert not [n.lineno for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "hasattr"]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_shapes_stay_executable(file):
    """Postponed annotations would turn jaxtyping's checks off."""
    source = file.read_text(encoding="utf-8")
    assert not ("from __future__ import annotations" in source and "jaxtyping" in source)


# -------------------------------------------------------------------------------------------------------- tree

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def named_files(tree: str) -> set[str]:
    """Paths below usd/ that a tree of the documentation names: by file, or by a pattern such as hash_grid*.py."""
    named: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        if match := re.match(r" *([\w-]+)/(?: |$)", line):
            folders = [(depth, name) for depth, name in folders if depth < indent]
            folders.append((indent, match[1]))
        elif indent <= (folders[-1][0] if folders else 0):
            folders = [(depth, name) for depth, name in folders if depth < indent]
        above = "/".join(name for _, name in folders)
        for word in re.findall(r"[\w*]+\.py", line):
            pattern = f"{above}/{word}" if above else word
            named |= {name_of(path) for path in ROOT.glob(pattern)} or {f"{pattern} (not there)"}
    return named


def documented_tree() -> str:
    return re.search(r"## Tree\n\n```\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_documented_tree_names_every_file():
    named = {name for name in named_files(documented_tree()) if name.startswith("usd/")}
    there = {name_of(file) for file in FILES if file.name not in ("__init__.py", "__main__.py")}
    assert there - named == set(), "docs/architecture.md: files that its tree does not name"
    assert {name for name in named - there if not name.endswith("__main__.py")} == set(), (
        "docs/architecture.md: names no file has"
    )


def test_the_documented_layers_name_every_folder_and_file():
    layers = re.search(r"## Layers.*?```\n(.*?)```", PAGE, re.DOTALL)[1]
    words = set(re.findall(r"\w+", layers))
    assert not set(LAYERS) - words
    assert not {file.stem for file in PACKAGE.glob("*.py")} - words - {"__init__", "__main__"}


def test_the_test_of_the_tree_can_fail():
    tree = "usd/\n  core/\n    config.py gone.py    a comment\n  train.py\n"
    assert named_files(tree) == {
        "usd/core/config.py",
        "usd/core/gone.py (not there)",
        "usd/train.py (not there)",
    }


# ------------------------------------------------------------------------------------------------------ import


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_the_package_is_light():
    heavy = {
        "torch",
        "lightning",
        "warp",
        "diffusers",
        "transformers",
        "trimesh",
        "scipy",
        "omegaconf",
        "imageio",
    }
    assert not loaded_after("import usd") & heavy


def test_importing_the_package_takes_less_than_half_a_second():
    code = "import time; t = time.process_time(); import usd; print(time.process_time() - t)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(out.stdout) < 0.5


def test_reading_a_configuration_needs_no_diffusion_library():
    code = "from usd.core.config import parse, load_config; import launch"
    assert not loaded_after(code) & {"torch", "lightning", "diffusers", "transformers", "warp"}
