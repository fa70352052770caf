"""threestudio's checkpoints give the same fields here, or are refused with what is missing.

The field is computed twice: here, and below in numpy as the documents of threestudio and tinycudann have it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.kernels.test_hash_grid import points, table, tinycudann_reference
from tests.system.test_two_guidances import system
from usd.app.dry_run import _is_of_size
from usd.core import checkpoint
from usd.core.errors import UserError
from usd.dialects import translate
from usd.dialects.threestudio.weights import translate_weights
from usd.kernels.hash_grid import HashGridSpec
from usd.system.conversion import load_source

SPEC = HashGridSpec(3, 2, 10, 6, 1.6, "tinycudann")
ENCODING = {
    "otype": "HashGrid",
    "n_levels": 3,
    "n_features_per_level": 2,
    "log2_hashmap_size": 10,
    "base_resolution": 6,
    "per_level_scale": 1.6,
}
RADIUS, WIDTH = 0.6, 64
GRID = "geometry.encoding.encoding.encoding.params"
RECIPE = {
    "system_type": "dreamfusion-system",
    "n_gpus": 1,
    "trial_name": "a_chair",
    "system": {
        "geometry_type": "implicit-volume",
        "geometry": {
            "radius": RADIUS,
            "normal_type": "analytic",
            "density_bias": "blob_magic3d",
            "density_activation": "softplus",
            "density_blob_scale": 10.0,
            "density_blob_std": 0.5,
            "pos_encoding_config": ENCODING,
        },
        "material_type": "no-material",
        "material": {"n_output_dims": 3, "color_activation": "sigmoid"},
    },
}


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5


def theirs() -> dict[str, torch.Tensor]:
    """Weights by the names, and in the shapes, that threestudio gives a volume."""
    weights = {"geometry.bbox": torch.tensor([[-RADIUS] * 3, [RADIUS] * 3])}
    weights[GRID] = table(SPEC).flatten()
    for seed, (name, outputs) in enumerate({"density": 1, "feature": 3}.items()):
        weights[f"geometry.{name}_network.layers.0.weight"] = random(WIDTH, SPEC.n_output, seed=seed)
        weights[f"geometry.{name}_network.layers.2.weight"] = random(outputs, WIDTH, seed=seed + 9)
    return {**weights, "renderer.estimator.occs": torch.zeros(8), "background.env_color": torch.ones(3)}


def field(weights: dict[str, torch.Tensor], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Density and features of a volume at world coordinates, in double precision."""
    rows = weights[GRID].double().numpy().reshape(-1, 2)
    encoded = tinycudann_reference(SPEC, rows, (x / RADIUS + 1) / 2)

    def network(name: str) -> np.ndarray:
        first, last = (weights[f"geometry.{name}.layers.{n}.weight"].double().numpy() for n in (0, 2))
        return np.maximum(encoded @ first.T, 0) @ last.T

    raw = network("density_network")[:, 0] + 10 * (1 - np.linalg.norm(x, axis=1) / 0.5)
    return np.logaddexp(0, raw), network("feature_network")


def trial(folder: Path, weights: dict[str, torch.Tensor], recipe: dict[str, object]) -> Path:
    """A trial as threestudio leaves one: its checkpoint with its trainer's objects, its configuration beside it."""
    for name in ("ckpts", "configs"):
        (folder / name).mkdir(parents=True)
    content = {"state_dict": weights, "global_step": 10000, "pytorch-lightning_version": "2.0.0"}
    content |= {"callbacks": {"ModelCheckpoint": {"dirpath": Path("ckpts")}}, "optimizer_states": []}
    torch.save(content, folder / "ckpts" / "last.ckpt")
    (folder / "configs" / "parsed.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "ckpts" / "last.ckpt"


def volume(*overrides: str):
    sizes = [f"system.geometry.pos_encoding_config.{key}={value}" for key, value in ENCODING.items()]
    sizes.append("system.geometry.density_blob_std=0.5")
    return system("dreamfusion-mini.yaml", *sizes, *overrides)


TINYCUDANN = "system.geometry.pos_encoding_config.vertices=tinycudann"


def test_weights_of_a_checkpoint_give_its_field_and_background(tmp_path):
    made = volume(TINYCUDANN)
    made.start_from_weights(trial(tmp_path, theirs(), RECIPE))
    x = points(40) * 2 * RADIUS - RADIUS
    density, features = field(theirs(), x.double().numpy())
    found = made.geometry.query(x, frozenset({"features"}))
    torch.testing.assert_close(found.density.double(), torch.tensor(density), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.features.double(), torch.tensor(features), rtol=1e-4, atol=1e-4)
    assert made.background.value.tolist() == [1, 1, 1]


def test_an_object_of_threestudios_is_converted_by_the_configuration_beside_it(tmp_path):
    source = load_source(trial(tmp_path, theirs(), RECIPE), {}, torch.device("cpu"))
    x = points(40) * 2 * RADIUS - RADIUS
    density, _ = field(theirs(), x.double().numpy())
    torch.testing.assert_close(
        source.geometry.density(x).double(), torch.tensor(density), rtol=1e-4, atol=1e-4
    )


def test_a_file_of_threestudios_gets_its_grid() -> None:
    translated = translate({**RECIPE, "data_type": "random-camera-datamodule"}).values["system"]
    assert translated["geometry"]["pos_encoding_config"]["vertices"] == "tinycudann"


def test_a_signed_distance_is_its_network_alone(tmp_path):
    weights = {key.replace("density_network", "sdf_network"): value for key, value in theirs().items()}
    recipe = {**RECIPE, "system": {**RECIPE["system"], "geometry_type": "implicit-sdf"}}
    recipe["system"]["geometry"] = {
        "radius": RADIUS,
        "pos_encoding_config": ENCODING,
        "shape_init": "sphere",
        "shape_init_params": 0.5,
    }
    source = load_source(trial(tmp_path, weights, recipe), {}, torch.device("cpu"))
    x = points(20) * 2 * RADIUS - RADIUS
    rows = weights[GRID].double().numpy().reshape(-1, 2)
    hidden = tinycudann_reference(SPEC, rows, ((x / RADIUS + 1) / 2).double().numpy())
    first, last = (weights[f"geometry.sdf_network.layers.{n}.weight"].double() for n in (0, 2))
    expected = (torch.tensor(hidden) @ first.T).relu() @ last.T
    torch.testing.assert_close(source.geometry.distance(x).double(), expected[:, 0], rtol=1e-4, atol=1e-4)


def test_fused_networks_are_unpacked_and_their_biases_refused() -> None:
    first, last = random(16, 6, seed=1), random(3, 16, seed=2)
    own = {"material.network.0.weight": torch.zeros(16, 6), "material.network.2.weight": torch.zeros(3, 16)}
    padded = [torch.nn.functional.pad(first, (0, 10)), torch.nn.functional.pad(last, (0, 0, 0, 13))]
    flat = torch.cat([matrix.flatten() for matrix in padded])
    found = translate_weights({"material.network.network.params": flat.half()}, own)
    torch.testing.assert_close(found["material.network.0.weight"], first, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["material.network.2.weight"], last, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match=r"material\.network\.0\.weight: the network there has biases"):
        translate_weights({"material.network.network.params": flat + 1}, own)
    with pytest.raises(UserError, match=r"has 7 weights; expected layers of 16 x 6, 3 x 16"):
        translate_weights({"material.network.network.params": flat[:7]}, own)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "system.geometry.radius=0.6",
            r"encoding\.table: is .* there .* here; expected the pos_encoding_config",
        ),
        ("system.geometry.radius=1", r"system\.geometry\.radius: is 1; expected the checkpoint's, 0\.6"),
    ],
)
def test_what_would_be_another_object_is_refused(tmp_path, override, message):
    """Without its vertices the table has another size."""
    with pytest.raises(UserError, match=message):
        volume(override).start_from_weights(trial(tmp_path, theirs(), RECIPE))


def test_a_weight_that_is_missing_is_named_and_may_be_left_out(tmp_path):
    weights = {key: value for key, value in theirs().items() if not key.startswith("background")}
    path = trial(tmp_path, weights, RECIPE)
    with pytest.raises(UserError, match=r"background\.value: is not in it; it has no background\. Expected"):
        volume(TINYCUDANN).start_from_weights(path)
    volume(TINYCUDANN, "system.weights_ignore_modules=[background]").start_from_weights(path)
    numbers = {"geometry.grid": torch.zeros(1, 4, 2, 2, 2)}
    with pytest.raises(UserError, match=r"geometry\.grid: cannot be read, its numbers lie in the middle"):
        translate_weights(numbers, numbers)


def test_a_training_of_threestudios_cannot_be_resumed_but_started_from(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {GRID: torch.zeros(8)}, "pytorch-lightning_version": "2.0.0"}, path)
    with pytest.raises(UserError, match=r"of threestudio's: .* with system\.weights, or with"):
        checkpoint.load(path)
    with pytest.raises(UserError, match=r"parsed\.yaml is not there; expected the trial's folder"):
        load_source(path, {}, torch.device("cpu"))


def test_another_file_of_tensors_is_only_not_ours(tmp_path):
    torch.save({"state_dict": {"unet.weight": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of this project$"):
        checkpoint.load(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of this project$"):
        volume().start_from_weights(tmp_path / "x.ckpt")


def test_a_dry_run_reads_the_checkpoint_that_it_has_no_place_for(tmp_path):
    spec = volume(TINYCUDANN).config.geometry
    assert not _is_of_size(trial(tmp_path / "theirs", theirs(), RECIPE), spec)
    torch.save({"state_dict": {"unet.weight": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of this project$"):
        _is_of_size(tmp_path / "x.ckpt", spec)
