"""What `tune download` says while it works."""

import pytest

from tune_cli.commands._downloaded import Reporting


def test_each_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch):
    pieces: list[str] = []
    with Reporting() as events:
        monkeypatch.setattr("sys.stderr.write", pieces.append)
        events.file_done("a", 1, "missing")
        events.file_done("b", 2000, "cached")
    assert pieces == ["a: 1 bytes, fetched and checked\n", "b: 2.0 kB, linked from the Hub cache\n"]
