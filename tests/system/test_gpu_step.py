"""A training step on a GPU, counted without one: how often the CPU waits for it, and how many operators it is given.

Waits are counted on the strange device, where single numbers and copies that reach the CPU show themselves; operators on
the CPU, whose kernels are the GPU's. Networks are tiny, but as deep as their configuration says: fewer operators than the
published ones have, and as many waits.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import launch
from tests.fake_device import StrangeTensor, elsewhere
from tests.tiny_configs import command, save_disc
from usd.system import System

STEPS = 3
FULL_STEP = 1
"""The step to count: without the first look at the picture, without a last checkpoint."""
DEPENDS_ON_NUMBERS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
MOST_OPERATORS = 3780
"""Of tiny networks; a third of them are the three calls of a UNet, and a tenth are views that launch nothing."""
COPIES = {"_to_copy", "_copy_from", "copy_"}


class StepCounter(TorchDispatchMode):
    """Operators so far, and the places of the package that waited."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.waits = 0, Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operators += 1
        if self._waits(func.overloadpacket.__name__, args, out):
            self.waits[place()] += 1
        return out

    @staticmethod
    def _waits(name, args, out) -> bool:
        far = [x for x in tree_leaves(args) if isinstance(x, StrangeTensor)]
        if name == "index":
            return bool(far) and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in COPIES:
            return bool(far) and not isinstance(out, StrangeTensor)
        return bool(far) and name in DEPENDS_ON_NUMBERS


def place() -> str:
    """The innermost lines of the package that run now; those of Lightning and PyTorch where there are none."""
    lines, frame = [], sys._getframe(1)
    while frame is not None and len(lines) < 3:
        if "/usd/" in (file := frame.f_code.co_filename):
            lines.append(f"{file.rsplit('/usd/', 1)[1]}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(lines)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[StepCounter]:
    """Inside, the operators and waits of one step are counted, those of the loop around it included."""
    counter, steps, begin = StepCounter(), count(), System.on_train_batch_start

    def mark(system: System, batch_idx: int) -> None:
        step = next(steps)
        if step == FULL_STEP:
            counter.__enter__()
        elif step == FULL_STEP + 1:
            counter.__exit__(None, None, None)
        begin(system, batch_idx)

    monkeypatch.setattr(System, "on_train_batch_start", mark)
    yield counter
    assert next(steps) > FULL_STEP + 1, "the step was counted to its end"


def count_step(tmp_path, monkeypatch, tiny, far: bool) -> StepCounter:
    """Train ``usd-patch.yaml`` with tiny networks; return what a step took."""
    options = [
        f"system.guidance.image_path={save_disc(tmp_path / 'disc.png')}",
        f"system.guidance.pretrained_model_name_or_path={tiny.sd}",
        f"system.guidance.zero123_model_name_or_path={tiny.zero123_a}",
        "trainer.val_check_interval=0",
        "trainer.test_after_fit=false",
        f"trainer.max_steps={STEPS}",
    ]
    with elsewhere(monkeypatch) if far else nullcontext(), counted(monkeypatch) as counter:
        assert launch.main(command("usd-patch.yaml", tmp_path, *options)) == 0
    return counter


def kernel_waits(waits: Counter[str]) -> int:
    """The number of waits with the kernels that a GPU has: a march waits once, for the number of its samples."""
    twins = ("kernels/ray_march.py", "math/volume.py")
    marches = max((n for where, n in waits.items() if where.startswith(twins[0])), default=0)
    return marches + sum(n for where, n in waits.items() if not where.startswith(twins))


def test_a_step_waits_for_the_gpu_at_most_twenty_times(tmp_path, monkeypatch, tiny):
    waits = count_step(tmp_path, monkeypatch, tiny, far=True).waits
    assert kernel_waits(waits) <= 20, "\n".join(f"{n} {where}" for where, n in waits.most_common())


def test_a_step_gives_the_gpu_no_more_operators_than_it_did(tmp_path, monkeypatch, tiny):
    operators = count_step(tmp_path, monkeypatch, tiny, far=False).operators
    assert 500 < operators <= MOST_OPERATORS, operators
