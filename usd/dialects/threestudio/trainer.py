"""``trainer``, ``checkpoint`` and the top level: Lightning's arguments, of which some stand elsewhere here."""

import math

from usd.core.errors import ConfigError
from usd.dialects.draft import Draft

DERIVED = ("n_gpus", "exp_dir", "trial_name", "trial_dir")
"""What threestudio writes into a trial's parsed.yaml and computes itself."""

UNNEEDED = (
    "max_epochs",
    "min_epochs",
    "min_steps",
    "max_time",
    "limit_train_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "check_val_every_n_epoch",
    "enable_model_summary",
    "enable_checkpointing",
    "inference_mode",
    "benchmark",
    "deterministic",
    "use_distributed_sampler",
    "reload_dataloaders_every_n_epochs",
    "sync_batchnorm",
    "profiler",
    "detect_anomaly",
    "barebones",
    "default_root_dir",
    "logger",
    "callbacks",
    "plugins",
    "fast_dev_run",
    "overfit_batches",
    "gradient_clip_algorithm",
)
DEVICES = ("devices", "accelerator", "strategy", "num_nodes")
CHECKPOINT_UNNEEDED = (
    "monitor",
    "mode",
    "every_n_epochs",
    "filename",
    "dirpath",
    "verbose",
    "save_weights_only",
    "auto_insert_metric_name",
    "save_on_train_epoch_end",
    "train_time_interval",
    "enable_version_counter",
)


def translate_trainer(draft: Draft) -> None:
    """Translate what says how long and on what a training runs, and what it keeps."""
    for key in DERIVED:
        draft.pop(key)
    if draft.get("timestamp") == "":
        draft.pop("timestamp")
    draft.drop_because(
        "custom_import",
        "modules of threestudio cannot be imported here; components of your own stand in custom/",
    )
    translate_batches(draft)
    draft.drop(*[f"trainer.{key}" for key in UNNEEDED])
    for key in DEVICES:
        draft.drop_because(f"trainer.{key}", "is not read; --gpu says what to train on")
    _translate_checkpoint(draft)
    if draft.get("system.loggers.wandb.name") == "None":
        draft.set("system.loggers.wandb.name", None)


def translate_batches(draft: Draft) -> None:
    """Accumulated batches become a larger one in as many parts; a limit of validation batches, a number of views."""
    parts = _whole_number(draft, "trainer.accumulate_grad_batches", 1)
    if parts is not None and parts > 1:
        key = _cameras(draft)
        size = draft.get(f"{key}.batch_size")
        sizes = (
            [x * parts for x in size]
            if isinstance(size, list)
            else (size if isinstance(size, int | float) else 1) * parts
        )
        draft.set(f"{key}.batch_size", sizes)
        draft.write_from("trainer.accumulate_grad_batches", "trainer.batch_parts", parts)
        draft.note(
            f"trainer.accumulate_grad_batches: a step's {parts} batches are one batch in {parts} parts here"
        )
    draft.pop("trainer.accumulate_grad_batches")
    _translate_interval(draft)
    _translate_limit(draft)


def _translate_interval(draft: Draft) -> None:
    """Turn an interval of validations that counts epochs, as a float up to 1 does, into none: there is one epoch."""
    key = "trainer.val_check_interval"
    every = draft.get(key)
    if not isinstance(every, float) or every > 1:
        return
    if every not in (0, 1):
        raise ConfigError(
            f"{key}: {every:g} is a part of an epoch, and a training is one endless epoch; expected a number of steps"
        )
    draft.set(key, 0)
    if every:
        draft.note(
            f"{key}: {every} is the end of an epoch, and a training is one endless epoch: no validation"
        )


def _translate_limit(draft: Draft) -> None:
    """Turn a limit of validation batches into a number of views, or into none."""
    old, limit = "trainer.limit_val_batches", draft.get("trainer.limit_val_batches")
    if limit is None or (limit == 1.0 and isinstance(limit, float)):  # all of them
        draft.pop(old)
        return
    limit = _whole_number(draft, old, 0)
    assert limit is not None
    if limit == 0:
        draft.write_from(old, "trainer.val_check_interval", 0)
        draft.note(f"{old}: 0 is trainer.val_check_interval: 0 here, no validation")
        return
    key = f"{_cameras(draft)}.n_val_views"
    views = draft.get(key)
    draft.write_from(old, key, min(limit, views) if isinstance(views, int) else limit)
    draft.note(f"{old}: is {key.replace('.random_camera', '')}: {draft.get(key)} here")


def _whole_number(draft: Draft, key: str, least: int) -> int | None:
    """Return the whole number at a key; None where nothing is. Raises ``ConfigError`` for less than ``least``."""
    value = draft.get(key)
    if value is None:
        return None
    number = -math.inf if isinstance(value, bool) or not isinstance(value, int | float) else value
    if float(number).is_integer() and number >= least:
        return int(number)
    raise ConfigError(f"{key}: expected an integer, {least} or more, got {value!r}")


def _cameras(draft: Draft) -> str:
    """Return the key of the section that says which views there are."""
    return (
        "data.random_camera"
        if draft.get("data_type") in ("single-image-datamodule", "co3d-datamodule")
        else "data"
    )


def _translate_checkpoint(draft: Draft) -> None:
    """Turn a number of steps of 0, which means never, into null."""
    draft.drop(*[f"checkpoint.{key}" for key in CHECKPOINT_UNNEEDED])
    steps = draft.get("checkpoint.every_n_train_steps")
    if steps == 0:
        draft.set("checkpoint.every_n_train_steps", None)
