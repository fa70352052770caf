"""How much memory a training takes on a GPU: arithmetic on its configuration, not a measurement.

Three things are counted: the networks of the models, the object with its optimizer, and what is kept for the backward
pass of rays and of the autoencoder. What libraries take for themselves (a CUDA context, some 0.5 GiB) comes on top.
"""

from usd.app.experiment import Experiment
from usd.core.config import Spec
from usd.core.registry import build
from usd.denoiser.architectures import reads_conditions
from usd.denoiser.rehearsal import Rehearsal, RehearsedModel
from usd.system import System

GIB = 2**30
STATES = 4  # a weight, its gradient, and Adam's two moments
ENCODER_AT_256 = 0.74 * GIB  # activations of the autoencoder for one picture of 256 px, docs/real-models.md
FILLED = 0.1  # share of the samples that are left where empty space is skipped, of a typical object


def memory_lines(experiment: Experiment, models: Rehearsal) -> list[str]:
    """Return an estimate of a training's memory, a line for each part."""
    networks = sum(map(network_bytes, models.models.values()))
    system = build(experiment.system, System)
    own = STATES * 4 * sum(p.numel() for p in system.parameters() if p.requires_grad)
    views = _most(getattr(experiment.data.config, "batch_size", 1)) / experiment.trainer.batch_parts
    rays = views * rays_a_view(experiment) * sample_bytes(experiment)
    encoder = views * sum(map(encoder_bytes, models.models.values()))
    low, high = (networks + own + encoder + share * rays for share in (FILLED, 1.0))
    if not networks and not rays:
        return []
    parts = f"models {networks / GIB:.1f}, object and optimizer {own / GIB:.1f}, encoding views {encoder / GIB:.1f}"
    return [
        f"memory, estimated for a GPU: {low / GIB:.0f} GiB where empty space is skipped, {high / GIB:.0f} GiB at most "
        f"({parts}, rays {FILLED * rays / GIB:.1f} to {rays / GIB:.1f})"
    ]


def network_bytes(model: RehearsedModel) -> float:
    """Return the bytes of the networks that a training keeps: half floats, and whole ones for the autoencoder."""
    kept = {name: count for name, count in model.parameters.items() if not reads_conditions(name)}
    return float(sum(count * (4 if name == "vae" else 2) for name, count in kept.items()))


def encoder_bytes(model: RehearsedModel) -> float:
    """Return the bytes that encoding one view keeps for the backward pass; a model of pixels encodes nothing."""
    if "vae" not in model.parameters:
        return 0.0
    latents = model.architecture.configs.get("unet", {}).get("sample_size")
    size = 8 * latents if isinstance(latents, int) else 512
    return ENCODER_AT_256 * (min(size, 512) / 256) ** 2


def rays_a_view(experiment: Experiment) -> float:
    """Return the samples of the rays of one training view; 0 where triangles are rasterized."""
    renderer, data = getattr(experiment.system.config, "renderer", None), experiment.data.config
    if not isinstance(renderer, Spec):
        return 0.0
    inner = getattr(renderer.config, "base_renderer", None)
    samples = getattr((inner or renderer).config, "num_samples_per_ray", 0)
    pixels = _most(getattr(data, "height", 0)) * _most(getattr(data, "width", 0))
    patch = getattr(renderer.config, "patch_size", None)
    if patch is not None:
        pixels = min(pixels, patch**2) + pixels / getattr(renderer.config, "global_downsample", 1) ** 2
    subgrid = getattr(data, "sample_height", 0) * getattr(data, "sample_width", 0)
    return float((subgrid or pixels) * samples)


def sample_bytes(experiment: Experiment) -> float:
    """Return the bytes that one sample keeps for the backward pass: features and layers of two networks, twice."""
    geometry = getattr(experiment.system.config, "geometry", None)
    options = geometry.config if isinstance(geometry, Spec) else None
    grid, network = (
        getattr(options, "pos_encoding_config", None),
        getattr(options, "mlp_network_config", None),
    )
    features = getattr(grid, "n_levels", 0) * getattr(grid, "n_features_per_level", 0)
    hidden = getattr(network, "n_neurons", 0) * getattr(network, "n_hidden_layers", 0)
    floats = 2 * (features + 2 * hidden) + 16
    return 4.0 * floats * (2 if getattr(options, "normal_type", None) == "analytic" else 1)


def _most(value: object) -> float:
    """Return a number, or the largest of a list."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    return float(max((x for x in numbers if isinstance(x, int | float)), default=0))


__all__ = ["memory_lines", "network_bytes"]
