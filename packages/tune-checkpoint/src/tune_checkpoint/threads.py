"""Work that several threads do."""

import os
from collections.abc import Callable, Sequence
from threading import Event
from typing import TypeVar

T = TypeVar("T")
USUAL_JOBS = 8
MAX_JOBS = 32
"""Each takes memory for a few blocks; more have not been faster anywhere."""


def num_jobs(jobs: int | None) -> int:
    """How many threads work: as many as asked for, up to 32, or one for each core, up to 8."""
    return min(MAX_JOBS, jobs or min(USUAL_JOBS, os.cpu_count() or 1))


def do_all(tasks: Sequence[Callable[[], T]], jobs: int, stop: Event) -> list[T]:
    """Do all tasks and return their results in order. The first error ends the others.

    Args:
        tasks: what to do.
        jobs: how many at a time.
        stop: set when one has failed; the others look at it from time to time.
    """
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    pool = ThreadPoolExecutor(jobs)
    try:
        futures = [pool.submit(task) for task in tasks]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and (error := future.exception()):
                raise error
        return [future.result() for future in futures]
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
