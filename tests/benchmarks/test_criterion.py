"""The criterion against sampling: end to end with the analytic models, damage to real networks, and its tables."""

from pathlib import Path

import pytest
import torch

from benchmarks.claims import criterion, fine_tunings
from benchmarks.claims.criterion import Outcome, Setting, agreement, damaged, joined, predicted_gain
from tests.conftest import TinyModels
from usd.core.errors import UserError
from usd.denoiser import open_text_denoiser
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser

CPU = torch.device("cpu")
ANALYTIC = ["--zero123", "gaussian", "--stable-diffusion", "gaussian", "--objects", "3", "--steps", "3"]


def outcome(gains: list[float], shared: float, mixed: float | None = None) -> Outcome:
    """Toys with these measured gains; an own prediction twice as wrong as the base's, which shares so much."""
    one = (
        torch.tensor([[1.0, shared, 0.0], [shared, 4.0, 0.0], [0.0, 0.0, 1.0]])
        .expand(2, 3, 3)
        .flatten()
        .tolist()
    )
    seeds = [str(i) for i in range(len(gains))]
    figures = {"psnr": 20.0, "ssim": 0.8, "sharpness": 0.2}
    sampled = {}
    for scale in criterion.SCALES:
        sampled["plain", scale] = {seed: dict(figures) for seed in seeds}
        for way, values in (("rectified", gains), ("mixed", [mixed or 0.0] * len(gains))):
            sampled[way, scale] = {
                seed: {**figures, "psnr": 20.0 + g} for seed, g in zip(seeds, values, strict=True)
            }
    return Outcome("some", {seed: {"moments": one} for seed in seeds}, sampled, {})


def test_models_that_are_the_same_gain_nothing_and_a_second_call_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [
        *ANALYTIC,
        "--only",
        "shipped",
        "--mixed",
        "shipped",
        "--estimate",
        "shipped",
        "--out",
        str(tmp_path),
    ]
    said = criterion.run(criterion.arguments(given))
    assert (
        said.count("+0.00 ± 0.00, smaller than the noise") == 8
    )  # predicted, measured, mixed against both; twice
    assert "| shipped | 3 | 0 of 3 | 3 of 3 | 3 of 3 | 3 of 3 | 3 of 3 |" in said
    assert (tmp_path / "chart.png").is_file()

    def never(*given: object) -> None:
        raise AssertionError("measured again")

    for name in ("moments_of", "estimates_of", "scores_of"):
        monkeypatch.setattr(criterion, name, never)
    assert criterion.run(criterion.arguments(given)) == said


def test_damage_is_of_the_size_that_was_asked_for_and_always_the_same(tiny: TinyModels) -> None:
    model = open_text_denoiser(str(tiny.sd), "test")
    assert isinstance(model, StableDiffusionDenoiser)
    assert damaged(model, 0.0) is model
    with model.unet.use(CPU) as whole, damaged(model, 0.1).unet.use(CPU) as hurt:
        pairs = list(zip(whole.parameters(), hurt.parameters(), strict=True))
    changed = [float((b - a).std() / a.std()) for a, b in pairs if a.dim() > 1 and a.numel() > 500]
    assert changed and changed == pytest.approx([0.1] * len(changed), rel=0.2)
    assert all(torch.equal(a, b) for a, b in pairs if a.dim() == 1)
    with damaged(model, 0.1).unet.use(CPU) as again:
        assert all(torch.equal(b, c) for (_, b), c in zip(pairs, again.parameters(), strict=True))


def test_rows_of_conditions_are_put_one_after_another(tiny: TinyModels) -> None:
    model = open_text_denoiser(str(tiny.sd), "test")
    one, two = model.embed_text(["a red car"]), model.embed_text(["car", ""])
    both = joined([one, two]).tensors()["tokens"]
    assert torch.equal(both, torch.cat([one.tensors()["tokens"], two.tensors()["tokens"]]))


def test_predicted_gains_are_ratios_of_errors_in_decibels() -> None:
    moments = torch.diag(torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)).expand(2, 3, 3)
    assert predicted_gain(moments, 3.0) == pytest.approx(10 * torch.tensor(25 / 13).log10().item())


def test_tables_say_what_was_predicted_measured_and_agreed_on() -> None:
    some = outcome([0.5, 0.7, -0.1], shared=0.0, mixed=0.9)
    row = criterion.gain_table([some]).splitlines()[2]
    assert row.startswith("| some | 3 | +2.84 ± 0.00 | +0.37 ± 0.24, smaller than the noise |")
    assert criterion.agreement_table([some]).splitlines()[2] == "| some | 3 | 2 of 3 | 2 of 3 |  |  |  |"
    assert "| some | 3 | +0.90 ± 0.00 | +0.53 ± 0.24, smaller than the noise |" in criterion.mixed_table(
        [some]
    )
    assert agreement([1.0, -1.0], [2.0, 3.0]) == "1 of 2"


def test_the_mixture_for_a_toy_comes_from_the_other_half() -> None:
    wrong_own = torch.diag(torch.tensor([0.0, 9.0, 0.0])).expand(8, 3, 3).flatten().tolist()
    wrong_base = torch.diag(torch.tensor([0.0, 0.0, 9.0])).expand(8, 3, 3).flatten().tolist()
    found = {"a": {"moments": wrong_own}, "b": {"moments": wrong_base}}
    t = torch.tensor([100, 900])
    assert criterion.other_half_share(found, 3.0, odd=True)(t).tolist() == [0.0, 0.0]
    assert criterion.other_half_share(found, 3.0, odd=False)(t).tolist() == [1.0, 1.0]


def test_unknown_settings_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="no setting 'none'; expected some of shipped, own-0\\.1"):
        criterion.arguments(["--only", "none"])
    assert {s.name for s in criterion.arguments(["--only", "own-0.2"]).settings} == {"own-0.2"}


def test_finished_fine_tunings_are_settings_and_halves_of_them_are_not(tmp_path: Path) -> None:
    for name in ("done", "begun"):
        (tmp_path / name).mkdir()
    (tmp_path / "done" / "model_index.json").write_text("{}")
    assert criterion.trained_settings(tmp_path) == [Setting("done", str(tmp_path / "done"))]
    assert criterion.trained_settings(None) == []


# ---------------------------------------------------------------------------------------------------- fine-tunings


def test_a_fine_tuning_goes_on_from_its_own_checkpoint_or_else_from_its_parents(tmp_path: Path) -> None:
    child = fine_tunings.by_name("on-never-200")
    parent = fine_tunings.launch_of(fine_tunings.by_name("on-never-100"), tmp_path).last
    assert fine_tunings.start_of(fine_tunings.by_name("on-never-100"), tmp_path) is None
    assert fine_tunings.start_of(child, tmp_path) == parent
    own = fine_tunings.launch_of(child, tmp_path).last
    own.parent.mkdir(parents=True)
    own.touch()
    assert fine_tunings.start_of(child, tmp_path) == own


def test_every_fine_tuning_is_an_experiment_with_models_that_are_there(tmp_path: Path) -> None:
    from usd.app.experiment import load_experiment
    from usd.system.pretraining.novel_view import NovelViewSystem

    names = [tuning.name for tuning in fine_tunings.FINE_TUNINGS]
    assert len(set(names)) == len(names)
    for tuning in fine_tunings.FINE_TUNINGS:
        launch = fine_tunings.launch_of(tuning, tmp_path)
        experiment, _ = load_experiment(launch.configs, launch.overrides)
        options = experiment.system.config
        assert isinstance(options, NovelViewSystem.Config) and experiment.trainer.max_steps == tuning.steps
        assert tuning.name.startswith("on-") == options.start_from.endswith("zero123")
        assert ("never" in tuning.asks) <= (options.drop_all == 0 or "above noise level" in tuning.asks)


def test_a_finished_model_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(fine_tunings.runs.Launch, "__call__", lambda self, *words: started.append(words))
    index = fine_tunings.model_folder("on-never-100", tmp_path) / "model_index.json"
    index.parent.mkdir(parents=True)
    index.write_text("{}")
    fine_tunings.main(["--only", "on-never-100", "on-never-200", "--out", str(tmp_path)])
    assert [words[0] for words in started] == ["--train"] and "resume=" in started[0][1]
    with pytest.raises(UserError, match="no fine-tuning 'x'"):
        fine_tunings.by_name("x")
