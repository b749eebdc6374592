"""When a repeat is told to come back: honestly."""

import pytest
from freezegun.api import FrozenDateTimeFactory as Clock

from .desk import Desk, beat


@pytest.mark.parametrize(("age", "after"), [(0, 1), (9, 1), (10, 2), (55, 6), (99, 10), (101, 11), (3600, 11)])
def test_while_a_live_holder_renews_it_is_soon_and_later_the_longer_it_takes(
    age: int, after: int, clock: Clock
) -> None:
    desk = Desk(lease=30)
    attempt = desk.run()
    for _ in range(age):
        clock.tick(1)
        beat()
    assert desk.refused() == ("request-in-progress", after)
    desk.engine.release(attempt)


@pytest.mark.parametrize(("silent", "after"), [(0, 1), (10, 2), (11.9, 2), (12.1, 18), (14, 16), (29, 1), (29.9, 1)])
def test_once_a_renewal_is_overdue_it_is_the_rest_of_the_lease(silent: float, after: int, clock: Clock) -> None:
    desk = Desk(lease=30)
    desk.vanish()
    clock.tick(silent)
    assert desk.refused() == ("request-in-progress", after)


def test_it_is_never_less_than_a_second(clock: Clock) -> None:
    desk = Desk(lease=0.3)
    desk.vanish()
    clock.tick(0.25)
    assert desk.refused() == ("request-in-progress", 1)


def test_it_is_never_so_long_that_a_holder_who_dies_now_could_have_been_taken_over_long_ago(clock: Clock) -> None:
    desk = Desk(lease=6)
    attempt = desk.run()
    for _ in range(200):
        clock.tick(1)
        beat()
    assert desk.refused() == ("request-in-progress", 3)
    desk.engine.release(attempt)
