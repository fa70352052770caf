import os
import subprocess
import sys
import threading

import pytest
import torch

from usd.kernels import runtime


def test_torch_serves_what_warp_cannot():
    single, double = torch.zeros(2), torch.zeros(2, dtype=torch.float64)
    assert runtime.choose("auto", single) == "warp"
    assert runtime.choose("auto", double) == "torch"
    assert runtime.choose("torch", single) == "torch"
    assert runtime.choose("auto", torch.zeros(2, device="meta")) == "torch"
    with pytest.raises(ValueError, match=r"float64.*Use 'auto' or 'torch'"):
        runtime.choose("warp", double)
    with pytest.raises(ValueError, match="no device 'meta'"):
        runtime.choose("warp", torch.zeros(2, device="meta"))


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="expected one device"):
        runtime.choose("auto", torch.zeros(2), torch.zeros(2, device="meta"))


def test_without_warp_the_twin_serves(monkeypatch):
    monkeypatch.setattr(runtime, "find_warp", lambda: None)
    assert runtime.choose("auto", torch.zeros(2)) == "torch"
    with pytest.raises(ValueError, match="'warp-lang' is not installed"):
        runtime.choose("warp", torch.zeros(2))


@pytest.mark.parametrize("dim", [(1,), (5000,), (3, 9001), (7, 10)])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_pieces_cover_an_axis_once(dim, n_threads):
    axis = len(dim) - 1
    pieces = runtime.Split(dim, axis, grain=100).pieces(n_threads)
    covered = [i for first, shape in pieces for i in range(first, first + shape[axis])]
    assert covered == list(range(dim[axis]))
    assert all(shape[:axis] == dim[:axis] for _, shape in pieces)
    assert len(pieces) == 1 or n_threads > 1


def test_tasks_run_once_each_and_side_by_side(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    meet = threading.Barrier(3)  # passes only if three threads work at the same time
    done = []

    def task(i: int) -> None:
        if i > 0:
            meet.wait(timeout=30)
        done.append(i)

    runtime.run_tasks([lambda i=i: task(i) for i in range(7)])
    assert sorted(done) == list(range(7))


def test_an_error_in_a_task_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def fail() -> None:
        raise RuntimeError("broken task")

    with pytest.raises(RuntimeError, match="broken task"):
        runtime.run_tasks([lambda: None, fail, fail, fail])


FORK = """
import os, torch
torch.set_num_threads(2)
from usd.kernels.hash_grid import HashGridSpec, hash_grid
spec = HashGridSpec(2, 2, 8, 4, 1.5)
x, t = torch.rand(9000, 3), spec.init_table()
y = hash_grid(x, t, spec, "warp")
if os.fork() == 0:
    os._exit(0 if torch.equal(hash_grid(x, t, spec, "warp"), y) else 3)
print(os.waitpid(-1, 0)[1])
"""


def test_quiet_and_alive_in_a_forked_process():
    """Data loaders fork: the child has none of the parent's threads. And nothing is printed on the way."""
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.stdout == "0\n"
    assert "Warp" not in done.stderr


def test_importing_the_kernels_does_not_import_warp():
    code = "import sys, usd.kernels.hash_grid, usd.kernels.ray_march; print('warp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("rows", [0, 3, runtime.LARGE // 8 + 1])
def test_zeros_are_zeros_each_time_and_can_be_written(rows):
    for _ in range(2):
        memory = runtime.zeros((rows, 2), torch.device("cpu"))
        assert memory.shape == (rows, 2) and memory.is_contiguous() and memory.dtype == torch.float32
        assert not memory.any()
        memory += 1
        assert memory.sum() == 2 * rows
    assert runtime.room((rows, 2), torch.device("cpu")).shape == (rows, 2)
