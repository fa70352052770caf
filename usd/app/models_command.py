"""``usd models``: the models on this machine; ``usd models RECIPE [key=value ...]``: what a recipe would fetch.

Nothing is downloaded and no network is opened. `--verify` compares what lies in the cache with the published checksums.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from usd.app.commands import configurations
from usd.app.stages import is_staged, plans
from usd.core import places, process
from usd.core.config import Spec
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.registry import find
from usd.denoiser import Denoiser
from usd.denoiser.entries import ModelEntry, entry_of, model_entries, repositories
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
from usd.denoiser.load import formulas, local_model, split_lora

KEY = "model_name_or_path"
SINGLE = (".ckpt", ".safetensors")
HERE, PARTLY, ABSENT = "here", "partly", "-"


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
        return ModelStatus(base, entry, HERE, place)
    components = _parts_of(entry)
    if not components and (entry is not None or base in formulas()):
        return ModelStatus(base, entry, HERE)
    choices = repositories(base, entry)
    folder = cached_folder(choices, components)
    if folder is not None:
        return ModelStatus(base, entry, HERE, folder)
    part = next((found for choice in choices if (found := find_in_cache(*choice)) is not None), None)
    if part is None:
        return ModelStatus(base, entry, ABSENT)
    return ModelStatus(base, entry, PARTLY, part, tuple(missing_components(part, components)))


def _parts_of(entry: ModelEntry | None) -> tuple[str, ...]:
    """Return the folders that a model needs; those of Stable Diffusion for one that is not in the list."""
    if entry is None:
        return ()
    if entry.file is not None:
        return (f"./{entry.file}",)
    return (".",) if entry.denoiser == "language-model" else find(Denoiser, entry.denoiser).components


def local_models() -> list[Path]:
    """Return the folders of diffusers and single files below ``load/``, the package's and the working directory's."""
    roots = dict.fromkeys(root.resolve() for root in (places.resource("load"), places.output("load")))
    indices = [file.parent for root in roots for file in sorted(root.glob("*/**/model_index.json"))]
    single = [file for root in roots for file in sorted(root.glob("*/*")) if file.suffix in SINGLE]
    return [*indices, *single]


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
        unread: frozenset[str] = getattr(value, "unread_models", frozenset())
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if isinstance(item, str) and item and KEY in field.name:
                yield from () if field.name in unread else (item,)
            else:
                yield from recipe_models(item)


def inventory_lines() -> list[str]:
    """Return the table of what there is, here and elsewhere."""
    rows = [status_of(name).row() for name in model_entries()]
    known = {status_of(name).place for name, entry in model_entries().items() if entry.path}
    rows += [[str(place), "", "", "", HERE] for place in local_models() if place.resolve() not in known]
    rows += [status_of(name).row() for name in other_cached()]
    return aligned_rows([["MODEL", "KIND", "FETCHES", "LICENSE", "ON THIS MACHINE"], *rows])


def recipe_lines(names: Sequence[str]) -> list[str]:
    """Return what a recipe's models are, what would be fetched, and what stands in the way."""
    found = [status_of(name) for name in dict.fromkeys(split_lora(name)[0] for name in names)]
    lines = [line for status in found for line in _explanation(status)]
    lines += [_lora_line(lora) for lora in dict.fromkeys(split_lora(name)[1] for name in names) if lora]
    absent = [status for status in found if status.state != HERE]
    sizes = [status.entry.size for status in absent if status.entry and status.entry.size]
    unknown = len(absent) - len(sizes)
    total = f"would fetch {sum(sizes):.1f} GB" if absent else "would fetch nothing"
    offline = "; offline (HF_HUB_OFFLINE): it would stop" if absent and is_offline() else ""
    return [*lines, total + (f" and {unknown} of unknown size" if unknown else "") + offline]


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
    if entry is None:
        if "/" not in status.name:
            return [f"{status.name}: neither an alias, nor a folder or file that is here"]
        return [
            f"{status.name}: not here; size and license unknown, see https://huggingface.co/{status.name}"
        ]
    size = f"{entry.size:.1f} GB" if entry.size else "size unknown"
    lacks = f"; missing: {', '.join(status.missing)}" if status.missing else ""
    lines = [f"{status.name}: not here{lacks}; {size} from {entry.repository}; license: {entry.license}"]
    if entry.needs:
        lines.append(f"  reads its conditions with {', '.join(entry.needs)}")
    if entry.memory:
        cards = ", ".join(f"{gib:.1f} GiB with {card}" for card, gib in entry.memory.items())
        lines.append(f"  weights on the card: {cards}")
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
    parser.add_argument("recipe", nargs="*", help="YAML file or bare name of a recipe, and key=value")
    parser.add_argument(
        "--verify", action="store_true", help="compare the cache with the published checksums"
    )
    args = parser.parse_args(argv)
    if args.verify:
        return verify_lines()
    if not args.recipe:
        return inventory_lines()
    return recipe_lines(_names_of(args.recipe))


def _names_of(words: Sequence[str]) -> list[str]:
    """Return the models of a recipe, every stage where it has some. Raises ``UserError``."""
    from usd.app.experiment import load_experiment
    from usd.app.launcher import divided

    given, overrides = divided(list(words))
    configs, resumed = configurations(given)
    if is_staged(configs):
        staged = plans(configs, [*resumed, *overrides])
        return [name for plan in staged for name in recipe_models(plan.experiment.system)]
    return list(recipe_models(load_experiment(configs, [*resumed, *overrides])[0].system))


def main(argv: list[str] | None = None) -> int:
    """Run ``usd models``; return the exit code."""
    return process.run_command(lambda: say("\n".join(model_lines(argv))))


if __name__ == "__main__":
    process.start(main)
