"""Into how many commits an upload is cut."""

from collections.abc import Sequence

from tune_hub.upload_files import LocalFile
from tune_hub.upload_plan import PlannedFile

MAX_FILES_PER_COMMIT = 200
MAX_SMALL_BYTES_PER_COMMIT = 64 << 20
"""Files that do not go to the store of large ones travel in the commit itself, which is made in memory."""
SMALL_BYTES = 10 << 20
"""From here on, every file goes to the store of large ones."""
BATCH_BYTES = 256 << 20
CONNECTIONS = 4
HUGE_BYTES = 256 << 20
"""From here on, a file that a kill interrupts costs more than sending many at a time gains."""
HUGE_AT_ONCE = 2


def commits_of(todo: Sequence[PlannedFile]) -> list[list[PlannedFile]]:
    """Cut into commits: the largest files first, so that a repository gets its config.json with the last."""
    groups: list[list[PlannedFile]] = []
    small_bytes = 0
    for planned in sorted(todo, key=lambda planned: -planned.file.size):
        size = planned.file.size if planned.file.size < SMALL_BYTES else 0
        is_full = groups and (
            len(groups[-1]) >= MAX_FILES_PER_COMMIT or small_bytes + size > MAX_SMALL_BYTES_PER_COMMIT
        )
        if not groups or is_full:
            groups.append([])
            small_bytes = 0
        groups[-1].append(planned)
        small_bytes += size
    return groups


def batches_of(files: Sequence[LocalFile]) -> list[list[LocalFile]]:
    """Cut into what is sent at a time where progress is told after each."""
    batches: list[list[LocalFile]] = []
    nbytes = BATCH_BYTES
    for file in files:
        if nbytes >= BATCH_BYTES:
            batches.append([])
            nbytes = 0
        batches[-1].append(file)
        nbytes += file.size
    return batches


def by_size(files: Sequence[LocalFile]) -> list[tuple[list[LocalFile], int]]:
    """Cut into what is sent one after the other, each with how many of its files go at a time.

    What had arrived of a file that was not whole is lost with an interruption, so few huge ones go at once.
    """
    huge = [file for file in files if file.size >= HUGE_BYTES]
    others = [file for file in files if file.size < HUGE_BYTES]
    return [(some, at_once) for some, at_once in ((huge, HUGE_AT_ONCE), (others, CONNECTIONS)) if some]
