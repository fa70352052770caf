"""Normal maps of training toys: one convention with the renderers, under captions of their own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from usd.core.config import ConfigError, parse
from usd.data.toybox import ToyboxData, ViewPairs
from usd.math.normal_map import normal_colors
from usd.toybox import dataset
from usd.toybox.cameras import cameras_at
from usd.toybox.dataset import normal_map
from usd.toybox.objects import make_toy
from usd.toybox.render import render

CAMERAS = cameras_at([15.0, 40.0], [90.0, 230.0], 32)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD", 2)
    monkeypatch.setattr("usd.data.toybox.SHARD", 2)


def _data(cache: Path, **options: object) -> ToyboxData:
    said = {"n_toys": 2, "batch_size": 8, "cache": str(cache), "nameless_share": 0.0, **options}
    return ToyboxData(parse(ToyboxData.Config, said, "data"))


def test_colors_mean_directions_in_the_world() -> None:
    """Up is (.5, .5, 1), +x is (1, .5, .5), whatever the camera; nothing is the background."""
    normal = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).T.view(1, 3, 1, 3)
    seen = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    colors = normal_colors(normal, seen, 1.0)[0, :, 0].T
    assert colors.tolist() == [[0.5, 0.5, 1.0], [1.0, 0.5, 0.5], [1.0, 1.0, 1.0]]
    assert normal_colors(normal, seen, 0.0)[0, :, 0, 2].tolist() == [0.0, 0.0, 0.0]


def test_a_toys_normal_map_is_what_a_renderer_would_show() -> None:
    """The same picture as the tracer's normals give, but for the pixels on an edge, which are averaged."""
    toy = make_toy(3, 0.0, "mug")
    mapped = normal_map(toy, CAMERAS)
    seen = render([toy], CAMERAS, edge_rays=1)
    shown = normal_colors(seen.normal.permute(0, 3, 1, 2), seen.alpha[:, None], 1.0)
    over_white = mapped[:, :3] * mapped[:, 3:] + 1 - mapped[:, 3:]
    inside = (mapped[:, 3] == 1) | (mapped[:, 3] == 0)
    difference = (over_white - shown).abs().amax(1)[inside]
    assert difference.quantile(0.9) < 0.06 and inside.float().mean() > 0.8
    assert 0.05 < mapped[:, 3].mean() < 0.8


def test_normals_point_towards_the_camera_and_have_unit_length() -> None:
    toy = make_toy(5, 0.0, "car")
    mapped = normal_map(toy, CAMERAS)
    n = mapped[:, :3] * 2 - 1
    towards_eye = -CAMERAS.rays()[1].permute(0, 3, 1, 2)
    solid = mapped[:, 3] == 1
    facing = (n * towards_eye).sum(1)[solid]
    assert (facing > -0.2).float().mean() > 0.99
    assert (n.norm(dim=1)[solid] - 1).abs().median() < 0.02


def test_normal_maps_are_rendered_once_beside_the_pictures(tmp_path: Path, small_shards: None) -> None:
    data = _data(tmp_path, normal_share=1.0)
    data.prepare_data()
    (file,) = tmp_path.rglob("normals.npy")
    kept, written = np.load(file), file.stat().st_mtime_ns
    data.prepare_data()
    assert file.stat().st_mtime_ns == written and not list(tmp_path.rglob(".normals-*"))
    rgba = np.load(file.with_name("rgba.npy"))
    assert kept.shape == rgba.shape and kept.dtype == np.uint8
    same_outline = (kept[..., 3] > 127) == (rgba[..., 3] > 127)
    assert same_outline.mean() > 0.99


def _all_views(shards: dataset.Shards, toy: int, as_normals: list[bool]) -> torch.Tensor:
    views = torch.arange(dataset.VIEWS)
    return shards.over_white(torch.full_like(views, toy), views, as_normals)[0]


def test_a_share_of_the_views_are_normal_maps_under_their_own_caption(
    tmp_path: Path, small_shards: None
) -> None:
    batch = _data(tmp_path, normal_share=0.5, batch_size=40).batch(0, torch.Generator().manual_seed(0))
    mapped = [caption.startswith("normals of a") for caption in batch.captions]
    assert 8 < sum(mapped) < 32
    toys = {make_toy(i, 0.0).caption for i in range(2)}
    assert {caption.removeprefix("normals of ") for caption in batch.captions} <= toys
    shards = dataset.open_shards(tmp_path, 2, 0.0, normals=True)
    seen = {picture.numpy().tobytes() for i in range(2) for picture in _all_views(shards, i, [True] * 12)}
    assert [picture.numpy().tobytes() in seen for picture in batch.pictures] == mapped
    told = batch.captions_with_views([True] * 40)
    assert all(", from the " in caption for caption in told)


def test_without_a_share_nothing_changes(tmp_path: Path, small_shards: None) -> None:
    """The same draws as ever, and no normal maps on disk."""
    batch = _data(tmp_path).batch(0, torch.Generator().manual_seed(3))
    again = torch.Generator().manual_seed(3)
    toys, views = torch.randint(2, (8,), generator=again), torch.randint(dataset.VIEWS, (8,), generator=again)
    shards = dataset.open_shards(tmp_path, 2, 0.0)
    assert torch.equal(batch.pictures, shards.over_white(toys, views)[0])
    assert not list(tmp_path.rglob("normals.npy"))


def test_pairs_have_no_normal_maps(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.normal_share: pairs have no normal maps"):
        _data(tmp_path, normal_share=0.2, targets_per_reference=2)


def test_targets_around_a_reference_are_different_views_and_toys_may_start_later(
    tmp_path: Path, small_shards: None
) -> None:
    """The second shard's toys are those that follow the first's, and no target stands where references do."""
    both, later = (
        _data(tmp_path, n_toys=4),
        _data(tmp_path, first_toy=2, targets_per_reference=4, around=True),
    )
    for data in (both, later):
        data.prepare_data()
        data.setup("fit")
    assert later.shards.captions == both.shards.captions[2:]
    pairs = later.batch(0, torch.Generator().manual_seed(0))
    assert isinstance(pairs, ViewPairs) and len(pairs.target.cameras) == 8
    around = torch.from_numpy(later.shards.c2w[:, dataset.REFERENCES :]).flatten(0, 1)
    for group in pairs.target.cameras.c2w.split(4):
        places = [int((pose == around).all((1, 2)).nonzero()[0]) for pose in group]
        assert len(set(places)) == 4 and len({place // 8 for place in places}) == 1
    with pytest.raises(ConfigError, match="multiple of 2"):
        _data(tmp_path, first_toy=1)
    with pytest.raises(ConfigError, match="at most 8"):
        _data(tmp_path, targets_per_reference=9, around=True)
