"""Refinement: nothing changes without noise, the prompt pulls, what is done stays done, and the views read back."""

import json
import os

import pytest
import torch

import launch
from tests.tiny_configs import CONFIGS, trial
from usd.core.config import parse
from usd.data.convert import write_views
from usd.data.pictures import over, write_picture
from usd.data.toy_views import render_toy_views, sphere_cameras
from usd.data.view_readers import ViewOptions, read_views
from usd.denoiser import Execution, open_text_denoiser
from usd.evaluation.metrics import psnr
from usd.system.refine import RefineConfig, last_times, recomposed, refined

TOY = 1_000_000


def command(out, views, *overrides, name="refine.yaml", tag="run"):
    place = [f"exp_root_dir={out}", "use_timestamp=false", f"tag={tag}", "name=small"]
    given = [f"data.path={views}", "system.lora=null", "system.prompt=a car"]
    model = ["system.pretrained_model_name_or_path=gaussian"]
    return ["--config", str(CONFIGS / name), "--train", "--gpu", "cpu", *place, *given, *model, *overrides]


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Six views of a toy, of 24 px."""
    folder = tmp_path_factory.mktemp("views")
    write_views(render_toy_views(TOY, sphere_cameras(6, 24)), folder)
    return folder


def read(folder):
    return read_views(folder, parse(ViewOptions, {}))


def config(**options):
    return parse(RefineConfig, {"pretrained_model_name_or_path": "gaussian", **options})


def tried(model, pictures, **options):
    n, space = len(pictures), model.latent
    noise = torch.randn(
        n, space.channels, space.height, space.width, generator=torch.Generator().manual_seed(0)
    )
    told = model.embed_text(["a red car"] * n), model.unconditional(n)
    return refined(model, pictures, told, noise, config(**options))


def test_the_published_schedule_is_the_last_ten_of_fifty_steps():
    assert last_times(50, 0.2) == [199, 179, 159, 139, 119, 99, 79, 59, 39, 19]
    assert last_times(50, 0.0) == []
    assert len(last_times(50, 1.0)) == 50


def test_without_noise_only_the_autoencoder_changes_a_view(tiny):
    model = open_text_denoiser(str(tiny.sd), "here", Execution())
    pictures = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(
        tried(model, pictures, strength=0.0), model.decode(model.encode(pictures)), atol=1e-5, rtol=1e-5
    )


def test_without_noise_a_residual_changes_nothing_at_any_size(tiny):
    model = open_text_denoiser(str(tiny.sd), "here", Execution())
    pictures = torch.rand(2, 3, 24, 20)
    torch.testing.assert_close(tried(model, pictures, strength=0.0, residual=1.0), pictures)


def test_half_a_residual_goes_half_the_way(tiny):
    model = open_text_denoiser(str(tiny.sd), "here", Execution())
    pictures = 0.4 + 0.2 * torch.rand(2, 3, 24, 20)
    whole, half = (tried(model, pictures, strength=0.2, residual=share) for share in (1.0, 0.5))
    inside = (whole > 0) & (whole < 1)  # the whole change may leave [0, 1]; half of it does not
    assert inside.any() and (half - pictures).abs().max() > 1e-4
    torch.testing.assert_close(
        2 * (half - pictures)[inside], (whole - pictures)[inside], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("residual", [None, 1.0])
def test_views_go_to_what_the_prompt_means_the_further_the_stronger(residual):
    """The analytic model expects the gray 0.6 of every sentence, within 0.1."""
    model, pictures = open_text_denoiser("gaussian", "here", Execution()), torch.full((2, 3, 32, 32), 0.2)
    strengths = (0.0, 0.2, 0.5, 1.0)
    far = [
        (tried(model, pictures, strength=s, guidance_scale=1.0, residual=residual) - 0.6).abs().mean()
        for s in strengths
    ]
    assert [value.item() for value in far] == sorted((value.item() for value in far), reverse=True)
    assert far[0] > 0.35
    assert far[-1] < 0.12


def test_guidance_pulls_harder():
    model, pictures = open_text_denoiser("gaussian", "here", Execution()), torch.full((1, 3, 32, 32), 0.2)
    weak, strong = (tried(model, pictures, strength=0.4, guidance_scale=s).mean().item() for s in (1.0, 6.5))
    assert strong > weak + 0.02


def test_a_recomposed_view_shows_the_picture_where_the_object_is():
    picture, alpha = torch.rand(1, 3, 8, 8), torch.tensor([1.0, 0.0]).repeat(1, 1, 8, 4)
    shown = over(recomposed(picture, alpha))
    torch.testing.assert_close(shown, torch.where(alpha > 0.5, picture, torch.ones(())), atol=1e-6, rtol=0)


def test_all_views_are_written_as_a_folder_that_reconstruction_reads(views, tmp_path, capsys):
    assert launch.main(command(tmp_path, views, "system.guidance_scale=1", "system.steps=10")) == 0
    before, after = read(views), read(trial(tmp_path).save / "refined")
    assert len(after) == 6
    assert after.masked
    torch.testing.assert_close(after.cameras.c2w, before.cameras.c2w)
    torch.testing.assert_close(after.rgba[:, 3], before.rgba[:, 3], atol=1 / 250, rtol=0)
    moved = psnr(over(after.rgba), over(before.rgba))
    assert (moved < 40).all()
    said = json.loads((trial(tmp_path).save / "refined" / "refined.json").read_text())
    assert said["sharpness_before"] > 0
    assert "refined 6 views: sharpness" in capsys.readouterr().out
    assert (trial(tmp_path).save / "refined.png").is_file()
    assert trial(tmp_path).last.is_file()


def test_what_is_done_is_left_alone_and_what_is_missing_is_made_as_before(views, tmp_path):
    line = command(tmp_path, views, "system.steps=10")
    folder = trial(tmp_path).save / "refined"
    assert launch.main(line) == 0
    first = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("*.png")}
    os.remove(folder / "0003.png")
    write_picture(folder / "0001.png", torch.zeros(4, 24, 24))
    kept = (folder / "0001.png").read_bytes()
    assert launch.main(line) == 0
    assert (folder / "0003.png").read_bytes() == first["0003.png"][0]
    assert (folder / "0000.png").stat().st_mtime_ns == first["0000.png"][1]
    assert (folder / "0001.png").read_bytes() == kept
    assert launch.main([*line, "system.strength=0.5"]) == 0
    assert (folder / "0001.png").read_bytes() != kept
    assert (folder / "0000.png").read_bytes() != first["0000.png"][0]


def test_a_view_does_not_depend_on_how_many_are_refined_at_once(views, tmp_path):
    for size in (1, 4):
        assert launch.main(command(tmp_path, views, f"system.batch_size={size}", tag=str(size))) == 0
    one, four = (read(trial(tmp_path, tag).save / "refined").rgba for tag in "14")
    torch.testing.assert_close(one, four, atol=1.5 / 255, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["system.prompt=null"], "system.prompt: required but not given"),
        (["system.pretrained_model_name_or_path=null"], "system.lora: required but not given"),
        (["system.strength=1.5"], "system.strength: 1.5 is out of range"),
        (["data.path=/nowhere"], "data.path: /nowhere: no such file or folder"),
    ],
)
def test_bad_input_is_one_line(views, tmp_path, capsys, overrides, said):
    assert launch.main(command(tmp_path, views, *overrides)) == 2
    assert said in capsys.readouterr().err
