"""Reading YAML: several files merge, ``base:`` inherits, ``${...}`` resolves, ``key=value`` overrides.

What a typed value means depends on the option it is given to; ``usd.core.overrides`` knows the options.
"""

import copy
import functools
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from usd.core import places
from usd.core.errors import ConfigError, UserError, did_you_mean, listing
from usd.core.schedule import Schedule

T = TypeVar("T")


@dataclass(frozen=True)
class ValueOrigin:
    """The place where a value was written: a file of this folder, or a command line given in it.

    ``turn`` counts the files and overrides, of which later ones win.
    """

    folder: Path
    by_hand: bool = False
    turn: int = 0


Origins = dict[str, ValueOrigin]

MARKS = r"\A\\*\?\?\?\Z"
"""A text that OmegaConf takes for a missing value, or one that is escaped by a backslash not to be."""

Dropped = dict[str, dict[str, object]]
"""By the key path of a component: options, by their key path below it, that files gave its former type."""

Content = tuple[Mapping[str, object], Path]
"""The content of a file, and the folder that its relative paths refer to."""


@dataclass(frozen=True)
class MergedConfig:
    """A merged configuration, interpolations unresolved, and for every leaf key where it was written.

    ``notes`` has a line for each assumption made about the overrides. ``dropped`` is what went as a file named a
    component of another type than the files before it.
    """

    config: DictConfig
    origins: Mapping[str, ValueOrigin]
    notes: tuple[str, ...] = ()
    dropped: Dropped = field(default_factory=dict)

    def plain(self) -> dict[str, object]:
        """Return plain containers, interpolations as they were written."""
        return cast(dict[str, object], OmegaConf.to_container(self.config))

    def resolved(self) -> dict[str, object]:
        """Return plain containers without interpolations.

        Raises ``ConfigError`` naming the key that is missing or cannot be resolved.
        """
        try:
            for key in sorted(OmegaConf.missing_keys(self.config)):
                raise ConfigError(f"{key}: required but not given; pass {key}=<value>")
            return cast(dict[str, object], OmegaConf.to_container(self.config, resolve=True))
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None) or "configuration"
            raise ConfigError(f"{key}: {str(error.msg or error).splitlines()[0]}") from error

    def filled(self, value: object) -> object:
        """Return a value with what its interpolations stand for here; as written where that is nothing."""
        if "${" not in str(value):
            return value
        try:
            return OmegaConf.select(OmegaConf.create({**self.plain(), "value": value}), "value")
        except OmegaConfBaseException:
            return value


class OverrideReader:
    """The meaning of ``key=value`` where nothing is known of the options: YAML."""

    notes: tuple[str, ...] = ()

    def names(self, key: str, merged: Mapping[str, object]) -> list[str]:  # noqa: ARG002 - for overrides
        """Return the names in a key path."""
        return key.split(".")

    def value(self, key: str, text: str, merged: Mapping[str, object]) -> object:  # noqa: ARG002 - for overrides
        """Return the value of ``key=text`` over the configuration so far. Raises ``ConfigError``."""
        return yaml_value(key, text)

    def options_kept(self, key: str, value: object, merged: Mapping[str, object]) -> dict[str, object] | None:  # noqa: ARG002 - for overrides
        """Return the options of ``x`` that stay when ``key``, an ``x_type``, becomes ``value``; None for none."""
        return None

    def finish(self, merged: MutableMapping[str, object], origins: Mapping[str, ValueOrigin]) -> None:
        """Settle what depends on the whole configuration, when all files and overrides are merged."""


def load_config(files: Sequence["str | Path"], overrides: Sequence[str] = ()) -> DictConfig:
    """Return files merged in order, each over its ``base:``, then ``key=value`` overrides. Raises ``UserError``."""
    return load_merged(files, overrides).config


def load_merged(
    files: Sequence["str | Path"], overrides: Sequence[str] = (), reader: OverrideReader | None = None
) -> MergedConfig:
    """Return the same as ``load_config``, and where each value came from. Raises ``UserError``."""
    return merge([content for file in files for content in chain(file)], overrides, reader)


def merge(
    contents: Sequence[Content], overrides: Sequence[str] = (), reader: OverrideReader | None = None
) -> MergedConfig:
    """Return contents merged in order, then ``key=value`` overrides. Raises ``ConfigError``."""
    add_resolvers()
    merged: dict[str, object] = {}
    origins: Origins = {}
    reader = reader or OverrideReader()
    dropped: Dropped = {}
    for turn, (content, folder) in enumerate(contents):
        dropped |= _merge(merged, content, ValueOrigin(folder, turn=turn), origins)
    for turn, text in enumerate(sorted(overrides, key=_precedence), len(contents)):
        _override(merged, text, (origins, turn), reader)
    reader.finish(merged, origins)
    return MergedConfig(OmegaConf.create(merged), origins, reader.notes, dropped)


def _precedence(override: str) -> int:
    """Return a sorting key of overrides: types come before options, those of outer components first."""
    key = override.partition("=")[0]
    return key.count(".") if key.endswith("_type") else 1000


def chain(file: "str | Path") -> list[Content]:
    """Return a file's content preceded by that of everything it inherits from. Raises ``UserError``."""
    return list(_chain(Path(file), ()))


def find_config(name: "str | Path", also: str = "") -> Path:
    """Return the file that ``name`` means: a path, ``configs/...`` of the resources, or a shipped file's bare name.

    Raises ``UserError`` for a bare name that nothing has, which names what the caller would ``also`` take; a path that
    is not there is returned as it is.
    """
    path = Path(name)
    if os.path.exists(path) and not path.is_dir():
        return path
    if found := places.find_resource(path):
        return found
    if path.suffix or path.parent != Path() or not path.name:
        return path
    known = places.recipes()  # also beside a folder of that name
    if path.name not in known:
        raise UserError(
            f"{name}: no such configuration; expected {also}a YAML file or one of {listing(known, near=path.name)}."
            f"{did_you_mean(path.name, known)}"
        )
    return known[path.name]


def _chain(file: Path, above: tuple[Path, ...]) -> list[Content]:
    file = _resolved(file)
    if file in above:
        raise ConfigError(f"{file}: inherits from itself through base:")
    content = _read_yaml(file)
    names = base_names(content.pop("base", None), f"{file}: base")
    inherited = [item for name in names for item in _chain(_base(file.parent, name), (*above, file))]
    return [*inherited, (content, file.parent)]


def _base(folder: Path, name: str) -> Path:
    """Return what ``base: name`` means in a file of ``folder``: a file beside it, else a shipped configuration."""
    beside = folder / name
    return (
        beside
        if os.path.exists(beside)
        else places.recipes().get(name) or places.find_resource(name) or beside
    )


def base_names(base: object, where: str) -> list[str]:
    """Return the files that ``base:`` names: one, a list of them, or none. Raises ``ConfigError``."""
    if base is None:
        return []
    given: list[object] = base if isinstance(base, list) else [base]
    names = [name for name in given if isinstance(name, str) and name.strip()]
    if len(names) < len(given):
        raise ConfigError(f"{where}: expected a file or a list of files to start from, got {base!r}")
    return names


def _resolved(file: Path) -> Path:
    """Return the absolute path of a file. Raises ``UserError`` where links lead in a circle."""
    try:
        return file.resolve()
    except (OSError, RuntimeError) as error:  # until Python 3.13 a RuntimeError
        raise UserError(f"{file}: cannot be read (its links lead in a circle)") from error
    except ValueError as error:
        raise UserError(f"{file}: is no name of a file ({error})") from error


def _read_yaml(file: Path) -> dict[str, object]:
    if os.path.exists(file) and not file.is_file() and not file.is_dir():
        raise UserError(f"{file}: is a pipe or a device; expected a file, since it is read more than once")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = [path.name for path in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        there = f"; there is {listing(near)}" if near else ""
        raise UserError(f"{file}: no such configuration{there}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not valid YAML (it is not text)") from error
    if is_cut_off(text):
        raise ConfigError(
            f"{file}: is cut off; expected '{ENDS[1].strip()}' as its last line. Use raw.yaml, or run it again"
        )
    return copy.deepcopy(_parse_yaml(text, file))


@functools.lru_cache(32)  # a recipe and its bases are asked for several times until a training starts
def _parse_yaml(text: str, file: Path) -> dict[str, object]:
    try:
        is_mapping = isinstance(yaml.compose(text, Loader=yaml.SafeLoader), yaml.MappingNode)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text))) if is_mapping else None
    except RecursionError as error:
        raise ConfigError(f"{file}: not valid YAML (too deeply nested)") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{file}{where}: not valid YAML ({what})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a mapping of keys at the top level")
    return cast(dict[str, object], content)


def _merge(
    into: dict[str, object],
    new: Mapping[str, object],
    origin: ValueOrigin,
    origins: Origins,
    path: str = "",
) -> Dropped:
    """Merge mappings key by key; anything else replaces.

    Another ``x_type`` drops the options of the old ``x``, which are returned.
    """
    dropped: Dropped = {}
    for key in new:
        component = str(key).removesuffix("_type")
        if component != key and key in into and into[key] != new[key]:
            full = f"{path}.{component}" if path else component
            dropped[full] = dict(leaf_values(into.pop(component, None) or {}))
    for key, value in new.items():
        full = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            below = into.get(key)
            into[key] = below = below if isinstance(below, dict) else {}
            dropped |= _merge(below, value, origin, origins, full)
        else:
            into[key] = value
            origins.update(dict.fromkeys(_leaf_keys(value, full), origin))
    return dropped


def leaf_values(value: object, path: str = "") -> list[tuple[str, object]]:
    """Return key path and value of everything in nested mappings that is no mapping itself."""
    if not isinstance(value, Mapping):
        return [(path, value)]
    return [
        leaf for key, item in value.items() for leaf in leaf_values(item, f"{path}.{key}" if path else key)
    ]


def value_at(values: Mapping[str, object], key: str) -> object:
    """Return what is written at a key path; None where nothing is."""
    found: object = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _leaf_keys(value: object, full: str) -> list[str]:
    """Return the key of a leaf; for a list, those of its items too."""
    items = value if isinstance(value, list) else []
    return [full, *[leaf for index, item in enumerate(items) for leaf in _leaf_keys(item, f"{full}.{index}")]]


def _override(
    merged: dict[str, object], text: str, written: tuple[Origins, int], reader: OverrideReader
) -> None:
    """Apply ``a.b.c=value``. Relative paths in it refer to the working directory, as the shell completes them."""
    key, equals, typed = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text}: not an override; expected key=value")
    if re.search("[\ud800-\udfff]", text):
        escaped = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise ConfigError(f"{escaped}: is not valid UTF-8; expected a name or text that is")
    origins, turn = written
    value = reader.value(key, typed, merged)
    kept = reader.options_kept(key, value, merged)
    names = reader.names(key, merged)
    _merge(merged, _nested(names, value), ValueOrigin(Path.cwd(), by_hand=True, turn=turn), origins)
    if kept is not None:
        *above, name = names
        owner = functools.reduce(lambda node, inner: cast(dict[str, dict], node)[inner], above, merged)
        owner[name.removesuffix("_type")] = kept


def _nested(names: Sequence[str], value: object) -> dict[str, object]:
    """Return ``{a: {b: {c: value}}}``."""
    *above, last = names
    nested = {last: value}
    for name in reversed(above):
        nested = {name: nested}
    return nested


def yaml_value(key: str, text: str) -> object:
    """Return the YAML value of ``text``; nothing after the equals sign is the empty text (write ``null`` for null).

    Raises ``ConfigError``, which starts with ``key``, for what is not YAML.
    """
    try:
        parsed = cast(dict[str, object], OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"])))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{key}: '{text}' is not a valid value ({str(error).splitlines()[0]})") from error
    return parsed["value"] if text else ""


def override(key: str, text: str) -> str:
    """Return the ``key=value`` that gives an option exactly this text, whatever signs are in it.

    For callers that pass on what they did not write: names of files, sentences. The text stands in single quotes.
    """
    return f"{key}={quoted(text)}"


def quoted(text: str) -> str:
    """Return ``text`` in YAML's single quotes."""
    return "'" + text.replace("'", "''") + "'"


def unquoted(text: str) -> str:
    """Return ``text`` without the one pair of quotes around all of it, if there is one. The inverse of ``quoted``."""
    if re.fullmatch(r"'(?:[^']|'')*'", text, re.DOTALL):
        return text[1:-1].replace("''", "'")
    if re.fullmatch(r'"(?:[^"\\]|\\.)*"', text, re.DOTALL):
        try:
            return str(yaml.safe_load(text))
        except yaml.YAMLError:
            return text
    return text


def literal(value: T) -> T:
    """Return plain containers whose texts are read as they stand: ``${...}`` and ``???`` are escaped."""
    return cast(T, _literal(value))


def _literal(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    if not isinstance(value, str):
        return value
    # a backslash counts only before ${, where each is written twice, and before a text that is only ???
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", re.sub(MARKS, r"\\\g<0>", value))


class _Dumper(yaml.SafeDumper):
    """A YAML writer that quotes texts that may be taken for numbers: 1e3 is one to OmegaConf, not to PyYAML."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Return the node of a text, quoted where it has to be."""
        style = "'" if re.match(r"[-+.\d]", text) else None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def dump(content: Mapping[str, object]) -> str:
    """Return plain containers as YAML that is read back as they are, numbers in texts and ``${...}`` included."""
    return yaml.dump(
        literal(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


ENDS = ("# This file is whole where its last line says so.\n", "# end\n")
"""First and last line of YAML that we write for later commands: cut off anywhere, it would be other YAML."""


def ended(text: str) -> str:
    """Return YAML between the lines by which ``_read_yaml`` knows that nothing of it is missing."""
    return ENDS[0] + text.rstrip("\n") + "\n" + ENDS[1]


def is_cut_off(text: str) -> bool:
    """Return whether ``text`` was written by ``ended`` and lacks its end."""
    return text.startswith(ENDS[0]) and not text.rstrip().endswith("\n" + ENDS[1].rstrip())


def is_override(text: str) -> bool:
    """Return whether an argument is ``key=value``, and no path with an equals sign in it nor a sentence."""
    return re.match(r"[A-Za-z_][\w.:-]*=", text) is not None


def add_resolvers() -> None:
    """Register the resolvers of threestudio's configurations with OmegaConf. Idempotent."""
    resolvers: dict[str, Callable] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "idiv": lambda a, b: a // b,
        "basename": lambda path: Path(path).name,
        "rmspace": lambda text, by: str(text).replace(" ", by),
        "tuple2": lambda value: [float(value), float(value)],
        "gt0": lambda value: value > 0,
        "not": lambda value: not value,
        "cmaxgt0": lambda value: _maximum(value) > 0,
        "cmaxgt0orcmaxgt0": lambda a, b: _maximum(a) > 0 or _maximum(b) > 0,
        "calc_exp_lr_decay_rate": lambda factor, n: factor ** (1.0 / n),
    }
    for name, function in resolvers.items():
        OmegaConf.register_resolver(name, function, replace=True)


def _maximum(value: object) -> float:
    """Return the largest value of a schedule, whatever its steps count: of a list, every other entry is a value."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Mapping):
        return Schedule.parse(dict(value)).maximum
    items = list(cast(Iterable[float], value))
    items = [0, *items] if len(items) == 3 else items
    return max(float(item) for item in [items[1], *items[2::2]])
