"""An experiment of the same parts at a size that takes seconds, for a dry run.

The first of its two steps is as the training's first, the second as its last: a loss that starts late, a resolution
that grows, a shading that comes after a thousand steps are all tried.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from usd.app.experiment import Experiment, TrainerConfig
from usd.core.config import Spec
from usd.core.schedule import Schedule

STEPS = 2
LARGEST: Mapping[str, int] = {
    # pictures and views
    "height": 16,
    "width": 16,
    "reference_height": 16,
    "sample_height": 8,
    "sample_width": 8,
    "eval_height": 16,
    "eval_width": 16,
    "batch_size": 2,
    "eval_batch_size": 1,
    "n_val_views": 1,
    "n_test_views": 1,
    "views": 2,
    "train_num_rays": 64,
    "rays": 64,
    "workers": 0,
    # fields and rays
    "n_levels": 3,
    "log2_hashmap_size": 10,
    "base_resolution": 8,
    "start_level": 2,
    "n_neurons": 16,
    "hidden_channels": 8,
    "discriminator_channels": 4,
    "grid_size": 12,
    "grid_resolution": 16,
    "isosurface_resolution": 16,
    "num_samples_per_ray": 16,
    "num_samples_per_ray_importance": 8,
    "num_samples_per_ray_proposal": 8,
    "patch_size": 8,
    "global_downsample": 2,
    # the mesh that is written
    "resolution": 16,
    "target_faces": 500,
    "texture_size": 64,
    "check_views": 1,
    "check_size": 16,
    "unwrap_time_limit": 0,
    # what happens after so many steps, or so many times a step
    "ambient_only_steps": 1,
    "latent_steps": 1,
    "ref_only_steps": 0,
    "no_diff_steps": 1,
    "fit_steps": 1,
    "start_editing_step": 1,
    "per_editing_step": 1,
    "trainer_max_steps": STEPS,
    "start_step": 1,
    "update_steps": 1,
    "progressive_until": 1,
    "cos_anneal_end_steps": STEPS,
    "grid_update_steps": 1,
    "inversion_steps": 2,
    "diffusion_steps": 2,
    "lora_n_timestamp_samples": 1,
}
"""Name of an option -> the largest number that it has in a dry run, wherever it stands."""

INSTEAD: Mapping[str, object] = {
    "isosurface_threshold": "auto",
    "reference_elevation_deg": 0.0,
    "compile": "no",
    "use_cache": False,
}
"""Name of an option -> its value where it may have it: what two steps cannot have made, and what takes minutes."""

C = TypeVar("C")


def shrink(experiment: Experiment) -> Experiment:
    """Return an experiment that takes seconds, and writes to the same place."""
    trainer = experiment.trainer
    shrinker = _Shrinker(trainer.max_steps)
    return replace(
        experiment,
        data=shrinker.spec(experiment.data),
        system=shrinker.spec(experiment.system),
        exporter=shrinker.spec(experiment.exporter),
        trainer=_short(trainer),
        checkpoint=replace(experiment.checkpoint, save_last=True, every_n_train_steps=None),
    )


def _short(trainer: TrainerConfig) -> TrainerConfig:
    """Return the trainer for two steps that end with a validation view; a step that is not finite ends it."""
    return replace(
        trainer,
        max_steps=STEPS,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        val_check_interval=STEPS,
        enable_progress_bar=False,
        batch_parts=min(trainer.batch_parts, 2),
        max_skipped_steps=0,
        test_after_fit=False,
    )


class _Shrinker:
    """Walks through the options of components; ``steps`` is how long the training is at its real size."""

    def __init__(self, steps: int) -> None:
        self.last = max(1, steps - 1)

    def spec(self, spec: Spec) -> Spec:
        return replace(spec, config=self.options(spec.config))

    def options(self, config: C) -> C:
        """Return a dataclass of options with each of them shrunk."""
        changed: dict[str, object] = {}
        for field in dataclasses.fields(config):  # type: ignore[arg-type]  # a dataclass, which C cannot say
            value = getattr(config, field.name)
            changed[field.name] = self._value(field.name.removesuffix("_"), value)
        return replace(config, **changed)  # type: ignore[type-var]  # likewise

    def _value(self, name: str, value: object) -> object:
        if isinstance(value, Spec):
            return self.spec(value)
        if isinstance(value, Schedule):
            return Schedule((0, 1), (value(0), value(self.last)))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self.options(value)
        if isinstance(value, Mapping):
            return {key: self._value(str(key), item) for key, item in value.items()}
        if name == "resolution_milestones" or name.endswith("_milestones"):
            return (1,) * len(value) if isinstance(value, tuple) else value
        if name in INSTEAD:
            return INSTEAD[name] if self._may_be(name, value) else value
        return _smaller(value, LARGEST[name]) if name in LARGEST else value

    def _may_be(self, name: str, value: object) -> bool:
        """Return whether the option takes the value: a threshold of densities is positive, one of distances is not."""
        if name == "isosurface_threshold":
            return isinstance(value, float | int) and value > 0
        return name != "reference_elevation_deg" or value == "auto"


def _smaller(value: object, largest: int) -> object:
    """Return a number, or a list of them, none of which is larger."""
    if isinstance(value, tuple):
        return tuple(_smaller(item, largest) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return min(value, type(value)(largest))
    return value
