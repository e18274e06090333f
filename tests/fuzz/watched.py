"""Reads files in a process of its own, with little memory, and records what Python is asked to do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

MEMORY_BYTES = 1 << 30
"""Address space of the process, Python and all."""

_WATCHED = """
import json, pickletools, resource, sys, time
from pathlib import Path
from tune_checkpoint import CheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.reader import read_torch_file

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
paths = sorted(Path(sys.argv[2]).iterdir())
events, results = [], {}
sys.addaudithook(lambda event, arguments: events.append(event))
for path in paths:
    events.clear()
    start = time.monotonic()
    try:
        read_torch_file(MappedFile(path))
        result = "it was read"
    except CheckpointError as error:
        result = str(error)
    except BaseException as error:
        result = repr(error)[:500]
    seconds = time.monotonic() - start
    results[path.name] = {"message": result, "seconds": seconds, "events": sorted(set(events))}
print(json.dumps(results))
"""


class Watched(NamedTuple):
    """How the reading of one file went."""

    message: str
    """Of the refusal, or what else happened."""
    seconds: float
    events: list[str]
    """The audit events, each once."""


def read_watched(folder: Path) -> dict[str, Watched]:
    """Read every file of a folder with the reader of torch's files; the process runs beside the folder."""
    command = [sys.executable, "-c", _WATCHED, str(MEMORY_BYTES), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder.parent)
    return {name: Watched(**result) for name, result in json.loads(done.stdout).items()}
