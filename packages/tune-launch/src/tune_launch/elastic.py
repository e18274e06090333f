"""PyTorch's elastic agent, told to do exactly what a launch needs.

The agent starts the processes, tells them who they are, and ends all when one fails. What it does not do
stands in `watch`: signals, processes that hang, and words for people.
"""

import importlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tune_launch import notes
from tune_launch.errors import LaunchError
from tune_launch.spec import LaunchSpec, host_and_port, is_loopback

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import LogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters
    from torch.distributed.launcher.api import LaunchConfig

WORKER = ("-P", "-m", "tune_launch.worker")
"""Behind the interpreter; the rest goes through a file, as the agent would replace `${local_rank}` in it."""

LOOPBACK = "tune-loopback"
"""Name of our rendezvous for one machine."""

OpenRound = Callable[[Sequence[int]], Path]
"""Told which ranks are about to start, returns the folder of their notes; raises to forbid it."""


@contextmanager
def quiet() -> Generator[None]:
    """Import the agent, and let neither it nor what it imports speak to the user until the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _import_agent()
        for name in ("torch.distributed.elastic", "torch.distributed.launcher", "torchelastic-events-null"):
            logger = logging.getLogger(name)
            if not logger.handlers:
                logger.addHandler(logging.NullHandler())
            logger.propagate = False
        # The agent looks up this machine's name for each event that it records for nobody: that takes seconds
        # where no name server answers.
        look_up, socket.getfqdn = socket.getfqdn, _hostname
        try:
            yield
        finally:
            socket.getfqdn = look_up


def _import_agent() -> None:
    is_quiet = "TORCH_CPP_LOG_LEVEL" in os.environ
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read once; machines that leave are no news
    try:
        with _without_loglevel():
            importlib.import_module("torch.distributed.launcher.api")
    finally:
        if not is_quiet:  # for processes on several machines it is the user's
            del os.environ["TORCH_CPP_LOG_LEVEL"]


@contextmanager
def _without_loglevel() -> Generator[dict[str, str]]:
    """Hide LOGLEVEL from the agent, which breaks at what is none of Python's levels; give what was hidden."""
    level = os.environ.pop("LOGLEVEL", None)
    hidden = {} if level is None else {"LOGLEVEL": level}
    try:
        yield hidden
    finally:
        os.environ.update(hidden)


def _hostname(name: str = "") -> str:
    return name or socket.gethostname()


def run_agent(spec: LaunchSpec, folder: Path, open_round: OpenRound) -> dict[int, int]:
    """Start the processes, and return when all have ended.

    Args:
        spec: What to start.
        folder: Where the job is.
        open_round: Called before each start, the first and those after failures.

    Returns:
        Rank and exit status (below 0: a signal) of those that failed.

    Raises:
        Exception: Whatever the agent raises before or between the processes.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    with _without_loglevel() as hidden:
        config = _config(spec, _notes_for(folder, open_round, hidden))
        try:
            elastic_launch(config, sys.executable)(*WORKER)
        except ChildFailedError as failed:
            return {rank: failure.exitcode for rank, failure in failed.failures.items()}
    return {}


def _config(spec: LaunchSpec, logs_specs: "LogsSpecs") -> "LaunchConfig":
    from torch.distributed.launcher.api import LaunchConfig

    endpoint = spec.rdzv_endpoint or ""
    if spec.nodes == 1:
        _register_loopback()
        backend, endpoint, options = LOOPBACK, "", {}
    elif spec.node_rank is None:
        backend, options = "c10d", _host_option(endpoint)
    else:
        backend, options = "static", {"rank": spec.node_rank}
    return LaunchConfig(
        min_nodes=spec.nodes,
        max_nodes=spec.nodes,
        nproc_per_node=spec.processes,
        run_id=spec.rdzv_id or "tune",
        rdzv_backend=backend,
        rdzv_endpoint=endpoint,
        rdzv_configs=options,
        max_restarts=spec.max_restarts,
        monitor_interval=0.1,
        local_addr=_own_address(endpoint) if spec.nodes > 1 else "127.0.0.1",
        logs_specs=logs_specs,
        signals_to_handle="SIGQUIT",  # the others are ours
    )


def _host_option(endpoint: str) -> dict[str, bool]:
    """Say who hosts the meeting; the agent would compare names, which may be several or unknown."""
    host, _ = host_and_port(endpoint)
    if is_loopback(host):
        return {}  # who comes first: several launchers may meet on one machine
    return {"is_host": is_here(host)}


def is_here(host: str) -> bool:
    """Tell whether a name or address is one of this machine: nobody else can listen there."""
    with suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe, suppress(OSError):
                probe.bind(address)
                return True
    return False


def _own_address(endpoint: str) -> str:
    """Return an address of this machine that those who meet at the endpoint can reach.

    The agent would take the hostname, which other machines often cannot resolve.
    """
    host, port = host_and_port(endpoint)
    if is_loopback(host):
        return host
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as way:
            way.connect(address)  # sends nothing, but chooses the interface
            own = str(way.getsockname()[0])
    except OSError as error:
        raise LaunchError(
            f"--rdzv-endpoint {endpoint}: no way to {host} from here ({error.strerror or error})\n"
            "  give a name or address of the first machine that this one can reach, e.g. with `ping`"
        ) from None
    return host if is_loopback(own) else own


def _register_loopback() -> None:
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    rendezvous_handler_registry.register(LOOPBACK, _loopback)


def _loopback(params: "RendezvousParameters") -> "RendezvousHandler":
    """Make a rendezvous of one agent, whose ports are its own from the start and closed to the network."""
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

    class Loopback(RendezvousHandler):
        @property
        def use_agent_store(self) -> bool:
            return True  # the processes meet there as well, so that no port can be taken in between

        def get_backend(self) -> str:
            return LOOPBACK

        def next_rendezvous(self) -> RendezvousInfo:
            # A store for each start: in an old one stand the addresses of processes that are gone.
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                host, port = listener.getsockname()
                opened = listener.detach()
            wait = timedelta(seconds=60)
            store = TCPStore(host, port, 1, is_master=True, timeout=wait, master_listen_fd=opened)
            return RendezvousInfo(PrefixStore(params.run_id, store), 0, 1, RendezvousStoreInfo(host, port))

        def is_closed(self) -> bool:
            return False

        def set_closed(self) -> None:
            pass

        def num_nodes_waiting(self) -> int:
            return 0

        def get_run_id(self) -> str:
            return params.run_id

        def shutdown(self) -> bool:
            return True

    return Loopback()


def _notes_for(folder: Path, open_round: OpenRound, variables: dict[str, str]) -> "LogsSpecs":
    """Make what the agent asks before each start where logs shall go: so we hear of every start."""
    from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

    class Notes(LogsSpecs):
        @property
        def root_log_dir(self) -> str:
            return str(folder)

        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            place = open_round([int(env["RANK"]) for env in envs.values()])
            for env in envs.values():
                env.update(variables)
                env[notes.FOLDER], env[notes.NOTES] = str(folder), str(place)
                env["TORCHELASTIC_ERROR_FILE"] = str(notes.error_path(place, int(env["RANK"])))
            # The agent breaks at an error file that it does not understand, so it is not told of them.
            nowhere = dict.fromkeys(envs, "")
            return LogsDest(stdouts=dict(nowhere), stderrs=dict(nowhere), error_files=nowhere)

    return Notes()
