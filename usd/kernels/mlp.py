"""A small network without biases, ReLU between its layers: by tinycudann's fused kernels, or layer by layer.

Fused, it computes in half precision (results agree to about 1e-2 of their size) and has first derivatives only: where
normals are derivatives of the field (``normal_type: analytic``), its networks must not be fused.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from usd.kernels.accelerators import load_accelerator
from usd.kernels.runtime import Implementation, accelerator_of

WIDTHS = (16, 32, 64, 128)
BLOCK = 16  # inputs and outputs are padded to a multiple of it


def mlp(
    x: Float[Tensor, "N i"], weights: Sequence[Float[Tensor, "_ _"]], implementation: Implementation = "auto"
) -> Float[Tensor, "N o"]:
    """Apply the layers to x. ``weights``: (outputs, inputs) of each layer, the first one's first."""
    if accelerator_of(
        "mlp", implementation, x, *weights, obstacle=fusion_obstacle([len(w) for w in weights])
    ):
        return mlp_fused(x, weights)
    return mlp_torch(x, weights)


def mlp_torch(x: Float[Tensor, "N i"], weights: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "N o"]:
    """Apply the layers one by one."""
    # No nonlinearity behind the last layer.
    for weight in weights[:-1]:
        x = torch.relu(x @ weight.T)
    return x @ weights[-1].T


def fusion_obstacle(outputs: Sequence[int]) -> str:
    """Return why tinycudann's fused network has no such layers; empty where it has."""
    hidden = set(outputs[:-1])
    if len(hidden) == 1 and hidden <= set(WIDTHS):
        return ""
    return f"tinycudann fuses hidden layers of one width among {WIDTHS}, not {sorted(hidden)}"


def mlp_fused(x: Float[Tensor, "N i"], weights: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "N o"]:
    """Apply the layers by tinycudann's fused kernel."""
    module = network(x.shape[1], len(weights[-1]), len(weights[0]), len(weights) - 1, x.device)
    parameters, kept = pack_weights(weights), module.get_parameter("params").numel()
    if parameters.numel() != kept:
        raise ValueError(
            f"mlp: this version of tinycudann keeps {kept} numbers where {parameters.numel()} were "
            "expected; use otype: VanillaMLP"
        )
    return torch.func.functional_call(module, {"params": parameters}, (x,)).to(x.dtype)


def pack_weights(weights: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "P"]:
    """Return all layers in one line, row by row; inputs of the first and outputs of the last padded with zeros.

    tinycudann pads inputs with ones: with weights of zero they add nothing.
    """
    # tinycudann multiplies in blocks of 16.
    first = torch.nn.functional.pad(weights[0], (0, -weights[0].shape[1] % BLOCK))
    last = torch.nn.functional.pad(weights[-1], (0, 0, 0, -len(weights[-1]) % BLOCK))
    return torch.cat([w.flatten() for w in (first, *weights[1:-1], last)]).float()


@functools.lru_cache(maxsize=64)
def network(inputs: int, outputs: int, width: int, hidden: int, device: torch.device) -> torch.nn.Module:
    """Return tinycudann's network of this shape."""
    config = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": hidden,
    }
    return load_accelerator("tinycudann").Network(inputs, outputs, config).to(device)
