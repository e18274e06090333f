"""Progress on standard error: a live bar on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tune_checkpoint.progress import can_redraw


class Progress:
    """Plain lines."""

    def __init__(self, done: int = 0, num_steps: int = 0):
        self._first, self._num_steps = done, num_steps
        self._start = time.perf_counter()

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)

    def step(self, figures: dict[str, Any], *, printed: bool) -> None:
        """Take note of a step, and print a line if it is one of those to print."""
        if printed:
            self.say(self.line(figures))

    def line(self, figures: dict[str, Any]) -> str:
        """Return a step's line: where it is, loss, learning rate, speed, and the time left."""
        width = len(str(self._num_steps))
        return (
            f"step {figures['step']:>{width}}/{self._num_steps}  loss {figures['loss']:.4f}  "
            f"lr {figures['lr']:.2e}  grad norm {figures['grad_norm']:.3f}  "
            f"{figures['tokens_per_second']:,.0f} tokens/s  {self._left(figures['step'])} left"
        )

    def _left(self, step: int) -> str:
        seconds = (time.perf_counter() - self._start) / max(1, step - self._first) * (self._num_steps - step)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _LiveProgress(Progress):
    """Lines above a bar."""

    def __init__(self, done: int, num_steps: int, bar: Any):
        super().__init__(done, num_steps)
        self._bar = bar
        self._task = bar.add_task("training", total=num_steps, completed=done)

    def say(self, text: str) -> None:
        self._bar.stop()  # so that the line goes through standard error, and with it into the log
        super().say(text)
        self._bar.start()

    def step(self, figures: dict[str, Any], *, printed: bool) -> None:
        self._bar.update(self._task, completed=figures["step"], description=f"loss {figures['loss']:.4f}")
        super().step(figures, printed=printed)


@contextmanager
def open_progress(done: int, num_steps: int) -> Iterator[Progress]:
    """Yield the progress of a loop, with a bar where standard error is a terminal that can show one."""
    if not can_redraw():
        yield Progress(done, num_steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = Console(file=sys.__stderr__)
    with Bar(*columns, console=terminal, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        yield _LiveProgress(done, num_steps, bar)
