"""An experiment as configured, and the folder it writes to: ``outputs/<name>/<tag>@<time>``."""

import contextlib
import itertools
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, cast

from omegaconf import DictConfig, OmegaConf

from usd import dialects
from usd.core import files, loading
from usd.core.config import Spec, component, option, parse, plain_options
from usd.core.console import say
from usd.core.errors import ConfigError, UserError
from usd.core.loading import Content, MergedConfig
from usd.core.overrides import OptionReader
from usd.core.unread import dropped_options, unread_options
from usd.dialects import Translation
from usd.dialects.threestudio import translated_key, translated_names
from usd.viewer.options import ViewerOptions

Mode = Literal["train", "validate", "test", "export"]
Precision = int | str
Changes = Mapping[str, Mapping[str, object]]
KernelName = Literal["auto", "warp", "torch", "tinycudann", "nerfacc", "nvdiffrast", "gsplat", "embreex"]
PRECISIONS: tuple[Precision, ...] = (
    16,
    32,
    64,
    "16-mixed",
    "bf16-mixed",
    "32-true",
    "64-true",
    "bf16-true",
    "16",
    "32",
    "64",
    "bf16",
)


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the training loop."""

    max_steps: int = option(15000, "number of optimizer steps", ge=1)
    log_every_n_steps: int = option(1, "steps between written figures", ge=1)
    num_sanity_val_steps: int = option(0, "validation batches before the first step; -1 means all", ge=-1)
    val_check_interval: int = option(100, "steps between validations; 0 means never", ge=0)
    enable_progress_bar: bool = option(True, "whether losses, step time, memory and the time left are shown")
    precision: Precision = option(
        32, "precision of the arithmetic; 16 is replaced by 32 on a CPU", choices=PRECISIONS
    )
    batch_parts: int = option(
        1, "parts that a batch is rendered in, one after the other, in less memory", ge=1
    )
    gradient_clip_val: float | None = option(None, "largest norm of all gradients together", gt=0)
    max_skipped_steps: int = option(
        50,
        "steps in a row that may be skipped because something is not finite; one more stops",
        ge=0,
    )
    test_after_fit: bool = option(True, "whether the test is run when training is done")
    option_changes: Path | None = option(
        None,
        "option-changes.jsonl of a trial, whose changes are made again at the same steps of this training",
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Options on which checkpoints are written and kept."""

    save_last: bool = option(True, "whether ckpts/last.ckpt is kept")
    save_top_k: int = option(
        -1, "number of numbered checkpoints that are kept, the newest; -1 means all", ge=-1
    )
    every_n_train_steps: int | None = option(
        None, "steps between numbered checkpoints; null or 0: only at the end", ge=0
    )
    last_every_n_steps: int = option(500, "steps between refreshments of last.ckpt; 0 means never", ge=0)


@dataclass(frozen=True)
class Experiment:
    """Everything a YAML file can say."""

    name: str = option("default", "folder of this family of trials")
    description: str = option("", "line that is printed at the start of a run")
    tag: str = option("", "folder of this trial")
    seed: int = option(0, "seed of all randomness", ge=0, le=2**63 - 1)
    use_timestamp: bool = option(True, "whether the time is added to the name of the trial's folder")
    timestamp: str | None = option(None, "time in the name of the trial's folder; set by the launcher")
    exp_root_dir: Path = option(
        "outputs", "folder of all trials; a relative path means the working directory", path="output"
    )
    resume: Path | None = option(None, "a checkpoint to continue from, test or export")
    dialect: Literal["usd"] = option(
        "usd", "program whose keys these are: usd, or threestudio, which is translated; unset: by system_type"
    )
    data: Spec = component("data", help="component that makes training and evaluation batches")
    system: Spec = component("system", help="component that is trained: the object and its losses")
    exporter: Spec = component("exporter", "mesh-exporter", "component that writes what was made to files")
    kernels: KernelName | tuple[KernelName, ...] = option(
        "auto",
        "kernels: auto, warp or torch; where installed tinycudann, nerfacc, nvdiffrast, gsplat (CUDA), embreex (CPU)",
    )
    trainer: TrainerConfig = option({}, "options of the training loop")
    checkpoint: CheckpointConfig = option({}, "checkpoints that are kept")
    viewer: ViewerOptions = option({}, "options of the training's view in the browser")


LOCK = ".lock"
STARTING_FILES = (
    LOCK,
    "configs/*",
    "cmd.txt",
    "stage.json",
    "tb_logs/*",
    "csv_logs/*/hparams.yaml",
    "save/reference.png",
    "save/elevation.json",
)


@dataclass(frozen=True)
class Trial:
    """The folder of one run, and what goes where in it."""

    folder: Path

    @property
    def ckpts(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.folder / "ckpts"

    @property
    def save(self) -> Path:
        """Return the folder of the pictures, videos and exported files."""
        return self.folder / "save"

    @property
    def configs(self) -> Path:
        """Return the folder of the configurations."""
        return self.folder / "configs"

    @property
    def last(self) -> Path:
        """Return the path of the newest checkpoint."""
        return self.ckpts / "last.ckpt"

    def has_results(self) -> bool:
        """Return whether a run has made anything but what it says of itself at the start."""
        files = [file.relative_to(self.folder) for file in self.folder.rglob("*") if not file.is_dir()]
        return any(not any(fnmatch(file.as_posix(), known) for known in STARTING_FILES) for file in files)


@dataclass(frozen=True)
class Outcome:
    """The result of a run: its trial, its last step and its files."""

    trial: Trial
    step: int
    files: tuple[Path, ...] = ()


def load_experiment(
    configs: Sequence["str | Path"], overrides: Sequence[str] = ()
) -> tuple[Experiment, DictConfig]:
    """Return the parsed experiment, its time set, and the merged YAML it came from. Raises ``ConfigError``."""
    merged = merge_contents([content for file in configs for content in loading.chain(file)], overrides)
    for note in merged.notes:  # first, since what they tell may be why the rest is refused
        say(note)
    experiment = _stamped(merged.experiment())
    for note in merged.remarks(experiment):
        say(note)
    return experiment, merged.loaded.config


def recipe_changes(configs: Sequence["str | Path"], overrides: Sequence[str]) -> Changes:
    """Return what overrides change of what files say, by key path. Raises ``ConfigError``."""
    return merge_contents([content for file in configs for content in loading.chain(file)], overrides).changes


@dataclass(frozen=True)
class Merged:
    """A configuration made of files and ``key=value``, as written and in this project's dialect."""

    loaded: MergedConfig
    translation: Translation
    changes: Changes

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions made while the configuration was read, a line each."""
        return (*self.loaded.notes, *self.translation.notes)

    def experiment(self) -> Experiment:
        """Return it parsed. Raises ``ConfigError`` that starts with the key as it was written."""
        origins = self.translation.origins(self.loaded.origins)
        try:
            experiment = parse(Experiment, self.translation.values, "", origins)
        except ConfigError as error:
            raise ConfigError(dialects.with_place(self.translation.as_written(str(error)))) from error
        return experiment

    def remarks(self, experiment: Experiment) -> Iterator[str]:
        """Yield a note on each option that was given and does not hold in ``experiment``, which was parsed of it."""
        origins = self.translation.origins(self.loaded.origins)
        typed = {hoisted_key(key) for key, origin in origins.items() if origin.by_hand}
        yield from unread_options(experiment, self.translation.values, typed)
        yield from dropped_options(experiment, self.translation.values, self.loaded)


def merge_contents(
    contents: Sequence[Content], overrides: Sequence[str] = (), fixed: Mapping[str, object] | None = None
) -> Merged:
    """Merge files' contents, ``key=value``, and what is ``fixed`` over all of them, in the dialect of the files.

    Raises ``ConfigError``.
    """
    recipe = loading.merge(contents).plain()
    dialect = dialects.dialect_of(recipe)
    loaded = loading.merge(contents, overrides, reader(dialect))
    changes = _changes(recipe, loaded.plain())
    if fixed:
        over = OmegaConf.merge(loaded.config, OmegaConf.create(loading.literal(dict(fixed))))
        loaded = replace(loaded, config=cast(DictConfig, over))
    values = hoisted(loaded.resolved())
    translation = dialects.translate(values, None if "dialect" in values else dialect)
    return Merged(loaded, translation, changes)


def _changes(recipe: Mapping[str, object], here: Mapping[str, object]) -> Changes:
    """Return what differs: by key path, the value in the ``recipe`` and the one ``here``."""
    before, after = dict(loading.leaf_values(recipe)), dict(loading.leaf_values(here))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return {key: {"recipe": before.get(key), "here": after.get(key)} for key in keys}


def reader(dialect: str = "usd") -> OptionReader:
    """Return what ``key=value`` means to an experiment that is written in a dialect."""
    if dialect != "threestudio":
        return OptionReader(Experiment, (hoisted_key, hoisted))
    return OptionReader(
        Experiment,
        (lambda key: translated_key(hoisted_key(key)), lambda values: translated_names(hoisted(values))),
    )


def hoisted_key(key: str) -> str:
    """``system.exporter.fmt`` is ``exporter.fmt``."""
    is_moved = re.match(r"system\.exporter(_type$|\.|$)", key)
    return key.removeprefix("system.") if is_moved else key


def refuse_missing_inputs(mode: Mode, experiment: Experiment) -> None:
    """Raise ``UserError`` where a prompt of the library, the picture, or the checkpoint to start from is missing.

    That is before Lightning is loaded, and before a model is downloaded.
    """
    from usd.core import checkpoint
    from usd.data.pictures import read_rgba
    from usd.prompt_processor.library import full_prompt
    from usd.system import SystemConfig

    config = experiment.system.config
    prompts = getattr(config, "prompt_processor", None)
    if mode == "train" and isinstance(prompts, Spec):
        full_prompt(str(getattr(prompts.config, "prompt", "")))
    source = config.picture_source() if mode == "train" and isinstance(config, SystemConfig) else None
    if source is not None and source.image_path and not Path(source.image_path).is_file():
        read_rgba(source.image_path, source.keys[0])
    if experiment.resume is not None and not experiment.resume.is_file():
        checkpoint.load(experiment.resume)


def hoisted(values: dict[str, object]) -> dict[str, object]:
    """``system.exporter_type`` and ``system.exporter``, as published, are ``exporter_type`` and ``exporter``.

    One that is null is not given.
    """
    system = values.get("system")
    inner = system if isinstance(system, dict) else {}
    moved = {key: inner[key] for key in ("exporter", "exporter_type") if key in inner}
    if moved:
        rest = {key: value for key, value in inner.items() if key not in moved}
        values = {**values, **moved, "system": rest}
    return {key: value for key, value in values.items() if key != "exporter_type" or value is not None}


def _stamped(experiment: Experiment) -> Experiment:
    if not experiment.use_timestamp and not experiment.tag:
        raise UserError("tag: required when use_timestamp is false; pass tag=<name of the trial>")
    if not experiment.use_timestamp or experiment.timestamp is not None:
        return experiment
    now = datetime.now().strftime("@%Y%m%d-%H%M%S")
    return replace(
        experiment, timestamp=os.environ.get("USD_TIMESTAMP", now) if is_started_by_another() else now
    )


def is_started_by_another() -> bool:
    """Return whether another process started this one to train with it. Its time is in the environment."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def trial_of(experiment: Experiment) -> Trial:
    """Return the trial that an experiment writes to. Raises ``UserError`` for a name no folder can have."""
    stamp = (experiment.timestamp or "") if experiment.use_timestamp else ""
    root, family = experiment.exp_root_dir, folder_of("name", experiment.name)
    return Trial(root / family / folder_of("tag", experiment.tag + stamp))


def place_overrides(folder: Path) -> list[str]:
    """Return the ``key=value`` by which a trial that was moved or renamed writes where it lies now; none if it was not.

    Raises ``UserError`` where its ``configs/parsed.yaml`` cannot be read.
    """
    parsed = loading.load_config([folder / "configs" / "parsed.yaml"])
    stamp = parsed.get("timestamp") or ""
    written = Path(str(parsed.get("exp_root_dir"))) / folder_name(str(parsed.get("name")))
    here = folder.resolve()
    if (written / folder_name(f"{parsed.get('tag')}{stamp}")).resolve() == here:
        return []
    names = {"exp_root_dir": str(here.parent.parent), "name": here.parent.name, "tag": here.name}
    return [*(loading.override(key, value) for key, value in names.items()), "use_timestamp=false"]


def folder_name(text: str) -> str:
    """``text`` without what file systems refuse, at most 120 characters and 200 bytes: never a path, maybe empty."""
    safe = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', "-", text).strip(". ")[:120]
    return safe.encode(errors="replace")[:200].decode(errors="ignore").strip(". ")


def folder_of(key: str, text: str) -> str:
    """Return the folder's name that the option ``key`` gives. Raises ``ConfigError`` where nothing is left of it."""
    name = folder_name(text)
    if not name:
        raise ConfigError(f"{key}: {text!r} is no name of a folder; expected letters or digits in it")
    return name


# ------------------------------------------------------------------------------------------------- folders in use


@contextlib.contextmanager
def trial_folder(
    experiment: Experiment, is_new: bool = False, alone: bool = False
) -> Iterator[tuple[Experiment, Trial]]:
    """Make the folders of a trial; they are gone again when a mistake ends the run before any result.

    With ``is_new`` its time was set by this run, and is changed until the folder is nobody else's. Who is ``alone``
    (a training) keeps other trainings out; looking at a checkpoint may go on beside. What killed runs left
    half-written is cleared. Processes that join a training use its folder. Raises ``UserError``.
    """
    if is_started_by_another():
        yield experiment, trial_of(experiment)
        return
    first = trial_of(experiment).folder
    absent = [folder for folder in (first, *first.parents) if not folder.exists()]
    with _writable(first):
        experiment = _claimed(experiment) if is_new else experiment
        trial = trial_of(experiment)
        absent = [trial.folder, *absent[1:]] if is_new else absent
        trial.folder.mkdir(parents=True, exist_ok=True)
    with alone_in(trial.folder) if alone else contextlib.nullcontext():
        try:
            open_trial(trial)
            yield experiment, trial
        except UserError:
            _take_away(trial, absent)
            raise


def _claimed(experiment: Experiment) -> Experiment:
    """With a time that makes its folder a new one, which is made. Two runs of one second get two folders."""
    stamp = experiment.timestamp or ""
    trial_of(experiment).folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(2):
        try:
            trial_of(experiment).folder.mkdir()
            return experiment
        except FileExistsError:
            experiment = replace(experiment, timestamp=f"{stamp}-{number}")
    raise AssertionError("endless")


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made. Raises ``UserError`` that says who is in it."""
    lock = folder / LOCK
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    with contextlib.ExitStack() as stack:
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if lock.is_symlink():
                lock.unlink()
            stack.enter_context(files.locked(lock))
        try:
            yield
        except UserError:
            _leave(folder, absent)
            raise


def _leave(folder: Path, absent: Sequence[Path]) -> None:
    """Remove an empty folder (but for its lock), and those above it that were made for it."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
        for place in absent:
            place.rmdir()


def _take_away(trial: Trial, absent: Sequence[Path]) -> None:
    """Remove the folders that a run made, where nobody found anything to write."""
    if not absent or trial.has_results():
        return
    shutil.rmtree(trial.folder, ignore_errors=True)
    for folder in absent[1:]:  # another run may have moved in
        with contextlib.suppress(OSError):
            folder.rmdir()


def open_trial(trial: Trial) -> None:
    """Make the folders, and clear what killed runs left half-written. Raises ``UserError`` where it may not."""
    _refuse_links(trial)
    with _writable(trial.folder):
        for folder in (trial.ckpts, trial.configs, trial.save):
            folder.mkdir(parents=True, exist_ok=True)
        files.clear_partials(trial.folder)


def _refuse_links(trial: Trial) -> None:
    """Raise ``UserError`` for a folder inside a trial that leads out of it: nothing is written through links."""
    home = trial.folder.resolve()
    for root, folders, _ in os.walk(trial.folder):
        for folder in (Path(root) / name for name in folders):
            if folder.is_symlink() and not folder.resolve().is_relative_to(home):
                raise UserError(
                    f"{folder}: is a link to {folder.resolve()}; expected a folder: nothing is written through links"
                )


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another exp_root_dir"
        ) from error


def snapshot(
    trial: Trial,
    experiment: Experiment,
    raw: DictConfig,
    argv: Sequence[str] = (),
    changes: Changes | None = None,
) -> None:
    """Write ``configs/raw.yaml`` (as merged) and ``configs/parsed.yaml`` (as understood); add a line to ``cmd.txt``.

    What differs from the recipe goes to ``configs/changes.json``, unless the trial goes on from its own checkpoint.
    """
    if changes is not None and experiment.resume != trial.last:
        files.write_record(trial.configs / "changes.json", changes)
    files.write_atomically(trial.configs / "raw.yaml", loading.ended(OmegaConf.to_yaml(raw)))
    files.write_atomically(
        trial.configs / "parsed.yaml", loading.ended(loading.dump(plain_options(experiment)))
    )
    commands = trial.folder / "cmd.txt"
    earlier = (
        "" if commands.is_symlink() or not commands.is_file() else commands.read_text("utf-8", "replace")
    )
    files.write_atomically(commands, earlier + shlex.join(argv or [sys.executable, *sys.argv]) + "\n")


def short_path(path: Path) -> str:
    """Return a path as short as it can be printed: relative to the working directory or absolute."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
