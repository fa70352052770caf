"""Hugging Face without a network: checksums, what offline mode says, gates and mirrors."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from usd.core.errors import UserError
from usd.denoiser import hub
from usd.denoiser.entries import ModelEntry

WEIGHTS, FILE = b"weights", "unet/diffusion_pytorch_model.safetensors"
GOOD = hashlib.sha256(WEIGHTS).hexdigest()
ENTRY = ModelEntry(
    denoiser="stable-diffusion", repository="a/b", revision="v1", size=5.2, gated=True, mirrors=("c/d@v2",)
)


def cache_of(root: Path, *components: str) -> Path:
    """A snapshot as the hub's client lays it: links to blobs that are named by their checksums."""
    folder = root / "models--a--b" / "snapshots" / "v1"
    (root / "models--a--b" / "blobs").mkdir(parents=True)
    for component in components:
        (folder / component).mkdir(parents=True)
    blob = root / "models--a--b" / "blobs" / GOOD
    blob.write_bytes(WEIGHTS)
    if "unet" in components:
        (folder / FILE).symlink_to(blob)
    return folder


class Hub:
    """The hub's client with one repository in its cache, and a network that answers ``problem`` or a listing."""

    def __init__(
        self, monkeypatch, folder: Path | None, problem: Exception | None, published: str = GOOD
    ) -> None:
        self.asked: list[str] = []
        self.folder, self.problem, self.published = folder, problem, published
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot)
        monkeypatch.setattr(
            "huggingface_hub.HfApi.model_info", lambda _, repository, **__: self.info(repository)
        )

    def snapshot(self, repository: str, **options: object) -> str:
        if options.get("local_files_only") and (self.folder is None or repository != "a/b"):
            raise OSError("not cached")
        return str(self.folder)

    def info(self, repository: str) -> SimpleNamespace:
        self.asked.append(repository)
        if self.problem is not None:
            raise self.problem
        sibling = SimpleNamespace(rfilename=FILE, lfs=SimpleNamespace(sha256=self.published))
        return SimpleNamespace(siblings=[sibling])


class OfflineModeIsEnabled(ConnectionError):
    """As the hub's client calls it."""


def test_offline_says_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Hub(monkeypatch, cache_of(tmp_path, "unet"), OfflineModeIsEnabled("offline"))
    with pytest.raises(UserError) as caught:
        hub.find_or_fetch("mine", ENTRY, ("unet", "vae", "scheduler"), "model")
    text = str(caught.value)
    assert "\n" not in text and text.startswith("model: model 'mine' cannot be had")
    assert "HF_HUB_OFFLINE is set; missing: vae, scheduler (the rest is in" in text
    assert "hf download a/b --revision v1 --include 'vae/*' --include 'scheduler/*'" in text
    assert "https://huggingface.co/a/b" in text, "it is gated"


def test_offline_without_anything_names_the_whole_model_and_its_size(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    client = Hub(monkeypatch, None, ConnectionError("no route"))
    with pytest.raises(UserError, match=r"missing: the whole model, 5\.2 GB") as caught:
        hub.find_or_fetch("mine", ENTRY, ("unet",), "model")
    assert "HF_HUB_OFFLINE is set" not in str(caught.value)
    assert client.asked == ["a/b"], "a mirror is on the same host"


def test_a_gated_repository_says_how_to_get_access_and_its_mirror_is_tried(monkeypatch):
    class GatedRepoError(Exception):
        pass

    client = Hub(monkeypatch, None, GatedRepoError("403"))
    with pytest.raises(
        UserError, match=r"gated: accept its terms and log in: https://huggingface.co/a/b, then"
    ):
        hub.find_or_fetch("mine", ENTRY, ("unet",), "model")
    assert client.asked == ["a/b", "c/d"]


def test_a_file_that_is_not_what_was_published_is_one_line_and_removed(tmp_path, monkeypatch):
    folder = cache_of(tmp_path, "unet")
    Hub(monkeypatch, folder, None, published="0" * 64)
    with pytest.raises(UserError, match=rf"{FILE} has the SHA-256 {GOOD[:12]}\.\.\., but 000000000000\.\.\."):
        hub.find_or_fetch("mine", ENTRY, ("unet", "vae"), "model")
    assert not (folder / FILE).exists() and not (tmp_path / "models--a--b" / "blobs" / GOOD).exists()


def test_a_file_that_is_what_was_published_is_taken(tmp_path, monkeypatch):
    folder = cache_of(tmp_path, "unet")
    Hub(monkeypatch, folder, None)
    assert hub.find_or_fetch("mine", ENTRY, ("unet", "vae"), "model") == folder


def test_the_checksum_of_the_list_is_compared_too(tmp_path, monkeypatch):
    folder = cache_of(tmp_path, "unet")
    Hub(monkeypatch, folder, None)
    wrong = ModelEntry(
        denoiser="stable-diffusion", repository="a/b", revision="v1", checksums={FILE: "1" * 64}
    )
    with pytest.raises(UserError, match="it was removed: fetch it again"):
        hub.find_or_fetch("mine", wrong, ("unet", "vae"), "model")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.json"], "unet (its weights)"),
        (["config.json", "diffusion_pytorch_model.safetensors.index.json"], "unet (its weights)"),
        (
            ["config.json", "diffusion_pytorch_model-00001-of-00003.safetensors"],
            "unet (diffusion_pytorch_model-00002-of-00003.safetensors, "
            "diffusion_pytorch_model-00003-of-00003.safetensors)",
        ),
        (["config.json", "diffusion_pytorch_model.fp16.bin"], ""),
        (["scheduler_config.json"], ""),
    ],
)
def test_a_component_whose_download_was_cut_off_is_not_there(tmp_path, files, said):
    (tmp_path / "unet").mkdir()
    for file in files:
        (tmp_path / "unet" / file).write_text("{}")
    assert hub.missing_components(tmp_path, ("unet",)) == ({"unet": said} if said else {})


def test_of_two_layouts_the_one_that_is_there_in_part_is_named(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{}")
    assert hub.missing_components(tmp_path, ("a|b", "c")) == {"a|b": "b (its weights)", "c": "c"}
    (tmp_path / "b" / "config.json").write_text('{"weights_of": "../elsewhere"}')
    assert list(hub.missing_components(tmp_path, ("a|b", "c"))) == ["c"]


def test_a_download_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    folder = cache_of(tmp_path, "unet", "vae")
    (folder / "vae" / "config.json").write_text("{}")
    client = Hub(monkeypatch, folder, None)
    assert hub.find_or_fetch("mine", ENTRY, ("unet", "vae"), "model") == folder
    assert client.asked == ["a/b"], "the weights of vae are fetched"


def test_the_cache_names_its_blobs_by_their_checksums(tmp_path):
    assert hub.cached_checksums(cache_of(tmp_path, "unet")) == {FILE: GOOD}
