"""Sphinx extension: the API reference, written from docstrings.

The package is parsed and not imported, so the site builds in seconds, without torch and without a GPU. Each folder of
`usd/` becomes a page in `docs/api`. Docstrings are read as Markdown in which only code spans and indented blocks mean
something: they hold formulas.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx

PACKAGE = Path(__file__).resolve().parents[1] / "usd"
PAGES = Path(__file__).resolve().parent / "api"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def markdown(text: str) -> str:
    """Return a docstring as Markdown: code spans kept, indented blocks fenced, everything else literal."""
    lines: list[str] = []
    for block in re.split(r"(\n\n(?: {2,}.*\n?|\n)+)", text + "\n"):
        if block.startswith("\n\n "):
            lines += ["", "```text", block.strip("\n"), "```", ""]
        else:
            lines += [literal(line) for line in block.strip("\n").split("\n")]
    return "\n".join(lines)


def literal(line: str) -> str:
    """Return one line with what Markdown would take for markup escaped, outside of code spans."""
    pieces = re.split(r"(``.+?``|`[^`]+`|\*\*[^* ][^*]*\*\*)", line.strip())
    pieces[::2] = [re.sub(r"([\\*_\[\]<#$|`])", r"\\\1", piece) for piece in pieces[::2]]
    return re.sub(r"^(\d+)([.)])(?= )", r"\1\\\2", "".join(pieces))


def signature(node: Function, method: bool) -> str:
    """Return `name(arguments) -> result` of a function, without `self`."""
    arguments = ast.unparse(node.args)
    if method:
        arguments = re.sub(r"^(self|cls)(, |$)", "", arguments)
    return f"{node.name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def directive(kind: str, head: str, body: str, level: int = 3) -> list[str]:
    """Return a directive of Sphinx's Python domain, fenced by `level` colons."""
    fence = ":" * level
    return [f"{fence}{{py:{kind}}} {head}", "", body, fence, ""]


def option_line(field: ast.stmt) -> str | None:
    """Return `- name: type = default: meaning` of a field declared by `option(...)`; None for other statements."""
    match field:
        case ast.AnnAssign(
            target=ast.Name(id=name), value=ast.Call(func=ast.Name(id="option"), args=[default, meaning, *_])
        ):
            kind, text = ast.unparse(field.annotation), ast.unparse(default)
            words = meaning.value if isinstance(meaning, ast.Constant) else ast.unparse(meaning)
            return f"- `{name}: {kind} = {text}`: {literal(str(words))}"
    return None


def public(nodes: list[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Yield the classes and functions of a body whose names are public, each name once."""
    seen: set[str] = set()
    for node in nodes:
        if (
            isinstance(node, ast.ClassDef | Function)
            and not node.name.startswith("_")
            and node.name not in seen
        ):
            seen.add(node.name)
            yield node


def described(node: ast.ClassDef | Function, owner: str = "") -> list[str]:
    """Return the directives of a class with its options and methods, or of a function."""
    text = markdown(ast.get_docstring(node) or "")
    if not isinstance(node, ast.ClassDef):
        is_property = any(ast.unparse(mark).endswith("property") for mark in node.decorator_list)
        kind = ("property" if is_property else "method") if owner else "function"
        head = node.name if is_property else signature(node, bool(owner))
        return directive(kind, f"{owner}{head}", text)
    name = f"{owner}{node.name}"
    options = [line for field in node.body if (line := option_line(field))]
    inner = [line for child in public(node.body) for line in described(child, f"{name}.")]
    bases = f"\n\nBases: {', '.join(f'`{ast.unparse(base)}`' for base in node.bases)}" if node.bases else ""
    return [*directive("class", name, "\n".join([text + bases, "", *options])), *inner]


def page(folder: Path) -> str:
    """Return the page of a folder: a section for each of its modules."""
    title = ".".join(["usd", *folder.relative_to(PACKAGE).parts])
    lines = [f"# {title}", ""]
    for file in sorted(folder.glob("*.py")):
        if file.name == "__main__.py":
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        module = title if file.stem == "__init__" else f"{title}.{file.stem}"
        lines += [f"## {module}", "", f":::{{py:module}} {module}", ":::", ""]
        lines += [markdown(ast.get_docstring(tree) or ""), ""]
        lines += [line for node in public(tree.body) for line in described(node)]
    return "\n".join(lines)


def write_pages(_: Sphinx) -> None:
    """Write a page for each folder of the package, and their index, where the contents changed."""
    PAGES.mkdir(exist_ok=True)
    folders = sorted({file.parent for file in PACKAGE.rglob("*.py")})
    texts = {"_".join(["usd", *folder.relative_to(PACKAGE).parts]): page(folder) for folder in folders}
    index = [
        "# API reference",
        "",
        "From the docstrings; `python launch.py --describe NAME` prints a component's",
        "options.",
        "",
    ]
    texts["index"] = "\n".join([*index, "```{toctree}", ":maxdepth: 1", *texts, "```", ""])
    for name, text in texts.items():
        file = PAGES / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for stale in set(PAGES.glob("*.md")) - {PAGES / f"{name}.md" for name in texts}:
        stale.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
