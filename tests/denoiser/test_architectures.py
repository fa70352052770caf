"""The architectures of published models: their sizes are those of the published files, and small ones keep their form."""

import pytest

from usd.denoiser import tiny_pipelines
from usd.denoiser.architectures import ARCHITECTURES
from usd.denoiser.components import network_class
from usd.denoiser.entries import model_entries
from usd.denoiser.weights import empty_network

PUBLISHED = {  # weights in the authors' files
    ("stable-diffusion-1", "unet"): 859_520_964,
    ("stable-diffusion-1", "vae"): 83_653_863,
    ("stable-diffusion-1", "text_encoder"): 123_060_480,
    ("stable-diffusion-2-base", "unet"): 865_910_724,
    ("stable-diffusion-2-base", "text_encoder"): 340_387_840,
    ("zero123", "unet"): 859_532_484,
    ("zero123", "image_encoder"): 303_966_208,
    ("controlnet-1", "controlnet"): 361_279_120,
    ("deep-floyd-xl", "unet"): 4_304_695_110,
    ("deep-floyd-xl", "text_encoder"): 4_762_310_656,
}


def test_the_true_sizes_have_the_published_number_of_weights() -> None:
    counts = {name: ARCHITECTURES[name].parameters() for name in {name for name, _ in PUBLISHED}}
    assert {(name, part): counts[name][part] for name, part in PUBLISHED} == PUBLISHED


SHRINKING = [name for name, each in ARCHITECTURES.items() if each.denoiser not in tiny_pipelines.FAMILIES]


@pytest.mark.parametrize("name", SHRINKING)
def test_a_shrunk_network_has_the_same_kinds_of_layers_and_a_thousandth_of_the_weights(name: str) -> None:
    true, tiny = ARCHITECTURES[name], ARCHITECTURES[name].shrink()
    assert sum(tiny.parameters().values()) < sum(true.parameters().values()) / 1000
    for component, config in tiny.configs.items():
        assert network_class(component, config) == network_class(component, true.configs[component])
        kinds = {
            type(layer).__name__
            for layer in empty_network(*network_class(component, config), config).modules()
        }
        whole = true.configs[component]
        assert kinds == {
            type(layer).__name__ for layer in empty_network(*network_class(component, whole), whole).modules()
        }


def test_every_alias_names_an_architecture_of_its_own_denoiser() -> None:
    published = {
        name: entry for name, entry in model_entries().items() if entry.repository and entry.architecture
    }
    assert published
    for name, entry in published.items():
        assert ARCHITECTURES[entry.architecture].denoiser == entry.denoiser, name
