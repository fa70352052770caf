"""Pixels that are decoded once: the same ones from memory, from a file and from the cache; old files go."""

import errno
from dataclasses import replace

import numpy as np
import pytest
import torch

from usd.core.errors import UserError
from usd.data import picture_cache
from usd.data.picture_cache import PixelLayout, ViewBytes, store_pixels
from usd.data.pixel_array import PixelArray, unit_rgba

LAYOUT = PixelLayout(5, 6, 4, 3, True, True)


def one_view(number: int) -> ViewBytes:
    draw = np.random.default_rng(number)
    shape = (6, 4) if number else (5, 4)  # the first is smaller
    valid = None if number == 2 else draw.random(shape) > 0.5
    depth = draw.random(shape).astype(np.float16)
    return ViewBytes(draw.integers(0, 256, (*shape, 3), np.uint8), valid, depth, ("a remark",) * (number > 2))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(picture_cache, "IN_MEMORY", 0)
    return tmp_path / "usd" / "pictures"


def test_what_is_mapped_is_what_was_decoded(cache, monkeypatch):
    asked = []

    def decode(number):
        asked.append(number)
        return one_view(number)

    written = store_pixels(decode, LAYOUT, ["key"], "x")
    found = store_pixels(decode, LAYOUT, ["key"], "x")
    assert sorted(asked) == list(range(5)) and found.notes == ("2 of 5 pictures: a remark",) == written.notes
    store_pixels(decode, LAYOUT, ["another key"], "x")
    assert len(asked) == 10 and len(list(cache.glob("*.pixels"))) == 2
    monkeypatch.setattr(picture_cache, "IN_MEMORY", 1 << 20)
    memory = store_pixels(decode, LAYOUT, ["key"], "x")
    for stored in (found, memory):
        for number in range(5):
            truth = one_view(number)
            height = len(truth.colors)
            assert np.array_equal(stored.colors.view(number)[:height], truth.colors)
            one = [torch.tensor([place]) for place in (number, 2, 3)]
            assert np.array_equal(stored.colors.at(*one)[0], truth.colors[2, 3])
            assert stored.colors.view(number)[height:].sum() == 0
            assert np.array_equal(stored.depths.view(number)[:height, :, 0], truth.depth)
            valid = np.ones((height, 4), bool) if truth.valid is None else truth.valid
            assert np.array_equal(stored.valid.view(number)[:height, :, 0], valid)
            assert not stored.valid.view(number)[height:].any()


def test_pictures_of_a_large_capture_are_there_when_they_are_read(cache, monkeypatch, capsys):
    monkeypatch.setattr(picture_cache, "AT_ONCE", 2)
    stored = store_pixels(one_view, LAYOUT, ["key"], "data.path: x")
    assert np.array_equal(stored.colors.view(4), one_view(4).colors) and not stored.notes
    truth = one_view(1)
    assert np.array_equal(stored.valid.view(1)[..., 0], truth.valid)
    assert np.array_equal(
        stored.depths.at(*(torch.tensor([k]) for k in (1, 5, 3)))[0], truth.depth[5, 3, None]
    )
    stored.colors.stored.decoding.wait_for_all()
    assert "data.path: x: 2 of 5 pictures: a remark" in capsys.readouterr().out
    assert len(list(cache.glob("*"))) == 2, "the file under its name, and its record"
    again = store_pixels(lambda i: pytest.fail("decoded"), LAYOUT, ["key"], "x")
    assert again.notes == ("2 of 5 pictures: a remark",)
    assert torch.equal(again.colors.all(), stored.colors.all())


@pytest.mark.parametrize("at_once", [2, 128])
def test_what_cannot_be_decoded_leaves_nothing(cache, monkeypatch, at_once):
    monkeypatch.setattr(picture_cache, "AT_ONCE", at_once)

    def broken(number):
        if number == 3:
            raise UserError("data.path: 3.png: cannot be read")
        return one_view(number)

    with pytest.raises(UserError, match=r"3\.png"):
        store_pixels(broken, LAYOUT, ["key"], "x").colors.stored.decoding.wait_for_all()
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("at_once", [2, 128])
def test_a_full_disk_is_told_before_anything_is_decoded(cache, monkeypatch, at_once):
    monkeypatch.setattr(picture_cache, "AT_ONCE", at_once)

    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(picture_cache.os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(picture_cache.sys, "platform", "linux")
    with pytest.raises(UserError, match="No space left on device"):
        store_pixels(lambda i: pytest.fail("decoded"), LAYOUT, ["key"], "x")
    assert not list(cache.glob("*"))


def test_a_disk_that_cannot_reserve_room_is_written_to_all_the_same(cache, monkeypatch):
    def never(descriptor, offset, size):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(picture_cache.os, "posix_fallocate", never, raising=False)
    monkeypatch.setattr(picture_cache.sys, "platform", "linux")
    found = store_pixels(one_view, LAYOUT, ["key"], "x")
    assert np.array_equal(found.colors.view(3), one_view(3).colors)


def test_the_longest_unused_goes_where_the_budget_ends(cache, monkeypatch):
    monkeypatch.setattr(picture_cache, "BUDGET_GB", 2.5 * LAYOUT.size / 1e9)
    for key in ("a", "b", "a", "c"):
        store_pixels(one_view, LAYOUT, [key], "x")
    assert len(list(cache.glob("*.pixels"))) == 2
    asked = []
    store_pixels(lambda i: asked.append(i) or one_view(i), LAYOUT, ["c"], "x")
    assert not asked
    with pytest.raises(UserError, match=r"take 0 GB; expected at most .*data\.size"):
        store_pixels(one_view, replace(LAYOUT, views=50), ["all"], "x")


def test_views_are_chosen_without_a_copy_and_pixels_by_their_place():
    values = torch.randint(0, 256, (4, 3, 5, 3), dtype=torch.uint8)
    array = PixelArray.of(values).select([3, 1])
    assert array.stored is array.select([0]).stored and len(array) == 2
    view, y, x = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1]), torch.tensor([4, 3, 0])
    assert torch.equal(array.at(view, y, x), values[[3, 1, 1], y, x])
    assert torch.equal(array.all(), values[[3, 1]])
    rgba = unit_rgba(array.at(view, y, x))
    assert torch.equal(rgba[:, :3], values[[3, 1, 1], y, x] / 255) and torch.equal(rgba[:, 3], torch.ones(3))
