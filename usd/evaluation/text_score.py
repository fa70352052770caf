"""Does an object look like its sentence? Retrieval by the embedded CLIP, among captions that compete with it.

A view is right for the *category* when, among one caption of every category (all of the sentence's first color), the
sentence itself is nearest to it; and right for the *caption* when it also beats itself in every other color. Both are
shares of views. What the same figures are for renders of a true toy says how far the recognizer can be trusted.
"""

import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.places import resource
from usd.evaluation.embedded import Clip
from usd.math.camera import Cameras
from usd.mesh_io.pictures import pictures as render_pictures
from usd.mesh_io.read import read_mesh
from usd.toybox import REFERENCE_AZIMUTH_DEG, REFERENCE_ELEVATION_DEG, TEST_SEED
from usd.toybox.cameras import cameras_at
from usd.toybox.objects import make_toy
from usd.toybox.shapes import COLORS, SHAPES

CLIP = resource("load/toybox/clip")
VIEWS, SIZE = 8, 128
SEARCHED = 200  # toys of a category among which one of the wanted color is looked for


@dataclass(frozen=True)
class TextScore:
    """Shares of views in [0, 1], and the mean cosine between views and sentence."""

    category: float
    caption: float
    similarity: float
    views: int

    def line(self) -> str:
        """Return the score as a sentence."""
        return (
            f"{self.category:.0%} of {self.views} views found among all categories, "
            f"{self.caption:.0%} also among all colors (cosine {self.similarity:.3f})"
        )

    def plain(self) -> dict[str, float | int]:
        """Return the score as plain numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class Competitors:
    """Captions that a sentence has to beat: of the other categories, and its own in other colors."""

    categories: tuple[str, ...]
    colors: tuple[str, ...]


def competitors(prompt: str) -> Competitors:
    """Return the captions that compete with a prompt for its pictures."""
    words = re.findall(r"\w+", prompt.lower())
    color = next((word for word in words if word in COLORS), None)
    own = next((word for word in words if word in SHAPES), None)
    others = tuple(caption_of(category, color) for category in SHAPES if category != own)
    recolored = tuple(in_color(prompt, color, other) for other in COLORS if color and other != color)
    return Competitors(others, recolored)


@cache
def caption_of(category: str, color: str | None) -> str:
    """Return the caption of a test-split toy of a category whose first color is ``color``, if one is found."""
    # Seeds draw colors at random: the first toy whose caption starts with the right one serves.
    first = make_toy(TEST_SEED, 0.0, category).caption
    for seed in range(TEST_SEED, TEST_SEED + (SEARCHED if color else 0)):
        caption = make_toy(seed, 0.0, category).caption
        if next((word for word in caption.split() if word in COLORS), None) == color:
            return caption
    return first


def in_color(prompt: str, color: str, other: str) -> str:
    """Return the prompt with its first ``color`` replaced, and the article before it."""
    article = "an" if other[0] in "aeio" else "a"
    replaced, done = re.subn(rf"\b(?:an?) {color}\b", f"{article} {other}", prompt, count=1, flags=re.I)
    return replaced if done else re.sub(rf"\b{color}\b", other, prompt, count=1, flags=re.I)


def text_score(clip: Clip, pictures: Float[Tensor, "B 3 H W"], prompt: str) -> TextScore:
    """Return the score of pictures over white."""
    against = competitors(prompt)
    captions = [prompt, *against.categories, *against.colors]
    cosine = clip.similarity(pictures, captions)
    # The sentence stands first, then other categories, then its own colors: prefixes are the two contests.
    n = 1 + len(against.categories)
    right = cosine[:, :n].argmax(1) == 0
    return TextScore(
        right.float().mean().item(),
        (cosine.argmax(1) == 0).float().mean().item(),
        cosine[:, 0].mean().item(),
        len(pictures),
    )


def sentence_margins(clip: Clip, pictures: Float[Tensor, "B 3 H W"], prompt: str) -> Float[Tensor, "B"]:
    """Return by how much each picture over white is nearer to the prompt than to the nearest of its competitors."""
    against = competitors(prompt)
    cosine = clip.similarity(pictures, [prompt, *against.categories, *against.colors])
    return cosine[:, 0] - cosine[:, 1:].amax(1)


def scoring_cameras(views: int = VIEWS, size: int = SIZE) -> Cameras:
    """Return cameras evenly around, the first from the front, at the reference's height and distance."""
    azimuth = [REFERENCE_AZIMUTH_DEG + 360 * i / views for i in range(views)]
    return cameras_at([REFERENCE_ELEVATION_DEG] * views, azimuth, size)


def views_of_file(mesh: Path, cameras: Cameras) -> Float[Tensor, "B 3 H W"]:
    """Return a mesh file as other programs read it, rendered without light, over white."""
    rgba = render_pictures(read_mesh(mesh), cameras)
    return rgba[:, :3] + 1 - rgba[:, 3:]


@torch.no_grad()
def score_file(mesh: Path, prompt: str, clip_folder: Path = CLIP) -> TextScore:
    """Return the score of a mesh file."""
    return text_score(Clip.load(clip_folder), views_of_file(mesh, scoring_cameras()), prompt)
