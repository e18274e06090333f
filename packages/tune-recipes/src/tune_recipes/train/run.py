"""A run while it goes on: its folder, its metrics, its progress on the terminal, and how it is stopped."""

import json
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from tune_recipes import runs
from tune_recipes.data.loader import Loader
from tune_recipes.errors import UserError
from tune_recipes.train.progress import Progress, open_progress


class Stopped(Exception):
    """The run was asked to stop and did, after saving."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Run:
    """One run of a training recipe, in its folder."""

    def __init__(self, folder: Path, *, log_every: int):
        self.folder = folder
        self._log_every = log_every
        self._stop_signal: int | None = None
        self._progress = Progress()
        self._last_time = 0.0
        self._unreported_tokens = 0

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / runs.CHECKPOINTS

    @property
    def final(self) -> Path:
        """Folder of what was trained: the model, or the adapter."""
        return self.folder / runs.FINAL

    @property
    def merged(self) -> Path:
        """Folder of the model with the adapter merged in."""
        return self.folder / runs.MERGED

    def say(self, text: str) -> None:
        """Print a line on standard error; the log gets it too."""
        self._progress.say(text)

    def describe(self, model: nn.Module, loader: Loader) -> None:
        """Print how much is trained on what, and keep the data's fingerprint with the run.

        Raises:
            UserError: The run is taken up again and its data is not what it was.
        """
        data = {"sha256": loader.fingerprint.sha256, "records": loader.fingerprint.num_records}
        before = runs.read_info(self.folder).data
        if before and before != data:
            raise UserError(
                "data.path: the file has changed since this run began; going on would mix two sets of data\n"
                "  put the old file back, or start a new run"
            )
        runs.update_info(self.folder, data=data)
        total = sum(parameter.numel() for parameter in model.parameters())
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        share = "all of them" if trained == total else f"{trained:,} of them"
        some = next(model.parameters())
        dtype = str(some.dtype).removeprefix("torch.")
        self.say(f"Model: {total:,} parameters in {dtype} on {some.device.type}, {share} trained")
        self.say(f"Data: {data['records']:,} records, {len(loader):,} batches an epoch")

    def steps(self, done: int, num_steps: int) -> Iterator[int]:
        """Yield the numbers of the steps that are left, with progress on the terminal.

        Ctrl-C and SIGTERM meanwhile only ask to stop: `stop_if_asked` does. A second Ctrl-C stops at once.
        """
        self._num_steps = num_steps
        with self._signals_noted(), open_progress(done, num_steps) as self._progress:
            self._last_time = time.perf_counter()
            yield from range(done + 1, num_steps + 1)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append a step's figures to metrics.jsonl and print them every `log_every` steps."""
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        line = {
            "step": step,
            **metrics,
            "tokens_per_second": round(metrics["tokens"] / max(seconds, 1e-9), 1),
            "step_seconds": round(seconds, 6),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        with (self.folder / runs.METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._progress.step(line, printed=step % self._log_every == 0 or step in (1, self._num_steps))

    def must_save(self, step: int, save_every: int | None) -> bool:
        """Whether a checkpoint is due: every `save_every` steps, at the end, and before stopping."""
        due = save_every is not None and step % save_every == 0
        return due or step == self._num_steps or self._stop_signal is not None

    def stop_if_asked(self, step: int) -> None:
        """Stop if a signal asked for it, now that everything is saved.

        Raises:
            Stopped: It was asked for.
        """
        if self._stop_signal is None:
            return
        self.say(f"Stopped after step {step} of {self._num_steps}; everything is saved. Go on with:")
        self.say(f"  tune run --resume {self.folder}")
        raise Stopped(self._stop_signal)

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        def note(signum: int, _frame: FrameType | None) -> None:
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = signum
            self.say("Stopping after this step; Ctrl-C again stops at once, without saving.")

        before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def finish(self, data_format: str) -> None:
        """Print the final loss, where the outputs are, and what one would do next."""
        lines = (self.folder / runs.METRICS).read_text(encoding="utf-8").splitlines()
        loss = json.loads(lines[-1])["loss"]
        runs.update_info(self.folder, final_loss=loss)
        self.say(f"Finished {len(lines)} steps. Final loss: {loss:.4f}")
        merged = " and, with the adapter merged in, merged" if self.merged.is_dir() else ""
        self.say(f"Outputs: {self.folder} (the trained weights are in final{merged})")
        self.say("Ask it something:")
        self.say(f"  {runs.next_command(self.folder, data_format)}")


def peak_memory_bytes() -> int:
    """Return the most memory used at once: on the accelerator if there is one, else by the process."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
