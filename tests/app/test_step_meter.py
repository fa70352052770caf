"""The time inside a network, and which networks are listened to."""

import time

import torch
from torch import nn

from usd.app.step_meter import CallTimer, StepMeter, loaded_unets, seconds_between

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """Takes its time."""

    def forward(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


def test_a_timer_counts_the_calls_until_it_is_stopped():
    sleeper = Sleeper()
    timer = CallTimer(sleeper, CPU)
    sleeper(0.01)
    time.sleep(0.05)
    sleeper(0.02)
    timer.stop()
    sleeper(0.2)
    assert 0.03 <= timer.seconds() < 0.05 + 0.2
    assert seconds_between(1.0, 3.5) == 2.5


def test_the_steps_after_the_warm_up_are_measured_and_one_more_closes_them():
    meter = StepMeter(2, 3)
    assert meter.max_steps == 6
    meter._starts = [(0.0, 0.0), (1.0, 0.5), (3.0, 1.5), (3.5, 2.5)]
    cost = meter.cost(CPU)
    assert (cost.seconds, cost.slow_seconds, cost.cpu_seconds) == (1.0, 2.0, 1.0)
    assert cost.unet_share == 0.0 and cost.reserved_bytes == 0


def test_a_unet_that_two_denoisers_share_is_heard_once(tiny):
    from usd.denoiser import DEFAULT_EXECUTION, open_text_denoiser

    opened = open_text_denoiser(str(tiny.sd), "here", DEFAULT_EXECUTION)
    both = nn.ModuleList([opened, nn.Sequential(opened)])
    assert loaded_unets(both) == [], "nothing is read for the sake of a measurement"
    network = opened.unet.network
    assert loaded_unets(both) == [network]
