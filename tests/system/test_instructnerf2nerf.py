"""A scene edited by a sentence, tiny: which picture is edited when, what is trained on then, and that it resumes."""

import csv
from pathlib import Path

import pytest
import torch

import launch
from tests.evaluation.test_lpips import write_weights
from tests.tiny_configs import trial
from usd.app.experiment import Trial
from usd.core import checkpoint
from usd.core.config import parse
from usd.data.convert import write_views
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.rehearsal import write_stand_in
from usd.dialects.threestudio import translate_threestudio
from usd.evaluation import lpips
from usd.guidance.scores import NotFiniteError
from usd.losses.pictures import absolute_difference
from usd.system import instructnerf2nerf
from usd.system.instructnerf2nerf import EditedPictures, InstructNerf2NerfConfig, InstructNerf2NerfSystem

VIEWS, SIZE = 3, 16
RECIPE = """
name: small
use_timestamp: false
data_type: multiview-camera-datamodule
data: {dataroot: CAPTURE, train_downsample_resolution: 1, eval_downsample_resolution: 1, n_val_views: 1}
system_type: instructnerf2nerf-system
system:
  start_editing_step: 2
  per_editing_step: 2
  geometry:
    radius: 1.0
    normal_type: analytic
    isosurface_resolution: 16
    pos_encoding_config: {otype: HashGrid, n_levels: 3, log2_hashmap_size: 10}
  material: {color_activation: sigmoid}
  renderer_type: patch-renderer
  renderer: {patch_size: 8, base_renderer: {num_samples_per_ray: 16}}
  guidance: {pretrained_model_name_or_path: MODEL, diffusion_steps: 2, max_step_percent: 0.9, min_step_percent: 0.9}
  prompt_processor_type: stable-diffusion-prompt-processor
  prompt_processor: {pretrained_model_name_or_path: MODEL, prompt: as snow, use_cache: false}
  loss: {lambda_l1: 10.0, lambda_orient: 1.0, lambda_sparsity: 1.0, lambda_opaque: 1.0}
  optimizer: {name: Adam, args: {lr: 0.01}}
trainer: {max_steps: 5, val_check_interval: 0, log_every_n_steps: 1, enable_progress_bar: false, test_after_fit: false}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on three views of a toy, with a random model of InstructPix2Pix's architecture."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "capture").mkdir()
    write_views(render_toy_views(1_000_000, sphere_cameras(VIEWS, SIZE)), folder / "capture")
    model = write_stand_in(ARCHITECTURES["instruct-pix2pix"], folder / "model")
    text = RECIPE.replace("CAPTURE", str(folder / "capture")).replace("MODEL", str(model))
    (folder / "scene.yaml").write_text(text, encoding="utf-8")
    return folder / "scene.yaml"


def run(recipe: Path, out: Path, *overrides: str, tag: str = "run", mode: str = "--train") -> int:
    place = [f"exp_root_dir={out}", f"tag={tag}"]
    return launch.main(["--config", str(recipe), mode, "--gpu", "cpu", *place, *overrides])


def history(folder: Trial) -> dict[int, dict[str, str]]:
    """Step -> figures of training; later runs of a trial win."""
    files = sorted(folder.folder.glob("csv_logs/version_*/metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
    return {
        int(row["step"]): {key: value for key, value in row.items() if value and key.startswith("train/")}
        for row in rows
        if row["train/loss"]
    }


def pixels(folder: Trial) -> dict[int, torch.Tensor]:
    state = checkpoint.load(folder.last)["training_states"]["edited"]["pixels"]
    assert isinstance(state, dict)
    return state


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Seven steps, tested at the end."""
    out = tmp_path_factory.mktemp("whole")
    steps = ["trainer.max_steps=7", "trainer.val_check_interval=7", "trainer.test_after_fit=true"]
    assert run(recipe, out, *steps) == 0
    return trial(out)


def test_from_the_first_editing_step_one_more_picture_is_edited_every_so_many_steps(trained: Trial) -> None:
    edited = [float(history(trained)[step]["train/edited_views"]) for step in range(7)]
    assert edited == [0, 0, 1, 1, 2, 2, 3]
    assert {"train/l1", "train/orient", "train/sparsity", "train/opaque"} <= set(history(trained)[0])
    made = pixels(trained)
    assert sorted(made) == list(range(VIEWS))
    assert all(each.dtype == torch.uint8 and each.shape == (3, SIZE, SIZE) for each in made.values())


def test_views_and_edited_pictures_are_written(trained: Trial) -> None:
    names = {str(file.relative_to(trained.save)) for file in trained.save.rglob("*") if file.is_file()}
    assert {"it7-0.png", "it7-edited.png", "it7-test.png", "it7-test/transforms.json"} <= names
    assert {f"it7-test/{i}.png" for i in range(VIEWS)} <= names


def test_a_resumed_training_is_the_unbroken_one(recipe: Path, trained: Trial, tmp_path: Path) -> None:
    assert run(recipe, tmp_path, "trainer.max_steps=5") == 0
    half = trial(tmp_path)
    assert len(pixels(half)) == 2
    assert run(recipe, tmp_path, "trainer.max_steps=7", f"resume={half.last}") == 0
    assert history(half)[6] == history(trained)[6]
    one, other = pixels(half), pixels(trained)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    weights = [checkpoint.load(each.last)["state_dict"] for each in (half, trained)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not any(key.startswith("edited") for key in weights[0])


def test_another_size_of_the_pictures_is_refused_when_resuming(
    recipe: Path, trained: Trial, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = ["data.train_downsample_resolution=2", "trainer.max_steps=8", f"resume={trained.last}"]
    assert run(recipe, tmp_path, *smaller) == 2
    assert "of 16 x 16 pixels; here are 3 views of 8 x 8" in capsys.readouterr().err


def schedule_only(**options: int) -> InstructNerf2NerfSystem:
    """A system with its options and a seed, and nothing else."""
    system = InstructNerf2NerfSystem.__new__(InstructNerf2NerfSystem)
    torch.nn.Module.__init__(system)
    model = {"prompt_processor_type": "stable-diffusion-prompt-processor", **options}
    system.config, system.seed = parse(InstructNerf2NerfConfig, model, "system"), 3
    return system


def test_every_view_is_edited_once_before_any_is_edited_again() -> None:
    system = schedule_only(start_editing_step=10, per_editing_step=5)
    steps = [step for step in range(200) if system.edits_at(step)]
    assert steps == list(range(10, 200, 5))
    turns = [system.view_to_edit(step, 6) for step in steps]
    passes = [turns[i : i + 6] for i in range(0, 36, 6)]
    assert all(sorted(each) == list(range(6)) for each in passes)
    assert len({tuple(each) for each in passes}) > 1, "the order is drawn anew"


def test_only_edited_views_have_other_pictures() -> None:
    edited, pictures = EditedPictures(), torch.rand(3, 3, 2, 2)
    edited.put(7, torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1).expand(3, 2, 2))
    found = edited.instead_of(pictures, torch.tensor([1, 7, 0]))
    assert torch.equal(found[[0, 2]], pictures[[0, 2]])
    assert found[1, :, 0, 0].tolist() == pytest.approx([0, 0.5, 1], abs=1 / 255)
    again = EditedPictures()
    again.load_training_state(edited.training_state())
    assert torch.equal(again.instead_of(pictures, torch.tensor([1, 7, 0])), found)


def test_a_whole_render_is_edited_beside_the_original_picture_and_trained_on_from_then(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in a second edit of the view; one that is not finite leaves the picture as it was."""
    edits: list[tuple[torch.Tensor, torch.Tensor]] = []
    wholes: list[torch.Tensor] = []
    truths: list[torch.Tensor] = []
    edit_view = InstructNerf2NerfSystem.edit_view

    def edit(guidance, rgb, cameras, step, generator, pictures):
        edits.append((rgb, pictures))
        if step == 2:
            raise NotFiniteError("the conditional prediction has 1 of 2 values not finite")
        return torch.full((1, 3, 8, 8), 0.25)

    def watch_edit(system, index, step):
        system.eval()
        wholes.append(system.render_views(system.views.cameras[[index]]).rgb)
        system.train()
        edit_view(system, index, step)
        assert system.renderer.training and system.geometry.training

    def difference(rgb, truth):
        truths.append(truth)
        return absolute_difference(rgb, truth)

    monkeypatch.setattr(instructnerf2nerf, "edit_views", edit)
    monkeypatch.setattr(instructnerf2nerf, "absolute_difference", difference)
    monkeypatch.setattr(InstructNerf2NerfSystem, "edit_view", watch_edit)
    options = ["data.train_data_interval=3", "system.start_editing_step=1", "system.per_editing_step=1"]
    assert run(recipe, tmp_path, *options, "trainer.max_steps=3") == 0
    assert len(edits) == len(wholes) == 2
    for (rgb, original), whole in zip(edits, wholes, strict=True):
        assert torch.equal(rgb, whole.clamp(0, 1)), "no patch in an enlarged picture"
        assert torch.equal(original, truths[0]), "the picture as it was captured"
    assert [torch.equal(truth, torch.full_like(truth, 64 / 255)) for truth in truths] == [False, True, True]
    assert "step 2: view 0 is not edited, since the conditional prediction" in capsys.readouterr().out
    assert set(pixels(trial(tmp_path))[0].flatten().tolist()) == {64}


def test_the_perceptual_loss_needs_its_weights(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = tmp_path / "lpips", ["system.loss.lambda_p=10", "trainer.max_steps=1"]
    folder.mkdir()
    monkeypatch.setattr(lpips, "weight_folders", lambda: [folder])
    assert run(recipe, tmp_path, *options) == 2
    problem = capsys.readouterr().err
    assert "system.loss.lambda_p: LPIPS left out: vgg16" in problem and len(problem.splitlines()) == 1
    write_weights(folder)
    assert run(recipe, tmp_path, *options) == 0
    assert float(history(trial(tmp_path))[0]["train/p"]) > 0
    assert run(recipe, tmp_path, *options, "data.train_downsample_resolution=2") == 2
    assert "LPIPS needs pictures of at least 16 pixels, not 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("system.guidance_type=csd-guidance", "system.guidance_type: csd-guidance edits no pictures"),
        ("system.guidance.image_path=a.png", "every view is edited beside its own picture"),
        ("system.prompt_processor_type=null", "system.prompt_processor_type: required but not given"),
        ("system.loss.lambda_l2=1", "system.loss.lambda_l2: unknown key"),
    ],
)
def test_what_edits_nothing_is_refused_in_a_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert run(recipe, tmp_path, override) == 2
    assert message in capsys.readouterr().err


def test_the_guidances_weights_are_dropped_from_threestudios_recipe() -> None:
    loss = {"lambda_sds": 0.5, "lambda_l1": 10.0}
    done = translate_threestudio({"system_type": "instructnerf2nerf-system", "system": {"loss": loss}})
    assert done.values["system"]["loss"] == {"lambda_l1": 10.0}  # type: ignore[index]  # a mapping of options
    assert any("lambda_sds: is not read: the guidance edits pictures" in note for note in done.notes)
