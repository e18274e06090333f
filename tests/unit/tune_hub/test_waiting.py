"""How long to wait between two requests."""

import pytest

from tune_hub.waiting import MAX_FAILURES, Waits


def test_waits_grow_and_end():
    waited: list[float] = []
    waits = Waits(waited.append)
    assert [waits.wait() for _ in range(MAX_FAILURES)] == [True] * (MAX_FAILURES - 1) + [False]
    assert waited == [0.25, 0.5, 1, 2, 4]


def test_progress_begins_anew():
    waited: list[float] = []
    waits = Waits(waited.append)
    for _ in range(20):
        assert waits.wait()
        waits.progress()
    assert waited == [0.25] * 20


@pytest.mark.parametrize(
    ("asked", "seconds"), [("7", 7), (" 0 ", 0), ("soon", 0.25), ("-1", 0.25), ("", 0.25), (None, 0.25)]
)
def test_what_the_server_asks_for_counts_if_it_is_a_number(asked: str | None, seconds: float):
    waited: list[float] = []
    assert Waits(waited.append).wait(asked)
    assert waited == [seconds]


def test_a_server_that_asks_for_too_much_is_left():
    waited: list[float] = []
    assert not Waits(waited.append).wait("3600")
    assert waited == []
