"""Tasks side by side, which end when one fails or the user has had enough."""

import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread

PARTING_S = 0.3
"""Seconds in which threads that are not waiting for a server come to an end by themselves."""


def run_all(tasks: Sequence[Callable[[], object]], num_threads: int, stop: Event) -> None:
    """Do tasks, several at a time, begun in their order.

    One that waits for a server's answer keeps neither the caller nor Python from ending: its thread is left
    to itself, and must change nothing once `stop` is set.

    Args:
        tasks: what is to be done.
        num_threads: how many at a time.
        stop: set when this ends, for whatever reason.

    Raises:
        BaseException: the first that a task raised.
    """
    todo: SimpleQueue[Callable[[], object]] = SimpleQueue()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    for task in tasks:
        todo.put(task)

    def work() -> None:
        while not stop.is_set():
            try:
                task = todo.get_nowait()
            except Empty:
                return
            try:
                task()
                ended.put(None)
            except BaseException as error:  # raised again by who waits
                ended.put(error)

    threads = [Thread(target=work, daemon=True) for _ in range(min(num_threads, len(tasks)))]
    try:
        for thread in threads:
            thread.start()
        for _ in tasks:
            if error := ended.get():
                raise error
    finally:
        stop.set()
        deadline = time.monotonic() + PARTING_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
