"""``toybox-datamodule``: views of procedural toys, for training and judging the embedded models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from usd.core import files
from usd.core.config import ConfigError, option
from usd.core.places import output
from usd.core.progress import each
from usd.core.registry import register
from usd.data import Data, Split
from usd.math.camera import Cameras
from usd.toybox import TEST_SEED
from usd.toybox.dataset import REFERENCES, SHARD, VIEWS, Shards, open_shards, training_cameras
from usd.toybox.objects import UNCAPTIONED, UNCAPTIONED_SHARE, facing, make_toy, normal_caption, view_words
from usd.toybox.render import render


@dataclass(frozen=True)
class ToyViews:
    """B views of toys: ``pictures`` over white in [0, 1] with their ``alpha``, or ``latents``, as asked for."""

    pictures: Float[Tensor, "B 3 H W"] | None
    latents: Float[Tensor, "B c h w"] | None
    captions: list[str]
    facing: Float[Tensor, "B"]
    named: Tensor
    cameras: Cameras
    alpha: Float[Tensor, "B 1 H W"] | None = None

    def to(self, device: "torch.device | str") -> "ToyViews":
        """Return the views on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        return replace(
            self,
            pictures=move(self.pictures),
            latents=move(self.latents),
            facing=self.facing.to(device),
            named=self.named.to(device),
            cameras=self.cameras.to(device),
            alpha=move(self.alpha),
        )

    def views_each(self) -> int:
        """Return how many views each toy has, where they stand toy by toy as in ``held_out_views``."""
        return next((i for i, c in enumerate(self.captions) if c != self.captions[0]), len(self.captions))

    def captions_with_views(self, chosen: list[bool]) -> list[str]:
        """Return captions, with the words of the view ("... from the front left") where ``chosen``."""
        elevation = self.cameras.spherical.elevation
        rows = zip(
            self.captions, self.facing.tolist(), elevation.tolist(), self.named.tolist(), chosen, strict=True
        )
        return [f"{c}, {view_words(a, e)}" if said and named else c for c, a, e, named, said in rows]


@dataclass(frozen=True)
class ViewPairs:
    """R reference views, and R * k target views of the same toys: target j belongs to reference j // k."""

    reference: ToyViews
    target: ToyViews

    def to(self, device: "torch.device | str") -> "ViewPairs":
        """Return the pairs on another device."""
        return ViewPairs(self.reference.to(device), self.target.to(device))


@register("toybox-datamodule")
class ToyboxData(Data["ToyboxData.Config"]):
    """Batches of toys. Pictures are rendered once into ``cache`` and latents encoded once beside them."""

    @dataclass(frozen=True)
    class Config:
        n_toys: int = option(
            16000, "number of training toys: so many seeds from first_toy up", ge=1, lt=TEST_SEED
        )
        first_toy: int = option(0, "seed of the first training toy, a multiple of 250", ge=0, lt=TEST_SEED)
        nameless_share: float = option(
            UNCAPTIONED_SHARE, "share of the toys that are random compositions without a caption", ge=0, le=1
        )
        batch_size: int = option(
            64, "views a batch (target views, where pairs are asked for)", ge=1, le=65536
        )
        targets_per_reference: int = option(
            0, "targets of each reference view in a batch of pairs; 0: single views", ge=0, le=1000
        )
        normal_share: float = option(
            0.0, "share of the views that are normal maps over white, captioned 'normals of ...'", ge=0, le=1
        )
        around: bool = option(
            False, "whether targets of a reference are different views from all around, at most 8"
        )
        target_pictures: bool = option(
            False, "whether targets come with their pictures besides their latents"
        )
        front_share: float = option(
            0.5, "share of reference views taken about where the reference camera stands", ge=0, le=1
        )
        autoencoder: str | None = option(
            None, "folder of an AutoencoderKL, whose latents batches then hold", path=True
        )
        cache: str = option(
            "outputs/toybox-cache",
            "folder where rendered shards are kept (about 200 MB per 1000 toys)",
            path=True,
        )
        n_val_toys: int = option(48, "toys of the test split shown at validation", ge=1)
        val_views: int = option(
            4, "views of each toy at validation, the first about the reference camera's", ge=1, le=VIEWS
        )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.first_toy % SHARD or config.first_toy + config.n_toys > TEST_SEED:
            raise ConfigError(
                f"data.first_toy: is {config.first_toy}; expected a multiple of {SHARD}, and data.n_toys from there to "
                f"stay below the test split ({TEST_SEED})"
            )
        if config.around and config.targets_per_reference > VIEWS - REFERENCES:
            raise ConfigError(
                f"data.targets_per_reference: expected at most {VIEWS - REFERENCES} views around"
            )
        if config.normal_share > 0 and config.targets_per_reference > 0:
            raise ConfigError("data.normal_share: pairs have no normal maps; expected 0")
        self._shards: Shards | None = None
        self._latents: list[NDArray[np.float16]] = []
        self._normal_latents: list[NDArray[np.float16]] = []

    @property
    def cache(self) -> Path:
        """Folder of the rendered shards."""
        return output(self.config.cache)

    def prepare_data(self) -> None:
        """Render missing shards and encode missing latents (once, on one process)."""
        shards = self._open()
        if self.config.autoencoder:
            folder, first = self._latent_folder(), self.config.first_toy // SHARD
            encode_shards(shards.rgba, Path(self.config.autoencoder), folder, first)
            encode_shards(shards.normals, Path(self.config.autoencoder), folder / "normals", first)

    def setup(self, stage: str) -> None:
        """Open the shards, and latents where an autoencoder is named."""
        if stage == "fit":
            self._shards = self._open()
            if self.config.autoencoder:
                folder, first = self._latent_folder(), self.config.first_toy // SHARD
                self._latents = _read_latents(folder, len(self._shards.rgba), first)
                self._normal_latents = _read_latents(folder / "normals", len(self._shards.normals), first)

    def _open(self) -> Shards:
        """Return the shards, with normal maps where some views are to be such."""
        c = self.config
        return open_shards(self.cache, c.n_toys, c.nameless_share, c.normal_share > 0, c.first_toy)

    def _latent_folder(self) -> Path:
        assert self.config.autoencoder is not None
        folder = Path(self.config.autoencoder)
        weights = next(iter(sorted(folder.glob("*.safetensors"))), None)
        if weights is None:
            raise FileNotFoundError(
                f"data.autoencoder: {folder} holds no .safetensors; train configs/toybox/vae.yaml first"
            )
        digest = files.digest(weights.read_bytes(), size=6)
        return self.cache / f"nameless-{self.config.nameless_share:.2f}" / f"latents-{digest}"

    @override
    def batch(self, step: int, generator: torch.Generator) -> ToyViews | ViewPairs:
        """Draw views (``ToyViews``), or pairs of them where targets are asked for (``ViewPairs``)."""
        k = self.config.targets_per_reference
        if not k:
            size, share = self.config.batch_size, self.config.normal_share
            toys, views = self._draw(len(self.shards), size, generator), self._draw(VIEWS, size, generator)
            as_normals = (torch.rand(size, generator=generator) < share).tolist() if share > 0 else None
            return self._views(toys, views, self.config.autoencoder is None, as_normals)
        return self._pairs(self.config.batch_size // k, k, generator)

    def _pairs(self, n: int, k: int, generator: torch.Generator) -> ViewPairs:
        """Draw ``n`` references and ``k`` targets of each."""
        toys = self._draw(len(self.shards), n, generator)
        front = torch.rand(n, generator=generator) < self.config.front_share
        reference = torch.where(front, self._draw(REFERENCES, n, generator), self._draw(VIEWS, n, generator))
        target = _views_around(n, k, generator) if self.config.around else self._draw(VIEWS, n * k, generator)
        return ViewPairs(
            self._views(toys, reference, True),
            self._views(toys.repeat_interleave(k), target, self.config.target_pictures),
        )

    @property
    def shards(self) -> Shards:
        """The open shards."""
        if self._shards is None:
            self.setup("fit")
        assert self._shards is not None
        return self._shards

    @staticmethod
    def _draw(n: int, size: int, generator: torch.Generator) -> Int[Tensor, "B"]:
        return torch.randint(n, (size,), generator=generator)

    def _views(
        self, toys: Tensor, views: Tensor, pictures: bool, as_normals: list[bool] | None = None
    ) -> ToyViews:
        shards, latents = self.shards, None
        index, chosen = toys.tolist(), [False] * len(toys) if as_normals is None else as_normals
        if self.config.autoencoder:
            wanted = zip(index, views.tolist(), chosen, strict=True)
            rows = [
                (self._normal_latents if n else self._latents)[t // SHARD][t % SHARD, v] for t, v, n in wanted
            ]
            latents = torch.from_numpy(np.stack(rows)).float()
        shown, alpha = shards.over_white(toys, views, chosen) if pictures else (None, None)
        captions = [shards.captions[t] for t in index]
        return ToyViews(
            shown,
            latents,
            [normal_caption(c) if n else c for c, n in zip(captions, chosen, strict=True)],
            torch.from_numpy(shards.facing[toys.numpy(), views.numpy()]),
            torch.tensor([shards.categories[t] != UNCAPTIONED for t in index]),
            shards.cameras(toys, views),
            alpha,
        )

    def eval_batches(self, split: Split) -> list[ToyViews]:
        """Return test-split toys: one batch, toy by toy, the first view of each about the reference camera's."""
        first = TEST_SEED if split == "val" else TEST_SEED + 10_000
        return [
            held_out_views(
                range(first, first + self.config.n_val_toys),
                self.config.val_views,
                self.config.nameless_share,
            )
        ]


def held_out_views(
    seeds: range, n_views: int, uncaptioned_share: float = UNCAPTIONED_SHARE, category: str | None = None
) -> ToyViews:
    """Render test-split toys in the default light, ``n_views`` each: a reference view, then views all around."""
    views = []
    for seed in seeds:
        toy = make_toy(seed, uncaptioned_share, category)
        cameras = training_cameras(np.random.default_rng([seed, 7]))
        order = [0, *range(REFERENCES, VIEWS), *range(1, REFERENCES)][:n_views]
        cameras = cameras[order]
        seen = render([toy], cameras)
        named = torch.full((n_views,), toy.category != UNCAPTIONED)
        pictures, alpha = seen.over_white(), seen.alpha[:, None]
        captions = [toy.caption] * n_views
        views.append(ToyViews(pictures, None, captions, facing(toy, cameras), named, cameras, alpha))
    return join_toy_views(views)


def join_toy_views(views: list[ToyViews]) -> ToyViews:
    """Return one batch of several, one after another."""
    cameras = [v.cameras for v in views]
    poses = Cameras(
        torch.cat([c.c2w for c in cameras]),
        torch.cat([c.fov_y for c in cameras]),
        cameras[0].height,
        cameras[0].width,
    )
    pictures = [v.pictures for v in views if v.pictures is not None]
    alpha = [v.alpha for v in views if v.alpha is not None]
    return ToyViews(
        torch.cat(pictures) if pictures else None,
        None,
        [caption for v in views for caption in v.captions],
        torch.cat([v.facing for v in views]),
        torch.cat([v.named for v in views]),
        poses,
        torch.cat(alpha) if alpha else None,
    )


@torch.no_grad()
def encode_shards(
    shards: Sequence[NDArray[np.uint8]], autoencoder: Path, folder: Path, first: int = 0
) -> None:
    """Encode every picture (RGBA bytes) to scaled latents (mode), a float16 file a shard; standing files are kept.

    ``first`` is the number of the first shard.
    """
    from diffusers import AutoencoderKL

    if not shards:
        return
    folder.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(autoencoder).eval().to(torch.float32)

    def encode(picture: Tensor) -> Tensor:
        return vae.encode(picture).latent_dist.mode().float() * vae.config.scaling_factor

    for index, rgba in enumerate(each(shards, "encoding toys")):
        target = folder / f"shard-{first + index:05d}.npy"
        if target.exists():
            continue
        flat = torch.from_numpy(np.asarray(rgba)).flatten(0, 1)
        parts = [_encode_pictures(encode, chunk) for chunk in flat.split(256)]
        latents = torch.cat(parts).view(*rgba.shape[:2], *parts[0].shape[1:])
        with files.replace_atomically(target) as partial:
            np.save(partial, latents.numpy().astype(np.float16))


def _read_latents(folder: Path, count: int, first: int) -> list[NDArray[np.float16]]:
    """Return the latents of ``count`` shards."""
    return [np.load(folder / f"shard-{index:05d}.npy") for index in range(first, first + count)]


def _views_around(n: int, k: int, generator: torch.Generator) -> Int[Tensor, "B"]:
    """Draw ``k`` different views from all around, for each of ``n`` toys."""
    order = torch.rand(n, VIEWS - REFERENCES, generator=generator).argsort(1)
    return (REFERENCES + order[:, :k]).flatten()


def _encode_pictures(encode: Callable[[Tensor], Tensor], rgba: Tensor) -> Tensor:
    picture = rgba.float() / 255
    alpha = picture[..., 3:]
    white = (picture[..., :3] * alpha + 1 - alpha).permute(0, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        return encode(white * 2 - 1)
