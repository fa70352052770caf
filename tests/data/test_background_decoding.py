"""Decoding in the background: those that are waited for go first, errors reach every reader, the end is orderly."""

import threading
from contextlib import ExitStack

import pytest

from usd.core.errors import UserError
from usd.data import background_decoding
from usd.data.background_decoding import BackgroundDecoding, spread_order


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(background_decoding.os, "cpu_count", lambda: 1)


class Gate:
    """Decodes nothing until it is opened, and remembers the order."""

    def __init__(self):
        self.order, self.begun, self.opened = [], threading.Event(), threading.Event()

    def __call__(self, number):
        self.order.append(number)
        self.begun.set()
        assert self.opened.wait(20)
        return ("seen",) if number % 2 else ()


def test_pictures_that_are_waited_for_go_first(alone):
    gate, ended = Gate(), []
    decoding = BackgroundDecoding(gate, 8, ExitStack(), ended.append)
    assert gate.begun.wait(20)
    reader = threading.Thread(target=decoding.wait, args=([5, 2, 5],))
    reader.start()
    while not decoding._wanted:
        pass
    gate.opened.set()
    reader.join(20)
    decoding.wait_for_all()
    assert gate.order == [0, 5, 2, 1, 3, 4, 6, 7] and ended == [{"seen": 4}]
    decoding.wait([7])


def test_an_error_reaches_every_reader_and_the_place_of_the_pictures(alone):
    def broken(number):
        if number == 2:
            raise UserError("2.png: cannot be read")
        return ()

    told = []
    place = ExitStack()
    place.push(lambda kind, error, trace: told.append(str(error)))
    decoding = BackgroundDecoding(broken, 4, place, lambda remarks: pytest.fail("finished"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"2\.png"):
            decoding.wait([3])
    with pytest.raises(UserError, match=r"2\.png"):
        decoding.wait_for_all()
    assert told == ["2.png: cannot be read"]


def test_a_stop_closes_the_place_as_an_error_does(alone):
    gate, told = Gate(), []
    place = ExitStack()
    place.push(lambda kind, error, trace: told.append(kind))
    decoding = BackgroundDecoding(gate, 3, place, lambda remarks: pytest.fail("finished"))
    assert gate.begun.wait(20)
    threading.Timer(0.05, gate.opened.set).start()
    decoding.stop()
    assert told == [InterruptedError] and gate.order == [0]
    decoding.stop()


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_the_first_of_the_order_are_spread_over_all(count):
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    for first in (1 << k for k in range(count.bit_length() - 1)):
        taken = sorted(order[:first])
        gaps = [b - a for a, b in zip(taken, [*taken[1:], taken[0] + count])]
        assert max(gaps) <= 2 * -(-count // first)
