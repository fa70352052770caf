"""Students: trainable models that start as a frozen one and learn other pictures (for variational distillation)."""

import copy
import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.denoiser import Denoiser, Embedding, Student
from usd.denoiser.gaussian import GaussianDenoiser, Normal
from usd.denoiser.latent import LatentDenoiser, NetworkInput
from usd.denoiser.lora import LoraConfig, add_lora
from usd.denoiser.named_views import NamedViewsDenoiser
from usd.denoiser.pipeline import PipelineDenoiser, PromptTokens, Transformer
from usd.math.diffusion import alpha_sigma, eps_from_v, gaussian_eps


def student_of(model: Denoiser, rank: int, camera_numbers: int = 0) -> Student:
    """Return a LoRA on a copy of the model's network, or a normal distribution to fit. Raises ``UserError``."""
    if model.group_size > 1:
        raise UserError(
            f"'{model.name}' cannot learn: it denoises its views together; expected a model of single views"
        )
    if isinstance(model, NamedViewsDenoiser):
        return student_of(model.edit, rank, camera_numbers)
    if isinstance(model, LatentDenoiser):
        return LoraStudent(model, rank, camera_numbers)
    if isinstance(model, PipelineDenoiser):
        return PipelineStudent(model, rank, camera_numbers)
    if isinstance(model, GaussianDenoiser):
        return NormalStudent(model)
    raise UserError(f"'{model.name}' cannot learn; expected a model with a UNet or a transformer")


class CameraEmbedding(torch.nn.Sequential):
    """Two layers from the numbers of a camera to the width of the time embedding; at first it gives zeros."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__(torch.nn.Linear(numbers, width), torch.nn.SiLU(), torch.nn.Linear(width, width))
        last = self[2]
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)


class LoraStudent(Student):
    """A copy of the UNet, fp32, of which only the LoRA learns, and a camera embedding where it is given cameras.

    Its first weights are always the same.
    """

    def __init__(self, model: LatentDenoiser, rank: int, camera_numbers: int = 0) -> None:
        device, self.model = model.alphas_cumprod.device, model
        with model.unet.use(device) as unet, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = copy.deepcopy(unet)
            assert isinstance(network, torch.nn.Module)
            torch.nn.Module.to(network, torch.device("cpu"), torch.float32)  # not diffusers' own, which talks
            network = add_lora(network, LoraConfig(rank=rank))
            if camera_numbers:
                add_camera(network, camera_numbers, model.name)
            self.network = network.to(device)

    def learned(self) -> Iterator[torch.nn.Parameter]:
        """Return the weights of the LoRA, and of the camera embedding."""
        return (weight for weight in self.network.parameters() if weight.requires_grad)

    def __call__(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted by the changed UNet."""
        assert isinstance(embedding, NetworkInput)
        x = xt if embedding.latent is None else torch.cat([xt, embedding.latent.to(xt)], 1)
        time = None if embedding.time is None else embedding.time.to(xt)
        tokens = embedding.tokens.to(xt)
        with torch.autocast(xt.device.type, enabled=False):
            output = self.network(x, t, encoder_hidden_states=tokens, class_labels=time).sample
        return eps_from_v(xt, output, self.model.alphas_cumprod, t) if self._predicts_v else output

    def with_camera(self, embedding: Embedding, camera: Float[Tensor, "B N"]) -> Embedding:
        """Return the embedding with the camera in the place of the vector beside the time."""
        assert isinstance(embedding, NetworkInput)
        return dataclasses.replace(embedding, time=camera)

    def in_own_terms(
        self, difference: Float[Tensor, "B c h w"], t: Int[Tensor, "B"]
    ) -> Float[Tensor, "B c h w"]:
        """Return a difference of two noises as one of v = (noise - sigma x_t) / alpha where the network predicts v."""
        return difference / alpha_sigma(self.model.alphas_cumprod, t)[0] if self._predicts_v else difference

    @property
    def _predicts_v(self) -> bool:
        return self.model.predicts == "v_prediction"


def add_camera(unet: torch.nn.Module, numbers: int, name: str) -> None:
    """Give a UNet of diffusers an embedding of cameras, added to that of the time (arXiv 2305.16213, section 4).

    Raises ``UserError`` where the model already has a vector there.
    """
    if getattr(unet, "class_embedding", None) is not None:
        raise UserError(
            "system.guidance.camera_condition_type: '"
            f"{name}' has another vector beside the time already; expected none"
        )
    width = unet.get_parameter("time_embedding.linear_2.weight").shape[0]
    unet.class_embedding = CameraEmbedding(numbers, width)


class PipelineStudent(Student):
    """A copy of the network of a pipeline's model, fp32, of which only the LoRA learns. It takes no camera."""

    def __init__(self, model: PipelineDenoiser, rank: int, camera_numbers: int = 0) -> None:
        if camera_numbers:
            raise UserError(
                f"system.guidance.camera_condition_type: '{model.name}' takes no camera; expected none"
            )
        device, self.model = model.alphas_cumprod.device, model
        with model.network.use(device) as network, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            assert isinstance(network, torch.nn.Module)
            copied = copy.deepcopy(network).to(torch.device("cpu"), torch.float32)
            self.network = add_lora(copied, LoraConfig(rank=rank)).to(device)

    def learned(self) -> Iterator[torch.nn.Parameter]:
        """Return the weights of the LoRA."""
        return (weight for weight in self.network.parameters() if weight.requires_grad)

    def __call__(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted by the changed transformer."""
        assert isinstance(embedding, PromptTokens) and isinstance(self.network, Transformer)
        return self.model.eps_of(self.network, xt, t, embedding, torch.float32)

    def in_own_terms(
        self, difference: Float[Tensor, "B c h w"], t: Int[Tensor, "B"]
    ) -> Float[Tensor, "B c h w"]:
        """Return a difference of two noises as one of what the network predicts."""
        return difference / self.model.noise_per_prediction(t).view(-1, 1, 1, 1)


class NormalStudent(Student):
    """Mean and spread of the pictures it is shown, whatever their condition; it starts as the unconditional ones."""

    def __init__(self, model: GaussianDenoiser) -> None:
        self.bars, start = model.alphas_cumprod, model.unconditional(1)
        self.mean = torch.nn.Parameter(start.mean.clone())
        self.log_std = torch.nn.Parameter(start.std.log())

    def learned(self) -> Iterator[torch.nn.Parameter]:
        """Return mean and log of the spread."""
        return iter((self.mean, self.log_std))

    def __call__(
        self, xt: Float[Tensor, "B 3 S S"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B 3 S S"]:
        """Return the exact prediction for the distribution learned so far."""
        assert isinstance(embedding, Normal)
        return gaussian_eps(xt, self.mean.expand_as(xt), self.log_std.exp().expand(len(xt)), self.bars, t)
