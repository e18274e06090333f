"""One process of a launch: `python -P -m tune_launch.worker`, started by PyTorch's elastic agent.

Runs the script as `python SCRIPT ARGUMENTS` would, and leaves a note of how that ended. To the agent it says
0 also where a signal has stopped the script: the agent would kill the others, which may still be saving.
"""

import faulthandler
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType

from tune_launch import notes
from tune_launch.errors import LaunchError
from tune_launch.in_place import run_in_place
from tune_launch.lifeline import end_with, start_beating
from tune_launch.output import Output


def main() -> int:
    """Run the job of this launch, and return the exit status that the agent shall see."""
    folder, place = Path(os.environ[notes.FOLDER]), Path(os.environ[notes.NOTES])
    job = notes.load(notes.Job, notes.job_path(folder))
    assert job is not None, "the launcher writes it first"
    end_with(job.launcher)
    _stop_cleanly_from_the_start()
    rank = int(os.environ["RANK"])
    note = _run(job, rank, place)
    notes.save(note, notes.note_path(place, rank))
    # Where a KeyboardInterrupt has passed through an `exec` of text (each namedtuple makes one), Python
    # remembers it although it was caught, and would die of SIGINT at its end. Another `exec` makes it forget.
    exec("")
    return 0 if note.code in notes.STOPPED else note.code or 0


def _stop_cleanly_from_the_start() -> None:
    """Have signals end the script like `sys.exit`, until it says otherwise, and without a word."""
    for signum in notes.STOP_SIGNALS:
        # SIGINT has Python's own, whose KeyboardInterrupt scripts know; what `nohup` ignores stays so.
        if signum != signal.SIGINT and signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, _exit)


def _exit(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _run(job: notes.Job, rank: int, place: Path) -> notes.Note:
    output = None
    try:
        start_beating(notes.beat_path(place, rank), job.beat_s)
        notes.save(notes.Note(os.getpid()), notes.note_path(place, rank))  # now signals are handed on
        output = _settle(job, rank)
        if job.devices:
            _check_devices(job)
        code = run_in_place(job.script, job.arguments, import_from=job.import_from)
        note = notes.Note(os.getpid(), code & 0xFF, time_ns=time.time_ns())
    except BaseException as error:
        note = _note_of(error)
        if note.code == 1:
            shown = traceback.format_exception(type(error), error, _from_script(error, job.script))
            (output.keep if output else sys.stderr.write)("".join(shown))
    for signum in notes.STOP_SIGNALS:  # nothing is left to stop
        signal.signal(signum, signal.SIG_IGN)
    if output:
        output.finish()
    return note


def _settle(job: notes.Job, rank: int) -> Output:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    output = Output(notes.log_path(job.log_dir, rank), rank, all_ranks=job.all_ranks)
    faulthandler.enable(output.log)
    return output


def _note_of(error: BaseException) -> notes.Note:
    now, pid = time.time_ns(), os.getpid()
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return notes.Note(pid, error.code & 0xFF, time_ns=now)
    if isinstance(error, KeyboardInterrupt):
        return notes.Note(pid, 128 + signal.SIGINT, time_ns=now)
    if isinstance(error, LaunchError):
        return notes.Note(pid, 2, str(error), time_ns=now, is_general=True)
    text = "".join(traceback.format_exception_only(error)).rstrip()
    return notes.Note(pid, 1, text, time_ns=now)


def _from_script(error: BaseException, script: str) -> TracebackType | None:
    """Return the traceback without what led to the script."""
    place = error.__traceback__
    while place and place.tb_frame.f_code.co_filename != script:
        place = place.tb_next
    return place or error.__traceback__


def _check_devices(job: notes.Job) -> None:
    import torch

    wanted = int(os.environ["LOCAL_RANK"])
    found = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if found > wanted:
        return
    raise LaunchError(
        f"{job.devices} GPU{'s were' if job.devices > 1 else ' was'} asked for ({job.visible}), PyTorch"
        f" {torch.__version__} finds {found or 'none'}: is this a CPU build of PyTorch, or no driver?\n"
        f"  `{sys.executable} -m torch.utils.collect_env` tells; `--nproc {job.devices}` trains on the CPU"
    )


if __name__ == "__main__":
    sys.exit(main())
