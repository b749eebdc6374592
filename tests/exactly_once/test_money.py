"""Money under random kills: the sum is conserved, and each key moves it exactly once."""

import pytest

from tests.exactly_once.money import ACCOUNTS, OPENING_BALANCE, run


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_the_sum_is_conserved_and_each_key_moves_money_once(request: pytest.FixtureRequest, database: str) -> None:
    count = run(request.getfixturevalue(f"{database}_url"), seconds=8, least=24, processes=4)
    assert count.sum == ACCOUNTS * OPENING_BALANCE
    assert (count.moved_more, count.moved_never) == (0, 0)
    # A client that stopped hearing in mid-air still counts: what it was answered for stands once.
    assert count.moved_once >= count.transfers > 20
    assert count.kills > 5
