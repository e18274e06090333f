"""A file that grows, and tasks side by side."""

import hashlib
import threading
import time
from pathlib import Path

import pytest

from tune_hub.growing import GrowingFile, Stopped
from tune_hub.listing import RepoFile
from tune_hub.parallel import run_all

CONTENT = b"0123456789"
FILE = RepoFile("x", len(CONTENT), "0" * 40, hashlib.sha256(CONTENT).hexdigest())


def test_a_file_is_right_when_all_is_there_however_it_came(tmp_path: Path):
    moved: list[int] = []
    for piece in (CONTENT[:4], CONTENT[4:]):
        with GrowingFile(tmp_path / "x", FILE, moved.append, threading.Event()) as growing:
            assert not growing.is_right
            growing.add(piece)
            assert (tmp_path / "x").stat().st_size == growing.size  # nothing is held back
    assert growing.is_complete and growing.is_right
    assert moved == [4, 6]


def test_more_than_the_file_is_not_the_file(tmp_path: Path):
    moved: list[int] = []
    with GrowingFile(tmp_path / "x", FILE, moved.append, threading.Event()) as growing:
        growing.add(CONTENT * 100)
        assert growing.is_complete and not growing.is_right
        growing.begin_anew()
        growing.add(CONTENT)
        assert growing.is_right
    assert sum(moved) == len(CONTENT)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_what_was_stopped_writes_nothing_more(tmp_path: Path):
    stop = threading.Event()
    with GrowingFile(tmp_path / "x", FILE, lambda _: None, stop) as growing:
        growing.add(CONTENT[:4])
        stop.set()
        with pytest.raises(Stopped):
            growing.add(CONTENT[4:])
    with pytest.raises(Stopped):
        GrowingFile(tmp_path / "x", FILE, lambda _: None, stop)
    assert (tmp_path / "x").read_bytes() == CONTENT[:4]


def test_the_first_failure_ends_all_and_waits_for_nobody():
    stop, done = threading.Event(), list[int]()
    silent = threading.Event()

    def fail() -> None:
        raise ValueError("broken")

    begun = time.monotonic()
    with pytest.raises(ValueError, match="broken"):
        run_all([lambda: silent.wait(30), fail, *[lambda: done.append(1)] * 5], 2, stop)
    assert time.monotonic() - begun < 2
    assert stop.is_set()
    silent.set()


def test_all_tasks_are_done():
    done = list[int]()
    run_all([lambda n=n: done.append(n) for n in range(100)], 8, threading.Event())
    assert sorted(done) == list(range(100))
    run_all([], 8, threading.Event())
