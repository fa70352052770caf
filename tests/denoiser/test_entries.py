"""The list of models: what an entry may say, and that its figures are those of the networks it names."""

from pathlib import Path

import pytest

from usd.core.errors import UserError
from usd.denoiser import tiny_pipelines
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.entries import CARDS, model_entries, repositories
from usd.denoiser.rehearsal import BYTES


def entries_of(tmp_path: Path, text: str):
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return model_entries(path)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "repository: a/b\n  memory: {card-9gb: 3}",
            r"x\.memory: 'card-9gb' is no preset; expected card-8gb",
        ),
        ("repository: a/b\n  checksums: {unet/a.bin: abc}", r"'abc' of unet/a\.bin is no SHA-256"),
        ("path: load/x\n  size: 3.0", r"x\.size: is said of a model without a repository"),
        ("gated: true", r"x\.gated: is said of a model without a repository"),
        ("repository: a/b\n  size: -1", r"x\.size"),
        ("repository: a/b\n  stored: int8", r"'int8' is not a choice; expected .*bf16"),
        ("repository: a/b\n  need: [T5]", r"x\.need: unknown key. Did you mean 'needs'"),
    ],
)
def test_a_wrong_entry_is_one_line_with_its_place(tmp_path, lines, said):
    with pytest.raises(UserError, match=said) as caught:
        entries_of(tmp_path, f"x:\n  denoiser: zero123\n  {lines}\n")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("models.yaml: x")


def test_an_entry_with_everything_is_read(tmp_path):
    digest = "0123456789abcdef" * 4
    entry = entries_of(
        tmp_path,
        f"x:\n  denoiser: zero123\n  repository: a/b\n  revision: v1\n  mirrors: [c/d@v2, e/f]\n  gated: true\n"
        f"  size: 2.5\n  needs: [T5-XXL]\n  memory: {{card-8gb: 2}}\n  checksums: {{unet/a.bin: {digest}}}\n",
    )["x"]
    assert (
        entry.gated and entry.size == 2.5 and entry.needs == ("T5-XXL",) and entry.memory == {"card-8gb": 2.0}
    )
    assert entry.checksums == {"unet/a.bin": digest}
    assert repositories("x", entry) == [("a/b", "v1"), ("c/d", "v2"), ("e/f", "main")]


def published():
    return {name: entry for name, entry in model_entries().items() if entry.repository and entry.architecture}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(published()))
def test_size_and_memory_are_those_of_the_networks(name):
    """Counted without making a weight: at true size, in the precision that is fetched and that a card holds."""
    entry = published()[name]
    architecture = ARCHITECTURES[entry.architecture]
    assert entry.size == pytest.approx(architecture.gigabytes(BYTES[entry.stored]), abs=0.06)
    assert entry.memory == pytest.approx(architecture.memory(), abs=0.06)


PICTURES = ("image_encoder", "vision_encoder")


def test_every_published_alias_says_what_it_takes_and_needs():
    for name, entry in published().items():
        assert entry.size and set(entry.memory) == set(CARDS), name
        networks = ARCHITECTURES[entry.architecture].configs
        reads = [part for part in networks if part.startswith("text_encoder") or part in PICTURES]
        assert len(entry.needs) == len(reads), name
        if entry.gated:
            assert "accepted on its page" in entry.license, name


def test_every_family_of_pipelines_has_an_alias_an_architecture_and_a_tiny_one():
    by_kind = {architecture.denoiser for architecture in ARCHITECTURES.values()}
    named = {entry.denoiser for entry in published().values()}
    assert set(tiny_pipelines.FAMILIES) <= by_kind & named
