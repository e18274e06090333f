"""Saves checkpoints while training goes on: the loop waits for a copy in memory, and not for the disk."""

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from tune_recipes.errors import TrainingFailed
from tune_recipes.files import remove_folder
from tune_recipes.models.sharded import local_part
from tune_recipes.train.checkpoint import Marker, TrainState, list_checkpoints, random_state
from tune_recipes.train.disk_full import disk_full, what_is_saved
from tune_recipes.train.distributed import ToldElsewhere, World, new_group

_BYTES_BESIDE = 2048
"""What a tensor takes in a file beside its values, at most."""


class Saver:
    """The checkpoints of a run, at most one of them on its way to the disk.

    Every process calls `save`, `has_failed` and `wait` at the same points of its run.
    """

    def __init__(self, folder: Path, world: World, *, keep_last: int):
        """Save to `folder/step_<step>`, and delete all but the last `keep_last` that are whole."""
        self._folder, self._world, self._keep_last = folder, world, keep_last
        # Its own, since the thread that writes talks to the other processes beside the loop.
        self._group = new_group()
        self._under_way: Future[Any] | None = None
        self._stager: Any = None
        self._num_bytes = 0

    def save(self, state: TrainState) -> None:
        """Copy the state and have a thread write it; first, the one before must have ended.

        Raises:
            TrainingFailed: The disk has no room for it, or the one before could not be written.
        """
        from torch.distributed.checkpoint.state_dict_saver import async_save

        from tune_recipes.train.storage import WholeOrAbsent

        self.wait()
        tensors = {**state.tensors(), **random_state(self._world)}
        here = sum(local_part(tensor).nbytes + _BYTES_BESIDE for tensor in tensors.values())
        self._num_bytes = sum(self._world.gather(here))
        place = self._folder / f"step_{state.step:08d}"
        self._world.from_first(lambda: self._make_room(place))
        marker = Marker(
            step=state.step, world_size=self._world.size, loader=state.loader.state_dict(), files={}
        )
        response = async_save(
            tensors,
            storage_writer=WholeOrAbsent(place, marker, self._delete_old),
            process_group=self._group,
            async_stager=self._staging(),
        )
        assert isinstance(response, Future)  # the copy was made while we waited
        self._under_way = response

    def has_failed(self) -> bool:
        """Say whether the one under way is known to have failed in this process."""
        return self._under_way is not None and self._under_way.done() and bool(self._under_way.exception())

    @property
    def is_writing(self) -> bool:
        """Whether the thread is at work."""
        return self._under_way is not None and not self._under_way.done()

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            TrainingFailed: It could not be written; the checkpoints before it are as they were.
        """
        under_way, self._under_way = self._under_way, None
        error = under_way.exception() if under_way is not None else None
        if error is None:
            return
        if not self._world.is_first:
            raise ToldElsewhere
        for partial in self._folder.glob(".step_*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        raise TrainingFailed(self._why(error)) from error

    def close(self) -> None:
        """Let go of the copies; what is under way ends by itself."""
        if self._stager is not None:
            self._stager.close()
            self._stager = None

    def _staging(self) -> Any:
        """Return what copies the state, into the same memory each time."""
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        if self._stager is None:
            on_device = torch.accelerator.is_available()
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=on_device,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=on_device,
                )
            )
        return self._stager

    def _make_room(self, place: Path) -> None:
        """Clear away what a killed save left, and see whether the disk has room."""
        for partial in self._folder.glob(".step_*.partial"):
            shutil.rmtree(partial)
        if shutil.disk_usage(self._folder).free < self._num_bytes:
            raise TrainingFailed(
                f"{place.name} was not saved: {disk_full(self._folder.parent, self._num_bytes)}"
            )

    def _delete_old(self) -> None:
        for old in list_checkpoints(self._folder)[: -self._keep_last]:
            remove_folder(old)

    def _why(self, error: BaseException) -> str:
        # PyTorch's writer hides the system's error behind one of its own: look at the disk, not at the error.
        if shutil.disk_usage(self._folder).free < self._num_bytes:
            return f"the checkpoint was not saved: {disk_full(self._folder.parent, self._num_bytes)}"
        failures = getattr(error, "failures", None) or {}  # what went wrong in each process
        cause = next((wrapped[0] for wrapped in failures.values()), error)
        told = f"the checkpoint was not saved: {type(cause).__name__}: {cause}"
        return f"{told}\n  {what_is_saved(self._folder.parent)}"
