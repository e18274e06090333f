"""What `fault_injector.py` does hundreds of times, a few times."""

import random
from pathlib import Path

import fault_injector as faults

ONCE = (
    *(faults.kill_a_rank, faults.kill_while_saving, faults.stop_a_rank),
    *(faults.damage_the_last, faults.kill_at_the_rename, faults.fill_the_disk),
)


def test_a_run_that_was_broken_in_many_ways_ends_as_the_unbroken_one(tmp_path: Path):
    reference = faults.unbroken(tmp_path / "unbroken")
    run, num_faults = faults.broken(tmp_path / "broken", ONCE, random.Random(3))
    assert num_faults == len(ONCE)
    faults.assert_same(run, reference)
