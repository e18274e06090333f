"""How `tune run` starts a recipe: here, in processes of its own, or among those of another launcher."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    from tune_launch import LaunchSpec
    from tune_recipes.config import Loaded
    from tune_recipes.runs import RunInfo

STOPPED = (129, 130, 143)
"""Exit statuses of a run that was asked to stop, and has not failed."""


class Wish(NamedTuple):
    """What the command line says of processes, GPUs and machines."""

    num_gpus: str | None = None
    gpus: str | None = None
    nproc: int | None = None
    nnodes: int | None = None
    node_rank: int | None = None
    rdzv_endpoint: str | None = None
    rdzv_id: str | None = None
    max_restarts: int = 0
    hang_timeout: float = 300.0
    all_ranks: bool = False
    dry_run: bool = False

    @property
    def how_many(self) -> str | None:
        """The option that names processes, GPUs or machines, as it was typed; None without one."""
        typed = {"--num-gpus": self.num_gpus, "--gpus": self.gpus, "--nproc": self.nproc}
        found = [f"{option} {value}" for option, value in typed.items() if value is not None]
        return next(iter(found), f"--nnodes {self.nnodes}" if (self.nnodes or 1) > 1 else None)


def start(recipe: Path, loaded: "Loaded", overrides: Sequence[str], wish: Wish, *, debug: bool) -> int:
    """Run a recipe with a checked Config and return the exit status.

    Args:
        recipe: The recipe file.
        loaded: Its Config.
        overrides: The words that set options, as they were typed.
        wish: Processes, GPUs and machines.
        debug: Show tracebacks.

    Raises:
        LaunchError: This machine has not what was asked for.
        UserError: The recipe does not train, and several processes or a plan were asked for.
    """
    import msgspec

    from tune_launch import launch

    config = ["--config", str(loaded.config_file)] if loaded.config_file else []
    asked = (*config, *overrides, *(["--debug"] if debug else []))
    trains = hasattr(loaded.config, "output_dir")
    if joined := _joins_others(wish):
        return _in_place(recipe, asked) if trains or joined == 1 else _refuse_many(recipe, joined)
    spec = _spec(recipe, wish)
    total = spec.processes * spec.nodes
    if wish.dry_run:
        return _show_plan(spec, asked, total) if trains else _refuse_plan(recipe)
    if not trains:
        return (
            launch(msgspec.structs.replace(spec, arguments=asked))
            if total == 1
            else _refuse_many(recipe, total)
        )
    _say_idle_gpus(spec)
    if spec.nodes > 1:  # the first process of all makes the folder and tells the others
        return launch(msgspec.structs.replace(spec, arguments=asked, log_dir=str(_node_logs(loaded))))
    return _start_in_new_folder(recipe, loaded, spec, debug=debug)


def resume(folder: Path, info: "RunInfo", wish: Wish, *, debug: bool) -> int:
    """Go on with a run, in as many processes as it was started with unless told, and return the exit status.

    Raises:
        LaunchError: This machine has not what was asked for, or what the run was started with.
        UserError: The run is going on already.
    """
    import msgspec

    from tune_launch import LaunchError
    from tune_recipes.runs import RANK_LOGS, RECIPE, locked

    script, original = folder / RECIPE, Path(info.recipe).parent
    arguments = ("--resume", str(folder), *(["--debug"] if debug else []))
    if _joins_others(wish):
        return _in_place(script, arguments, import_from=original)
    with locked(folder):  # say so now, and not when everything is loaded
        pass
    as_before = wish.how_many is None
    if as_before:
        wish = wish._replace(**_like(info))
    try:
        spec = _spec(script, wish, import_from=original)
    except LaunchError as error:
        if not as_before:
            raise
        raise LaunchError(f"{folder} was started with {info.world_size} GPUs: {error}") from None
    _say_idle_gpus(spec)
    spec = msgspec.structs.replace(spec, arguments=arguments, log_dir=str(folder.resolve() / RANK_LOGS))
    return _launch_run(spec, folder, debug=debug)


def _like(info: "RunInfo") -> dict[str, object]:
    """Return the wish that a run was started with, as far as it is known."""
    if info.device in (None, "cpu"):
        return {"nproc": info.world_size} if info.world_size > 1 or info.device else {}
    return {"num_gpus": str(info.world_size)}


def check_machine(wish: Wish) -> None:
    """Hold what was asked for against what this machine has.

    Raises:
        LaunchError: It has less.
    """
    _spec(Path(), wish)


def _joins_others(wish: Wish) -> int:
    """Return how many processes another launcher has started, 0 if none has; the first one says so.

    Raises:
        LaunchError: It has, and the command line asks for more.
    """
    from tune_launch import LaunchError, other_launcher

    launcher = other_launcher(os.environ, nodes=wish.nnodes or 1)
    if launcher is None:
        return 0
    if wish.how_many or wish.dry_run:
        option = wish.how_many or "--dry-run"
        raise LaunchError(
            f"{option}: {launcher.name} has started the processes already "
            f"(RANK={launcher.rank}, WORLD_SIZE={launcher.world_size})\n"
            f"  leave {option} out, or start `tune run` without {launcher.name}"
        )
    if launcher.rank == 0:
        many = "process" if launcher.world_size == 1 else "processes"
        print(f"Joining the {launcher.world_size} {many} that {launcher.name} started", file=sys.stderr)
    return launcher.world_size


def _spec(script: Path, wish: Wish, *, import_from: Path | None = None) -> "LaunchSpec":
    from tune_launch import LaunchError, LaunchSpec, choose_devices, detect

    meeting = {
        "--rdzv-endpoint": wish.rdzv_endpoint,
        "--node-rank": wish.node_rank,
        "--rdzv-id": wish.rdzv_id,
    }
    if wish.nnodes is None and (given := [f"{k} {v}" for k, v in meeting.items() if v is not None]):
        raise LaunchError(f"{given[0]} without --nnodes: of how many machines? e.g. --nnodes 2")
    choice = choose_devices(detect(), num_gpus=_number(wish.num_gpus), gpus=wish.gpus, nproc=wish.nproc)
    return LaunchSpec(
        script=str(script),
        import_from=None if import_from is None else str(import_from),
        processes=choice.processes,
        devices=choice.devices,
        vendor=choice.vendor,
        nodes=1 if wish.nnodes is None else wish.nnodes,
        node_rank=wish.node_rank,
        rdzv_endpoint=wish.rdzv_endpoint,
        rdzv_id=wish.rdzv_id,
        max_restarts=wish.max_restarts,
        hang_timeout_s=wish.hang_timeout,
        all_ranks=wish.all_ranks,
    )


def _number(text: str | None) -> int | Literal["all"] | None:
    from tune_launch import LaunchError

    if text is None or text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise LaunchError(f"--num-gpus {text}: a number of GPUs, or all") from None


def _say_idle_gpus(spec: "LaunchSpec") -> None:
    from tune_launch import detect

    found, used = len(detect().gpus), len(spec.devices)
    if used < found:
        uses = f"uses {used}" if used else "computes on the CPU"
        print(f"{found} GPUs are here, this run {uses}; --num-gpus all uses them all", file=sys.stderr)


def _show_plan(spec: "LaunchSpec", asked: Sequence[str], total: int) -> int:
    """Print what would be started and what it would do; nothing is written."""
    from tune_launch import describe, detect, environment, in_environment

    cores = detect().cores
    rows = describe(spec, os.environ, cores)
    print("\n".join(["LAUNCH", *(f"    {label:<20}{text}" for label, text in rows), ""]), flush=True)
    with in_environment(environment(spec, os.environ, cores)):
        return _in_place(Path(spec.script), ("--dry-run", str(total), *asked))


def _start_in_new_folder(recipe: Path, loaded: "Loaded", spec: "LaunchSpec", *, debug: bool) -> int:
    import msgspec

    from tune_recipes.runs import RANK_LOGS, create_run

    with _ctrl_c_later():  # else a folder may stay that says of itself that it is running
        folder = create_run(loaded, recipe, ["tune", *sys.argv[1:]])
        arguments = ("--run-dir", str(folder), *(["--debug"] if debug else []))
        log_dir = None if spec.is_in_place else str(folder / RANK_LOGS)
        return _launch_run(
            msgspec.structs.replace(spec, arguments=arguments, log_dir=log_dir), folder, debug=debug
        )


@contextmanager
def _ctrl_c_later() -> "Generator[None]":
    """Hold Ctrl-C back, until `_launch_run` is ready for it or the block ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _launch_run(spec: "LaunchSpec", folder: Path, *, debug: bool) -> int:
    """Run in a folder, and see that it says how that ended, also where no process was left to do so."""
    from tune_launch import launch
    from tune_recipes.runs import LOG, read_info

    can_go_on = True
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        code = launch(spec)
    except KeyboardInterrupt:  # before the recipe came to its last line, `start(...)`
        code = 130
    except Exception as error:
        from tune_recipes.reporting import report

        code = report(error, debug=debug, log=folder / LOG)
        can_go_on = False  # the recipe itself failed before that line, and would do so again
    if code and read_info(folder).status == "running":
        _mark_ended(folder, code, can_go_on=can_go_on and code != 2)
    return code


def _mark_ended(folder: Path, code: int, *, can_go_on: bool) -> None:
    from tune_recipes.catalog import shown
    from tune_recipes.runs import now, update_info

    stopped = code in STOPPED
    with suppress(OSError):  # a disk that is full has been told
        update_info(folder, status="interrupted" if stopped else "failed", end=now())
    if can_go_on:
        began = "Interrupted; what" if stopped else "What"
        print(f"\n{began} came after the last checkpoint is not saved. Go on with:", file=sys.stderr)
        print(f"  tune run --resume {shown(folder)}", file=sys.stderr)


def _node_logs(loaded: "Loaded") -> Path:
    """Return where this machine's processes keep what they print, until they know the run's folder."""
    import socket
    from datetime import UTC, datetime

    from tune_recipes.catalog import expand_home

    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{socket.gethostname()}-{os.getpid()}"
    return expand_home(loaded.config.output_dir) / "node_logs" / name


def _in_place(script: Path, arguments: Sequence[str], *, import_from: Path | None = None) -> int:
    from tune_launch import run_in_place

    return run_in_place(script, arguments, import_from=import_from)


def _refuse_many(recipe: Path, total: int) -> int:
    from tune_recipes.errors import UserError

    raise UserError(
        f"{recipe.stem} does not train, so {total} processes would all do the same\n"
        "  it runs in one: leave --num-gpus, --nproc and --nnodes out"
    )


def _refuse_plan(recipe: Path) -> int:
    from tune_recipes.errors import UserError

    raise UserError(f"--dry-run: {recipe.stem} does not train, so there is nothing to plan")
