"""How `torch.distributed.checkpoint` writes: beside the place, with checksums, renamed when it is whole.

Imported when the first checkpoint is due: it brings DTensor along, a second and a half.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from tune_recipes.files import remove_folder, sync_folder, write_atomic
from tune_recipes.train.checkpoint import MARKER, FileSum, Marker, file_sum


@dataclass(frozen=True)
class _Written(WriteResult):
    """A result that carries the sums of its process's files to the process that finishes the checkpoint."""

    files: dict[str, FileSum]


class WholeOrAbsent(FileSystemWriter):
    """Writes into `folder/.step_N.partial` and gives it its name when everything in it is on the disk.

    Each process writes and hashes its own files; then the first one writes the marker, renames, and calls
    `then`. All of this may happen in a background thread.
    """

    def __init__(self, place: Path, marker: Marker, then: Callable[[], None]):
        """Write to `place`, whose name is `step_N`."""
        self._place, self._marker, self._then = place, marker, then
        self._beside = place.with_name(f".{place.name}.partial")
        super().__init__(self._beside)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's part, and hash it."""
        results = super().write_data(plan, planner).wait()
        names = {result.storage_data.relative_path for result in results}
        sums = {name: file_sum(self._beside / name) for name in sorted(names)}
        done: Future[list[WriteResult]] = Future()
        done.set_result([_Written(r.index, r.size_in_bytes, r.storage_data, sums) for r in results])
        return done

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Complete the folder and give it its name; called in the first process, when all have written."""
        super().finish(metadata, results)
        sums = {name: of for written in results for result in written for name, of in result.files.items()}
        sums[".metadata"] = file_sum(self._beside / ".metadata")
        marker = msgspec.structs.replace(self._marker, files=sums)
        write_atomic(self._beside / MARKER, msgspec.json.format(msgspec.json.encode(marker), indent=2))
        if self._place.exists():  # a damaged one of the same step
            remove_folder(self._place)
        self._beside.rename(self._place)
        sync_folder(self._place.parent)
        self._then()
