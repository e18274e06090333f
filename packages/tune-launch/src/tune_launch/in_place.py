"""Runs a script in this process, as `python SCRIPT ARGUMENTS` would in one of its own."""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager


def run_in_place(
    script: str | os.PathLike[str],
    arguments: Sequence[str],
    *,
    import_from: str | os.PathLike[str] | None = None,
) -> int:
    """Run a Python script in this process and return its exit status.

    The script sees itself as `__main__`, its arguments in `sys.argv`, and its own folder first on `sys.path`;
    a debugger works in it, and what is imported already is not imported again.

    Args:
        script: Path of the file.
        arguments: What it finds behind `sys.argv[0]`.
        import_from: Another folder that it imports from, after its own.

    Raises:
        FileNotFoundError: There is no such file.
        Exception: Whatever the script raises.
    """
    import runpy

    script = os.fspath(script)
    folders = [os.path.dirname(os.path.abspath(script)), *([os.fspath(import_from)] if import_from else [])]  # noqa: PTH100, PTH120
    with _as_command_line([script, *arguments], folders):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            return _status(stop.code)
    return 0


@contextmanager
def _as_command_line(argv: list[str], folders: list[str]) -> Generator[None]:
    lists = sys.argv, sys.path
    before = sys.argv[:], sys.path[:]
    sys.argv[:], sys.path[:0] = argv, folders
    try:
        yield
    finally:  # the script may have put other lists there
        sys.argv, sys.path = lists
        sys.argv[:], sys.path[:] = before


def _status(code: object) -> int:
    """Return the exit status that `sys.exit(code)` stands for."""
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code)
    print(code, file=sys.stderr)
    return 1
