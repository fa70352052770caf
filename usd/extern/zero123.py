"""Zero-1-to-3 under the interface its diffusers pipelines made known: a picture and poses in, pictures out.

Scripts written for the published pipelines pass (polar, azimuth, distance) differences, in degrees and world units;
raising the camera is a *negative* polar difference. Everything is computed by ``usd.denoiser``. With ``rectify`` the
unconditional prediction is another model's (arXiv 2312.06198, supplement 1).

    pipe = Zero123Pipeline.from_pretrained("zero123-xl", rectify="sd-2.1-base").to("cuda")
    front, back = pipe(Image.open("cup.png"), poses=[(0, 0, 0), (0, 180, 0)])
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from usd.core.errors import UserError
from usd.data.pictures import over, to_bytes
from usd.denoiser import Execution, TextDenoiser, ViewDenoiser, open_text_denoiser, open_view_denoiser
from usd.denoiser.sample import Sampler, sample_views
from usd.math.camera import Cameras, join_cameras, orbit_cameras_deg

DISTANCE, FOV_Y_DEG = 1.5, 49.1  # of the model's training renders; only differences reach the model
Pose = tuple[int | float, int | float, int | float]


@dataclass(frozen=True)
class Zero123Pipeline:
    """Novel views of one picture."""

    model: ViewDenoiser
    prior: TextDenoiser | None = None
    device: torch.device = torch.device("cpu")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, rectify: str | None = None, half_precision_weights: bool = True
    ) -> "Zero123Pipeline":
        """Open a model by alias, folder, single file or hub id. Raises UserError when it cannot be had."""
        execution = Execution().single(half_precision_weights)
        model = open_view_denoiser(name_or_path, "Zero123Pipeline", execution)
        prior = (
            None if rectify is None else open_text_denoiser(rectify, "Zero123Pipeline: rectify", execution)
        )
        return cls(model, prior)

    def to(self, device: "torch.device | str") -> "Zero123Pipeline":
        """Return the same pipeline, computing there."""
        prior = None if self.prior is None else self.prior.to(device)
        return replace(self, model=self.model.to(device), prior=prior, device=torch.device(device))

    def __call__(
        self,
        image: Image.Image,
        poses: Sequence[Sequence[int | float]],
        guidance_scale: float = 3.0,
        num_inference_steps: int = 50,
        generator: torch.Generator | None = None,
    ) -> list[Image.Image]:
        """Return one picture per pose. Transparency is put on white; raises UserError for a pose beyond the poles."""
        reference, targets = (c.to(self.device) for c in _cameras(poses, self.model.latent.image_size))
        reading = self.model.encode_reference(_on_white(image).to(self.device), reference)
        sampler = Sampler(num_inference_steps, guidance_scale)
        made = sample_views(self.model, reading, targets, sampler, generator, self.prior)
        return [Image.fromarray(to_bytes(picture)) for picture in made]


def _cameras(poses: Sequence[Sequence[int | float]], size: int) -> tuple[Cameras, Cameras]:
    """Return a reference camera at elevation 0, and the cameras that stand so far from it."""
    for pose in poses:
        if len(pose) != 3 or abs(pose[0]) >= 90 or pose[2] <= -DISTANCE:
            raise UserError(
                f"pose {tuple(pose)}: expected (polar, azimuth, distance), |polar| < 90 degrees, distance > -1.5"
            )
    each = [orbit_cameras_deg(-float(p), float(a), DISTANCE + float(d), FOV_Y_DEG, size) for p, a, d in poses]
    return orbit_cameras_deg(0.0, 0.0, DISTANCE, FOV_Y_DEG, size), join_cameras(each)


def _on_white(image: Image.Image) -> Float[Tensor, "1 3 H W"]:
    pixels = torch.from_numpy(np.asarray(image.convert("RGBA"), dtype=np.float32) / 255)
    return over(pixels.permute(2, 0, 1))[None]
