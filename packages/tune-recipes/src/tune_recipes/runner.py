"""Starts a recipe, with or without the `tune` command: `python full_finetune.py --config x.yaml seed=1`.

The last line of every recipe is `start(main, Config)`. It reads the command line, joins the other processes
if a launcher started several, sees to the run folder, and turns errors into messages and exit codes.
"""

import argparse
import os
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import msgspec

from tune_recipes import runs
from tune_recipes.catalog import find_config
from tune_recipes.checks import check_inputs
from tune_recipes.config import Loaded, load_config
from tune_recipes.errors import TrainingFailed, UserError
from tune_recipes.reporting import guard, kept_in_log, stopping_on_signals
from tune_recipes.train.disk_full import disk_full, is_disk_full
from tune_recipes.train.distributed import World, join_world, num_processes
from tune_recipes.train.run import Run

COMMAND_OPTIONS = ("--config", "--resume", "--debug", "--help")
STATUS: dict[int, runs.Status] = {0: "finished", 129: "interrupted", 130: "interrupted", 143: "interrupted"}

Main = Callable[..., None]
ConfigClass = type[msgspec.Struct]


def start(main: Main, config_class: ConfigClass) -> NoReturn:
    """Run a recipe's `main` with the Config that the command line asks for, then exit.

    A recipe whose Config has an `output_dir` gets a run folder and is called `main(cfg, run)`; any other is
    called `main(cfg)`. Exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted, 143 terminated.
    """
    words, tokens = _parser().parse_known_args()
    with stopping_on_signals():
        if "output_dir" not in config_class.__struct_fields__:
            code = guard(lambda: _answer(words, tokens, main, config_class), debug=words.debug)
        elif words.dry_run:
            code = guard(lambda: _print_plan(words, tokens, main, config_class), debug=words.debug)
        else:
            code = _train(words, tokens, main, config_class)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        usage="%(prog)s [--config FILE] [key=value ...]",
        epilog=f"Every option of the recipe: tune run {Path(sys.argv[0]).name} --help",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, or the name of a built-in config")
    parser.add_argument("--resume", metavar="RUN_DIR", type=Path, help="go on with the run in this folder")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    # What the tune command hands over: the folder that it made, whose config.yaml has every value; and for
    # how many processes a plan is to be printed in place of a run.
    parser.add_argument("--run-dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", metavar="PROCESSES", type=int, help=argparse.SUPPRESS)
    return parser


def _answer(words: argparse.Namespace, tokens: list[str], main: Main, config_class: ConfigClass) -> None:
    """Run a recipe that does not train."""
    if words.resume:
        raise UserError("--resume: this recipe keeps no run folder, so there is nothing to go on with")
    if (size := num_processes()) > 1:
        raise UserError(f"this recipe does not train, so {size} processes would all do the same; start one")
    main(_load(words, tokens, config_class).config)


def _print_plan(words: argparse.Namespace, tokens: list[str], main: Main, config_class: ConfigClass) -> None:
    from tune_recipes.train.plan import plan

    cfg = _load(words, tokens, config_class).config
    print("\n".join(plan(main, cfg, num_processes=words.dry_run).lines()))


def _load(words: argparse.Namespace, tokens: list[str], config_class: ConfigClass) -> Loaded:
    config_file = find_config(words.config) if words.config else None
    loaded = load_config(config_class, config_file, tokens, known=COMMAND_OPTIONS)
    check_inputs(loaded)
    return loaded


def _train(words: argparse.Namespace, tokens: list[str], main: Main, config_class: ConfigClass) -> int:
    """Join the other processes, have the first one see to the run folder, and train in it."""
    code = 0

    def work() -> None:
        nonlocal code
        with join_world() as world:
            folder = world.from_first(lambda: _folder(words, tokens, config_class))
            with _locked(folder, world) as log:
                code = _run_in(folder, main, config_class, words, world, log)

    return guard(work, debug=words.debug) or code


def _folder(words: argparse.Namespace, tokens: list[str], config_class: ConfigClass) -> Path:
    """Return the run's folder: one to go on with, one that the tune command made, or a new one."""
    if words.resume:
        return _resumed(words, tokens, config_class)
    if words.run_dir:
        return words.run_dir
    loaded = _load(words, tokens, config_class)
    return runs.create_run(loaded, Path(sys.argv[0]), [sys.executable, *sys.argv])


def _resumed(words: argparse.Namespace, tokens: list[str], config_class: ConfigClass) -> Path:
    """Return the folder of a run to go on with, after a look at what it needs."""
    folder: Path = words.resume.resolve()
    info = runs.read_info(folder)
    if tokens or words.config:
        raise UserError("a resumed run keeps its config: give --resume RUN_DIR alone")
    _go_to(info.cwd)
    check_inputs(load_config(config_class, folder / runs.CONFIG))
    return folder


def _go_to(folder: str) -> None:
    if Path(folder).is_dir():  # where the run was started: its relative paths begin there
        os.chdir(folder)


@contextmanager
def _locked(folder: Path, world: World) -> Generator[TextIO]:
    """Keep other runs from the folder as long as any of our processes lives; yield its log."""
    with ExitStack() as stack:
        logs: list[TextIO] = []
        world.from_first(lambda: logs.append(stack.enter_context(runs.locked(folder))))
        if not world.is_first:
            logs.append(stack.enter_context(runs.locked(folder, as_part=True)))
        yield logs[0]


def _run_in(
    folder: Path, main: Main, config_class: ConfigClass, words: argparse.Namespace, world: World, log: TextIO
) -> int:
    info = world.from_first(lambda: _mark_begun(folder, words, world))
    if words.resume:
        _go_to(info.cwd)
    cfg = load_config(config_class, folder / runs.CONFIG).config
    run = Run(folder, world, info)

    def work() -> None:
        run.say(f"Going on with {folder}" if words.resume else f"Run folder: {folder}")
        with run, _explaining_want(main, cfg, run):
            main(cfg, run)

    log_path = folder / runs.LOG if world.is_first else runs.rank_log(folder, world.rank)
    with kept_in_log(log if world.is_first else log_path):
        code = guard(work, debug=words.debug, log=log_path)
        if world.is_first:
            code = code or guard(lambda: _mark_ended(folder, 0), debug=words.debug, log=log_path)
            if code:
                with suppress(OSError):  # a disk that is full has been told
                    _mark_ended(folder, code)
    if code == 130 and run.is_writing:  # stopped at once: not even a checkpoint under way is waited for
        os._exit(code)
    return code


def _mark_begun(folder: Path, words: argparse.Namespace, world: World) -> runs.RunInfo:
    """Write down that the run goes on, or with how many processes it is started."""
    if words.resume:
        before = runs.read_info(folder).resumed
        return runs.update_info(folder, status="running", end=None, resumed=[*before, runs.now()])
    info = runs.update_info(folder, world_size=world.size, device=world.device.type)
    if accelerator := world.accelerator_name():
        info = runs.update_info(folder, hardware={**info.hardware, "accelerator": accelerator})
    return info


def _mark_ended(folder: Path, code: int) -> None:
    runs.update_info(folder, status=STATUS.get(code, "failed"), end=runs.now())


@contextmanager
def _explaining_want(main: Main, cfg: Any, run: Run) -> Generator[None]:
    """Say more of a want of memory or of room on the disk than the error does."""
    try:
        yield
    except Exception as error:
        from tune_recipes.train.out_of_memory import is_out_of_memory, out_of_memory

        if is_disk_full(error):
            raise TrainingFailed(disk_full(run.folder)) from error
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(main, cfg, run, error) from error
