"""Pickles made to grow: refused with the reason, in bounded time and memory."""

import re
from pathlib import Path

import pytest
from fuzz.hostile_pickles import BOMBS, write_all
from fuzz.watched import Watched, read_watched

SECONDS = 20
"""For one file, on a machine that does much else. It takes two at most."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bombs")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Watched]:
    """What a process that may take 1 GB says of each."""
    write_all(folder, BOMBS)
    return read_watched(folder)


@pytest.mark.parametrize("title", BOMBS)
def test_pickle_that_grows_is_refused_with_the_reason(results: dict[str, Watched], folder: Path, title: str):
    _, reason = BOMBS[title]
    assert results[title].message.startswith(f"{folder / title}: ")
    assert re.search(reason, results[title].message), results[title].message
    assert len(results[title].message) < 1000 + len(str(folder))
    assert results[title].seconds < SECONDS
