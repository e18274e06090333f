"""How many processes, on which devices: what was asked for, held against what there is."""

from typing import Literal

import msgspec

from tune_launch.errors import LaunchError
from tune_launch.machine import Machine, Vendor


class Choice(msgspec.Struct, frozen=True):
    """What `LaunchSpec` takes."""

    processes: int
    """How many on this machine."""
    devices: tuple[str, ...]
    """Ids of the GPUs, one for each process; empty on the CPU."""
    vendor: Vendor | None
    """Of the GPUs that are there, used or not."""


def choose_devices(
    machine: Machine,
    *,
    num_gpus: int | Literal["all"] | None = None,
    gpus: str | None = None,
    nproc: int | None = None,
) -> Choice:
    """Choose processes and devices; without any wish one process, on the first GPU if there is one.

    Args:
        machine: What there is.
        num_gpus: So many GPUs, or all.
        gpus: These GPUs, e.g. "0,3".
        nproc: So many processes on the CPU, also where GPUs are.

    Raises:
        LaunchError: Two wishes at once, or one that this machine cannot fulfil.
    """
    wishes = {"--num-gpus": num_gpus, "--gpus": gpus, "--nproc": nproc}
    made = [f"{name} {wish}" for name, wish in wishes.items() if wish is not None]
    if len(made) > 1:
        raise LaunchError(
            f"{' and '.join(made)}: each says alone how many processes there are; leave all but one out"
        )
    if nproc is not None:
        return Choice(_at_least_one(nproc, machine), (), machine.vendor)
    if gpus is not None:
        devices = _named(gpus, machine)
    elif num_gpus is not None:
        devices = machine.gpus[: _count(num_gpus, machine)]
    else:
        devices = machine.gpus[:1]
    return Choice(max(1, len(devices)), devices, machine.vendor)


def _at_least_one(nproc: int, machine: Machine) -> int:
    if nproc < 1:
        raise LaunchError(f"--nproc {nproc}: it takes at least one process\n  {_on_the_cpu(machine)}")
    return nproc


def _count(num_gpus: int | Literal["all"], machine: Machine) -> int:
    found = len(machine.gpus)
    if not found:
        raise LaunchError(_no_gpu(f"--num-gpus {num_gpus}", machine))
    if num_gpus == "all":
        return found
    if not 1 <= num_gpus <= found:
        raise LaunchError(f"--num-gpus {num_gpus}: {_found(machine)}\n  {_with_gpus(machine)}")
    return num_gpus


def _named(gpus: str, machine: Machine) -> tuple[str, ...]:
    wish = f"--gpus {gpus or repr(gpus)}"
    if not machine.gpus:
        raise LaunchError(_no_gpu(wish, machine))
    ids: list[str] = []
    for name in (part.strip() for part in gpus.split(",")):
        found = _one(name, machine.gpus)
        if found is None:
            raise LaunchError(
                f"{wish}: no GPU {name or repr(name)}; {_found(machine)}: {', '.join(machine.gpus)}\n"
                f"  {_with_gpus(machine)}"
            )
        if found in ids:
            raise LaunchError(f"{wish}: GPU {name} stands there twice; a GPU takes one process")
        ids.append(found)
    return tuple(ids)


def _one(name: str, gpus: tuple[str, ...]) -> str | None:
    if name in gpus:
        return name
    # Nobody wants to type UUIDs, so where GPUs are named by those their places are names as well.
    if name.isascii() and name.isdigit() and int(name) < len(gpus) and not gpus[int(name)].isdigit():
        return gpus[int(name)]
    return None


def _found(machine: Machine) -> str:
    count = len(machine.gpus)
    return f"{count} GPU{'s are' if count > 1 else ' is'} here ({machine.source})"


def _no_gpu(wish: str, machine: Machine) -> str:
    return f"{wish}: no GPU is here ({machine.source})\n  {_on_the_cpu(machine)}"


def _on_the_cpu(machine: Machine) -> str:
    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}"
    return (
        f"`--nproc 2` trains with 2 processes on the CPU ({cores}), or leave it out for one process"
        if machine.cores > 1
        else f"leave it out for one process on the CPU ({cores})"
    )


def _with_gpus(machine: Machine) -> str:
    count = len(machine.gpus)
    if count == 1:
        return "`--num-gpus 1` uses it"
    return f"`--num-gpus {count}` or `--num-gpus all` uses them all"
