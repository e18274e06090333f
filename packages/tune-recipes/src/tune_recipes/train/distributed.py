"""The processes that train together: always a process group and a device mesh, also for one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tune_recipes.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """How many there are."""
    device: torch.device
    """Where this process computes."""
    mesh: DeviceMesh
    """All processes in a line."""

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes; every process must call it."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return total


@contextmanager
def join_world() -> Iterator[World]:
    """Make the process group, on the accelerator if there is one, and leave it at the end.

    Raises:
        UserError: A launcher started several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != 1:
        raise UserError(
            f"WORLD_SIZE={size} in the environment: recipes train in one process, not in {size}\n"
            "  start the recipe without torchrun, or unset WORLD_SIZE"
        )
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    backend = dist.get_default_backend_for_device(device)
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage] (documented all the same)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield World(rank=0, size=1, device=device, mesh=init_device_mesh(device.type, (1,)))
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split the parameters of a model over the mesh, in place; on a mesh of one there is nothing to split."""
    assert mesh.size() == 1, "join_world makes a mesh of one"
