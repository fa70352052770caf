"""The papers of a public project: license, citation, metadata, model cards and the files that machines read."""

import hashlib
import re
import shutil
import tomllib
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import usd

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
CARDS = sorted((ROOT / "load" / "toybox").glob("*/README.md")) + [
    ROOT / "load" / "toybox" / "elevation_reader.md"
]
HEADINGS = ["Intended use", "Data", "Training", "Measured", "Limits", "License"]


def requirements(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip() and not line.startswith(("#", "-r"))]


def package_of(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> Path:
    """Metadata as an installer sees it, of a copy of the files that it is made from."""
    from setuptools import build_meta

    folder = tmp_path_factory.mktemp("source")
    names = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "requirements.txt"]
    for name in [*names, "usd/__init__.py", "usd/py.typed"]:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("configs", "load"):
        (folder / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["setup.py"])
        out = folder / "metadata"
        out.mkdir()
        return out / build_meta.prepare_metadata_for_build_wheel(str(out))


def test_the_metadata_is_complete(metadata):
    fields = Parser().parsestr((metadata / "METADATA").read_text(encoding="utf-8"))
    assert fields["Name"] == "usd"
    assert fields["Version"] == usd.__version__
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert fields["Description-Content-Type"] == "text/markdown"
    assert "Unbiased score distillation" in fields.get_payload()
    assert set(fields.get_all("Provides-Extra")) == {
        "batch",
        "dev",
        "docs",
        "deep-floyd",
        "draco",
        "exr",
        "embree",
        "gsplat",
        "heic",
        "lpips",
        "matting",
        "nerfacc",
        "poses",
        "record3d",
        "serve",
        "viewer",
        "wandb",
    }
    assert "torch>=2.6" in fields.get_all("Requires-Dist")


def test_the_version_is_written_once():
    assert "version" in PROJECT["dynamic"]
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CITATION.cff")}
    assert not [name for name, text in texts.items() if f'"{usd.__version__}"' in text]


@pytest.mark.parametrize("extra", ["dev", "docs"])
def test_an_extra_and_its_requirements_file_are_the_same_list(extra):
    assert PROJECT["optional-dependencies"][extra] == requirements(f"requirements-{extra}.txt")


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-docs.txt"])
def test_every_requirement_is_pinned(name):
    pinned = {package_of(line) for line in requirements("constraints.txt") if "==" in line}
    assert not {package_of(line) for line in requirements(name)} - pinned


def test_the_license_is_the_full_text_of_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert hashlib.sha256(text.encode()).hexdigest() == APACHE_2_SHA256
    assert "weights" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_citation_names_the_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["type"] == "software"
    assert citation["authors"] == [{"name": "The USD contributors"}]
    assert citation["license"] == PROJECT["license"]
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2312.06198"


def test_every_embedded_model_has_a_card():
    weights = set((ROOT / "load" / "toybox").rglob("*.safetensors"))
    covered = {
        file for card in CARDS for file in card.parent.rglob("*.safetensors") if card.name == "README.md"
    }
    assert weights - covered == {ROOT / "load" / "toybox" / "elevation_reader.safetensors"}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: str(card.relative_to(ROOT)))
def test_a_model_card_says_what_people_look_for(card):
    text = card.read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---")[1])["license"] == "apache-2.0"
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    recipes = re.findall(r"configs/toybox/\w[\w-]*\.yaml", text)
    assert recipes
    assert all((ROOT / recipe).is_file() for recipe in recipes)
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert all((card.parent / link).resolve().is_file() for link in links)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: str(card.relative_to(ROOT)))
def test_figures_of_a_model_card_are_those_of_the_documentation(card):
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("toybox.md", "claims.md")]
    rows = [line for line in card.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    figures = {number for row in rows for number in re.findall(r"\d*\.\d+|\d+ %", row)}
    assert figures
    assert not {number for number in figures if not any(number in page for page in pages)}


def test_continuous_integration_runs_the_pythons_that_the_package_names():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    named = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert matrix["python"] == named
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    files = {word for command in commands for word in command.split() if word.endswith(".txt")}
    assert files == {"constraints.txt", "requirements-dev.txt", "requirements-docs.txt"}


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_what_a_dockerfile_copies_is_there(name):
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    assert all((ROOT / word).exists() for line in copied for word in line.split())
