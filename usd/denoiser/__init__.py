"""Denoisers: a diffusion model as "the noise predicted in x_t at t under this condition".

``usd/denoiser/<name>.py`` holds one kind of model. A guidance asks ``open_text_denoiser`` or ``open_view_denoiser``
for a model by alias (``load/models.yaml``), folder or hub id, and never sees which library is behind it. Every
prediction is float32 and carries no gradient; ``encode`` is differentiable. Weights are frozen and stay out of
checkpoints.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypedDict, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from usd.core.errors import UserError
from usd.core.module import C, Module
from usd.core.types import LatentSpace, Render
from usd.denoiser.execution import DEFAULT_EXECUTION, Execution
from usd.math.camera import Cameras, camera_differences
from usd.math.view_groups import VIEW_GROUPS

Same = TypeVar("Same", bound="Embedding")


@dataclasses.dataclass(frozen=True)
class Embedding:
    """A condition for a batch of B pictures: all that a denoiser is given besides x_t and t.

    Each denoiser has its own kind, a frozen dataclass of tensors with one row per picture; a field is None where it is
    not used.
    """

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields in use, by name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}

    def map(self: Same, change: Callable[[str, Tensor], Tensor]) -> Same:
        """Return a copy with ``change(name, tensor)`` in place of every field in use."""
        return dataclasses.replace(self, **{name: change(name, x) for name, x in self.tensors().items()})

    def select(self: Same, index: Int[Tensor, "N"]) -> Same:
        """Return the rows ``index``, in that order (repeats allowed)."""
        return self.map(lambda _, x: x[index.to(x.device)])

    def lerp(self: Same, other: Same, share: Float[Tensor, "B"]) -> Same:
        """Return ``(1 - share) self + share other``, row by row."""
        theirs = other.tensors()

        def between(name: str, x: Tensor) -> Tensor:
            return torch.lerp(x, theirs[name], share.to(x).view(-1, *[1] * (x.dim() - 1)))

        return self.map(between)


class Denoiser(Module[C]):
    """A diffusion model. ``latent`` is its space, ``alphas_cumprod`` its schedule.

    ``components`` names the subfolders that it is loaded from (``a|b``: either will do); a denoiser with components has
    the options ``folder`` and ``execution``.
    """

    components: ClassVar[tuple[str, ...]] = ()
    group_size: ClassVar[int] = 1  # rows of a batch that are denoised together, at one t
    domains: ClassVar[tuple[str, ...]] = ("color",)  # what each camera's rows are pictures of
    backdrop: ClassVar[float] = 1.0  # gray level behind the object of a reference picture
    needs: ClassVar[frozenset[str]] = (
        frozenset()
    )  # outputs of the renderer beside colors that ``pictures`` reads
    latent: LatentSpace
    alphas_cumprod: Tensor
    name: str  # as the user wrote it, for messages

    def __init__(self, config: C, name: str = "") -> None:
        super().__init__(config)
        self.name = name

    @abstractmethod
    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Return the latents of pictures in [0, 1] of any size (resized inside). Differentiable."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 S S"]:
        """Return the pictures in [0, 1] of latents. Differentiable."""

    @abstractmethod
    def eps(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted in x_t, float32, without gradient."""

    @abstractmethod
    def unconditional(self, batch: int) -> Embedding:
        """Return the condition that says nothing, as the model was trained on it."""

    def with_cameras(
        self,
        embedding: Embedding,
        cameras: Cameras,  # noqa: ARG002 - for overrides
        reference: "EncodedReference | None" = None,  # noqa: ARG002 - for overrides
    ) -> Embedding:
        """Return a condition, or none, with each row's camera, if the model is given cameras without a condition, too.

        ``reference`` is the picture's, where there is one.
        """
        return embedding

    def pictures(self, render: Render, cameras: Cameras) -> Float[Tensor, "R 3 H W"]:  # noqa: ARG002 - for overrides
        """Return the pictures of a render that the model scores: its colors, unless it has other ``domains``."""
        return render.rgb

    def release_encoders(self) -> None:
        """Free the networks that only encode conditions; they are loaded again when needed."""


class TextDenoiser(Denoiser[C]):
    """A denoiser conditioned on a sentence. ``embedding`` is the class of what ``embed_text`` returns."""

    embedding: ClassVar[type[Embedding]]

    @abstractmethod
    def embed_text(self, prompts: Sequence[str]) -> Embedding:
        """Return the condition of prompts, one row per prompt."""

    def vocabulary(self) -> frozenset[str] | None:
        """Return the words it knows, where it reads whole words and knows only some; None where it reads anything."""
        return None

    def overflow(self, prompt: str) -> tuple[int, int] | None:  # noqa: ARG002 - for overrides
        """Return (tokens of the prompt, tokens it can read) where a prompt is too long for it, else None."""
        return None

    def fingerprint(self) -> str | None:
        """Return a digest of all that ``embed_text`` depends on but the prompt; None where that is nothing on disk."""
        return None

    def restore_embedding(self, tensors: Mapping[str, Tensor]) -> Embedding:
        """Return what ``embed_text`` returned, from its ``tensors()``."""
        return self.embedding(**tensors)


class ImageTextDenoiser(TextDenoiser[C]):
    """A text denoiser that also sees a picture: one to edit, or a map to follow."""

    @abstractmethod
    def with_image(self, embedding: Embedding, image: Float[Tensor, "B 3 H W"] | None) -> Embedding:
        """Return a condition of ``embed_text`` with pictures in [0, 1] beside the sentence, one per row.

        None is the picture that says nothing, as the model was trained on it.
        """


class EncodedReference:
    """A reference picture as a view denoiser keeps it: encoded once, used for every camera."""


class ViewDenoiser(Denoiser[C]):
    """A denoiser conditioned on a picture and on a camera relative to the picture's.

    ``assumes_elevation``: its views are made for the elevation of the camera that ``encode_reference`` is given, so
    that they agree with whatever was assumed.
    """

    assumes_elevation: bool = False

    @abstractmethod
    def encode_reference(self, rgb: Float[Tensor, "1 3 H W"], cameras: Cameras) -> EncodedReference:
        """Return the encoded reference picture, in [0, 1] over ``backdrop``, with its one camera."""

    @abstractmethod
    def embed_view(self, reference: EncodedReference, cameras: Cameras) -> Embedding:
        """Return the condition of views of a reference, one row per camera."""

    def expected_latents(
        self,
        reference: EncodedReference,  # noqa: ARG002 - for overrides
        cameras: Cameras,  # noqa: ARG002 - for overrides
    ) -> Float[Tensor, "B c h w"] | None:
        """Return the mean of the latents of views, where the model knows it without sampling; None where not."""
        return None


@dataclasses.dataclass(frozen=True)
class GroupConventions:
    """Published settings of a model of view groups: its input picture, and how its views are sampled.

    ``fraction`` is the object's longest side as a share of the picture's; None leaves a picture that is framed already.
    ``fovy_deg`` is the field of view of the picture; ``steps``, ``scale`` and ``noise_share`` are those of DDIM;
    ``start`` and ``expected_share`` are those of ``Sampler``, of a model that has expected latents.
    """

    fraction: float | None = 200 / 256
    fovy_deg: float = 49.1
    steps: int = 50
    scale: float = 2.0
    noise_share: float = 1.0
    start: float = 1.0
    expected_share: float = 0.0


class GroupDenoiser(Denoiser[C]):
    """A denoiser of V views together, from cameras that go with each other, at one t.

    x_t, t and embeddings have the rows of whole groups, ``group_size`` each: the views of a domain are adjacent, in the
    order of the group's cameras, and the domains follow one another. ``group`` is its name in ``VIEW_GROUPS``.
    """

    group: str
    conventions: ClassVar[GroupConventions] = GroupConventions()

    def group_cameras(self, reference: Cameras, size: int) -> Cameras:
        """Return the V cameras, ``size`` pixels a side, that go with the picture's (or the first view's) one camera."""
        return VIEW_GROUPS[self.group](reference, size)


class TextGroupDenoiser(GroupDenoiser[C], TextDenoiser[C]):
    """A text denoiser of groups, which is given the cameras of its views (``with_cameras``)."""


class ViewGroupDenoiser(GroupDenoiser[C], ViewDenoiser[C]):
    """A view denoiser whose views are denoised together, from the cameras of its group."""

    def refuse_other_cameras(self, cameras: Cameras, reference: Cameras) -> None:
        """Raise ``UserError`` unless these are the group's cameras, once or several times."""
        expected = self.group_cameras(reference, cameras.height)
        groups = [cameras[first : first + len(expected)] for first in range(0, len(cameras), len(expected))]
        fits = [
            len(group) == len(expected)
            and (group.span_y is None) == (expected.span_y is None)
            and float(camera_differences(group, expected).max()) < CAMERA_TOLERANCE
            for group in groups
        ]
        if not fits or not all(fits):
            raise UserError(
                f"'{self.name}' makes its own {len(expected)} views, and was asked for others; expected data that "
                f"draws them: view-group-datamodule with data.group {self.group}"
            )


CAMERA_TOLERANCE = 0.01
"""Difference of cameras, as ``camera_differences`` counts, below which they are the same."""


def is_local_folder(name: str) -> bool:
    """Return whether a model is a folder on this disk, so that opening it fetches nothing."""
    from usd.denoiser.entries import entry_of
    from usd.denoiser.load import local_model

    entry = entry_of(name)
    place = local_model(entry.path if entry else name)
    return place is not None and place.is_dir()


def open_text_denoiser(name: str, where: str, execution: Execution = DEFAULT_EXECUTION) -> TextDenoiser:
    """Open the text model behind an alias, a folder, a file or a hub id.

    ``where`` is the key path to blame in messages; ``execution`` says how the networks are kept in memory and run. The
    same model opened twice is one object. Raises UserError when it cannot be had or takes no text.
    """
    from usd.denoiser.load import open_model

    denoiser = open_model(name, "text", where, execution)
    if not isinstance(denoiser, TextDenoiser):
        raise _other_role(name, where, "a text model such as 'sd-2.1-base'")
    return denoiser


def open_view_denoiser(name: str, where: str, execution: Execution = DEFAULT_EXECUTION) -> ViewDenoiser:
    """Open the picture model behind an alias, a folder, a file or a hub id; see ``open_text_denoiser``.

    A pipeline that edits pictures is asked for views by their names (``named_views.py``).
    """
    from usd.denoiser.load import open_model
    from usd.denoiser.named_views import as_view_denoiser

    denoiser = as_view_denoiser(open_model(name, "view", where, execution))
    if not isinstance(denoiser, ViewDenoiser):
        raise _other_role(name, where, "a picture model such as 'zero123-xl'")
    return denoiser


def open_group_denoiser(name: str, where: str, execution: Execution = DEFAULT_EXECUTION) -> GroupDenoiser:
    """Open a model of view groups, from a picture or from a sentence; see ``open_text_denoiser``."""
    from usd.denoiser.load import open_model

    denoiser = open_model(name, "view", where, execution)
    if not isinstance(denoiser, GroupDenoiser):
        views = isinstance(denoiser, ViewDenoiser)
        other = ", or the cameras of one (usd views --cameras NAME)" if views else ""
        raise UserError(
            f"{where}: '{name}' has no cameras of its own; expected a model of view groups{other}"
        )
    return denoiser


def open_edit_denoiser(name: str, where: str, execution: Execution = DEFAULT_EXECUTION) -> ImageTextDenoiser:
    """Open a model that edits a picture as a sentence says; see ``open_text_denoiser``."""
    denoiser = open_text_denoiser(name, where, execution)
    if not isinstance(denoiser, ImageTextDenoiser):
        raise _other_role(name, where, "a model that edits pictures such as 'instruct-pix2pix'")
    return denoiser


def open_control_denoiser(
    name: str, control: str, where: str, execution: Execution = DEFAULT_EXECUTION, scale: float = 1.0
) -> ImageTextDenoiser:
    """Open Stable Diffusion ``name`` with ``scale`` times the ControlNet ``control``; see ``open_text_denoiser``."""
    from usd.denoiser.load import open_controlled

    return open_controlled(name, control, where, execution, scale)


def network_folder(name: str, role: str, where: str) -> Path:
    """Return the folder of a network that is published by itself: an alias, a folder or a hub id. Raises UserError.

    ``role`` is what it is for, such as "language".
    """
    from usd.denoiser.load import find_network

    return find_network(name, role, where)


def _other_role(name: str, where: str, expected: str) -> UserError:
    return UserError(f"{where}: '{name}' is not the kind of model wanted here; expected {expected}")


class StudentState(TypedDict):
    """The state of a student, as checkpoints hold it: its weights, and where its optimizer stands."""

    weights: list[Tensor]
    optimizer: dict[str, object] | None


@dataclasses.dataclass(frozen=True)
class StudentStep:
    """Settings of a student's step of AdamW, a factor of the loss, and the quantity that is compared."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight: float = 1.0
    target: Literal["noise", "prediction"] = "noise"


class Student:
    """A model that starts as a frozen one and learns other pictures, a step of AdamW at a time.

    It is no module, so that nobody moves it or saves the frozen part with it.
    """

    _optimizer: torch.optim.Optimizer | None = None

    @abstractmethod
    def learned(self) -> Iterator[torch.nn.Parameter]:
        """Return the weights that learn."""

    @abstractmethod
    def __call__(
        self, xt: Float[Tensor, "B c h w"], t: Int[Tensor, "B"], embedding: Embedding
    ) -> Float[Tensor, "B c h w"]:
        """Return the noise predicted in x_t, float32, with gradients for the weights that learn."""

    def with_camera(self, embedding: Embedding, camera: Float[Tensor, "B N"]) -> Embedding:  # noqa: ARG002 - for overrides
        """Return the embedding for a student that is also given N numbers of each view's camera."""
        return embedding

    def in_own_terms(
        self,
        difference: Float[Tensor, "B c h w"],
        t: Int[Tensor, "B"],  # noqa: ARG002 - for overrides
    ) -> Float[Tensor, "B c h w"]:
        """Return a difference of two noises as one of the quantity that its network predicts."""
        return difference

    def learn(
        self,
        xt: Float[Tensor, "B c h w"],
        t: Int[Tensor, "B"],
        embedding: Embedding,
        noise: Float[Tensor, "B c h w"],
        step: StudentStep,
    ) -> Float[Tensor, "B c h w"]:
        """Return what it predicts now, without gradient, after taking one step towards ``noise``.

        Where the error or its gradient is not finite, or its weight is 0, it learns nothing.
        """
        if step.weight == 0:
            with torch.no_grad():
                return self(xt, t, embedding)
        optimizer = self._optimizer = self._optimizer or torch.optim.AdamW(self.learned())
        for group in optimizer.param_groups:
            group.update(lr=step.lr, betas=step.betas, eps=step.eps)
        with torch.enable_grad():
            predicted = self(xt, t, embedding)
            difference = predicted - noise
            error = difference if step.target == "noise" else self.in_own_terms(difference, t)
            (step.weight * error.square().mean()).backward()
        if all(bool(weight.grad.isfinite().all()) for weight in self.learned() if weight.grad is not None):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return predicted.detach()

    def training_state(self) -> StudentState:
        """Return what it has learnt, and where its optimizer stands."""
        weights = [weight.detach().clone() for weight in self.learned()]
        return {"weights": weights, "optimizer": self._optimizer.state_dict() if self._optimizer else None}

    def load_training_state(self, state: StudentState) -> None:
        """Go on from an earlier ``training_state``. Raises UserError where it is of another model or rank."""
        mine, kept = list(self.learned()), state["weights"]
        if [weight.shape for weight in mine] != [weight.shape for weight in kept]:
            raise UserError("the checkpoint's student is of another model or rank than this one")
        for weight, value in zip(mine, kept, strict=True):
            weight.data.copy_(value)
        if state["optimizer"] is not None:
            self._optimizer = torch.optim.AdamW(mine)
            self._optimizer.load_state_dict(state["optimizer"])


def open_student(model: Denoiser, rank: int, camera_numbers: int = 0) -> Student:
    """Return a student of ``model`` on its device; ``rank`` is that of its LoRA.

    ``camera_numbers`` are how many numbers of a view's camera it is given beside the model's own condition. Raises
    UserError where there can be no student.
    """
    from usd.denoiser.student import student_of

    return student_of(model, rank, camera_numbers)


def check_shared_latents(first: Denoiser, second: Denoiser, where: str) -> None:
    """Raise UserError unless two models share channels, pixels per latent, scaling and noise schedule."""
    a, b = _space(first), _space(second)
    if a != b:
        spaces = "; ".join(f"'{m.name}' has {_description(s)}" for m, s in ((first, a), (second, b)))
        raise UserError(f"{where}: the two models do not share a latent space: {spaces}")
    if not torch.allclose(
        first.alphas_cumprod, second.alphas_cumprod.to(first.alphas_cumprod.device), atol=1e-4
    ):
        raise UserError(
            f"{where}: '{first.name}' and '{second.name}' were trained with different noise schedules"
        )


def _space(model: Denoiser) -> tuple[int, int, float]:
    space = model.latent
    return space.channels, space.image_size // space.height, round(space.scaling_factor, 6)


def _description(space: tuple[int, int, float]) -> str:
    return f"{space[0]} channels, {space[1]} px each, scaling {space[2]:g}"
