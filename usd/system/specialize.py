"""Two-step specialization: a text model learns one object from one picture, by LoRA (arXiv 2312.06198; 2208.12242).

    step 1   instance: the input picture and novel views, "photo of a [V] NAME"    class: "photo of a NAME"
    step 2   instance: the input picture, "photo of a [S] [V] NAME"                class: the novel views, as in step 1

Every training step takes pictures of both sets; the class pictures, which the model made itself, keep it from
forgetting its kind. Step 1 teaches what the object is, step 2 what a clear picture of it is. The sets are made at the
start and kept in ``save/sets``; the result is ``save/lora``, for diffusers, peft, and ``refine-system``.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from usd.core import ranks
from usd.core.config import ConfigError, option
from usd.core.errors import UserError
from usd.core.registry import register
from usd.data.pictures import contact_sheet, write_picture
from usd.data.random_camera import CameraBatch, RandomCameras
from usd.data.reference import ReferenceConfig, load_reference
from usd.denoiser import Execution, ViewDenoiser, open_text_denoiser, open_view_denoiser
from usd.denoiser.attention import plain_attention
from usd.denoiser.lora import Card, LoraConfig, add_lora, write_lora
from usd.denoiser.stable_diffusion import StableDiffusionDenoiser
from usd.exporter import Exporter
from usd.math.camera import Cameras, join_cameras
from usd.math.diffusion import (
    EpsFn,
    add_noise,
    alpha_sigma,
    ddim_sample,
    ddim_timesteps,
    eps_from_v,
    guided_fn,
    normal_like,
    sample_timesteps,
    timestep_range,
)
from usd.prompt_processor.prompt_checks import check
from usd.system import PictureSource, System
from usd.system.specialize_sets import (
    NovelViews,
    PromptsConfig,
    SamplingConfig,
    class_set,
    encode_set,
    given_set,
    input_set,
    join_sets,
    novel_view_set,
)

SHEET_COLUMNS = 4  # pictures of each prompt on a sheet


@dataclass(frozen=True)
class SpecializeConfig(System.Config):
    """Models, pictures, prompts and schedule of a specialization."""

    pretrained_model_name_or_path: str = option("sd-2.1-base", "text model to specialize", path=True)
    zero123_model_name_or_path: str = option(
        "zero123-xl", "picture model that makes the novel views", path=True
    )
    half_precision_weights: bool = option(
        True, "fp16 weights on CUDA where pictures are sampled, unless models.weights says otherwise"
    )
    models: Execution = option({}, "how the models that make the pictures are kept in memory and run")
    image_path: str = option(help="input picture", path=True)
    reference: ReferenceConfig = option({}, "preparation of the input picture")
    views: str | None = option(
        None, "views to learn from in place of Zero-1-to-3's: a folder, a trial, a toybox seed", path=True
    )
    subject: str = option("object", "word for what the picture shows")
    object_token: str = option("sks", "rare word that comes to mean this object")
    input_token: str = option("hta", "rare word that comes to mean the clarity of the input picture")
    prompts: PromptsConfig = option({}, "prompts of the three sets")
    n_class_pictures: int = option(
        200, "pictures of the object's kind, made by the text model", ge=1, le=1000000
    )
    view_sampling: SamplingConfig = option({}, "sampling of the novel views")
    class_sampling: SamplingConfig = option({"scale": 7.5}, "sampling of the pictures of the object's kind")
    second_step_from: int = option(
        600, "training step at which step 2 begins; its optimizer starts anew", ge=0
    )
    pictures_per_step: int = option(1, "pictures of each of the two sets in a training step", ge=1, le=65536)
    prior_weight: float = option(1.0, "weight of the class pictures' error", ge=0)
    min_step_percent: float = option(
        0.0, "smallest time that is drawn, as a share of the schedule", ge=0, le=1
    )
    max_step_percent: float = option(
        1.0, "largest time that is drawn, as a share of the schedule", ge=0, le=1
    )
    lora: LoraConfig = option({}, "rank and place of the LoRA that is learned")

    def picture_source(self) -> PictureSource | None:
        """Return the input picture and the model of novel views."""
        keys = "system.image_path", "system.zero123_model_name_or_path"
        execution = self.models.single(self.half_precision_weights)
        return PictureSource(
            self.image_path, self.reference, self.zero123_model_name_or_path, execution, keys
        )


@dataclass(frozen=True)
class TrainingSet:
    """Latents and the prompt that goes with them (its tokens)."""

    latents: Float[Tensor, "N c h w"]
    tokens: Float[Tensor, "1 K W"]

    def draw(self, count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` latents with repetition; return them and their tokens."""
        chosen = torch.randint(len(self.latents), (count,), generator=source, device=source.device)
        return self.latents[chosen.to(self.latents.device)], self.tokens.expand(count, -1, -1)


@register("specialise-system", "specialise")
class SpecializeSystem(System[SpecializeConfig, CameraBatch]):
    """Specialization of a text model by LoRA.

    Needs data that knows the reference camera and the cameras of the novel views, those of its test.
    """

    def build(self) -> None:
        """Read the picture, open the text model, add the LoRA. Raises ``UserError``."""
        config = self.config
        self.prompts = config.prompts.fill(
            "system.prompts",
            subject=config.subject,
            object_token=config.object_token,
            input_token=config.input_token,
        )
        self.reference = load_reference(config.image_path, config.reference, "system.image_path")
        if config.min_step_percent > config.max_step_percent:
            raise ConfigError("system.min_step_percent: is above max_step_percent; expected at most that")
        self.model = self._open_text_model()
        unet = torch.nn.Module.float(self.model.files.network("unet"))  # published weights are often halves
        self.unet = add_lora(unet.train(), config.lora)
        self.sets: dict[str, tuple[TrainingSet, TrainingSet]] = {}

    def _open_text_model(self) -> StableDiffusionDenoiser:
        """Open the text model. Raises ``UserError`` for one without a UNet."""
        name, where = self.config.pretrained_model_name_or_path, "system.pretrained_model_name_or_path"
        model = open_text_denoiser(name, where, self._execution)
        if not isinstance(model, StableDiffusionDenoiser):
            raise UserError(f"{where}: '{name}' has no UNet to be changed; expected a Stable Diffusion model")
        return model

    @property
    def _execution(self) -> Execution:
        """Options of the execution of models, with the published key taken into account."""
        return self.config.models.single(self.config.half_precision_weights)

    # ----------------------------------------------------------------------------------------------------- sets

    def on_fit_start(self) -> None:
        """Make the sets, or read what an earlier run has made of them."""
        if self.device.type == "cpu":
            plain_attention(self.unet)
        self.model.to(self.device)
        check(self.model, (self.prompts.class_, self.prompts.object, self.prompts.input), "system.prompts")
        size, folder = self.model.latent.image_size, self.save_dir / "sets"
        own = input_set(folder / "input", self.reference.over(size))
        views = self._views(folder / "views", size)
        kind = class_set(
            folder / "class",
            self.model,
            self.prompts.class_,
            self.config.n_class_pictures,
            self.config.class_sampling,
            self.seed,
        )
        tokens = self.model.embed_text([self.prompts.class_, self.prompts.object, self.prompts.input]).tokens
        of_kind, of_object, of_input = tokens[0:1], tokens[1:2], tokens[2:3]
        sets = [join_sets([own, views], size), kind, own, views]
        latents = [
            encode_set(self.model, pictures, self.config.class_sampling.batch_size) for pictures in sets
        ]
        all_views, kinds, single, novel = latents
        self.sets = {
            "1": (TrainingSet(all_views, of_object), TrainingSet(kinds, of_kind)),
            "2": (TrainingSet(single, of_input), TrainingSet(novel, of_object)),
        }
        self.model.release_encoders()
        self.model.unet.drop()  # what is trained is a copy

    def _views(self, folder: Path, size: int) -> Float[Tensor, "N 3 S S"]:
        """Return the novel views, given or made."""
        if self.config.views is not None:
            return given_set(folder, self.config.views, size)
        reference, cameras = self._cameras()
        model = self._open_view_model()
        picture = self.reference.over(model.latent.image_size)
        source = NovelViews(model, self.model, picture, reference, cameras)
        views = novel_view_set(folder, source, self.config.view_sampling, self.seed)
        return join_sets([views], size)

    def _open_view_model(self) -> ViewDenoiser:
        """Open the picture model."""
        name, where = self.config.zero123_model_name_or_path, "system.zero123_model_name_or_path"
        model = open_view_denoiser(name, where, self._execution)
        return model.to(self.device)

    def _cameras(self) -> tuple[Cameras, Cameras]:
        """Return the camera of the input picture, and those of the novel views."""
        data = self.data
        reference = data.reference() if isinstance(data, RandomCameras) else None
        if not isinstance(data, RandomCameras) or reference is None:
            raise ConfigError("data_type: knows no reference camera; expected usd-random-camera-datamodule")
        batches: list[CameraBatch] = data.eval_batches("test")
        return reference, join_cameras([batch.cameras for batch in batches])

    # ------------------------------------------------------------------------------------------------- training

    def on_train_batch_start(self, batch_idx: int) -> None:
        """Update modules; where step 2 begins the optimizer forgets step 1."""
        super().on_train_batch_start(batch_idx)
        if self.global_step == self.config.second_step_from:
            self.trainer.optimizers[0].state.clear()

    @override
    def compute(self, batch: CameraBatch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the errors of both sets' pictures."""
        config = self.config
        instance, kind = self.sets["1" if step < config.second_step_from else "2"]
        count = config.pictures_per_step
        columns = [pictures.draw(count, generator) for pictures in (instance, kind)]
        x0, tokens = (torch.cat(column) for column in zip(*columns, strict=True))
        low, high = timestep_range(config.min_step_percent, config.max_step_percent, self._n_times)
        t = sample_timesteps(len(x0), low, high, generator, x0.device)
        noise = normal_like(x0, generator)
        xt = add_noise(x0, noise, self.model.alphas_cumprod, t)
        error = (self._predict(xt, t, tokens) - self._target(x0, noise, t)).square()
        rows = error.mean(dim=(1, 2, 3))
        return {"instance": rows[:count].mean(), "class": config.prior_weight * rows[count:].mean()}

    @property
    def _n_times(self) -> int:
        """Number of times of the model's noise schedule."""
        return len(self.model.alphas_cumprod)

    def _target(self, x0: Tensor, noise: Tensor, t: Int[Tensor, "B"]) -> Tensor:
        """Return what the network is to predict from x_t: noise or v."""
        if self.model.predicts == "epsilon":
            return noise
        alpha, sigma = alpha_sigma(self.model.alphas_cumprod, t)
        return alpha * noise - sigma * x0

    def _predict(self, xt: Tensor, t: Int[Tensor, "B"], tokens: Tensor) -> Tensor:
        """Return the network's own prediction, float32."""
        return self.unet(xt, t, encoder_hidden_states=tokens).sample.float()

    # -------------------------------------------------------------------------------------------------- results

    def on_fit_end(self) -> None:
        """Write the LoRA."""
        if ranks.rank() == 0:
            self.publish(self.save_dir / "lora")

    @override
    def export(self, exporter: Exporter, folder: Path) -> list[Path]:
        """Write the LoRA, whatever the exporter; return its files."""
        return self.publish(folder)

    def publish(self, folder: Path) -> list[Path]:
        """Write the LoRA and its card; return the files."""
        card = Card(base_model=self.config.pretrained_model_name_or_path, prompt=self.prompts.input)
        return write_lora(self.unet, folder, card)

    @override
    def validate(self, batch: CameraBatch, index: int) -> None:
        """Write a sheet of samples."""
        self._write_samples(index)

    @override
    def test(self, batch: CameraBatch, index: int) -> None:
        """Write a sheet of samples."""
        self._write_samples(index)

    @torch.no_grad()
    def _write_samples(self, index: int) -> None:
        """Write ``it<step>-samples.png``: a row of pictures for each of the three prompts."""
        if index > 0:
            return
        prompts = (self.prompts.class_, self.prompts.object, self.prompts.input)
        self.model.to(self.device)
        rows = [self._sample(prompt) for prompt in prompts]
        self.model.release_encoders()
        sheet = contact_sheet(torch.cat(rows), columns=SHEET_COLUMNS)
        write_picture(self.save_dir / f"it{self.step}-samples.png", sheet)

    def _sample(self, prompt: str) -> Float[Tensor, "N 3 S S"]:
        """Return pictures of a prompt, on the CPU."""
        model, sampling = self.model, self.config.class_sampling
        cond, uncond = model.embed_text([prompt]).tokens, model.unconditional(1).tokens
        space = model.latent
        shape = torch.empty(SHEET_COLUMNS, space.channels, space.height, space.width)
        noise = normal_like(shape, torch.Generator("cpu").manual_seed(0)).to(self.device)
        fn = guided_fn(self._predictor(cond), self._predictor(uncond), sampling.scale)
        times = ddim_timesteps(sampling.steps, self._n_times - 1)
        return model.decode(ddim_sample(fn, noise, times, model.alphas_cumprod)).cpu()

    def _predictor(self, tokens: Float[Tensor, "1 K W"]) -> EpsFn:
        """Return the noise predictor of the specialized model under one prompt."""

        def eps(xt: Tensor, t: Tensor) -> Tensor:
            output = self._predict(xt, t, tokens.expand(len(xt), -1, -1))
            is_v = self.model.predicts == "v_prediction"
            return eps_from_v(xt, output, self.model.alphas_cumprod, t) if is_v else output

        return eps

    # ---------------------------------------------------------------------------------------------- checkpoints

    def state_dict(  # type: ignore[override]  # torch's own signature
        self, *, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Return the LoRA alone: the model that it changes is where it came from."""
        return {
            key: value
            for key, value in super().state_dict(prefix=prefix, keep_vars=keep_vars).items()
            if "lora_" in key
        }
