"""Errors of the machine in plain words: what it runs out of, or does not allow."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from usd.core.errors import UserError

LOWER = (
    "lower data.batch_size, the renderer's num_samples_per_ray, data.width and data.height, or for the test "
    "data.eval_width and data.eval_height"
)
REASONS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "no space left on the device (the quota is used up)",
    errno.EFBIG: "a file of that size is not allowed here (ulimit -f)",
    errno.EMFILE: "too many open files (ulimit -n)",
}
NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "Storage size calculation overflowed",
    "numel: integer multiplication overflow",
    "bad allocation",
    "std::bad_alloc",
)
"""Parts of PyTorch's messages when a CPU's memory was not enough; it has no error of its own for that."""


@contextlib.contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Turn what a machine runs out of, or does not allow, into ``UserError``; ``folder`` is named where no file is."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = f"add a preset of configs/presets (docs/real-models.md), or {LOWER}"
        raise UserError(f"out of GPU memory: {advice}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory{_amount(error)}: {LOWER}") from error
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | BrokenPipeError):
            raise
        reason = REASONS.get(error.errno, os.strerror(error.errno))
        raise UserError(f"{error.filename or folder}: {reason}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a CPU's memory was not enough."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY)


def _amount(error: BaseException) -> str:
    """Return how much memory was asked for, where the error says it."""
    found = re.search(r"(\d+) bytes|allocate ([\d.]+ [KMGTPE]iB)", str(error))
    if found is None:
        return ""
    return f" ({found[2] or f'{int(found[1]) / 2**30:.3g} GiB'} at once were asked for)"
