"""Several experiments in a row, each on what the ones before left: a configuration with ``stages:``.

    name: mine
    tag: chair
    seed: 3                                  # what stands outside `stages` holds for all of them
    stages:
      coarse:
        base: coarse.yaml                    # a configuration like any other; further keys are this stage's own
      fine:
        base: fine.yaml
        system:
          geometry_convert_from: ${stage:coarse}     # the checkpoint that the stage `coarse` ended with
      mesh:
        mode: export                         # or test, validate; train where nothing is said
        of: fine                             # with its configuration, on its checkpoint

``${stage:NAME,folder}`` is the stage's trial folder, ``${stage:NAME,save}`` its pictures, ``${stage:NAME,step}`` its
number of steps, ``${stage:NAME,data.height}`` what one of its options is set to. On the command line ``key=value`` is
said to all stages and ``stages.NAME.key=value`` to one; ``stages.NAME=null`` leaves one out. ``tag`` may use what
the stages are told: ``${stages.NAME.key}``.

The trial folders are ``<exp_root_dir>/<name>/<tag>/<stage>``. The same command again skips what is done and resumes
inside the stage that was cut off. A stage whose settings have changed, or one that stands on another that was made
again, is made again; what was there is moved aside, never deleted.
"""

import contextlib
import gc
import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import override

from usd.app import interrupts
from usd.app.experiment import (
    Changes,
    Experiment,
    Mode,
    Outcome,
    Trial,
    alone_in,
    folder_name,
    folder_of,
    merge_contents,
    reader,
    refuse_missing_inputs,
    short_path,
    trial_folder,
    trial_of,
)
from usd.core import files, loading, places
from usd.core.config import ConfigError, option, parse, plain, plain_options
from usd.core.console import say
from usd.core.errors import UserError, did_you_mean
from usd.core.loading import Content, MergedConfig, OverrideReader
from usd.core.overrides import typed_value

KEY = "stages"
REFERENCE = re.compile(r"\$\{stage:([^,}]+)(?:,([^}]*))?\}")
OWN_KEYS = ("base", "mode", "of")


@dataclass(frozen=True)
class Plan:
    """One stage, ready to run: its experiment, the YAML it came from, and the stages whose results it uses."""

    name: str
    mode: Mode
    experiment: Experiment
    raw: DictConfig
    inputs: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was assumed of the command line
    changes: Changes = field(default_factory=dict)  # what differs from the recipe

    @property
    def trial(self) -> Trial:
        """Return the stage's trial."""
        return trial_of(self.experiment)

    @property
    def steps(self) -> int:
        """The step that it ends at, or looks at: its pictures and files are in ``save/it<steps>-...``."""
        return self.experiment.trainer.max_steps

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result, apart from the number of steps and from other stages.

        Paths below the run's folder and the resources are written relative to them: both may move.
        """
        everything, options = plain_options(self.experiment), plain_options(self.experiment.trainer)
        trainer = {key: options[key] for key in ("precision", "gradient_clip_val")}
        kinds = ("system", "data", *(["exporter"] if self.mode == "export" else []))
        parts = {key: everything.get(key) for kind in kinds for key in (kind, f"{kind}_type")}
        text = json.dumps({"mode": self.mode, "seed": self.experiment.seed, **parts, "trainer": trainer})
        for folder, name in ((self.trial.folder.parent, "<run>"), (places.resources(), "<repository>")):
            text = text.replace(json.dumps(str(folder))[1:-1], name)
        return json.loads(text)


@dataclass(frozen=True)
class Record:
    """``stage.json`` in a stage's folder: how far it is, and with what."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    step: int = 0
    done: bool = False
    files: tuple[str, ...] = ()
    minutes: float = 0.0  # wall clock, of the runs that could still write it down

    @property
    def digest(self) -> str:
        """The identity of the result, which later stages depend on."""
        text = json.dumps([self.settings, self.inputs, self.step], sort_keys=True)
        return files.digest(text)


# --------------------------------------------------------------------------------------------------------- running


def is_staged(configs: Sequence["str | Path"]) -> bool:
    """Return whether a configuration is one of stages."""
    return any(content.get(KEY) for file in configs for content, _ in loading.chain(file))


def run_stages(
    mode: str,
    configs: Sequence["str | Path"],
    overrides: Sequence[str] = (),
    gpu: str | None = None,
    argv: Sequence[str] = (),
) -> dict[str, Outcome]:
    """All stages in order, those that are done left out. Every configuration is parsed before the first one starts.

    Raises ``UserError``, and ``KeyboardInterrupt`` after Ctrl-C, with the state saved.
    """
    if mode != "train":
        hint = "give a stage's own configs/parsed.yaml and its checkpoint instead"
        raise UserError(f"--{mode}: a configuration with stages can only be trained; {hint}")
    outcomes: dict[str, Outcome] = {}
    digests: dict[str, str] = {}
    planned = plans(configs, overrides)
    for note in dict.fromkeys(note for plan in planned for note in plan.notes):
        say(note)
    for plan in planned:
        if not plan.inputs and not plan.trial.folder.exists():
            with _named_errors(plan):
                refuse_missing_inputs(plan.mode, plan.experiment)
    refuse_several_devices(gpu)
    if not planned:
        raise ConfigError(f"{KEY}: all of them are null; expected at least one")
    with interrupts.listening() as stop, alone_in(planned[0].trial.folder.parent):
        for plan in planned:
            stop.check(f" before stage {plan.name}; the same command goes on from there")
            wanted = Record(plan.settings(), {name: digests[name] for name in plan.inputs})
            outcome, done = _perform(plan, wanted, gpu, argv)
            outcomes[plan.name], digests[plan.name] = outcome, done.digest
        stop.check(" after the last stage; nothing is left to do")
    return outcomes


def refuse_several_devices(gpu: str | None) -> None:
    """Raise ``UserError`` where several processes would train."""
    # Lightning comes with it: once the configuration is known to be right
    from usd.app.devices import choose_devices, count_processes

    if count_processes(choose_devices(gpu)[1]) > 1:
        raise UserError(f"--gpu {gpu}: stages run on one device; run them one by one to use several for each")


def _perform(plan: Plan, wanted: Record, gpu: str | None, argv: Sequence[str]) -> tuple[Outcome, Record]:
    """One stage: skipped, resumed or run from the start."""
    there = read_record(plan.trial.folder)
    if there is None and plan.trial.last.is_file():
        say(f"stage {plan.name}: a trial without stage.json is in its place; it is now {set_aside(plan)}")
    elif there is not None and not same(there, wanted):
        say(f"stage {plan.name}: {changes(there, wanted)}; made again, the old one is now {set_aside(plan)}")
        there = None
    if there is not None and is_done(plan, there):
        say(f"stage {plan.name}: done ({short_path(plan.trial.folder)})")
        return Outcome(plan.trial, there.step, tuple(Path(file) for file in there.files)), there
    resumed = plan.mode == "train" and there is not None and plan.trial.last.is_file()
    say(f"stage {plan.name}: {'going on' if resumed else 'starting'}")
    before, began = there.minutes if there else 0.0, time.monotonic()
    begun = replace(wanted, step=there.step if there and resumed else 0, minutes=before)
    try:
        with trial_folder(plan.experiment):
            write_record(plan.trial.folder, begun)
            outcome = _executed(plan, resumed, gpu, argv)
    except KeyboardInterrupt:
        write_record(plan.trial.folder, replace(begun, minutes=before + (time.monotonic() - began) / 60))
        raise
    done = replace(
        begun,
        step=outcome.step,
        done=True,
        files=tuple(str(file) for file in outcome.files),
        minutes=before + (time.monotonic() - began) / 60,
    )
    write_record(plan.trial.folder, done)
    return outcome, done


@contextlib.contextmanager
def _named_errors(plan: Plan) -> Iterator[None]:
    """Errors inside name the stage."""
    try:
        yield
    except UserError as error:
        raise UserError(f"stage {plan.name}: {error}") from error


def _executed(plan: Plan, resumed: bool, gpu: str | None, argv: Sequence[str]) -> Outcome:
    from usd.app.modes import execute

    experiment = replace(plan.experiment, resume=plan.trial.last) if resumed else plan.experiment
    try:
        with _named_errors(plan):
            return execute(plan.mode, experiment, plan.raw, gpu, argv, plan.changes)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f" in stage {plan.name}; the same command goes on from there") from stop
    finally:
        gc.collect()  # the models of this stage, before those of the next


def is_done(plan: Plan, record: Record) -> bool:
    """Return whether a stage is finished and all that it made is still there."""
    if plan.mode != "train":
        return record.done and all(Path(file).exists() for file in record.files)
    return record.done and record.step >= plan.steps and plan.trial.last.is_file()


def same(there: Record, wanted: Record) -> bool:
    """Return whether a stage was made, or begun, as it is wanted now."""
    return (there.settings, there.inputs) == (wanted.settings, wanted.inputs)


def changes(there: Record, wanted: Record) -> str:
    """Why a stage is made again."""
    then, now = (dict(loading.leaf_values(record.settings)) for record in (there, wanted))
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"{key} is {now.get(key)}, but was {then.get(key)}{more}"
    others = [name for name, digest in wanted.inputs.items() if there.inputs.get(name) != digest]
    return f"stage {', '.join(others)}, which it stands on, was made again"


def set_aside(plan: Plan) -> str:
    """Rename a stage's folder; return where it is now. Raises ``UserError`` where a run is at work in it."""
    with alone_in(plan.trial.folder):
        return short_path(files.set_aside(plan.trial.folder))


def read_record(folder: Path) -> Record | None:
    """Return the record in a folder; None where there is none that can be read."""
    content = files.read_record(folder / "stage.json") or {}
    settings, inputs, made = (content.get(key) for key in ("settings", "inputs", "files"))
    step, minutes = content.get("step"), content.get("minutes", 0.0)
    if not isinstance(settings, dict) or not isinstance(inputs, dict) or not isinstance(made, list):
        return None
    if not isinstance(step, int) or not isinstance(minutes, int | float):
        return None
    done = content.get("done") is True
    return Record(settings, inputs, step, done, tuple(map(str, made)), float(minutes))


def write_record(folder: Path, record: Record) -> None:
    """Written whole or not at all. Raises ``UserError`` where that is not possible."""
    files.write_record(folder / "stage.json", asdict(record))


# --------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Run:
    """A configuration with stages, without the stages themselves. Its stages' trial folders are in ``folder``."""

    name: str = option("default", "folder of this family of runs")
    tag: str = option("", "folder of this run")
    exp_root_dir: Path = option(
        "outputs", "folder of all runs; a relative path means the working directory", path="output"
    )

    @property
    def folder(self) -> Path:
        """Return the folder of the run."""
        return self.exp_root_dir / folder_of("name", self.name) / folder_of("tag", self.tag)


@dataclass(frozen=True)
class Written:
    """One stage as the files and the command line describe it."""

    name: str
    contents: tuple[Content, ...]
    overrides: tuple[str, ...]

    def own(self, key: str) -> object:
        """Return the stage's ``base``, ``mode`` or ``of``; a later file wins, None where no file sets it."""
        said = [content[key] for content, _ in self.contents if key in content]
        return said[-1] if said else None

    def bases(self) -> list[Content]:
        """Return the configurations that the stage starts from."""
        found: list[Content] = []
        for content, folder in self.contents:
            names = loading.base_names(content.get("base"), "base")
            found = [item for name in names for item in loading.chain(folder / name)] or found
        return found

    def settings(self) -> list[Content]:
        """Return the keys that the stage has of its own."""
        return [
            ({k: v for k, v in content.items() if k not in OWN_KEYS}, at) for content, at in self.contents
        ]


def plans(configs: Sequence["str | Path"], overrides: Sequence[str] = ()) -> list[Plan]:
    """Every stage of a configuration, parsed. Raises ``ConfigError`` that names the stage."""
    contents = [content for file in configs for content in loading.chain(file)]
    shared: list[Content] = [({k: v for k, v in said.items() if k != KEY}, at) for said, at in contents]
    to_all = [text for text in overrides if not text.startswith(f"{KEY}.")]
    stages = written(contents, overrides)
    layers: dict[str, list[Content]] = {}
    typed: dict[str, list[str]] = {}
    for stage in stages:
        with _named(stage):
            of = _known(stage.own("of"), layers, "of")
            below = layers[of] if of else [*stage.bases(), *shared]
            layers[stage.name] = [*below, *stage.settings()]
            typed[stage.name] = [*(typed[of] if of else to_all), *stage.overrides]
    run = _run(loading.merge(contents, overrides, _RunReader(layers, typed)))
    found: dict[str, Plan] = {}
    for stage in stages:
        with _named(stage):
            found[stage.name] = _plan(stage, layers[stage.name], typed[stage.name], found, run)
    return list(found.values())


@contextlib.contextmanager
def _named(stage: Written) -> Iterator[None]:
    """Errors inside name the stage."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{KEY}.{stage.name}: {error}") from error


class _RunReader(OverrideReader):
    """Reads what is typed for a whole run, whose ``tag`` may use it, as the stage reads it that has such an option."""

    def __init__(self, layers: Mapping[str, Sequence[Content]], typed: Mapping[str, Sequence[str]]) -> None:
        self._reader = reader()
        self._said = {
            name: loading.merge(
                contents, [text for text in typed[name] if _names_type(text)], reader()
            ).plain()
            for name, contents in layers.items()
        }

    @override
    def value(self, key: str, text: str, merged: Mapping[str, object]) -> object:
        name, _, own = key.removeprefix(f"{KEY}.").partition(".")
        asked = [(name, own)] if key.startswith(f"{KEY}.") else [(stage, key) for stage in self._said]
        hints = [
            self._reader.type_of(k, self._said[stage]) for stage, k in asked if k and stage in self._said
        ]
        return typed_value(key, text, next((hint for hint in hints if hint is not None), None))


def _names_type(override: str) -> bool:
    return override.partition("=")[0].endswith("_type")


def written(contents: Sequence[Content], overrides: Sequence[str]) -> list[Written]:
    """Return the stages in order of first mention, without those that are null."""
    said = [(_stages_of(content), at) for content, at in contents]
    names = list(dict.fromkeys(str(name) for stages, _ in said for name in stages))
    _refuse_no_folders(names)
    by_hand: dict[str, list[str]] = {name: [] for name in names}
    dropped = {name for stages, _ in said for name in stages if stages[name] is None}
    for text in overrides:
        if not text.startswith(f"{KEY}."):
            continue
        name, _, rest = text.removeprefix(f"{KEY}.").partition("=")[0].partition(".")
        if name not in by_hand:
            raise ConfigError(
                f"{KEY}.{name}: no such stage; there is {', '.join(names)}.{did_you_mean(name, names)}"
            )
        if not rest and text.endswith("=null"):
            dropped.add(name)
        elif not rest or rest in OWN_KEYS:
            raise ConfigError(f"{text}: can only be set in a file; expected {KEY}.{name}.<key>=<value>")
        by_hand[name].append(text.removeprefix(f"{KEY}.{name}."))
    return [
        Written(name, tuple((own, at) for s, at in said if (own := s.get(name))), tuple(by_hand[name]))
        for name in names
        if name not in dropped
    ]


def _stages_of(content: Mapping[str, object]) -> Mapping[str, Mapping[str, object] | None]:
    """Return the stages of a file. Raises ``ConfigError`` for what are none."""
    stages = content.get(KEY) or {}
    if not isinstance(stages, Mapping):
        raise ConfigError(f"{KEY}: expected a mapping from names to stages, got {stages!r}")
    for name, stage in stages.items():
        if not isinstance(stage, Mapping | None):
            raise ConfigError(f"{KEY}.{name}: expected a mapping of keys, got {stage!r}")
    return stages


def _refuse_no_folders(names: Sequence[str]) -> None:
    """Raise ``ConfigError`` for names of stages that are not names of folders, or of one folder."""
    known: dict[str, str] = {}
    for name in names:
        folder = folder_of(f"{KEY}.{name}", name)
        if folder in known:
            raise ConfigError(
                f"{KEY}.{name}: its folder is that of the stage '{known[folder]}'; expected another name"
            )
        known[folder] = name


def _run(shared: MergedConfig) -> Run:
    for key in ("resume", "use_timestamp"):
        if shared.config.get(key):
            raise ConfigError(f"{key}: not with stages; such a run is known by its tag and resumes by itself")
    said: dict[str, Any] = {}
    try:
        for key in sorted(OmegaConf.missing_keys(shared.config)):
            raise ConfigError(f"{key}: required but not given; pass {key}=<value>")
        for key in ("name", "tag", "exp_root_dir"):
            said |= {key: value} if (value := OmegaConf.select(shared.config, key)) is not None else {}
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {str(error.msg or error).splitlines()[0]}") from error
    run: Run = parse(Run, said, "", shared.origins)
    if not folder_name(run.tag):
        raise ConfigError("tag: required with stages; pass tag=<name of this run>")
    return run


def _plan(
    stage: Written, contents: Sequence[Content], typed: Sequence[str], found: Mapping[str, Plan], run: Run
) -> Plan:
    """Return a stage's plan. Overrides of all stages follow its own layers, overrides of it alone come last."""
    mode = cast(Mode, stage.own("mode") or "train")
    if mode not in get_args(Mode):
        raise ConfigError(f"mode: '{mode}' is not a choice; expected one of {', '.join(get_args(Mode))}")
    of = cast(str | None, stage.own("of"))
    if (mode == "train") == bool(of):
        wanted = "nothing to train `of`" if of else f"`of`, the stage to {mode}"
        raise ConfigError(f"of: expected {wanted}")
    used: list[str] = [of] if of else []
    filled = [(cast(dict[str, object], _filled(content, found, used, "")), at) for content, at in contents]
    place = {"exp_root_dir": str(run.folder.parent), "name": run.folder.name, "tag": stage.name}
    last = {"resume": str(found[of].trial.last)} if of else {}
    merged = merge_contents(filled, typed, {**place, **last, "use_timestamp": False})
    experiment = merged.experiment()
    if mode == "train" and not experiment.checkpoint.save_last:
        raise ConfigError("checkpoint.save_last: is false; expected true: resuming and later stages need it")
    used = list(dict.fromkeys(used))
    notes = (*merged.notes, *merged.remarks(experiment))
    return Plan(stage.name, mode, experiment, merged.loaded.config, tuple(used), notes, merged.changes)


def _filled(value: object, found: Mapping[str, Plan], used: list[str], key: str) -> object:
    """``value`` with what ``${stage:...}`` stands for; the names of those stages are added to ``used``."""
    if isinstance(value, Mapping):
        return {k: _filled(v, found, used, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(item, found, used, key) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> object:
        name, what = _known(match[1].strip(), found, key), (match[2] or "checkpoint").strip()
        assert name is not None
        if "." in what:
            return _setting(found[name], what, key)
        used.append(name)
        return _result(found[name], what, key)

    whole = REFERENCE.fullmatch(value)
    return replaced(whole) if whole else REFERENCE.sub(lambda match: str(replaced(match)), value)


def _known(name: object, found: Collection[str], key: str) -> str | None:
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{key}: expected the name of an earlier stage, got {name!r}")
    if name is not None and name not in found:
        raise ConfigError(f"{key}: no earlier stage is called '{name}'.{did_you_mean(name, found)}")
    return name


def _result(plan: Plan, what: str, key: str) -> str:
    trial = plan.trial
    known = {"checkpoint": trial.last, "folder": trial.folder, "save": trial.save, "step": plan.steps}
    if what not in known:
        raise ConfigError(f"{key}: a stage has no '{what}'; expected {', '.join(known)}")
    return str(loading.literal(str(known[what])))


def _setting(plan: Plan, path: str, key: str) -> object:
    """Return the value of another stage's option. It is part of the asking stage's settings, so no input of it."""
    value: object = plain(plan.experiment)
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise ConfigError(f"{key}: stage '{plan.name}' has no option '{path}'")
        value = value[name]
    return value
