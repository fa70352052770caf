"""A device that is not the default one, on any machine: its numbers lie in ordinary tensors, out of reach.

``strange:0`` behaves as a GPU does towards whoever forgets where tensors are: an operation on tensors of both devices is
an error, so is ``numpy()``, and a tensor made without naming a device is on the CPU. Only ``.to``, ``.cpu()``, ``copy_``
and single numbers cross over. What is stricter than CUDA: an index must be on the same device, too.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from usd.denoiser.load import find_published, finding_by
from usd.math.rng import ShareGenerator

NAME = "strange"
CROSSING = ("copy_", "_to_copy", "_copy_from")
LIBRARY = torch.library.Library("aten", "IMPL")


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return []


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **place: Any) -> torch.Tensor:
    """What PyTorch calls past all modes, to make tensors of lists."""
    return StrangeTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    inner = [x.inner if isinstance(x, StrangeTensor) else x for x in (target, source)]
    inner[0].copy_(inner[1])
    return target


def _registered() -> torch.device:
    """The device, which PyTorch learns of now: autograd counts the devices there are at its first use in a process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
    LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
    return torch.device(NAME, 0)


DEVICE = _registered()


class StrangeTensor(torch.Tensor):
    """A tensor on the strange device; ``inner`` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "StrangeTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"StrangeTensor({self.inner})"

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Stored as its numbers, as a file of a GPU's tensors is read back on the CPU."""
        return self.detach().cpu().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _Making(TorchDispatchMode):
    """Inside, tensors can be made on the strange device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _each(change: Callable[[torch.Tensor], Any], x: Any) -> Any:
    """Change all tensors in arguments or results; PyTorch's own way through them took half of the tests' time."""
    if isinstance(x, torch.Tensor):
        return change(x)
    if type(x) in (list, tuple):
        return type(x)([_each(change, item) for item in x])
    if type(x) is dict:
        return {key: _each(change, item) for key, item in x.items()}
    return x


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the inner tensors, its result on the device where it belongs."""
    far: list[StrangeTensor] = []
    here: list[torch.Tensor] = []

    def inside(x: torch.Tensor) -> torch.Tensor:
        if isinstance(x, StrangeTensor):
            far.append(x)
            return x.inner
        if x.dim() > 0:
            here.append(x)
        return x

    inner_args, inner_kwargs = _each(inside, args), _each(inside, kwargs)
    name = func.overloadpacket.__name__
    # Values of a GPU may be picked by numbers on the host, as a library's vision tower does; never the other way round.
    picked = name == "index" and any(args[0] is each for each in far)
    if far and here and name not in CROSSING and not picked:
        raise RuntimeError(
            f"{name}: expected all tensors on one device, found cpu {tuple(here[0].shape)} too"
        )
    lands_far = bool(far)
    if kwargs.get("device") is not None:
        lands_far = torch.device(kwargs["device"]).type == NAME
        inner_kwargs["device"] = torch.device("cpu") if lands_far else kwargs["device"]
    if name == "copy_":
        lands_far = isinstance(args[0], StrangeTensor)
    out = func(*inner_args, **inner_kwargs)
    if not lands_far:
        return out
    same = {id(x.inner): x for x in far}  # what an operation in place returns is its argument
    return _each(lambda x: same[id(x)] if id(x) in same else StrangeTensor(x), out)


class StrangeAccelerator(Accelerator):
    """What Lightning asks of a kind of device."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


def strange_trainer(**options: Any) -> Trainer:
    """Lightning's trainer on the strange device, whatever device the options name."""
    there = {"accelerator": StrangeAccelerator(), "devices": 1, "strategy": SingleDeviceStrategy(DEVICE)}
    return Trainer(**{**options, **there})


class StrangeGenerator(torch.Generator):
    """A generator that says it is where it was asked to be, and draws the CPU's numbers."""

    place: torch.device

    def __new__(cls, device: "torch.device | str" = "cpu") -> "StrangeGenerator":
        made = torch.Generator.__new__(cls, "cpu")
        made.place = torch.device(device)
        return made

    def __init__(self, device: "torch.device | str" = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place


class _Torch(ModuleType):
    """The library, but for its generators. For modules that make some: nothing else may see them change."""

    Generator = StrangeGenerator

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def elsewhere(monkeypatch: Any) -> Iterator[torch.device]:
    """Inside, the launcher trains on the strange device, with models of its own: those of other tests stay here."""
    for module in ("usd.core.random", "usd.math.rng"):
        monkeypatch.setattr(f"{module}.torch", _Torch("torch"))
    for name in ("__new__", "__init__", "device"):
        monkeypatch.setattr(ShareGenerator, name, vars(StrangeGenerator)[name], raising=False)
    monkeypatch.setattr("usd.app.trainer.Trainer", strange_trainer)
    monkeypatch.setattr("usd.app.export.single_device", lambda gpu: DEVICE)
    with ExitStack() as stack:
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(finding_by(find_published))
        stack.enter_context(_Making())
        yield DEVICE
