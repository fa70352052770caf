"""Frequency encodings: what each octave is, and how octaves fade in."""

import math

import pytest
import torch

from usd.core.config import parse
from usd.network.activation import ActivationName, activation
from usd.network.encoding import (
    DirectionEncoding,
    DirectionEncodingConfig,
    EncodingConfig,
    FrequencyBands,
    build_encoding,
    spherical_harmonics,
)


def test_each_octave_has_sines_and_cosines_of_twice_the_frequency_before() -> None:
    x = torch.rand(5, 2)
    waves = FrequencyBands(2, 3, 0)(x).view(5, 3, 2, 2)
    for octave in range(3):
        assert torch.allclose(waves[:, octave, 0], (2**octave * x).sin(), atol=1e-6)
        assert torch.allclose(waves[:, octave, 1], (2**octave * x).cos(), atol=1e-6)


def test_octaves_fade_in_one_after_the_other_along_half_a_cosine() -> None:
    bands = FrequencyBands(3, 4, 400)
    assert bands.window.tolist() == [0, 0, 0, 0]
    bands.update(150)
    assert bands.window.tolist() == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    bands.update(125)
    assert bands.window.tolist() == pytest.approx([1, (1 - math.cos(math.pi / 4)) / 2, 0, 0], abs=1e-6)
    bands.update(10_000)
    assert bands.window.tolist() == [1, 1, 1, 1]


def test_a_configuration_names_the_encoding_of_directions_and_of_positions() -> None:
    directions = torch.nn.functional.normalize(torch.randn(7, 3), dim=1)
    harmonics = DirectionEncoding(DirectionEncodingConfig())
    assert (
        torch.equal(harmonics(directions), spherical_harmonics(directions, 3)) and not harmonics.state_dict()
    )
    waves = DirectionEncoding(
        parse(DirectionEncodingConfig, {"otype": "ProgressiveBandFrequency", "n_frequencies": 6}, "x")
    )
    assert waves(directions).shape == (7, waves.n_output) == (7, 36)
    positions = build_encoding(parse(EncodingConfig, {"otype": "ProgressiveBandFrequency"}, "x"))
    assert positions(torch.rand(4, 3)).shape == (4, positions.n_output) == (4, 72)


@pytest.mark.parametrize(
    ("name", "at"), [("scale_-11_01", (-1, 0)), ("scale_-11_01", (1, 1)), ("shifted_exp", (1, 1)), ("lin2srgb", (1, 1)),
                 ("shifted_trunc_exp", (1, 1)), ("lin2srgb", (-3, 0))]
)  # fmt: skip
def test_activations_of_threestudio_by_their_names(name: ActivationName, at: tuple[float, float]) -> None:
    assert float(activation(name)(torch.tensor(float(at[0])))) == pytest.approx(at[1])
