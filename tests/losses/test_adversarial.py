"""A generator against a discriminator: values where neither knows anything, and who wants what."""

import math

import pytest
import torch

from usd.losses.adversarial import discriminator_loss, generator_loss


def test_a_discriminator_that_cannot_tell_loses_two_log_two_and_its_generator_log_two() -> None:
    unsure = torch.zeros(2, 1, 3, 3)
    assert float(discriminator_loss(unsure, unsure)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(unsure)) == pytest.approx(math.log(2))


def test_what_a_generator_gains_on_a_fake_its_discriminator_loses() -> None:
    fake = torch.tensor(-3.0, requires_grad=True)
    (generator,) = torch.autograd.grad(generator_loss(fake), fake)
    (discriminator,) = torch.autograd.grad(discriminator_loss(torch.tensor(3.0), fake), fake)
    assert generator < -0.9, "a fake that is seen through still learns"
    assert discriminator > 0
