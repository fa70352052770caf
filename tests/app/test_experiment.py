"""The folder of a trial: nobody else's, inside its family's, whole when it is read again."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import launch
from usd.app import experiment as experiments
from usd.app.experiment import folder_name, load_experiment, merge_contents, trial_folder, trial_of
from usd.app.stages import KEY
from usd.core import files, loading, places
from usd.core.errors import ConfigError, UserError

CUSTOM = Path(__file__).parents[1] / "core" / "custom"
TINY = str(CUSTOM / "tiny.yaml")


@pytest.fixture(autouse=True)
def _tiny_components(monkeypatch):
    monkeypatch.setenv("USD_CUSTOM", str(CUSTOM))


@pytest.fixture
def tiny(tmp_path):
    return load_experiment([TINY], [f"exp_root_dir={tmp_path}", "trainer.max_steps=2"])


@pytest.fixture
def timed(tiny):
    return replace(tiny[0], use_timestamp=True, timestamp="@20260101-000000")


def run(tmp_path: Path, *argv: str) -> int:
    return launch.main(["--config", TINY, f"exp_root_dir={tmp_path}", "trainer.max_steps=2", *argv])


def last_line(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


# ---------------------------------------------------------------------------------------------------- nobody else's


def test_two_runs_of_one_second_have_two_folders(timed):
    with (
        trial_folder(timed, is_new=True, alone=True) as (first, one),
        trial_folder(timed, is_new=True, alone=True) as (second, two),
    ):
        assert one.folder.name == "run@20260101-000000" and two.folder.name == "run@20260101-000000-2"
        assert trial_of(first) == one and trial_of(second) == two


def test_a_mistake_takes_only_the_run_s_own_new_folder_away(timed, tmp_path):
    with trial_folder(timed, is_new=True, alone=True) as (_, one):
        with pytest.raises(UserError), trial_folder(timed, is_new=True, alone=True):
            raise UserError("a mistake")
        assert one.ckpts.is_dir() and os.listdir(one.folder.parent) == [one.folder.name]
    with pytest.raises(UserError), trial_folder(replace(timed, name="other"), is_new=True, alone=True):
        raise UserError("a mistake")
    assert os.listdir(tmp_path) == ["tiny"]


def test_a_training_in_a_folder_in_use_is_told_so_and_leaves_it_alone(tiny, tmp_path, capsys):
    with trial_folder(tiny[0], alone=True) as (_, trial):
        assert run(tmp_path, "--train") == 2
        told = last_line(capsys)
        assert told.startswith(f"error: {trial.folder}: in use by process {os.getpid()} on ")
        assert told.endswith("; wait for it, end it, or choose another folder")
        assert trial.ckpts.is_dir()
    assert run(tmp_path, "--train") == 0


def test_looking_at_a_checkpoint_goes_on_beside_a_training(tiny, tmp_path):
    assert run(tmp_path, "--train", "trainer.test_after_fit=false") == 0
    with trial_folder(tiny[0], alone=True) as (_, trial):
        assert run(tmp_path, "--test", f"resume={trial.last}") == 0
        assert run(tmp_path, "--export", f"resume={trial.last}") == 0


def test_a_process_that_joins_a_training_uses_its_folder(timed, monkeypatch):
    with trial_folder(timed, is_new=True, alone=True) as (_, trial):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with trial_folder(timed, is_new=True, alone=True) as (_, same):
            assert same == trial


def test_a_staged_run_in_a_folder_in_use_is_told_so(tmp_path, capsys):
    said = {"name": "both", "tag": "run", "exp_root_dir": str(tmp_path), "stages": {"first": {"base": TINY}}}
    (tmp_path / "staged.yaml").write_text(yaml.safe_dump(said))
    with experiments.alone_in(tmp_path / "both" / "run"):
        assert launch.main(["--config", str(tmp_path / "staged.yaml"), "--train"]) == 2
    assert f"{tmp_path / 'both' / 'run'}: in use by process" in last_line(capsys)


# ----------------------------------------------------------------------------------------------------- inside its own

STRANGE = [
    "..",
    ".",
    "",
    "../../x",
    "/etc",
    "a/../../..",
    "..\\..",
    "\0",
    "x\0y",
    "~",
    "-",
    "ä" * 300,
    "a\nb",
    " . ",
]


@pytest.mark.parametrize("key", ["name", "tag", "timestamp"])
@pytest.mark.parametrize("text", STRANGE, ids=ascii)
def test_no_name_leads_out_of_its_folder(tiny, tmp_path, key, text):
    changed = replace(tiny[0], **{key: text}, use_timestamp=key == "timestamp")
    if not folder_name(changed.tag if key == "timestamp" else text):
        with pytest.raises(ConfigError, match=f"{key}: .* is no name of a folder"):
            trial_of(changed)
        return
    folder = trial_of(changed).folder
    assert folder.parent.parent == tmp_path and folder.resolve() == folder
    assert all(0 < len(os.fsencode(part)) <= 255 for part in (folder.name, folder.parent.name))


def test_a_name_that_is_none_is_one_line_and_makes_nothing(tmp_path, capsys):
    assert run(tmp_path, "--train", "tag=..") == 2
    assert last_line(capsys) == "error: tag: '..' is no name of a folder; expected letters or digits in it"
    assert not os.listdir(tmp_path)


def test_links_inside_a_trial_are_not_written_through(tmp_path, capsys):
    assert run(tmp_path, "--train") == 0
    trial, precious = tmp_path / "tiny" / "run", tmp_path / "precious"
    for name in ("configs/parsed.yaml", "configs/raw.yaml", "cmd.txt", "ckpts/last.ckpt", ".lock"):
        (precious / name).parent.mkdir(parents=True, exist_ok=True)
        (precious / name).write_text("precious")
        (trial / name).unlink()
        (trial / name).symlink_to(precious / name)
    assert run(tmp_path, "--train") == 0
    assert {path.read_text() for path in precious.rglob("*") if path.is_file()} == {"precious"}
    assert not [path for path in trial.rglob("*") if path.is_symlink()]
    shutil.rmtree(trial / "save")
    (trial / "save").symlink_to(precious)
    before = sorted(precious.rglob("*"))
    assert run(tmp_path, "--train") == 2
    assert f"{trial / 'save'}: is a link to {precious}; expected a folder" in last_line(capsys)
    assert sorted(precious.rglob("*")) == before


# ----------------------------------------------------------------------------------------------------------- whole


def test_a_snapshot_that_is_cut_off_anywhere_is_refused(tiny):
    experiment, raw = tiny
    with trial_folder(experiment) as (_, trial):
        experiments.snapshot(trial, experiment, raw)
    for file in (trial.configs / "parsed.yaml", trial.configs / "raw.yaml"):
        text = file.read_text()
        whole = loading.chain(file)
        for cut in range(len(text)):
            file.write_text(text[:cut])
            if cut >= len(text.rstrip()):
                assert loading.chain(file) == whole
                continue
            with pytest.raises(ConfigError, match=r"is cut off; expected '# end'|expected a mapping of keys"):
                loading.chain(file)


def test_a_snapshot_may_be_edited_by_hand_and_one_of_0_1_0_is_read(tiny):
    with trial_folder(tiny[0]) as (_, trial):
        experiments.snapshot(trial, *tiny)
    file = trial.configs / "parsed.yaml"
    file.write_text(file.read_text().replace("max_steps: 2", "max_steps: 7"))
    assert load_experiment([file])[0].trainer.max_steps == 7
    file.write_text("\n".join(file.read_text().splitlines()[1:-1]))
    assert load_experiment([file])[0].trainer.max_steps == 7


def test_a_run_that_is_killed_while_it_writes_its_snapshot_leaves_the_old_one(tiny, monkeypatch):
    with trial_folder(tiny[0]) as (_, trial):
        experiments.snapshot(trial, *tiny)
        before = {path: path.read_text() for path in trial.folder.rglob("*") if path.is_file()}
        monkeypatch.setattr(os, "replace", lambda *paths: os._exit(9))
        child = os.fork()
        if not child:
            experiments.snapshot(trial, replace(tiny[0], seed=99), tiny[1])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        monkeypatch.undo()
    left = {path: path.read_text() for path in trial.folder.rglob("*") if path.is_file()}
    assert {path: text for path, text in left.items() if ".partial" not in path.name} == before
    assert len(left) == len(before) + 1
    with trial_folder(tiny[0]):
        assert not list(trial.folder.rglob("*.partial*"))


def test_partial_files_of_a_killed_run_are_cleared_by_the_next(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    trial = tmp_path / "tiny" / "run"
    left = [
        trial / "ckpts" / f".last.ckpt.{gone.pid}.partial",
        trial / "save" / "x" / f".1.png.{gone.pid}-3.partial.png",
    ]
    for path in left:
        path.parent.mkdir(parents=True)
        path.touch()
    assert files.PARTIAL.fullmatch(left[0].name)
    assert run(tmp_path, "--train") == 0
    assert not [path for path in left if path.exists()]


def test_weights_that_become_not_finite_end_the_run_and_the_last_good_checkpoint_stays(
    tmp_path, capsys, monkeypatch
):
    from usd.system import System

    before = System.on_train_batch_start

    def poisoned(self: System, index: int) -> None:
        before(self, index)
        if self.global_step == 7:
            next(self.parameters()).data.fill_(float("nan"))
            monkeypatch.setattr(type(self), "training_step", lambda *args: None)

    monkeypatch.setattr(System, "on_train_batch_start", poisoned)
    assert run(tmp_path, "--train", "trainer.max_steps=10") == 2
    told = last_line(capsys)
    assert "of 3 weights of 'geometry.network.weight' are not finite, so" in told and "is not written" in told
    from usd.core import checkpoint

    assert checkpoint.load(tmp_path / "tiny" / "run" / "ckpts" / "last.ckpt")["global_step"] == 5


@pytest.mark.parametrize("recipe", list(places.recipes().values()), ids=list(places.recipes()))
def test_every_recipe_takes_options_of_its_exporter(recipe):
    """Also one that names none: then they are those of the default one."""
    contents = loading.chain(recipe)
    if any(content.get(KEY) for content, _ in contents) or recipe.parent.name == "presets":
        return  # its stages are recipes themselves; part of a recipe
    asked = sorted(OmegaConf.missing_keys(loading.merge(contents).config))
    given = [*(f"{key}=mesh:x" for key in asked), "exporter.save_name=mine"]
    assert merge_contents(contents, given).experiment().exporter.config.save_name == "mine"


def test_no_exporter_is_the_default_one(tmp_path):
    """As a trial's parsed.yaml of an earlier version says."""
    contents = [*loading.chain(TINY), ({"exporter_type": None}, tmp_path)]
    exporter = merge_contents(contents, ["system.exporter.fmt=ply"]).experiment().exporter
    assert exporter.name == "mesh-exporter" and exporter.config.fmt == "ply"
