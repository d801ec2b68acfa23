"""When the pruner's next turn comes."""

from __future__ import annotations

import pytest

from sqlstore.pruner import pause


@pytest.mark.parametrize(
    ("interval", "failures", "expected"),
    [
        (900, 0, 900),
        (900, 1, 5),
        (900, 2, 10),
        (900, 8, 640),
        (900, 9, 900),
        (900, 10_000, 900),
        (0.05, 0, 0.05),
        (0.05, 1, 0.05),
    ],
)
def test_a_turn_comes_after_the_interval_or_sooner_after_a_failure(
    interval: float, failures: int, expected: float
) -> None:
    """Half as long or half as long again, so that workers do not keep step."""
    pauses = [pause(interval, failures) / expected for _ in range(200)]

    assert 0.5 <= min(pauses) < 0.7
    assert 1.3 < max(pauses) <= 1.5
