"""Runs: measured once, forgotten when anything about them changed, and continued where they were cut off."""

from pathlib import Path

import pytest

from benchmarks import image_to_3d, runs, tables
from usd.core.errors import UserError
from usd.toybox.objects import make_toy


def test_figures_are_measured_once_for_a_subject_and_its_settings(tmp_path: Path) -> None:
    ledger, calls = runs.Ledger(tmp_path), []

    def measure() -> tables.Figures:
        calls.append(1)
        return {"psnr": 20.0 + len(calls), "curve": [1.0, 2.0]}

    first = ledger.figures("a", {"scale": 2.0}, measure)
    assert ledger.figures("a", {"scale": 2.0}, measure) == first == {"psnr": 21.0, "curve": [1.0, 2.0]}
    assert ledger.figures("a", {"scale": 3.0}, measure)["psnr"] == 22.0
    assert ledger.figures("b", {"scale": 2.0}, measure)["psnr"] == 23.0
    assert len(calls) == 3


def test_a_measurement_that_was_cut_off_leaves_nothing(tmp_path: Path) -> None:
    ledger = runs.Ledger(tmp_path)

    def broken() -> tables.Figures:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.figures("a", {}, broken)
    assert ledger.known("a", {}) is None


@pytest.fixture
def launcher(monkeypatch):
    """Stands in for launch.py: what it was told, and a trial with a checkpoint and test views."""
    calls: list[list[str]] = []

    def start(argv: list[str], log: Path) -> int:
        calls.append(argv)
        said = dict(word.split("=", 1) for word in argv if "=" in word)
        trial = Path(said["exp_root_dir"]) / said["name"] / said["tag"]
        (trial / "ckpts").mkdir(parents=True, exist_ok=True)
        (trial / "ckpts" / "last.ckpt").touch()
        if "fail=yes" not in argv:
            (trial / "save" / f"it{len(calls)}-test").mkdir(parents=True)
        return int("fail=yes" in argv)

    monkeypatch.setattr(runs, "start", start)
    return calls


def resumed(command: list[str]) -> bool:
    return any(word.startswith("resume=") for word in command)


def test_a_run_that_was_cut_off_goes_on_and_any_other_begins_anew(launcher, tmp_path: Path) -> None:
    config, trial = tmp_path / "a.yaml", tmp_path / "trials" / "x"
    config.write_text("name: a")
    launch = runs.Launch(trial, (config,), ("k=1",))
    assert launch.trained({"model": "old"}).name == "it1-test"
    launch.trained({"model": "old"})
    assert [resumed(command) for command in launcher] == [False, True]

    assert launch.trained({"model": "new"}).name == "it3-test"
    assert not resumed(launcher[-1])
    assert [views.name for views in trial.glob("save/*")] == ["it3-test"], (
        "nothing of the older model is left"
    )
    config.write_text("name: b")
    launch.trained({"model": "new"})
    runs.Launch(trial, (config,), ("k=2",)).trained({"model": "new"})
    assert [resumed(command) for command in launcher[-2:]] == [False, False]


def test_what_a_run_says_is_in_its_log_and_how_it_ended_is_known(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    assert runs.start(["--describe", "no-such-thing"], log) == 2
    said = log.read_text()
    assert said.startswith("before\n") and "error: " in said and "no-such-thing" in said
    once = runs.Launch(tmp_path, (), ()).times
    assert once["minutes"] > 0 and once["cpu_minutes"] > 0
    assert runs.start(["--list"], log) == 0
    assert "usd-guidance" in log.read_text()
    twice = runs.Launch(tmp_path, (), ()).times
    assert twice["minutes"] > once["minutes"] and twice["cpu_minutes"] > once["cpu_minutes"]
    assert twice["gib"] >= once["gib"] > 0


def test_a_failed_run_names_its_log_and_the_others_go_on(launcher, tmp_path: Path, capsys) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("name: a")
    done = []

    def perform(job: str) -> None:
        runs.Launch(tmp_path / "trials" / job, (config,), (f"fail={job}",)).trained({})
        done.append(job)

    assert not runs.benchmark(["no", "yes", "never"], 3, tmp_path / "out", perform, lambda: "the table")
    assert done == ["no", "never"]
    assert (
        f"failed: {tmp_path}/trials/yes: the run failed; see {tmp_path}/trials/yes/log.txt"
        in capsys.readouterr().out
    )
    assert runs.benchmark([], 3, tmp_path / "out", perform, lambda: "the table")


def test_a_recipe_changes_with_all_that_it_stands_on(tmp_path: Path) -> None:
    for name, text in {"base": "k: 1", "leaf": "base: base.yaml", "stage": "k: 3"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    whole = tmp_path / "whole.yaml"
    whole.write_text("stages:\n  one:\n    base: [leaf.yaml, stage.yaml]\n  two: {mode: export}")
    before = runs.recipe(whole), runs.recipe(tmp_path / "leaf.yaml")
    assert before == (runs.recipe(whole), runs.recipe(tmp_path / "leaf.yaml"))
    (tmp_path / "stage.yaml").write_text("k: 4")
    assert runs.recipe(whole) != before[0] and runs.recipe(tmp_path / "leaf.yaml") == before[1]
    (tmp_path / "base.yaml").write_text("k: 2")
    assert runs.recipe(tmp_path / "leaf.yaml") != before[1]


def test_words_for_the_launcher_are_checked() -> None:
    assert runs.key_values(["a.b=1", "c=d=e"]) == ("a.b=1", "c=d=e")
    for word in ("--objets=3", "nonsense"):
        with pytest.raises(UserError, match=f"{word}: expected a flag of this command, or key=value"):
            runs.key_values([word])


def test_devices_are_named_as_the_launcher_names_them() -> None:
    assert [runs.gpu_flag(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "0", "1"]


def test_commands_say_how_they_went(capsys) -> None:
    def bad() -> None:
        raise UserError("x: is 1; expected 2")

    assert [runs.command(main) for main in (lambda: True, lambda: None, lambda: False, bad)] == [0, 0, 1, 2]
    assert capsys.readouterr().err == "error: x: is 1; expected 2\n"


def test_a_method_that_is_told_otherwise_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("name: a")
    bench = image_to_3d.PictureBench((1,), ("sds",), config, tmp_path, None, ("k=1",))
    before = bench.settings("sds")
    assert before["overrides"] == [*image_to_3d.METHODS["sds"], "k=1"]
    monkeypatch.setitem(image_to_3d.METHODS, "sds", ["system.guidance.guidance_scale=3"])
    assert bench.settings("sds") != before


def test_toys_of_each_category_are_the_first_of_their_kind_in_the_order_of_seeds() -> None:
    found = runs.seeds_by_category(1, 2_000_000)
    named = [make_toy(seed).category for seed in found]
    assert len(set(named)) == len(named) == 23 and list(found) == sorted(found)
    assert all(make_toy(seed).category != "dog" for seed in range(2_000_000, found[named.index("dog")]))
