"""What the embedded family can do, measured against the toybox: autoencoder, CLIP, text to image, novel views.

Everything goes through the denoisers' public path, so the same figures can be had of any models of the same kinds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from usd.denoiser import Denoiser, GroupDenoiser, TextDenoiser, ViewDenoiser
from usd.denoiser.sample import Sampler, sample_views
from usd.denoiser.weights import quiet
from usd.evaluation.metrics import mask_iou, psnr, ssim
from usd.math.camera import Cameras
from usd.toybox import TEST_SEED
from usd.toybox.cameras import cameras_at, held_out_cameras, reference_camera
from usd.toybox.objects import UNCAPTIONED, make_toy
from usd.toybox.render import Pictures, render
from usd.toybox.scene import Toy

if TYPE_CHECKING:  # transformers takes a second to import
    from transformers import CLIPModel, PreTrainedTokenizerBase

AZIMUTHS_DEG = tuple(range(45, 360, 45))
WHITE = 0.94
STEPS = 25


@dataclass(frozen=True)
class ToyTruth:
    """A toy: its reference picture, its views, and their cameras."""

    toy: Toy
    reference: Float[Tensor, "1 3 H W"]
    pictures: Float[Tensor, "V 3 H W"]
    alpha: Float[Tensor, "V 1 H W"]
    cameras: Cameras


def split_toys(count: int, keep: Callable[[Toy], bool] = lambda _: True) -> list[Toy]:
    """Return the first ``count`` toys of the test split that ``keep`` accepts."""
    found: list[Toy] = []
    seed = TEST_SEED
    while len(found) < count:
        toy = make_toy(seed)
        if keep(toy):
            found.append(toy)
        seed += 1
    return found


def asymmetric(toy: Toy) -> bool:
    """Tell whether a toy has a name and an outline from which its azimuth can be told."""
    return toy.category != UNCAPTIONED and not toy.symmetric


def toy_views(toy: Toy, cameras: Cameras) -> ToyTruth:
    """Return the toy rendered by its reference camera and by ``cameras``."""
    size = cameras.height
    pictures: Pictures = render([toy], cameras)
    reference = render([toy], reference_camera(size)).over_white()
    return ToyTruth(toy, reference, pictures.over_white(), pictures.alpha[:, None], cameras)


def ring_cameras(size: int) -> Cameras:
    """Return seven cameras at the reference's height, 45 degrees apart, the reference's own place left out."""
    return cameras_at([15.0] * len(AZIMUTHS_DEG), [90.0 + a for a in AZIMUTHS_DEG], size)


# ------------------------------------------------------------------------------------------------------- sampling


def novel_views(
    model: ViewDenoiser, views: ToyTruth, scale: float, prior: TextDenoiser | None = None, seed: int = 0
) -> Float[Tensor, "V 3 S S"]:
    """Sample views by DDIM from the reference alone; of a model of view groups as it is published, together.

    With ``prior`` its unconditional prediction is used (rectified).
    """
    encoded = model.encode_reference(views.reference, reference_camera(views.reference.shape[-1]))
    source = torch.Generator("cpu").manual_seed(seed)
    sampler = Sampler(STEPS, scale)
    if isinstance(model, GroupDenoiser):
        sampler = Sampler.of(model.conventions)
    return sample_views(model, encoded, views.cameras, sampler, source, prior)


# -------------------------------------------------------------------------------------------------------- figures


def object_mask(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Return where a picture over white shows something; enclosed white parts count as object."""
    # A pixel is background only if all its channels are bright: yellow is dark in blue.
    dark = (pictures.amin(1) < WHITE).cpu().numpy()
    filled = np.stack([binary_fill_holes(mask) for mask in dark])
    return torch.from_numpy(filled).float()[:, None].to(pictures)


def autoencoder_figures(model: Denoiser, pictures: Float[Tensor, "B 3 H W"]) -> dict[str, float]:
    """Return mean PSNR (dB) and SSIM of pictures that went through the autoencoder."""
    with torch.no_grad():
        back = torch.cat([model.decode(model.encode(chunk)) for chunk in pictures.split(64)])
    return {"psnr": psnr(back, pictures).mean().item(), "ssim": ssim(back, pictures).mean().item()}


def view_figures(made: Tensor, views: ToyTruth) -> dict[str, float]:
    """Return means over one toy's views: the sampled pictures, and the copied reference, against the truth."""
    copied = views.reference.expand_as(views.pictures)
    return {
        "psnr": psnr(made, views.pictures).mean().item(),
        "ssim": ssim(made, views.pictures).mean().item(),
        "iou": mask_iou(object_mask(made), views.alpha).mean().item(),
        "copy_psnr": psnr(copied, views.pictures).mean().item(),
        "copy_iou": mask_iou(object_mask(copied), views.alpha).mean().item(),
    }


def azimuth_hits(made: Float[Tensor, "V 3 H W"], truth: Float[Tensor, "V 3 H W"]) -> Bool[Tensor, "V"]:
    """Tell whether each sampled view is nearest (mean square) to the true view of its own azimuth."""
    # Every sampled view against every true one; the right one is on the diagonal.
    distance = (made[:, None] - truth[None]).square().mean(dim=(2, 3, 4))
    return distance.argmin(1) == torch.arange(len(made))


@dataclass(frozen=True)
class Clip:
    """The embedded CLIP, for recognizing pictures."""

    model: "CLIPModel"
    tokenizer: "PreTrainedTokenizerBase"

    @classmethod
    def load(cls, folder: Path) -> "Clip":
        """Read the model and its tokenizer from a folder in the layout of transformers."""
        from transformers import AutoTokenizer, CLIPModel

        # The library draws a bar for a model that is read in a moment.
        with quiet():
            model = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
            return cls(model, AutoTokenizer.from_pretrained(folder))

    @torch.no_grad()
    def similarity(self, pictures: Float[Tensor, "B 3 H W"], captions: list[str]) -> Float[Tensor, "B N"]:
        """Return the cosines between pictures and captions."""
        # The embedded CLIP was trained on pictures in [-1, 1], not on CLIP's published means.
        size = self.model.config.vision_config.image_size
        small = torch.nn.functional.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)
        pooled = self.model.vision_model((small - 0.5) / 0.5).pooler_output
        image_features = self.model.visual_projection(pooled)
        length = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        text_features = self.model.text_projection(self.model.text_model(ids.input_ids).pooler_output)
        return (
            torch.nn.functional.normalize(image_features, dim=1)
            @ torch.nn.functional.normalize(text_features, dim=1).T
        )


def recognition(clip: Clip, pictures: Float[Tensor, "N 3 H W"], captions: list[str]) -> float:
    """Return how often picture i is closest to caption i among all of them (equal captions count as one)."""
    found = clip.similarity(pictures, captions).argmax(1).tolist()
    return sum(captions[k] == own for k, own in zip(found, captions, strict=True)) / len(captions)


def held_out_views(toy: Toy, count: int, size: int) -> ToyTruth:
    """Return the toy seen by ``count`` cameras that no training uses."""
    return toy_views(toy, held_out_cameras(count, size))
