"""``usd models``: the models on this machine; ``usd models RECIPE [key=value ...]``: what a recipe would fetch.

``usd models NAME ...`` says the same of models by name, unless a recipe has that name. Nothing is downloaded and no
network is opened. `--verify` compares what lies in the cache with the published checksums.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from usd.app.commands import configurations
from usd.app.stages import is_staged, plans
from usd.core import loading, places, process
from usd.core.config import Spec
from usd.core.console import say
from usd.core.errors import UserError, did_you_mean
from usd.core.registry import find
from usd.denoiser import Denoiser
from usd.denoiser.components import open_components
from usd.denoiser.entries import CARDS, ModelEntry, entry_of, model_entries, repositories
from usd.denoiser.hub import (
    access_to,
    cached_checksums,
    cached_folder,
    download_command,
    find_in_cache,
    is_offline,
    missing_components,
    sha256,
)
from usd.denoiser.load import SINGLE_FILES, denoiser_of, formulas, local_model, split_lora

KEY = "model_name_or_path"
HERE, PARTLY, ABSENT = "here", "partly", "-"
INCOMPLETE, UNKNOWN = (
    "incomplete",
    "unknown",
)  # a folder that lacks something; no name of anything: neither is fetched
PRESETS = dict(zip(CARDS, ("8gb-models", "12gb", "24gb")))
"""Names of configs/presets."""


@dataclass(frozen=True)
class ModelStatus:
    """A model by name: its entry if it is an alias, how much of it is on this machine, and where."""

    name: str
    entry: ModelEntry | None
    state: str
    place: Path | None = None
    missing: tuple[str, ...] = ()

    def row(self) -> list[str]:
        """Return name, kind, size, license and place in words."""
        entry = self.entry
        size = f"{entry.size:.1f} GB" if entry and entry.size else ""
        terms = (entry.license.split(";")[0].split(":")[0] if entry else "") + (
            " (gated)" if entry and entry.gated else ""
        )
        place = "embedded" if entry and entry.path else str(self.place or "")
        lacks = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        return [
            self.name,
            entry.denoiser if entry else "",
            size,
            terms,
            f"{self.state} {place}".strip() + lacks,
        ]


def status_of(name: str) -> ModelStatus:
    """Return what of a model is on this machine: an alias, a folder, a file or a hub id, without its LoRA."""
    base = split_lora(name)[0]
    entry = entry_of(base)
    place = local_model(entry.path if entry else base)
    if place is not None:
        lacking = _lacking(place, entry)
        return ModelStatus(base, entry, INCOMPLETE if lacking else HERE, place, lacking)
    components = _parts_of(entry)
    if not components and (entry is not None or base in formulas()):
        return ModelStatus(base, entry, HERE)
    choices = repositories(base, entry)
    if entry is None and (not choices or base.endswith(SINGLE_FILES)):
        return ModelStatus(base, None, UNKNOWN)
    folder = cached_folder(choices, components)
    if folder is not None:
        return ModelStatus(base, entry, HERE, folder)
    part = next((found for choice in choices if (found := find_in_cache(*choice)) is not None), None)
    if part is None:
        return ModelStatus(base, entry, ABSENT)
    return ModelStatus(base, entry, PARTLY, part, tuple(missing_components(part, components).values()))


def _lacking(place: Path, entry: ModelEntry | None) -> tuple[str, ...]:
    """Return what a folder of diffusers on this disk lacks, in words; nothing for what is no such folder."""
    if not (place / "model_index.json").is_file():
        return ()
    kind = entry.denoiser if entry else denoiser_of(open_components(place))
    return tuple(missing_components(place, find(Denoiser, kind).components).values())


def _parts_of(entry: ModelEntry | None) -> tuple[str, ...]:
    """Return the folders that a model needs; those of Stable Diffusion for one that is not in the list."""
    if entry is None:
        return ()
    if entry.file is not None:
        return (f"./{entry.file}",)
    return (".",) if entry.denoiser == "language-model" else find(Denoiser, entry.denoiser).components


def local_models() -> list[Path]:
    """Return the folders of diffusers and single files below ``load/``, the package's and the working directory's.

    What comes with the package (``load/toybox``) has aliases and is left out.
    """
    embedded = places.resource("load/toybox").resolve()
    roots = dict.fromkeys(root.resolve() for root in (places.resource("load"), places.output("load")))
    indices = [file.parent for root in roots for file in sorted(root.glob("*/**/model_index.json"))]
    single = [file for root in roots for file in sorted(root.glob("*/*")) if file.suffix in SINGLE_FILES]
    return [place for place in (*indices, *single) if embedded not in place.parents]


def other_cached() -> list[str]:
    """Return the models of diffusers in the hub's cache that no alias names."""
    from huggingface_hub.constants import HF_HUB_CACHE

    indices = Path(HF_HUB_CACHE).glob("models--*/snapshots/*/model_index.json")
    names = (index.parents[2].name.removeprefix("models--").replace("--", "/") for index in indices)
    return sorted({name for name in names if entry_of(name) is None})


def recipe_models(value: object) -> Iterator[str]:
    """Yield the models that a parsed configuration names and reads."""
    if isinstance(value, Spec):
        yield from recipe_models(value.config)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from recipe_models(item)
    elif dataclasses.is_dataclass(value):
        yield from getattr(value, "further_models", ())
        unread: frozenset[str] = getattr(value, "unread_models", frozenset())
        for name in (field.name for field in dataclasses.fields(value) if field.name not in unread):
            item = getattr(value, name)
            yield from (item,) if isinstance(item, str) and item and KEY in name else recipe_models(item)


def inventory_lines() -> list[str]:
    """Return the table of what there is, here and elsewhere."""
    rows = [status_of(name).row() for name in model_entries()]
    rows += [_local_row(place) for place in local_models()]
    rows += [status_of(name).row() for name in other_cached()]
    return aligned_rows([["MODEL", "KIND", "FETCHES", "LICENSE", "ON THIS MACHINE"], *rows])


def _local_row(place: Path) -> list[str]:
    """Return the row of a folder or file below ``load/``."""
    try:
        lacks = _lacking(place, None)
        said = f"{INCOMPLETE}; missing: {', '.join(lacks)}" if lacks else HERE
    except UserError as problem:
        said = str(problem)
    return [str(place), "", "", "", said]


def recipe_lines(names: Sequence[str]) -> list[str]:
    """Return what a recipe's models are, what would be fetched, and what stands in the way."""
    found = [status_of(name) for name in dict.fromkeys(split_lora(name)[0] for name in names)]
    loras = list(dict.fromkeys(lora for name in names if (lora := split_lora(name)[1])))
    lines = [line for status in found for line in _explanation(status)]
    lines += [_lora_line(lora) for lora in loras]
    absent = [status for status in found if status.state in (PARTLY, ABSENT)]
    sizes = [status.entry.size for status in absent if status.entry and status.entry.size]
    unknown = f" and {len(absent) - len(sizes)} of unknown size" if len(absent) > len(sizes) else ""
    total = f"would fetch {sum(sizes):.1f} GB{unknown}" if absent else "would fetch nothing"
    lost = [status.name for status in found if status.state in (INCOMPLETE, UNKNOWN)]
    lost += [lora for lora in loras if local_model(lora) is None]
    stops = [f"{', '.join(lost)} cannot be fetched"] if lost else []
    stops += ["offline (HF_HUB_OFFLINE)"] if absent and is_offline() else []
    return [*lines, total + (f"; it would stop: {'; '.join(stops)}" if stops else "")]


def _lora_line(lora: str) -> str:
    """Return where a LoRA is; none is fetched by itself."""
    place = local_model(lora)
    return (
        f"LoRA {lora}: here ({place})" if place else f"LoRA {lora}: not here, and never fetched: put it there"
    )


def _explanation(status: ModelStatus) -> list[str]:
    """Return the lines on one model."""
    entry = status.entry
    if status.state == HERE:
        where = status.place or "a formula"
        return [f"{status.name}: here ({where})" + (f"; license: {entry.license}" if entry else "")]
    if status.state == INCOMPLETE:
        return [f"{status.name}: incomplete ({status.place}); missing: {', '.join(status.missing)}"]
    if status.state == UNKNOWN:
        hint = did_you_mean(status.name, model_entries())
        return [f"{status.name}: neither an alias, nor a folder or file that is here.{hint}"]
    if entry is None:
        return [
            f"{status.name}: not here; size and license unknown, see https://huggingface.co/{status.name}"
        ]
    size = f"{entry.size:.1f} GB" if entry.size else "size unknown"
    lacks = f"; missing: {', '.join(status.missing)}" if status.missing else ""
    lines = [f"{status.name}: not here{lacks}; {size} from {entry.repository}; license: {entry.license}"]
    if entry.needs:
        lines.append(f"  reads its conditions with {', '.join(entry.needs)}")
    if entry.memory:
        cards = ", ".join(f"{gib:.1f} GiB with {PRESETS[card]}" for card, gib in entry.memory.items())
        lines.append(f"  weights on the card, by preset: {cards}")
    if entry.gated and entry.repository:
        lines.append(f"  gated: {access_to(entry.repository)}")
    if entry.mirrors:
        lines.append(f"  mirrors, in this order: {', '.join(entry.mirrors)}")
    if entry.unverified:
        lines.append(f"  not verified, see its page: {', '.join(entry.unverified)}")
    return [*lines, f"  beforehand: {download_command(status.name, entry)}"]


def verify_lines() -> list[str]:
    """Return one line for each model in the cache whose files are those published. Raises ``UserError``."""
    lines = []
    for name, entry in model_entries().items():
        folder = None if entry.path else status_of(name).place
        if folder is None:
            continue
        sums = {**cached_checksums(folder), **entry.checksums}
        for file, expected in sums.items():
            if (folder / file).is_file() and sha256(folder / file) != expected:
                raise UserError(
                    f"{name}: {folder / file} is not the file that was published (SHA-256 {expected[:12]}...); "
                    "delete it and fetch it again"
                )
        lines.append(f"{name}: {len(sums)} files as published")
    return lines or ["no model of the list is in the cache"]


def aligned_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def model_lines(argv: Sequence[str] | None) -> list[str]:
    """Return what ``usd models`` prints for its arguments. Raises ``UserError``."""
    parser = argparse.ArgumentParser(prog="usd models", description=__doc__.splitlines()[0])
    parser.add_argument(
        "recipe", nargs="*", help="YAML file or bare name of a recipe, and key=value; or models"
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare the cache with the published checksums"
    )
    args = parser.parse_args(argv)
    if args.verify:
        return verify_lines()
    if not args.recipe:
        return inventory_lines()
    by_name = all(_is_model(word) for word in args.recipe)
    return recipe_lines(args.recipe if by_name else _names_of(args.recipe))


def _is_model(word: str) -> bool:
    """Return whether a word is the name of a model, and of no recipe."""
    base = split_lora(word)[0]
    return word not in places.recipes() and (entry_of(base) is not None or _is_stored(local_model(base)))


def _is_stored(place: Path | None) -> bool:
    """Return whether a place on this disk is that of a model."""
    return place is not None and (place.suffix in SINGLE_FILES or (place / "model_index.json").is_file())


def _names_of(words: Sequence[str]) -> list[str]:
    """Return the models of a recipe, every stage where it has some. Raises ``UserError``."""
    from usd.app.experiment import load_experiment
    from usd.app.launcher import divided

    given, overrides = divided(list(words))
    configs, resumed = configurations(given)
    said = [*resumed, *overrides]
    said += _stand_ins(configs, said)
    if is_staged(configs):
        return [name for plan in plans(configs, said) for name in recipe_models(plan.experiment.system)]
    return list(recipe_models(load_experiment(configs, said)[0].system))


def _stand_ins(configs: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    """Return what a recipe leaves to its user, a sentence or a picture say: its models do not depend on that."""
    said = {text.partition("=")[0] for text in overrides}
    contents = [content for file in configs for content in loading.chain(file)]
    asked = OmegaConf.missing_keys(loading.merge(contents).config) - said
    return [loading.override(key, "mesh:none") for key in sorted(asked) if not key.endswith((KEY, "lora"))]


def main(argv: list[str] | None = None) -> int:
    """Run ``usd models``; return the exit code."""
    return process.run_command(lambda: say("\n".join(model_lines(argv))))


if __name__ == "__main__":
    process.start(main)
