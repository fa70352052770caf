import pytest
from hypothesis import given
from hypothesis import strategies as st

from usd.core.schedule import Schedule


def test_a_number_is_constant():
    schedule = Schedule.parse(0.5)
    assert [schedule(step) for step in (0, 1, 10**9)] == [0.5] * 3


def test_four_elements_are_linear_between_their_steps_and_constant_outside():
    schedule = Schedule.parse([100, 1.0, 3.0, 200])
    assert [schedule(s) for s in (0, 100, 150, 200, 999)] == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_three_elements_start_at_zero():
    assert Schedule.parse([1.0, 3.0, 200]) == Schedule.parse([0, 1.0, 3.0, 200])


def test_six_elements_go_on_to_a_third_point():
    schedule = Schedule.parse([0, 0.0, 1.0, 10, 5.0, 20])
    assert [schedule(s) for s in (0, 5, 10, 15, 20, 30)] == [0.0, 0.5, 1.0, 3.0, 5.0, 5.0]


def test_the_published_timestep_schedule_jumps_after_its_step():
    schedule = Schedule.parse([5000, 0.98, 0.5, 5001])
    assert (schedule(5000), schedule(5001)) == (0.98, 0.5)
    assert (schedule.minimum, schedule.maximum) == (0.5, 0.98)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([5000.0, 1, 0, 6000], "integer number of optimizer steps"),
        ([0, 1], "3, 4 or 6 elements"),
        ([10, 1, 2, 10], "must increase"),
        ("fast", "not a schedule"),
        (True, "not a schedule"),
        ({"steps": [0, 5]}, "exactly two lists"),
        ({"steps": [0, 5], "values": [1]}, "as many steps as values"),
        ([0, "a", 1, 5], "not a schedule"),
    ],
)
def test_what_is_not_a_schedule_says_why(value, what):
    with pytest.raises(ValueError, match=what):
        Schedule.parse(value)


points = st.lists(
    st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), min_size=1, max_size=6, unique_by=lambda p: p[0]
)


@given(points, st.integers(-10, 10**6))
def test_a_schedule_passes_its_points_stays_in_their_range_and_survives_yaml(items, step):
    steps, values = zip(*sorted(items))
    schedule = Schedule(steps, values)
    assert all(schedule(s) == v for s, v in zip(steps, values))
    assert schedule.minimum - 1e-6 <= schedule(step) <= schedule.maximum + 1e-6
    again = Schedule.parse(schedule.plain())
    assert again == schedule or len(steps) == 1
    assert again(step) == schedule(step)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "nan is not a finite number"),
        ([0, 1.0, float("inf"), 5], "inf is not a finite number"),
        ({"steps": [0, 5], "values": [1, float("-inf")]}, "-inf is not a finite number"),
        ([-3, 1.0, 2.0, 5], "step -3 is out of range; expected 0 or more"),
        ([0, 1.0, 2.0, 2**31], "step 2147483648 is out of range"),
    ],
)
def test_numbers_that_no_schedule_can_mean(value, text):
    with pytest.raises(ValueError, match=text):
        Schedule.parse(value)
