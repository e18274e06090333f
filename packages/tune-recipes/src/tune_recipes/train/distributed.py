"""The processes that train together: always a process group and a device mesh, also for one process."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tune_recipes.errors import UserError
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.sharded import whole

T = TypeVar("T")

OTHERS_SAY = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Where srun, mpirun and mpiexec say how many they started; they do not set PyTorch's variables."""


class ToldElsewhere(Exception):
    """Another process has met an error and tells it; this one has only to end."""


def has_lost_others(error: BaseException) -> bool:
    """Say whether an error is only that another process has ended, in the words of gloo and of NCCL."""
    text = str(error)
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    from_gloo = "/gloo/transport/" in text and any(words in text for words in gone)
    return isinstance(error, RuntimeError) and (from_gloo or "remote process exited" in text)


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """How many there are."""
    device: torch.device
    """Where this process computes."""
    mesh: DeviceMesh | None
    """All processes in a line; None where a run is only planned."""
    messages: dist.ProcessGroup
    """All of them over the network of the CPUs: what is agreed on here never waits for an accelerator."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes for all."""
        return self.rank == 0

    def accelerator_name(self) -> str | None:
        """Return what the maker calls the device: `NVIDIA A100-SXM4-80GB`; None on a CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes; every process must call it."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of each number over all processes; every process must call it."""
        values = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.messages)
        return values.tolist()

    def gather(self, value: T) -> list[T]:
        """Return what each process gives, in the order of their ranks; every process must call it."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.messages)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """Call a function in the first process and return its result in all; every process must call it.

        Raises:
            Exception: What the function raised, in the first process.
            ToldElsewhere: It raised something, in all the others.
        """
        box: list[Any] = [None, False]
        try:
            if self.is_first:
                box = [make(), True]
        finally:  # the others wait, whatever happened
            dist.broadcast_object_list(box, src=0, group=self.messages)
        if not box[1]:
            raise ToldElsewhere
        return box[0]

    def one_by_one(self, tensors: Sequence[Tensor], use: Callable[[Callable[[Tensor], Tensor]], T]) -> T:
        """Let the first process ask for whole tensors in any order, while the others help to gather them.

        No process ever holds more than one of them whole.

        Args:
            tensors: The same in every process; split over them, or not.
            use: Called in the first process with a function that returns one of the tensors whole.

        Returns:
            What `use` returned, in every process.
        """
        place = {id(tensor): index for index, tensor in enumerate(tensors)}

        def ask(tensor: Tensor) -> Tensor:
            self._tell(place[id(tensor)])
            return whole(tensor)

        def finish() -> T:
            try:
                return use(ask)
            finally:
                self._tell(-1)

        if not self.is_first:
            while (index := self._tell(-1)) >= 0:
                whole(tensors[index])
        return self.from_first(finish)

    def _tell(self, number: int) -> int:
        """Return the first process's number in all of them."""
        box = torch.tensor(number)
        dist.broadcast(box, src=0, group=self.messages)
        return int(box)


def num_processes() -> int:
    """Return how many processes there are, as a launcher says it in the environment; without one, one."""
    return _rank_and_size()[1]


def _rank_and_size() -> tuple[int, int]:
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if (rank is None) != (size is None) and ((rank or 0) > 0 or (size or 1) > 1):
        have, lack = ("RANK", "WORLD_SIZE") if size is None else ("WORLD_SIZE", "RANK")
        raise UserError(_others(f"{have}={os.environ[have]} without {lack}", have))
    if size is None:
        for variable in OTHERS_SAY:
            if (tasks := _number(variable) or 1) > 1:
                raise UserError(_others(f"{variable}={tasks} without RANK and WORLD_SIZE", variable))
    return rank or 0, size or 1


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if text and not text.isdigit():
        raise UserError(f"{variable}={text} in the environment: not a number; mend what sets it, or unset it")
    return int(text) if text else None


def _others(what: str, variable: str) -> str:
    return (
        f"{what} in the environment: other processes were started, but how to reach them is not said\n"
        f"  start them with `tune run` or torchrun; if nobody else is there: unset {variable}"
    )


@contextmanager
def join_world() -> Generator[World]:
    """Make the process group, on the accelerator if there is one, and leave it at the end.

    A launcher says in the environment how many processes there are, as torchrun does; without one there is
    this one alone.

    Raises:
        UserError: The environment names more processes than accelerators on this machine, or others that
            cannot be reached: alone, each would train by itself.
    """
    rank, size = _rank_and_size()
    device = _device(int(os.environ.get("LOCAL_RANK", rank)))
    backend = dist.get_default_backend_for_device(device)
    # Two networks where there is an accelerator: NCCL, say, for tensors on it, and gloo for those on the CPU.
    backends = backend if device.type == "cpu" else f"cpu:gloo,{device.type}:{backend}"
    if size == 1:
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage] (documented all the same)
        dist.init_process_group(backends, store=store, rank=0, world_size=1)
    else:
        dist.init_process_group(backends)
    try:
        mesh = init_device_mesh(device.type, (size,))
        world = World(rank, size, device, mesh, messages=new_group())
        yield world
        # The threads of gloo end with the last that knows their group. One that still lets go of a message
        # when Python ends would end this process with SIGABRT, though all is done.
        object.__setattr__(world, "messages", None)
    finally:
        dist.destroy_process_group()


def new_group() -> dist.ProcessGroup:
    """Return another network of all processes over their CPUs, for messages that must not meet others."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)  # else this process would not belong to it
    return group


def _device(local_rank: int) -> torch.device:
    """Return where the process computes: the accelerator of its number on this machine, or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    if local_rank >= (found := torch.accelerator.device_count()):
        raise UserError(
            f"LOCAL_RANK={local_rank}, but this machine has {found} {accelerator.type} devices\n"
            "  start as many processes as there are, or hide them (CUDA_VISIBLE_DEVICES=) to train on the CPU"
        )
    torch.accelerator.set_device_index(local_rank)
    return torch.device(accelerator.type, local_rank)


def shard(model: Decoder, mesh: DeviceMesh | None) -> None:
    """Split the parameters of a model over the mesh, in place; on a mesh of one there is nothing to split.

    Each block's parameters are gathered when its turn comes and let go after it. So it must be called before
    the parameters are filled, on a model on the meta device, if no process is to hold the whole model.

    Source: Zhao et al., PyTorch FSDP, 2023; `torch.distributed.fsdp.fully_shard`.
    """
    if mesh is None or mesh.size() == 1:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Gradients in bfloat16 would lose in the sum over processes what float32 keeps.
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    if model.lm_head.weight is not model.model.embed_tokens.weight:
        fully_shard(model.model.embed_tokens, mesh=mesh, mp_policy=policy)
    # What is left, in one unit: norm and head, and with them a tied embedding, which is the same parameter.
    fully_shard(model, mesh=mesh, mp_policy=policy)
