"""The command ``usd``: what it answers, what it refuses, and that it hands runs to the launcher's code."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import usd
from usd.app import commands, completion, launcher
from usd.core import places, registry


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Every command is given in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(monkeypatch):
    """What would be run, instead of running it."""
    seen: list[tuple] = []
    monkeypatch.setattr(launcher, "run_mode", lambda *given: seen.append(given))
    return seen


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"usd {usd.__version__}\n"


def test_a_bare_name_and_overrides_go_to_the_launcher(runs):
    assert commands.main(["train", "usd-patch-mini", "8gb", "tag=a", "--gpu", "cpu", "seed=3"]) == 0
    ((mode, configs, overrides, gpu, command),) = runs
    assert (mode, gpu, overrides) == ("train", "cpu", ["tag=a", "seed=3"])
    assert configs == [places.recipes()["usd-patch-mini"], places.recipes()["8gb"]]
    assert command[1:4] == ["-m", "usd", "train"]


def test_the_folder_of_a_trial_stands_for_its_configuration_and_checkpoint(runs):
    Path("trial/configs").mkdir(parents=True)
    place = f"exp_root_dir: {Path.cwd().parent}\nname: {Path.cwd().name}\ntag: trial\n"
    Path("trial/configs/parsed.yaml").write_text(place)
    assert commands.main(["export", "trial", "exporter.fmt=obj"]) == 0
    assert runs[0][1] == [Path("trial/configs/parsed.yaml")]
    assert runs[0][2] == ["resume='trial/ckpts/last.ckpt'", "exporter.fmt=obj"]


MISTAKES = {
    ("trian",): "trian: no such command. Did you mean 'train'? See usd --help.",
    ("train", "usd-pach-mini"): "Did you mean 'usd-patch-mini'?",
    ("train", "none.yaml"): "none.yaml: no such configuration",
    (
        "export",
        "nowhere",
    ): "nowhere: no such configuration; expected a trial's folder, a YAML file or one of ",
    ("export", "."): ".: has no configs/parsed.yaml; expected a trial's folder or a YAML file",
    ("train", "--config", "usd-patch-mini"): "--config: is launch.py's; a configuration is named without it: "
    "usd train CONFIG key=value",
    ("train", "usd-patch-mini", "--gpuu", "0"): "--gpuu: unknown option. Did you mean 'gpu'? See --help.",
    ("train", "usd-patch-mini", "system.guidnce=1"): "system.guidnce: unknown key. Did you mean 'guidance'?",
    ("describe", "sky-backgroud"): "Did you mean 'sky-background'?",
    ("list", "--all"): "--all: not expected here. See usd list --help.",
    ("new", "guidence", "steady"): "Did you mean 'guidance'?",
    ("new", "guidance", "../steady"): "../steady: no name of a guidance",
    ("new", "guidance", "csd"): "csd-guidance: there is such a guidance already",
}


@pytest.mark.parametrize("argv", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_with_the_nearest_thing_that_exists(argv, tmp_path, capsys):
    assert commands.main(argv) == 2
    errors = capsys.readouterr().err
    assert MISTAKES[argv] in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is made for a mistake"


def test_the_list_names_components_and_configurations(capsys):
    assert commands.main(["list"]) == 0
    text = capsys.readouterr().out
    assert "  usd-guidance " in text and f"  usd-patch-mini {'':<13}" in text


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_new_component_is_found_described_and_configured_at_once(kind, capsys):
    assert commands.main(["new", kind, "My-Thing"]) == 0
    said = capsys.readouterr().out
    name = said.split("_type=")[1].split(".")[0]
    file = Path("custom", kind, "my_thing.py")
    assert said.startswith(f"wrote {file}: {kind}_type={name}. ")
    assert registry.names(kind)[name] == file.absolute()
    assert registry.find(kind, name).__module__ == f"custom.{kind}.my_thing"
    assert commands.main(["describe", name]) == 0
    assert capsys.readouterr().out.startswith(f"{kind}_type: {name}\nWhat `{kind}_type: {name}` means.")
    assert commands.main(["new", kind, "my_thing"]) == 2, "what is there is not written over"


def test_a_sub_command_with_options_of_its_own_gets_them(monkeypatch):
    seen = []
    monkeypatch.setattr("usd.denoiser.convert.main", lambda argv: seen.append(argv) or 3)
    assert commands.main(["convert", "model", "a", "b", "--half"]) == 3
    assert seen == [["a", "b", "--half"]]


def test_every_program_has_a_main_that_takes_arguments():
    for program in commands.PROGRAMS.values():
        module = __import__(program.module, fromlist=["main"])
        assert len(inspect.signature(module.main).parameters) == 1


def test_completion_knows_commands_options_and_configurations():
    words = completion.subcommands(commands.parser())
    assert {"train", "export", "demo-full", "convert", "new"} <= set(words)
    assert {"--gpu", "usd-patch-mini", "8gb"} <= set(words["train"][1])
    assert "guidance" in words["new"][1] and "views" in words["convert"][1]
    fish = completion.script("fish", commands.parser())
    assert "complete -c usd -n __fish_use_subcommand -a train -d 'make an object" in fish


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("line", "found"), [("tr", ["train"]), ("train usd-full-m", ["usd-full-mini"])])
def test_bash_completes(tmp_path, line, found):
    (tmp_path / "usd.sh").write_text(completion.script("bash", commands.parser()))
    words = ["usd", *line.split()]
    asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _usd; echo ${{COMPREPLY[@]}}"
    out = subprocess.run(
        ["bash", "-c", f". ./usd.sh; {asked}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == found


def test_python_m_usd_is_the_command_and_answers_without_torch(tmp_path):
    script = (
        "import runpy, sys; sys.argv = ['usd', 'train', 'usd-pach-mini']\n"
        "try: runpy.run_module('usd', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(places.PACKAGE.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout == "2 False\n"
