"""Several processes that train one object together: which one is first, and what all of them must agree on.

Each process renders its share of a batch, and gradients are averaged over processes. A loss that is a plain mean over
views needs nothing more. One that divides by what it counted (covered pixels, samples) divides by the count of *all*
processes: ``mean_over``. Numbers that decide what happens next are summed or averaged first. Inside ``together`` these
functions talk to the other processes; elsewhere, and with one process, they are plain arithmetic, so that one process
may render the object alone.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

_joint = False  # whether all processes are at the same place of a step


def processes() -> int:
    """Return the number of processes that train together."""
    return torch.distributed.get_world_size() if _connected() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return torch.distributed.get_rank() if _connected() else int(os.environ.get("LOCAL_RANK", "0"))


def _connected() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Declare that inside the block all processes run the same lines on their shares of a batch."""
    global _joint  # noqa: PLW0603
    before, _joint = _joint, processes() > 1
    try:
        yield
    finally:
        _joint = before


def summed(x: Tensor) -> Tensor:
    """Return the sum over processes, without gradient."""
    x = x.detach()
    if _joint:
        x = x.clone()
        torch.distributed.all_reduce(x)
    return x


def averaged(x: Tensor) -> Tensor:
    """Return the mean over processes, without gradient."""
    return summed(x) / processes() if _joint else x.detach()


def gathered(x: Float[Tensor, "N"]) -> Float[Tensor, "M"]:
    """Return the numbers of all processes, however many each has, without gradient."""
    if not _joint:
        return x.detach()
    counts = torch.zeros(processes(), dtype=torch.long, device=x.device)
    counts[rank()] = len(x)
    torch.distributed.all_reduce(counts)
    padded = x.new_zeros(int(counts.max()))
    padded[: len(x)] = x.detach()
    rows = [torch.empty_like(padded) for _ in range(processes())]
    torch.distributed.all_gather(rows, padded)
    return torch.cat([row[:count] for row, count in zip(rows, counts.tolist())])


def mean_over(
    total: Float[Tensor, ""], count: "Tensor | float | int", least: "float | int" = 1
) -> Float[Tensor, ""]:
    """Return ``total / max(count, least)``, so that the average over processes is that of all their rows."""
    if not _joint:
        return total / (count.clamp_min(least) if isinstance(count, Tensor) else max(count, least))
    everything = summed(torch.as_tensor(count, dtype=total.dtype, device=total.device))
    return total / (everything.clamp_min(least) / processes())


def mean(x: Tensor) -> Float[Tensor, ""]:
    """Return the mean of all entries, also where processes have unequally many."""
    return mean_over(x.sum(), x.numel()) if _joint else x.mean()


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place."""
    if processes() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, 0)


def leave() -> None:
    """End the connection, when all is done."""
    if _connected():
        torch.distributed.destroy_process_group()
