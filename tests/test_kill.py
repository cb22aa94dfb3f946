"""A run survives being killed at any moment; `tests/kill.py` does it any number of times."""

import pytest
from kill import kill_and_compare


@pytest.mark.slow
def test_killed_five_times_equals_straight_through(tmp_path):
    kills = kill_and_compare(tmp_path, 5, seed=0)
    assert len(kills) == 5
    assert len({kill.step for kill in kills}) > 2  # it went on in between
