"""Students: trainable models that start as a frozen one and learn other pictures (for variational distillation)."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser import Denoiser, Embedding, Student
from usd.denoiser.gaussian import GaussianDenoiser, Normal
from usd.denoiser.latent import LatentDenoiser, NetworkInput
from usd.denoiser.lora import LoraConfig, add_lora
from usd.math.diffusion import eps_from_v, gaussian_eps


def student_of(model: Denoiser, rank: int) -> Student:
    """Return a LoRA on a copy of the model's UNet, or a normal distribution to fit. Raises ``UserError`` for others."""
    if isinstance(model, LatentDenoiser):
        return LoraStudent(model, rank)
    if isinstance(model, GaussianDenoiser):
        return NormalStudent(model)
    raise UserError(f"'{model.name}' cannot be taught; expected a model with a UNet")


class LoraStudent(Student):
    """A copy of the UNet, fp32, of which only the LoRA learns. Its first weights are always the same."""

    def __init__(self, model: LatentDenoiser, rank: int) -> None:
        device, self.model = model.alphas_cumprod.device, model
        with model.unet.use(device) as unet, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = copy.deepcopy(unet).to(torch.device("cpu"), torch.float32)
            self.network: Any = add_lora(network, LoraConfig(rank=rank)).to(device)

    def learned(self) -> Iterator[torch.nn.Parameter]:
        return (weight for weight in self.network.parameters() if weight.requires_grad)

    def __call__(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        assert isinstance(embedding, NetworkInput)
        x = xt if embedding.latent is None else torch.cat([xt, embedding.latent.to(xt)], 1)
        time = None if embedding.time is None else embedding.time.to(xt)
        tokens = embedding.tokens.to(xt)
        with torch.autocast(xt.device.type, enabled=False):
            said = self.network(x, t, encoder_hidden_states=tokens, class_labels=time).sample
        bars = self.model.alphas_cumprod
        return eps_from_v(xt, said, bars, t) if self.model.predicts == "v_prediction" else said


class NormalStudent(Student):
    """Mean and spread of the pictures it is shown, told nothing else; starts as what the model expects of anything."""

    def __init__(self, model: GaussianDenoiser) -> None:
        self.bars, told = model.alphas_cumprod, model.unconditional(1)
        self.mean = torch.nn.Parameter(told.mean.clone())
        self.log_std = torch.nn.Parameter(told.std.log())

    def learned(self) -> Iterator[torch.nn.Parameter]:
        return iter((self.mean, self.log_std))

    def __call__(
        self, xt: Float[Tensor, "B 3 S S"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B 3 S S"]:
        assert isinstance(embedding, Normal)
        return gaussian_eps(xt, self.mean.expand_as(xt), self.log_std.exp().expand(len(xt)), self.bars, t)
