"""The count of models at full size: what it finds as published, and what it takes for a fault."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from benchmarks import full_size
from benchmarks.full_size import BrokenError, Report, check_layout, check_names, check_view_groups
from benchmarks.published_models import DEPTH_ATTENTION, MODELS, VOLUME, Published, shrunk, write
from benchmarks.syncdreamer_file import published_shapes, volume_shapes
from usd.denoiser.components import open_components


def test_networks_of_view_groups_are_counted_at_full_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    check_view_groups(report)
    assert "| wonder3d | unet | 910,785,284 | as published |" in report.lines
    monkeypatch.setattr(full_size, "VIEW_GROUPS", {"wonder3d": {"unet": 1}})
    with pytest.raises(BrokenError, match=r"wonder3d: unet has 910,785,284 parameters; expected 1"):
        check_view_groups(report)
    assert "zero123plus" in capsys.readouterr().out


def test_the_numbers_of_syncdreamer_are_those_of_its_published_names() -> None:
    model, shapes = MODELS["syncdreamer"], published_shapes()
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert len(sizes) == 1618 and sum(sizes.values()) == 1_392_370_020
    added = sum(math.prod(shape) for shape in volume_shapes(model.channels).values())
    assert model.parameters[VOLUME] + model.parameters[DEPTH_ATTENTION] == added
    inside = sum(size for name, size in sizes.items() if name.startswith("model.diffusion_model."))
    assert model.parameters["unet"] + model.parameters[DEPTH_ATTENTION] == inside


@pytest.fixture(scope="module")
def syncdreamer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Path, Path]:
    """A small SyncDreamer, its file, and the plain folder that the file was made of."""
    model, folder = shrunk(MODELS["syncdreamer"]), tmp_path_factory.mktemp("syncdreamer")
    return model, write(model, folder, "ckpt"), folder / "folder"


def test_syncdreamer_is_read_back_weight_by_weight(syncdreamer: tuple[Published, Path, Path]) -> None:
    model, place, plain = syncdreamer
    base = [part for part in model.parameters if part not in (VOLUME, DEPTH_ATTENTION)]
    told = sum(len(open_components(plain).tensors(part)) for part in base)
    assert check_layout(model, place, plain) == told + len(volume_shapes(model.channels))
    wrong = dataclasses.replace(model, parameters={**model.parameters, VOLUME: 1})
    with pytest.raises(BrokenError, match=r"feature volume has 48,699,136 parameters; published are 1$"):
        check_layout(wrong, place, plain)


def test_a_weight_that_differs_and_a_shape_that_differs_are_named(
    syncdreamer: tuple[Published, Path, Path], tmp_path: Path
) -> None:
    model, place, plain = syncdreamer
    stored = torch.load(place, weights_only=True)
    name = "model.diffusion_model.output_conditions.3.depth_attn.to_k.weight"
    stored["state_dict"][name].view(-1)[0] += 1
    torch.save(stored, tmp_path / "x.ckpt")
    with pytest.raises(BrokenError, match=r"output_conditions\.3\.depth_attn\.to_k\.weight differs"):
        check_layout(model, tmp_path / "x.ckpt", plain)
    with pytest.raises(BrokenError, match="are not as published, "):
        check_names(place, Report())  # it is a small one
