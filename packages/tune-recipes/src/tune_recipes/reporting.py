"""What a recipe's process tells when it ends: messages, logs, exit codes."""

import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from tune_checkpoint import CheckpointError
from tune_recipes.errors import TrainingFailed, UserError
from tune_recipes.train.distributed import ToldElsewhere, has_lost_others
from tune_recipes.train.run import STOP_SIGNALS, Stopped


def guard(function: Callable[[], object], *, debug: bool, log: Path | None = None) -> int:
    """Call a function and return the exit status; whatever goes wrong is told in one message.

    Args:
        function: What to call.
        debug: Print tracebacks too.
        log: File that gets the traceback in any case.
    """
    try:
        function()
    except Stopped as stopped:
        return stopped.exit_code
    except ToldElsewhere:
        return 0  # nothing of its own to tell; the process that failed says so
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return report(error, debug=debug, log=log)
    return 0


def report(error: Exception, *, debug: bool, log: Path | None = None) -> int:
    """Print an error as a message and return the exit status: 2 for what the user can mend, else 1."""
    if log is not None:
        with suppress(OSError), log.open("a", encoding="utf-8") as file:  # a full disk may be what is told
            traceback.print_exception(error, file=file)
    if debug:
        traceback.print_exception(error)
    if has_lost_others(error):
        print("Another process of this run has ended, and so this one does.", file=sys.stderr)
        return 1
    status = 1
    if isinstance(error, UserError | CheckpointError):
        text = str(error)
        status = error.exit_status if isinstance(error, CheckpointError) else 2
    elif isinstance(error, TrainingFailed):
        text = str(error)
    else:
        where = f"{log} has the traceback" if log else "--debug shows the traceback"
        text = f"{type(error).__name__}: {error}\n  {where}"
    print(f"error: {text}", file=sys.stderr)
    _tell_launcher(text)
    return status


def _tell_launcher(text: str) -> None:
    """Leave the message where PyTorch's launchers look for it, if one of them started us.

    Source: `torch.distributed.elastic.multiprocessing.errors.ErrorHandler`.
    """
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(path).write_text(
                json.dumps({"message": {"message": text, "extraInfo": extra}}), encoding="utf-8"
            )


@contextmanager
def stopping_on_signals() -> Generator[None]:
    """Let a signal that asks to stop end what is under way, with the exit status it stands for.

    The training loop has better handlers of its own, which save first.
    """

    def stop(signum: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped(signum)

    # SIGINT has Python's own; what `nohup` ignores stays so.
    wanted = [s for s in STOP_SIGNALS if s != signal.SIGINT and signal.getsignal(s) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, stop) for signum in wanted}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def kept_in_log(log: TextIO | Path) -> Generator[None]:
    """Also write to an open file whatever is printed; or only to the file of this path.

    The latter is for the processes that have no terminal of their own. Nothing is done where a launcher has
    standard error go to that file already.
    """
    if isinstance(log, Path) and _is_standard_error(log):
        yield
        return
    before = sys.stdout, sys.stderr
    if isinstance(log, Path):
        log.parent.mkdir(exist_ok=True)
        sys.stdout = sys.stderr = log.open("a", encoding="utf-8", buffering=1)
    else:
        sys.stdout, sys.stderr = (_Tee(stream, log) for stream in before)
    try:
        yield
    finally:
        if isinstance(log, Path):
            sys.stderr.close()
        sys.stdout, sys.stderr = before


def _is_standard_error(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False


class _Tee(io.TextIOBase):
    """A stream that writes to the terminal and to a file; if the file cannot be written, to the terminal."""

    def __init__(self, terminal: TextIO, log: TextIO):
        self._terminal, self._log = terminal, log

    def write(self, text: str) -> int:
        with suppress(OSError):  # past the buffer, which would try again, and fail, when it is closed
            os.write(self._log.fileno(), text.encode(errors="backslashreplace"))
        return self._terminal.write(text)

    def flush(self) -> None:
        self._terminal.flush()

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def fileno(self) -> int:
        return self._terminal.fileno()
