"""A run while it goes on: its folder, its metrics, its progress on the terminal, and how it is stopped."""

import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tune_recipes import runs
from tune_recipes.catalog import shown
from tune_recipes.data.loader import Loader
from tune_recipes.errors import TrainingFailed, UserError
from tune_recipes.models.config import ModelConfig
from tune_recipes.schema import Checkpoint, Training
from tune_recipes.train.checkpoint import TrainState, load_latest
from tune_recipes.train.distributed import World
from tune_recipes.train.progress import Progress, open_progress
from tune_recipes.train.saving import Saver

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What asks a run to save and end; SIGUSR1 is what cluster schedulers send before they end a job."""

MAX_SKIPPED = 10
"""With on_nan=skip, so many steps in a row without a finite loss end the run all the same."""


class Stopped(Exception):
    """The run was asked to stop, and did."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + (signal.SIGTERM if signum == signal.SIGUSR1 else signum)


class Run:
    """One run of a training recipe, in its folder, as one of its processes sees it."""

    def __init__(self, folder: Path, world: World, info: runs.RunInfo):
        self.folder = folder
        self.world = world
        self.began = datetime.fromisoformat(info.start).astimezone()
        """When the run was first started, in local time."""
        self.started_with = info.world_size
        """Number of processes that it was first started with, which decides how many records a step has."""
        self.skipped = 0
        """Steps in a row whose loss was no finite number."""
        self._saver: Saver | None = None
        self._stop_signal: int | None = None
        self._progress = Progress()
        self._while_training = ExitStack()
        self._last_time = self._last_save_time = 0.0
        self._num_steps = 0

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

    def begin(self, cfg: Training, state: TrainState) -> None:
        """Say how much is trained on what, and go on from the last checkpoint if this run has one.

        Raises:
            UserError: No checkpoint is whole, or it belongs to another model or other data, or the data does
                not fit the model.
        """
        check_fit(state.model.config, state.loader)
        for line in facts(state, self.world):
            self.say(line)
        load_latest(self.checkpoints, state, self.world, say=self.say)
        self.world.from_first(lambda: self._take_up(state))
        if state.step:
            self.say(f"Going on after step {state.step}")
        self._saver = Saver(self.checkpoints, self.world, keep_last=cfg.checkpoint.keep_last)

    def _take_up(self, state: TrainState) -> None:
        data = state.loader.fingerprint
        runs.update_info(self.folder, data={"sha256": data.sha256, "records": data.num_records})
        runs.cut_metrics(self.folder, state.step)

    def steps(self, done: int, num_steps: int) -> Iterator[int]:
        """Yield the numbers of the steps that are left, with progress on the terminal.

        A signal meanwhile only asks to stop: `after_step` does. A second Ctrl-C stops at once.
        """
        self._num_steps = num_steps
        self._while_training.enter_context(self._signals_noted())
        self._progress = self._while_training.enter_context(open_progress(done, num_steps))
        self._last_time = self._last_save_time = time.perf_counter()
        yield from range(done + 1, num_steps + 1)
        self._leave_loop()

    def _leave_loop(self) -> None:
        """Give the terminal and the signals back, if the loop still has them."""
        self._while_training.close()
        self._progress = Progress()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        """Leave the loop, so that no error is printed into the bar, and let a checkpoint reach the disk."""
        self._leave_loop()
        if self._saver is None or (kind is not None and not issubclass(kind, Exception)):
            return  # Ctrl-C twice: at once
        try:
            self._saver.wait()
        except Exception:
            if error is None:  # else it was first
                raise
        self._saver.close()

    @property
    def is_writing(self) -> bool:
        """Whether a thread still writes a checkpoint."""
        return self._saver is not None and self._saver.is_writing

    def after_step(self, cfg: Training, state: TrainState, metrics: dict[str, Any]) -> None:
        """Log the step that was taken, save if a checkpoint is due, and stop if that was asked for.

        A checkpoint is due every `checkpoint.save_every` steps or `save_every_minutes`, at the end, and
        before stopping. What one process knows, a signal or the time, all of them act on after the same step.

        Raises:
            Stopped: A signal asked for it; everything is saved.
            TrainingFailed: The loss is no finite number, or a checkpoint could not be written.
        """
        assert self._saver is not None, "begin comes before the first step"
        records = metrics.pop("records", [])
        asked, due, failed, peak = self.world.largest(
            [
                self._stop_signal or 0,
                self._is_due(cfg.checkpoint),
                self._saver.has_failed(),
                peak_memory_bytes(),
            ]
        )
        if failed:
            self._saver.wait()
        self._look_at_loss(cfg, state.step, metrics, records)
        self._log(state.step, {**metrics, "peak_memory_bytes": peak}, cfg.logging.log_every)
        by_steps = cfg.checkpoint.save_every is not None and state.step % cfg.checkpoint.save_every == 0
        if by_steps or due or asked or state.step == self._num_steps:
            self._saver.save(state)
            self._last_save_time = time.perf_counter()
        if asked:
            self._saver.wait()
            self._leave_loop()
            self.say(
                f"Stopped after step {state.step} of {self._num_steps}; everything is saved. Go on with:"
            )
            self.say(f"  tune run --resume {shown(self.folder)}")
            raise Stopped(asked)
        if state.step == self._num_steps:
            self._saver.wait()

    def _is_due(self, cfg: Checkpoint) -> bool:
        if cfg.save_every_minutes is None:
            return False
        return time.perf_counter() - self._last_save_time >= 60 * cfg.save_every_minutes

    def _look_at_loss(
        self, cfg: Training, step: int, metrics: dict[str, Any], records: Sequence[Sequence[str]]
    ) -> None:
        """Note down a step whose loss or gradient is no finite number; end the run unless it is to go on."""
        if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
            self.skipped = 0
            return
        self.skipped += 1
        found = {"step": step, "loss": metrics["loss"], "grad_norm": metrics["grad_norm"], "records": records}
        if self.world.is_first:
            runs.append_line(self.folder / runs.NOT_FINITE, found)
        what = f"step {step}: the loss is {metrics['loss']:.4g} and its gradient {metrics['grad_norm']:.4g}"
        named = [record for of_process in records for record in of_process]
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        some = f" ({named[0]}{more})" if named else ""
        noted = f"its records{some} are noted in {shown(self.folder / runs.NOT_FINITE)}"
        if cfg.on_nan == "skip" and self.skipped < MAX_SKIPPED:
            self.say(f"{what}; the step was skipped, and {noted}")
            return
        often = f", as in the {MAX_SKIPPED - 1} steps before it" if cfg.on_nan == "skip" else ""
        advice = "" if cfg.on_nan == "skip" else ", or pass over such steps: on_nan=skip"
        raise TrainingFailed(
            f"{what}{often}; training has diverged, and {noted}\n"
            f"  try a lower optim.lr (now {metrics['lr']:.2e}) or more schedule.warmup_steps{advice}"
        )

    def _log(self, step: int, metrics: dict[str, Any], log_every: int) -> None:
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        line = {
            "step": step,
            **metrics,
            "tokens_per_second": round(metrics["tokens"] / max(seconds, 1e-9), 1),
            "step_seconds": round(seconds, 6),
        }
        if self.world.is_first:
            runs.append_line(self.folder / runs.METRICS, line)
        self._progress.step(line, printed=step % log_every == 0 or step in (1, self._num_steps))

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        def note(signum: int, _frame: FrameType | None) -> None:
            if self._stop_signal is not None:
                if signum == signal.SIGINT:
                    raise KeyboardInterrupt
                return  # asked twice to save and end: by a scheduler and a launcher, say
            self._stop_signal = signum
            # Not print: the signal may have come in the midst of one.
            os.write(2, b"\nStopping after this step; Ctrl-C again stops at once, without saving.\n")

        wanted = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]  # `nohup`
        before = {signum: signal.signal(signum, note) for signum in wanted}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def finish(self, data_format: str) -> None:
        """Print the final loss, where the outputs are, and what one would do next."""
        if not self.world.is_first:
            return
        lines = (self.folder / runs.METRICS).read_text(encoding="utf-8").splitlines()
        loss = json.loads(lines[-1])["loss"]
        runs.update_info(self.folder, final_loss=loss)
        self.say(f"Finished {len(lines)} steps. Final loss: {loss:.4f}")
        merged = " and, with the adapter merged in, merged" if self.merged.is_dir() else ""
        self.say(f"Outputs: {self.folder} (the trained weights are in final{merged})")
        self.say("Ask it something:")
        self.say(f"  {runs.next_command(self.folder, data_format)}")


def facts(state: TrainState, world: World) -> Iterator[str]:
    """Yield lines about how much is trained on what, and how."""
    parameters = list(state.model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    share = "all of them" if trained == total else f"{trained:,} of them"
    dtype = str(parameters[0].dtype).removeprefix("torch.")
    yield f"Model: {total:,} parameters in {dtype} on {parameters[0].device.type}, {share} trained"
    loader = state.loader
    yield f"Data: {loader.fingerprint.num_records:,} records, {len(loader):,} steps an epoch"
    if world.size > 1:
        yield f"Processes: {world.size}; a step has {loader.step_size:,} records, split over them"


def check_fit(model: ModelConfig, loader: Loader) -> None:
    """Refuse data that does not fit the model.

    Raises:
        UserError: A record is longer than the model's context, or has an id that the model does not know.
    """
    if loader.longest > model.max_position_embeddings:
        raise UserError(
            f"data.max_seq_len: a record has {loader.longest:,} tokens, more than the model's context of "
            f"{model.max_position_embeddings:,}\n"
            f"  to cut records off there: data.max_seq_len={model.max_position_embeddings}"
        )
    if loader.largest_id >= model.vocab_size:
        raise UserError(
            f"model: its tokenizer makes ids up to {loader.largest_id:,}, and its embedding has "
            f"{model.vocab_size:,} rows: these files do not belong together"
        )


def peak_memory_bytes() -> int:
    """Return the most memory used at once: on the accelerator if there is one, else by the process."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
