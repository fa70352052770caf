"""Commands as published for threestudio name the exporter below ``system``."""

from pathlib import Path

import pytest

from usd.app.experiment import load_experiment
from usd.core.config import ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "usd-patch.yaml"


def test_the_exporter_may_stand_below_the_system() -> None:
    published = [
        "system.exporter_type=mesh-exporter",
        "system.exporter.fmt=obj",
        "system.exporter.save_uv=false",
    ]
    exporter = load_experiment([CONFIG], published)[0].exporter
    assert exporter is not None and exporter.name == "mesh-exporter"
    assert (exporter.config.fmt, exporter.config.save_uv) == ("obj", False)


def test_a_misspelt_option_there_is_an_error_all_the_same() -> None:
    with pytest.raises(
        ConfigError, match=r"exporter\.texture_sise: unknown key\. Did you mean 'texture_size'"
    ):
        load_experiment([CONFIG], ["system.exporter_type=mesh-exporter", "system.exporter.texture_sise=64"])
