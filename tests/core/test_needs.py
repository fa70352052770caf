"""What may be asked of a renderer: a misspelled need is as much an error as a misspelled key."""

import dataclasses

import pytest
import torch

from usd.core import registry
from usd.core.config import parse
from usd.core.errors import UserError
from usd.core.needs import RENDERABLE, check_needs
from usd.core.types import Render, Samples
from usd.guidance import Guidance
from usd.losses import loss
from usd.losses.table import REFERENCE_LOSSES, REGULARIZERS


def test_what_can_be_asked_for_follows_from_the_types() -> None:
    assert {field.name for field in dataclasses.fields(Render)} <= RENDERABLE
    optional = {field.name for field in dataclasses.fields(Samples) if field.default is None}
    assert RENDERABLE - {field.name for field in dataclasses.fields(Render)} == optional - {"normal"}
    assert "ray_index" not in RENDERABLE


def test_a_misspelled_need_is_one_line_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as said:
        check_needs({"normal", "depht"}, "SteadyGuidance.needs")
    middle = "distance, foreground, gradient, laplacian, length, mesh, normal, normal_perturb, opacity, rgb, "
    assert str(said.value) == (
        "SteadyGuidance.needs: 'depht' is nothing that a renderer gives; expected some of behind, depth, "
        f"{middle}samples, splats. Did you mean 'depth'?"
    )
    assert check_needs(["normal", "depth"], "x") == {"normal", "depth"}


def test_a_loss_with_a_misspelled_need_cannot_be_made() -> None:
    with pytest.raises(UserError, match=r"the loss flatness: 'normals' .* Did you mean 'normal'\?"):

        @loss("normals")
        def flatness(render: Render) -> torch.Tensor:
            return render.rgb.sum()


def test_a_guidance_with_a_misspelled_need_cannot_be_built() -> None:
    class Misspelled(Guidance):
        needs = frozenset({"rgb", "opacty"})

    with pytest.raises(UserError, match=r"Misspelled\.needs: 'opacty' .* Did you mean 'opacity'\?"):
        Misspelled(parse(Guidance.Config, {}))


@pytest.mark.parametrize("kind", ["guidance", "renderer"])
def test_every_component_that_ships_asks_for_and_declares_what_exists(kind: str) -> None:
    classes = [registry.find(kind, name) for name in registry.names(kind)]
    stated = [cls.needs if kind == "guidance" else cls.outputs for cls in classes]
    assert len(stated) > 3
    for cls, names in zip(classes, stated, strict=True):
        assert check_needs(names, cls.__name__) == names


def test_every_loss_asks_for_what_some_renderer_gives() -> None:
    renderers = [registry.find("renderer", name) for name in registry.names("renderer")]
    for name, one in {**REGULARIZERS, **REFERENCE_LOSSES}.items():
        assert any(one.needs <= renderer.outputs for renderer in renderers), name
