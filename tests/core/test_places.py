"""Resources, outputs and caches: what is found in a checkout, in an installed package, and from any folder."""

from pathlib import Path

import pytest

from usd.core import loading, places
from usd.core.errors import UserError


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package, as far as places go: no repository around it, resources inside."""
    package = tmp_path / "site-packages" / "usd"
    (package / "configs" / "presets").mkdir(parents=True)
    (package / "configs" / "object.yaml").write_text("name: object")
    (package / "configs" / "presets" / "small.yaml").write_text("seed: 1")
    (package / "core").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(places, "PACKAGE", package)
    monkeypatch.chdir(tmp_path / "here")
    places.checkout.cache_clear()
    places.recipes.cache_clear()
    yield package
    places.checkout.cache_clear()
    places.recipes.cache_clear()


def test_in_a_checkout_resources_are_the_repository_s():
    root = Path(__file__).resolve().parents[2]
    assert places.checkout() == places.resources() == root
    assert places.resource("load/models.yaml").is_file()
    assert places.command("test") == "launch.py --test"


def test_an_installed_package_has_its_resources_inside(installed):
    assert places.checkout() is None
    assert places.find_resource("configs/object.yaml") == installed / "configs" / "object.yaml"
    assert places.command("test") == "usd test"


@pytest.mark.parametrize("name", ["core", "configs/none.yaml", "../usd/core", "configs/../core", ""])
def test_only_what_lies_in_configs_and_load_is_a_resource(installed, name):
    assert places.find_resource(name) is None


def test_a_configuration_is_a_path_a_resource_or_a_bare_name(installed):
    found = installed / "configs" / "object.yaml"
    assert loading.find_config("object") == loading.find_config("configs/object.yaml") == found
    assert loading.find_config("small") == installed / "configs" / "presets" / "small.yaml"
    Path("object").write_text("name: mine")
    assert loading.find_config("object") == Path("object"), "what the user has here wins"


def test_a_misspelled_configuration_names_the_nearest(installed):
    with pytest.raises(UserError, match=r"^objcet: no such configuration; .* Did you mean 'object'\?$"):
        loading.find_config("objcet")
    assert loading.find_config("none.yaml") == Path("none.yaml"), "which the reader refuses by its full path"


def test_a_file_of_the_user_can_start_from_a_shipped_configuration(installed):
    Path("mine.yaml").write_text("base: [object, small]\ntag: mine")
    assert loading.load_config(["mine.yaml"]) == {"name": "object", "seed": 1, "tag": "mine"}


def test_outputs_are_below_the_working_directory(installed):
    assert places.output("outputs/demo") == Path.cwd() / "outputs" / "demo"
    assert places.output("/a/b") == Path("/a/b")


def test_a_folder_of_the_name_of_a_recipe_does_not_hide_it(tmp_path, monkeypatch):
    """As the pictures that the recipe is for may lie in one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene").mkdir()
    assert loading.find_config("scene") == places.recipes()["scene"]
