"""Where a bar may be drawn."""

import sys

import pytest

from tune_checkpoint.progress import can_redraw
from tune_recipes.train.progress import Progress, open_progress


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_bar_is_drawn_only_where_it_can_be_and_is_wanted(monkeypatch, variables, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert can_redraw() is expected
    with open_progress(0, 1) as training:
        assert (type(training) is not Progress) is expected


def test_no_bar_is_drawn_off_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not can_redraw()
