"""A run while it goes on: its folder, its metrics, its progress on the terminal, and how it is stopped."""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

import torch

from tune_recipes import runs
from tune_recipes.catalog import shown
from tune_recipes.data.loader import Loader
from tune_recipes.errors import UserError
from tune_recipes.models.config import ModelConfig
from tune_recipes.schema import Training
from tune_recipes.train.checkpoint import TrainState, load_latest, save_checkpoint
from tune_recipes.train.progress import Progress, open_progress


class Stopped(Exception):
    """The run was asked to stop and did, after saving."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Run:
    """One run of a training recipe, in its folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._stop_signal: int | None = None
        self._progress = Progress()
        self._while_training = ExitStack()
        self._last_time = 0.0
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

    @property
    def began(self) -> datetime:
        """When the run was first started, in local time."""
        return datetime.fromisoformat(runs.read_info(self.folder).start).astimezone()

    def say(self, text: str) -> None:
        """Print a line on standard error; the log gets it too."""
        self._progress.say(text)

    def begin(self, state: TrainState) -> None:
        """Say how much is trained on what, and go on from the last checkpoint if this run has one.

        Raises:
            UserError: The checkpoint is damaged, or belongs to another model or other data, or the data does
                not fit the model.
        """
        _check_fit(state.model.config, state.loader)
        parameters = list(state.model.parameters())
        total = sum(parameter.numel() for parameter in parameters)
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        share = "all of them" if trained == total else f"{trained:,} of them"
        dtype = str(parameters[0].dtype).removeprefix("torch.")
        self.say(f"Model: {total:,} parameters in {dtype} on {parameters[0].device.type}, {share} trained")
        data = state.loader.fingerprint
        self.say(f"Data: {data.num_records:,} records, {len(state.loader):,} batches an epoch")
        load_latest(self.checkpoints, state)
        runs.update_info(self.folder, data={"sha256": data.sha256, "records": data.num_records})
        runs.cut_metrics(self.folder, state.step)
        if state.step:
            self.say(f"Going on after step {state.step}")

    def steps(self, done: int, num_steps: int) -> Iterator[int]:
        """Yield the numbers of the steps that are left, with progress on the terminal.

        Ctrl-C, SIGTERM and SIGHUP meanwhile only ask to stop: `after_step` does. A second one stops at once.
        """
        self._num_steps = num_steps
        self._while_training.enter_context(self._signals_noted())
        self._progress = self._while_training.enter_context(open_progress(done, num_steps))
        self._last_time = time.perf_counter()
        yield from range(done + 1, num_steps + 1)
        self.close()

    def close(self) -> None:
        """Give the terminal and the signals back, if the loop still has them."""
        self._while_training.close()
        self._progress = Progress()

    def after_step(self, cfg: Training, state: TrainState, metrics: dict[str, float]) -> None:
        """Log the step that was taken, save if a checkpoint is due, and stop if that was asked for.

        A checkpoint is due every `checkpoint.save_every` steps, at the end, and before stopping.

        Raises:
            Stopped: Ctrl-C or SIGTERM; everything is saved.
        """
        self._log(state.step, metrics, printed=state.step % cfg.logging.log_every == 0)
        due = cfg.checkpoint.save_every is not None and state.step % cfg.checkpoint.save_every == 0
        if due or state.step == self._num_steps or self._stop_signal is not None:
            save_checkpoint(self.checkpoints, state, keep_last=cfg.checkpoint.keep_last)
        if self._stop_signal is not None:
            self.close()
            self.say(
                f"Stopped after step {state.step} of {self._num_steps}; everything is saved. Go on with:"
            )
            self.say(f"  tune run --resume {shown(self.folder)}")
            raise Stopped(self._stop_signal)

    def _log(self, step: int, metrics: dict[str, float], *, printed: bool) -> None:
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
        self._progress.step(line, printed=printed or step in (1, self._num_steps))

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        def note(signum: int, _frame: FrameType | None) -> None:
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = signum
            # Not print: the signal may have come in the midst of one.
            os.write(2, b"\nStopping after this step; Ctrl-C again stops at once, without saving.\n")

        before = {
            signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
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


def _check_fit(model: ModelConfig, loader: Loader) -> None:
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
