"""Starts a recipe, with or without the `tune` command: `python full_finetune.py --config x.yaml seed=1`.

The last line of every recipe is `start(main, Config)`. It reads the command line, makes the run folder unless
it was handed one, keeps a log of what is printed, and turns errors into messages and exit codes.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

import msgspec

from tune_checkpoint import CheckpointError, WriteFailedError
from tune_recipes import runs
from tune_recipes.catalog import find_config
from tune_recipes.checks import check_inputs
from tune_recipes.config import Loaded, load_config
from tune_recipes.errors import TrainingFailed, UserError
from tune_recipes.train.run import Run, Stopped

COMMAND_OPTIONS = ("--config", "--resume", "--debug", "--help")


def start(main: Callable[..., None], config_class: type[msgspec.Struct]) -> NoReturn:
    """Run a recipe's `main` with the Config that the command line asks for, then exit.

    A recipe whose Config has an `output_dir` gets a run folder and is called `main(cfg, run)`; any other is
    called `main(cfg)`. Exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted, 143 terminated.
    """
    words, tokens = _parser().parse_known_args()
    try:
        if "output_dir" not in config_class.__struct_fields__:
            loaded = _load(words, tokens, config_class)
            sys.exit(guard(lambda: main(loaded.config), debug=words.debug))
        if words.resume:
            folder, config = _resumed(words, tokens, config_class)
        else:
            folder = words.run_dir or _new_run(words, tokens, config_class)
            config = load_config(config_class, folder / runs.CONFIG).config
        with runs.locked(folder) as log:
            code = _run_in(folder, main, config, words, log)
    except UserError as error:
        sys.exit(report(error, debug=words.debug))
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
    # The folder that the tune command made; its config.yaml has every value.
    parser.add_argument("--run-dir", type=Path, help=argparse.SUPPRESS)
    return parser


def _load(words: argparse.Namespace, tokens: list[str], config_class: type[msgspec.Struct]) -> Loaded:
    if words.resume:
        raise UserError("--resume: this recipe keeps no run folder, so there is nothing to go on with")
    config_file = find_config(words.config) if words.config else None
    loaded = load_config(config_class, config_file, tokens, known=COMMAND_OPTIONS)
    check_inputs(loaded)
    return loaded


def _new_run(words: argparse.Namespace, tokens: list[str], config_class: type[msgspec.Struct]) -> Path:
    loaded = _load(words, tokens, config_class)
    return runs.create_run(loaded, Path(sys.argv[0]), [sys.executable, *sys.argv])


def _resumed(
    words: argparse.Namespace, tokens: list[str], config_class: type[msgspec.Struct]
) -> tuple[Path, Any]:
    """Return the folder and the Config of a run to go on with, and go to where it was started."""
    folder: Path = words.resume.resolve()
    info = runs.read_info(folder)
    if tokens or words.config:
        raise UserError("a resumed run keeps its config: give --resume RUN_DIR alone")
    if Path(info.cwd).is_dir():  # its relative paths begin there
        os.chdir(info.cwd)
    loaded = load_config(config_class, folder / runs.CONFIG)
    check_inputs(loaded)
    return folder, loaded.config


def _run_in(folder: Path, main: Callable[..., None], cfg: Any, words: argparse.Namespace, log: TextIO) -> int:
    run = Run(folder)

    def work() -> None:
        if words.resume:
            run.say(f"Going on with {folder}")
            info = runs.read_info(folder)
            runs.update_info(folder, status="running", end=None, resumed=[*info.resumed, runs.now()])
        else:
            run.say(f"Run folder: {folder}")
        with closing(run):  # so that an error is not printed into the bar
            main(cfg, run)

    with _kept_in(log):
        code = guard(work, debug=words.debug, log=folder / runs.LOG)
        status = {0: "finished", 129: "interrupted", 130: "interrupted", 143: "interrupted"}.get(
            code, "failed"
        )
        end = {"status": status, "end": runs.now()}
        ended = guard(lambda: runs.update_info(folder, **end), debug=words.debug, log=folder / runs.LOG)
    return code or ended


def guard(function: Callable[[], object], *, debug: bool, log: Path | None = None) -> int:
    """Call a function and return the exit status; whatever goes wrong is told in one message.

    Args:
        function: What to call.
        debug: Print tracebacks too.
        log: File that gets the traceback in any case.
    """
    try:
        function()
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return report(error, debug=debug, log=log)
    return 0


def report(error: Exception, *, debug: bool, log: Path | None = None) -> int:
    """Print an error as a message and return the exit status: 2 for what the user can mend, else 1."""
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    if debug:
        traceback.print_exception(error)
    if isinstance(error, UserError | CheckpointError):
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WriteFailedError) else 2
    if isinstance(error, TrainingFailed):
        print(f"error: {error}", file=sys.stderr)
        return 1
    where = f"{log} has the traceback" if log else "--debug shows the traceback"
    print(f"error: {type(error).__name__}: {error}\n  {where}", file=sys.stderr)
    return 1


@contextmanager
def _kept_in(log: TextIO) -> Iterator[None]:
    """Also write to a file whatever is printed."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Tee(stream, log) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Tee(io.TextIOBase):
    """A stream that writes to the terminal and to a file."""

    def __init__(self, terminal: TextIO, log: TextIO):
        self._terminal, self._log = terminal, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        return self._terminal.write(text)

    def flush(self) -> None:
        self._terminal.flush()

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def fileno(self) -> int:
        return self._terminal.fileno()
