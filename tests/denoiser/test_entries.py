"""The list of models: what an entry may say, and that its figures are those of the networks it names."""

import dataclasses
import gzip
import json
import math
from pathlib import Path

import pytest

from usd.core.errors import UserError
from usd.denoiser import tiny_pipelines
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.entries import CARDS, model_entries, repositories
from usd.denoiser.rehearsal import BYTES

GOLDEN = Path(__file__).parent / "golden"


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


def test_every_alias_that_is_fetched_says_where_how_much_and_under_which_terms():
    fetched = {name: entry for name, entry in model_entries().items() if entry.repository}
    assert len(fetched) > 20
    for name, entry in fetched.items():
        assert entry.revision and entry.license and entry.size and set(entry.memory) == set(CARDS), name
        assert set(entry.unverified) <= {field.name for field in dataclasses.fields(entry)}, name
        assert entry.revision != "main" or "revision" in entry.unverified, (
            f"{name}: a branch is no fixed version"
        )


def test_the_size_of_syncdreamer_is_that_of_its_published_tensors():
    text = gzip.decompress((GOLDEN / "syncdreamer_published_keys.txt.gz").read_bytes()).decode()
    rows = (line.split(" ", 1) for line in text.splitlines())
    counts = {name: math.prod(json.loads(size)) for name, size in rows}
    entry = model_entries()["syncdreamer"]
    assert entry.size == pytest.approx(4 * sum(counts.values()) / 1e9, abs=0.06)
    unet = 2 * sum(n for name, n in counts.items() if name.startswith("model."))
    vae = 4 * sum(n for name, n in counts.items() if name.startswith("first_stage_model."))
    volume = 4 * sum(
        n for name, n in counts.items() if name.split(".")[0] in ("spatial_volume", "time_embed")
    )
    assert entry.memory["card-8gb"] == pytest.approx(unet / 2**30, abs=0.06)
    assert entry.memory["card-24gb"] == pytest.approx((unet + vae + volume) / 2**30, abs=0.06)


def test_every_family_of_pipelines_has_an_alias_an_architecture_and_a_tiny_one():
    by_kind = {architecture.denoiser for architecture in ARCHITECTURES.values()}
    named = {entry.denoiser for entry in published().values()}
    assert set(tiny_pipelines.FAMILIES) <= by_kind & named
