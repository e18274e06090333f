"""What is to be started: a script, and in how many processes on how many machines."""

import math

import msgspec

from tune_launch.errors import LaunchError
from tune_launch.machine import Vendor


class LaunchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A script and the processes that run it.

    Raises:
        LaunchError: Its fields do not fit together.
    """

    script: str
    """Path of the Python file."""
    arguments: tuple[str, ...] = ()
    """What it finds behind `sys.argv[0]`."""
    import_from: str | None = None
    """Another folder that it imports from, after its own."""
    processes: int = 1
    """How many on this machine."""
    devices: tuple[str, ...] = ()
    """Ids of the GPUs, one for each process; empty on the CPU."""
    vendor: Vendor | None = None
    """Of the GPUs that are there; on the CPU they are hidden from the processes."""
    nodes: int = 1
    """How many machines train together."""
    node_rank: int | None = None
    """Number of this machine, from 0; if nobody has one, they are given in the order of arrival."""
    rdzv_endpoint: str | None = None
    """HOST:PORT where machines meet: a name or address of one of them, and a free port there."""
    rdzv_id: str | None = None
    """What tells this run from others that meet at the same place."""
    max_restarts: int = 0
    """How often all processes are started again when one fails; on one machine."""
    log_dir: str | None = None
    """Folder for `rank_N.log`, where each process keeps what it prints; without it nothing is kept."""
    all_ranks: bool = False
    """Show what all processes print, not only the first, each line behind its `[rank N]`."""
    hang_timeout_s: float = 300.0
    """After so many seconds a process that does not answer is ended; said after a tenth of it."""

    def __post_init__(self) -> None:
        """Check what no type tells."""
        if self.processes < 1:
            raise LaunchError(f"processes={self.processes}: it takes at least one")
        if self.devices and len(self.devices) != self.processes:
            raise LaunchError(
                f"{self.processes} processes on {len(self.devices)} GPUs ({','.join(self.devices)}): one each"
            )
        if self.max_restarts and self.nodes > 1:
            raise LaunchError(
                f"--max-restarts {self.max_restarts} with --nnodes {self.nodes}: "
                "only what runs on one machine is started again by itself; leave it out"
            )
        if self.max_restarts < 0:
            raise LaunchError(f"--max-restarts {self.max_restarts}: 0 or more")
        if math.isnan(self.hang_timeout_s) or self.hang_timeout_s <= 0:
            raise LaunchError(
                f"--hang-timeout {self.hang_timeout_s:g}: more than 0 is wanted; inf waits for ever"
            )
        _check_nodes(self)

    @property
    def is_in_place(self) -> bool:
        """Whether it is started in this process: there are no others, and it is started once."""
        return self.processes == 1 and self.nodes == 1 and not self.max_restarts


def _check_nodes(spec: LaunchSpec) -> None:
    if spec.nodes < 1:
        raise LaunchError(f"--nnodes {spec.nodes}: it takes at least one machine")
    if spec.node_rank is not None and not 0 <= spec.node_rank < spec.nodes:
        raise LaunchError(
            f"--node-rank {spec.node_rank}: with --nnodes {spec.nodes} the machines are "
            + ("0" if spec.nodes == 1 else f"0 to {spec.nodes - 1}")
        )
    if spec.nodes > 1 and spec.rdzv_endpoint is None:
        raise LaunchError(
            f"--nnodes {spec.nodes} without --rdzv-endpoint: the machines must know where to meet\n"
            "  choose one of them and a free port there, e.g. --rdzv-endpoint node0:29500, and run the same\n"
            "  command on every machine, with --node-rank 0 on that one, 1 on the next, and so on"
        )
    if spec.rdzv_endpoint is not None:
        host_and_port(spec.rdzv_endpoint)


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Split a `HOST:PORT`; an IPv6 address stands in brackets.

    Raises:
        LaunchError: It is none.
    """
    host, _, port = endpoint.strip().rpartition(":")
    is_address = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_address else host
    if not host or (":" in host and not is_address) or not (port.isascii() and port.isdigit()):
        raise LaunchError(
            f"--rdzv-endpoint {endpoint or repr(endpoint)}: HOST:PORT is wanted,"
            " e.g. node0:29500, 10.0.0.5:29500 or [fd00::5]:29500"
        )
    if not 1 <= int(port) <= 65535:
        raise LaunchError(f"--rdzv-endpoint {endpoint}: port {port} is none of 1 to 65535")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, reachable from nowhere else."""
    return host == "localhost" or host == "::1" or host.startswith("127.")
