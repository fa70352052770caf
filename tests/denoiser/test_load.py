"""One way in for every model, and one line when there is none."""

import gc
import json
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from tests.conftest import TinyModels
from usd.core import places
from usd.core.config import UserError
from usd.denoiser import (
    Execution,
    check_shared_latents,
    entries,
    hub,
    load,
    open_text_denoiser,
    open_view_denoiser,
)
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.frozen import Frozen

OPEN = {"text": open_text_denoiser, "view": open_view_denoiser}
WHERE = "system.guidance.zero123_model_name_or_path"


def _message(name: str, role: str = "view") -> str:
    with pytest.raises(UserError) as caught:
        OPEN[role](name, WHERE)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(WHERE)
    return text


def test_alias_file_is_complete() -> None:
    known_models = entries.model_entries()
    assert {"gaussian", "toybox-sd", "toybox-zero123", "sd-2.1-base", "sd-1.5", "zero123-xl"} <= set(
        known_models
    )
    for name, entry in known_models.items():
        assert entry.license and entry.note, name
        known = {
            *(a.denoiser for a in ARCHITECTURES.values()),
            *load.TRANSFORMERS.values(),
            "gaussian",
            "zero123-group",
            "syncdreamer",
        }
        assert entry.denoiser in known
        assert (entry.path or entry.repository) or entry.denoiser == "gaussian"
    assert known_models["toybox-sd"].path == "load/toybox/stable-diffusion"
    assert known_models["toybox-zero123"].path == "load/toybox/zero123"


def test_an_id_that_moved_means_the_same_model() -> None:
    assert entries.entry_of("stabilityai/stable-diffusion-2-1-base") is entries.entry_of("sd-2.1-base")


def test_former_keys_of_the_alias_file_are_read_and_said(tmp_path: Path, capsys) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("x:\n  denoiser: zero123\n  licence: MIT\n  fourth_number: input-polar\n")
    entry = entries.model_entries(path)["x"]
    assert (entry.license, entry.pose_convention) == ("MIT", "input-polar")
    assert "models.yaml: x.licence is read as license" in capsys.readouterr().out
    path = tmp_path / "both.yaml"
    path.write_text("x:\n  denoiser: zero123\n  licence: MIT\n  license: MIT\n")
    with pytest.raises(UserError, match=r"x\.licence: unknown key"):
        entries.model_entries(path)


def test_a_wrong_alias_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    with pytest.raises(UserError, match="is missing"):
        entries.model_entries(path)
    path.write_text("x:\n  denoiser: zero123\n  repositry: a/b\n")
    with pytest.raises(UserError, match=r"models.yaml: x.repositry: unknown key. Did you mean 'repository'"):
        entries.model_entries(path)


@pytest.mark.parametrize(
    "name", ["zero123-xl", "nobody/nothing-at-all", "../elsewhere/zero123", "", "toybox-zero124"]
)
def test_a_model_that_cannot_be_had_is_one_line_and_quick(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No traceback, no minutes of retries; says what was tried and what to do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", _refuse)
    monkeypatch.setattr("time.sleep", _refuse)
    load.formulas()  # imports the denoisers, which is no part of the search
    start = time.process_time()
    text = _message(name)
    assert time.process_time() - start < 5
    if name:
        assert f"'{name}'" in text and "HF_ENDPOINT" in text and "toybox-zero123" in text
    if name == "toybox-zero124":
        assert "Did you mean 'toybox-zero123'?" in text


def test_a_single_file_that_is_missing_is_one_line() -> None:
    assert "there is no file 'models/zero123-xl.ckpt'" in _message("models/zero123-xl.ckpt")


def test_an_embedded_model_that_is_missing_says_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entries.ModelEntry(denoiser="zero123", path="load/nowhere/zero123")
    monkeypatch.setattr(entries, "model_entries", lambda: {"embedded": entry})
    assert "comes with the package, but" in _message("embedded")


def _refuse(*_: object, **__: object) -> None:
    raise ConnectionError("no route to host")


def test_a_missing_model_is_told_before_the_heavy_libraries_are_imported() -> None:
    """Importing diffusers takes seconds; a wrong name should not."""
    code = (
        "import sys; from usd.core.registry import find; find('denoiser', 'zero123'); find('guidance', 'usd-guidance');"
        "sys.exit('diffusers' in sys.modules or 'transformers' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=places.PACKAGE.parent, check=False).returncode == 0
    )


def test_mirrors_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    class RepositoryNotFoundError(Exception):
        pass

    def absent(self: object, repository: str, **_: object) -> None:
        asked.append(repository)
        raise RepositoryNotFoundError("404")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", absent)
    assert "ashawkey/zero123-xl-diffusers (not found)" in _message("zero123-xl")
    assert asked[:3] == ["bennyguo/zero123-xl-diffusers", "ashawkey/zero123-xl-diffusers", "kxic/zero123-xl"]


def test_a_cached_repository_needs_no_network(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(repository: str, **options: object) -> str:
        assert options["local_files_only"]
        return str(tiny.zero123_b)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", _refuse)
    assert open_view_denoiser("someone/a-zero123", WHERE).folder == tiny.zero123_b


def test_a_fetch_says_license_and_revision_and_a_cached_model_says_nothing(
    tiny: TinyModels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit is the one written down; a mirror's own; what nobody verified is said to be so."""
    fetched: list[tuple[str, object]] = []

    def snapshot(repository: str, **options: object) -> str:
        if options.get("local_files_only") and not fetched:
            raise OSError("not cached")
        if not options.get("local_files_only"):
            fetched.append((repository, options["revision"]))
        return str(tiny.zero123_b)

    class Info:
        siblings = ()

    def info(self: object, repository: str, **_: object) -> Info:
        if not repository.startswith("ashawkey"):
            raise OSError("broken")
        return Info()

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    for name in ("zero123-xl", "stable-zero123"):
        load.find_model(name, "view", WHERE)
        load.find_model(name, "view", WHERE)
    assert fetched == [("ashawkey/zero123-xl-diffusers", "10e9e8e75adaa3bf77f5ac9c381419016fed68c7")]
    (line,) = [record.getMessage() for record in caplog.records if "fetching" in record.message]
    assert "license: MIT" in line and "10e9e8e" in line
    assert entries.repositories("nobody/model@v2", None) == [("nobody/model", "v2")]


def test_only_the_parts_and_one_form_of_their_weights_are_fetched() -> None:
    files = [
        "README.md",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.bin",
        "cc_projection/config.json",
        "cc_projection/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
    ]
    averaged = "unet/diffusion_pytorch_model.fp16_ema.safetensors"
    assert averaged in hub.files_to_fetch([*files, averaged], ("unet",))
    wanted = hub.files_to_fetch(files, ("unet", "vae", "clip_camera_projection|cc_projection"))
    assert set(wanted) == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.bin",
        "cc_projection/config.json",
        "cc_projection/diffusion_pytorch_model.bin",
    }


def test_the_wrong_kind_of_model_is_named(tiny: TinyModels) -> None:
    assert "expected a picture model" in _message(str(tiny.sd))
    assert "expected a text model" in _message(str(tiny.zero123_a), "text")


@pytest.mark.parametrize("part", ["vae", "clip_camera_projection", "scheduler"])
def test_a_folder_without_a_part_is_named(tiny: TinyModels, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(tiny.zero123_a, tmp_path / "model"))
    shutil.rmtree(folder / part)
    text = _message(str(folder))
    assert part in text and str(folder) in text


@pytest.mark.parametrize("part", ["unet", "image_encoder", "clip_camera_projection"])
def test_a_truncated_file_is_one_line(tiny: TinyModels, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(tiny.zero123_a, tmp_path / "model"))
    weights = next(f for f in (folder / part).iterdir() if f.suffix in (".safetensors", ".bin"))
    weights.write_bytes(weights.read_bytes()[:200])
    model = open_view_denoiser(str(folder), WHERE)
    with pytest.raises(UserError, match="cannot be read as") as caught:
        {"unet": model.unet, "image_encoder": model.image_encoder}.get(part, model.projection).on(
            torch.device("cpu")
        )
    assert "\n" not in str(caught.value) and part in str(caught.value)


def test_missing_weights_are_an_error_and_not_random_numbers(tiny: TinyModels, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny.sd, tmp_path / "model"))
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_in.weight")
    save_file(weights, path, metadata={"format": "pt"})
    model = open_text_denoiser(str(folder), "x")
    with pytest.raises(UserError, match=r"lacks 1 weights of UNet2DConditionModel, such as conv_in.weight"):
        model.unet.on(torch.device("cpu"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prediction_type", "flow", "prediction_type 'flow' is not supported"),
        ("beta_schedule", "sigmoid", "beta_schedule 'sigmoid' is not supported"),
    ],
)
def test_an_unknown_scheduler_is_one_line(
    tiny: TinyModels, tmp_path: Path, key: str, value: str, said: str
) -> None:
    folder = Path(shutil.copytree(tiny.sd, tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=said):
        open_text_denoiser(str(folder), "x")


def test_the_same_model_in_use_is_loaded_once(tiny: TinyModels) -> None:
    first = open_text_denoiser(str(tiny.sd), "x")
    assert open_text_denoiser(str(tiny.sd), "x") is first
    assert open_text_denoiser(f"{tiny.sd}/../{tiny.sd.name}", "x") is first
    assert open_text_denoiser(str(tiny.sd), "x", Execution(weights="bf16")) is not first


def test_weights_are_freed_with_their_owner(tiny: TinyModels) -> None:
    """Without waiting for the garbage collector: two generations of networks do not fit on a small GPU."""
    gc.disable()
    try:
        for folder, role in ((tiny.sd_v, "text"), (tiny.zero123_half, "view")):
            model = OPEN[role](str(folder), "x")
            model.eps(torch.zeros(1, 4, 8, 8), torch.tensor([5]), model.unconditional(1))
            network = weakref.ref(model.unet.on(torch.device("cpu")))
            del model
            assert network() is None
    finally:
        gc.enable()


def test_models_of_different_latent_spaces_are_refused(tiny: TinyModels) -> None:
    check_shared_latents(
        open_text_denoiser(str(tiny.sd), "x"), open_view_denoiser(str(tiny.zero123_b), "x"), "x"
    )
    with pytest.raises(UserError, match="do not share a latent space") as caught:
        check_shared_latents(
            open_view_denoiser("gaussian", "x"),
            open_text_denoiser(str(tiny.sd), "x"),
            "system.guidance",
        )
    assert "3 channels, 1 px each" in str(caught.value) and "4 channels, 2 px each" in str(caught.value)


def test_frozen_networks_are_invisible_to_their_owner_and_never_half_on_a_cpu() -> None:
    holder = torch.nn.Module()
    holder.net = Frozen(lambda: torch.nn.Linear(2, 2).half(), "auto")
    network = holder.net.on(torch.device("cpu"))
    assert network.weight.dtype == torch.float32 and not network.weight.requires_grad and not network.training
    assert not list(holder.parameters()) and not holder.state_dict()
    assert holder.net.dtype(torch.device("cuda")) == torch.float16
    assert Frozen(lambda: torch.nn.Linear(2, 2)).dtype(torch.device("cuda")) == torch.float32
