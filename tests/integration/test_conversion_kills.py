"""What `conversion_kills.py` does a hundred times, a few times."""

from pathlib import Path

import conversion_kills


def test_a_conversion_that_was_killed_again_and_again_ends_as_the_unbroken_one(tmp_path: Path):
    kills, _ = conversion_kills.run(4, seed=1, place=tmp_path)
    assert kills >= 4
