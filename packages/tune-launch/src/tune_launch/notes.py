"""What the launcher and its processes tell each other, in a private folder: a job, and a note from each."""

import signal
from pathlib import Path
from typing import TypeVar

import msgspec

FOLDER = "TUNE_LAUNCH_FOLDER"
"""Variable that names a process the folder of the launch; job.json is in it."""
NOTES = "TUNE_LAUNCH_NOTES"
"""Variable that names it the folder of this start, a new one for each restart; its note goes there."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that the launcher hands on."""
STOPPED = frozenset(128 + signum for signum in STOP_SIGNALS)
"""Exit statuses of a script that one of them has stopped: it did what it was told, so it has not failed."""


class Job(msgspec.Struct, frozen=True):
    """What every process of a launch has to know."""

    launcher: int
    """Process id of the launcher."""
    script: str
    arguments: tuple[str, ...]
    import_from: str | None
    log_dir: str
    all_ranks: bool
    devices: int
    """How many GPUs a process has to see; 0 on the CPU."""
    visible: str
    """The variable that says which, with its value, for messages."""
    beat_s: float
    """How often a process shows that it is alive."""


class Note(msgspec.Struct, frozen=True):
    """What a process says of itself; without a code it is running."""

    pid: int
    code: int | None = None
    """Exit status of the script."""
    message: str | None = None
    """Its error, where one came out of it."""
    time_ns: int = 0
    """When it ended."""
    is_general: bool = False
    """The error is no matter of this process: all have it."""


_AnyStruct = TypeVar("_AnyStruct", bound=msgspec.Struct)


def save(what: msgspec.Struct, path: Path) -> None:
    """Write at once or not at all: somebody may be reading."""
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(what))
    beside.replace(path)


def load(kind: type[_AnyStruct], path: Path) -> _AnyStruct | None:
    """Return what is in a file; None if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None


def job_path(folder: Path) -> Path:
    """Where the job of a launch is."""
    return folder / "job.json"


def note_path(notes: Path, rank: int) -> Path:
    """Where the note of a process is."""
    return notes / f"rank_{rank}.json"


def beat_path(notes: Path, rank: int) -> Path:
    """The file whose time tells when a process was last alive."""
    return notes / f"rank_{rank}.beat"


def error_path(notes: Path, rank: int) -> Path:
    """Where a script may leave its error, as TORCHELASTIC_ERROR_FILE."""
    return notes / f"rank_{rank}.error"


def log_path(log_dir: str, rank: int) -> Path:
    """Where a process keeps what it prints."""
    return Path(log_dir) / f"rank_{rank}.log"


def read_error(path: Path) -> tuple[str, int] | None:
    """Return the text and time (ns) of an error that a script has left in elastic's format; None without.

    Source:
        torch.distributed.elastic.multiprocessing.errors: `{"message": TEXT}`, or
        `{"message": {"message": TEXT, "extraInfo": {...}}}`.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
        message = content.get("message")
        if isinstance(message, dict):
            message = msgspec.convert(message, dict[str, object]).get("message")
        return (message, path.stat().st_mtime_ns) if isinstance(message, str) and message.strip() else None
    except (OSError, msgspec.MsgspecError):
        return None
