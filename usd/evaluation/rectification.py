"""How far a picture model and its base model err on pictures that are known, by noise level.

The moments of usd/math/rectification.py, measured: noise is added to the latents of a picture, three predictions are
made of it, and the inner products of their errors are averaged over draws. On toys every view is known. Of a user's
object the reference picture alone is: ``looking_back`` makes it a novel view, by asking for it from the side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from usd.denoiser import (
    Denoiser,
    Embedding,
    EncodedReference,
    TextDenoiser,
    ViewDenoiser,
    check_shared_latents,
)
from usd.denoiser.sample import Sampler, sample_views
from usd.math.camera import Cameras, orbit_cameras
from usd.math.diffusion import add_noise
from usd.math.rectification import error_moments


@dataclass(frozen=True)
class ModelPair:
    """A picture model and its base model, in one latent space; ``unconditional`` is another model of "its own"."""

    view: ViewDenoiser
    base: TextDenoiser
    unconditional: ViewDenoiser | None = None

    def __post_init__(self) -> None:
        check_shared_latents(self.view, self.base, "rectification")

    @property
    def own(self) -> ViewDenoiser:
        """The model of the own unconditional prediction."""
        return self.view if self.unconditional is None else self.unconditional


@dataclass(frozen=True)
class Probe:
    """Times at which predictions are compared, noises per picture and time, and rows per call of a model."""

    times: tuple[int, ...]
    draws: int = 4
    seed: int = 0
    rows: int = 32

    def noise(self, like: Float[Tensor, "1 c h w"], time: int) -> Float[Tensor, "K c h w"]:
        """Return the draws of one time, the same for every picture."""
        source = torch.Generator("cpu").manual_seed(1009 * self.seed + time)
        return torch.randn(self.draws, *like.shape[1:], generator=source).to(like)


@torch.no_grad()
def view_moments(
    models: ModelPair, z: Float[Tensor, "B c h w"], condition: Embedding, probe: Probe
) -> Float[Tensor, "B T 3 3"]:
    """Return the moments of B known latents, each under its row of a condition, at the probe's times."""
    found = []
    for i in range(len(z)):
        # All noise levels of a picture go through each network together, so that it is called as seldom as can be.
        noise = torch.cat([probe.noise(z[:1], time) for time in probe.times])
        t = torch.tensor(probe.times, device=z.device).repeat_interleave(probe.draws)
        x = add_noise(z[i : i + 1].expand_as(noise), noise, models.view.alphas_cumprod, t)
        # The same x_t for all three predictions: what their errors share is what is asked for.
        row = condition.select(torch.full((len(t),), i, device=z.device))
        cond = _predicted(models.view, x, t, row, probe.rows)
        own = _predicted(models.own, x, t, models.own.unconditional(len(t)), probe.rows)
        base = _predicted(models.base, x, t, models.base.unconditional(len(t)), probe.rows)
        # Products are averaged, not errors: errors of different noises have other signs.
        each = error_moments(*(e.flatten(1) for e in (cond, own, base, noise)))
        found.append(each.unflatten(0, (len(probe.times), probe.draws)).mean(1))
    return torch.stack(found)


def _predicted(
    model: Denoiser, x: Float[Tensor, "N c h w"], t: Tensor, condition: Embedding, rows: int
) -> Float[Tensor, "N c h w"]:
    """Return the predictions of N latents, ``rows`` at a time."""
    parts = [torch.arange(n, min(n + rows, len(x)), device=x.device) for n in range(0, len(x), rows)]
    return torch.cat([model.eps(x[part], t[part], condition.select(part)) for part in parts])


def turned(camera: Cameras, azimuths_deg: Sequence[float]) -> Cameras:
    """Return the one camera turned about the vertical by each of these azimuths."""
    turns = torch.tensor(azimuths_deg, device=camera.c2w.device).deg2rad()
    here = camera.spherical
    place = type(here)(here.elevation.expand_as(turns), here.azimuth + turns, here.distance.expand_as(turns))
    return orbit_cameras(place, float(camera.fov_y[0]), camera.height, camera.width)


def looking_back(
    models: ModelPair,
    reference: tuple[Float[Tensor, "1 3 H W"], Cameras],
    azimuths_deg: Sequence[float],
    probe: Probe,
    sampler: Sampler = Sampler(15, 3.0),  # noqa: B008 - frozen
) -> Float[Tensor, "N T 3 3"]:
    """Return the moments of the reference picture as a novel view, once for each azimuth, in degrees.

    A view from the side is sampled first, and the picture is then asked for as a view of that one. At azimuth 0 the
    picture is asked for as a view of itself, and nothing is sampled.
    """
    picture, camera = reference
    z, encoded = models.view.encode(picture).detach(), models.view.encode_reference(picture, camera)
    # A picture asked for as a view of itself is copied from the reference latent; from a side it has to be imagined.
    sides = [azimuth for azimuth in azimuths_deg if azimuth % 360]
    given = iter(
        _seen_from(models.view, encoded, turned(camera, sides), probe.seed, sampler) if sides else []
    )
    found = []
    for azimuth in azimuths_deg:
        source = next(given) if azimuth % 360 else encoded
        found.append(view_moments(models, z, models.view.embed_view(source, camera), probe))
    return torch.cat(found)


def _seen_from(
    model: ViewDenoiser, encoded: EncodedReference, cameras: Cameras, seed: int, sampler: Sampler
) -> Iterator[EncodedReference]:
    """Yield what the model reads from a view that it sampled itself, for each camera."""
    seen = sample_views(model, encoded, cameras, sampler, torch.Generator("cpu").manual_seed(seed))
    for i in range(len(cameras)):
        yield model.encode_reference(seen[i : i + 1], cameras[[i]])
