"""Starts a script in as many processes as asked for, and returns when they have ended."""

import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tune_launch import notes
from tune_launch.errors import LaunchError
from tune_launch.failure import explain, first_failure
from tune_launch.in_place import run_in_place
from tune_launch.machine import count_cores
from tune_launch.plan import environment, in_environment, visible_devices, visible_variable
from tune_launch.signals import Signals
from tune_launch.spec import LaunchSpec
from tune_launch.watch import NoMoreStarts, Watch, say

PREFIX = "tune-launch-"
"""Of the private folder of a launch, where the system keeps what is temporary."""


def launch(spec: LaunchSpec) -> int:
    """Run a script and return its exit status.

    One process on one machine is this process: a debugger works in it. More are started by PyTorch's elastic
    agent, each with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment. SIGINT,
    SIGTERM, SIGHUP and SIGUSR1 are handed on to them, and they may take their time to stop; a second SIGINT
    ends them. Where one fails, the others are ended within seconds, and its error is told on stderr.

    Returns:
        0 if all went well; 128 and the signal if one stopped the script; 2 if the script says that its input
        was wrong; 1 if it failed otherwise. In this process whatever the script exits with.

    Raises:
        LaunchError: There is no such script, or the machines cannot meet.
        Exception: What the script raises in this process.
    """
    if not Path(spec.script).exists():
        raise LaunchError(f"{spec.script}: no such file")
    with in_environment(environment(spec, os.environ, count_cores())):
        if spec.is_in_place:
            return run_in_place(spec.script, spec.arguments, import_from=spec.import_from)
        with Signals() as signals, _private_folder() as folder:
            return _launch_many(spec, folder, signals)


@contextmanager
def _private_folder() -> Generator[Path]:
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name, _held(Path(name)):
        yield Path(name)


def _sweep(parent: Path) -> None:
    """Remove what launchers have left that were killed: nobody holds it any more."""
    for job in parent.glob(
        f"{PREFIX}*/{notes.job_path(Path()).name}"
    ):  # it is written once the folder is held
        with suppress(OSError), _held(job.parent):
            shutil.rmtree(job.parent, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Generator[None]:
    """Hold a folder as long as this process lives.

    Raises:
        BlockingIOError: Another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _launch_many(spec: LaunchSpec, folder: Path, signals: Signals) -> int:
    from tune_launch.elastic import quiet, run_agent

    log_dir = _log_dir(spec, folder)
    notes.save(_job(spec, log_dir), notes.job_path(folder))
    watch = Watch(spec, folder, signals)
    codes: dict[int, int] = {}
    errors: list[Exception] = []

    def work() -> None:
        try:
            codes.update(run_agent(spec, folder, watch.open_round))
        except Exception as error:
            errors.append(error)

    with quiet():
        # Not in this thread: it must hear signals while the agent waits for other machines.
        agent = threading.Thread(target=work, daemon=True, name="elastic agent")
        if signals.stop is None:
            if spec.nodes > 1:
                say(f"meeting {spec.nodes - 1} other machine{'s' * (spec.nodes > 2)} at {spec.rdzv_endpoint}")
            agent.start()
        watch.run(agent)
    return _outcome(spec, watch, signals, codes, errors, log_dir)


def _log_dir(spec: LaunchSpec, folder: Path) -> str:
    path = Path(os.path.abspath(spec.log_dir)) if spec.log_dir is not None else folder / "logs"  # noqa: PTH100
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"{spec.log_dir}: cannot keep logs there ({error.strerror})") from None
    return str(path)


def _job(spec: LaunchSpec, log_dir: str) -> notes.Job:
    return notes.Job(
        launcher=os.getpid(),
        script=spec.script,
        arguments=spec.arguments,
        import_from=spec.import_from,
        log_dir=log_dir,
        all_ranks=spec.all_ranks,
        devices=len(spec.devices),
        visible=f"{visible_variable(spec)}={visible_devices(spec)}",
        beat_s=min(1.0, spec.hang_timeout_s / 30),
    )


def _outcome(
    spec: LaunchSpec,
    watch: Watch,
    signals: Signals,
    codes: dict[int, int],
    errors: list[Exception],
    log_dir: str,
) -> int:
    if not watch.starts and signals.stop is not None:
        return signals.stop
    ends = watch.ends(codes)
    failure = first_failure(ends, watch.killed)
    if failure is not None:
        say(f"error: {explain(failure, spec, log_dir)}")
        return 2 if failure.code == 2 else 1
    if watch.killed and signals.is_impatient:
        say(f"killed, as they had not stopped: rank {', '.join(map(str, sorted(watch.killed)))}")
        return 128 + signal.SIGINT
    stopped = {end.code for end in ends if end.code in notes.STOPPED}
    if signals.stop in stopped:
        return signals.stop
    for error in errors:
        if not isinstance(error, NoMoreStarts):
            return _without_agent(spec, watch, error)
    return min(stopped, default=0)


def _without_agent(spec: LaunchSpec, watch: Watch, error: Exception) -> int:
    if isinstance(error, LaunchError):
        raise error
    told = str(error.__cause__ or error).partition("\n")[0] or type(error).__name__
    if spec.nodes == 1:
        say(f"error: PyTorch's elastic agent failed: {type(error).__name__}: {told}")
        return 1
    if watch.starts:
        say(f"error: the other machines at {spec.rdzv_endpoint} are gone: {told}")
        return 1
    raise LaunchError(
        f"--rdzv-endpoint {spec.rdzv_endpoint}: the {spec.nodes} machines did not meet there: {told}\n"
        "  start the same command on each of them within minutes; HOST must be one of them,\n"
        "  PORT free there and open in its firewall"
    )
