"""``usd models``: what is on this machine, and what a recipe would fetch, without a network."""

import hashlib
from pathlib import Path

import pytest

from usd.app import models_command
from usd.core.errors import UserError
from usd.guidance.picture_scores import PictureOptions


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and a network that must not be asked."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(cache: Path, repository: str, *components: str, commit: str = "c0ffee") -> Path:
    """Lay a repository into the cache as the hub's client does."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    folder = place / "snapshots" / commit
    folder.mkdir(parents=True)
    for component in components:
        (folder / component).mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    return folder


def test_the_table_says_what_is_here_what_is_partly_here_and_what_is_not(cache, capsys):
    put(cache, "stabilityai/stable-diffusion-xl-base-1.0", "unet", "vae")
    put(cache, "someone/else", "unet")
    (cache / "load" / "zero123").mkdir(parents=True)
    (cache / "load" / "zero123" / "mine.ckpt").write_bytes(b"x")
    assert models_command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = {line.split()[0]: line for line in lines}
    assert lines[0].split()[:3] == ["MODEL", "KIND", "FETCHES"]
    assert row["toybox-sd"].endswith("here embedded") and row["sd-1.5"].endswith(" -")
    assert "partly" in row["sdxl"] and "missing: text_encoder, text_encoder_2" in row["sdxl"]
    assert "(gated)" in row["sd-3.5-medium"] and "15.8 GB" in row["sd-3.5-medium"]
    assert row["someone/else"].split()[1] == "here"
    assert any(line.startswith(str(cache / "load" / "zero123" / "mine.ckpt")) for line in lines)


def test_a_recipe_names_what_it_would_fetch_and_how_to_get_access(cache, monkeypatch, capsys):
    model = "sd-3.5-medium"
    words = [
        "usd-text-to-3D-patch",
        f"system.guidance.pretrained_model_name_or_path={model}",
        f"system.prompt_processor.pretrained_model_name_or_path={model}",
        "system.prompt_processor.prompt=a cup",
    ]
    assert models_command.main(words) == 0
    text = capsys.readouterr().out
    assert "15.8 GB from stabilityai/stable-diffusion-3.5-medium; license: Stability AI" in text
    assert "reads its conditions with CLIP ViT-L/14 (text), OpenCLIP ViT-bigG/14 (text), T5-XXL" in text
    assert "gated: accept its terms and log in: https://huggingface.co/stabilityai" in text
    assert "10.4 GiB with 24gb" in text and text.strip().endswith("would fetch 15.8 GB")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models_command.main(words)
    assert "it would stop: offline (HF_HUB_OFFLINE)" in capsys.readouterr().out


def test_models_that_a_recipe_does_not_read_are_not_counted(cache, capsys):
    for rectified, names in (("own", ["zero123-xl"]), ("prior", ["zero123-xl", "sd-2.1-base"])):
        options = PictureOptions(image_path="x.png", unconditional=rectified)
        assert list(models_command.recipe_models(options)) == names
    assert "mirrors, in this order: ashawkey/" in "".join(models_command.recipe_lines(["zero123-xl"]))
    models_command.main(["usd-patch-mini", "system.guidance.image_path=x.png"])
    assert capsys.readouterr().out.strip().endswith("would fetch nothing")


def test_a_recipe_with_stages_names_the_models_of_all_of_them(cache, capsys):
    models_command.main(["usd-full", "stages.object.system.guidance.image_path=x.png"])
    text = capsys.readouterr().out
    assert "zero123-xl: not here" in text and "sd-2.1-base: not here" in text


@pytest.mark.parametrize(
    ("recipe", "model"),
    [("mvdream", "mvdream"), ("usd-full", "zero123-xl"), ("usd-text-to-3D-texture", "sd-2.1-base")],
)
def test_models_of_a_recipe_are_told_before_anybody_thought_of_a_sentence(cache, capsys, recipe, model):
    assert models_command.main([recipe]) == 0
    assert f"{model}: not here" in capsys.readouterr().out


def test_a_lora_decides_which_model_is_read_and_has_to_be_named(cache):
    with pytest.raises(UserError, match=r"system\.lora: required"):
        models_command.model_lines(["refine"])


def test_what_is_in_the_cache_is_compared_with_the_published_checksums(cache, capsys):
    folder = put(cache, "stabilityai/stable-diffusion-xl-base-1.0", "unet")
    assert models_command.main(["--verify"]) == 0
    blob = folder.parents[1] / "blobs" / hashlib.sha256(b"good").hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(b"good")
    (folder / "unet" / "model.safetensors").symlink_to(blob)
    assert models_command.main(["--verify"]) == 0
    assert "sdxl: 1 files as published" in capsys.readouterr().out
    blob.write_bytes(b"bad")
    assert models_command.main(["--verify"]) == 2
    assert "is not the file that was published" in capsys.readouterr().err


def test_names_that_mean_nothing_are_said(cache):
    (line, total) = models_command.recipe_lines(["nothing"])
    assert "neither an alias" in line and total.endswith("it would stop: nothing cannot be fetched")
    with pytest.raises(UserError):
        models_command.model_lines(["no-such-recipe"])


def test_a_recipe_of_a_model_with_a_lora_names_the_model_once_and_a_single_file_by_its_name(cache, capsys):
    assert models_command.main(["multiple-angles"]) == 0
    text = capsys.readouterr().out
    assert (
        text.count("qwen-image-edit-2511: not here") == 1 and "57.7 GB from Qwen/Qwen-Image-Edit-2511" in text
    )
    assert "LoRA load/multiple-angles/qwen-image-edit-2511-multiple-angles-lora.safetensors: not here" in text
    assert "would fetch 57.7 GB; it would stop: load/multiple-angles/" in text
    assert "38.5 GiB with 24gb" in text and "not verified, see its page: revision, license" in text
    models_command.main(["syncdreamer"])
    text = capsys.readouterr().out
    assert (
        "5.6 GB from camenduru/SyncDreamer" in text
        and "hf download camenduru/SyncDreamer syncdreamer-pretrain.ckpt" in text
    )
    assert text.strip().endswith("would fetch 9.9 GB")


def test_a_copy_from_the_hub_without_the_single_file_is_here_in_part(cache):
    put(cache, "camenduru/SyncDreamer")
    assert "missing: syncdreamer-pretrain.ckpt" in models_command.status_of("syncdreamer").row()[-1]


def test_a_folder_that_holds_half_a_model_is_no_model(cache, capsys):
    """As a copy or a download that was cut off leaves it."""
    folder = cache / "load" / "models" / "mine"
    for part in ("unet", "vae", "text_encoder", "scheduler", "tokenizer"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        (folder / part / "model.safetensors").touch()
    (folder / "model_index.json").write_text("{}")
    assert models_command.recipe_lines([str(folder)])[0].startswith(f"{folder}: here")
    (folder / "vae" / "model.safetensors").unlink()
    said, total = models_command.recipe_lines([str(folder)])
    assert said == f"{folder}: incomplete ({folder}); missing: vae (its weights)"
    assert total == f"would fetch nothing; it would stop: {folder} cannot be fetched"
    (cache / "load" / "models" / "other" / "transformer").mkdir(parents=True)
    (cache / "load" / "models" / "other" / "model_index.json").write_text("{}")
    (cache / "load" / "models" / "other" / "transformer" / "config.json").write_text('{"_class_name": "New"}')
    models_command.main([])
    rows = capsys.readouterr().out.splitlines()
    assert any(row.endswith("incomplete; missing: vae (its weights)") for row in rows)
    assert any("its transformer is New, which no denoiser runs" in row for row in rows)


def test_models_are_explained_by_their_names(cache, capsys):
    assert models_command.main(["sd-1.5", "flux-1-dev + mine.safetensors x 0.5"]) == 0
    text = capsys.readouterr().out
    assert "sd-1.5: not here; 4.3 GB" in text and "flux-1-dev: not here" in text and "  gated: accept" in text
    assert text.strip().endswith("would fetch 38.0 GB; it would stop: mine.safetensors cannot be fetched")
    assert models_command.main(["syncdreamer", "system.guidance.image_path=x.png"]) == 0, "a recipe, too"
    assert "sd-1.5: not here" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["zero132-xl", "/no/such/folder", "no/such.ckpt"])
def test_a_name_of_nothing_is_no_page_of_the_hub(cache, name):
    said, total = models_command.recipe_lines([name])
    assert said.startswith(f"{name}: neither an alias, nor a folder or file that is here.")
    assert total == f"would fetch nothing; it would stop: {name} cannot be fetched"
    assert ("Did you mean 'zero123-xl'?" in said) is (name == "zero132-xl")


def test_models_are_counted_that_are_opened_and_no_others(cache):
    """The prompt's model is not opened where a picture says what to make, but that of the reference view is."""

    def named(recipe: str, *options: str) -> set[str]:
        return set(models_command._names_of([recipe, "system.guidance.image_path=x.png", *options]))

    assert named("wonder3d") == {"wonder3d", "sd-1.5"}
    assert named("zero123plus") == {"zero123plus-1.2"} and named("zero123") == {"zero123-xl"}
    own = (
        "usd-patch",
        "system.guidance.unconditional=own",
        "system.guidance.pretrained_model_name_or_path=sd-1.5",
    )
    assert named(*own) == {"zero123-xl", "sd-1.5"}, "of the reference view"
    assert named(*own, "system.loss.lambda_reference_view=0") == {"zero123-xl"}
    text = (
        "system.prompt_processor.prompt=a cup",
        "system.prompt_processor.pretrained_model_name_or_path=sd-2.1",
    )
    assert named("usd-patch", *text, "system.guidance.prompt_scale=1") == {
        "zero123-xl",
        "sd-2.1-base",
        "sd-2.1",
    }
